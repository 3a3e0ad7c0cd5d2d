"""Faults among Airflow's real processes, with PostgreSQL: every task ends right, and Dify's books show its runs."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.runs import RunRecord
from airflow_provider_dify.testing.server import DifyServer
from tests.integration.airflow_dags import is_airflow_2
from tests.integration.airflow_processes import Airflow, wait_for
from tests.integration.airflow_tables import TASK_INSTANCE, XCOM
from tests.integration.postgres import Postgres

pytestmark = [pytest.mark.postgres, pytest.mark.xdist_group("real"), pytest.mark.timeout(1800)]

DAGS = Path(__file__).parent / "real_dags"
MODES = ("worker", "deferred")
LIMIT = 600.0
TASK_ENDED = ("success", "failed", "skipped", "upstream_failed")
SETTINGS = {
    "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
    "SCHEDULER__SCHEDULER_ZOMBIE_TASK_THRESHOLD": "25",
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "25",
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "15",
    # No shorter: Airflow 2 would find a task dead a second time before a busy machine has dealt with the first, and
    # fail it for that even after its retry's success.
    "SCHEDULER__ZOMBIE_DETECTION_INTERVAL": "45",
    "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
    "TRIGGERER__JOB_HEARTBEAT_SEC": "2",
    "TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "20",
}


class Stage:
    """One Airflow and the Dify servers that its connections lead to."""

    def __init__(self, airflow: Airflow, dify: DifyServer, stock: DifyServer, limited: DifyServer) -> None:
        self.airflow = airflow
        self.dify = dify
        self.stock = stock
        self.limited = limited

    def start(self, dag_id: str, run_id: str, **conf: Any) -> None:
        self.airflow.rest.trigger(dag_id, run_id, conf)

    def runs(self, run_id: str) -> list[RunRecord]:
        """Return the Dify runs of a DAG run, the oldest first."""
        return [run for run in self.dify.runs if f"/{run_id}/" in run.user]

    def state(self, run_id: str) -> str | None:
        self.airflow.check()
        rows = self.airflow.rows(f"SELECT state FROM {TASK_INSTANCE} WHERE run_id = ? AND task_id = 'run'", run_id)
        return rows[0][0] if rows else None

    def clear_by_command(self, dag_id: str, run_id: str) -> None:
        """Clear the task as ``airflow tasks clear`` does, which takes dates and no run id."""
        ((moment,),) = self.airflow.rows("SELECT execution_date FROM dag_run WHERE run_id = ?", run_id)
        dates = ("--start-date", moment.isoformat(), "--end-date", moment.isoformat())
        self.airflow.command("tasks", "clear", "--yes", "--task-regex", "^run$", *dates, dag_id)

    def tries(self, run_id: str) -> int:
        rows = self.airflow.rows(f"SELECT try_number FROM {TASK_INSTANCE} WHERE run_id = ?", run_id)
        return int(rows[0][0])

    def is_waited_for(self, run_id: str) -> bool:
        """Tell whether the run goes on, its id is known, and somebody waits for it."""
        if not any(run in self.dify.active_runs() for run in self.runs(run_id)):
            return False
        if self.state(run_id) == "deferred":
            # A trigger that has been assigned to a triggerer, and has not begun to run, hears of no cancel.
            return self.airflow.has_begun_trigger(run_id, self.tries(run_id))
        known = f"SELECT 1 FROM {XCOM} WHERE run_id = ? AND key = 'workflow_run_id'"
        return "_worker" in self.dag_of(run_id) and bool(self.airflow.rows(known, run_id))

    def is_looked_at(self, run_id: str) -> bool:
        ids = tuple(run.id for run in self.runs(run_id))
        return any(each.method == "GET" and each.path.endswith(ids) for each in self.dify.requests)

    def dag_of(self, run_id: str) -> str:
        return str(self.airflow.rows("SELECT dag_id FROM dag_run WHERE run_id = ?", run_id)[0][0])

    def wait_until_waited_for(self, run_id: str) -> None:
        wait_for(f"{run_id} is waited for", lambda: self.is_waited_for(run_id), LIMIT)

    def wait_until_ended(self, run_id: str) -> str:
        wait_for(f"the end of {run_id}", lambda: self.state(run_id) in TASK_ENDED, LIMIT)
        return str(self.state(run_id))

    def wait_until_stopped(self, run_id: str, index: int = 0) -> None:
        wait_for(f"the stop for {run_id}", lambda: self.runs(run_id)[index] not in self.dify.active_runs(), 120)
        assert self.runs(run_id)[index].status == "stopped"


def marked_task(stage: Stage, mode: str, state: str) -> None:
    run_id = f"marked-{state}-{mode}"
    stage.start(f"run_{mode}", run_id, seconds=900)
    stage.wait_until_waited_for(run_id)
    stage.airflow.rest.mark_task(f"run_{mode}", run_id, "run", state)
    stage.wait_until_stopped(run_id)
    assert stage.state(run_id) == state
    assert len(stage.runs(run_id)) == 1


def failed_dag_run(stage: Stage, mode: str) -> None:
    run_id = f"dag-run-failed-{mode}"
    stage.start(f"run_{mode}", run_id, seconds=900)
    stage.wait_until_waited_for(run_id)
    stage.airflow.rest.mark_dag_run(f"run_{mode}", run_id, "failed")
    stage.wait_until_stopped(run_id)
    assert stage.wait_until_ended(run_id) == "failed"
    assert len(stage.runs(run_id)) == 1


def cleared_while_running(stage: Stage, mode: str) -> None:
    run_id = f"cleared-running-{mode}"
    stage.start(f"run_{mode}", run_id, seconds=60)
    stage.wait_until_waited_for(run_id)
    if mode == "worker" and is_airflow_2():
        # Not by its REST API, whose clear never reaches the row of a running task: docs/troubleshooting.md.
        stage.clear_by_command(f"run_{mode}", run_id)
    else:
        stage.airflow.rest.clear(f"run_{mode}", run_id, "run")
    stage.wait_until_stopped(run_id)
    wait_for("a second run", lambda: len(stage.runs(run_id)) == 2, LIMIT)
    assert stage.wait_until_ended(run_id) == "success"
    assert [run.status for run in stage.runs(run_id)] == ["stopped", "succeeded"]


def cleared_after_success(stage: Stage, mode: str) -> None:
    run_id = f"cleared-succeeded-{mode}"
    stage.start(f"run_{mode}", run_id, seconds=1)
    assert stage.wait_until_ended(run_id) == "success"
    # A scheduler that is about to end the DAG run would write over the clear.
    ended = "SELECT 1 FROM dag_run WHERE run_id = ? AND state = 'success'"
    wait_for("the end of the DAG run", lambda: stage.airflow.rows(ended, run_id), LIMIT)
    stage.airflow.rest.clear(f"run_{mode}", run_id, "run")
    wait_for("a second run", lambda: len(stage.runs(run_id)) == 2, LIMIT)
    assert stage.wait_until_ended(run_id) == "success"
    assert [run.status for run in stage.runs(run_id)] == ["succeeded"] * 2


def timed_out(stage: Stage, mode: str, kind: str) -> None:
    run_id = f"{kind}-{mode}"
    stage.start(f"{kind}_{mode}", run_id, seconds=900)
    wait_for("a run", lambda: stage.runs(run_id), LIMIT)
    stage.wait_until_stopped(run_id)
    assert stage.wait_until_ended(run_id) == ("skipped" if kind == "dagrun_timeout" else "failed")
    assert len(stage.runs(run_id)) == 1


def killed_worker(stage: Stage, mode: str, point: str) -> None:
    run_id = f"killed-{point.replace(' ', '-')}-{mode}"
    stage.start(f"run_{mode}", run_id, seconds=10, die=point)
    assert stage.wait_until_ended(run_id) == "success"
    assert [run.status for run in stage.runs(run_id)] == ["succeeded"]
    assert stage.tries(run_id) == 2


def killed_worker_of_queued_run(stage: Stage, mode: str) -> None:
    """Nobody can see the run until long after the retry has begun: only a note tells that it was submitted."""
    run_id = f"killed-queued-{mode}"
    marker = f"airflow/run_{mode}/run/{run_id}/1/1"
    stage.dify.inject(Fault("submit", "queue_delay", seconds=200, user=marker))
    stage.start(f"run_{mode}", run_id, seconds=1, die="before the search")
    assert stage.wait_until_ended(run_id) == "success"
    assert [(run.user, run.status) for run in stage.runs(run_id)] == [(marker, "succeeded")]
    assert stage.tries(run_id) == 2


def frozen_worker(stage: Stage) -> None:
    """Airflow takes the process for dead, and kills it when it is read of again: that stops nothing."""
    run_id = "frozen-worker"
    stage.start("run_worker", run_id, seconds=120)
    stage.wait_until_waited_for(run_id)
    # A process that is frozen in a call to Airflow cannot ask what has become of its task, and stops its run.
    wait_for("a poll at the run", lambda: stage.is_looked_at(run_id), LIMIT)
    (pid,) = stage.airflow.rows(f"SELECT pid FROM {TASK_INSTANCE} WHERE run_id = ?", run_id)[0]
    worker = psutil.Process(pid)
    processes = [worker.parent(), worker]
    for process in processes:
        process.suspend()
    try:
        wait_for("the retry", lambda: stage.tries(run_id) == 2 and stage.is_waited_for(run_id), LIMIT)
    finally:
        for process in processes:
            process.resume()
    wait_for("the end of the first try", lambda: has_ended(worker), LIMIT)
    assert stage.wait_until_ended(run_id) == "success"
    assert [run.status for run in stage.runs(run_id)] == ["succeeded"]
    assert stage.tries(run_id) == 2


def has_ended(process: psutil.Process) -> bool:
    """Tell whether a process is gone, or nothing of it but its exit status."""
    with suppress(psutil.NoSuchProcess):
        return process.status() == psutil.STATUS_ZOMBIE
    return True


def burst(stage: Stage, dag_id: str) -> None:
    count, server = {"forty": (40, stage.stock), "thirty": (30, stage.limited)}[dag_id]
    run_id = f"burst-{dag_id}"
    stage.start(dag_id, run_id)
    query = "SELECT state FROM dag_run WHERE run_id = ?"
    wait_for("the end", lambda: stage.airflow.rows(query, run_id) in ([("success",)], [("failed",)]), 1200)
    states = stage.airflow.rows(f"SELECT state FROM {TASK_INSTANCE} WHERE run_id = ?", run_id)
    assert states == [("success",)] * count
    assert [run.status for run in server.runs] == ["succeeded"] * count
    assert len({run.user for run in server.runs}) == count


def frozen_triggerer(stage: Stage) -> None:
    """Its triggers go to another one meanwhile; on Airflow 3.3.0 to 3.3.2 their on_kill is called all the same."""
    airflow = stage.airflow
    stage.start("run_deferred", "frozen", seconds=100)
    stage.wait_until_waited_for("frozen")
    query = (
        f"SELECT t.triggerer_id FROM {TASK_INSTANCE} JOIN trigger t ON t.id = ti.trigger_id WHERE ti.run_id = 'frozen'"
    )
    first = airflow.rows(query)
    airflow.start("triggerer.second")
    jobs = "SELECT 1 FROM job WHERE job_type = 'TriggererJob' AND state = 'running'"
    wait_for("the second triggerer", lambda: len(airflow.rows(jobs)) == 2, LIMIT)
    airflow.signal("triggerer", signal.SIGSTOP)
    wait_for("the second one takes over", lambda: airflow.rows(query) not in (first, [(None,)], []), LIMIT)
    airflow.signal("triggerer", signal.SIGCONT)
    # The first one heartbeats, and finds that its trigger is gone.
    time.sleep(10)
    assert [run.status for run in stage.runs("frozen")] == ["running"]
    assert stage.wait_until_ended("frozen") == "success"
    assert [run.status for run in stage.runs("frozen")] == ["succeeded"]
    airflow.kill("triggerer.second")


def outage(stage: Stage) -> None:
    """A minute without Dify is no failure."""
    for mode in MODES:
        stage.start(f"run_{mode}", f"outage-{mode}", seconds=40)
    for mode in MODES:
        stage.wait_until_waited_for(f"outage-{mode}")
    for kind in ("refuse", "500", "502-html"):
        stage.dify.down(kind)
        time.sleep(20)
        stage.dify.up()
    for mode in MODES:
        assert stage.wait_until_ended(f"outage-{mode}") == "success"
        assert [run.status for run in stage.runs(f"outage-{mode}")] == ["succeeded"]


def killed_scheduler_and_triggerer(stage: Stage) -> None:
    """The scheduler's death takes the tasks on its executor with it: their retries take the runs up."""
    for mode in MODES:
        stage.start(f"run_{mode}", f"all-killed-{mode}", seconds=60)
    for mode in MODES:
        stage.wait_until_waited_for(f"all-killed-{mode}")
    for name in ("scheduler", "triggerer"):
        stage.airflow.kill(name)
    for name in ("scheduler", "triggerer"):
        stage.airflow.start(name)
    for mode in MODES:
        assert stage.wait_until_ended(f"all-killed-{mode}") == "success"
        assert [run.status for run in stage.runs(f"all-killed-{mode}")] == ["succeeded"]


