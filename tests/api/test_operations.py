"""What is asked of a server, in both contracts."""

from __future__ import annotations

import io
import json
from datetime import date, datetime, timedelta, timezone
from typing import Any

import pytest

from airflow_provider_dify.api.contracts import contract
from airflow_provider_dify.api.errors import Answer
from airflow_provider_dify.api.operations import Call, Upload
from airflow_provider_dify.api.runs import LoggedRun, LogPage, RunStatus
from airflow_provider_dify.api.server_versions import Server
from airflow_provider_dify.api.service_api import ServiceApi
from airflow_provider_dify.api.workflow_runs_api import WorkflowRunsApi
from airflow_provider_dify.client.bodies import CHUNK_BYTES, body_of
from airflow_provider_dify.exceptions import (
    DifyInvalidInputError,
    DifyNotFoundError,
    DifyRunNotFoundError,
    DifyUnsupportedError,
)
from airflow_provider_dify.rules.exchanges import find_runs

RUN = "53cb9102-12a3-433d-bebe-e9aacf2e6703"
SUBMISSION: dict[str, Any] = {"inputs": {"text": "ż"}, "user": "me", "response_mode": "streaming"}


def sent(call: Call) -> Any:
    assert call.body is not None
    return json.loads(call.body)


def test_a_submission_of_the_service_api() -> None:
    call = ServiceApi().run(**SUBMISSION).call
    assert (call.method, call.target, call.repeatable, call.streaming) == ("POST", "/workflows/run", False, True)
    assert sent(call) == {"inputs": {"text": "ż"}, "response_mode": "streaming", "user": "me"}
    assert ServiceApi().run(**SUBMISSION | {"response_mode": "blocking"}).call.streaming is False


def test_files_are_sent_where_there_are_any() -> None:
    assert sent(ServiceApi().run(**SUBMISSION, files=[{"a": 1}]).call)["files"] == [{"a": 1}]
    assert "files" not in sent(ServiceApi().run(**SUBMISSION, files=[]).call)


def test_a_published_version_is_named_in_the_route() -> None:
    assert ServiceApi().run(**SUBMISSION, workflow_id=RUN.upper()).call.target == f"/workflows/{RUN}/run"


def test_a_submission_of_the_gateway_contract() -> None:
    call = WorkflowRunsApi().run(**SUBMISSION, workflow_id="wf/1 ?", query="Hello").call
    assert (call.method, call.target, call.repeatable) == ("POST", "/workflows/wf%2F1%20%3F/run", False)
    assert sent(call) == {"inputs": {"text": "ż"}, "response_mode": "streaming", "user": "me", "query": "Hello"}


def test_the_routes_of_the_gateway_contract() -> None:
    assert WorkflowRunsApi().get_run("run-456").call.target == "/workflow-runs/run-456"
    assert WorkflowRunsApi().get_run(" run/../4 ").call.target == "/workflow-runs/run%2F..%2F4"


def test_the_routes_of_the_service_api() -> None:
    api = ServiceApi()
    assert api.get_run(RUN).call.target == f"/workflows/run/{RUN}"
    assert api.stop("task/1", "me").call.target == "/workflows/tasks/task%2F1/stop"
    assert sent(api.stop("t", "me").call) == {"user": "me"}
    assert api.info().call.target == "/info"
    assert api.parameters().call.target == "/parameters"
    events = api.run_events(RUN, "a b&c", snapshot=True).call
    assert events.target == f"/workflow/{RUN}/events?user=a+b%26c&include_state_snapshot=true"
    assert api.run_events(RUN, "u").call.target == f"/workflow/{RUN}/events?user=u"
    over = api.run_events(RUN, "u", snapshot=True, over_pauses=True).call
    assert over.target == f"/workflow/{RUN}/events?user=u&include_state_snapshot=true&continue_on_pause=true"


