"""Airflow's processes are restarted with today's provider while tasks of version 0.1.0 wait: all of them end right."""

from __future__ import annotations

import os
import signal
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.runs import RunRecord
from airflow_provider_dify.testing.server import DifyServer
from tests.integration.airflow_dags import decoded, is_airflow_2
from tests.integration.airflow_processes import Airflow, wait_for
from tests.integration.airflow_tables import TASK_INSTANCE, XCOM

FOLDER = Path(__file__).parent
# The package as it was released, without its local server: recorded once, and left alone.
RELEASED = FOLDER / "package-0.1.0.tar.xz"
DAGS = FOLDER / "upgrade_dags"
RUN_ID = "upgraded"
LIMIT = 600.0
DEFERRED = ("waiting", "searching", "sensor")


class Versions:
    """A folder in ``PYTHONPATH`` that holds the released package until the upgrade, and nothing after it."""

    def __init__(self, folder: Path) -> None:
        self._link = folder / "site"
        released = folder / "released"
        with tarfile.open(RELEASED) as package:
            package.extractall(released)
        self._link.symlink_to(released)

    @property
    def path(self) -> str:
        return str(self._link)

    def upgrade(self) -> None:
        self._link.unlink()
        self._link.mkdir()


def states(airflow: Airflow) -> dict[str, str]:
    airflow.check()
    return dict(airflow.rows(f"SELECT task_id, state FROM {TASK_INSTANCE} WHERE run_id = ?", RUN_ID))


def xcom(airflow: Airflow, task_id: str, key: str = "return_value") -> Any:
    query = f"SELECT value FROM {XCOM} WHERE run_id = ? AND task_id = ? AND key = ?"
    found = airflow.rows(query, RUN_ID, task_id, key)
    return decoded(found[0][0]) if found else None


def runs_of(server: DifyServer, task_id: str) -> list[RunRecord]:
    return [run for run in server.runs if f"/{task_id}/{RUN_ID}/" in run.user]


def kill_a_running_task(airflow: Airflow, server: DifyServer) -> None:
    """Kill the worker of a task once its run's id is stored, which leaves a record for the retry."""
    airflow.rest.trigger("killed", RUN_ID)
    wait_for("the run's id", lambda: xcom(airflow, "run", "workflow_run_id"), LIMIT)
    ((pid,),) = airflow.rows(f"SELECT pid FROM {TASK_INSTANCE} WHERE run_id = ? AND task_id = 'run'", RUN_ID)
    os.kill(pid, signal.SIGKILL)
    wait_for("the wait for a retry", lambda: states(airflow).get("run") == "up_for_retry", LIMIT)


@pytest.mark.processes
@pytest.mark.timeout(1800)
def test_waiting_tasks_of_the_released_version_end_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = Versions(tmp_path)
    monkeypatch.setenv("PYTHONPATH", versions.path)
    home = tmp_path / "airflow"
    home.mkdir()
    with DifyServer() as server:
        connection = {"conn_type": "dify", "host": server.base_url, "password": server.api_key("slow")}
        settings = {"CORE__DAGS_ARE_PAUSED_AT_CREATION": "False"}
        with Airflow(home, connection, DAGS, web=True, settings=settings) as airflow:
            wait_for("the API", airflow.rest.answers, LIMIT)
            wait_for("the DAGs", lambda: len(airflow.rows("SELECT 1 FROM serialized_dag")) == 2, LIMIT)
            began = time.monotonic()
            kill_a_running_task(airflow, server)
            # The runs must outlast the restart of all processes, which takes a busy machine as much longer as this.
            seconds = 40 + round(4 * (time.monotonic() - began))
            # Nobody sees its run until it leaves the queue, so that its id is searched for over the upgrade.
            searched = f"airflow/waiting/searching/{RUN_ID}/3/1"
            server.inject(Fault("submit", "queue_delay", seconds=seconds, user=searched))
            airflow.rest.trigger("waiting", RUN_ID, {"seconds": seconds})
            wait_for(
                "tasks that wait", lambda: all(states(airflow).get(name) == "deferred" for name in DEFERRED), LIMIT
            )
            assert str(xcom(airflow, "before")).startswith(versions.path)
            names = ["scheduler", "triggerer", "webserver" if is_airflow_2() else "api-server"]
            names += [] if is_airflow_2() else ["dag-processor"]
            for name in names:
                airflow.kill_session(name)
            versions.upgrade()
            for name in names:
                airflow.start(name)
            assert {run.status for name in ("waiting", "started") for run in runs_of(server, name)} == {"running"}
            ended = "SELECT 1 FROM dag_run WHERE run_id = ? AND state IN ('success', 'failed')"
            wait_for("the end", lambda: len(airflow.rows(ended, RUN_ID)) == 2, LIMIT)
            assert set(states(airflow).values()) == {"success"}, airflow.logs(RUN_ID)
            outputs = {name: xcom(airflow, name) for name in ("run", "waiting", "searching", "sensor", "reader")}
            assert outputs == {
                "run": {"body": "slept 60 s"},
                "searching": {"body": "slept 5 s"},
                **{name: {"body": f"slept {seconds} s"} for name in ("waiting", "sensor", "reader")},
            }
            after = str(xcom(airflow, "after"))
            ids = {name: xcom(airflow, name, "workflow_run_id") for name in ("run", "waiting", "searching")}
    assert not after.startswith(versions.path)
    assert ids == {name: runs_of(server, name)[0].id for name in ids}
    for name in ("run", "waiting", "searching", "started"):
        assert [run.status for run in runs_of(server, name)] == ["succeeded"], name
