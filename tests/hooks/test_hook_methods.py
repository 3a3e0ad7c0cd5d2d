"""Every method of the hook, on every server version, in both faces."""

from __future__ import annotations

import asyncio
import platform
import re
import uuid
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from airflow_provider_dify import __version__
from airflow_provider_dify import exceptions as ex
from airflow_provider_dify.api.runs import RunStatus
from airflow_provider_dify.hooks.dify import DifyHook
from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.workflows import Workflow
from tests.hooks.support import KEY, VERSIONS, Connect, Face, Start

versions = pytest.mark.parametrize("version", VERSIONS)


@versions
def test_a_streaming_run_is_known_at_once_and_its_row_tells_the_end(dify: Start, face: Face, version: str) -> None:
    server = dify("summarize", emulate=version)
    read: list[Any] = []
    started = face("create_workflow_run", {"text": "Żółć. More."}, user="me", on_started=read.append)
    (run,) = server.runs
    assert (started.workflow_run_id, started.task_id) == (run.id, run.task_id)
    assert started.app_id == server.app("summarize").app_id
    assert started.server_version == version
    assert read[0].workflow_run_id == run.id
    assert started.settled is (version == "1.9.1")
    while not (row := face("get_workflow_run", run.id)).status.is_terminal:
        assert row.status is RunStatus.RUNNING
    assert row.outputs == {"summary": "Żółć.", "word_count": 2}
    assert (row.status, row.error, row.user) == (RunStatus.SUCCEEDED, None, "me")
    assert face("get_workflow_run_status", run.id) is RunStatus.SUCCEEDED


@versions
def test_a_blocking_run_tells_its_end(dify: Start, face: Face, version: str) -> None:
    server = dify("echo", emulate=version)
    read: list[Any] = []
    started = face("create_workflow_run", '{"text": "hi"}', user="me", response_mode="blocking", on_started=read.append)
    (run,) = server.runs
    assert started.run is not None
    assert (started.workflow_run_id, started.task_id, started.settled) == (run.id, run.task_id, True)
    assert (started.run.status, started.run.outputs) == (RunStatus.SUCCEEDED, {"text": "hi"})
    assert read == [started]


@versions
@pytest.mark.parametrize(
    ("app", "status"), [("echo", "succeeded"), ("failing", "failed"), ("partial", "partial-succeeded")]
)
def test_both_faces_read_the_same_values(dify: Start, version: str, app: str, status: str) -> None:
    server = dify(app, emulate=version)
    faces = [Face("sync"), Face("async")]
    faces[0]("create_workflow_run", {"text": "x"}, user="me", response_mode="blocking")
    run_id = server.runs[0].id
    rows = [face("get_workflow_run", run_id) for face in faces]
    assert rows[0] == rows[1]
    assert rows[0].status == status
    logs = [face("find_workflow_runs", user="me") for face in faces]
    assert logs[0] == logs[1]
    assert [row.workflow_run_id for row in logs[0]] == [run_id]
    streams = [face.stream({"text": "x"}, user="me") for face in faces]
    assert [event.event for event in streams[0]] == [event.event for event in streams[1]]
    assert streams[0][-1].data["status"] == status
    assert [face("poll", run_id).run for face in faces] == rows


@versions
def test_an_unknown_run(dify: Start, face: Face, version: str) -> None:
    dify("echo", emulate=version)
    with pytest.raises(ex.DifyRunNotFoundError):
        face("get_workflow_run", str(uuid.uuid4()))
    assert isinstance(face("poll", str(uuid.uuid4())).error, ex.DifyRunNotFoundError)


@versions
@pytest.mark.parametrize("mode", ["streaming", "blocking"])
def test_a_missing_input_is_refused_at_once(dify: Start, face: Face, version: str, mode: str) -> None:
    silent = (version, mode) == ("1.14.2", "streaming")
    server = dify("summarize", emulate=version, time_scale=0.001 if silent else 1.0)
    error = ex.DifySubmissionUnknownError if silent else ex.DifyInvalidInputError
    text = "may have refused this submission" if silent else "text is required in input form"
    with pytest.raises(error, match=text) as caught:
        face("create_workflow_run", {}, user="me", response_mode=mode)
    assert ex.is_final(caught.value) is not silent
    assert len(server.requests) == 1