def test_the_filters_of_the_logs() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=timezone(timedelta(hours=2)))
    call = (
        ServiceApi()
        .logs(user="u", status="failed", keyword="k", created_after=moment, created_before=moment, page=3, limit=7)
        .call
    )
    assert call.query == {
        "created_by_end_user_session_id": "u",
        "status": "failed",
        "keyword": "k",
        "created_at__after": "2026-01-02T03:04:05+02:00",
        "created_at__before": "2026-01-02T03:04:05+02:00",
        "page": "3",
        "limit": "7",
    }
    assert ServiceApi().logs().call.query == {"page": "1", "limit": "100"}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"limit": 0}, "page_size must be a whole number from 1 to 100, got 0."),
        ({"limit": 101}, "page_size must be a whole number from 1 to 100, got 101."),
        ({"limit": "20"}, "page_size must be a whole number from 1 to 100, got str of length 2."),
        ({"limit": True}, "page_size must be a whole number from 1 to 100, got bool."),
        ({"page": 0}, "page must be a whole number from 1 to 99999, got 0."),
        ({"created_after": datetime(2026, 1, 1)}, "created_after has no time zone: add one"),
        ({"created_after": "2026-01-01T00:00:00"}, "created_after has no time zone: add one"),
        ({"created_before": "2026-01-01"}, "created_before has no time zone: add one"),
        ({"created_before": "yesterday"}, "created_before is a text that is no time in ISO 8601 (str of length 9)"),
        ({"created_before": 1767225600}, "created_before must be a datetime with a time zone, or its text in ISO 8601"),
        ({"created_after": date(2026, 1, 1)}, "created_after must be a datetime with a time zone, or its text"),
        ({"status": "running"}, "status must be one of succeeded, failed, stopped, got 'running'"),
        ({"status": RunStatus.PAUSED}, "status must be one of succeeded, failed, stopped, got 'paused'"),
        ({"status": "partial-succeeded"}, "Leave it out and read the status of each run that is listed."),
        ({"status": ["failed"]}, "status must be one of succeeded, failed, stopped, got list of length 1"),
        ({"user": 5}, "user must be a non-empty string or None, got int."),
        ({"account": ""}, "account must be a non-empty string or None, got str of length 0."),
        ({"keyword": b"x"}, "keyword must be a non-empty string or None, got bytes of length 1."),
    ],
)
def test_wrong_filters_of_the_logs(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(DifyInvalidInputError) as caught:
        ServiceApi().logs(**arguments)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00+00:00"),
        (" 2026-01-01 10:30+02:00", "2026-01-01T10:30:00+02:00"),
        ("2026-01-01T00:00:00.250000z", "2026-01-01T00:00:00+00:00"),
    ],
)
def test_moments_may_be_texts(given: str, sent: str) -> None:
    assert ServiceApi().logs(created_after=given).call.query["created_at__after"] == sent


def test_a_filter_that_dify_refuses_has_advice_about_filters() -> None:
    operation = ServiceApi().logs(account="nobody@example.com")
    body = json.dumps({"code": "invalid_param", "message": "Account not found: x", "status": 400}).encode()
    with pytest.raises(DifyInvalidInputError) as caught:
        operation.read(Answer(400, {"content-type": "application/json"}, body))
    assert "account must be the e-mail address of a member" in str(caught.value)
    assert "start node" not in str(caught.value)


@pytest.mark.parametrize(
    "value", ["not-a-uuid", "run-456", RUN[:-1], RUN + "0", "zzcb9102-12a3-433d-bebe-e9aacf2e6703"]
)
@pytest.mark.parametrize("ask", [ServiceApi().get_run, lambda value: ServiceApi().run_events(value, "u")])
def test_a_run_id_that_is_no_uuid_is_refused_before_it_is_sent(value: str, ask: Any) -> None:
    with pytest.raises(DifyInvalidInputError) as caught:
        ask(value)
    assert (
        f"workflow_run_id must be a UUID such as 6b454183-889f-4bc9-8060-764be1cb16ea, got a {len(value)}-character"
        in str(caught.value)
    )


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        ({"answer": "outputs"}, "Set wait_for_termination=False on the task that starts the run"),
        ([RUN], "map this task too: .partial(…).expand(workflow_run_id=…)"),
        ((RUN, RUN), "map this task too"),
    ],
)
@pytest.mark.parametrize("api", [ServiceApi(), WorkflowRunsApi()])
def test_what_another_task_returned_in_place_of_a_run_id(value: Any, remedy: str, api: Any) -> None:
    with pytest.raises(DifyInvalidInputError) as caught:
        api.get_run(value)
    assert remedy in str(caught.value)
    assert "outputs'" not in str(caught.value)


