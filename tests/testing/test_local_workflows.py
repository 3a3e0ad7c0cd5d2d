"""Workflow definitions: what they do, how they are loaded, how wrong ones are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_provider_dify.testing.server import DifyServer
from airflow_provider_dify.testing.templates import as_text, render
from airflow_provider_dify.testing.workflows import (
    HumanInput,
    Input,
    Step,
    Workflow,
    WorkflowError,
    load_workflows,
    summarize,
)
from tests.testing.local_client import Client, names

YAML = """
workflows:
  - name: translate
    description: Translates.
    inputs:
      - name: text
        type: paragraph
        max_length: 100
      - name: language
        type: select
        options: [de, fr]
        required: false
        default: de
    steps:
      - title: llm
        type: llm
        seconds: 2
        tokens: 12
        outputs:
          text: "{text} in {language}"
    outputs:
      translation: "{llm.text}"
      user: "{sys.user_id}"
    stream_text: "{llm.text}"
  - name: approve
    steps:
      - title: human
        human_input:
          form_content: "Well?"
          fields: {comment: ""}
          actions: {yes_: "Yes"}
    outputs: {comment: "{human.comment}"}
  - name: broken
    duration: 0.5
    failure: out of tokens
"""

PYTHON = """
from airflow_provider_dify.testing.workflows import Input, Workflow


def double(inputs):
    return {"n": inputs["n"] * 2}

