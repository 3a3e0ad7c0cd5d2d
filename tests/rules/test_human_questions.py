"""What a paused run asks, as a required action, and what an answer to it means to Dify."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from airflow_provider_dify.api.human_input import (
    HumanInputAction,
    HumanInputField,
    HumanInputForm,
    HumanInputRequest,
    OptionSource,
    parse_request,
)
from airflow_provider_dify.exceptions import DifyInvalidInputError
from airflow_provider_dify.rules.human_answers import fit_answer
from airflow_provider_dify.rules.human_questions import (
    BODY_CHARS,
    SUBJECT_CHARS,
    Question,
    default_options,
    is_answerable,
    question_of,
    read_answer,
)

RECORDINGS = Path(__file__).parents[1] / "contract" / "recordings"
TOKEN = "zg5b2VwVPSoBLXriFtJSXt"


def recorded(version: str, name: str) -> HumanInputRequest:
    """Return what a recorded pause asks."""
    content = json.loads((RECORDINGS / version / f"{name}.json").read_text())
    for item in content["response"]["sse"]:
        if '"human_input_required"' in item["raw"] and "workflow_paused" not in item["raw"]:
            request = parse_request(json.loads(item["raw"].removeprefix("data: "))["data"])
            assert request is not None
            return request
    raise AssertionError(f"{name} does not pause")


def form(*fields: HumanInputField, content: str = "?", actions: tuple[str, ...] = ("Yes", "No")) -> HumanInputForm:
    return HumanInputForm(content, fields, tuple(HumanInputAction(title.lower(), title) for title in actions))


def request(title: str, form_id: str, asked: HumanInputForm) -> HumanInputRequest:
    return HumanInputRequest(title, asked, TOKEN, form_id=form_id)


def question(*fields: HumanInputField, **more: Any) -> Question:
    return question_of([request("human", "f1", form(*fields, **more))])


def test_the_recorded_form_of_1_16_1_with_three_fields() -> None:
    asked = question_of([recorded("1.16.1", "human-select-stream")])
    assert (asked.subject, asked.options, asked.multiple) == ("Dify asks: human", ("Approve", "Reject"), False)
    assert asked.body == "Please approve doc3: `comment` `pick` `att`"
    schemas = {name: param["schema"] for name, param in asked.params.items()}
    assert schemas["comment"] == {"title": "comment", "type": ["string", "null"], "format": "multiline"}
    assert schemas["pick"] == {"title": "pick", "type": "string", "enum": ["red", "green"]}
    assert schemas["att"] == {"title": "att", "type": "string"}
    assert {name: param["value"] for name, param in asked.params.items()} == {
        "comment": "dflt",
        "pick": None,
        "att": None,
    }


def test_the_recorded_form_of_1_14_2() -> None:
    asked = question_of([recorded("1.14.2", "human-stream")])
    assert asked.options == ("Approve", "Reject")
    assert list(asked.params) == ["comment"]
    assert asked.keys == [recorded("1.14.2", "human-stream").form_id]


@pytest.mark.parametrize("version", ["1.14.2", "1.16.1"])
def test_an_answer_is_what_was_recorded_as_taken(version: str) -> None:
    sent = json.loads((RECORDINGS / version / "human-form-post.json").read_text())["request"]["json"]
    asked = question_of([recorded(version, "human-stream")])
    titles = {action.id: action.title for action in asked.asked[0].form.actions}
    (answer,) = read_answer(asked, [titles[sent["action"]]], sent["inputs"])
    assert (answer.action, answer.inputs) == (sent["action"], sent["inputs"])


def test_a_number_is_sent_as_the_text_that_a_paragraph_is() -> None:
    (answer,) = read_answer(question(HumanInputField("a", "paragraph")), ["Yes"], {"a": 5})
    assert answer.inputs == {"a": "5"}


def test_what_is_left_out_or_empty_has_its_default() -> None:
    fields = HumanInputField("a", "paragraph", "proposal"), HumanInputField("b", "paragraph")
    (answer,) = read_answer(question(*fields), ["No"], {"a": None})
    assert (answer.action, answer.inputs) == ("no", {"a": "proposal", "b": ""})


def test_an_empty_text_is_an_answer() -> None:
    (answer,) = read_answer(question(HumanInputField("a", "paragraph", "proposal")), ["No"], {"a": ""})
    assert answer.inputs == {"a": ""}


@pytest.mark.parametrize(
    ("chosen", "values", "reported"),
    [
        (["Maybe"], {}, "The option 'Maybe' is none of the action's"),
        ([], {}, "One option is to be chosen, and none was"),
        (["Yes", "No"], {}, "One option is to be chosen, and 2 was"),
        ("Yes", {}, "none was"),
        (["Yes"], {"b": 1}, "The parameter 'b' is none of the action's"),
        (["Yes"], {"a": ["x"]}, "Input 'a' must be a text"),
    ],
)
def test_an_answer_that_does_not_do_says_why(chosen: Any, values: dict[str, Any], reported: str) -> None:
    with pytest.raises(DifyInvalidInputError, match=reported):
        read_answer(question(HumanInputField("a", "paragraph")), chosen, values)


def test_files_are_named_one_a_line() -> None:
    fields = HumanInputField("one", "file"), HumanInputField("many", "file-list")
    (answer,) = read_answer(
        question(*fields), ["Yes"], {"one": " https://x/a.txt ", "many": ["https://x/a\nhttps://x/b", ""]}
    )
    assert answer.inputs == {"one": "https://x/a.txt", "many": ["https://x/a", "https://x/b"]}


def test_several_forms_are_asked_in_one_action() -> None:
    asked = question_of(
        [request("legal", "f1", form(HumanInputField("why", "paragraph"))), request("sales", "f2", form())]
    )
    assert asked.options == ("1. legal: Yes", "1. legal: No", "2. sales: Yes", "2. sales: No")
    assert list(asked.params) == ["1. why"]
    assert asked.multiple
    answers = read_answer(asked, ["2. sales: No", "1. legal: Yes"], {"1. why": "law"})
    assert [(each.asked.key, each.action, each.inputs) for each in answers] == [
        ("f1", "yes", {"why": "law"}),
        ("f2", "no", {}),
    ]


def test_what_belongs_to_a_form_that_was_answered_elsewhere_is_passed_over() -> None:
    left = question_of([request("sales", "f2", form())], ["f1", "f2"])
    (answer,) = read_answer(left, ["1. legal: Yes", "2. sales: No"], {"1. why": "law"})
    assert (answer.asked.key, answer.action) == ("f2", "no")


def test_each_of_several_forms_needs_an_option() -> None:
    asked = question_of([request("legal", "f1", form()), request("sales", "f2", form())])
    with pytest.raises(DifyInvalidInputError, match="chosen for 'sales', and none was"):
        read_answer(asked, ["1. legal: Yes"], {})


def test_actions_of_the_same_title_stay_apart() -> None:
    same = HumanInputForm("?", (), (HumanInputAction("a", "Go"), HumanInputAction("b", "Go")))
    asked = question_of([request("human", "f1", same)])
    assert asked.options == ("Go", "Go (b)")
    assert read_answer(asked, ["Go (b)"], {})[0].action == "b"


def test_names_that_airflow_keeps_for_itself_are_not_used() -> None:
    asked = question(HumanInputField("_options", "paragraph"), HumanInputField("__id__", "paragraph"))
    assert list(asked.params) == ["field _options", "field __id__"]
    (answer,) = read_answer(asked, ["Yes"], {"field _options": "x"})
    assert answer.inputs == {"_options": "x", "__id__": ""}


@pytest.mark.parametrize("action", ["no", "No"])
def test_a_default_action_is_named_by_id_or_title(action: str) -> None:
    assert default_options(question(), action) == ["No"]
    assert default_options(question(), "never") is None


def test_a_form_without_token_or_actions_is_not_asked_about() -> None:
    assert is_answerable(request("human", "f1", form()))
    assert not is_answerable(HumanInputRequest("human", form(), None, form_id="f1"))
    assert not is_answerable(request("human", "f1", form(actions=())))


def test_a_long_text_is_cut() -> None:
    body = question(content="x" * (BODY_CHARS + 1)).body
    assert body.endswith("*The text is longer than what Airflow shows here. Dify shows all of it.*")
    assert len(body) < BODY_CHARS + 200


TEXTS = st.text(max_size=30)
NAMES = st.text(min_size=1, max_size=30).filter(str.strip)


@st.composite
def fields(draw: st.DrawFn) -> HumanInputField:
    kind = draw(st.sampled_from(["paragraph", "select", "number", "file", "file-list", "text-input", None]))
    options = tuple(draw(st.lists(TEXTS, min_size=1, max_size=4, unique=True)))
    default = draw(st.none() | TEXTS | st.integers())
    source = OptionSource("constant", value=options) if kind == "select" else None
    return HumanInputField(draw(NAMES), kind, default, option_source=source)


@st.composite
def requests(draw: st.DrawFn) -> list[HumanInputRequest]:
    def one(number: int) -> HumanInputRequest:
        asked = draw(st.lists(fields(), max_size=4, unique_by=lambda field: field.name))
        ids = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
        actions = tuple(HumanInputAction(name, draw(NAMES)) for name in ids)
        content = draw(st.lists(TEXTS | st.just(TOKEN) | st.just("{{#$output.a#}}")).map("".join))
        return request(draw(NAMES), f"form-{number}", HumanInputForm(content, tuple(asked), actions))

    return [one(number) for number in range(draw(st.integers(1, 3)))]


@given(requests())
def test_a_question_is_what_airflow_and_every_database_take(asked: list[HumanInputRequest]) -> None:
    made = question_of(asked)
    everything = json.dumps([made.subject, made.body, made.options, made.params])
    assert TOKEN not in everything
    assert "\\u0000" not in everything
    everything.encode()
    assert len(made.subject) <= SUBJECT_CHARS
    assert len(set(made.options)) == len(made.options) == sum(len(each.form.actions) for each in asked)
    assert len(made.params) == sum(len(each.form.fields) for each in asked)
    assert not any(name.startswith("_") for name in made.params)
    for param in made.params.values():
        assert set(param) == {"value", "description", "schema"}
        enum = param["schema"].get("enum")
        assert enum is None or param["value"] is None or param["value"] in enum
    assert question_of(asked) == made


@given(requests(), st.data())
def test_every_option_leads_back_to_its_action(asked: list[HumanInputRequest], data: st.DataObject) -> None:
    made = question_of(asked)
    chosen = {each.key: data.draw(st.sampled_from(sorted(each.options))) for each in made.asked}
    answers = read_answer(made, list(chosen.values()), {})
    assert {each.asked.key: each.action for each in answers} == {
        each.key: each.options[chosen[each.key]] for each in made.asked
    }
    assert all(each.action_title == chosen[each.asked.key] for each in answers)


@given(requests(), st.data())
def test_what_is_filled_in_fits_the_form(asked: list[HumanInputRequest], data: st.DataObject) -> None:
    made = question_of(asked)
    values = {}
    for name, param in made.params.items():
        if "enum" in param["schema"]:
            assume(len(set(param["schema"]["enum"])) == len(param["schema"]["enum"]))
            values[name] = data.draw(st.sampled_from(param["schema"]["enum"]))
        elif "file" not in str(param["description"]):
            values[name] = data.draw(TEXTS)
    chosen = [data.draw(st.sampled_from(sorted(each.options))) for each in made.asked]
    for answer in read_answer(made, chosen, values):
        known = [field for field in answer.asked.form.fields if field.type not in ("file", "file-list")]
        plain = HumanInputForm("", tuple(known), answer.asked.form.actions)
        fit_answer(plain, answer.action, {field.name: answer.inputs[field.name] for field in known})


@given(
    requests(), st.lists(st.text() | st.integers()), st.dictionaries(st.text(), st.none() | st.text() | st.integers())
)
def test_any_answer_is_read_or_refused(
    asked: list[HumanInputRequest], chosen: list[Any], values: dict[str, Any]
) -> None:
    try:
        answers = read_answer(question_of(asked), chosen, values)
    except DifyInvalidInputError:
        return
    assert len(answers) == len(asked)
