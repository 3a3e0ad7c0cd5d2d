"""A real scheduler of Airflow 3.4 starts a task again when ``DifyRetryPolicy`` reschedules it, within the same try."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.server import DifyServer
from tests.faults.tries import submissions
from tests.integration.airflow_dags import decoded
from tests.integration.airflow_processes import Airflow, wait_for
from tests.integration.airflow_tables import TASK_INSTANCE, XCOM
from tests.policies.test_retry import RESCHEDULES

DAGS = Path(__file__).parent / "rescheduling_dags"
RUN_ID = "limited"


@pytest.mark.processes
@pytest.mark.timeout(600)
@pytest.mark.skipif(not RESCHEDULES, reason="Airflow reschedules for a retry policy since 3.4")
def test_a_rate_limit_costs_a_task_without_retries_only_time(tmp_path: Path) -> None:
    with DifyServer() as server:
        server.inject(Fault("submit", "too_many_requests", times=2))
        connection = {"conn_type": "dify", "host": server.base_url, "password": server.api_key("echo")}
        settings = {"CORE__DAGS_ARE_PAUSED_AT_CREATION": "False"}
        with Airflow(tmp_path, connection, DAGS, settings=settings) as airflow:
            wait_for("the API", airflow.rest.answers)
            wait_for("the DAG", lambda: airflow.rows("SELECT 1 FROM serialized_dag"))
            airflow.rest.trigger("rescheduling", RUN_ID)
            wait_for("the end", lambda: airflow.dag_state("rescheduling") in ("success", "failed"), 300)
            assert airflow.dag_state("rescheduling") == "success", airflow.logs(RUN_ID)
            assert airflow.rows(f"SELECT try_number FROM {TASK_INSTANCE}") == [(1,)]
            assert airflow.rows("SELECT count(*) FROM task_reschedule") == [(2,)]
            ((outputs,),) = airflow.rows(f"SELECT value FROM {XCOM} WHERE key = 'return_value'")
    assert decoded(outputs) == {"text": "x"}
    first, second, third = submissions(server)
    # Not the 5 minutes of Airflow's retry_delay, and growing.
    assert second - first >= 4
    assert third - second >= 8
    (run,) = server.runs
    assert run.user.endswith("/1")
