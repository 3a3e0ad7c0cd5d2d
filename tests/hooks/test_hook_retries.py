"""What is sent again and what never is, how long an answer may take, and answers that are broken or odd."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import pytest
import tenacity

from airflow_provider_dify import exceptions as ex
from airflow_provider_dify.api import events
from airflow_provider_dify.api.runs import RunStatus
from airflow_provider_dify.client import aiohttp_transport as http_async
from airflow_provider_dify.client import exchange
from airflow_provider_dify.hooks.dify import DifyHook
from airflow_provider_dify.testing.faults import Fault
from tests.hooks.support import (
    ANSWER,
    KEY,
    RUN,
    Connect,
    Face,
    RawRequest,
    Serve,
    Start,
    fails,
    http,
    poll_error,
    read_request,
    serving,
    sse_head,
    texts_of,
)

# What a test allows for something that must not take for ever: far more than it takes, on any machine.
GENEROUS_SECONDS = 10.0
FAR_TOO_MUCH = 2 * events.MAX_EVENT_BYTES
# A slow machine may need its four tries for an answer that is too large.
FOUR_TIMES_TOO_MUCH = 4 * FAR_TOO_MUCH


@pytest.fixture
def serve() -> Iterator[Serve]:
    with serving() as start:
        yield start


# --- Sent again, or not

ANSWERED_5XX = [Fault("get_run", "status", status=status, times=3) for status in (500, 502, 503, 504)]
LOST = [Fault("get_run", kind, times=3) for kind in ("reset_before", "accept_then_reset")]


def are_growing(naps: list[float]) -> bool:
    return len(naps) == 3 and all(least <= nap <= least + 0.5 for nap, least in zip(naps, (1, 2, 4), strict=True))


def submit(face: Face, mode: str) -> Any:
    return face("create_workflow_run", {}, user="me", response_mode=mode, timeout=0.5, submit_timeout=0.5)


@pytest.mark.parametrize("fault", [*ANSWERED_5XX, *LOST], ids=lambda fault: f"{fault.kind} {fault.status or ''}")
def test_a_read_is_repeated_three_times_with_growing_waits(
    dify: Start, face: Face, naps: list[float], fault: Fault
) -> None:
    server = dify()
    submitted = Face("sync")("create_workflow_run", {}, user="me", response_mode="blocking")
    server.inject(fault)
    assert face("get_workflow_run", submitted.workflow_run_id).status is RunStatus.SUCCEEDED
    assert len(server.requests) == 1 + 4
    assert are_growing(naps)


def test_after_the_third_time_the_last_error_is_reported(dify: Start, face: Face, naps: list[float]) -> None:
    server = dify()
    server.inject(Fault("any", "status", status=503, message="busy", times=None))
    assert fails(ex.DifyServerError, face, "get_workflow_run", RUN).status_code == 503
    assert len(server.requests) == 4
    assert are_growing(naps)
    fails(ex.DifyServerError, face, "find_workflow_runs")
    assert len(server.requests) == 8


def test_a_server_may_ask_for_a_longer_wait(dify: Start, face: Face, naps: list[float]) -> None:
    server = dify()
    server.inject(Fault("any", "status", status=503, headers={"Retry-After": "3"}, times=None))
    fails(ex.DifyServerError, face, "find_workflow_runs")
    assert naps[:2] == [3.0, 3.0]
    assert naps[2] >= 4


@pytest.mark.parametrize("asked", ["11", "3600", "86400"])
def test_a_pause_that_no_call_may_last_is_left_to_who_has_a_deadline(
    dify: Start, face: Face, naps: list[float], asked: str
) -> None:
    server = dify()
    server.inject(Fault("any", "status", status=503, headers={"Retry-After": asked}, times=None))
    error = fails(ex.DifyServerError, face, "find_workflow_runs")
    assert isinstance(error, ex.DifyServerError)
    assert error.retry_after == min(float(asked), 3600.0)
    assert naps == []
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 413, 422, 429])
def test_what_was_refused_is_not_repeated(dify: Start, face: Face, naps: list[float], status: int) -> None:
    server = dify()
    server.inject(Fault("any", "status", status=status, code="some_code", message="no", times=None))
    assert fails(ex.DifyError, face, "find_workflow_runs").status_code == status
    assert fails(ex.DifyError, face, "get_workflow_run", RUN).status_code == status
    assert fails(ex.DifyError, face, "create_workflow_run", {}, user="me").status_code in (status, None)
    assert len(server.requests) == 3
    assert naps == []


@pytest.mark.parametrize("mode", ["streaming", "blocking"])
@pytest.mark.parametrize(
    "fault",
    [
        Fault("submit", "accept_then_status", status=502, times=None),
        Fault("submit", "accept_then_status", status=504, times=None),
        Fault("submit", "accept_then_reset", times=None),
        Fault("submit", "reset_before", times=None),
        Fault("submit", "status", status=503, times=None),
        Fault("submit", "hang", seconds=5, times=None),
        Fault("submit", "stall", seconds=5, times=None),
    ],
    ids=lambda fault: f"{fault.kind} {fault.status or ''}",
)
def test_a_submission_that_may_have_arrived_is_never_repeated(
    dify: Start, face: Face, naps: list[float], fault: Fault, mode: str
) -> None:
    server = dify()
    server.inject(fault)
    with pytest.raises(ex.DifySubmissionUnknownError):
        submit(face, mode)
    assert len(server.requests) == 1
    assert len(server.runs) == (1 if fault.kind.startswith("accept") or fault.kind == "stall" else 0)
    assert naps == []


def test_a_refused_submission_is_not_repeated(dify: Start, face: Face, naps: list[float]) -> None:
    server = dify()
    server.inject(Fault("submit", "status", status=500, code="internal_server_error", message="no", times=None))
    fails(ex.DifyServerError, face, "create_workflow_run", {}, user="me")
    assert (len(server.requests), len(server.runs), naps) == (1, 0, [])


@pytest.mark.parametrize("mode", ["streaming", "blocking"])
def test_a_submission_to_a_port_where_nobody_listens_is_repeated(
    dify: Start, face: Face, naps: list[float], mode: str
) -> None:
    server = dify()
    server.down()
    with pytest.raises(ex.DifyTransportError, match="Nothing was sent") as caught:
        submit(face, mode)
    assert caught.value.sent is False
    assert are_growing(naps)
    with pytest.raises(ex.DifyTransportError, match="Nothing was sent"):
        face.stream({}, user="me")
    assert server.requests == []


def test_a_submission_arrives_once_the_server_is_back(dify: Start, face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    server = dify()

    async def come_back(seconds: float) -> None:
        server.up()

    retrying, async_retrying = tenacity.Retrying, tenacity.AsyncRetrying
    monkeypatch.setattr(exchange, "Retrying", lambda **rules: retrying(sleep=lambda _: server.up(), **rules))
    monkeypatch.setattr(http_async, "AsyncRetrying", lambda **rules: async_retrying(sleep=come_back, **rules))
    server.down()
    assert face("create_workflow_run", {}, user="me").workflow_run_id == server.runs[0].id
    assert (len(server.requests), len(server.runs)) == (1, 1)


def test_a_poll_is_not_repeated(dify: Start, face: Face, naps: list[float]) -> None:
    server = dify()
    for fault in (Fault("any", "status", status=503), Fault("any", "reset_before")):
        server.inject(fault)
        assert isinstance(poll_error(face), (ex.DifyServerError, ex.DifyTransportError))
    assert len(server.requests) == 2
    server.down()
    assert isinstance(poll_error(face), ex.DifyTransportError)
    assert naps == []


def test_a_submission_takes_no_connection_that_the_server_may_be_closing(
    serve: Serve, connect: Connect, face: Face, naps: list[float]
) -> None:
    def answer(request: RawRequest, connection: socket.socket) -> bytes | None:
        if request.line.startswith("POST"):
            return http(200, ANSWER)
        # Let the connection be kept, and close it over whatever comes next.
        connection.sendall(http(200, ANSWER, Connection="keep-alive"))
        read_request(connection)
        return None

    connect(serve(answer).url)
    options = {"user": "me", "response_mode": "blocking"}

    async def both(hook: DifyHook) -> Any:
        await hook.aget_workflow_run(RUN)
        return await hook.acreate_workflow_run({}, **options)

    hook = DifyHook()
    if face.mode == "sync":
        hook.get_workflow_run(RUN)
        started = hook.create_workflow_run({}, **options)
    else:
        started = asyncio.run(both(hook))
    assert started.workflow_run_id == RUN


# --- Time-outs


@contextmanager
def deaf_port() -> Iterator[int]:
    """Give a port whose queue of connections is full: the next one is neither taken nor refused."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listener.getsockname()
        for _ in range(8):
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0.1)
            with suppress(OSError):
                filler.connect(address)
        yield address[1]


