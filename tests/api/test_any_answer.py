"""Whatever a server answers, an operation gives its value or an error of this provider."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_provider_dify.api.errors import Answer, error_for_event, retry_after_seconds
from airflow_provider_dify.api.operations import Operation, Upload
from airflow_provider_dify.api.runs import AppInfo, LogPage, StartedRun, UploadedFile, WorkflowRun
from airflow_provider_dify.api.server_versions import Server
from airflow_provider_dify.api.service_api import ServiceApi
from airflow_provider_dify.api.workflow_runs_api import WorkflowRunsApi
from airflow_provider_dify.exceptions import DifyError

RUN = "53cb9102-12a3-433d-bebe-e9aacf2e6703"
_SUBMISSION: dict[str, Any] = {"inputs": {}, "user": "u", "response_mode": "blocking"}

OPERATIONS: dict[str, tuple[Operation[Any], type]] = {
    "run": (ServiceApi().run(**_SUBMISSION), StartedRun),
    "run of a version": (ServiceApi().run(**_SUBMISSION, workflow_id=RUN), StartedRun),
    "get run": (ServiceApi().get_run(RUN), WorkflowRun),
    "stop": (ServiceApi().stop("t", "u"), type(None)),
    "logs": (ServiceApi().logs(), LogPage),
    "upload": (ServiceApi().upload(Upload(io.BytesIO(b""), "a", "b/c"), "u"), UploadedFile),
    "info": (ServiceApi().info(), AppInfo),
    "parameters": (ServiceApi().parameters(), dict),
    "gateway run": (WorkflowRunsApi().run(**_SUBMISSION, workflow_id="w"), StartedRun),
    "gateway get run": (WorkflowRunsApi().get_run("run-456"), WorkflowRun),
}

KEYS = [
    *("id", "workflow_run_id", "task_id", "status", "outputs", "inputs", "error", "data", "code", "message", "errors"),
    *("reasons", "page", "has_more", "name", "mode", "workflow_run", "created_by_end_user", "session_id", "size"),
    *("created_at", "finished_at", "elapsed_time", "total_steps"),
]
numbers = st.integers() | st.integers(10**300, 10**320) | st.floats()
words = st.text(max_size=12) | st.sampled_from(
    [
        RUN,
        RUN.upper(),
        "run-456",
        "succeeded",
        "failed",
        "paused",
        "not_found",
        "{}",
        '{"a": 1}',
        "[1]",
        "1e999",
        "\ud800",
    ]
)
any_json = st.recursive(
    st.none() | st.booleans() | numbers | words,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner, max_size=6)
    ),
    max_leaves=15,
)
bodies = any_json.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40) | st.just(b"<html><title>x")
statuses = st.sampled_from(
    [200, 200, 200, 201, 204, 302, 308, 400, 401, 403, 404, 405, 412, 413, 415, 422, 429, 500, 502]
)
headers = st.dictionaries(
    st.sampled_from(["content-type", "location", "retry-after", "x-version", "x-other"]),
    st.text(max_size=20)
    | st.sampled_from(["text/html", "application/json; charset=utf-8", "text/event-stream", "5", "1.9.1"]),
)


@pytest.mark.parametrize("name", OPERATIONS)
@settings(max_examples=100)
@given(status=statuses | st.integers(100, 599), headers=headers, body=bodies)
@example(status=200, headers={}, body=b'{"id": "53cb9102-12a3-433d-bebe-e9aacf2e6703", "status": [], "outputs": 1}')
@example(status=200, headers={}, body=b'{"data": {"id": [], "status": {}}, "workflow_run_id": ""}')
@example(status=400, headers={}, body=b'{"errors": {"a": {"b": [null]}}, "message": 7, "code": []}')
@example(status=200, headers={}, body=b"9" * 5000)
@example(status=200, headers={}, body=b"\xff\xfe")
def test_any_answer_gives_the_value_or_an_error_of_this_provider(
    name: str, status: int, headers: dict[str, str], body: bytes
) -> None:
    operation, kind = OPERATIONS[name]
    try:
        value = operation.read(Answer(status, headers, body))
    except DifyError as caught:
        value = caught
    if isinstance(value, DifyError):
        assert str(value)
        assert value.args == (value.message,)
    else:
        assert 200 <= status < 300
        assert isinstance(value, kind)


@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize("name", OPERATIONS)
def test_nesting_of_any_depth_gives_the_value_or_an_error_of_this_provider(name: str, status: int) -> None:
    operation, kind = OPERATIONS[name]
    shapes = [
        "{nest}",
        '{{"errors": {{"a": {nest}}}, "message": {nest}}}',
        f'{{{{"id": "{RUN}", "status": "succeeded", "outputs": {{nest}}}}}}',
        f'{{{{"id": "{RUN}", "status": {{nest}}}}}}',
    ]
    for depth in (300, *range(900, 1000, 9), 100_000):
        for opening, closing in (("[", "]"), ('{"a":', "}")):
            nest = opening * depth + "0" + closing * depth
            for shape in shapes:
                try:
                    value = operation.read(Answer(status, {}, shape.format(nest=nest).encode()))
                except DifyError:
                    continue
                assert isinstance(value, kind)


@given(any_json)
def test_any_error_event_gives_an_error_of_this_provider(value: Any) -> None:
    payload = value if isinstance(value, dict) else {"status": value, "message": value, "code": value}
    assert isinstance(error_for_event(payload, "Starting"), DifyError)


@given(
    st.text(max_size=40)
    | st.from_regex(r"[A-Z][a-z]{2}, \d{1,3} [A-Z][a-z]{2} \d{1,6} \d\d:\d\d:\d\d ([A-Z]{3}|[+-]\d{4})", fullmatch=True)
    | st.integers().map(str)
)
@example("Fri, 31 Dec 9999 23:59:59 -2359")
@example("Mon, 01 Jan 0001 00:00:00 +2359")
@example("9" * 5000)
@example("²")
def test_any_retry_after_is_read_as_up_to_an_hour_or_ignored(value: str) -> None:
    seconds = retry_after_seconds({"retry-after": value})
    assert seconds is None or 0 <= seconds <= 3600


@given(st.text(max_size=30) | st.from_regex(r"v?\d{1,5}(\.\d{1,5}){0,3}\S{0,8}", fullmatch=True))
@example("9" * 5000 + ".1")
@example("1." + "9" * 5000)
def test_any_version_header_tells_capabilities(version: str) -> None:
    server = Server(version)
    assert isinstance(server.survives_closed_stream, bool)
    assert isinstance(server.queues_runs, bool)