@versions
def test_a_run_of_a_published_version(dify: Start, face: Face, version: str) -> None:
    server = dify("old", emulate=version, workflows=[Workflow("old", older_versions=1)])
    older = server.app("old").older_workflow_ids[0]
    started = face("create_workflow_run", {}, user="me", workflow_id=older, response_mode="blocking")
    assert started.run.workflow_id == older
    with pytest.raises(ex.DifyNotFoundError):
        face("create_workflow_run", {}, user="me", workflow_id=str(uuid.uuid4()))
    with pytest.raises(ex.DifyInvalidInputError, match="draft"):
        face("create_workflow_run", {}, user="me", workflow_id=server.app("old").draft_workflow_id)


@versions
def test_a_stop_stops_the_run(dify: Start, face: Face, version: str) -> None:
    server = dify("slow", emulate=version, time_scale=0.05)
    hook = DifyHook()
    stream = hook.stream_workflow_run({"seconds": 600}, user="me")
    task_id = next(stream).task_id
    face("stop_workflow_run", task_id)
    assert [event.event for event in stream][-1] == "workflow_finished"
    assert server.runs[0].status in ("stopped", "failed")
    stop = next(request for request in server.requests if request.path.endswith("/stop"))
    assert stop.json == {"user": "airflow"}


def test_a_stop_is_bounded_and_not_repeated(dify: Start, face: Face) -> None:
    import time

    server = dify()
    server.inject(Fault("stop", "hang"))
    began = time.monotonic()
    with pytest.raises(ex.DifyTransportError):
        face("stop_workflow_run", "task")
    assert 1.5 < time.monotonic() - began < 4
    assert len(server.requests) == 1


@pytest.mark.parametrize("mode", ["streaming", "blocking"])
@pytest.mark.parametrize("streams", [False, True])
def test_the_gateway_contract(dify: Start, face: Face, mode: str, streams: bool) -> None:
    server = dify("echo", api_contract="workflow-runs", async_streaming=streams)
    workflow_id = server.app("echo").workflow_id
    started = face(
        "create_workflow_run", {"text": "x"}, user="me", workflow_id=workflow_id, response_mode=mode, query="q"
    )
    assert started.workflow_run_id == server.runs[0].id
    assert server.requests[0].path == f"/v1/workflows/{workflow_id}/run"
    assert server.requests[0].json["query"] == "q"
    while not (row := face("get_workflow_run", started.workflow_run_id)).status.is_terminal:
        pass
    assert (row.status, row.outputs) == (RunStatus.SUCCEEDED, {"text": "x"})
    assert len(server.runs) == 1


@pytest.mark.parametrize("path", ["/api", "/api/v1"])
def test_the_gateway_contract_under_a_path_of_its_own(dify: Start, connect: Connect, face: Face, path: str) -> None:
    server = dify("echo", api_contract="workflow-runs")
    connect(server.base_url + path, server.api_key(), extra={"api_contract": "workflow-runs"})
    face("create_workflow_run", {}, user="me", workflow_id="echo")
    assert server.requests[0].path == f"{path}/workflows/echo/run"


@pytest.mark.parametrize(
    "ask",
    [
        ("stop_workflow_run", "t"),
        ("find_workflow_runs",),
        ("upload_file", __file__),
    ],
)
def test_the_gateway_contract_says_what_it_lacks_and_sends_nothing(dify: Start, face: Face, ask: Any) -> None:
    server = dify("echo", api_contract="workflow-runs")
    options = {"user": "me"} if ask[0] == "upload_file" else {}
    with pytest.raises(ex.DifyUnsupportedError):
        face(*ask, **options)
    assert server.requests == []


def test_a_stream_of_the_gateway_contract_that_comes_as_json_names_the_run(dify: Start, face: Face) -> None:
    server = dify("echo", api_contract="workflow-runs")
    with pytest.raises(ex.DifyUnsupportedError, match="create_workflow_run") as caught:
        face.stream({}, user="me", workflow_id="echo")
    assert caught.value.workflow_run_id == server.runs[0].id


