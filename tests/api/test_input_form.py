"""Inputs against an app's form: what is refused, in which words, and that real servers refuse the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dify.api.input_form import STOCK_LIMITS, FileRules, FormField, InputForm
from airflow_provider_dify.exceptions import DifyInvalidInputError, DifyResponseError
from airflow_provider_dify.rules.input_files import with_uploads
from airflow_provider_dify.testing.files import FileStore
from airflow_provider_dify.testing.inputs import CrashingInputs, RefusedInputs, check_inputs
from airflow_provider_dify.testing.runs import EndUser
from airflow_provider_dify.testing.versions import get_version
from airflow_provider_dify.testing.workflows import Input, Workflow
from tests.contract.server_apps import workflows
from tests.contract.test_parsing import RECORDINGS
from tests.hooks.support import VERSIONS

DOCUMENT = {
    "type": "document",
    "transfer_method": "local_file",
    "upload_file_id": "5cef34e0-e597-4002-81c3-d11dff183bec",
}


def form_of(*fields: FormField, version: str | None = "1.14.2", **options: Any) -> InputForm:
    return InputForm({each.name: each for each in fields}, server_version=version, **options)


FORM = form_of(
    FormField("text", "text-input", required=True, max_length=5),
    FormField("para", "paragraph"),
    FormField("number", "number"),
    FormField("choice", "select", options=("a", "b")),
    FormField("flag", "checkbox"),
    FormField("object", "json_object"),
    FormField("doc", "file", files=FileRules(types=("document", "image"))),
    FormField("docs", "file-list", max_length=2),
    FormField("later", "a-type-of-tomorrow"),
)

ACCEPTED: list[dict[str, Any]] = [
    {},
    {"text": ""},
    {"text": "12345"},
    {"para": "x" * 100_000},
    *[{"number": value} for value in (0, -1.5, True, "42", " 4.5 ", "", "1_000", None)],
    *[{"flag": value} for value in (True, 0, "yes", "maybe", 1.0, [1], {})],
    *[{"choice": value} for value in ("a", None)],
    *[{"object": value} for value in ({}, {"a": 1}, "", [], 0)],
    *[{"doc": value} for value in (DOCUMENT, {**DOCUMENT, "type": "custom"}, "", None)],
    *[{"docs": value} for value in ([], [DOCUMENT], [DOCUMENT, DOCUMENT], "")],
    *[{"later": value} for value in ("x", [1], {})],
]
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"text": None}, r"'text' \(text-input\) is required but was not given"),
    ({"text": 5}, "'text' must be a string, got int"),
    ({"text": ["x"]}, "'text' must be a string, got list of length 1"),
    ({"text": "123456"}, "'text' has 6 characters, and the form allows 5"),
    ({"number": "many"}, "'number' must be a number, got a 4-character string"),
    ({"number": "1e5"}, "'number' must be a number"),
    ({"number": [1]}, "'number' must be a number, got list of length 1"),
    ({"choice": "c"}, "'choice' must be one of 'a', 'b', got a 1-character string"),
    ({"choice": ""}, "'choice' must be one of 'a', 'b', got a 0-character string"),
    ({"choice": 1}, "'choice' must be one of the form's options, as a string, got int"),
    ({"object": '{"a": 1}'}, "'object' must be an object .* The string is not a JSON object"),
    ({"object": [1]}, "'object' must be an object"),
    ({"doc": "x"}, "'doc' must be a file, got str of length 1"),
    ({"doc": [DOCUMENT]}, "'doc' must be a file, got list"),
    ({"doc": {"upload_file_id": "x"}}, "'doc' has no 'type'"),
    ({"doc": {**DOCUMENT, "type": "audio"}}, "'doc' is of the type 'audio', and the form allows 'document', 'image'"),
    ({"docs": DOCUMENT}, "'docs' must be a list of files, got dict"),
    ({"docs": [DOCUMENT] * 3}, "'docs' has 3 files, and the form allows 2"),
    ({"docs": [DOCUMENT, "x"]}, r"'docs' \[1\] must be a file, got str"),
    ({"txet": "x"}, "'txet' is not declared in the form, and Dify would drop it silently. Did you mean 'text'?"),
    ({"zzz": "x"}, "'zzz' is not declared .* Declared are: 'text', 'para'"),
]


@pytest.mark.parametrize("inputs", ACCEPTED, ids=str)
def test_what_fits_passes(inputs: dict[str, Any]) -> None:
    assert FORM.problems({"text": "x", **inputs}) == []


@pytest.mark.parametrize(("inputs", "text"), REFUSED, ids=[str(inputs)[:60] for inputs, _ in REFUSED])
def test_what_does_not_fit_is_named(inputs: dict[str, Any], text: str) -> None:
    with pytest.raises(DifyInvalidInputError, match=text) as caught:
        FORM.check({"text": "x", **inputs})
    assert "nothing was submitted" in str(caught.value)
    assert "validate_inputs=False" in str(caught.value)


def test_one_error_names_every_input_and_no_value() -> None:
    with pytest.raises(DifyInvalidInputError) as caught:
        FORM.check({"number": "s3cret", "choice": "s3cret", "text": ["s3cret"], "other": "s3cret"})
    message = str(caught.value)
    for name in ("'text'", "'number'", "'choice'", "'other'"):
        assert name in message
    assert "s3cret" not in message


@pytest.mark.parametrize("version", ["1.9.1", "1.11.2", None])
def test_a_json_text_passes_where_it_is_not_known_to_be_refused(version: str | None) -> None:
    assert form_of(FormField("o", "json_object"), version=version).problems({"o": "{}"}) == []


def test_a_form_that_cannot_be_read_whole_declares_no_name_undeclared() -> None:
    form = InputForm.parse({"user_input_form": [{"text-input": {"variable": "a"}}, {"odd": 1}, "x", {"a": 1, "b": 2}]})
    assert list(form.fields) == ["a"]
    assert form.problems({"b": 1}) == []


@pytest.mark.parametrize("payload", [{}, {"user_input_form": None}, {"user_input_form": {"a": 1}}])
def test_no_form_is_no_form(payload: dict[str, Any]) -> None:
    with pytest.raises(DifyResponseError, match="user_input_form"):
        InputForm.parse(payload)


def recording(version: str, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((RECORDINGS / version / f"{name}.json").read_text(encoding="utf-8"))
    return content


@pytest.mark.parametrize("version", VERSIONS)
def test_the_recorded_forms_are_read(version: str) -> None:
    form = InputForm.parse(recording(version, "parameters")["response"]["json"], version)
    assert form.is_complete
    docs = form.fields["docs"]
    assert (docs.type, docs.required, docs.max_length) == ("file-list", False, 3)
    assert form.files.types == ("document", "image")
    assert form.limits == STOCK_LIMITS
    if version == "1.14.2":
        assert form.fields["choice"].options == ("a", "b", "c")
        assert form.fields["text"] == FormField("text", "text-input", required=True, max_length=48)


def test_limits_of_a_server_are_taken() -> None:
    limits = {
        "image_file_size_limit": 1,
        "file_size_limit": "200",
        "audio_file_size_limit": 0,
        "video_file_size_limit": [],
    }
    form = InputForm.parse({"user_input_form": [], "system_parameters": limits})
    assert form.limits == {**STOCK_LIMITS, "image": 1 << 20, "document": 200 << 20}


# Recorded runs of the apps with a form, and whether the real server took their inputs.
RUNS = {
    **dict.fromkeys(("run-blocking-echo", "run-streaming-echo", "run-default-mode", "user-integer"), True),
    **dict.fromkeys(("required-empty", "number-numeric-string", "file-run", "file-run-remote"), True),
    **dict.fromkeys(("missing-required-blocking", "missing-required-streaming", "text-too-long"), False),
    **dict.fromkeys(("number-list", "select-bad-option", "object-json-string"), False),
}
RECORDED = [
    (version, name) for version in VERSIONS for name in RUNS if (RECORDINGS / version / f"{name}.json").exists()
]


def recorded_form(version: str, app: str) -> InputForm:
    """Return the form of an app; the local server's is held against the recorded ones elsewhere."""
    from airflow_provider_dify.testing.service_api import input_form

    workflow = next(each for each in workflows(version) if each.name == app)
    return InputForm.parse({"user_input_form": input_form(workflow)}, version)


