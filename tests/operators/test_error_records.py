"""What a newcomer reads in the task's log after each of ten typical mistakes, and what follows it."""

from __future__ import annotations

import json
import logging
import re
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import pytest

from airflow_provider_dify.exceptions import DifyError
from airflow_provider_dify.operators.workflow import DifyRunWorkflowOperator
from airflow_provider_dify.rules.error_record import WIDTH
from airflow_provider_dify.sensors.workflow import DifyWorkflowRunSensor
from airflow_provider_dify.testing.server import DifyServer
from airflow_provider_dify.testing.workflows import Input, Step, Workflow
from tests.faults.tries import TaskInstance

SECRET = "app-S3cretKeyThatNobodyMaySee"
SCREEN_LINES = 16


def workflows() -> list[Workflow]:
    inputs = [Input("text", type="paragraph", required=True), Input("count", type="number", required=False)]
    outputs = {"body": "{text}"}
    return [
        Workflow("reader", inputs=inputs, steps=[Step("read")], outputs=outputs),
        Workflow("draft", inputs=inputs, steps=[Step("read")], outputs=outputs, published=False),
        Workflow("chatflow", inputs=inputs, steps=[Step("read")], outputs=outputs, mode="advanced-chat"),
    ]


@pytest.fixture
def server() -> Iterator[DifyServer]:
    with DifyServer(workflows(), time_scale=0.01, emulate="1.16.1") as server:
        yield server


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch, server: DifyServer) -> Callable[[str], None]:
    def connect(key: str) -> None:
        connection = {"conn_type": "dify", "host": server.base_url, "password": key}
        monkeypatch.setenv("AIRFLOW_CONN_DIFY_DEFAULT", json.dumps(connection))

    return connect


@dataclass(frozen=True)
class Mistake:
    what: str
    where: str
    to_do: str
    parameters: dict[str, Any]
    app: str = "reader"
    key: str | None = None
    sensor: bool = False


