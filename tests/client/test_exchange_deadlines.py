"""An exchange ends by its own limit and by its caller's deadline, wherever in an answer a server sends byte by byte."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_dify.client.deadlines import LAST_SECONDS, ending_by
from airflow_provider_dify.exceptions import DifyError
from airflow_provider_dify.hooks.dify import DifyHook
from airflow_provider_dify.rules.polling import Deadline
from airflow_provider_dify.triggers.workflow import DifyWorkflowRunTrigger
from tests.faults.tries import Task
from tests.hooks.support import ANSWER, ROW, RUN, Connect, RawRequest, RawServer, http, serving

CONNECT_SECONDS, READ_SECONDS = 0.5, 1.0
OWN_SECONDS = CONNECT_SECONDS + READ_SECONDS
# What a busy machine adds. Without a limit the answers below take minutes.
PATIENCE = 6.0

BODY = json.dumps({**ANSWER, "name": "x", "mode": "workflow", "result": "success"}).encode()
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Version: 1.14.2\r\n"
LONG = b"x" * 100_000
# What comes at once, and what then comes byte by byte.
POSITIONS: dict[str, tuple[bytes, bytes]] = {
    "nothing": (b"", b"H" + LONG),
    "status line": (b"HTTP/1.1 2", b"00 " + LONG),
    "name of a header": (HEAD, LONG),
    "value of a header": (HEAD + b"X-A: ", LONG),
    "headers": (HEAD, b"A: b\r\n" * 1000),
    "answers 100": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "whole answers 100": (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\nA: b\r\n\r\n" * 1000),
    "body of a known length": (HEAD + b"Content-Length: 100000\r\n\r\n", LONG),
    "body to the end of the connection": (HEAD + b"\r\n", LONG),
    "size of a chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"0" * 10_000),
    "extension of a chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5;", LONG),
    "body of a chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1000\r\n", LONG),
    "end of the last chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"A: b\r\n" * 1000),
    "body of an error": (b"HTTP/1.1 502 Bad\r\nContent-Length: 100000\r\n\r\n", LONG),
    "body of a refusal": (b"HTTP/1.1 400 Bad\r\nContent-Length: 100000\r\n\r\n", LONG),
    "event of a stream": (STREAM + b"\r\n", b"data: " + LONG),
    "comments of a stream": (STREAM + b"\r\n", b": ping\n\n" * 1000),
    "chunk of a stream": (STREAM + b"Transfer-Encoding: chunked\r\n\r\n", b"0" * 10_000),
}
# Every call of the hook that asks a server, with arguments that let it.
CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "get_workflow_run": ((RUN,), {}),
    "get_workflow_run_status": ((RUN,), {}),
    "poll": ((RUN,), {}),
    "stop_workflow_run": (("task",), {}),
    "find_workflow_runs": ((), {"user": "me"}),
    "find_started": (("me",), {}),
    "find_task_id": ((RUN, "me"), {}),
    "check_server": ((), {}),
    "get_info": ((), {}),
    "get_parameters": ((), {}),
    "get_human_input_form": (("token",), {}),
    "submit_human_input": (("token",), {"action": "yes"}),
    "upload_file": ((Path(__file__),), {"user": "me"}),
    "create_workflow_run": (({},), {"user": "me", "submit_timeout": 2.0}),
}
LIMITS = {
    "stop_workflow_run": 2.0,
    "find_started": 2.0,
    "find_task_id": 4.0,
    "check_server": 5.0,
    "create_workflow_run": 2.0,
}


def dripping(at_once: bytes, slowly: bytes) -> Callable[[RawRequest, socket.socket], None]:
    def answer(request: RawRequest, connection: socket.socket) -> None:
        connection.sendall(at_once)
        for index in range(len(slowly)):
            connection.sendall(slowly[index : index + 1])
            time.sleep(0.1)

    return answer


@pytest.fixture
def servers(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start a server for each position, and name a connection after each."""
    monkeypatch.setattr("airflow_provider_dify.client.exchange.RETRIES", 0)
    with serving() as serve:
        for position, parts in POSITIONS.items():
            extra = {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS}
            connect(serve(dripping(*parts)).url, conn_id=conn_id(position), extra=extra)
        yield


def conn_id(position: str) -> str:
    return f"drip_{position.replace(' ', '_')}"


def limit_of(call: str) -> float:
    return LIMITS.get(call, OWN_SECONDS) + PATIENCE


CASES = [(call, position) for call in CALLS for position in POSITIONS]