@pytest.mark.parametrize(("version", "name"), RECORDED)
def test_the_check_agrees_with_the_real_server(version: str, name: str) -> None:
    content = recording(version, name)
    inputs = content["request"]["json"]["inputs"]
    problems = recorded_form(version, content["app"]).problems(inputs)
    # A name that the form does not have is dropped by Dify without a word, and named here all the same.
    undeclared = [each for each in problems if "is not declared" in each]
    assert bool(set(problems) - set(undeclared)) is not RUNS[name]


def test_the_recorded_runs_are_all_there() -> None:
    assert len(RECORDED) >= 25
    assert {name for _, name in RECORDED} == set(RUNS)


# What newer servers were seen to take and to refuse, in streaming mode often with no word that says what was wrong.
TAKEN = [
    "checkbox-word-blocking", "checkbox-yes", "number-empty-string", "number-numeric-string", "required-empty",
    "run-blocking-echo", "run-streaming-echo", "run-default-mode", "user-integer", "file-run", "file-run-remote",
    "file-list-run", "input-undeclared",
]  # fmt: skip
REFUSED_BY_SERVER = [
    "missing-required-blocking", "missing-required-streaming", "null-required-blocking", "null-required-streaming",
    "text-too-long", "text-too-long-streaming", "text-not-string-blocking", "text-not-string-streaming",
    "number-list", "number-list-streaming", "number-text-blocking", "number-text-streaming", "select-bad-option",
    "select-bad-option-streaming", "select-empty", "object-json-string", "object-json-string-streaming",
    "object-list-blocking", "object-list-streaming", "file-run-bad-id", "file-run-bad-id-streaming",
    "file-run-bad-method", "file-run-bad-method-streaming", "file-run-no-type", "file-run-no-type-streaming",
    "file-run-remote-not-http", "file-run-remote-not-http-streaming", "file-run-string",
    "file-run-string-streaming", "file-list-not-list", "file-list-too-many",
]  # fmt: skip
TAKEN_BY_RELEASE = [
    "checkbox-list", "checkbox-word", "checkbox-yes", "file-run", "run-blocking-echo", "run-streaming-echo",
]  # fmt: skip
REFUSED_BY_RELEASE = [
    "missing-required-blocking", "missing-required-streaming", "null-required-streaming", "number-list",
    "number-list-streaming", "number-text-streaming", "object-json-string-streaming", "select-bad-option-streaming",
    "text-not-string-streaming", "text-too-long-streaming", "file-run-no-type",
]  # fmt: skip
# What a task sends instead, since the form tells what is meant.
READ_OTHERWISE = ("object-json-string", "text-not-string")
NEWER = [
    *[("1.16.1", "parameters", name, True) for name in TAKEN],
    *[("1.16.1", "parameters", name, False) for name in REFUSED_BY_SERVER],
    *[("1.14.2", "parameters-release", f"{name}-release", True) for name in TAKEN_BY_RELEASE],
    *[("1.14.2", "parameters-release", f"{name}-release", False) for name in REFUSED_BY_RELEASE],
]