GOOD = {"inputs": {"text": "hi"}}
MISTAKES = {
    "wrong input": Mistake(
        "Input 'txt' is not declared in the form, and Dify would drop it silently. Did you mean 'text'?",
        "inputs, connection 'dify_default'",
        "Correct the task's inputs",
        {"inputs": {"txt": "hi", "text": "hi"}},
    ),
    "missing input": Mistake(
        "Input 'text' (paragraph) is required but was not given.",
        "inputs",
        "Correct the task's inputs",
        {"inputs": {}},
    ),
    "wrong type": Mistake(
        "Input 'count' must be a number, got a 4-character string.",
        "inputs",
        "Correct the task's inputs",
        {"inputs": {"text": "hi", "count": "many"}},
    ),
    "wrong connection id": Mistake(
        "There is no Airflow connection 'dify_prod'.",
        "dify_conn_id, connection 'dify_prod'",
        "Create one of the type dify",
        {**GOOD, "dify_conn_id": "dify_prod"},
    ),
    "wrong key": Mistake(
        "Starting the workflow run: HTTP 401 unauthorized: Access token is invalid.",
        "field API key, connection 'dify_default'",
        "Put the app's API key (app-…; in Dify: the app, API Access) into the connection's API key (password).",
        {**GOOD, "validate_inputs": False},
        key=SECRET,
    ),
    "dataset key": Mistake(
        "field API key (password): is the key of a knowledge base (dataset-…), which runs no workflow.",
        "field API key (password)",
        "Put the key of the app (app-…) there",
        GOOD,
        key=f"dataset-{SECRET}",
    ),
    "python repr": Mistake(
        "inputs is a string of 14 characters that is not a JSON object.",
        "inputs",
        "Render it with `| tojson`",
        {"inputs": "{'text': 'hi'}"},
    ),
    "dict to the sensor": Mistake(
        "workflow_run_id must be a non-empty string, got dict of length 1.",
        "workflow_run_id",
        "Set wait_for_termination=False on the task that starts the run",
        {"workflow_run_id": {"body": "hi"}},
        sensor=True,
    ),
    "unpublished app": Mistake(
        "Workflow not published",
        "connection 'dify_default'",
        "open its workflow in Dify and press Publish.",
        GOOD,
        app="draft",
    ),
    "chatflow key": Mistake(
        "not_workflow_app",
        "field API key",
        "Use the API key of an app of the type workflow",
        GOOD,
        app="chatflow",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_the_log_says_what_and_where_and_what_to_do_on_one_screen(
    name: str, server: DifyServer, connect: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    mistake = MISTAKES[name]
    connect(mistake.key or server.api_key(mistake.app))
    kind: Any = DifyWorkflowRunSensor if mistake.sensor else DifyRunWorkflowOperator
    monkeypatch.setattr(kind, "log", logging.getLogger("tests.records"))
    task = kind(task_id="translate", **mistake.parameters)
    with caplog.at_level(logging.ERROR), pytest.raises(DifyError) as caught:
        task.execute({"ti": TaskInstance(task_id="translate")})
    own = [record for record in caplog.records if record.name == "tests.records"]
    lines = [record.getMessage() for record in own if record.levelno == logging.ERROR]
    error, whole = caught.value, " ".join(" ".join(lines).split())

    assert lines[0] == f"Task 'translate' failed with {type(error).__name__}."
    assert [line[:8].strip() for line in lines[1:] if line[:8].strip()] == ["What:", "Where:", "To do:", "Retry:"]
    assert mistake.what in whole
    assert mistake.where in whole
    assert mistake.to_do in whole
    assert "not retried" in whole
    assert max(map(len, lines)) <= WIDTH
    assert len(lines) + len(str(error).splitlines()) <= SCREEN_LINES

    assert len(str(error).splitlines()) == 2
    assert mistake.what.split(".")[0] in str(error).splitlines()[0]
    assert mistake.to_do in str(error).splitlines()[1]


@pytest.mark.parametrize("name", MISTAKES)
def test_the_traceback_shows_neither_internals_nor_secrets(name: str, server: DifyServer, connect: Any) -> None:
    mistake = MISTAKES[name]
    connect(mistake.key or server.api_key(mistake.app))
    kind: Any = DifyWorkflowRunSensor if mistake.sensor else DifyRunWorkflowOperator
    task = kind(task_id="translate", **mistake.parameters)
    with pytest.raises(DifyError) as caught:
        task.execute({"ti": TaskInstance(task_id="translate")})
    printed = "".join(traceback.format_exception(caught.value))
    assert printed.count("airflow_provider_dify") <= 2
    assert "direct cause" not in printed
    assert "urllib3" not in printed
    assert SECRET not in printed


def test_a_server_that_is_away_is_named_without_a_dump(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    connection = {"conn_type": "dify", "host": "http://127.0.0.1:9", "password": SECRET}
    monkeypatch.setenv("AIRFLOW_CONN_DIFY_DEFAULT", json.dumps(connection))
    monkeypatch.setattr(DifyRunWorkflowOperator, "log", logging.getLogger("tests.records"))
    task = DifyRunWorkflowOperator(task_id="translate", timeout=1, submit_timeout=1, **GOOD)
    with caplog.at_level(logging.ERROR), pytest.raises(DifyError) as caught:
        task.execute({"ti": TaskInstance(task_id="translate")})
    printed = "".join(traceback.format_exception(caught.value)) + caplog.text
    assert "nothing listens there: the connection was refused." in " ".join(printed.split())
    assert "A retry of the task waits for it again." in printed
    assert "HTTPConnectionPool" not in printed
    assert SECRET not in printed


def test_an_error_is_recorded_once_and_percent_signs_stay(
    caplog: pytest.LogCaptureFixture,
) -> None:
    from airflow_provider_dify.runtime.error_report import reports_errors

    class Task:
        task_id, log = "it", logging.getLogger("tests.records")

        @reports_errors
        def execute(self) -> None:
            self.inner()

        @reports_errors
        def inner(self) -> None:
            raise DifyError("100 %s sure", advice="Do %d.", workflow_run_id="r")

    with pytest.raises(DifyError, match="100 %s sure"):
        Task().execute()
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert messages == [
        "Task 'it' failed with DifyError.",
        "  What:  100 %s sure",
        "  Where: Dify run r",
        "  To do: Do %d.",
        "  Retry: May succeed.",
    ]


def test_every_method_that_airflow_calls_reports_its_errors() -> None:
    paths = [f"{folder}.{name}" for folder in ("operators", "sensors") for name in ("workflow", "knowledge")]
    missing, seen = [], 0
    for path in [*paths, "operators.batch", "decorators.workflow", "decorators.batch"]:
        module = import_module(f"airflow_provider_dify.{path}")
        classes = [
            each for each in vars(module).values() if isinstance(each, type) and each.__module__ == module.__name__
        ]
        for each in classes:
            for name, method in vars(each).items():
                if (
                    re.fullmatch(r"execute(_\w+)?|submit_again", name) and "decorators" not in path
                ) or name == "execute":
                    seen += 1
                    missing += [] if getattr(method, "reports_errors", False) else [f"{each.__name__}.{name}"]
    assert seen >= 12
    assert missing == []
