"""Stops that do not stop: the cause is never hidden, nobody waits, and a retry does what the message says."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from airflow_provider_dify.exceptions import DifyRunTimeoutError
from airflow_provider_dify.rules.exchanges import STOP_TIMEOUT_SECONDS
from airflow_provider_dify.runtime.stopping import CALLS_ON_KILL
from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.server import DifyServer
from airflow_provider_dify.testing.workflows import Input, Step, Workflow
from airflow_provider_dify.triggers import base
from tests.faults.tries import Killed, Task, connect, death, modes, requests_to, stops, stores

INPUTS = {"text": "hello"}
LONG = Workflow("long", inputs=[Input("text")], duration=60.0)
STEPS = Workflow("steps", inputs=[Input("text")], steps=[Step(f"step {n}", seconds=0.2) for n in range(200)])

NO_EFFECT = Fault("stop", "stop_without_effect")
HANGS = Fault("stop", "hang")
REFUSED_400 = Fault("stop", "status", status=400, code="bad_request", message="no")
REFUSED_500 = Fault("stop", "status", status=500, code="internal_server_error", message="no")
FAULTS = {"no effect": NO_EFFECT, "hangs": HANGS, "refused 400": REFUSED_400, "refused 500": REFUSED_500}
faults = pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)

# A call that hangs, and what the machine takes.
BOUND = STOP_TIMEOUT_SECONDS + 3


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[DifyServer]:
    with DifyServer([LONG, STEPS]) as server:
        connect(monkeypatch, server, "long")
        yield server


def until(condition: Callable[[], Any]) -> None:
    limit = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


def polls_after(server: DifyServer, moment: float) -> list[float]:
    """Return the looks at the only run since a moment."""
    return [at for at in requests_to(server, "GET", server.runs[0].id) if at > moment]


def check_retry(task: Task, server: DifyServer, *, may_reattach: bool) -> None:
    """Let the retry go as far as its run's id."""
    runs = len(server.runs)
    with death("between id and wait"):
        task.retry()
    assert len(server.runs) == (runs if may_reattach else runs + 1)
    assert task.ti.xcoms["workflow_run_id"] == server.runs[-1].id


# --- The deadline


@faults
@modes
@stores
def test_the_deadline_is_the_error_whatever_the_stop_comes_to(
    server: DifyServer, fault: Fault, deferrable: bool, store: bool
) -> None:
    server.inject(fault)
    late = Task(store=store, deferrable=deferrable, inputs=INPUTS, timeout=0.5)
    with pytest.raises(DifyRunTimeoutError, match="had not ended at the deadline") as caught:
        late.run()
    ended = time.time()
    (stopped,) = stops(server)
    assert ended - stopped < BOUND
    assert polls_after(server, stopped) == []
    assert [run.status for run in server.runs] == ["running"]
    asked = fault is NO_EFFECT
    may_reattach = not (asked and store)
    if may_reattach:
        expected = (
            "or reattaches to this one where Dify still shows it as active"
            if asked
            else "a retry of the task reattaches to it"
        )
    else:
        expected = "A retry of the task starts a new run."
    assert expected in str(caught.value)
    check_retry(late, server, may_reattach=may_reattach)


@modes
@stores
def test_a_stop_that_works_lets_the_retry_start_anew(server: DifyServer, deferrable: bool, store: bool) -> None:
    late = Task(store=store, deferrable=deferrable, inputs=INPUTS, timeout=0.5)
    with pytest.raises(DifyRunTimeoutError, match="A retry of the task starts a new run"):
        late.run()
    until(lambda: server.runs[0].status != "running")
    check_retry(late, server, may_reattach=False)
    assert [run.status for run in server.runs] == ["stopped", "running"]


@modes
def test_without_cancel_on_timeout_the_retry_reattaches(server: DifyServer, deferrable: bool) -> None:
    late = Task(store=True, deferrable=deferrable, inputs=INPUTS, timeout=0.5, cancel_on_timeout=False)
    with pytest.raises(DifyRunTimeoutError, match="a retry of the task reattaches to it"):
        late.run()
    assert stops(server) == []
    check_retry(late, server, may_reattach=True)


