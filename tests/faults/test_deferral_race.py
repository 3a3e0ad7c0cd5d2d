"""
Many deferrable tasks whose waits end together, among Airflow's real processes with default settings: none fails.

The scheduler may take the exit of a worker process that deferred for the end of its task, when the trigger fires before
it has read of that exit (apache/airflow 66374, 67287, 71580, 72716). It reads such news every few seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_dify.testing.server import DifyServer
from tests.integration.airflow_processes import Airflow, wait_for
from tests.integration.airflow_tables import TASK_INSTANCE
from tests.integration.postgres import Postgres

pytestmark = [pytest.mark.postgres, pytest.mark.xdist_group("race"), pytest.mark.timeout(1800)]

DAGS = Path(__file__).parent / "race_dags"
LIMIT = 600.0
TASKS = 24


class Stage:
    """One Airflow, and Dify servers that take all runs at once and four of them."""

    def __init__(self, airflow: Airflow, free: DifyServer, busy: DifyServer) -> None:
        self.airflow = airflow
        self.free = free
        self.busy = busy

    def run(self, dag_id: str, run_id: str, seconds: float) -> None:
        """Run a DAG to its end."""
        self.airflow.rest.trigger(dag_id, run_id, {"seconds": seconds})
        wait_for(f"the end of {run_id}", lambda: self._has_ended(run_id), LIMIT)

    def _has_ended(self, run_id: str) -> bool:
        self.airflow.check()
        query = "SELECT 1 FROM dag_run WHERE run_id = ? AND state IN ('success', 'failed')"
        return bool(self.airflow.rows(query, run_id))

    def failed(self, run_id: str) -> list[Any]:
        """Return the tasks that have not succeeded, and what the audit log has of a mismatch."""
        query = f"SELECT task_id, map_index, state FROM {TASK_INSTANCE} WHERE run_id = ? AND state <> 'success'"
        mismatches = "SELECT map_index, extra FROM log WHERE run_id = ? AND event = 'state mismatch'"
        return self.airflow.rows(query, run_id) + self.airflow.rows(mismatches, run_id)

    def worker_processes(self, run_id: str) -> int:
        """Return how many times a worker began or resumed one of the tasks."""
        query = "SELECT count(*) FROM log WHERE run_id = ? AND event = 'running'"
        return int(self.airflow.rows(query, run_id)[0][0])


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    def connection(server: DifyServer) -> dict[str, Any]:
        return {"conn_type": "dify", "host": server.base_url, "password": server.api_key("slow")}

    with (
        DifyServer(connections=100, worker_slots=None) as free,
        DifyServer() as busy,
        Postgres() as postgres,
        Airflow(
            tmp_path_factory.mktemp("airflow"),
            connection(free),
            DAGS,
            connections={"dify_free": connection(free), "dify_busy": connection(busy)},
            database=postgres.url,
            web=True,
            settings={"CORE__DAGS_ARE_PAUSED_AT_CREATION": "False"},
        ) as airflow,
    ):
        wait_for("the API", airflow.rest.answers, LIMIT)
        wait_for("the DAGs", lambda: len(airflow.rows("SELECT 1 FROM serialized_dag")) == 3, LIMIT)
        yield Stage(airflow, free, busy)


@pytest.mark.parametrize("batch", range(2))
def test_short_runs_end_well_with_one_process_each(stage: Stage, batch: int) -> None:
    run_id = f"short-{batch}"
    stage.run("runs_free", run_id, seconds=2)
    assert stage.failed(run_id) == []
    assert [run.status for run in stage.free.runs if f"/{run_id}/" in run.user] == ["succeeded"] * TASKS
    assert stage.worker_processes(run_id) == TASKS


@pytest.mark.any_airflow
def test_short_runs_that_queue_in_dify_end_well(stage: Stage) -> None:
    stage.run("runs_busy", "queued", seconds=2)
    assert stage.failed("queued") == []
    assert [run.status for run in stage.busy.runs] == ["succeeded"] * TASKS


@pytest.mark.any_airflow
def test_long_runs_end_well(stage: Stage) -> None:
    stage.run("runs_free", "long", seconds=15)
    assert stage.failed("long") == []
    assert [run.status for run in stage.free.runs if "/long/" in run.user] == ["succeeded"] * TASKS


def test_sensors_whose_run_ends_soon_after_they_began_end_well(stage: Stage) -> None:
    stage.run("sensors", "sensors", seconds=15)
    assert stage.failed("sensors") == []
