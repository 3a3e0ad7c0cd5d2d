"""Steps that come too late, or twice: what is killed submits nothing more, and no step is done by two tries."""

from __future__ import annotations

import time
from collections.abc import Iterator
from threading import Event
from typing import Any

import pytest

from airflow_provider_dify.exceptions import DifyError, DifyRunTimeoutError
from airflow_provider_dify.hooks.dify import DifyHook
from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.server import DifyServer
from airflow_provider_dify.testing.workflows import Input, Workflow
from tests.faults.test_stops_that_fail import STEPS, until
from tests.faults.tries import Killed, Task, connect, death, die, modes, stops, stores

INPUTS = {"text": "hello"}
EXECUTION = "airflow_provider_dify.runtime.task_run.Execution"
SLEEP = "airflow_provider_dify.runtime.task_run.time.sleep"
RATE_LIMIT = Fault("submit", "status", status=429, headers={"Retry-After": "0"})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[DifyServer]:
    workflows = [
        STEPS,
        Workflow("echo", inputs=[Input("text")], duration=0.3),
        Workflow("long", inputs=[Input("text")], duration=60.0),
        Workflow("failing", inputs=[Input("text")], duration=0.1, failure="boom"),
    ]
    with DifyServer(workflows) as server:
        connect(monkeypatch, server, "echo")
        monkeypatch.setattr("airflow_provider_dify.rules.earlier_tries.QUEUE_PATIENCE_SECONDS", 1.0)
        yield server


def statuses(server: DifyServer) -> list[str]:
    return [run.status for run in server.runs]


# --- A kill lets the process go on for a few seconds on Airflow 3


