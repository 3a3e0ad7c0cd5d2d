"""The earlier of two deadlines, mapped tasks with equal inputs, and what a retry or a clear begins."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from threading import Timer
from typing import Any

import pytest
import requests

from airflow_provider_dify.exceptions import DifyError, DifyRunStoppedError, DifyRunTimeoutError
from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.server import DifyServer
from airflow_provider_dify.testing.workflows import Input, Workflow
from tests.faults.tries import DEATHS, Task, connect, death, modes, stops, stores

INPUTS = {"text": "hello"}
ECHO = Workflow("echo", inputs=[Input("text")], duration=0.2)
LONG = Workflow("long", inputs=[Input("text")], duration=60.0)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[DifyServer]:
    monkeypatch.setattr("airflow_provider_dify.rules.earlier_tries.QUEUE_PATIENCE_SECONDS", 0.5)
    with DifyServer([ECHO, LONG]) as server:
        connect(monkeypatch, server, "echo")
        yield server


def until_ended(server: DifyServer) -> None:
    limit = time.monotonic() + 10
    while server.active_runs():
        assert time.monotonic() < limit
        time.sleep(0.02)


DEADLINES: dict[str, tuple[float, float | None]] = {
    "timeout alone": (1.0, None),
    "timeout before execution_timeout": (1.0, 30.0),
    "execution_timeout before timeout": (30.0, 1.0),
}


@pytest.mark.parametrize("limits", DEADLINES.values(), ids=DEADLINES)
@modes
def test_the_earlier_of_timeout_and_execution_timeout_stops_the_run(
    server: DifyServer, monkeypatch: pytest.MonkeyPatch, limits: tuple[float, float | None], deferrable: bool
) -> None:
    """``execution_timeout`` strikes a little early, so that the run is stopped before Airflow ends the process."""
    connect(monkeypatch, server, "long")
    timeout, execution_timeout = limits
    parameters: dict[str, Any] = {"timeout": timeout}
    if execution_timeout is not None:
        parameters["execution_timeout"] = timedelta(seconds=execution_timeout)
    began = time.time()
    late = Task(store=True, deferrable=deferrable, inputs=INPUTS, **parameters)
    with pytest.raises(DifyRunTimeoutError, match="had not ended at the deadline") as caught:
        late.run()
    (stopped,) = stops(server)
    assert stopped - began >= (0.9 if timeout > 1 else 1.0)
    assert stopped - began < 20
    assert caught.value.workflow_run_id == server.runs[0].id
    until_ended(server)
    assert [run.status for run in server.runs] == ["stopped"]
    assert late.store is not None
    assert late.store.values == {}


@modes
def test_what_a_task_waits_for_its_turn_counts_towards_its_timeout(
    server: DifyServer, monkeypatch: pytest.MonkeyPatch, deferrable: bool
) -> None:
    connect(monkeypatch, server, "long")
    server.inject(Fault("submit", "too_many_requests", headers={"Retry-After": "2"}, status=429))
    late = Task(store=True, deferrable=deferrable, inputs=INPUTS, timeout=3)
    began = time.time()
    with pytest.raises(DifyRunTimeoutError):
        late.run()
    (stopped,) = stops(server)
    assert 3.0 <= stopped - began < 4.9
    assert len(server.runs) == 1


@pytest.mark.parametrize("moment", DEATHS)
@modes
@stores
def test_mapped_tasks_with_equal_inputs_never_share_a_run(
    server: DifyServer, moment: str, deferrable: bool, store: bool
) -> None:
    """Not even the retry of one whose worker was killed takes the run of another."""
    mapped = [Task(store=store, deferrable=deferrable, inputs=INPUTS) for _ in range(3)]
    for index, task in enumerate(mapped):
        task.ti.map_index = index
    assert mapped[0].run() == INPUTS
    with death(moment):
        mapped[1].run()
    assert mapped[2].run() == INPUTS
    assert mapped[1].retry() == INPUTS
    ids = [task.ti.xcoms["workflow_run_id"] for task in mapped]
    assert len(set(ids)) == 3
    assert {run.id for run in server.runs} == set(ids)
    assert len({run.user for run in server.runs}) == 3


@modes
@stores
def test_a_retry_after_a_stopped_run_starts_a_new_one(
    server: DifyServer, monkeypatch: pytest.MonkeyPatch, deferrable: bool, store: bool
) -> None:
    """A person has stopped the run in Dify while its worker was dead."""
    connect(monkeypatch, server, "long")
    stopped = Task(store=store, deferrable=deferrable, inputs=INPUTS)
    with death("between id and wait"):
        stopped.run()
    stop_in_dify(server)
    with death("between id and wait"):
        stopped.retry()
    assert [run.status for run in server.runs] == ["stopped", "running"]


@modes
@stores
def test_a_run_stopped_in_dify_fails_and_the_retry_starts_a_new_one(
    server: DifyServer, monkeypatch: pytest.MonkeyPatch, deferrable: bool, store: bool
) -> None:
    connect(monkeypatch, server, "long")
    stopped = Task(store=store, deferrable=deferrable, inputs=INPUTS)
    with death("between id and wait"):
        stopped.run()
    timer = Timer(0.7, stop_in_dify, [server])
    timer.start()
    with pytest.raises(DifyRunStoppedError, match="A retry of the task starts a new run"):
        stopped.retry()
    timer.join()
    with death("between id and wait"):
        stopped.retry()
    assert [run.status for run in server.runs] == ["stopped", "running"]


def stop_in_dify(server: DifyServer) -> None:
    run = server.runs[0]
    headers = {"Authorization": f"Bearer {server.api_key(run.app)}"}
    url = f"{server.api_url}/workflows/tasks/{run.task_id}/stop"
    requests.post(url, json={"user": run.user}, headers=headers, timeout=10).raise_for_status()
    until_ended(server)


@modes
@stores
def test_the_retry_after_a_clear_stays_in_the_new_generation(server: DifyServer, deferrable: bool, store: bool) -> None:
    cleared = Task(store=store, deferrable=deferrable, inputs=INPUTS)
    assert cleared.run() == INPUTS
    with death("between id and wait"):
        cleared.clear()
    assert cleared.retry() == INPUTS
    assert [run.status for run in server.runs] == ["succeeded", "succeeded"]
    assert cleared.ti.xcoms["workflow_run_id"] == server.runs[1].id


@modes
@stores
def test_a_retry_that_cannot_search_for_an_earlier_run_starts_none(
    server: DifyServer, deferrable: bool, store: bool
) -> None:
    """Failed look-ups and looks are no news: that there is no run must be known before a second one is started."""
    killed = Task(store=store, deferrable=deferrable, inputs=INPUTS)
    with death("between POST and id"):
        killed.run()
    server.inject(Fault("logs", "status", status=503, times=None))
    killed.parameters["timeout"] = 1
    with pytest.raises(DifyError):
        killed.retry()
    assert len(server.runs) == 1
    server.clear_faults()
    killed.parameters["timeout"] = 20
    assert killed.retry() == INPUTS
    assert [run.status for run in server.runs] == ["succeeded"]