def silent(request: RawRequest, connection: socket.socket) -> None:
    """Answer nothing until the client hangs up."""
    with suppress(OSError):
        connection.recv(1)


def half(request: RawRequest, connection: socket.socket) -> None:
    """Answer the beginning of a body."""
    connection.sendall(http(200, ANSWER)[:-5])
    silent(request, connection)


def bounded(face: Face) -> ex.DifyTransportError:
    """Return the error of one look that must not take for ever, and that comes as one in any case."""
    reported: list[Any] = []

    def look() -> None:
        try:
            reported.append(poll_error(face))
        except BaseException as error:
            reported.append(error)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(GENEROUS_SECONDS)
    assert reported, f"nothing came within {GENEROUS_SECONDS} s"
    assert isinstance(reported[0], ex.DifyTransportError)
    return reported[0]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_connection_that_is_not_made_is_given_up(connect: Connect, face: Face, scheme: str) -> None:
    with deaf_port() as port:
        connect(f"{scheme}://127.0.0.1:{port}", extra={"connect_timeout": 0.3, "read_timeout": 3600})
        assert f"{scheme}://127.0.0.1:{port}" in bounded(face).message


def test_a_handshake_that_does_not_end_is_given_up(connect: Connect, face: Face) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connect(f"https://127.0.0.1:{listener.getsockname()[1]}", extra={"connect_timeout": 0.3, "read_timeout": 3600})
        bounded(face)


