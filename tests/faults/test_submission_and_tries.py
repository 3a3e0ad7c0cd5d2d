"""Exactly once, at the level of one task: lost answers, kills, retries and clears, counted in the server's books."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from airflow_provider_dify.exceptions import (
    DifyError,
    DifyInvalidInputError,
    DifyRateLimitError,
    DifyRunFailedError,
    DifyRunTimeoutError,
    DifySubmissionUnknownError,
)
from airflow_provider_dify.hooks.dify import DifyHook
from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.server import DifyServer
from airflow_provider_dify.testing.workflows import Input, Step, Workflow
from tests.faults.tries import Task, connect

ECHO = Workflow("echo", inputs=[Input("text")], duration=0.3)
FAILING = Workflow("failing", inputs=[Input("text")], duration=0.1, failure="boom")
LONG = Workflow("long", inputs=[Input("text")], duration=30.0)
INPUTS = {"text": "hello"}

modes = pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "deferred"])
stores = pytest.mark.parametrize("store", [True, False], ids=["state store", "markers only"])


class Killed(BaseException):
    """The process is gone: nothing of ours runs any more."""


@pytest.fixture
def server() -> Iterator[DifyServer]:
    with DifyServer([ECHO, FAILING, LONG], emulate="1.14.2") as server:
        yield server


@pytest.fixture
def task(server: DifyServer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Task]:
    def make(app: str = "echo", *, store: bool = True, deferrable: bool = False, **parameters: Any) -> Task:
        connect(monkeypatch, server, app)
        return Task(store=store, deferrable=deferrable, **{"inputs": INPUTS, **parameters})

    return make


def runs(server: DifyServer) -> int:
    return len(server.runs)


def until_stopped(server: DifyServer, index: int) -> None:
    """A stop takes Dify up to a second."""
    limit = time.monotonic() + 10
    while server.runs[index].status == "running" and time.monotonic() < limit:
        time.sleep(0.02)
    assert server.runs[index].status in ("stopped", "failed")


LOST_ANSWERS = [
    Fault("submit", "accept_then_reset"),
    Fault("submit", "accept_then_status", status=502),
    Fault("submit", "accept_then_status", status=503),
    Fault("submit", "accept_then_status", status=504),
    Fault("submit", "stall", seconds=5),
    Fault("submit", "cut", after_events=0),
    Fault("submit", "cut", after_bytes=40),
    Fault("submit", "cut", after_events=0, clean=True),
    Fault("submit", "lose_events", events=("*",)),
    Fault("submit", "queue_delay", seconds=1.5),
]


@modes
@pytest.mark.parametrize("fault", LOST_ANSWERS, ids=lambda fault: f"{fault.kind}-{fault.status or ''}")
def test_a_lost_answer_starts_one_run_and_returns_its_outputs(
    server: DifyServer, task: Callable[..., Task], fault: Fault, deferrable: bool
) -> None:
    server.inject(fault)
    submitted = task(deferrable=deferrable)
    assert submitted.run() == INPUTS
    assert runs(server) == 1
    assert submitted.ti.xcoms["workflow_run_id"] == server.runs[0].id
    assert submitted.store is not None
    assert submitted.store.is_settled


@modes
@pytest.mark.parametrize("lost", [("workflow_started",), ("workflow_started", "node_started", "node_finished")])
def test_the_run_is_learned_from_whatever_event_comes(
    server: DifyServer, task: Callable[..., Task], lost: tuple[str, ...], deferrable: bool
) -> None:
    server.inject(Fault("submit", "lose_events", events=lost))
    assert task(deferrable=deferrable).run() == INPUTS
    assert runs(server) == 1


@modes
@pytest.mark.parametrize("status", [502, 504])
def test_a_blocking_call_that_dies_at_a_gateway_is_found_again(
    server: DifyServer, task: Callable[..., Task], status: int, deferrable: bool
) -> None:
    server.inject(Fault("submit", "accept_then_status", status=status))
    assert task(deferrable=deferrable, response_mode="blocking").run() == INPUTS
    assert runs(server) == 1


@modes
def test_a_rate_limited_submission_waits_its_turn(
    server: DifyServer, task: Callable[..., Task], deferrable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_dify.rules.recovery.rate_limit_wait", lambda *_: 0.1)
    server.inject(Fault("submit", "too_many_requests", times=2))
    server.inject(Fault("submit", "too_many_requests", status=429))
    assert task(deferrable=deferrable).run() == INPUTS
    assert runs(server) == 1


@modes
def test_a_rate_limit_can_fail_the_task(server: DifyServer, task: Callable[..., Task], deferrable: bool) -> None:
    server.inject(Fault("submit", "too_many_requests"))
    limited = task(deferrable=deferrable, on_rate_limit="fail")
    with pytest.raises(DifyRateLimitError):
        limited.run()
    assert runs(server) == 0
    assert limited.store is not None
    assert limited.store.is_settled


@modes
@stores
def test_a_run_queued_past_the_deadline_is_named_and_adopted_by_the_retry(
    server: DifyServer, task: Callable[..., Task], deferrable: bool, store: bool
) -> None:
    server.inject(Fault("submit", "queue_delay", seconds=4))
    queued = task(deferrable=deferrable, store=store, timeout=1.5)
    with pytest.raises(DifySubmissionUnknownError, match="may still be queued"):
        queued.run()
    queued.parameters["timeout"] = 20
    assert queued.retry() == INPUTS
    assert runs(server) == 1


@modes
@stores
def test_a_worker_killed_before_the_post_has_started_nothing(
    server: DifyServer,
    task: Callable[..., Task],
    deferrable: bool,
    store: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("airflow_provider_dify.rules.earlier_tries.QUEUE_PATIENCE_SECONDS", 1.0)
    killed = task(deferrable=deferrable, store=store)
    with monkeypatch.context() as patch:
        patch.setattr("airflow_provider_dify.runtime.task_run.Execution._go", die)
        with pytest.raises(Killed):
            killed.run()
    assert killed.retry() == INPUTS
    assert runs(server) == 1


@modes
@stores
@pytest.mark.parametrize("where", ["requests.Session.request", "urllib3.connection.HTTPConnection.connect"])
def test_a_worker_killed_before_the_submission_leaves_has_started_nothing(
    server: DifyServer,
    task: Callable[..., Task],
    deferrable: bool,
    store: bool,
    where: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However close to the POST it was: the retry submits, and does not look for what cannot be."""
    monkeypatch.setattr("airflow_provider_dify.rules.earlier_tries.QUEUE_PATIENCE_SECONDS", 1.0)
    killed = task(deferrable=deferrable, store=store)
    with monkeypatch.context() as patch:
        patch.setattr(where, die)
        with pytest.raises(Killed):
            killed.run()
    assert killed.store is None or killed.store.values == {}
    assert killed.retry() == INPUTS
    assert runs(server) == 1