BAD_ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"inputs": ["x"]}, "inputs must be a mapping"),
    ({"inputs": {"x": object()}}, "inputs\\['x'\\] is object"),
    ({"inputs": "{'x': 1}"}, "inputs is a string of 8 characters that is not a JSON"),
    ({"user": ""}, "user must be a non-empty string"),
    ({"user": "x" * 256}, "user must have at most 255 characters and has 256"),
    ({"response_mode": "async"}, "response_mode must be one of streaming, blocking, got 'async'"),
    ({"files": "x"}, "files must be a list, got one path"),
    ({"query": "x"}, "query is only part of the workflow-runs contract"),
    ({"workflow_id": "x"}, "workflow_id must be a UUID"),
    ({"submit_timeout": 0}, "submit_timeout must be more than 0 seconds"),
    ({"submit_timeout": -1}, "submit_timeout must be more than 0 seconds"),
    ({"response_mode": "blocking", "timeout": 0}, "timeout must be more than 0 seconds"),
]


@pytest.mark.parametrize(("arguments", "text"), BAD_ARGUMENTS, ids=[text for _, text in BAD_ARGUMENTS])
def test_a_wrong_argument_is_refused_before_anything_is_sent(
    dify: Start, face: Face, arguments: dict[str, Any], text: str
) -> None:
    server = dify()
    with pytest.raises(ex.DifyInvalidInputError, match=text):
        face("create_workflow_run", **{"user": "me"} | arguments)
    assert server.requests == []


@pytest.mark.parametrize("name", ["get_workflow_run", "get_workflow_run_status"])
def test_an_id_that_is_no_uuid_is_refused_before_anything_is_sent(dify: Start, face: Face, name: str) -> None:
    server = dify()
    with pytest.raises(ex.DifyInvalidInputError, match="must be a UUID"):
        face(name, "not-a-uuid")
    assert isinstance(face("poll", "not-a-uuid").error, ex.DifyInvalidInputError)
    assert server.requests == []


def test_every_request_says_honestly_who_asks(dify: Start, face: Face) -> None:
    server = dify()
    face("create_workflow_run", {}, user="me")
    face("find_workflow_runs")
    agents = {request.headers["User-Agent"] for request in server.requests}
    (agent,) = agents
    match = re.fullmatch(r"airflow-provider-dify/(\S+) apache-airflow/(\S+) python/(\S+)", agent)
    assert match
    assert (match[1], match[3]) == (__version__, platform.python_version())
    import airflow

    assert match[2] == airflow.__version__


def test_what_is_accepted_and_how_it_is_compressed(dify: Start, face: Face) -> None:
    server = dify()
    face("create_workflow_run", {}, user="me")
    face("find_workflow_runs")
    submission, logs = server.requests
    assert submission.headers["Accept"] == "text/event-stream, application/json"
    assert submission.headers["Accept-Encoding"] == logs.headers["Accept-Encoding"] == "identity"
    assert logs.headers["Accept"] == "application/json"
    assert submission.headers["Authorization"] == f"Bearer {server.api_key()}"


def test_runs_are_found_over_pages(dify: Start, face: Face) -> None:
    server = dify("echo", connections=None)

    async def many() -> None:
        hook = DifyHook()
        submissions = (hook.acreate_workflow_run({}, user="me", response_mode="blocking") for _ in range(103))
        await asyncio.gather(*submissions)
        await hook.aclose()

    asyncio.run(many())
    Face("sync")("create_workflow_run", {}, user="other", response_mode="blocking")
    assert len(face("find_workflow_runs", user="me", limit=1000)) == 103
    assert len(face("find_workflow_runs", user="me")) == 100
    assert len(face("find_workflow_runs", limit=102)) == 102
    assert [run.user for run in face("find_workflow_runs", user="other")] == ["other"]
    assert face("find_workflow_runs", user="nobody") == []
    ids = {run.workflow_run_id for run in face("find_workflow_runs", limit=1000)}
    assert ids == {run.id for run in server.runs}


def test_runs_are_filtered_by_time_status_and_keyword(dify: Start, face: Face) -> None:
    server = dify("echo")
    Face("sync")("create_workflow_run", {"text": "needle"}, user="me", response_mode="blocking")
    now = datetime.now(timezone.utc)
    hour = timedelta(hours=1)
    assert len(face("find_workflow_runs", created_after=now - hour, created_before=now + hour)) == 1
    assert face("find_workflow_runs", created_after=now + hour) == []
    assert face("find_workflow_runs", status="failed") == []
    assert len(face("find_workflow_runs", status="succeeded")) == 1
    assert len(face("find_workflow_runs", keyword=server.runs[0].id)) == 1
    with pytest.raises(ex.DifyInvalidInputError):
        face("find_workflow_runs", status="running")
    with pytest.raises(ex.DifyInvalidInputError, match="time zone"):
        face("find_workflow_runs", created_after=datetime(2026, 1, 1))


