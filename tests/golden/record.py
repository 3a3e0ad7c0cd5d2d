"""Record what tasks leave in Airflow's database: ``python -m tests.golden.record [NAME …]``, in a clone of the release.

The files are what a released version has stored, and a later one must still read. They are recorded once for each
release and then left alone; recording them again to make a test pass hides what the test is for.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_dify.hooks.dify import DifyHook
from airflow_provider_dify.rules import deferring
from airflow_provider_dify.rules.identity import marker
from airflow_provider_dify.sensors.workflow import DifyWorkflowRunSensor
from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.server import DifyServer
from tests.faults.tries import Task, TaskInstance, connect, death
from tests.golden.stored_values import generalised, save

MARKED = {
    "plain": ("dag", "task", "manual__2026-01-01T00:00:00+00:00", -1, 2, 1),
    "retry": ("dag", "task", "manual__2026-01-01T00:00:00+00:00", -1, 2, 2),
    "cleared": ("dag", "task", "manual__2026-01-01T00:00:00+00:00", -1, 3, 2),
    "mapped": ("dag", "task", "manual__2026-01-01T00:00:00+00:00", 7, 2, 1),
    "task group": ("dag.of.a.team", "group.task", "scheduled__2026-01-01T00:00:00+00:00", -1, 0, 1),
    "slashes": ("dag", "a/b", "c/d", -1, 0, 1),
    "other scripts": ("dág", "задача", "手动", -1, 0, 1),
    "too long": ("d" * 200, "t" * 200, "r" * 200, 12, 5, 3),
}


class Recorded(Task):
    """A task whose deferrals, events and notes are kept."""

    def __init__(self, *, store: bool = True, **parameters: Any) -> None:
        super().__init__(store=store, **parameters)
        self.deferrals: list[dict[str, Any]] = []
        self.notes: list[Any] = []
        if self.store is None:
            return
        kept = self.store.set

        def set_and_keep(key: str, value: Any) -> None:
            kept(key, value)
            self.notes.append({"key": key, "value": json.loads(json.dumps(value))})

        self.store.set = set_and_keep  # type: ignore[method-assign]

    def _event_of(self, deferred: TaskDeferred) -> Any:
        found = deferral(deferred)
        self.deferrals.append(found)
        found["event"] = super()._event_of(deferred)
        return found["event"]


def deferral(deferred: Any) -> dict[str, Any]:
    path, arguments = deferred.trigger.serialize()
    kept: dict[str, Any] = json.loads(
        json.dumps(
            {
                "classpath": path,
                "arguments": arguments,
                "method": deferred.method_name,
                "kwargs": deferred.kwargs or {},
            }
        )
    )
    return kept


def names_of(server: DifyServer) -> dict[str, str]:
    names = {}
    for number, run in enumerate(server.runs):
        suffix = "" if number == 0 else f" {number + 1}"
        names[run.id] = f"run id{suffix}"
        names[run.task_id] = f"task id{suffix}"
    return names


def task_of(app: str, *faults: Fault, **parameters: Any) -> dict[str, Any]:
    """Play a task, and return all that it left."""
    with pytest.MonkeyPatch.context() as patch, DifyServer(time_scale=0.01, emulate="1.14.2") as server:
        connect(patch, server, app)
        for fault in faults:
            server.inject(fault)
        tries, store = parameters.pop("tries", ()), parameters.pop("store", True)
        task, now = Recorded(store=store, deferrable=True, **parameters), time.time()
        if tries:
            with death(tries[0]):
                task.run()
            play: Callable[[], Any] = task.retry
        else:
            play = task.run
        result: Any = None
        with suppress(Exception):
            result = play()
        xcoms = {"return_value": result, **task.ti.xcoms}
        left = {
            "app": app,
            "parameters": parameters,
            "deferrals": task.deferrals,
            "records": task.notes,
            "xcom": {key: value for key, value in xcoms.items() if value is not None},
        }
        found: dict[str, Any] = generalised(
            left, {**names_of(server), server.base_url.removesuffix("/v1"): "server"}, now
        )
        return found


def sensor() -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch, DifyServer(time_scale=0.01, emulate="1.14.2") as server:
        connect(patch, server, "slow")
        run_id = DifyHook().create_workflow_run({"seconds": 50}, user="somebody").workflow_run_id
        given = DifyWorkflowRunSensor(
            task_id="it", workflow_run_id=run_id, poke_interval=0.05, timeout=20, defer_after=0, deferrable=True
        )
        context: Any = {"ti": TaskInstance()}
        now = time.time()
        with pytest.raises(TaskDeferred) as caught:
            given.execute(context)
        found = deferral(caught.value)
        found["event"] = asyncio.run(Task.fire(caught.value.trigger))
        left = {"app": "slow", "parameters": {"inputs": {"seconds": 50}}, "deferrals": [found]}
        kept: dict[str, Any] = generalised(left, names_of(server), now)
        return kept


@contextmanager
def away(server: DifyServer) -> Any:
    server.down("502-html")
    yield
    server.up()


def no_server() -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch, DifyServer(time_scale=0.01, emulate="1.14.2") as server:
        connect(patch, server, "echo")
        task, now = Recorded(deferrable=True, inputs={"text": "x"}), time.time()
        context: Any = {"ti": task.ti, "task_state_store": task.store}
        with away(server), pytest.raises(TaskDeferred) as caught:
            task.operator.execute(context)
        found = deferral(caught.value)
        found["event"] = asyncio.run(Task.fire(caught.value.trigger))
        left = {"app": "echo", "parameters": {"inputs": {"text": "x"}}, "deferrals": [found]}
        kept: dict[str, Any] = generalised(left, names_of(server), now)
        return kept


LONG = {"inputs": {"seconds": 50}}
LOST = Fault("submit", "accept_then_reset")
TASKS: dict[str, Callable[[], dict[str, Any]]] = {
    "wait": lambda: task_of("slow", **LONG),
    "wait-after-polls": lambda: task_of("slow", inputs={"seconds": 250}, defer_after=1.0),
    "wait-with-events": lambda: task_of("slow", **LONG, follow_events=True),
    "wait-and-fail": lambda: task_of("failing", inputs={}, follow_events=True),
    "wait-past-deadline": lambda: task_of("slow", inputs={"seconds": 6000}, timeout=1.5),
    "wait-for-a-human": lambda: task_of("human_input", inputs={"text": "the plan"}, on_pause="fail"),
    "wait-with-a-wrong-key": lambda: task_of(
        "slow", Fault("get_run", "status", status=401, code="unauthorized", message="no", times=None), **LONG
    ),
    "find-and-wait": lambda: task_of("slow", LOST, **LONG),
    "find": lambda: task_of("slow", LOST, **LONG, wait_for_termination=False),
    "find-by-record": lambda: task_of("slow", **LONG, tries=("between POST and id",)),
    "find-earlier": lambda: task_of("slow", **LONG, tries=("between POST and id",), store=False),
    "find-nothing": lambda: task_of("slow", Fault("submit", "hang"), **LONG, timeout=2.0),
    "submit-later": lambda: task_of("echo", Fault("submit", "too_many_requests", status=429), inputs={"text": "x"}),
    "await-server": no_server,
    "sensor": sensor,
}


def main() -> None:
    deferring.MIN_DEFERRED_SECONDS = 0.0
    os.environ["NO_PROXY"] = "127.0.0.1"
    for name in sys.argv[1:] or TASKS:
        save(name, TASKS[name]())
    save("markers", [{"of": list(names), "marker": marker(*names)} for names in MARKED.values()])


if __name__ == "__main__":
    main()