@pytest.mark.parametrize("value", ["", "  ", None, 7])
@pytest.mark.parametrize("api", [ServiceApi(), WorkflowRunsApi()])
def test_an_empty_run_id_says_where_it_may_come_from(value: Any, api: Any) -> None:
    with pytest.raises(DifyInvalidInputError, match=r"workflow_run_id must be a non-empty string.*\n.* XCom"):
        api.get_run(value)


@pytest.mark.parametrize("value", [RUN.upper(), f" {RUN}\n", f"{{{RUN}}}", RUN.replace("-", "")])
def test_a_run_id_is_sent_in_its_usual_form(value: str) -> None:
    assert ServiceApi().check_run_id(value) == RUN


def test_a_workflow_id_that_is_no_uuid_is_refused() -> None:
    with pytest.raises(DifyInvalidInputError, match="workflow_id must be a UUID"):
        ServiceApi().run(**SUBMISSION, workflow_id="draft")


def test_each_contract_says_what_it_lacks() -> None:
    with pytest.raises(DifyInvalidInputError, match="query is only part of the workflow-runs contract"):
        ServiceApi().run(**SUBMISSION, query="x")
    with pytest.raises(DifyInvalidInputError, match="workflow_id is missing"):
        WorkflowRunsApi().run(**SUBMISSION)


@pytest.mark.parametrize(
    ("ask", "operation"),
    [
        (lambda api: api.stop("t", "u"), "stop a run"),
        (lambda api: api.logs(), "list or find runs"),
        (lambda api: api.run_events("r", "u"), "follow a run's events"),
        (lambda api: api.upload(Upload(io.BytesIO(), "a", "b/c"), "u"), "upload a file"),
        (lambda api: api.info(), "read the app's information"),
        (lambda api: api.parameters(), "read the app's input form"),
    ],
)
def test_the_gateway_contract_does_not_pretend(ask: Any, operation: str) -> None:
    with pytest.raises(
        DifyUnsupportedError, match=rf"has no route to {operation}.*\n.*API contract \(api_contract\) to service-api"
    ):
        ask(WorkflowRunsApi())


def test_contracts_by_name() -> None:
    assert contract("service-api").name == "service-api"
    assert contract("workflow-runs").name == "workflow-runs"


def test_only_difys_own_404_is_an_unknown_run() -> None:
    reported = b'{"code": "not_found", "message": "Workflow run not found.", "status": 404}'
    with pytest.raises(DifyRunNotFoundError):
        ServiceApi().get_run(RUN).read(Answer(404, {"content-type": "application/json"}, reported))
    with pytest.raises(DifyNotFoundError) as caught:
        ServiceApi().get_run(RUN).read(Answer(404, {"content-type": "text/html"}, b"<title>404</title>"))
    assert not isinstance(caught.value, DifyRunNotFoundError)


def test_only_what_may_be_sent_twice_is_repeatable() -> None:
    api = ServiceApi()
    assert not api.run(**SUBMISSION).call.repeatable
    assert not api.upload(Upload(io.BytesIO(), "a", "b/c"), "u").call.repeatable
    assert not WorkflowRunsApi().run(**SUBMISSION, workflow_id="w").call.repeatable
    for operation in (api.get_run(RUN), api.logs(), api.info(), api.parameters(), api.stop("t", "u")):
        assert operation.call.repeatable