def test_what_a_paused_run_asks(dify: Start, face: Face) -> None:
    server = dify("human_input", emulate="1.14.2")
    events = face.stream({"text": "the plan"}, user="me")
    assert events[-1].event == "workflow_paused"
    run = face("get_workflow_run", server.runs[0].id)
    assert run.status is RunStatus.PAUSED
    (question,) = face("get_pause_questions", run)
    assert "'human' asks a human: Please approve " in question
    assert "Possible answers: Approve, Reject." in question


def test_a_server_that_does_not_tell_why_a_run_is_paused_is_no_error(dify: Start, face: Face) -> None:
    server = dify("human_input", emulate="1.14.2")
    face.stream({"text": "x"}, user="me")
    run = face("get_workflow_run", server.runs[0].id)
    server.inject(Fault("events", "status", status=404, times=None))
    assert face("get_pause_questions", run) == []


def test_the_task_id_of_a_running_run_is_reported_by_its_events(dify: Start, face: Face) -> None:
    server = dify("busy", workflows=[Workflow("busy", stream_text="a b c d e f g h " * 40, duration=400.0)])
    face("create_workflow_run", {}, user="me")
    (run,) = server.runs
    assert face("find_task_id", run.id, "me") == run.task_id
    assert face("find_task_id", run.id, "somebody else") is None


CONNECTIONS: list[tuple[str, dict[str, Any], bool, str]] = [
    ("echo", {}, True, "Connected to the workflow app 'echo' on Dify 1.16.1."),
    ("echo", {"emulate": "1.9.1"}, True, "on Dify 1.9.1"),
    (
        "chat",
        {"workflows": [Workflow("chat", mode="advanced-chat")]},
        False,
        "only apps of the type workflow can be run",
    ),
    ("new", {"workflows": [Workflow("new", published=False)]}, False, "published"),
    ("off", {"workflows": [Workflow("off", api_enabled=False)]}, False, "Switch on the app's API access"),
    ("echo", {"api_contract": "workflow-runs"}, True, "The gateway knows the API key."),
]


@pytest.mark.parametrize(("app", "options", "ok", "text"), CONNECTIONS, ids=[text for *_, text in CONNECTIONS])
def test_the_connection_test(dify: Start, app: str, options: dict[str, Any], ok: bool, text: str) -> None:
    dify(app, **options)
    reported = DifyHook().test_connection()
    assert reported[0] is ok
    assert text in reported[1]


@pytest.mark.parametrize("extra", [{}, {"api_contract": "workflow-runs"}])
def test_the_connection_test_tells_a_wrong_key(dify: Start, connect: Connect, extra: dict[str, Any]) -> None:
    server = dify(api_contract=extra.get("api_contract", "service-api"))
    connect(server.base_url, KEY, extra=extra)
    ok, text = DifyHook().test_connection()
    assert not ok
    assert "password" in text
    assert KEY not in text


def test_the_connection_test_names_a_wrong_path_and_an_absent_server(
    dify: Start, connect: Connect, naps: list[float]
) -> None:
    server = dify()
    connect(server.base_url + "/api/v1", server.api_key())
    assert "usually ends in /v1" in DifyHook().test_connection()[1]
    connect(server.base_url + "/api", server.api_key(), extra={"api_contract": "workflow-runs"})
    assert DifyHook().test_connection()[0] is False
    server.down()
    connect(server.base_url, server.api_key())
    ok, text = DifyHook().test_connection()
    assert not ok
    assert "no complete answer from" in text


def test_the_connection_test_tells_a_wrong_field(connect: Connect) -> None:
    connect("https://dify.example.com", None)
    ok, text = DifyHook().test_connection()
    assert not ok
    assert "Field API key (password): is empty" in text


def test_a_connection_that_does_not_exist(face: Face) -> None:
    with pytest.raises(ex.DifyConfigurationError, match="There is no Airflow connection 'nowhere'"):
        face("get_workflow_run", str(uuid.uuid4()), conn_id="nowhere")
