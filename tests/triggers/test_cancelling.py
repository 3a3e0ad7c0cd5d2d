"""Triggers that are cancelled, by a person or by Airflow itself, at any moment and more than once."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from airflow_provider_dify.hooks.dify import DifyHook
from airflow_provider_dify.runtime import connections
from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.server import DifyServer
from airflow_provider_dify.triggers import base
from airflow_provider_dify.triggers.workflow import DifyFindRunTrigger, DifyWorkflowRunTrigger
from tests.faults.tries import connect
from tests.hooks.support import RUN, RawRequest, RawServer, http, sse_head

BY_A_PERSON = "__airflow_user_action__"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[DifyServer]:
    with DifyServer() as server:
        connect(monkeypatch, server, "slow")
        yield server


@pytest.fixture
def trigger(server: DifyServer) -> DifyWorkflowRunTrigger:
    started = DifyHook().create_workflow_run({"seconds": 600}, user="me")
    return DifyWorkflowRunTrigger(
        started.workflow_run_id,
        "dify_default",
        time.time() + 600,
        dify_task_id=started.task_id,
        user="me",
        cancel_on_kill=True,
    )


async def fire(trigger: Any) -> None:
    async for _ in trigger.run():
        raise AssertionError("fired")


def test_a_cancel_keeps_its_message_while_the_connection_is_read(
    trigger: DifyWorkflowRunTrigger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow 3.3 calls on_kill only for a message that it knows again."""
    reading, read = threading.Event(), connections.read_connection

    def slowly(conn_id: str, **which: Any) -> Any:
        reading.set()
        time.sleep(0.5)
        return read(conn_id, **which)

    async def reported() -> tuple[Any, ...]:
        # Within the task, as Airflow does: Python 3.10 keeps the message from who awaits it.
        try:
            await fire(trigger)
        except asyncio.CancelledError as error:
            return error.args
        raise AssertionError("not cancelled")

    async def cancelled() -> tuple[Any, ...]:
        task = asyncio.ensure_future(reported())
        await asyncio.to_thread(reading.wait, 30)
        task.cancel(BY_A_PERSON)
        return await task

    monkeypatch.setattr(connections, "read_connection", slowly)
    monkeypatch.setattr(base, "CALLS_ON_KILL", True)
    assert asyncio.run(cancelled()) == (BY_A_PERSON,)


async def yes(_: object) -> bool:
    await asyncio.sleep(0.5)
    return True


async def no(_: object) -> bool:
    return False


def cancel_again_and_again(operation: Callable[[], Any]) -> None:
    async def cancelling() -> None:
        task = asyncio.ensure_future(operation())
        while not task.done():
            await asyncio.sleep(0.1)
            task.cancel(BY_A_PERSON)

    asyncio.run(cancelling())


def test_on_kill_is_not_ended_by_the_cancels_that_follow(
    server: DifyServer, trigger: DifyWorkflowRunTrigger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "ended_by_person", yes)
    server.inject(Fault("stop", "stall", seconds=0.5))
    cancel_again_and_again(trigger.on_kill)
    assert [request.path for request in server.requests if request.path.endswith("/stop")] != []
    limit = time.monotonic() + 30
    while server.active_runs() and time.monotonic() < limit:
        time.sleep(0.05)
    assert [run.status for run in server.runs] == ["stopped"]


def test_a_stop_that_hangs_is_given_up(
    server: DifyServer, trigger: DifyWorkflowRunTrigger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "ended_by_person", yes)
    monkeypatch.setattr(base, "ON_KILL_SECONDS", 1.0)
    server.inject(Fault("stop", "hang", times=None))
    began = time.monotonic()
    cancel_again_and_again(trigger.on_kill)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("calls_on_kill", [True, False], ids=["3.3", "before 3.3"])
def test_a_healthy_trigger_that_is_cancelled_stops_nothing(
    server: DifyServer, trigger: DifyWorkflowRunTrigger, monkeypatch: pytest.MonkeyPatch, calls_on_kill: bool
) -> None:
    monkeypatch.setattr(base, "ended_by_person", no)
    monkeypatch.setattr(base, "CALLS_ON_KILL", calls_on_kill)
    cancel_again_and_again(lambda: fire(trigger))
    if calls_on_kill:
        asyncio.run(trigger.on_kill())
    assert [request for request in server.requests if request.path.endswith("/stop")] == []
    assert [run.status for run in server.runs] == ["running"]


def test_the_search_for_a_run_stops_what_it_finds(server: DifyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    DifyHook().create_workflow_run({"seconds": 600}, user="marker")
    monkeypatch.setattr(base, "ended_by_person", yes)
    found = DifyFindRunTrigger(["marker"], "dify_default", time.time() + 600, time.time(), cancel_on_kill=True)
    cancel_again_and_again(found.on_kill)
    assert [request.path for request in server.requests if request.path.endswith("/workflows/logs")] != []


EVENT = (
    b'data: {"event": "text_chunk", "workflow_run_id": "%s", "task_id": "t", "data": {"text": "x"}}\n\n' % RUN.encode()
)


def flood(request: RawRequest, connection: socket.socket) -> bytes | None:
    """Answer a look with a run that goes on, and a request for its events with more of them than anybody reads."""
    if "/events" not in request.line:
        running = {"id": RUN, "workflow_run_id": RUN, "status": "running", "data": []}
        return http(200, running, X_Version="1.14.2")
    connection.sendall(sse_head())
    while True:
        connection.sendall(EVENT * 3)


def test_a_cancel_at_any_moment_of_a_flood_of_events_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Before Python 3.12 ``asyncio.wait_for`` may swallow a cancel that meets what it waits for."""
    jitter = random.Random(1)

    async def cancelled(server: RawServer) -> list[Any]:
        left: list[Any] = []
        for _ in range(40):
            trigger = DifyWorkflowRunTrigger(
                RUN, "dify_default", time.time() + 600, user="me", follow_events=True, poll_interval=0.01
            )
            asked = sum("/events" in request.line for request in server.requests)
            task = asyncio.ensure_future(fire(trigger))
            while sum("/events" in request.line for request in server.requests) == asked:
                await asyncio.sleep(0.005)
            await asyncio.sleep(jitter.uniform(0, 0.05))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            left += [each for each in asyncio.all_tasks() if each is not asyncio.current_task()]
        return left

    with RawServer(flood).running() as server:
        monkeypatch.setenv(
            "AIRFLOW_CONN_DIFY_DEFAULT", json.dumps({"conn_type": "dify", "host": server.url, "password": "app-k"})
        )
        assert asyncio.run(cancelled(server)) == []
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