def test_a_task_killed_while_it_waits_its_turn_submits_nothing_more(
    server: DifyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.inject(RATE_LIMIT)
    killed = Task(store=True, deferrable=False, inputs=INPUTS)
    with monkeypatch.context() as patch:
        patch.setattr(SLEEP, lambda seconds: killed.operator.on_kill())
        with pytest.raises(DifyError, match="killed"):
            killed.run()
    assert server.runs == []
    assert killed.retry() == INPUTS
    assert statuses(server) == ["succeeded"]


@stores
def test_a_task_killed_as_its_submission_leaves_stops_its_run(
    server: DifyServer, monkeypatch: pytest.MonkeyPatch, store: bool
) -> None:
    connect(monkeypatch, server, "long")
    killed = Task(store=store, deferrable=False, inputs=INPUTS)
    before = f"{EXECUTION}._before_send"

    def kill(execution: Any, submission: Any) -> None:
        write_down(execution, submission)
        killed.operator.on_kill()

    from airflow_provider_dify.runtime.task_run import Execution

    write_down = Execution._before_send
    with monkeypatch.context() as patch:
        patch.setattr(before, kill)
        with pytest.raises(DifyError, match="killed"):
            killed.run()
    until(lambda: statuses(server) == ["stopped"])
    assert len(stops(server)) == 1


@pytest.mark.parametrize("moment", ["between POST and id", "between id and wait"])
@stores
def test_a_kill_during_the_search_or_poll_of_an_earlier_run_stops_that(
    server: DifyServer, monkeypatch: pytest.MonkeyPatch, store: bool, moment: str
) -> None:
    connect(monkeypatch, server, "steps")
    killed = Task(store=store, deferrable=False, inputs=INPUTS)
    with death(moment):
        killed.run()

    def kill(*_: object) -> None:
        killed.operator.on_kill()
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("airflow_provider_dify.hooks.dify.DifyHook.follow", kill)
        with pytest.raises(Killed):
            killed.retry()
    until(lambda: statuses(server) == ["stopped"])


def set_current_context(context: Any) -> Any:
    try:
        from airflow.sdk.execution_time.context import set_current_context
    except ImportError:
        from airflow.models.taskinstance import set_current_context  # type: ignore[attr-defined]
    return set_current_context(context)


@pytest.mark.parametrize("left", ["the wait", "a search that found", "a search that did not find"])
def test_a_task_that_is_killed_before_it_is_resumed_stops_its_run(
    server: DifyServer, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    """Airflow 2 kills an operator that it has not resumed yet, where ``execution_timeout`` strikes in between."""
    connect(monkeypatch, server, "steps")
    killed = Task(store=False, deferrable=True, inputs=INPUTS, timeout=1)
    if left != "the wait":
        server.inject(Fault("submit", "lose_events", events=("*",)))
    if left == "a search that did not find":
        server.inject(Fault("logs", "status", status=503, times=None))
    method = "execute_complete" if left == "the wait" else "execute_found"
    with monkeypatch.context() as patch:
        patch.setattr(f"airflow_provider_dify.operators.workflow.DifyRunWorkflowOperator.{method}", die)
        with pytest.raises(Killed):
            killed.run()
    server.clear_faults()
    assert statuses(server) == ["running"]
    killed.ti.next_kwargs = killed.resumption[1]
    with set_current_context({"ti": killed.ti}):
        killed.operator.on_kill()
    until(lambda: statuses(server) == ["stopped"])


# --- A task that another try has taken over


@modes
@stores
def test_a_rate_limited_submission_that_two_tries_resume_is_sent_once(
    server: DifyServer, monkeypatch: pytest.MonkeyPatch, store: bool, deferrable: bool
) -> None:
    server.inject(RATE_LIMIT)
    reset = Task(store=store, deferrable=True, inputs=INPUTS)
    with death("between id and wait" if deferrable else "between POST and id"):
        reset.run()
    assert len(server.runs) == 1
    assert reset.resumption[0] == "submit_again"
    assert reset.reset() == INPUTS
    assert statuses(server) == ["succeeded"]


def test_a_process_taken_for_dead_does_not_stop_a_reattached_run(server: DifyServer) -> None:
    """Airflow kills it when it is read of again."""
    task = Task(store=True, deferrable=False, inputs={"text": "hello"})
    with death("between id and wait"):
        task.run()
    dead = task.operator
    with death("between id and wait"):
        task.retry()
    dead.on_kill()
    assert stops(server) == []
    task.operator.on_kill()
    assert len(stops(server)) == 1


def test_a_process_thawed_too_late_does_not_stop_a_reattached_run(
    server: DifyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(monkeypatch, server, "long")
    task = Task(store=True, deferrable=False, inputs=INPUTS, timeout=0.2)
    poll = DifyHook.poll

    def thaw(hook: DifyHook, *rest: Any, **options: Any) -> Any:
        monkeypatch.setattr(DifyHook, "poll", poll)
        with death("between id and wait"):
            task.retry()
        return poll(hook, *rest, **options)

    monkeypatch.setattr(DifyHook, "poll", thaw)
    with pytest.raises(DifyRunTimeoutError, match="a retry of the task reattaches to it"):
        task.run()
    assert stops(server) == []
    assert statuses(server) == ["running"]


def test_a_process_whose_notes_are_out_of_reach_does_not_stop_its_run(server: DifyServer) -> None:
    """To a process whose task instance goes on as another try Airflow's store shows nothing."""
    task = Task(store=True, deferrable=False, inputs=INPUTS)
    with death("between id and wait"):
        task.run()
    assert task.store is not None
    task.store.values.clear()
    task.operator.on_kill()
    assert stops(server) == []


def test_a_store_that_hangs_lets_a_killed_task_stop_its_run(
    server: DifyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process may have been killed in the middle of a call to Airflow, whose lock it then holds."""
    task = Task(store=True, deferrable=False, inputs=INPUTS)
    with death("between id and wait"):
        task.run()
    over = Event()
    monkeypatch.setattr(task.store, "get", lambda *_: over.wait(30))
    task.operator.on_kill()
    assert len(stops(server)) == 1
    over.set()


@pytest.mark.parametrize("earlier", ["nothing", "failed"])
def test_a_search_that_two_tries_resume_submits_once(
    server: DifyServer, monkeypatch: pytest.MonkeyPatch, earlier: str
) -> None:
    reset = Task(store=False, deferrable=True, inputs=INPUTS, retries=3)
    if earlier == "nothing":
        with death("before the POST"):
            reset.run()
    else:
        connect(monkeypatch, server, "failing")
        with pytest.raises(DifyError, match="boom"):
            reset.run()
        connect(monkeypatch, server, "echo")
    with death("between id and wait"):
        reset.retry()
    assert reset.resumption[0] == "execute_found"
    before = len(server.runs)
    assert reset.reset() == INPUTS
    assert len(server.runs) == before
    assert statuses(server)[-1] == "succeeded"


# --- A process that dies after its run has ended, before Airflow knows how the task did


@modes
@stores
def test_the_outputs_of_a_try_that_dies_are_taken_by_the_retry(
    server: DifyServer, deferrable: bool, store: bool
) -> None:
    """An XCom backend that cannot keep the outputs, or a kill in the last moment."""
    died = Task(store=store, deferrable=deferrable, inputs=INPUTS)
    assert died.run() == INPUTS
    assert died.retry() == INPUTS
    assert statuses(server) == ["succeeded"]
    assert died.clear() == INPUTS
    assert statuses(server) == ["succeeded"] * 2
    assert stops(server) == []


@modes
@stores
def test_the_run_id_of_a_try_that_dies_is_taken_by_the_retry(
    server: DifyServer, monkeypatch: pytest.MonkeyPatch, deferrable: bool, store: bool
) -> None:
    connect(monkeypatch, server, "long")
    died = Task(store=store, deferrable=deferrable, inputs=INPUTS, wait_for_termination=False)
    run_id = died.run()
    assert died.retry() == run_id
    assert statuses(server) == ["running"]
    # Whoever waits for the run that was handed over still does so.
    assert died.clear() != run_id
    assert statuses(server) == ["running"] * 2
    assert stops(server) == []


# --- The task state store


@modes
def test_a_store_that_cannot_be_read_lets_nothing_be_submitted(
    server: DifyServer, monkeypatch: pytest.MonkeyPatch, deferrable: bool
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("Connection refused")

    unable = Task(store=True, deferrable=deferrable, inputs=INPUTS)
    with monkeypatch.context() as patch:
        patch.setattr(unable.store, "get", fail)
        with pytest.raises(DifyError, match=r"Connection refused.*nothing was submitted"):
            unable.run()
    assert server.runs == []
    assert unable.retry() == INPUTS
    assert statuses(server) == ["succeeded"]


@modes
def test_a_clear_stops_an_unnamed_run_of_the_former_generation(
    server: DifyServer, monkeypatch: pytest.MonkeyPatch, deferrable: bool
) -> None:
    connect(monkeypatch, server, "steps")
    left = Task(store=True, deferrable=deferrable, inputs=INPUTS)
    with death("between POST and id"):
        left.run()
    with death("between id and wait"):
        left.clear()
    assert len(server.runs) == 2
    until(lambda: statuses(server) == ["stopped", "running"])


@modes
@stores
def test_a_run_of_a_deleted_dag_run_of_the_same_name_is_not_taken(
    server: DifyServer, deferrable: bool, store: bool
) -> None:
    """Somebody deletes a DAG run and triggers it again: its markers are the same, and the store is empty."""
    deleted = Task(store=store, deferrable=deferrable, inputs=INPUTS)
    assert deleted.run() == INPUTS
    again = Task(store=store, deferrable=deferrable, inputs={"text": "changed"})
    time.sleep(1.1)  # Dify's times have whole seconds.
    server.inject(Fault("submit", "accept_then_reset"))
    assert again.run() == {"text": "changed"}
    assert len(server.runs) == 2