def test_a_proxy_that_does_not_answer_is_given_up(serve: Serve, connect: Connect, face: Face) -> None:
    proxy = serve(silent)
    extra = {"connect_timeout": 0.3, "read_timeout": 0.3, "proxy": f"http://127.0.0.1:{proxy.port}"}
    connect("https://dify.example.com", extra=extra)
    bounded(face)
    assert proxy.requests[0].line.startswith("CONNECT dify.example.com:443 ")


@pytest.mark.parametrize("answer", [silent, half], ids=["nothing", "half a body"])
def test_an_answer_that_does_not_come_is_given_up(serve: Serve, connect: Connect, face: Face, answer: Any) -> None:
    server = serve(answer)
    connect(server.url, extra={"connect_timeout": 10, "read_timeout": 0.3})
    error = bounded(face)
    assert error.sent
    assert server.url in error.message
    began = time.monotonic()
    unknown = fails(ex.DifySubmissionUnknownError, face, "create_workflow_run", {}, user="me", submit_timeout=0.3)
    assert "may start a second run" in unknown.message
    assert time.monotonic() - began < GENEROUS_SECONDS
    assert len(server.requests) == 2


# --- Odd answers

LOGIN = http(200, "<!DOCTYPE html><html><title>Sign in &amp; out</title></html>", Content_Type="text/html")


def test_a_login_page_is_named(serve: Serve, connect: Connect, face: Face) -> None:
    server = serve(LOGIN)
    connect(server.url)
    error = fails(ex.DifyResponseError, face, "get_workflow_run", RUN)
    assert "an HTML page (Sign in & out) instead of JSON" in error.message
    assert "Gateway headers (headers)" in error.message
    for mode in ("streaming", "blocking"):
        unknown = fails(ex.DifySubmissionUnknownError, face, "create_workflow_run", {}, user="me", response_mode=mode)
        assert "an HTML page (Sign in & out)" in unknown.message
    assert len(server.requests) == 3


BROKEN = {
    "no JSON": http(200, f"key {KEY} is fine"),
    "half of it": http(200, json.dumps(ANSWER)[:-9]),
    "nothing": http(200, ""),
    "half of a gzip": http(200, gzip.compress(json.dumps(ANSWER).encode())[:20], Content_Encoding="gzip"),
    "no UTF-8": http(200, b'{"id": "\xff\xfe"}'),
    "too deep": http(200, "[" * 100_000),
    "a list": http(200, "[]"),
    "an echo at the end of an excerpt": http(200, "x" * 285 + KEY),
    "an echo in an error": http(400, {"code": "invalid_param", "message": "y" * 980 + KEY}),
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN)
def test_an_answer_that_is_not_of_dify(serve: Serve, connect: Connect, face: Face, answer: bytes) -> None:
    connect(serve(answer).url)
    error = poll_error(face)
    assert isinstance(error, (ex.DifyResponseError, ex.DifyInvalidInputError))
    # Not even the better part of a key that was cut.
    assert KEY[:10] not in texts_of(error)


