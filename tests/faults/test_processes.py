"""Airflow's processes are killed while they submit or wait: every task ends well, and no run is doubled or left."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_provider_dify.testing.runs import RunRecord
from airflow_provider_dify.testing.server import DifyServer
from tests.integration.airflow_processes import Airflow, processes_of, wait_for

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("processes"), pytest.mark.timeout(900)]

DAGS = Path(__file__).parent / "dags"
ENDED = ("success", "failed")


@pytest.fixture(scope="module")
def dify() -> Iterator[DifyServer]:
    with DifyServer() as server:
        yield server


@pytest.fixture(scope="module")
def airflow(dify: DifyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    connection = {"conn_type": "dify", "host": dify.base_url, "password": dify.api_key("slow")}
    with Airflow(tmp_path_factory.mktemp("airflow"), connection, DAGS) as running:
        yield running
    wait_for("the end of all that was started", lambda: not processes_of(running.sessions))


def runs_of(dify: DifyServer, dag_id: str) -> list[RunRecord]:
    """Return the runs of a DAG, the oldest first."""
    return [run for run in dify.runs if f"/{dag_id}/" in run.user]


def has_ended(airflow: Airflow, dag_id: str) -> bool:
    return airflow.dag_state(dag_id) in ENDED


def is_deferred(airflow: Airflow, dag_id: str) -> bool:
    return airflow.task_state(dag_id, "run") == "deferred"


def test_the_retry_of_a_killed_worker_takes_up_its_run(airflow: Airflow, dify: DifyServer) -> None:
    airflow.trigger("worker_killed", {})
    wait_for("a run", lambda: [run.id for run in dify.active_runs()])
    query = "SELECT pid FROM task_instance WHERE dag_id = 'worker_killed' AND state = 'running' AND pid IS NOT NULL"
    ((pid,),) = wait_for("the worker", lambda: airflow.rows(query))
    query = "SELECT 1 FROM xcom WHERE dag_id = 'worker_killed' AND key = 'workflow_run_id'"
    wait_for("the run's id in XCom", lambda: airflow.rows(query))
    os.kill(pid, signal.SIGKILL)
    wait_for("the end", lambda: has_ended(airflow, "worker_killed"))
    assert airflow.dag_state("worker_killed") == "success", airflow.logs()
    assert airflow.rows("SELECT try_number FROM task_instance WHERE dag_id = 'worker_killed'") == [(2,)]
    assert [run.status for run in runs_of(dify, "worker_killed")] == ["succeeded"]


def test_a_clear_stops_the_run_and_killed_processes_do_not(airflow: Airflow, dify: DifyServer) -> None:
    for dag_id in ("cleared", "triggerer_killed"):
        airflow.trigger(dag_id, {})
    for dag_id in ("cleared", "triggerer_killed"):
        wait_for(f"{dag_id} is deferred", lambda dag_id=dag_id: is_deferred(airflow, dag_id))
    query = "SELECT 1 FROM trigger WHERE triggerer_id IS NULL"
    wait_for("both triggers have been taken", lambda: not airflow.rows(query))
    airflow.command("tasks", "clear", "--yes", "cleared")
    wait_for("a second run", lambda: len(runs_of(dify, "cleared")) == 2)
    wait_for("the first one's end", lambda: runs_of(dify, "cleared")[0] not in dify.active_runs())
    assert runs_of(dify, "cleared")[0].status in ("stopped", "failed")
    wait_for("cleared is deferred again", lambda: is_deferred(airflow, "cleared"))
    for name in ("triggerer", "scheduler"):
        airflow.kill(name)
    for name in ("scheduler", "triggerer"):
        airflow.start(name)
    for dag_id in ("cleared", "triggerer_killed"):
        wait_for(f"the end of {dag_id}", lambda dag_id=dag_id: has_ended(airflow, dag_id))
        assert airflow.dag_state(dag_id) == "success", airflow.logs()
    assert [run.status for run in runs_of(dify, "triggerer_killed")] == ["succeeded"]
    assert [run.status for run in runs_of(dify, "cleared")][1:] == ["succeeded"]
    assert dify.active_runs() == []