# --- on_kill on the worker


def kill_on_worker(task: Task, ready: Callable[[], Any]) -> float:
    """Call ``on_kill`` while ``execute`` runs, let the process end after it, and return the seconds it took."""
    killed = threading.Event()
    sleep = time.sleep

    def sleep_until_killed(seconds: float) -> None:
        if killed.is_set():
            raise Killed
        sleep(seconds)

    def run() -> None:
        with suppress(Killed):
            task.run()

    thread = threading.Thread(target=run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("airflow_provider_dify.hooks.dify.time.sleep", sleep_until_killed)
        thread.start()
        until(ready)
        began = time.monotonic()
        task.operator.on_kill()
        took = time.monotonic() - began
        killed.set()
        thread.join(20)
        assert not thread.is_alive()
    return took


@faults
@stores
def test_on_kill_ends_in_time_whatever_the_stop_comes_to(server: DifyServer, fault: Fault, store: bool) -> None:
    server.inject(fault)
    killed = Task(store=store, deferrable=False, inputs=INPUTS)
    assert kill_on_worker(killed, lambda: "workflow_run_id" in killed.ti.xcoms) < BOUND
    assert len(stops(server)) == 1
    assert [run.status for run in server.runs] == ["running"]
    check_retry(killed, server, may_reattach=not (fault is NO_EFFECT and store))


def test_on_kill_stops_a_run_that_was_found_by_its_marker(server: DifyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, server, "steps")
    server.inject(Fault("submit", "lose_events", events=("*",)))
    killed = Task(store=True, deferrable=False, inputs=INPUTS)
    took = kill_on_worker(killed, lambda: "workflow_run_id" in killed.ti.xcoms)
    assert took < BOUND + STOP_TIMEOUT_SECONDS
    until(lambda: not server.active_runs())
    check_retry(killed, server, may_reattach=False)


def test_on_kill_of_a_task_that_never_learned_its_run_s_id_stops_it(
    server: DifyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look-ups of the task itself fail; that of ``on_kill`` does not."""
    connect(monkeypatch, server, "steps")
    server.inject(Fault("submit", "lose_events", events=("*",)))
    server.inject(Fault("logs", "status", status=503, times=None))
    killed = Task(store=True, deferrable=False, inputs=INPUTS)

    def searches() -> bool:
        if len(requests_to(server, "GET", "/workflows/logs")) < 2:
            return False
        server.clear_faults()
        return True

    kill_on_worker(killed, searches)
    until(lambda: not server.active_runs())
    assert len(server.runs) == 1


def test_on_kill_of_a_run_that_cannot_be_stopped_leaves_it_to_the_retry(server: DifyServer) -> None:
    """No event tells the task id of a run that is found by its marker and does nothing."""
    server.inject(Fault("submit", "lose_events", events=("*",)))
    killed = Task(store=True, deferrable=False, inputs=INPUTS)
    took = kill_on_worker(killed, lambda: "workflow_run_id" in killed.ti.xcoms)
    assert took < BOUND
    assert stops(server) == []
    check_retry(killed, server, may_reattach=True)


def test_on_kill_without_cancel_on_kill_asks_for_nothing(server: DifyServer) -> None:
    killed = Task(store=True, deferrable=False, inputs=INPUTS, cancel_on_kill=False)
    kill_on_worker(killed, lambda: "workflow_run_id" in killed.ti.xcoms)
    assert stops(server) == []
    check_retry(killed, server, may_reattach=True)


# --- The trigger


def deferred(task: Task) -> Any:
    """Let a task run until it defers, and return its trigger as a triggerer gets it."""
    triggers_seen: list[Any] = []

    async def fire(trigger: Any) -> Any:
        triggers_seen.append(trigger)
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Task, "fire", staticmethod(fire))
        with pytest.raises(Killed):
            task.run()
    (trigger,) = triggers_seen
    _, arguments = trigger.serialize()
    return type(trigger)(**arguments)


async def end_trigger(trigger: Any, ready: Callable[[], Any], *, by_person: bool) -> float:
    """Cancel a trigger as the triggerer of this Airflow does, and return the seconds it took."""

    async def ended_by_person(_: Any) -> bool:
        return by_person

    async def run() -> None:
        async for _ in trigger.run():
            raise AssertionError("the trigger fired")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "ended_by_person", ended_by_person)
        task = asyncio.create_task(run())
        while not ready():
            assert not task.done(), task
            await asyncio.sleep(0.01)
        began = time.monotonic()
        if CALLS_ON_KILL and by_person:
            await trigger.on_kill()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - began


def is_looked_at(server: DifyServer) -> Callable[[], Any]:
    return lambda: requests_to(server, "GET", server.runs[0].id)


@faults
@stores
def test_a_trigger_of_an_ended_task_ends_in_time_whatever_the_stop_does(
    server: DifyServer, fault: Fault, store: bool
) -> None:
    server.inject(fault)
    marked = Task(store=store, deferrable=True, inputs=INPUTS)
    trigger = deferred(marked)
    took = asyncio.run(end_trigger(trigger, is_looked_at(server), by_person=True))
    assert took < BOUND
    assert len(stops(server)) == 1
    assert [run.status for run in server.runs] == ["running"]


def test_a_trigger_whose_task_was_ended_stops_the_run(server: DifyServer) -> None:
    trigger = deferred(Task(store=True, deferrable=True, inputs=INPUTS))
    asyncio.run(end_trigger(trigger, is_looked_at(server), by_person=True))
    until(lambda: not server.active_runs())


def test_a_trigger_of_a_task_that_still_waits_stops_nothing(server: DifyServer) -> None:
    trigger = deferred(Task(store=True, deferrable=True, inputs=INPUTS))
    asyncio.run(end_trigger(trigger, is_looked_at(server), by_person=False))
    assert stops(server) == []
    assert [run.status for run in server.runs] == ["running"]


def is_looked_for(server: DifyServer) -> Callable[[], Any]:
    return lambda: len(requests_to(server, "GET", "/workflows/logs")) > 1


def test_a_search_whose_task_was_ended_stops_what_it_finds(server: DifyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, server, "steps")
    server.inject(Fault("submit", "lose_events", events=("*",)))
    server.inject(Fault("logs", "status", status=503, times=2))
    trigger = deferred(Task(store=True, deferrable=True, inputs=INPUTS))
    asyncio.run(end_trigger(trigger, is_looked_for(server), by_person=True))
    until(lambda: not server.active_runs())
    assert len(server.runs) == 1


@pytest.mark.parametrize("kind", ["hang", "reset_before"])
def test_a_search_of_an_ended_task_ends_although_dify_is_silent(
    server: DifyServer, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    connect(monkeypatch, server, "long", read_timeout=30)
    server.inject(Fault("submit", "accept_then_reset"))
    server.inject(Fault("logs", "status", status=503, times=2))
    server.inject(Fault("logs", kind, times=None))
    trigger = deferred(Task(store=True, deferrable=True, inputs=INPUTS, poll_interval=0.1, max_poll_interval=20.0))
    took = asyncio.run(end_trigger(trigger, is_looked_for(server), by_person=True))
    assert took < BOUND
    assert [run.status for run in server.runs] == ["running"]


@pytest.mark.parametrize("durable", [True, False])
@modes
def test_a_run_that_could_not_be_stopped_is_reattached_where_durable(
    server: DifyServer, deferrable: bool, durable: bool
) -> None:
    server.inject(REFUSED_500)
    late = Task(store=False, deferrable=deferrable, inputs=INPUTS, timeout=0.5, durable=durable)
    expected = "reattaches to it" if durable else "starts a second run beside it"
    with pytest.raises(DifyRunTimeoutError, match=expected):
        late.run()
    check_retry(late, server, may_reattach=durable)