@pytest.mark.parametrize(("version", "form_name", "name", "is_taken"), NEWER)
def test_the_check_covers_what_newer_servers_refuse(version: str, form_name: str, name: str, is_taken: bool) -> None:
    form = InputForm.parse(recording(version, form_name)["response"]["json"], version)
    inputs = recording(version, name)["request"]["json"]["inputs"]
    try:
        # What is sent otherwise than given is checked as it is given here.
        files = with_uploads(inputs, form)
        problems = [each for each in form.problems(files) if "is not declared" not in each]
    except DifyInvalidInputError as error:
        problems = [str(error)]
    assert bool(problems) is not is_taken
    if name.startswith(READ_OTHERWISE):
        assert form.problems(form.read(inputs)) == []


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", " ", "a", "b", "c", "yes", "no", "1", "1.5", "1e5", "x" * 6, "{}"]) | st.text(max_size=8)
    | st.just(DOCUMENT) | st.just({**DOCUMENT, "type": "audio"}),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip
INPUTS = [
    Input("text", max_length=5),
    Input("para", type="paragraph", required=False),
    Input("number", type="number", required=False),
    Input("choice", type="select", required=False, options=["a", "b"]),
    Input("flag", type="checkbox", required=False),
    Input("object", type="json_object", required=False),
    Input("doc", type="file", required=False),
    Input("docs", type="file-list", required=False, max_length=2),
]