WORKFLOWS = [Workflow("double", inputs=[Input("n", type="number")], outputs=double)]
"""


def write(path: Path, content: str) -> Path:
    """Write a file and return its path."""
    path.write_text(content, encoding="utf-8")
    return path


def test_loads_and_runs_a_yaml_file(tmp_path: Path) -> None:
    """Inputs, steps, templates, streamed text, failures."""
    workflows = load_workflows(write(tmp_path / "flows.yaml", YAML))
    with DifyServer(workflows, time_scale=0.01) as server:
        translate = Client(server, "translate")
        data = translate.run(text="hello").json()["data"]
        assert data["outputs"] == {"translation": "hello in de", "user": "me"}
        assert data["total_tokens"] == 12
        assert names(translate.run(mode="streaming", text="hello").text).count("text_chunk") == 3
        assert translate.run(text="x" * 101).status_code == 400
        assert Client(server, "approve").run().json()["data"]["status"] == "paused"
        failed = Client(server, "broken").run().json()["data"]
        assert (failed["status"], failed["error"]) == ("failed", "out of tokens")


def test_loads_and_runs_a_python_file(tmp_path: Path) -> None:
    """Functions are possible there."""
    workflows = load_workflows(write(tmp_path / "flows.py", PYTHON))
    with DifyServer(workflows) as server:
        assert Client(server, "double").run(n=21).json()["data"]["outputs"] == {"n": 42}


WRONG: Any = 3

WRONG_YAML = {
    "workflows:\n  - name: a\n    input: []": (r"workflow 'a': unknown field 'input'; did you mean 'inputs'\?"),
    "workflows:\n  - name: a\n    colour: red": ("workflow 'a': unknown field 'colour'; known fields are name, "),
    "workflows:\n  - description: a": ("workflow 1: field 'name' is missing; add it"),
    "workflows:\n  - name: 3": ("field 'name' must be a text that is not empty, not 3"),
    "workflows:\n  - name: a\n    duration: long": ("workflow 'a': field 'duration' must be a number, .* not 'long'"),
    "workflows:\n  - name: a\n    mode: chat": ("field 'mode' must be one of workflow, advanced-chat, not 'chat'"),
    "workflows:\n  - name: a\n    published: maybe": ("field 'published' must be true or false, not 'maybe'"),
    "workflows:\n  - name: a\n    inputs: text": ("workflow 'a': field 'inputs' must be a list of mappings"),
    "workflows:\n  - name: a\n    inputs: [text]": ("workflow 'a': input 1: must be a mapping of fields, not 'text'"),
    "workflows:\n  - name: a\n    inputs: [{name: t, type: text}]": (
        "workflow 'a': input 't': field 'type' must be one of text-input, "
    ),
    "workflows:\n  - name: a\n    inputs: [{name: t, type: select}]": ("field 'options' is empty; a select needs"),
    "workflows:\n  - name: a\n    inputs: [{name: t}, {name: t}]": ("field 'inputs' has 't' twice; rename one"),
    "workflows:\n  - name: a\n    steps: [{title: s, secs: 1}]": ("step 's': unknown field 'secs'; did you mean"),
    "workflows:\n  - name: a\n    steps: [{title: s, on_error: retry}]": ("'on_error' must be one of default-value"),
    "workflows:\n  - name: a\n    steps: [{title: s, retries: -1}]": ("'retries' must be a whole number, 0 or more"),
    "workflows:\n  - name: a\n    steps: [{title: s, human_input: {fields: [x]}}]": ("'fields' must be a mapping"),
    "workflows:\n  - name: a\n    failure: x\n    partial: true": ("'failure' and 'partial' exclude each other"),
    "workflows:\n  - name: a\n    duration: 1\n    steps: [{title: s}]": ("'steps' and 'duration' exclude each other"),
    "workflows:\n  - name: a\n  - name: a": ("field 'workflows' has 'a' twice"),
    "flows: []": ("no list 'workflows' at the top"),
    "workflows: [": ("not valid YAML"),
}


@pytest.mark.parametrize("content", WRONG_YAML)
def test_refuses_a_wrong_yaml_file(tmp_path: Path, content: str) -> None:
    """The message names file, workflow, field and remedy."""
    path = write(tmp_path / "wrong.yaml", content)
    with pytest.raises(WorkflowError, match=WRONG_YAML[content]) as caught:
        load_workflows(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.py", "X = 1", "no list 'WORKFLOWS'; define WORKFLOWS"),
        ("a.py", "WORKFLOWS = ['echo']", "must be a Workflow, not 'echo'"),
        ("a.py", "1 / 0", "the file raised ZeroDivisionError: division by zero"),
        ("a.json", "{}", "unknown kind of file '.json'; use .py or .yaml"),
    ],
)
def test_refuses_a_wrong_file(tmp_path: Path, name: str, content: str, message: str) -> None:
    """Whatever is wrong with it."""
    with pytest.raises(WorkflowError, match=message):
        load_workflows(write(tmp_path / name, content))


def test_refuses_a_missing_file(tmp_path: Path) -> None:
    """With its path."""
    with pytest.raises(WorkflowError, match=r"nope\.yaml: no such file"):
        load_workflows(tmp_path / "nope.yaml")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Workflow("a", steps=WRONG), "must be a list, not 3"),
        (lambda: Workflow("a", outputs=WRONG), "'outputs' must be a mapping or a function"),
        (lambda: Input("a", max_length=True), "'max_length' must be a whole number"),
        (lambda: Step("a", seconds=-1), "'seconds' must be a number, 0 or more"),
        (lambda: HumanInput(actions={}), "'actions' is empty"),
        (lambda: HumanInput(fields={"x": {"type": "number"}}), "'type' must be one of select, file"),
        (lambda: HumanInput(fields={"x": {"type": "select"}}), "a select needs its options"),
        (lambda: Workflow("a", steps=[Step("start")]), "'steps' has 'start' twice"),
    ],
)
def test_refuses_wrong_objects(build: Any, message: str) -> None:
    """Python definitions are checked as YAML ones are."""
    with pytest.raises(WorkflowError, match=message):
        build()


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("{n}", 3),
        ("{missing}", None),
        ("{step.list}", [1, 2]),
        ("n is {n}, list is {step.list}", "n is 3, list is - 1\n- 2"),
        ('{"json": {n}}', '{"json": 3}'),
        ({"a": ["{n}", "{step.text}"]}, {"a": [3, "t"]}),
        (5, 5),
    ],
)
def test_templates(template: Any, value: Any) -> None:
    """A lone placeholder keeps the type; braces without a name stay."""
    assert render(template, {"n": 3, "step": {"list": [1, 2], "text": "t"}}) == value


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (True, "True"), (3, "3"), ("é", "é"), ({"a": 1}, '{\n  "a": 1\n}')]
)
def test_values_as_text(value: Any, text: str) -> None:
    """As Dify streams them."""
    assert as_text(value) == text


@pytest.mark.parametrize(
    ("text", "summary"),
    [
        ("One. Two.", "One."),
        ("no end", "no end"),
        ("", ""),
        (" ".join(["word"] * 30), " ".join(["word"] * 20) + "..."),
    ],
)
def test_summarize(text: str, summary: str) -> None:
    """The first sentence, cut."""
    assert summarize(text) == summary