@modes
def test_killed_as_the_submission_leaves_is_never_a_second_run(
    server: DifyServer, task: Callable[..., Task], deferrable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The note says that there may be a run: the retry looks for it to its deadline, and starts none."""
    killed = task(deferrable=deferrable, timeout=1)
    assert killed.store is not None
    write = killed.store.set

    def write_and_die(key: str, value: Any) -> None:
        write(key, value)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(killed.store, "set", write_and_die)
        with pytest.raises(Killed):
            killed.run()
    with pytest.raises(DifySubmissionUnknownError, match="A retry of the task searches for it"):
        killed.retry()
    assert runs(server) == 0
    assert killed.clear() == INPUTS
    assert runs(server) == 1


@modes
def test_nothing_is_submitted_that_could_not_be_written_down(
    server: DifyServer, task: Callable[..., Task], deferrable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    unable = task(deferrable=deferrable)
    with monkeypatch.context() as patch:
        patch.setattr(unable.store, "set", fail)
        with pytest.raises(DifyError, match=r"No space left.*nothing was submitted"):
            unable.run()
    assert runs(server) == 0
    assert unable.retry() == INPUTS
    assert runs(server) == 1


@modes
@stores
def test_a_worker_killed_between_post_and_run_id_has_its_run_adopted(
    server: DifyServer,
    task: Callable[..., Task],
    deferrable: bool,
    store: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killed = task(deferrable=deferrable, store=store)
    with monkeypatch.context() as patch:
        patch.setattr("airflow_provider_dify.runtime.task_run.Execution._announce", die)
        with pytest.raises(Killed):
            killed.run()
    assert killed.retry() == INPUTS
    assert runs(server) == 1


@modes
@stores
def test_a_worker_killed_after_the_run_id_has_its_run_adopted(
    server: DifyServer,
    task: Callable[..., Task],
    deferrable: bool,
    store: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killed = task(deferrable=deferrable, store=store)
    with monkeypatch.context() as patch:
        patch.setattr("airflow_provider_dify.runtime.task_run.Execution._await", die)
        with pytest.raises(Killed):
            killed.run()
    assert killed.retry() == INPUTS
    assert runs(server) == 1


@stores
def test_a_worker_killed_during_a_synchronous_wait_has_its_run_adopted(
    server: DifyServer, task: Callable[..., Task], store: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = task(store=store)
    with monkeypatch.context() as patch:
        patch.setattr(DifyHook, "poll", die)
        with pytest.raises(Killed):
            killed.run()
    assert killed.retry() == INPUTS
    assert runs(server) == 1


@modes
@stores
def test_a_retry_after_a_failed_run_starts_a_new_one(
    server: DifyServer, task: Callable[..., Task], deferrable: bool, store: bool
) -> None:
    failing = task("failing", deferrable=deferrable, store=store)
    for attempt in (failing.run, failing.retry, failing.retry):
        with pytest.raises(DifyRunFailedError, match="boom"):
            attempt()
    assert runs(server) == 3


@modes
@stores
def test_a_clear_starts_anew(server: DifyServer, task: Callable[..., Task], deferrable: bool, store: bool) -> None:
    cleared = task(deferrable=deferrable, store=store)
    assert cleared.run() == INPUTS
    assert cleared.clear() == INPUTS
    assert runs(server) == 2


def test_a_clear_stops_what_the_former_generation_has_left_running(
    server: DifyServer, task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    left = task("long", store=True)
    with monkeypatch.context() as patch:
        patch.setattr("airflow_provider_dify.runtime.task_run.Execution._await", die)
        with pytest.raises(Killed):
            left.run()
        with pytest.raises(Killed):
            left.clear()
    assert runs(server) == 2
    until_stopped(server, 0)


@modes
def test_without_durable_a_retry_starts_a_second_run(
    server: DifyServer, task: Callable[..., Task], deferrable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = task(deferrable=deferrable, durable=False)
    with monkeypatch.context() as patch:
        patch.setattr("airflow_provider_dify.runtime.task_run.Execution._await", die)
        with pytest.raises(Killed):
            killed.run()
    assert killed.retry() == INPUTS
    assert runs(server) == 2


@modes
def test_explicit_user_an_unknown_submission_is_not_repeated(
    server: DifyServer, task: Callable[..., Task], deferrable: bool
) -> None:
    server.inject(Fault("submit", "accept_then_reset"))
    with pytest.raises(DifySubmissionUnknownError, match="'alice'"):
        task(deferrable=deferrable, user="alice").run()
    assert runs(server) == 1


@modes
def test_the_deadline_stops_the_run(server: DifyServer, task: Callable[..., Task], deferrable: bool) -> None:
    late = task("long", deferrable=deferrable, timeout=1)
    with pytest.raises(DifyRunTimeoutError):
        late.run()
    until_stopped(server, 0)
    assert late.store is not None
    assert late.store.values == {}


@modes
def test_a_run_found_by_its_marker_is_stopped_by_its_events_task_id(
    task: Callable[..., Task], deferrable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Workflow("steps", inputs=[Input("text")], steps=[Step(f"step {n}", seconds=0.5) for n in range(40)])
    with DifyServer([steps]) as server:
        connect(monkeypatch, server, "steps")
        server.inject(Fault("submit", "lose_events", events=("*",)))
        late = Task(store=True, deferrable=deferrable, inputs=INPUTS, timeout=2)
        with pytest.raises(DifyRunTimeoutError):
            late.run()
        until_stopped(server, 0)


@modes
def test_a_run_whose_stop_is_impossible_is_reattached_by_the_retry(
    server: DifyServer, task: Callable[..., Task], deferrable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.inject(Fault("submit", "lose_events", events=("*",)))
    late = task(deferrable=deferrable, timeout=0.6)
    monkeypatch.setattr(DifyHook, "find_task_id", lambda *_: None)
    server.inject(Fault("get_run", "stale_row", seconds=2.0))
    with pytest.raises(DifyRunTimeoutError, match="reattaches to it"):
        late.run()
    late.parameters["timeout"] = 20
    assert late.retry() == INPUTS
    assert runs(server) == 1


@modes
def test_a_refused_submission_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, task: Callable[..., Task], deferrable: bool
) -> None:
    refused = task(deferrable=deferrable, inputs={}, validate_inputs=False)
    # 1.14.2 does not say that it refuses.
    with DifyServer([ECHO], emulate="1.16.1") as server:
        connect(monkeypatch, server, "echo")
        with pytest.raises(DifyInvalidInputError, match="text is required"):
            refused.run()
        assert runs(server) == 0
    assert refused.store is not None
    assert refused.store.values == {}


def die(*args: Any, **kwargs: Any) -> None:
    raise Killed


def fail(*args: Any, **kwargs: Any) -> None:
    raise OSError("No space left on device")