def local_server_takes(inputs: Mapping[str, Any], version: str) -> bool:
    owner = EndUser("id", "user")
    files = FileStore(None, 0.0)
    stored = files.add("a.txt", b"x", None, owner)

    def placed(value: Any) -> Any:
        if isinstance(value, list):
            return [placed(each) for each in value]
        known = isinstance(value, Mapping) and value.get("upload_file_id") == DOCUMENT["upload_file_id"]
        return {**value, "upload_file_id": stored.id} if known else value

    sent = {name: placed(value) for name, value in inputs.items()}
    try:
        asyncio.run(check_inputs(Workflow("w", inputs=INPUTS), sent, get_version(version), files, owner))
    except (RefusedInputs, CrashingInputs):
        return False
    return True


@pytest.mark.parametrize("version", VERSIONS)
@given(inputs=st.fixed_dictionaries({}, optional={each.name: VALUES for each in INPUTS}))
def test_what_the_local_server_takes_is_not_refused(version: str, inputs: dict[str, Any]) -> None:
    from airflow_provider_dify.testing.service_api import input_form

    form = InputForm.parse({"user_input_form": input_form(Workflow("w", inputs=INPUTS))}, version)
    if local_server_takes(inputs, version):
        assert form.problems(inputs) == []


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_answer_is_a_form_or_an_error_of_ours(payload: Any) -> None:
    entries = payload if isinstance(payload, list) else [payload]
    for reported in (
        {"user_input_form": entries, "system_parameters": payload, "file_upload": payload},
        {"user_input_form": payload},
    ):
        try:
            form = InputForm.parse(reported)
        except DifyResponseError:
            continue
        form.problems({"x": payload, **dict.fromkeys(form.fields, payload)})


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({"text": 42, "para": True, "choice": 1}, {"text": "42", "para": "True", "choice": "1"}),
        ({"text": 1.5, "number": 42, "flag": True}, {"text": "1.5", "number": 42, "flag": True}),
        ({"object": ' {"a": 1}', "text": '{"a": 1}'}, {"object": {"a": 1}, "text": '{"a": 1}'}),
        *[({"object": text}, {"object": text}) for text in ("[1]", "x", "", "{", '{"a": NaN}')],
        ({"docs": f"[{json.dumps(DOCUMENT)}]"}, {"docs": [DOCUMENT]}),
        ({"doc": json.dumps(DOCUMENT)}, {"doc": DOCUMENT}),
        # No text names a local file: somebody else may have written it.
        ({"doc": '{"path": "/x"}', "docs": '[{"path": "/x"}]'}, {"doc": '{"path": "/x"}', "docs": '[{"path": "/x"}]'}),
        ({"text": None, "other": 1, "later": 1}, {"text": None, "other": 1, "later": 1}),
    ],
    ids=str,
)
def test_a_value_is_read_as_what_the_form_says_that_it_is(inputs: dict[str, Any], expected: dict[str, Any]) -> None:
    assert FORM.read(inputs) == expected
