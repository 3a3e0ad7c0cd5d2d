"""Hours of waiting in a moment: an event loop whose clock jumps, and a Dify in memory that can also lie."""

from __future__ import annotations

import asyncio
import heapq
import json
import random
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_dify.api.errors import Answer
from airflow_provider_dify.api.operations import Call
from airflow_provider_dify.client import aiohttp_transport as http_async
from airflow_provider_dify.connection import DifyConnection
from airflow_provider_dify.exceptions import DifyTransportError
from airflow_provider_dify.runtime import connections, poller
from airflow_provider_dify.triggers import workflow
from airflow_provider_dify.triggers.workflow import DifyWorkflowRunTrigger

EPOCH = 1_800_000_000.0


class VirtualLoop(asyncio.SelectorEventLoop):
    """Jumps to the next timer whenever nothing else is to be done."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        timers: Any = self._scheduled  # type: ignore[attr-defined]
        while timers and timers[0]._cancelled:
            heapq.heappop(timers)._scheduled = False
            self._timer_cancelled_count -= 1  # type: ignore[attr-defined]
        if timers and not self._ready:  # type: ignore[attr-defined]
            self.now = max(self.now, timers[0]._when)
        super()._run_once()  # type: ignore[misc]


@dataclass
class Run:
    """A run as it truly is.

    :param ends: When it ends, by the virtual clock; None for never.
    """

    created: float = 0.0
    ends: float | None = None
    status: str = "succeeded"
    until_then: str = "running"
    key: str = "app-key"
    id: str = field(default_factory=lambda: str(uuid.UUID(int=random.getrandbits(128))))

    def status_at(self, now: float) -> str:
        return self.status if self.ends is not None and now >= self.ends else self.until_then


class Dify:
    """A server in memory; as ``Answer`` to each ``Call``.

    :param seconds: What each answer takes.
    :param fault: Called with time, key and call before a call is answered; what it returns is the answer instead.
    :param lie: Called with time and the rows of a page; returns what is reported in their place.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loop = VirtualLoop()
        self.runs: dict[str, Run] = {}
        self.seconds = 0.02
        self.version = "1.14.2"
        self.extra: dict[str, Any] = {}
        self.keys = {"dify_default": "app-key"}
        self.fault: Callable[[float, str, Call], Answer | Exception | None] = lambda now, key, call: None
        self.lie: Callable[[float, list[Any]], list[Any]] = lambda now, rows: rows
        self.more: Callable[[bool], bool] = lambda more: more
        self.requests: list[tuple[float, str, Call]] = []
        self.reads: list[float] = []
        self.sessions: list[Transport] = []
        self.busy = self.most_busy = 0
        self.busy_seconds = 0.0
        clock = SimpleNamespace(time=lambda: EPOCH + self.loop.now)
        monkeypatch.setattr(workflow, "time", clock)
        monkeypatch.setattr(poller, "time", clock)
        monkeypatch.setattr(http_async, "AsyncTransport", lambda connection, size: Transport(self, connection))
        monkeypatch.setattr("asgiref.sync.sync_to_async", _at_once)
        monkeypatch.setattr(connections, "read_connection", self._connection)

    def _connection(self, conn_id: str, **_: Any) -> DifyConnection:
        self.reads.append(self.loop.now)
        key = self.keys[conn_id]
        if key == "unreadable":
            raise OSError("the metadata database is away")
        return DifyConnection.parse(
            conn_id=conn_id, host="http://dify", schema=None, port=None, password=key, extra=self.extra
        )

    def start(self, count: int = 1, **fields: Any) -> list[Run]:
        runs = [Run(**fields) for _ in range(count)]
        self.runs |= {run.id: run for run in runs}
        return runs

    def trigger(self, run: Run, timeout: float = 300.0, **arguments: Any) -> DifyWorkflowRunTrigger:
        arguments = {"dify_conn_id": "dify_default", "since": EPOCH + run.created, **arguments}
        return DifyWorkflowRunTrigger(run.id, end_time=EPOCH + self.loop.now + timeout, **arguments)

    def pages(self) -> list[tuple[float, str, Call]]:
        return [each for each in self.requests if each[2].path.endswith("/logs")]

    def polls(self) -> list[tuple[float, str, Call]]:
        return [each for each in self.requests if not each[2].path.endswith("/logs")]

    async def answer(self, key: str, call: Call) -> Answer:
        self.requests.append((self.loop.now, key, call))
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        try:
            await asyncio.sleep(self.seconds)
            self.busy_seconds += self.seconds
            fault = self.fault(self.loop.now, key, call)
            if isinstance(fault, Exception):
                raise fault
            return self._true_answer(key, call) if fault is None else fault
        finally:
            self.busy -= 1

    def _true_answer(self, key: str, call: Call) -> Answer:
        if call.path.endswith("/logs"):
            return self.json(self._page(key, call))
        run = self.runs.get(call.path.rpartition("/")[2])
        if run is None or run.key != key:
            return self.json({"code": "not_found", "message": "Workflow run not found.", "status": 404}, 404)
        return self.json({"id": run.id, "status": run.status_at(self.loop.now), "created_at": int(EPOCH + run.created)})

    def _page(self, key: str, call: Call) -> dict[str, Any]:
        from datetime import datetime

        after = datetime.fromisoformat(call.query["created_at__after"]).timestamp() - EPOCH
        number, limit = int(call.query["page"]), int(call.query["limit"])
        runs = [run for run in self.runs.values() if run.key == key and after <= run.created <= self.loop.now]
        runs.sort(key=lambda run: -run.created)
        rows = [self.row(run) for run in runs[(number - 1) * limit : number * limit]]
        return {
            "page": number,
            "data": self.lie(self.loop.now, rows),
            "has_more": self.more(len(runs) > number * limit),
        }

    def row(self, run: Run, status: str | None = None) -> dict[str, Any]:
        reported = {
            "id": run.id,
            "status": status or run.status_at(self.loop.now),
            "created_at": int(EPOCH + run.created),
        }
        return {"workflow_run": reported, "created_by_end_user": {"session_id": "me"}}

    def json(self, body: Any, status: int = 200, **headers: str) -> Answer:
        headers = {"content-type": "application/json", "x-version": self.version} | headers
        return Answer(status, headers, json.dumps(body).encode())

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run to the end, and see that nothing is left behind."""
        loop = self.loop
        asyncio.set_event_loop(loop)
        try:
            result = loop.run_until_complete(work)
            loop.run_until_complete(asyncio.sleep(0))
            assert asyncio.all_tasks(loop) == set()
            assert poller._pollers.get(loop, {}) == {}
            assert [session for session in self.sessions if not session.closed] == []
            return result
        finally:
            asyncio.set_event_loop(None)
            loop.close()

    def wait_for_all(
        self, triggers: list[DifyWorkflowRunTrigger], **options: Any
    ) -> list[tuple[float, dict[str, Any]]]:
        """Return when each fired, and its event."""

        async def all_of_them() -> Any:
            return await asyncio.gather(*(self.fire(trigger, **options) for trigger in triggers))

        return self.run(all_of_them())  # type: ignore[no-any-return]

    async def fire(self, trigger: DifyWorkflowRunTrigger) -> tuple[float, dict[str, Any]]:
        async for event in trigger.run():
            return self.loop.now, event.payload
        raise AssertionError("did not fire")


class Transport:
    """Stands in for the triggerer's HTTP client."""

    def __init__(self, dify: Dify, connection: DifyConnection) -> None:
        self._dify, self._connection = dify, connection
        self.closed = False
        dify.sessions.append(self)

    async def send(self, call: Call, *, timeout: float | None = None, retry: bool = True) -> Answer:
        assert not self.closed
        return await self._dify.answer(self._connection.api_key, call)

    async def open(self, call: Call, **options: Any) -> Any:
        raise DifyTransportError("no events here")

    async def close(self) -> None:
        await asyncio.sleep(0.01)
        self.closed = True


def _at_once(function: Callable[..., Any]) -> Callable[..., Any]:
    async def call(*arguments: Any, **named: Any) -> Any:
        await asyncio.sleep(0.01)
        return function(*arguments, **named)

    return call
