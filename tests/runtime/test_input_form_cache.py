"""Human-input forms with every kind of field: what they tell, how they are answered, and what their errors advise."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_dify import exceptions as ex
from airflow_provider_dify.api.human_input import HumanInputForm, OptionSource, parse_form, parse_request
from airflow_provider_dify.api.pauses import questions_of
from airflow_provider_dify.api.runs import RunStatus, UploadedFile, WorkflowRun
from airflow_provider_dify.rules.human_answers import fit_answer
from tests.hooks.support import RUN, Connect, Face, RawRequest, Serve, fails, http, serving, sse_head

TOKEN = "hhVsom7ygYsYDcgJgjYYCm"
UPLOAD = "260ed223-acf4-4669-8cb6-07a8090bf6b4"
FIELDS: list[dict[str, Any]] = [
    {
        "output_variable_name": "comment",
        "type": "paragraph",
        "default": {"type": "constant", "selector": [], "value": "dflt"},
    },
    {
        "output_variable_name": "pick",
        "type": "select",
        "option_source": {"type": "constant", "selector": [], "value": ["red", "green"]},
    },
    {
        "output_variable_name": "att",
        "allowed_file_types": ["document"],
        "allowed_file_extensions": [],
        "allowed_file_upload_methods": ["local_file", "remote_url"],
        "type": "file",
    },
]
ACTIONS = [
    {"id": "approve", "title": "Approve", "button_style": "primary"},
    {"id": "reject", "title": "Reject", "button_style": "default"},
]
FORM = {
    "form_content": "Please approve doc3: {{#$output.comment#}}",
    "inputs": FIELDS,
    "resolved_default_values": {},
    "user_actions": ACTIONS,
    "expiration_time": 1795585845,
}
REASON = {
    "TYPE": "human_input_required",
    "form_content": FORM["form_content"],
    "inputs": FIELDS,
    "actions": ACTIONS,
    "node_id": "human",
    "node_title": "Ask",
    "form_token": TOKEN,
    "approval_channels": ["console"],
    "expiration_time": 1795585845,
}
FILE = {"type": "document", "transfer_method": "local_file", "upload_file_id": UPLOAD}
GOOD = {"comment": "c", "pick": "red", "att": FILE}
RUN_ROW = {"id": RUN, "status": "paused", "inputs": json.dumps({"sys.user_id": "me"}), "outputs": {}}


@pytest.fixture(name="serve")
def fixture_serve() -> Iterator[Serve]:
    with serving() as start:
        yield start


def event(name: str, data: dict[str, Any]) -> bytes:
    payload = {"event": name, "task_id": RUN, "workflow_run_id": RUN, "data": data}
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


class Dify:
    """A server with one run that waits for an answer to a form of three fields, and checks it as 1.16.1 does."""

    def __init__(self, reason: dict[str, Any] = REASON) -> None:
        self.reason = reason
        self.answers: list[dict[str, Any]] = []

    def __call__(self, request: RawRequest, connection: socket.socket) -> bytes:
        method, target, _ = request.line.split(" ")
        if "/events" in target:
            return sse_head("1.16.1") + event("human_input_required", self.reason) + event("workflow_paused", {})
        if target.endswith(f"/form/human_input/{TOKEN}"):
            return self._answered(json.loads(request.body)) if method == "POST" else http(200, FORM)
        if target.endswith("/files/upload"):
            body = {"id": UPLOAD, "name": "report.txt", "size": 1, "extension": "txt", "mime_type": "text/plain"}
            return http(201, body)
        return http(200, RUN_ROW, X_Version="1.16.1")

    def _answered(self, answer: dict[str, Any]) -> bytes:
        inputs, fault = answer["inputs"], None
        missing = [field["output_variable_name"] for field in FIELDS if field["output_variable_name"] not in inputs]
        if answer["action"] not in ("approve", "reject"):
            fault = f"Invalid action: {answer['action']}"
        elif missing:
            fault = f"Missing required inputs: {', '.join(missing)}"
        elif inputs["pick"] not in ("red", "green"):
            fault = f"Invalid value for select input 'pick': {inputs['pick']}"
        elif not isinstance(inputs["att"], dict):
            fault = "Invalid value for file input 'att': expected mapping"
        if fault is not None:
            return http(400, {"code": "invalid_form_data", "message": fault, "status": 400})
        self.answers.append(answer)
        return http(200, {})


def test_a_form_tells_options_and_file_rules(face: Face, serve: Serve, connect: Connect) -> None:
    connect(serve(Dify()).url)
    form = face("get_human_input_form", TOKEN)
    comment, pick, att = form.fields
    assert (comment.name, comment.type, comment.default, comment.options) == ("comment", "paragraph", "dflt", ())
    assert pick.option_source == OptionSource("constant", (), ("red", "green"))
    assert pick.options == ("red", "green")
    assert (att.is_file, att.allowed_file_types, att.number_limits) == (True, ("document",), None)
    assert (att.allowed_file_extensions, att.allowed_file_upload_methods) == ((), ("local_file", "remote_url"))


def test_requests_tell_token_and_channels(face: Face, serve: Serve, connect: Connect) -> None:
    connect(serve(Dify()).url)
    run = face("get_workflow_run", RUN)
    (request,) = face("get_human_input_requests", run)
    assert (request.title, request.form_token, request.approval_channels) == ("Ask", TOKEN, ("console",))
    assert [field.name for field in request.form.fields] == ["comment", "pick", "att"]
    assert [action.id for action in request.form.actions] == ["approve", "reject"]
    assert TOKEN not in repr(request)


def test_a_form_without_a_token_is_reported_with_its_place(face: Face, serve: Serve, connect: Connect) -> None:
    connect(serve(Dify({**REASON, "form_token": None, "approval_channels": ["email"]})).url)
    run = face("get_workflow_run", RUN)
    assert face("get_form_tokens", run) == []
    (request,) = face("get_human_input_requests", run)
    assert (request.form_token, request.approval_channels) == (None, ("email",))
    (question,) = face("get_pause_questions", run)
    assert question.endswith("Possible answers: Approve, Reject. It is answered outside of this API: email.")


@pytest.mark.parametrize("reason", [{}, {"node_title": 7}, {"form_token": "x"}])
def test_a_reason_that_asks_no_human_is_no_request(reason: dict[str, Any]) -> None:
    assert parse_request(reason) is None


def test_an_older_reason_says_nothing_about_channels() -> None:
    assert questions_of([{"node_title": "n", "form_content": "Ok?"}]) == ["The step 'n' asks a human: Ok?."]
    request = parse_request({"node_title": "n", "inputs": "odd", "actions": None, "approval_channels": "odd"})
    assert request is not None
    assert (request.form.fields, request.form.actions, request.approval_channels) == ((), (), ())


def example() -> str:
    """Return the example of the documentation."""
    page = (Path(__file__).parents[2] / "docs/hook.md").read_text(encoding="utf-8")
    (code,) = (each for each in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "submit_human_input" in each)
    return code


def test_the_documented_example_answers_a_form_of_every_kind(serve: Serve, connect: Connect, tmp_path: Path) -> None:
    dify = Dify()
    connect(serve(dify).url)
    report = tmp_path / "report.txt"
    report.write_text("x")
    made: dict[str, Any] = {}
    exec(example().replace("/data/report.txt", str(report)), made)
    made["approve"](RUN)
    (answer,) = dify.answers
    assert answer["inputs"] == {"comment": "checked by the pipeline", "pick": "red", "att": FILE}


FILES: list[Any] = [
    FILE,
    UPLOAD,
    UploadedFile(UPLOAD, "report.txt", 1, "txt", "text/plain"),
    "https://example.com/report.pdf",
    {"type": "document", "transfer_method": "remote_url", "url": "https://example.com/report.pdf"},
]


@pytest.mark.parametrize("file", FILES, ids=["mapping", "upload id", "upload", "url", "url mapping"])
def test_a_file_may_be_named_in_every_way(face: Face, serve: Serve, connect: Connect, file: Any) -> None:
    dify = Dify()
    connect(serve(dify).url)
    form = face("get_human_input_form", TOKEN)
    face("submit_human_input", TOKEN, action="approve", inputs={**GOOD, "att": file}, form=form)
    (answer,) = dify.answers
    assert answer["inputs"]["att"] in (FILE, FILES[-1])


def test_an_upload_needs_no_form(face: Face, serve: Serve, connect: Connect) -> None:
    dify = Dify()
    connect(serve(dify).url)
    face("submit_human_input", TOKEN, action="approve", inputs={**GOOD, "att": FILES[2]})
    assert dify.answers[0]["inputs"] == GOOD


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"action": "nope"}, "The action 'nope' is none of the form's: 'approve', 'reject'."),
    ({"action": None}, "The action null is none of the form's"),
    ({"action": ["approve"]}, "The action list of length 1 is none of the form's"),
    ({"inputs": {"comment": "c", "att": FILE}}, "Input 'pick' (select) is required but was not given."),
    ({"inputs": {**GOOD, "pick": "s3cret"}}, "Input 'pick' is none of the options: 'red', 'green'."),
    ({"inputs": {**GOOD, "pick": ["red"]}}, "Input 'pick' must be one of the options, as a string, got list"),
    ({"inputs": {**GOOD, "att": [FILE]}}, "Input 'att' must be one file, got list of length 1."),
    ({"inputs": {**GOOD, "att": "s3cret"}}, "Input 'att' is a"),
    ({"inputs": {**GOOD, "att": 5}}, "Input 'att' must be a URL, an upload id or a mapping, got int."),
    ({"inputs": {**GOOD, "att": {**FILE, "type": "image"}}}, "'att' is of the type 'image', and the form allows 'doc"),
    ({"inputs": {**GOOD, "att": {**FILE, "type": "custom"}}}, "'att' is of the type custom; the form takes document"),
    ({"inputs": {**GOOD, "zzz": 1}}, "Input 'zzz' is not a field of the form."),
    ({"inputs": None}, "Input 'comment' (paragraph) is required"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "text"), WRONG, ids=[text[:50] for _, text in WRONG])
def test_an_answer_that_does_not_fit_is_not_sent(
    face: Face, serve: Serve, connect: Connect, answer: dict[str, Any], text: str
) -> None:
    server = serve(Dify())
    connect(server.url)
    form = parse_form(FORM)
    error = fails(
        ex.DifyInvalidInputError,
        face,
        "submit_human_input",
        TOKEN,
        **{"action": "approve", "inputs": GOOD, "form": form, **answer},
    )
    assert text in str(error)
    assert "nothing was sent and the run still waits" in str(error)
    assert "s3cret" not in str(error)
    assert server.requests == []


def test_one_error_names_everything() -> None:
    with pytest.raises(ex.DifyInvalidInputError) as caught:
        fit_answer(parse_form(FORM), "nope", {"pick": "blue"})
    for part in ("'nope'", "'comment' (paragraph) is required", "'pick' is none", "'att' (file) is required"):
        assert part in str(caught.value)


def form_of(**field: Any) -> HumanInputForm:
    return parse_form({**FORM, "inputs": [{"output_variable_name": "x", **field}]})


def test_what_only_the_server_can_know_passes() -> None:
    variable = {"type": "variable", "selector": ["start", "choices"], "value": []}
    form = form_of(type="select", option_source=variable)
    assert form.fields[0].option_source == OptionSource("variable", ("start", "choices"), ())
    assert fit_answer(form, "approve", {"x": "anything"}) == {"x": "anything"}
    assert fit_answer(form_of(type="paragraph"), "approve", {"x": 5}) == {"x": 5}
    assert fit_answer(form_of(type="of a later version"), "approve", {"x": [None]}) == {"x": [None]}


def test_a_list_of_files_has_its_limit() -> None:
    form = form_of(type="file-list", number_limits=1, allowed_file_upload_methods=["local_file"])
    assert fit_answer(form, "approve", {"x": [UPLOAD]}) == {"x": [FILE]}
    for value, text in (
        ([UPLOAD, UPLOAD], "has 2 files, and the form takes 1"),
        (UPLOAD, "must be a list of files"),
        (["https://x.example/a.txt"], r"'x'\[0\] has the transfer_method remote_url; the form takes local_file"),
    ):
        with pytest.raises(ex.DifyInvalidInputError, match=text):
            fit_answer(form, "approve", {"x": value})


ERRORS: list[tuple[int, str, str, type[ex.DifyError], str]] = [
    (412, "human_input_form_submitted", "This form has already been submitted by another user, form_id=d94b",
     ex.DifyInvalidInputError, "A form can be answered once, and this one has been"),
    (400, "invalid_form_data", "Invalid action: nope", ex.DifyInvalidInputError, "Compare action and"),
    (400, "invalid_form_data", "Missing required inputs: att", ex.DifyInvalidInputError, "Compare action and inputs"),
    (400, "invalid_form_data", "Invalid value for select input 'pick': expected", ex.DifyInvalidInputError, "Compare"),
    (400, "invalid_param", "1 validation error for HumanInputFormSubmitPayload", ex.DifyInvalidInputError, "Compare"),
    (404, "not_found", f"Form not found. You have requested this URI [/v1/form/human_input/{TOKEN}] but did you mean "
     "/v1/form/human_input/<string:form_token> ?", ex.DifyNotFoundError, "There is no such form for the app"),
]  # fmt: skip


@pytest.mark.parametrize("submits", [True, False], ids=["answer", "read"])
@pytest.mark.parametrize("row", ERRORS, ids=lambda row: f"{row[0]}-{row[2][:20]}")
def test_errors_advise_about_forms_and_hide_the_token(
    face: Face, serve: Serve, connect: Connect, row: tuple[int, str, str, type[ex.DifyError], str], submits: bool
) -> None:
    status, code, message, kind, advice = row
    connect(serve(http(status, {"code": code, "message": message, "status": status}, X_Version="1.16.1")).url)
    name, options = ("submit_human_input", {"action": "approve"}) if submits else ("get_human_input_form", {})
    error = fails(kind, face, name, TOKEN, **options)
    assert type(error) is kind
    assert (error.status_code, error.code) == (status, code)
    assert advice in str(error)
    assert message.partition(" [")[0] in str(error)
    assert "start node" not in str(error)
    assert TOKEN not in str(error)
    assert TOKEN not in repr(error.args)


def test_a_paused_run_of_a_blocking_answer_tells_its_requests() -> None:
    run = WorkflowRun(RUN, RunStatus.PAUSED, reasons=(REASON,))
    request = parse_request(run.reasons[0])
    assert request is not None
    assert request.approval_channels == ("console",)
