"""The sensor in its three modes: how it polls, ends, times out, skips, and what it hands to the triggerer and back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException, TaskDeferred

from airflow_provider_dify.exceptions import (
    DifyError,
    DifyInvalidInputError,
    DifyNotFoundError,
    DifyRunFailedError,
    DifyRunPartialSuccessError,
    DifyRunPausedError,
    DifyRunStoppedError,
    DifySensorTimeoutError,
    DifyTriggerEventError,
)
from airflow_provider_dify.hooks.dify import DifyHook
from airflow_provider_dify.sensors.workflow import DifyWorkflowRunSensor
from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.server import DifyServer
from airflow_provider_dify.testing.workflows import builtin_workflows
from tests.faults.tries import Task, TaskInstance, connect, requests_to

MISSING = "6b454183-889f-4bc9-8060-764be1cb16ea"
waiting = pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "deferred"])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[DifyServer]:
    with DifyServer(builtin_workflows(), time_scale=0.01) as server:
        connect(monkeypatch, server, "slow")
        yield server


def started(monkeypatch: pytest.MonkeyPatch, server: DifyServer, app: str = "slow", **inputs: Any) -> str:
    connect(monkeypatch, server, app)
    return DifyHook().create_workflow_run(inputs, user="somebody").workflow_run_id


def sensor(run_id: str, **parameters: Any) -> DifyWorkflowRunSensor:
    known: dict[str, Any] = {"task_id": "it", "poke_interval": 0.05, "timeout": 5, "defer_after": 0, **parameters}
    return DifyWorkflowRunSensor(workflow_run_id=run_id, **known)


def play(given: DifyWorkflowRunSensor, *, kwargs: bool = True) -> Any:
    """Run a sensor to its end, in worker and triggerer; without the arguments of ``defer()`` if that is asked for."""
    context: Any = {"ti": TaskInstance()}
    try:
        return given.execute(context)
    except TaskDeferred as deferred:
        event = asyncio.run(Task.fire(deferred.trigger))
        kept = (deferred.kwargs or {}) if kwargs else {}
        return getattr(given, str(deferred.method_name))(context, event=event, **kept)


@waiting
def test_it_returns_the_outputs(monkeypatch: pytest.MonkeyPatch, server: DifyServer, deferrable: bool) -> None:
    run_id = started(monkeypatch, server, seconds=20)
    assert play(sensor(run_id, deferrable=deferrable)) == {"body": "slept 20 s"}


def test_the_event_alone_resumes_it(monkeypatch: pytest.MonkeyPatch, server: DifyServer) -> None:
    run_id = started(monkeypatch, server, seconds=20)
    assert play(sensor(run_id, deferrable=True), kwargs=False) == {"body": "slept 20 s"}
    run_id = started(monkeypatch, server, seconds=900)
    limits: dict[str, Any] = {"timeout": 60, "execution_timeout": timedelta(seconds=1)}
    with pytest.raises(DifySensorTimeoutError, match="execution_timeout"):
        play(sensor(run_id, deferrable=True, **limits), kwargs=False)


def test_a_short_run_ends_on_the_worker(monkeypatch: pytest.MonkeyPatch, server: DifyServer) -> None:
    run_id = started(monkeypatch, server, seconds=30)
    context: Any = {"ti": TaskInstance()}
    assert sensor(run_id, deferrable=True, defer_after=3).execute(context) == {"body": "slept 30 s"}


def test_a_longer_run_is_waited_for_in_the_triggerer_from_there_on(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer
) -> None:
    run_id = started(monkeypatch, server, seconds=300)
    given = sensor(run_id, deferrable=True, defer_after=0.7, poke_interval=0.1, timeout=30)
    with pytest.raises(TaskDeferred) as deferred:
        given.execute({"ti": TaskInstance()})  # type: ignore[arg-type]
    arguments = deferred.value.trigger.serialize()[1]
    assert arguments["polls"] >= 2
    assert arguments["first_wait"] is None
    assert arguments["not_before"] is not None
    assert arguments["resume"]["workflow_run_id"] == run_id


@pytest.mark.parametrize("age", [0, 2.5])
def test_a_mapped_sensor_leaves_at_once_where_another_run_took_longer(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, age: float
) -> None:
    started(monkeypatch, server, seconds=9000)
    time.sleep(age)
    run_id = started(monkeypatch, server, seconds=9000)
    given = sensor(run_id, deferrable=True, defer_after=1.5, poke_interval=0.2, timeout=30)
    with pytest.raises(TaskDeferred) as deferred:
        given.execute({"ti": TaskInstance(map_index=4)})  # type: ignore[arg-type]
    polls = deferred.value.trigger.serialize()[1]["polls"]
    assert polls == 1 if age else polls >= 3


ENDINGS: dict[str, tuple[str, dict[str, Any], dict[str, Any], type[DifyError]]] = {
    "failed": ("failing", {}, {}, DifyRunFailedError),
    "partial": ("partial", {}, {"fail_on_partial_success": True}, DifyRunPartialSuccessError),
    "paused": ("human_input", {"text": "x"}, {"on_pause": "fail"}, DifyRunPausedError),
}


@waiting
@pytest.mark.parametrize(("app", "inputs", "parameters", "error"), ENDINGS.values(), ids=ENDINGS)
@pytest.mark.parametrize("skip", [None, "soft_fail", "never_fail"])
def test_it_ends_as_asked(
    monkeypatch: pytest.MonkeyPatch,
    server: DifyServer,
    deferrable: bool,
    app: str,
    inputs: dict[str, Any],
    parameters: dict[str, Any],
    error: type[DifyError],
    skip: str | None,
) -> None:
    run_id = started(monkeypatch, server, app, **inputs)
    given = sensor(run_id, deferrable=deferrable, **parameters, **({skip: True} if skip else {}))
    with pytest.raises(AirflowSkipException if skip else error, match=run_id):
        play(given)


@waiting
def test_it_never_stops_a_run_and_fails_for_one_that_was_stopped(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, deferrable: bool
) -> None:
    run_id = started(monkeypatch, server, seconds=900)
    with pytest.raises(DifySensorTimeoutError, match="which follows from timeout"):
        play(sensor(run_id, deferrable=deferrable, timeout=0.5))
    assert requests_to(server, "POST", "/stop") == []
    DifyHook().stop_workflow_run(server.runs[-1].task_id)
    with pytest.raises(DifyRunStoppedError):
        play(sensor(run_id, deferrable=deferrable))


@waiting
def test_a_run_may_appear_late(monkeypatch: pytest.MonkeyPatch, server: DifyServer, deferrable: bool) -> None:
    run_id = started(monkeypatch, server, seconds=20)
    server.inject(Fault("get_run", "status", status=404, code="not_found", message="Workflow run not found.", times=3))
    assert play(sensor(run_id, deferrable=deferrable)) == {"body": "slept 20 s"}


@waiting
def test_a_run_that_never_appears_is_an_error_after_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, deferrable: bool
) -> None:
    monkeypatch.setattr("airflow_provider_dify.rules.polling.UNKNOWN_GRACE_SECONDS", 0.5)
    with pytest.raises(DifyNotFoundError):
        play(sensor(MISSING, deferrable=deferrable))


@pytest.mark.parametrize("run_id", ["", "no uuid", None, {"text": "outputs"}])
def test_what_is_no_run_s_id_is_refused(server: DifyServer, run_id: Any) -> None:
    with pytest.raises(DifyInvalidInputError, match="workflow_run_id"):
        play(sensor(run_id))


def test_a_foreign_event_is_refused(server: DifyServer) -> None:
    context: Any = {"ti": TaskInstance()}
    with pytest.raises(DifyTriggerEventError):
        sensor(MISSING, deferrable=True).execute_complete(context, {"status": "what"})
    event = {"status": "ended", "workflow_run_id": "another"}
    with pytest.raises(DifyTriggerEventError):
        sensor(MISSING, deferrable=True).execute_complete(context, event, workflow_run_id=MISSING)


# --- Poking: what Airflow asks a sensor with mode="reschedule"


def test_a_poke_is_one_poll(monkeypatch: pytest.MonkeyPatch, server: DifyServer) -> None:
    run_id = started(monkeypatch, server, seconds=60)
    given = sensor(run_id, mode="reschedule")
    context: Any = {"ti": TaskInstance(), "task_reschedule_count": 1}
    assert not given.poke(context).is_done
    polls = len(requests_to(server, "GET", run_id))
    assert polls == 1
    end = time.monotonic() + 10
    while server.active_runs():
        assert time.monotonic() < end
        time.sleep(0.01)
    done = given.poke(context)
    assert (done.is_done, done.xcom_value) == (True, {"body": "slept 60 s"})


def test_the_distances_of_a_rescheduled_sensor_grow_as_in_the_other_modes() -> None:
    def distances(given: DifyWorkflowRunSensor) -> list[float]:
        now = datetime.now(timezone.utc)
        return [given._get_next_poke_interval(now, lambda spent=spent: spent, 1) for spent in (0.0, 1.5, 4.0, 60.0)]

    assert distances(sensor(MISSING, poke_interval=1, timeout=300)) == pytest.approx([1, 2, 4, 5])
    assert distances(sensor(MISSING, poke_interval=1, timeout=300, max_wait=3)) == pytest.approx([1, 2, 3, 3])
    steady = sensor(MISSING, poke_interval=2, timeout=300, exponential_backoff=False)
    assert distances(steady) == pytest.approx([2, 2, 2, 2])
    # The last one ends at the deadline.
    assert distances(sensor(MISSING, poke_interval=1, timeout=61))[-1] == pytest.approx(1)


def test_intervals_that_contradict_each_other_are_refused_by_name() -> None:
    with pytest.raises(DifyInvalidInputError, match="max_wait"):
        sensor(MISSING, poke_interval=10, max_wait=5, timeout=300)
    with pytest.raises(DifyInvalidInputError, match="defer_after"):
        sensor(MISSING, defer_after=-1)
    assert sensor(MISSING, poke_interval=10, timeout=300).schedule.longest == 10
