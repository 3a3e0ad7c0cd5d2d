"""Refusals inside a stream, through the hook and the operator: nothing is started, recorded or pushed before them."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from airflow_provider_dify import exceptions as ex
from airflow_provider_dify.api.runs import RunStatus, WorkflowRun
from airflow_provider_dify.hooks.dify import DifyHook
from airflow_provider_dify.runtime import input_form_cache as forms
from tests.faults.tries import Task, modes
from tests.hooks.support import RUN, Connect, Face, RawRequest, Serve, fails, http, serving, sse_head

TASK = "fd9f5b88-d435-46e4-8c1f-308e989f8888"
PING = b"event: ping\n\n"
MISSING = "text is required in input form"


def block(event: str, data: dict[str, Any], task_id: str = RUN) -> bytes:
    payload = {"event": event, "task_id": task_id, "workflow_run_id": RUN, "data": data}
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


START = block("workflow_started", {"id": RUN, "inputs": {}, "reason": "initial"})
END = block(
    "workflow_finished",
    {
        "id": RUN, "status": "failed", "outputs": None, "error": MISSING, "elapsed_time": 0.0, "total_tokens": 0,
        "total_steps": 0, "created_by": {}, "exceptions_count": 1, "files": [],
    },
)  # fmt: skip
REAL = block("workflow_started", {"id": RUN, "inputs": {"sys.app_id": "app-1"}}, TASK)
NOT_FOUND = {"code": "not_found", "message": "Workflow run not found.", "status": 404}
NO_LOGS = {"page": 1, "limit": 10, "total": 0, "has_more": False, "data": []}


@pytest.fixture(name="serve")
def fixture_serve() -> Iterator[Serve]:
    forms.forget_forms()
    with serving() as start:
        yield start
    forms.forget_forms()


def dify_of(stream: bytes, version: str = "1.16.1", *, breaks: bool = False, stays: bool = False) -> Any:
    """Return a server that answers submissions with a stream, and knows no run."""

    def answer(request: RawRequest, connection: socket.socket) -> bytes | None:
        if request.line.startswith("POST"):
            connection.sendall(sse_head(version) + stream)
            if breaks:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                connection.close()
            elif stays:
                # Until the client leaves, as a server that has nothing more to say.
                connection.recv(1)
            return None
        if "/workflows/logs" in request.line:
            return http(200, NO_LOGS, X_Version=version)
        return http(404, NOT_FOUND, X_Version=version)

    return answer


def posts(server: Any) -> int:
    return sum(request.line.startswith("POST") for request in server.requests)


@pytest.mark.parametrize("stream", [PING + START + END, PING + END, START + END[:-1]], ids=["pair", "end", "cut end"])
def test_a_refusal_is_raised_at_once_and_starts_nothing(
    face: Face, serve: Serve, connect: Connect, stream: bytes
) -> None:
    server = serve(dify_of(stream))
    connect(server.url)
    started: list[Any] = []
    error = fails(ex.DifyInvalidInputError, face, "create_workflow_run", {}, user="u", on_started=started.append)
    assert MISSING in str(error)
    assert (started, error.workflow_run_id) == ([], None)
    assert len(server.requests) == 1


@pytest.mark.parametrize("how", ["ends", "breaks", "stays"])
def test_a_refusal_without_its_second_event(face: Face, serve: Serve, connect: Connect, how: str) -> None:
    server = serve(dify_of(PING + START, breaks=how == "breaks", stays=how == "stays"))
    connect(server.url)
    started: list[Any] = []
    error = fails(
        ex.DifyServerError, face, "create_workflow_run", {}, user="u", submit_timeout=0.5, on_started=started.append
    )
    assert "did not say why" in str(error)
    assert started == []
    assert posts(server) == 1


def test_a_run_is_started_although_its_stream_breaks_at_once(face: Face, serve: Serve, connect: Connect) -> None:
    connect(serve(dify_of(REAL + b"data: {broken\n\n", breaks=True)).url)
    started = face("create_workflow_run", {}, user="u")
    assert (started.workflow_run_id, started.task_id, started.app_id) == (RUN, TASK, "app-1")


@pytest.mark.parametrize("how", ["whole", "breaks", "stays"])
def test_a_streamed_run_yields_no_event_of_a_refusal(face: Face, serve: Serve, connect: Connect, how: str) -> None:
    stream = PING + START + (END if how == "whole" else b"")
    connect(serve(dify_of(stream, breaks=how == "breaks", stays=how == "stays")).url)
    kind = ex.DifyInvalidInputError if how == "whole" else ex.DifyServerError
    # Only a stream that stays open is ended by the time-out.
    with pytest.raises(kind) as caught:
        face.stream({}, user="u", timeout=1.5 if how == "stays" else 60)
    assert caught.value.workflow_run_id is None
    assert (MISSING if how == "whole" else "did not say why") in str(caught.value)


@pytest.mark.parametrize("version", ["1.14.2", "1.16.1"])
def test_silence_means_more_on_a_version_that_refuses_so(
    face: Face, serve: Serve, connect: Connect, version: str
) -> None:
    connect(serve(dify_of(PING, version, stays=True)).url)
    error = fails(
        ex.DifySubmissionUnknownError, face, "create_workflow_run", {"doc": "s3cret"}, user="u", submit_timeout=1.5
    )
    assert ("check the inputs 'doc'" in str(error)) is (version == "1.14.2")
    assert "s3cret" not in str(error)
    with pytest.raises(ex.DifySubmissionUnknownError) as caught:
        face.stream({"doc": "s3cret"}, user="u", timeout=1.5)
    assert ("check the inputs 'doc'" in str(caught.value)) is (version == "1.14.2")


@modes
@pytest.mark.parametrize("waits", [True, False], ids=["waits", "does not wait"])
@pytest.mark.parametrize("stream", [PING + START + END, PING + END], ids=["pair", "end alone"])
def test_a_refused_task_leaves_no_run_behind(
    serve: Serve,
    connect: Connect,
    caplog: pytest.LogCaptureFixture,
    stream: bytes,
    waits: bool,
    deferrable: bool,
) -> None:
    caplog.set_level(logging.INFO)
    server = serve(dify_of(stream))
    connect(server.url)
    task = Task(store=True, deferrable=deferrable, validate_inputs=False, wait_for_termination=waits, inputs={})
    with pytest.raises(ex.DifyInvalidInputError, match=MISSING):
        task.run()
    assert task.ti.xcoms == {}
    assert task.store is not None
    assert task.store.is_settled
    assert RUN not in json.dumps(task.store.values)
    assert RUN not in caplog.text
    assert posts(server) == 1
    assert [request.line for request in server.requests if RUN in request.line] == []


@modes
@pytest.mark.parametrize("version", ["1.14.2", "1.16.1"])
def test_a_search_that_finds_nothing_says_what_the_silence_may_mean(
    serve: Serve, connect: Connect, version: str, deferrable: bool
) -> None:
    server = serve(dify_of(PING, version, stays=True))
    connect(server.url)
    task = Task(
        store=True,
        deferrable=deferrable,
        validate_inputs=False,
        inputs={"doc": "s3cret", "text": "s3cret"},
        submit_timeout=1.5,
        timeout=3,
    )
    with pytest.raises(ex.DifySubmissionUnknownError) as caught:
        task.run()
    hint = f"Dify {version} answers refused inputs with silence, and may have refused this submission: check"
    assert (hint in str(caught.value)) is (version == "1.14.2")
    assert ("the inputs 'doc', 'text' against" in str(caught.value)) is (version == "1.14.2")
    assert "s3cret" not in str(caught.value)
    assert posts(server) == 1


def test_the_events_route_replays_real_runs_with_one_id(serve: Serve, connect: Connect) -> None:
    replay = block("workflow_started", {"inputs": {}}) + block("human_input_required", {"form_token": "t"})
    paused = block("workflow_paused", {})
    connect(serve(lambda request, connection: sse_head() + replay + paused).url)
    run = WorkflowRun(RUN, RunStatus.PAUSED, inputs={"sys.user_id": "u"})
    hook = DifyHook()
    try:
        assert hook.get_form_tokens(run) == ["t"]
    finally:
        hook.close()
