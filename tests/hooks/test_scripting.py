"""The hook's methods for people who script: what an app is, which runs there were, and a human's answer."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from airflow_provider_dify import exceptions as ex
from airflow_provider_dify.api.human_input import HumanInputAction
from airflow_provider_dify.api.runs import AppInfo, LoggedRun, RunStatus
from airflow_provider_dify.hooks.dify import DifyHook
from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.server import DifyServer
from airflow_provider_dify.testing.workflows import Input, Workflow
from tests.hooks.support import VERSIONS, Face, Start, http, serving, texts_of

versions = pytest.mark.parametrize("version", VERSIONS)


def listed(face: Face, take: int | None = None, **filters: Any) -> list[LoggedRun]:
    """Return what the listing gives, or the first of it."""
    hook = DifyHook()
    if face.mode == "sync":
        runs = list(itertools.islice(hook.list_workflow_runs(**filters), take))
        hook.close()
        return runs

    async def collect() -> list[LoggedRun]:
        found: list[LoggedRun] = []
        async for run in hook.alist_workflow_runs(**filters):
            found.append(run)
            if len(found) == take:
                break
        await hook.aclose()
        return found

    return asyncio.run(collect())


def many(count: int, user: str = "me") -> None:
    async def submit() -> None:
        hook = DifyHook()
        await asyncio.gather(
            *(hook.acreate_workflow_run({}, user=user, response_mode="blocking") for _ in range(count))
        )
        await hook.aclose()

    asyncio.run(submit())


def pages(server: DifyServer) -> list[str]:
    return [request.query["page"] for request in server.requests if request.path.endswith("/logs")]


@versions
def test_the_app(dify: Start, face: Face, version: str) -> None:
    dify("both", workflows=[Workflow("both", description="Does both.")], emulate=version)
    assert face("get_info") == AppInfo("both", "workflow", version, "Does both.", (), "admin")


@versions
def test_the_input_form(dify: Start, face: Face, version: str) -> None:
    fields = (
        Input("text", type="paragraph", max_length=7),
        Input("size", type="select", options=("S", "L"), required=False),
    )
    dify("form", workflows=[Workflow("form", inputs=fields)], emulate=version)
    form = face("get_parameters")
    assert list(form.fields) == ["text", "size"]
    text, choice = form.fields.values()
    assert (text.type, text.required, text.max_length) == ("paragraph", True, 7)
    assert (choice.type, choice.required, choice.options) == ("select", False, ("S", "L"))
    assert form.limits["image"] == 10 * 1024 * 1024
    assert form.server_version == version


def test_the_form_of_an_app_that_was_never_published(dify: Start, face: Face) -> None:
    dify("new", workflows=[Workflow("new", published=False)])
    with pytest.raises(ex.DifyAppError):
        face("get_parameters")


def test_all_runs_are_listed_once_over_as_many_pages_as_it_takes(dify: Start, face: Face) -> None:
    server = dify("echo", connections=None)
    many(7)
    many(1, user="other")
    runs = listed(face, page_size=3)
    assert sorted(run.workflow_run_id for run in runs) == sorted(run.id for run in server.runs)
    assert pages(server) == ["1", "2", "3"]
    assert {run.status for run in runs} == {RunStatus.SUCCEEDED}
    assert [run.user for run in listed(face, user="other")] == ["other"]
    assert listed(face, user="nobody") == []


def test_a_page_is_asked_for_when_it_is_needed(dify: Start, face: Face) -> None:
    server = dify("echo", connections=None)
    many(6)
    assert len(listed(face, take=2, page_size=2)) == 2
    assert pages(server) == ["1"]
    assert len(listed(face, take=3, page_size=2)) == 3
    assert pages(server) == ["1", "1", "2"]


def test_a_run_that_new_ones_push_to_the_next_page_comes_once(dify: Start) -> None:
    server = dify("echo", connections=None)
    many(4)
    hook = DifyHook()
    runs = hook.list_workflow_runs(page_size=2)
    first = [next(runs), next(runs)]
    hook.create_workflow_run({}, user="me", response_mode="blocking")
    rest = list(runs)
    ids = [run.workflow_run_id for run in first + rest]
    assert len(ids) == len(set(ids)) == 4
    assert set(ids) < {run.id for run in server.runs}


def test_every_filter_reaches_the_server(dify: Start, face: Face) -> None:
    server = dify("echo")
    moment = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    filters = {"user": "me", "status": "failed", "keyword": "needle", "created_after": moment, "created_before": moment}
    assert listed(face, **filters, page_size=7) == []
    assert dict(server.requests[-1].query) == {
        "created_by_end_user_session_id": "me",
        "status": "failed",
        "keyword": "needle",
        "created_at__after": "2026-01-01T12:00:00+02:00",
        "created_at__before": "2026-01-01T12:00:00+02:00",
        "page": "1",
        "limit": "7",
    }


@pytest.mark.parametrize("version", ["1.9.1", "1.14.2"])
def test_an_account_that_is_not_known(dify: Start, face: Face, version: str) -> None:
    dify("echo", emulate=version)
    if version == "1.9.1":
        assert listed(face, account="nobody@example.com") == []
    else:
        with pytest.raises(ex.DifyInvalidInputError, match=r"nobody@example\.com"):
            listed(face, account="nobody@example.com")


def test_a_row_tells_what_the_run_took(dify: Start, face: Face) -> None:
    dify("partial", time_scale=0.05)
    Face("sync")("create_workflow_run", {}, user="me", response_mode="blocking")
    (run,) = listed(face)
    assert run.status is RunStatus.PARTIAL_SUCCEEDED
    assert run.exceptions_count == 1
    assert run.total_steps
    assert run.elapsed_time is not None
    assert run.version
    assert run.account is None


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"page_size": 0}, "page_size must be a whole number from 1 to 100, got 0"),
    ({"page_size": 101}, "page_size must be a whole number from 1 to 100, got 101"),
    ({"created_after": datetime(2026, 1, 1)}, "time zone"),
]


@pytest.mark.parametrize(("filters", "text"), WRONG, ids=[text for _, text in WRONG])
def test_a_wrong_filter_is_refused_before_anything_is_sent(
    dify: Start, face: Face, filters: dict[str, Any], text: str
) -> None:
    server = dify()
    with pytest.raises(ex.DifyInvalidInputError, match=text):
        # Not iterated: it is an error of the call.
        DifyHook().list_workflow_runs(**filters) if face.mode == "sync" else listed(face, **filters)
    assert server.requests == []


def paused(dify: Start) -> tuple[DifyServer, Any]:
    server = dify("human_input", emulate="1.14.2")
    Face("sync").stream({"text": "the plan"}, user="me")
    return server, Face("sync")("get_workflow_run", server.runs[0].id)


def test_a_human_is_answered_for(dify: Start, face: Face) -> None:
    server, run = paused(dify)
    (token,) = face("get_form_tokens", run)
    form = face("get_human_input_form", token)
    assert form.content.startswith("Please approve the plan")
    assert [(field.name, field.type) for field in form.fields] == [("comment", "paragraph")]
    assert form.actions == (HumanInputAction("approve", "Approve"), HumanInputAction("reject", "Reject"))
    assert form.expires_at
    face("submit_human_input", token, action="approve", inputs={"comment": "fine"}, user="boss")
    while not (row := face("get_workflow_run", run.workflow_run_id)).status.is_terminal:
        pass
    assert (row.status, row.outputs) == (RunStatus.SUCCEEDED, {"comment": "fine", "action": "approve"})
    (sent,) = [request.json for request in server.requests if request.method == "POST" and "/form/" in request.path]
    assert sent == {"inputs": {"comment": "fine"}, "action": "approve", "user": "boss"}
    for ask in ({"name": "get_human_input_form"}, {"name": "submit_human_input", "action": "approve"}):
        with pytest.raises(ex.DifyInvalidInputError, match="already been submitted") as caught:
            face(ask.pop("name"), token, **ask)
        assert caught.value.code == "human_input_form_submitted"


ANSWERS: list[tuple[dict[str, Any], str]] = [
    ({"action": "nope", "inputs": {"comment": "x"}}, "Invalid action: nope"),
    ({"action": "approve"}, "Missing required inputs: comment"),
]


@pytest.mark.parametrize(("answer", "text"), ANSWERS, ids=[text for _, text in ANSWERS])
def test_an_answer_that_does_not_fit_is_refused_and_the_run_still_waits(
    dify: Start, face: Face, answer: dict[str, Any], text: str
) -> None:
    server, run = paused(dify)
    (token,) = face("get_form_tokens", run)
    with pytest.raises(ex.DifyInvalidInputError, match=text):
        face("submit_human_input", token, **answer)
    assert server.runs[0].status == "paused"


BAD_ANSWERS: list[tuple[dict[str, Any], str]] = [
    ({"form_token": "", "action": "approve"}, "form_token must be a non-empty string"),
    ({"form_token": "t", "action": "a\x00b"}, "action must be at most 255 printable characters"),
    ({"form_token": None, "action": "approve"}, "form_token must be a non-empty string, got null"),
    ({"form_token": "t", "action": ""}, "action must be a non-empty string"),
    ({"form_token": "t", "action": "approve", "user": ""}, "user must be a non-empty string"),
    ({"form_token": "t", "action": "approve", "inputs": {"x": object()}}, r"inputs\['x'\] is object"),
]


@pytest.mark.parametrize(("answer", "text"), BAD_ANSWERS, ids=[text for _, text in BAD_ANSWERS])
def test_a_wrong_answer_is_refused_before_anything_is_sent(
    dify: Start, face: Face, answer: dict[str, Any], text: str
) -> None:
    server = dify()
    with pytest.raises(ex.DifyInvalidInputError, match=text):
        face("submit_human_input", **answer)
    assert server.requests == []


def test_an_unknown_form(dify: Start, face: Face) -> None:
    dify("human_input")
    with pytest.raises(ex.DifyNotFoundError, match="Form not found"):
        face("get_human_input_form", "no/such form?")


def test_an_answer_is_sent_once(dify: Start, face: Face, naps: list[float]) -> None:
    server = dify("human_input")
    server.inject(Fault("any", "status", status=502, times=2))
    with pytest.raises(ex.DifyServerError):
        face("submit_human_input", "t", action="approve")
    assert (len(server.requests), naps) == (1, [])


@pytest.mark.parametrize("version", ["1.9.1", "1.11.2"])
def test_a_server_that_has_no_forms_names_the_version_that_has(dify: Start, face: Face, version: str) -> None:
    dify("echo", emulate=version)
    for name, options in (("get_human_input_form", {}), ("submit_human_input", {"action": "approve"})):
        with pytest.raises(ex.DifyUnsupportedError, match=f"needs Dify 1.14 or later, and this server is {version}"):
            face(name, str(uuid.uuid4()), **options)


def test_a_gateway_that_hides_the_version(connect: Any, face: Face) -> None:
    with serving() as serve:
        page = http(404, "<html><title>404 Not Found</title></html>", Content_Type="text/html")
        connect(serve(page).url, "app-x")
        with pytest.raises(ex.DifyUnsupportedError, match=r"needs Dify 1\.14 or later, and this server has no such"):
            face("get_human_input_form", "t")


def test_a_page_of_a_new_server_is_not_taken_for_an_old_one(connect: Any, face: Face) -> None:
    with serving() as serve:
        page = http(404, "<html><title>Lost</title></html>", Content_Type="text/html", X_Version="1.14.2")
        connect(serve(page).url, "app-x")
        with pytest.raises(ex.DifyNotFoundError, match="nothing is served at this path"):
            face("get_human_input_form", "t")


def test_a_token_is_reported_by_no_error(dify: Start, face: Face, naps: list[float]) -> None:
    server = dify("human_input")
    server.down()
    token = "-".join(("s3cret", "token"))
    for name, options in (("get_human_input_form", {}), ("submit_human_input", {"action": "approve"})):
        with pytest.raises(ex.DifyTransportError) as caught:
            face(name, token, **options)
        assert token not in texts_of(caught.value)


ASKS: list[tuple[str, dict[str, Any]]] = [
    ("get_info", {}),
    ("get_parameters", {}),
    ("get_human_input_form", {"form_token": "t"}),
    ("submit_human_input", {"form_token": "t", "action": "approve"}),
]


@pytest.mark.parametrize(("name", "arguments"), ASKS, ids=[name for name, _ in ASKS])
def test_the_gateway_contract_says_what_it_lacks(dify: Start, face: Face, name: str, arguments: dict[str, Any]) -> None:
    server = dify("echo", api_contract="workflow-runs")
    with pytest.raises(ex.DifyUnsupportedError, match="workflow-runs contract has no route"):
        face(name, **arguments)
    with pytest.raises(ex.DifyUnsupportedError, match="workflow-runs contract has no route"):
        listed(face)
    assert server.requests == []
