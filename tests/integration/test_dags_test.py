"""``dag.test()``, ``airflow dags test`` and a real triggerer give deferrable tasks the same results."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.server import DifyServer
from tests.integration.airflow_dags import dag_bag, decoded, initialize_database, is_airflow_2, latest_outcome_of, run
from tests.integration.airflow_processes import Airflow, wait_for
from tests.integration.airflow_tables import XCOM

pytestmark = [pytest.mark.processes, pytest.mark.timeout(900)]

DAGS = Path(__file__).parent / "deferring_dags"
OUTPUTS = {"body": "slept 8 s"}


@dataclass(frozen=True)
class Case:
    """What a deferrable task meets, and what comes of it.

    :param faults: Of the server, from before the task.
    :param error: The class of the task's error; None where it succeeds with its run's outputs.
    :param run: How its run, if the server has one, ends.
    """

    faults: tuple[Fault, ...] = ()
    error: str | None = None
    run: str = "succeeded"


CASES: dict[str, Case] = {
    "waited_for": Case(),
    "answer_lost": Case((Fault("submit", "cut", after_events=0),)),
    # Nobody sees the run until it leaves the queue.
    "answer_late": Case((Fault("submit", "queue_delay", seconds=6),)),
    "never_found": Case((Fault("submit", "queue_delay", seconds=900),), "DifySubmissionUnknownError", "queued"),
    "rate_limited": Case((Fault("submit", "too_many_requests", times=2),)),
    "deadline_passed": Case((), "DifyRunTimeoutError", "stopped"),
    "sensor": Case(),
    # Who only waits for a run does not stop it.
    "sensor_deadline_passed": Case((), "DifySensorTimeoutError", "running"),
}

cases = pytest.mark.parametrize("name", CASES)


@dataclass
class Stage:
    """The servers of all cases, and where the errors of their tasks are written."""

    servers: dict[str, DifyServer]
    errors: Path

    def connections(self) -> dict[str, dict[str, Any]]:
        return {
            f"dify_{name}": {"conn_type": "dify", "host": server.base_url, "password": server.api_key("slow")}
            for name, server in self.servers.items()
        }

    def check(self, name: str, state: str, outputs: Any) -> None:
        """Hold what came of a case against what it should have."""
        case, error = CASES[name], self.errors / name
        reported = error.read_text() if error.exists() else None
        wanted = None if case.error else OUTPUTS
        assert (state, reported, outputs) == ("failed" if case.error else "success", case.error, wanted)
        assert [each.status for each in self.servers[name].runs] == [case.run]


@pytest.fixture
def stage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stage]:
    """Start a server for the test's case, or one for each."""
    callspec = getattr(request.node, "callspec", None)
    names = [callspec.params["name"]] if callspec else list(CASES)
    monkeypatch.setenv("DEFERRING_ERRORS", str(tmp_path / "errors"))
    with ExitStack() as stack:
        servers = {name: stack.enter_context(DifyServer()) for name in names}
        for name, server in servers.items():
            for fault in CASES[name].faults:
                server.inject(fault)
        yield Stage(servers, tmp_path / "errors")


def wait_for_stop(stage: Stage, name: str) -> None:
    """Let a run that is being stopped end."""
    if CASES[name].run == "stopped":
        wait_for("the stop", lambda: not stage.servers[name].active_runs(), 30)


def connect(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    for conn_id, connection in stage.connections().items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(connection))


@pytest.mark.any_airflow
@cases
def test_dag_test_gives_the_result(stage: Stage, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    connect(stage, monkeypatch)
    outcome = run(dag_bag(DAGS / "deferring.py").dags[name])
    wait_for_stop(stage, name)
    stage.check(name, outcome.states["run", -1], outcome.xcom("run"))


@pytest.mark.any_airflow
@cases
def test_airflow_dags_test_gives_the_result(stage: Stage, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The command itself, but in this process: the start of one of its own would take most of the time."""
    from airflow.cli.cli_parser import get_parser

    connect(stage, monkeypatch)
    initialize_database()
    monkeypatch.setattr("airflow.settings.DAGS_FOLDER", str(DAGS))
    folder = ["--subdir", str(DAGS)] if is_airflow_2() else []
    arguments = get_parser().parse_args(["dags", "test", *folder, name])
    # Its status tells of a DAG run that failed on some versions alone.
    with suppress(SystemExit):
        arguments.func(arguments)
    outcome = latest_outcome_of(name)
    wait_for_stop(stage, name)
    stage.check(name, outcome.states["run", -1], outcome.xcom("run"))


def output(airflow: Airflow, name: str) -> Any:
    query = f"SELECT value FROM {XCOM} WHERE dag_id = ? AND task_id = 'run' AND key = 'return_value'"
    found = airflow.rows(query, name)
    return decoded(found[0][0]) if found else None


def test_a_real_triggerer_gives_the_results(stage: Stage, tmp_path: Path) -> None:
    settings = {"CORE__DAGS_ARE_PAUSED_AT_CREATION": "False"}
    with Airflow(tmp_path, {}, DAGS, connections=stage.connections(), web=True, settings=settings) as airflow:
        wait_for("the API", airflow.rest.answers, 300)
        wait_for("the DAGs", lambda: len(airflow.rows("SELECT 1 FROM serialized_dag")) == len(CASES), 300)
        for name in CASES:
            airflow.rest.trigger(name, f"run-of-{name}", {})
        for name in CASES:
            wait_for(name, lambda name=name: airflow.dag_state(name) in ("success", "failed"), 600)
            wait_for_stop(stage, name)
        for name in CASES:
            stage.check(name, str(airflow.task_state(name, "run")), output(airflow, name))