def test_a_json_body_is_ascii_and_has_its_length() -> None:
    body = body_of(ServiceApi().run(**SUBMISSION).call)
    assert body is not None
    assert body.content_type == "application/json"
    assert not body.begun
    content = body.read()
    assert (len(content), body.begun) == (len(body), True)
    assert content.isascii()
    assert body.read() == b""


def test_a_multipart_body_is_read_from_the_files_position_in_chunks() -> None:
    stream = io.BytesIO(b"skip" + b"x" * 200_000)
    stream.seek(4)
    body = body_of(ServiceApi().upload(Upload(stream, 'a"b\r\nc.pdf', "application/pdf"), "ż").call)
    assert body is not None
    chunks = list(body)
    content = b"".join(chunks)
    assert len(content) == len(body)
    assert max(map(len, chunks)) <= CHUNK_BYTES
    boundary = body.content_type.partition("boundary=")[2].encode()
    assert content.startswith(b"--" + boundary + b"\r\n")
    assert content.endswith(b"\r\n--" + boundary + b"--\r\n")
    assert b'filename="a%22b%0D%0Ac.pdf"' in content
    assert 'name="user"\r\n\r\nż\r\n'.encode() in content
    assert content.count(b"x" * 200_000) == 1


def test_a_call_without_a_body_has_none() -> None:
    assert body_of(ServiceApi().info().call) is None


VERSIONS = [
    # version, survives a closed stream, lists running runs, queues runs, has the events route
    ("1.9.0", False, False, False, False),
    ("1.9.1", False, False, False, False),
    ("1.9.2", True, False, False, False),
    ("1.10.1", True, False, False, False),
    ("1.11.0", True, True, False, False),
    ("1.11.2", True, True, False, False),
    ("1.13.3", True, True, True, False),
    ("1.14.2", True, True, True, True),
    ("v1.14", True, True, True, True),
    ("1.9.1-rc1", False, False, False, False),
    ("2.0.0", True, True, True, True),
    ("10.0.0", True, True, True, True),
    (None, True, True, True, True),
    ("", True, True, True, True),
    ("latest", True, True, True, True),
]


@pytest.mark.parametrize("row", VERSIONS, ids=lambda row: str(row[0]))
def test_what_a_server_version_can_do(row: Any) -> None:
    server = Server(row[0])
    reported = (server.survives_closed_stream, server.lists_running_runs, server.queues_runs, server.has_run_events)
    assert reported == row[1:]


def logged(number: int) -> LoggedRun:
    return LoggedRun(f"run-{number}", RunStatus.SUCCEEDED, "u", None, number, number)


def collect(pages: list[LogPage], limit: int) -> tuple[list[str], list[dict[str, str]]]:
    flow, asked, reported = find_runs(ServiceApi(), {"user": "u"}, limit), [], iter(pages)
    operation = next(flow)
    while True:
        asked.append(dict(operation.call.query))
        try:
            operation = flow.send(next(reported))
        except StopIteration as end:
            return [run.workflow_run_id for run in end.value], asked


def test_runs_are_collected_over_pages_and_each_once() -> None:
    pages = [
        LogPage((logged(3), logged(2)), 1, True),
        LogPage((logged(2), logged(1)), 2, True),
        LogPage((), 3, True),
    ]
    runs, asked = collect(pages, 10)
    assert runs == ["run-3", "run-2", "run-1"]
    assert [query["page"] for query in asked] == ["1", "2", "3"]
    assert {query["limit"] for query in asked} == {"10"}


def test_no_more_pages_are_read_than_needed() -> None:
    runs, asked = collect([LogPage((logged(3), logged(2)), 1, True)], 1)
    assert (runs, len(asked)) == (["run-3"], 1)
    _, asked = collect([LogPage(tuple(map(logged, range(100))), 1, True), LogPage((logged(200),), 2, False)], 250)
    assert [query["limit"] for query in asked] == ["100", "100"]


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, "7", None])
def test_a_wrong_limit_is_refused(limit: Any) -> None:
    with pytest.raises(DifyInvalidInputError, match="limit must be a whole number of at least 1"):
        next(find_runs(ServiceApi(), {}, limit))