def too_long(took: dict[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    return {case: seconds for case, seconds in took.items() if seconds > limit_of(case[0])}


def test_every_call_of_the_worker_ends_wherever_the_answer_drips(servers: None) -> None:
    took: dict[tuple[str, str], float] = {}

    def ask(case: tuple[str, str]) -> None:
        call, position = case
        args, kwargs = CALLS[call]
        with DifyHook(conn_id(position)) as hook:
            assert hook.api
            began = time.monotonic()
            with suppress(DifyError):
                getattr(hook, call)(*args, **kwargs)
        took[case] = time.monotonic() - began

    with ThreadPoolExecutor(64) as pool:
        list(pool.map(ask, CASES))
    assert len(took) == len(CASES)
    assert too_long(took) == {}


def test_every_call_of_the_triggerer_ends_wherever_the_answer_drips(servers: None) -> None:
    took: dict[tuple[str, str], float] = {}

    async def ask(case: tuple[str, str], turns: asyncio.Semaphore) -> None:
        call, position = case
        args, kwargs = CALLS[call]
        async with turns, DifyHook(conn_id(position)) as hook:
            await hook.in_loop.api()
            began = time.monotonic()
            with suppress(DifyError):
                await getattr(hook, f"a{call}")(*args, **kwargs)
            took[case] = time.monotonic() - began

    async def all_of_them() -> None:
        turns = asyncio.Semaphore(64)
        await asyncio.gather(*(ask(case, turns) for case in CASES))

    asyncio.run(all_of_them())
    assert len(took) == len(CASES)
    assert too_long(took) == {}


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("call", ["blocking", "stream"])
def test_a_run_that_is_waited_for_in_one_answer_ends_by_its_timeout(servers: None, mode: str, call: str) -> None:
    def ask(position: str) -> float:
        hook = DifyHook(conn_id(position))
        began = time.monotonic()
        with suppress(DifyError):
            if call == "blocking":
                kwargs: dict[str, Any] = {"user": "me", "response_mode": "blocking", "timeout": 2.0}
                if mode == "sync":
                    hook.create_workflow_run({}, **kwargs)
                else:
                    asyncio.run(closing(hook, lambda: hook.acreate_workflow_run({}, **kwargs)))
            elif mode == "sync":
                list(hook.stream_workflow_run({}, user="me", timeout=2.0))
            else:
                asyncio.run(closing(hook, lambda: events_of(hook)))
        hook.close()
        return time.monotonic() - began

    with ThreadPoolExecutor(32) as pool:
        took = dict(zip(POSITIONS, pool.map(ask, POSITIONS), strict=True))
    assert {position: seconds for position, seconds in took.items() if seconds > 2.0 + PATIENCE} == {}


async def events_of(hook: DifyHook) -> list[Any]:
    return [event async for event in hook.astream_workflow_run({}, user="me", timeout=2.0)]


async def closing(hook: DifyHook, call: Callable[[], Any]) -> Any:
    try:
        return await call()
    finally:
        await hook.aclose()


def test_a_file_that_drips_is_given_up(servers: None, tmp_path: Path) -> None:
    """A piece of 64 KiB has the time of a whole answer."""
    for position in ("body of a known length", "body to the end of the connection", "size of a chunk", "status line"):
        with DifyHook(conn_id(position)) as hook:
            began = time.monotonic()
            with pytest.raises(DifyError):
                hook.download_file(f"{hook.connection.base_url.removesuffix('/v1')}/files/1", tmp_path / "file")
        assert time.monotonic() - began < OWN_SECONDS + PATIENCE
        assert list(tmp_path.iterdir()) == []


def read_within_a_second(mode: str) -> None:
    hook = DifyHook()

    async def ask() -> None:
        with ending_by(Deadline(time.time() + 1)):
            await closing(hook, lambda: hook.aget_workflow_run(RUN))

    if mode == "async":
        asyncio.run(ask())
    else:
        with hook, ending_by(Deadline(time.time() + 1)):
            hook.get_workflow_run(RUN)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_the_caller_s_deadline_comes_before_the_limit_of_the_exchange(
    connect: Connect, mode: str, naps: list[float]
) -> None:
    with serving() as serve:
        connect(serve(dripping(HEAD + b"\r\n", LONG)).url, extra={"connect_timeout": 60, "read_timeout": 60})
        began = time.monotonic()
        with pytest.raises(DifyError):
            read_within_a_second(mode)
        assert time.monotonic() - began < 1 + LAST_SECONDS + PATIENCE
        # Nothing is tried again after the deadline.
        assert naps == []


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_pauses_between_tries_end_at_the_caller_s_deadline(connect: Connect, mode: str) -> None:
    with serving() as serve:
        server = serve(http(503, {}, Retry_After="9"))
        connect(server.url)
        began = time.monotonic()
        with pytest.raises(DifyError):
            read_within_a_second(mode)
        assert time.monotonic() - began < 1 + LAST_SECONDS + PATIENCE
        # The pause ends with the deadline: a second try has begun just before that, or not.
        assert len(server.requests) in (1, 2)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_handshake_that_drips_is_given_up(connect: Connect, mode: str) -> None:
    """The server takes the connection, and talks TLS a byte at a time."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    threading.Thread(target=drip, args=(connection,), daemon=True).start()

        def drip(connection: socket.socket) -> None:
            with suppress(OSError), connection:
                connection.recv(65536)
                for byte in b"\x16\x03\x03\x40\x00" + b"\x02\x00\x3f\xfc" + LONG:
                    connection.sendall(bytes([byte]))
                    time.sleep(0.1)

        threading.Thread(target=serve, daemon=True).start()
        port = listener.getsockname()[1]
        connect(f"https://127.0.0.1:{port}", extra={"connect_timeout": 1, "read_timeout": 30})
        hook, began = DifyHook(), time.monotonic()
        if mode == "sync":
            assert hook.poll(RUN, timeout=2.0).error is not None
        else:
            assert asyncio.run(closing(hook, lambda: hook.apoll(RUN, timeout=2.0))).error is not None
        assert time.monotonic() - began < 2 + PATIENCE


def run_server(dripping_runs: set[str]) -> RawServer:
    """A server that knows finished runs, whose rows it sends at once or byte by byte, and no logs."""

    def answer(request: RawRequest, connection: socket.socket) -> bytes | None:
        run_id = request.line.split(" ")[1].rpartition("/")[2]
        if run_id in dripping_runs:
            dripping(HEAD + b"Content-Length: 100000\r\n\r\n", LONG)(request, connection)
            return None
        if "/workflows/run/" in request.line:
            return http(200, {**ROW, "id": run_id})
        return http(404, {"code": "not_found", "message": "no"})

    return RawServer(answer)


def run_ids(digit: int, count: int) -> list[str]:
    return [f"{digit}0000000-0000-4000-8000-{number:012d}" for number in range(count)]


def test_runs_that_drip_hold_up_neither_their_own_trigger_nor_others(connect: Connect) -> None:
    bad, good = run_ids(1, 6), run_ids(2, 6)
    fired: dict[str, tuple[float, Any]] = {}

    async def fire(run_id: str) -> None:
        began = time.monotonic()
        trigger = DifyWorkflowRunTrigger(run_id, "dify_default", time.time() + 4, poll_interval=0.2)
        async for event in trigger.run():
            fired[run_id] = time.monotonic() - began, event.payload
            return

    async def all_of_them() -> None:
        first = [asyncio.ensure_future(fire(run_id)) for run_id in bad]
        await asyncio.sleep(1)
        await asyncio.gather(*first, *(fire(run_id) for run_id in good))

    with run_server(set(bad)).running() as server:
        connect(server.url, extra={"max_connections": 4})
        asyncio.run(all_of_them())
    assert {run_id: payload["status"] for run_id, (_, payload) in fired.items() if run_id in good} == dict.fromkeys(
        good, "ended"
    )
    assert {payload["status"] for run_id, (_, payload) in fired.items() if run_id in bad} == {"timed_out"}
    assert max(seconds for seconds, _ in fired.values()) < 4 + LAST_SECONDS + PATIENCE


@pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "deferred"])
def test_a_task_whose_server_drips_ends_by_its_timeout(connect: Connect, deferrable: bool) -> None:
    stream = f'data: {{"event": "workflow_started", "workflow_run_id": "{RUN}", "task_id": "t", "data": {{}}}}\n\n'

    def answer(request: RawRequest, connection: socket.socket) -> bytes | None:
        if request.line.startswith("POST") and "/workflows/run " in request.line:
            return STREAM + b"\r\n" + stream.encode()
        dripping(HEAD + b"\r\n", LONG)(request, connection)
        return None

    with serving() as serve:
        connect(serve(answer).url)
        began = time.monotonic()
        task = Task(store=False, deferrable=deferrable, timeout=3)
        with pytest.raises(DifyError) as caught:
            task.run()
    assert caught.value.workflow_run_id in (RUN, None)
    # The form, the check of the server, the wait and the stop have their limits one after the other.
    assert time.monotonic() - began < 3 + LAST_SECONDS + 3 + 2 + PATIENCE


def test_a_host_with_several_addresses_has_one_time_to_connect(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever takes no connections is tried at every address: the time-out is not granted to each."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        kept = []
        for _ in range(4):
            each = socket.socket()
            each.setblocking(False)
            with suppress(BlockingIOError):
                each.connect(address)
            kept.append(each)
        entry = (socket.AF_INET, socket.SOCK_STREAM, 6, "", address)
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: [entry] * 5)
        connect(f"http://many.example.com:{address[1]}", extra={"connect_timeout": 1, "read_timeout": 30})
        began = time.monotonic()
        error = DifyHook().poll(RUN).error
        assert error is not None
        assert "did not answer" in error.message or "time" in error.message
        assert time.monotonic() - began < 4
        for each in kept:
            each.close()
