"""An empty SQLite database of Airflow: made once for each environment, since that takes seconds, and then copied."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path


def copy_empty_database(target: Path) -> None:
    """Write an empty database with Airflow's tables to a file that nothing has read from yet."""
    shutil.copyfile(_empty_database(), target)


def _empty_database() -> Path:
    # In the environment, with which it goes: another Airflow has other tables.
    kept = Path(sys.prefix) / f"empty-airflow-{version('apache-airflow')}.db"
    with kept.with_suffix(".lock").open("a") as lock:
        # Of all processes that need it at once, one makes it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            with tempfile.TemporaryDirectory(prefix="dify-provider-database-") as home:
                made = Path(home) / "airflow.db"
                environment = {
                    **os.environ,
                    "AIRFLOW_HOME": home,
                    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{made}",
                }
                command = [sys.executable, "-m", "airflow", "db", "migrate"]
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
                assert done.returncode == 0, f"airflow db migrate:\n{done.stdout}\n{done.stderr}"
                copy = kept.with_suffix(f".{os.getpid()}")
                shutil.copyfile(made, copy)
                copy.replace(kept)
    return kept