def lost_runs(stage: Stage) -> None:
    """A restart of Dify leaves runs ``running`` for ever: the deadline ends their tasks."""
    for mode in MODES:
        stage.start(f"timeout_{mode}", f"lost-{mode}", seconds=900)
    for mode in MODES:
        wait_for("a run", lambda mode=mode: stage.runs(f"lost-{mode}"), LIMIT)
    stage.dify.restart()
    for mode in MODES:
        assert stage.wait_until_ended(f"lost-{mode}") == "failed"
        assert len(stage.runs(f"lost-{mode}")) == 1


# Each list's scenarios leave each other alone and are played at once: most of their time is Airflow's own.
SCENARIOS: list[list[tuple[Callable[..., None], tuple[str, ...]]]] = [
    [
        (frozen_worker, ()),
        *[(killed_worker_of_queued_run, (mode,)) for mode in MODES],
        *[(killed_worker, (mode, "before the POST")) for mode in MODES],
        *[(killed_worker, (mode, "between POST and id")) for mode in MODES],
        (killed_worker, ("deferred", "between id and deferral")),
        (killed_worker, ("worker", "in the wait")),
        *[(timed_out, (mode, kind)) for kind in ("timeout", "execution_timeout", "dagrun_timeout") for mode in MODES],
        *[(marked_task, (mode, state)) for state in ("failed", "success") for mode in MODES],
        *[(failed_dag_run, (mode,)) for mode in MODES],
        *[(cleared_while_running, (mode,)) for mode in MODES],
        *[(cleared_after_success, (mode,)) for mode in MODES],
    ],
    [(frozen_triggerer, ()), (outage, ()), (burst, ("forty",)), (burst, ("thirty",))],
    [(killed_scheduler_and_triggerer, ())],
    [(lost_runs, ())],
]
NAMES = [" ".join([scenario.__name__, *rest]) for batch in SCENARIOS for scenario, rest in batch]
# What the provider does by itself, with nothing in it that one Airflow does otherwise than another.
ALIKE = (timed_out, failed_dag_run, cleared_after_success, burst, lost_runs)
PARAMETERS = [
    pytest.param(name, marks=pytest.mark.any_airflow)
    if name.startswith(tuple(each.__name__ for each in ALIKE)) and not name.endswith("execution_timeout")
    else name
    for name in NAMES
]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    def connection(server: DifyServer, app: str) -> dict[str, Any]:
        return {"conn_type": "dify", "host": server.base_url, "password": server.api_key(app)}

    with (
        DifyServer(connections=100, worker_slots=None) as dify,
        DifyServer(connections=10, worker_slots=4) as stock,
        DifyServer(connections=10, worker_slots=None) as limited,
        Postgres() as postgres,
        Airflow(
            tmp_path_factory.mktemp("airflow"),
            connection(dify, "slow"),
            DAGS,
            connections={
                "dify_stock": connection(stock, "slow"),
                "dify_limited": connection(limited, "limited"),
            },
            database=postgres.url,
            parallelism=8,
            web=True,
            settings=SETTINGS,
        ) as airflow,
    ):
        wait_for("the API", airflow.rest.answers, LIMIT)
        wait_for("the DAGs", lambda: len(airflow.rows("SELECT 1 FROM serialized_dag")) >= 10, LIMIT)
        yield Stage(airflow, dify, stock, limited)


@pytest.fixture(scope="module")
def results(stage: Stage, request: pytest.FixtureRequest) -> dict[str, Future[None]]:
    """What became of each scenario that was asked for."""
    items: list[Any] = request.session.items
    asked = {item.callspec.params["name"] for item in items if "name" in getattr(item, "fixturenames", ())}
    played: dict[str, Future[None]] = {}
    for batch in SCENARIOS:
        with ThreadPoolExecutor(8) as pool:
            for scenario, rest in batch:
                if (name := " ".join([scenario.__name__, *rest])) in asked:
                    played[name] = pool.submit(scenario, stage, *rest)
    return played


@pytest.mark.parametrize("name", PARAMETERS)
def test_scenario(results: dict[str, Future[None]], stage: Stage, name: str) -> None:
    try:
        results[name].result()
    except AssertionError as error:
        raise AssertionError(f"{error}\n{stage.airflow.logs(str(error))}") from error


def test_nothing_is_left_running(results: dict[str, Future[None]], stage: Stage) -> None:
    assert [run for server in (stage.dify, stage.stock, stage.limited) for run in server.active_runs()] == []
