"""A task instance and its tries, played by hand: what Airflow gives an operator, and nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_dify.operators.workflow import DifyRunWorkflowOperator
from airflow_provider_dify.testing.server import DifyServer
from tests.integration.airflow_dags import is_airflow_2

modes = pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "deferred"])
stores = pytest.mark.parametrize("store", [True, False], ids=["state store", "markers only"])

DEATHS = {
    "before the POST": ("_go",),
    "between POST and id": ("_announce",),
    "between id and wait": ("_await", "_reported"),
}
"""Where a worker may die, and what it would have done next."""


class Killed(BaseException):
    """The process is gone: nothing of ours runs any more."""


def die(*_: object, **__: object) -> None:
    raise Killed


@contextmanager
def death(moment: str) -> Iterator[None]:
    """Let the worker die at one of ``DEATHS``."""
    with pytest.MonkeyPatch.context() as patch:
        for step in DEATHS[moment]:
            patch.setattr(f"airflow_provider_dify.runtime.task_run.Execution.{step}", die)
        with pytest.raises(Killed):
            yield


class Store:
    """Airflow's task state store: one value a key, over all tries and generations."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    @property
    def is_settled(self) -> bool:
        """Whether what is kept, if anything, is accounted for."""
        return all(value["settled"] for value in self.values.values())

    def get(self, key: str, default: Any = None) -> Any:
        return self.values.get(key, default)

    def set(self, key: str, value: Any) -> None:
        self.values[key] = json.loads(json.dumps(value))

    def delete(self, key: str) -> None:
        self.values.pop(key, None)


@dataclass
class TaskInstance:
    dag_id: str = "dag"
    task_id: str = "task"
    run_id: str = "manual__2026-01-01T00:00:00+00:00"
    map_index: int = -1
    max_tries: int = 2
    try_number: int = 1
    xcoms: dict[str, Any] = field(default_factory=dict)
    next_kwargs: dict[str, Any] | None = None
    id: str = "01a218ca-061f-71a5-939f-a864de985f47"

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = value


def allow_this_thread() -> None:
    """Let Airflow 2 call operators in this thread: what it keeps of callers is there in the importing thread alone."""
    if is_airflow_2():
        from airflow.models.baseoperator import ExecutorSafeguard

        ExecutorSafeguard._sentinel.callers = {}


class Task:
    """
    One task instance with its tries; ``store`` is None on Airflow before 3.3.

    Each try gets a fresh operator, since a process of its own runs it.
    """

    def __init__(self, *, store: bool, deferrable: bool, **parameters: Any) -> None:
        self.store = Store() if store else None
        self.ti = TaskInstance(max_tries=parameters.get("retries", 2))
        self.parameters: dict[str, Any] = {
            "task_id": "task",
            "retries": 2,
            "deferrable": deferrable,
            "defer_after": 0,
            "poll_interval": 0.05,
            "max_poll_interval": 0.2,
            "submit_timeout": 0.5,
            "timeout": 20,
            **parameters,
        }
        self.operator = self._operator()
        self.resumption: tuple[str, dict[str, Any]] = ("execute", {})

    def _operator(self) -> DifyRunWorkflowOperator:
        return DifyRunWorkflowOperator(**self.parameters)

    def run(self) -> Any:
        """Run the current try to its end, in worker and triggerer as Airflow would."""
        self.ti.xcoms.clear()
        self.resumption = ("execute", {})
        allow_this_thread()
        return self._go_on()

    def _go_on(self) -> Any:
        context: Any = {"ti": self.ti}
        if self.store is not None:
            context["task_state_store"] = self.store
        while True:
            method, kwargs = self.resumption
            # A resumed task is another process: nothing but the arguments survives.
            self.operator = self._operator()
            try:
                return getattr(self.operator, method)(context, **kwargs)
            except TaskDeferred as deferred:
                event = self._event_of(deferred)
                self.resumption = deferred.method_name, {**(deferred.kwargs or {}), "event": event}

    def _event_of(self, deferred: TaskDeferred) -> Any:
        return asyncio.run(self.fire(deferred.trigger))

    @staticmethod
    async def fire(trigger: Any) -> Any:
        from importlib import import_module

        path, arguments = trigger.serialize()
        module, _, name = path.rpartition(".")
        rebuilt = getattr(import_module(module), name)(**json.loads(json.dumps(arguments)))
        async for event in rebuilt.run():
            return event.payload
        raise AssertionError("the trigger ended without an event")

    def retry(self) -> Any:
        """Run the next try of the same life."""
        self.ti.try_number += 1
        return self.run()

    def reset(self) -> Any:
        """Run the next try from where the last one was resumed.

        A scheduler of Airflow 2 does that to a task that ran on the executor of a scheduler that has died.
        """
        self.ti.try_number += 1
        return self._go_on()

    def clear(self) -> Any:
        """Run the first try of a new life, as a clear starts it."""
        self.ti.max_tries = self.ti.try_number + self.parameters["retries"]
        self.ti.try_number += 1
        return self.run()


def connect(monkeypatch: Any, server: DifyServer, app: str, host: str | None = None, **extra: Any) -> None:
    """Point the default connection to an app of the server, with time-outs that suit a test.

    :param host: What stands before the server; the server itself where left out.
    :param extra: Further fields of the connection's extra.
    """
    connection = {
        "conn_type": "dify",
        "host": host or server.base_url,
        "password": server.api_key(app),
        "extra": {"connect_timeout": 2, "read_timeout": 2, "api_contract": server.api_contract, **extra},
    }
    monkeypatch.setenv("AIRFLOW_CONN_DIFY_DEFAULT", json.dumps(connection))


def requests_to(server: DifyServer, method: str, ending: str) -> list[float]:
    """Return the moments of the requests whose path ends like that, from the server's books."""
    return [each.at for each in server.requests if each.method == method and each.path.endswith(ending)]


def submissions(server: DifyServer) -> list[float]:
    return requests_to(server, "POST", "/run")


def lookups(server: DifyServer) -> list[float]:
    """Return the moments at which a run was looked for by its marker."""
    return requests_to(server, "GET", "/workflows/logs")


def stops(server: DifyServer) -> list[float]:
    return requests_to(server, "POST", "/stop")
