"""A server, a gateway or a proxy that echoes what it was sent, in any place of an answer, makes no secret known."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import pickle
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from airflow_provider_dify.exceptions import DifyError
from airflow_provider_dify.hooks.dify import DifyHook
from airflow_provider_dify.triggers.workflow import DifyFindRunTrigger, DifyWorkflowRunTrigger
from tests.faults.tries import Task
from tests.hooks.support import (
    KEY,
    PASSWORD,
    RUN,
    TOKEN,
    Connect,
    Face,
    RawRequest,
    RawServer,
    http,
    sse_head,
    texts_of,
)

LOGIN = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
WITHIN = base64.b64encode(f"xx{KEY}".encode()).decode()[4:-4]
SECRETS = (KEY, PASSWORD, TOKEN, LOGIN, WITHIN)

FORMS: dict[str, Callable[[str], str]] = {
    "plain": lambda text: text,
    "escaped": lambda text: "".join(f"\\u{ord(letter):04x}" for letter in text),
    "quoted": lambda text: "".join(f"%{ord(letter):02X}" for letter in text),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "capitals": str.upper,
}


def echo_of(request: RawRequest) -> str:
    """Return all that was sent by which anybody could log in."""
    reported = [request.headers.get(name, "") for name in ("authorization", "x-gateway-token", "proxy-authorization")]
    return " ".join(each for each in reported if each)


def in_json(form: str, request: RawRequest) -> str:
    return FORMS[form](echo_of(request)).replace('"', "'")


def answers(form: str) -> dict[str, Callable[[RawRequest], bytes]]:
    """Return answers that have the echo in one place each."""

    def body(status: int, template: str, kind: str = "application/json") -> Callable[[RawRequest], bytes]:
        def answer(request: RawRequest) -> bytes:
            return http(status, template.replace("ECHO", in_json(form, request)), Content_Type=kind)

        return answer

    def header(status: int, name: str) -> Callable[[RawRequest], bytes]:
        def answer(request: RawRequest) -> bytes:
            return http(status, "{}", **{name: FORMS[form](echo_of(request))})

        return answer

    def stream(lines: str) -> Callable[[RawRequest], bytes]:
        def answer(request: RawRequest) -> bytes:
            return sse_head() + lines.replace("ECHO", in_json(form, request)).encode()

        return answer

    row = f'{{"id": "{RUN}", "workflow_id": "ECHO", "status": "STATUS", "error": "ECHO", "outputs": {{"a": "ECHO"}}}}'
    started = (
        f'{{"event": "workflow_started", "workflow_run_id": "{RUN}", "task_id": "ECHO", "data": {{"id": "ECHO"}}}}'
    )
    return {
        **{f"code {status}": body(status, '{"code": "ECHO", "message": "no"}') for status in (400, 401, 403, 404, 409)},
        **{
            f"message {status}": body(status, '{"message": "no ECHO"}')
            for status in (400, 404, 407, 409, 429, 500, 502)
        },
        "fields": body(400, '{"code": "a", "message": "b", "errors": {"ECHO": "ECHO"}}'),
        "title": body(502, "<html><title>ECHO</title>", "text/html"),
        "text": body(502, "ECHO", "text/plain"),
        "text of a success": body(200, "ECHO", "text/plain"),
        "page of a success": body(200, "<html><title>ECHO</title>", "text/html"),
        "list": body(200, '["ECHO"]'),
        "location": header(302, "Location"),
        "retry": header(503, "Retry-After"),
        "version": header(200, "X-Version"),
        "type": header(200, "Content-Type"),
        "failed run": body(200, row.replace("STATUS", "failed")),
        "succeeded run": body(200, row.replace("STATUS", "succeeded")),
        "unknown status": body(200, row.replace("STATUS", "ECHO")),
        "ids": body(200, f'{{"id": "ECHO", "workflow_run_id": "ECHO", "task_id": "ECHO", "data": {row}}}'),
        "logs": body(
            200, '{"data": [{"id": "a", "workflow_run": {"id": "ECHO", "status": "ECHO"}}], "has_more": false}'
        ),
        "form": body(200, '{"user_input_form": [{"text-input": {"variable": "ECHO", "required": true}}]}'),
        "app": body(200, '{"name": "ECHO", "mode": "ECHO", "description": "ECHO"}'),
        "error event": stream('data: {"event": "error", "code": "ECHO", "status": 400, "message": "ECHO"}\n\n'),
        "started event": stream(f"data: {started}\n\n"),
        "name of an event": stream('event: ECHO\n\ndata: {"event": "ECHO"}\n\n'),
        "no event": stream("data: ECHO\n\n"),
        "finished event": stream(
            f'data: {{"event": "workflow_finished", "workflow_run_id": "{RUN}", "task_id": "t", '
            '"data": {"status": "failed", "error": "ECHO", "outputs": {"a": "ECHO"}}}\n\n'
        ),
    }


CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "get_workflow_run": ((RUN,), {}),
    "poll": ((RUN,), {}),
    "stop_workflow_run": (("task",), {}),
    "find_workflow_runs": ((), {"user": "me"}),
    "get_info": ((), {}),
    "get_parameters": ((), {}),
    "create_workflow_run": (({},), {"user": "me", "submit_timeout": 2.0}),
    "test_connection": ((), {}),
}


@pytest.fixture
def echoing(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., RawServer]]:
    """Start a server that echoes; it counts as a proxy too, since it answers whatever it is asked."""
    monkeypatch.setattr("airflow_provider_dify.client.exchange.RETRIES", 0)
    with ExitStack() as stack:

        def start(answer: Callable[[RawRequest], bytes], *, proxied: bool = False) -> RawServer:
            def respond(request: RawRequest, connection: socket.socket) -> bytes:
                return answer(request)

            server = stack.enter_context(RawServer(respond).running())
            extra: dict[str, Any] = {"headers": {"X-Gateway-Token": TOKEN}}
            if proxied:
                extra["proxy"] = f"http://me:{PASSWORD}@127.0.0.1:{server.port}"
            connect("http://dify.example.com" if proxied else server.url, extra=extra)
            return server

        yield start


def found_in(text: str) -> list[str]:
    return [secret for secret in SECRETS if secret.lower() in text.lower()]


def shown(value: Any) -> str:
    """Return all that could be printed, stored or handed on of a value."""
    if isinstance(value, BaseException):
        return texts_of(value)
    parts = [repr(value), str(value), repr(getattr(value, "__dict__", ""))]
    with_error = getattr(value, "error", None)
    if isinstance(with_error, BaseException):
        parts.append(texts_of(with_error))
    if not hasattr(value, "chunks"):
        parts.append(pickle.dumps(value).decode("latin-1"))
    return "\n".join(parts)


@pytest.mark.parametrize(
    ("form", "proxied"), [("plain", False), ("plain", True), ("escaped", False), ("base64", False)]
)
def test_no_call_makes_an_echoed_secret_known(
    echoing: Callable[..., RawServer], face: Face, form: str, proxied: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="")
    leaks: dict[tuple[str, str], list[str]] = {}
    for place, answer in answers(form).items():
        server = echoing(answer, proxied=proxied)
        for call, (args, kwargs) in CALLS.items():
            # Every call reads its answer in the same way: one of each kind will do for the other forms.
            if form != "plain" and call not in ("get_workflow_run", "create_workflow_run"):
                continue
            if call == "test_connection" and face.mode == "async":
                continue
            caplog.clear()
            try:
                outcome = face(call, *args, **kwargs)
            except DifyError as error:
                outcome = error
            if leak := found_in(shown(outcome) + caplog.text):
                leaks[place, call] = leak
        assert echo_of(server.requests[0])
    assert leaks == {}


@pytest.mark.parametrize("form", ["plain", "escaped"])
@pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "deferred"])
def test_no_task_makes_an_echoed_secret_known(
    echoing: Callable[..., RawServer], form: str, deferrable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="")
    stream = f'data: {{"event": "workflow_started", "workflow_run_id": "{RUN}", "task_id": "t", "data": {{}}}}\n\n'
    places = answers(form)
    for place in ("failed run", "succeeded run", "unknown status", "code 404", "code 401", "message 400"):

        def answer(request: RawRequest, row: Callable[[RawRequest], bytes] = places[place]) -> bytes:
            is_submission = request.line.startswith("POST") and "/workflows/run " in request.line
            return sse_head() + stream.encode() if is_submission else row(request)

        echoing(answer)
        caplog.clear()
        task = Task(store=False, deferrable=deferrable, timeout=2, validate_inputs=False)
        try:
            outcome: Any = task.run()
        except DifyError as error:
            outcome = error
        assert found_in(shown(outcome) + caplog.text + json.dumps(task.ti.xcoms, default=repr)) == [], place


@pytest.mark.parametrize("form", ["plain", "escaped"])
def test_no_event_of_a_trigger_has_an_echoed_secret(
    echoing: Callable[..., RawServer], form: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="")

    async def payload_of(trigger: Any) -> Any:
        async for event in trigger.run():
            return event.payload
        raise AssertionError("it has not fired")

    for place, answer in answers(form).items():
        echoing(answer)
        caplog.clear()
        for trigger in (
            DifyWorkflowRunTrigger(RUN, "dify_default", time.time() + 0.3, poll_interval=0.1),
            DifyFindRunTrigger(["me"], "dify_default", time.time() + 0.3, time.time(), poll_interval=0.1),
        ):
            payload = asyncio.run(payload_of(trigger))
            assert found_in(json.dumps(payload) + repr(trigger.serialize()) + caplog.text) == [], place


def test_what_the_clients_log_of_a_broken_head_has_no_secret(
    echoing: Callable[..., RawServer], face: Face, caplog: pytest.LogCaptureFixture
) -> None:
    """urllib3 quotes the lines of a head that it cannot read."""
    caplog.set_level(logging.DEBUG, logger="")
    echoing(
        lambda request: b"HTTP/1.1 200 OK\r\nA: b\r\n" + echo_of(request).encode() + b"\r\nContent-Length: 2\r\n\r\n{}"
    )
    try:
        outcome: Any = face("get_workflow_run", RUN)
    except DifyError as error:
        outcome = error
    assert found_in(shown(outcome) + caplog.text) == []


def test_what_a_workflow_puts_out_keeps_words_that_a_harmless_header_has(connect: Connect, face: Face) -> None:
    row = {"id": RUN, "status": "succeeded", "outputs": {"text": "our products in prod, en-US"}}
    server = RawServer(lambda request, connection: http(200, row))
    with server.running():
        connect(server.url, extra={"headers": {"X-Env": "prod", "Accept-Language": "en-US,en;q=0.9"}})
        assert face("get_workflow_run", RUN).outputs == row["outputs"]


def test_the_hook_shows_no_secret(connect: Connect) -> None:
    connect("https://dify.example.com", extra={"headers": {"X-Gateway-Token": TOKEN}})
    hook = DifyHook()
    assert hook.connection.api_key == KEY
    assert found_in(repr(hook) + repr(hook.connection) + repr(hook.get_conn())) == []
