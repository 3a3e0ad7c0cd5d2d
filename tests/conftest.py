"""An Airflow of the tests' own: a home, a database and a key that nothing else uses, set before Airflow is imported."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings

# A busy machine is no failure: no example has a time limit of its own.
settings.register_profile("dify", deadline=None, database=None)
settings.load_profile("dify")

HOME = Path(tempfile.mkdtemp(prefix="dify-provider-tests-"))
EXAMPLES = Path(__file__).resolve().parent.parent / "example_dags"

atexit.register(shutil.rmtree, HOME, ignore_errors=True)

for name in [name for name in os.environ if name.startswith(("AIRFLOW__", "AIRFLOW_CONN_", "AIRFLOW_VAR_"))]:
    del os.environ[name]
os.environ.update(
    AIRFLOW_HOME=str(HOME),
    # Without one, Airflow 3.2 cannot start its execution API within dag.test().
    AIRFLOW__API_AUTH__JWT_SECRET="c2l4dGVlbiBieXRlcyBhbmQgc2l4dGVlbiBtb3JlIQ==",
    AIRFLOW__CORE__DAGS_FOLDER=str(EXAMPLES),
    AIRFLOW__CORE__FERNET_KEY="c2l4dGVlbiBieXRlcyBhbmQgc2l4dGVlbiBtb3JlISE=",
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__CORE__UNIT_TEST_MODE="False",
    AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS="False",
    AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{HOME / 'airflow.db'}",
    AIRFLOW__USAGE_DATA_COLLECTION__ENABLED="False",
)


def pytest_collection_finish() -> None:
    """Leave Airflow and thousands of tests out of garbage collections: each would stop all threads for seconds."""
    gc.collect()
    gc.freeze()