CUT = {
    "in the body": http(200, ANSWER)[:-5],
    "in a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n50\r\n{",
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "nothing": b"",
    "no gzip": http(200, ANSWER, Content_Encoding="gzip"),
}


@pytest.mark.parametrize("answer", CUT.values(), ids=CUT)
def test_an_answer_that_is_broken_off(serve: Serve, connect: Connect, face: Face, answer: bytes) -> None:
    connect(serve(answer).url)
    error = poll_error(face)
    assert isinstance(error, ex.DifyTransportError)
    assert "no complete answer from" in error.message


@pytest.mark.parametrize("coding", ["gzip", "chunked", "long header"])
def test_an_answer_in_another_coat_is_read(serve: Serve, connect: Connect, face: Face, coding: str) -> None:
    content = json.dumps(ANSWER).encode()
    answer = {
        "gzip": http(200, gzip.compress(content), Content_Encoding="gzip"),
        "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
        % (len(content), content),
        "long header": http(200, content, Content_Security_Policy="x" * 20_000),
    }[coding]
    connect(serve(answer).url)
    assert face("get_workflow_run", RUN).outputs == {"text": "x"}


def test_a_stream_that_is_compressed_although_nobody_asked_is_read(serve: Serve, connect: Connect, face: Face) -> None:
    lines = f'data: {{"event": "workflow_started", "workflow_run_id": "{RUN}", "task_id": "t", "data": {{}}}}\n\n'
    head = sse_head().replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")
    connect(serve(head + gzip.compress(lines.encode())).url)
    assert face("create_workflow_run", {}, user="me").workflow_run_id == RUN


def endless(head: bytes, taken: list[int], most: int = FAR_TOO_MUCH) -> Callable[[RawRequest, socket.socket], None]:
    """Answer a line until the client hangs up or has taken far too much, and tell how much it took."""

    def answer(request: RawRequest, connection: socket.socket) -> None:
        connection.sendall(head)
        while taken[0] < most:
            connection.sendall(b"x" * 65536)
            taken[0] += 65536

    return answer


def test_a_line_without_end_is_given_up(
    serve: Serve, connect: Connect, face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events.EventDecoder.__init__, "__defaults__", (1024 * 1024,))
    taken = [0]
    connect(serve(endless(sse_head() + b"data: ", taken)).url)
    error = fails(ex.DifySubmissionUnknownError, face, "create_workflow_run", {}, user="me")
    assert "larger than 1,048,576 bytes" in error.message
    with pytest.raises(ex.DifySubmissionUnknownError, match="larger than 1,048,576 bytes"):
        face.stream({}, user="me")
    assert taken[0] < FAR_TOO_MUCH


@pytest.mark.parametrize("status", [200, 502])
def test_a_body_without_end_is_given_up(serve: Serve, connect: Connect, face: Face, status: int) -> None:
    taken = [0]
    head = f'HTTP/1.1 {status} OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"'
    connect(serve(endless(head.encode(), taken, FOUR_TIMES_TOO_MUCH)).url)
    poll_error(face)
    assert taken[0] < FOUR_TIMES_TOO_MUCH


@contextmanager
def resetting() -> Iterator[tuple[str, threading.Semaphore, list[bytes]]]:
    """A server that resets each connection once the head of a request has come, and a count of that."""
    heads: list[bytes] = []
    reset = threading.Semaphore(0)

    def serve(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                head = b""
                while b"\r\n\r\n" not in head:
                    head += connection.recv(65536)
                heads.append(head)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()
                reset.release()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1", reset, heads
        finally:
            listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_a_submission_whose_body_never_left_is_sent_again(connect: Connect, naps: list[float]) -> None:
    """The head alone starts nothing; before_send holds the body back until the connection is gone."""
    with resetting() as (url, reset, heads):
        connect(url)
        with pytest.raises(ex.DifyTransportError, match="Nothing was sent"):
            DifyHook().create_workflow_run({}, user="me", before_send=partial(reset.acquire, timeout=30))
    assert len(heads) == 4
    assert are_growing(naps)
