"""What tasks and triggers send to Airflow's metrics, when, and that nothing there ever fails a task."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from importlib import import_module
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_dify.exceptions import DifyRunFailedError, DifyRunPartialSuccessError, DifyRunTimeoutError
from airflow_provider_dify.hooks.dify import DifyHook
from airflow_provider_dify.sensors.workflow import DifyWorkflowRunSensor
from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.server import DifyServer
from tests.faults.tries import Killed, Task, TaskInstance, connect, death, lookups, modes, requests_to, stores

INPUTS = {"text": "Hello there."}
OUTPUTS = {"summary": "Hello there.", "word_count": 2}


def registries() -> dict[str, Any]:
    """Return Airflow's registries by the process that uses them: two from 3.2 on, before that the same one."""
    try:
        found = {
            "task": import_module("airflow.sdk.observability.stats").Stats,
            "triggerer": import_module("airflow.observability.stats").Stats,
        }
    except ModuleNotFoundError:
        found = {"both": import_module("airflow.stats").Stats}
    return found


class Sent:
    """What Airflow was given to send."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, Any, dict[str, str]]] = []

    def counted(self, name: str) -> int:
        return sum(amount for _, called, amount, _ in self.calls if called == name)

    def of(self, name: str) -> list[tuple[Any, dict[str, str]]]:
        return [(amount, tags) for _, called, amount, tags in self.calls if called == name]

    def runs(self) -> dict[str, int]:
        names = Counter({name: self.counted(name) for _, name, _, _ in self.calls if name.startswith("dify.runs.")})
        return {name.removeprefix("dify.runs."): number for name, number in names.items()}

    def places(self, name: str) -> set[str]:
        return {place for place, called, _, _ in self.calls if called == name}


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """Switch Airflow's metrics on, and record what would be sent."""
    monkeypatch.setenv("AIRFLOW__METRICS__STATSD_ON", "True")
    return recorded(monkeypatch)


def recorded(monkeypatch: pytest.MonkeyPatch) -> Sent:
    sent = Sent()
    for place, stats in registries().items():

        def record(name: str, amount: Any = 1, *, tags: dict[str, str], place: str = place) -> None:
            sent.calls.append((place, name, amount, tags))

        monkeypatch.setattr(stats, "incr", record, raising=False)
        monkeypatch.setattr(stats, "timing", record, raising=False)
    return sent


@pytest.fixture
def server() -> Iterator[DifyServer]:
    with DifyServer(time_scale=0.01) as server:
        yield server


@modes
def test_a_run_that_succeeds(monkeypatch: pytest.MonkeyPatch, server: DifyServer, sent: Sent, deferrable: bool) -> None:
    connect(monkeypatch, server, "summarize")
    task = Task(store=True, deferrable=deferrable, inputs=INPUTS)
    assert task.run() == OUTPUTS
    assert sent.runs() == {"started": 1, "succeeded": 1}
    assert sent.of("dify.runs.started") == [(1, {"conn_id": "dify_default"})]
    ended = {"conn_id": "dify_default", "status": "succeeded"}
    assert sent.of("dify.runs.succeeded") == [(1, ended)]
    ((seconds, tags),) = sent.of("dify.run.duration")
    run = DifyHook().get_workflow_run(task.ti.xcoms["workflow_run_id"])
    assert run.elapsed_time is not None
    assert (seconds, tags) == (timedelta(seconds=run.elapsed_time), ended)
    assert sent.counted("dify.tokens") == run.total_tokens
    assert run.total_tokens
    assert sent.counted("dify.submission.unknown") == 0


@modes
def test_each_poll_is_counted_where_it_is_sent(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, sent: Sent, deferrable: bool
) -> None:
    connect(monkeypatch, server, "slow")
    Task(store=True, deferrable=deferrable, inputs={"seconds": 100}).run()
    polls = len(requests_to(server, "GET", server.runs[0].id)) + len(lookups(server))
    assert sent.counted("dify.poll.requests") == polls > 2
    if len(registries()) > 1:
        # A deferred task reads the end of its run once more, on a worker.
        assert sent.places("dify.poll.requests") == ({"task", "triggerer"} if deferrable else {"task"})


@modes
@pytest.mark.parametrize("app", ["failing", "partial"])
def test_a_run_that_fails_or_succeeds_in_part_is_counted_by_its_own_status(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, sent: Sent, deferrable: bool, app: str
) -> None:
    connect(monkeypatch, server, app)
    task = Task(store=True, deferrable=deferrable, fail_on_partial_success=True)
    with pytest.raises(DifyRunFailedError if app == "failing" else DifyRunPartialSuccessError):
        task.run()
    counter, status = ("failed", "failed") if app == "failing" else ("succeeded", "partial-succeeded")
    assert sent.runs() == {"started": 1, counter: 1}
    assert sent.of(f"dify.runs.{counter}")[0][1]["status"] == status


