"""Today's code goes on from what an older version has left in Airflow's database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest

from airflow_provider_dify.exceptions import (
    DifyAuthenticationError,
    DifyError,
    DifyRunFailedError,
    DifyRunPausedError,
    DifyRunTimeoutError,
)
from airflow_provider_dify.hooks.dify import DifyHook
from airflow_provider_dify.rules.identity import marker
from airflow_provider_dify.sensors.workflow import DifyWorkflowRunSensor
from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.server import DifyServer
from tests.faults.tries import Task, TaskInstance, connect, stops, submissions
from tests.golden.stored_values import STORED, generalised, load, restored

OF_TASKS = sorted(path.stem for path in STORED.glob("*.json") if path.stem not in ("markers", "audit-log"))
# Where nothing was submitted before the task was deferred.
NOTHING_SUBMITTED = {"find-nothing", "submit-later", "await-server"}
FAULTS = {
    "wait-with-a-wrong-key": Fault("get_run", "status", status=401, code="unauthorized", message="no", times=None)
}
ERRORS: dict[str, tuple[type[DifyError], str]] = {
    "wait-and-fail": (DifyRunFailedError, r"Connection refused"),
    "wait-past-deadline": (DifyRunTimeoutError, r"running"),
    "wait-for-a-human": (DifyRunPausedError, r"asks a human: Please approve"),
    "wait-with-a-wrong-key": (DifyAuthenticationError, r"401|key"),
    "find-nothing": (DifyError, r"no run of this submission was listed"),
}
RECORD_KEY = "dify_submission"
WAIT_MARKER = "airflow/dag/task/manual__2026-01-01T00:00:00+00:00/2/1"


class Scene:
    """A server on which stands what stood there when a task was deferred."""

    def __init__(self, name: str, server: DifyServer, monkeypatch: pytest.MonkeyPatch, user: str | None = None) -> None:
        self.name, self.server, self.now = name, server, time.time()
        self.stored = load(name)
        self.deferral = self.stored["deferrals"][0]
        self.names = {"server": server.base_url.removesuffix("/v1")}
        connect(monkeypatch, server, self.stored["app"])
        if name not in NOTHING_SUBMITTED:
            inputs = self.stored["parameters"]["inputs"]
            started = DifyHook().create_workflow_run(inputs, user=user or self.marker)
            self.names |= {"run id": started.workflow_run_id, "task id": str(started.task_id)}
        if fault := FAULTS.get(name):
            server.inject(fault)

    @property
    def marker(self) -> str:
        return WAIT_MARKER

    def restored(self, value: Any) -> Any:
        return restored(value, self.names, self.now)

    def trigger(self) -> Any:
        module, _, name = self.deferral["classpath"].rpartition(".")
        return getattr(import_module(module), name)(**self.restored(self.deferral["arguments"]))

    def task(self) -> Task:
        """Return the task as it was when it was deferred."""
        task = Task(store=bool(self.stored.get("records")), deferrable=True, **self.stored["parameters"])
        records = [each for each in self.stored.get("records", ()) if not each["value"]["settled"]]
        # A submission that was refused is forgotten.
        if task.store is not None and self.name != "submit-later":
            task.store.values = {each["key"]: self.restored(each["value"]) for each in records}
        if self.name in ("find-by-record", "find-earlier"):
            task.ti.try_number = 2
        return task


@pytest.fixture
def server() -> Iterator[DifyServer]:
    with DifyServer(time_scale=0.01, emulate="1.14.2") as server:
        yield server


def fired(trigger: Any) -> Any:
    async def first() -> Any:
        async for event in trigger.run():
            return event.payload
        raise AssertionError("the trigger ended without an event")

    return asyncio.run(first())


def test_the_files_hold_every_kind_of_trigger() -> None:
    found = {load(name)["deferrals"][0]["classpath"].rpartition(".")[2] for name in OF_TASKS}
    assert found == {
        "DifyWorkflowRunTrigger",
        "DifyFindRunTrigger",
        "DifySubmitLaterTrigger",
        "DifyAwaitServerTrigger",
    }
    methods = {load(name)["deferrals"][0]["method"] for name in OF_TASKS}
    assert methods == {"execute_complete", "execute_found", "submit_again"}


@pytest.mark.parametrize("name", OF_TASKS)
def test_a_stored_trigger_runs_to_the_event_that_it_was_stored_for(
    name: str, server: DifyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(name, server, monkeypatch)
    event = fired(scene.trigger())
    found = generalised(event, {text: each for each, text in scene.names.items()}, scene.now)
    assert without_texts(found) == without_texts(scene.deferral["event"])


def without_texts(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event without the text of its error, which is for people, and which versions word differently."""
    if "error" not in event:
        return event
    return {**event, "error": {name: each for name, each in event["error"].items() if name not in ("message", "parts")}}


