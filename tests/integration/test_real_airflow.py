"""A deferred run with Airflow's real scheduler and triggerer."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_provider_dify.api.tracing import read_traceparent
from airflow_provider_dify.testing.server import DifyServer
from tests.integration.airflow_dags import decoded, is_airflow_2
from tests.integration.airflow_processes import Airflow, processes_of, wait_for
from tests.integration.airflow_tables import XCOM

DAG_ID = "dify_quickstart"
ENDED = ("success", "failed")


@pytest.mark.processes
@pytest.mark.timeout(600)
def test_a_deferred_run_succeeds_and_leaks_no_secret(tmp_path: Path) -> None:
    token = "gateway-t0ken-that-nobody-may-see"
    with DifyServer() as server:
        key = server.api_key("slow")
        connection = {
            "conn_type": "dify",
            "host": server.base_url,
            "password": key,
            "extra": {"headers": {"X-Gateway-Token": token}},
        }
        with Airflow(tmp_path, connection) as airflow:
            airflow.trigger(DAG_ID, {"inputs": {"seconds": 12}})
            wait_for("deferred", lambda: airflow.task_state(DAG_ID, "summarize") == "deferred")
            deferred = airflow.stored()
            assert airflow.rows("SELECT classpath FROM trigger") == [
                ("airflow_provider_dify.triggers.workflow.DifyWorkflowRunTrigger",)
            ]
            wait_for("the end", lambda: airflow.dag_state(DAG_ID) in ENDED)
            assert airflow.dag_state(DAG_ID) == "success", airflow.logs()
            xcom = dict(airflow.rows(f"SELECT key, value FROM {XCOM} WHERE task_id = 'summarize'"))
            stored = airflow.stored()
        wait_for("the end of all that was started", lambda: not processes_of(airflow.sessions))
        assert decoded(xcom["return_value"]) == {"body": "slept 12 s"}
        assert decoded(xcom["workflow_run_id"]) == server.runs[0].id
        assert [run.status for run in server.runs] == ["succeeded"]
        (submission,) = [each for each in server.requests if each.method == "POST" and each.path.endswith("/run")]
        # Airflow 3 may hand a task a trace, also where no tracing is set up; Airflow 2 never does.
        reported = read_traceparent(submission.headers.get("traceparent"))
        assert reported is None or not is_airflow_2()
        assert submission.json.get("trace_id") == (reported and reported.split("-")[1])
    for files in (deferred, stored):
        assert any(server.runs[0].id.encode() in content for content in files.values())
        for secret in (key, token):
            assert [path for path, content in files.items() if secret.encode() in content] == []