@modes
def test_a_run_that_goes_on_past_the_deadline_has_not_ended(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, sent: Sent, deferrable: bool
) -> None:
    connect(monkeypatch, server, "slow")
    with pytest.raises(DifyRunTimeoutError):
        Task(store=True, deferrable=deferrable, inputs={"seconds": 6000}, timeout=1.0).run()
    assert sent.runs() == {"started": 1}


@modes
@stores
def test_a_lost_answer_is_counted_as_unknown_and_its_run_when_it_is_found(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, sent: Sent, deferrable: bool, store: bool
) -> None:
    connect(monkeypatch, server, "slow")
    server.inject(Fault("submit", "accept_then_reset"))
    Task(store=store, deferrable=deferrable, inputs={"seconds": 50}).run()
    assert sent.counted("dify.submission.unknown") == 1
    assert sent.runs() == {"started": 1, "succeeded": 1}


@modes
@stores
def test_a_retry_that_reattaches_starts_nothing(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, sent: Sent, deferrable: bool, store: bool
) -> None:
    connect(monkeypatch, server, "slow")
    task = Task(store=store, deferrable=deferrable, inputs={"seconds": 50})
    with death("between id and wait"):
        task.run()
    assert sent.runs() == {"started": 1}
    task.retry()
    assert len(server.runs) == 1
    assert sent.runs() == {"started": 1, "succeeded": 1}


def test_a_refused_submission_starts_nothing(monkeypatch: pytest.MonkeyPatch, server: DifyServer, sent: Sent) -> None:
    connect(monkeypatch, server, "summarize")
    with pytest.raises(Exception, match="text"):
        Task(store=True, deferrable=False, inputs={}).run()
    assert sent.calls == []


@modes
def test_a_sensor_counts_the_end_of_a_run_that_it_has_not_started(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, sent: Sent, deferrable: bool
) -> None:
    connect(monkeypatch, server, "slow")
    run_id = Task(store=True, deferrable=False, inputs={"seconds": 50}, wait_for_termination=False).run()
    assert sent.runs() == {"started": 1}
    sensor = DifyWorkflowRunSensor(
        task_id="it", workflow_run_id=run_id, poke_interval=0.05, timeout=20, defer_after=0, deferrable=deferrable
    )
    context: Any = {"ti": TaskInstance()}
    try:
        sensor.execute(context)
    except TaskDeferred as deferred:
        sensor.execute_complete(context, asyncio.run(Task.fire(deferred.trigger)), **(deferred.kwargs or {}))
    assert sent.runs() == {"started": 1, "succeeded": 1}


@modes
def test_a_backend_that_fails_fails_no_task(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, deferrable: bool
) -> None:
    monkeypatch.setenv("AIRFLOW__METRICS__STATSD_ON", "True")
    asked = []

    def fail(*arguments: Any, **_: Any) -> None:
        asked.append(arguments[0])
        raise OSError("no such host")

    for stats in registries().values():
        monkeypatch.setattr(stats, "incr", fail, raising=False)
        monkeypatch.setattr(stats, "timing", fail, raising=False)
    connect(monkeypatch, server, "summarize")
    assert Task(store=True, deferrable=deferrable, inputs=INPUTS).run() == OUTPUTS
    assert {"dify.runs.started", "dify.runs.succeeded", "dify.run.duration", "dify.poll.requests"} <= set(asked)


@modes
def test_nothing_is_sent_where_metrics_are_off(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, deferrable: bool
) -> None:
    sent = recorded(monkeypatch)
    connect(monkeypatch, server, "summarize")
    assert Task(store=True, deferrable=deferrable, inputs=INPUTS).run() == OUTPUTS
    assert sent.calls == []


def test_tags_hold_no_more_than_a_backend_takes(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, sent: Sent
) -> None:
    connect(monkeypatch, server, "summarize")
    monkeypatch.setenv("AIRFLOW_CONN_DIFY,A", os.environ["AIRFLOW_CONN_DIFY_DEFAULT"])
    Task(store=True, deferrable=False, inputs=INPUTS, dify_conn_id="dify,a").run()
    assert {tags["conn_id"] for _, _, _, tags in sent.calls} == {"dify_a"}
    assert {name for _, _, _, tags in sent.calls for name in tags} <= {"conn_id", "status"}


def test_a_try_that_is_killed_before_it_knows_its_run_has_started_none(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, sent: Sent
) -> None:
    connect(monkeypatch, server, "slow")
    server.inject(Fault("submit", "stall", seconds=3))
    task = Task(store=True, deferrable=False, inputs={"seconds": 50}, submit_timeout=0.3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DifyHook, "follow", lambda *_, **__: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            task.run()
    assert sent.runs() == {}
    task.retry()
    assert sent.runs() == {"succeeded": 1}