@pytest.mark.parametrize("name", OF_TASKS)
def test_a_stored_trigger_is_stored_again_with_what_it_had(
    name: str, server: DifyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A triggerer of the new version writes nothing back, but hands the same trigger to the next one."""
    scene = Scene(name, server, monkeypatch)
    path, arguments = scene.trigger().serialize()
    assert path == scene.deferral["classpath"]
    assert scene.restored(scene.deferral["arguments"]).items() <= arguments.items()


@pytest.mark.parametrize("resumed", ["with its arguments", "by dag.test(), which drops them"])
@pytest.mark.parametrize("name", OF_TASKS)
def test_a_resumed_task_takes_a_stored_event(
    name: str, resumed: str, server: DifyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(name, server, monkeypatch)
    kwargs = scene.restored(scene.deferral["kwargs"]) if resumed == "with its arguments" else {}
    event = scene.restored(scene.deferral["event"])
    if name == "sensor":
        context: Any = {"ti": TaskInstance()}
        sensor = DifyWorkflowRunSensor(task_id="it", workflow_run_id=scene.names["run id"], deferrable=True)
        assert sensor.execute_complete(context, event, **kwargs) == {"body": "slept 50 s"}
        return
    task = scene.task()
    submitted = len(submissions(server))
    task.resumption = scene.deferral["method"], {**kwargs, "event": event}
    if name in ERRORS:
        kind, text = ERRORS[name]
        with pytest.raises(Exception, match=f"(?i){text}") as caught:
            task._go_on()
        assert any(isinstance(each, kind) for each in (caught.value, caught.value.__cause__))
    else:
        assert task._go_on() == scene.restored(scene.stored.get("xcom", {}).get("return_value", {"text": "x"}))
    expected = submitted + (name in ("submit-later", "await-server"))
    assert len(submissions(server)) == expected, "a run that there is was started once more"


@pytest.mark.parametrize("name", ["wait", "find-and-wait", "find", "submit-later"])
def test_xcoms_have_the_keys_and_values_that_other_tasks_read(
    name: str, server: DifyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = load(name)
    connect(monkeypatch, server, stored["app"])
    if name.startswith("find"):
        server.inject(Fault("submit", "accept_then_reset"))
    task = Task(store=True, deferrable=True, **stored["parameters"])
    returned = task.run()
    (run,) = server.runs
    names = {run.id: "run id", run.task_id: "task id", server.base_url.removesuffix("/v1"): "server"}
    pushed = {key: value for key, value in task.ti.xcoms.items() if value is not None}
    assert generalised({"return_value": returned, **pushed}, names, time.time()) == stored["xcom"]


# --- Records of the submission


def record(name: str, scene: Scene, **wanted: Any) -> dict[str, Any]:
    """Return the record that a task of a file has left, under its key."""
    for each in load(name)["records"]:
        if all(each["value"].get(key) == value for key, value in wanted.items()):
            assert each["key"] == RECORD_KEY
            return {RECORD_KEY: scene.restored(each["value"])}
    raise AssertionError(f"{name} holds no record with {wanted}")


def retried(scene: Scene, records: dict[str, Any], *, deferrable: bool, **parameters: Any) -> Task:
    task = Task(store=True, deferrable=deferrable, **{**scene.stored["parameters"], **parameters})
    assert task.store is not None
    task.store.values = records
    return task


modes = pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "deferred"])


@modes
def test_a_retry_takes_the_run_of_a_stored_record(
    server: DifyServer, monkeypatch: pytest.MonkeyPatch, deferrable: bool
) -> None:
    # Of a user that no search would look for: only the record leads to it.
    scene = Scene("wait", server, monkeypatch, user="somebody")
    task = retried(scene, record("wait", scene, workflow_run_id="<run id>"), deferrable=deferrable)
    assert task.retry() == {"body": "slept 50 s"}
    assert task.ti.xcoms["workflow_run_id"] == scene.names["run id"]
    assert len(server.runs) == 1


@modes
def test_a_retry_searches_for_the_run_of_a_stored_intent(
    server: DifyServer, monkeypatch: pytest.MonkeyPatch, deferrable: bool
) -> None:
    scene = Scene("wait", server, monkeypatch)
    task = retried(scene, record("wait", scene, workflow_run_id=None), deferrable=deferrable)
    assert task.retry() == {"body": "slept 50 s"}
    assert len(server.runs) == 1


@modes
def test_a_retry_submits_nothing_while_a_stored_intent_may_have_a_run(
    server: DifyServer, monkeypatch: pytest.MonkeyPatch, deferrable: bool
) -> None:
    scene = Scene("find-nothing", server, monkeypatch)
    task = retried(scene, record("find-nothing", scene, workflow_run_id=None), deferrable=deferrable, timeout=1.0)
    with pytest.raises(Exception, match=r"no run of this submission was listed"):
        task.retry()
    assert submissions(server) == []


@modes
def test_a_clear_stops_a_recorded_run_unless_it_is_settled(
    server: DifyServer, monkeypatch: pytest.MonkeyPatch, deferrable: bool
) -> None:
    for settled in (False, True):
        scene = Scene("wait", server, monkeypatch, user="somebody")
        kept = record("wait", scene, workflow_run_id="<run id>", settled=settled)
        before = len(stops(server))
        retried(scene, kept, deferrable=deferrable).clear()
        assert len(stops(server)) - before == (not settled)
        assert scene.names["run id"] != server.runs[-1].id


def test_markers_are_what_they_were() -> None:
    for each in load("markers"):
        assert marker(*each["of"]) == each["marker"], "the runs of tasks that go on would not be found"
