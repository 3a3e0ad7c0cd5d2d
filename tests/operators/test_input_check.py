"""Inputs are held against the app's form before a run exists, with few requests and no harm where there is no form."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest

from airflow_provider_dify.exceptions import DifyInvalidInputError
from airflow_provider_dify.runtime import input_form_cache as forms
from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.server import DifyServer
from airflow_provider_dify.testing.workflows import Input, Workflow
from tests.faults.tries import Killed, Task, connect, death, modes, requests_to, submissions
from tests.hooks.support import VERSIONS

pytestmark = pytest.mark.any_airflow

FORM = [Input("text", max_length=5), Input("tone", type="select", options=["dry", "warm"], required=False)]
UNCHECKED = "Inputs are not checked here"


@pytest.fixture(autouse=True)
def no_forms() -> Iterator[None]:
    forms.forget_forms()
    yield
    forms.forget_forms()


@pytest.fixture
def server() -> Iterator[DifyServer]:
    with DifyServer([Workflow("app", inputs=FORM), Workflow("other", inputs=[Input("x")])], time_scale=0.01) as server:
        yield server


def task(monkeypatch: pytest.MonkeyPatch, server: DifyServer, app: str = "app", **parameters: Any) -> Task:
    connect(monkeypatch, server, app)
    return Task(**{"store": True, "deferrable": False, "inputs": {"text": "hello"}, **parameters})


def forms_asked(server: DifyServer) -> int:
    return len(requests_to(server, "GET", "/parameters"))


@modes
@pytest.mark.parametrize("version", VERSIONS)
def test_one_error_names_everything_and_no_run_exists(
    monkeypatch: pytest.MonkeyPatch, version: str, deferrable: bool
) -> None:
    with DifyServer([Workflow("app", inputs=FORM)], emulate=version, time_scale=0.01) as server:
        wrong = {"tone": "loud", "txet": "hello"}
        with pytest.raises(DifyInvalidInputError) as caught:
            task(monkeypatch, server, inputs=wrong, deferrable=deferrable).run()
        for part in (
            "'text' (text-input) is required",
            "'tone' must be one of",
            "'txet' is not declared",
            "Did you mean 'text'",
        ):
            assert part in str(caught.value)
        assert submissions(server) == []
        assert server.runs == []


def test_without_the_check_dify_answers(monkeypatch: pytest.MonkeyPatch, server: DifyServer) -> None:
    given = task(monkeypatch, server, inputs={"text": "hello", "txet": "x"}, validate_inputs=False)
    assert given.run() == {"text": "hello", "tone": None}
    assert forms_asked(server) == 0


def test_a_process_asks_once_for_each_app(monkeypatch: pytest.MonkeyPatch, server: DifyServer) -> None:
    for _ in range(5):
        task(monkeypatch, server).run()
    assert forms_asked(server) == 1
    task(monkeypatch, server, "other", inputs={"x": "y"}).run()
    assert forms_asked(server) == 2
    assert len(server.runs) == 6


def test_a_form_is_asked_for_again_after_a_while(monkeypatch: pytest.MonkeyPatch, server: DifyServer) -> None:
    task(monkeypatch, server).run()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + forms.FORM_SECONDS + 1)
    task(monkeypatch, server).run()
    assert forms_asked(server) == 2


def test_an_app_published_again_is_noticed_before_inputs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with DifyServer([Workflow("app", inputs=FORM)], time_scale=0.01) as server:
        task(monkeypatch, server).run()
    with DifyServer([Workflow("app", inputs=[Input("title")])], time_scale=0.01, port=server.port) as server:
        assert task(monkeypatch, server, inputs={"title": "new"}).run() == {"title": "new"}
        assert forms_asked(server) == 1
        with pytest.raises(DifyInvalidInputError, match="'text' is not declared"):
            task(monkeypatch, server).run()
        # The form was read a moment ago by another task, but this one cannot know that the app has not changed since.
        assert forms_asked(server) == 2
        assert len(server.runs) == 1


UNREADABLE = [
    Fault("parameters", "status", status=403, code="forbidden", message="no"),
    Fault("parameters", "status", status=500),
    Fault("parameters", "status", status=502, body="<html>bad gateway</html>"),
    Fault("parameters", "reset_before"),
    Fault("parameters", "login_page"),
    Fault("parameters", "body", body='{"user_input_form": {}}', content_type="application/json"),
    Fault("parameters", "body", body="null", content_type="application/json"),
]


@pytest.mark.parametrize("fault", UNREADABLE, ids=lambda fault: f"{fault.kind}-{fault.status or ''}")
def test_a_form_that_cannot_be_read_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, caplog: pytest.LogCaptureFixture, fault: Fault
) -> None:
    caplog.set_level(logging.INFO)
    server.inject(fault)
    assert task(monkeypatch, server).run()["text"] == "hello"
    assert caplog.text.count(UNCHECKED) == 1
    assert "A retry" not in next(line for line in caplog.messages if UNCHECKED in line)
    # It is not asked for again by each of many mapped tasks.
    task(monkeypatch, server).run()
    assert forms_asked(server) == 1


def test_the_other_contract_has_no_form(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with DifyServer([Workflow("app", inputs=FORM)], api_contract="workflow-runs", time_scale=0.01) as server:
        given = task(monkeypatch, server, workflow_id=server.app("app").workflow_id)
        assert given.run()["text"] == "hello"
        assert forms_asked(server) == 0
    assert caplog.text.count(UNCHECKED) == 1


def test_a_version_is_run_unchecked(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    given = task(monkeypatch, server, inputs={"text": "hello", "former": 1}, workflow_id=server.app("app").workflow_id)
    assert given.run()["text"] == "hello"
    assert forms_asked(server) == 0
    assert caplog.text.count(UNCHECKED) == 1


@modes
def test_a_retry_that_takes_a_run_up_asks_for_no_form(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, deferrable: bool
) -> None:
    given = task(monkeypatch, server, deferrable=deferrable)
    with death("between id and wait"):
        given.run()
    forms.forget_forms()
    assert given.retry()["text"] == "hello"
    assert forms_asked(server) == 1
    assert len(server.runs) == 1


@modes
def test_waiting_for_a_turn_asks_for_no_form_again(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, deferrable: bool
) -> None:
    server.inject(Fault("submit", "too_many_requests", status=429, headers={"Retry-After": "0.1"}))
    given = task(monkeypatch, server, deferrable=deferrable)
    resumed = type(given)._operator

    def in_a_new_process(each: Task) -> Any:
        forms.forget_forms()
        return resumed(each)

    monkeypatch.setattr(Task, "_operator", in_a_new_process)
    assert given.run()["text"] == "hello"
    assert forms_asked(server) == 1
    assert len(server.runs) == 1


def test_a_worker_that_dies_while_it_checks_leaves_no_run(monkeypatch: pytest.MonkeyPatch, server: DifyServer) -> None:
    given = task(monkeypatch, server)

    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("airflow_provider_dify.hooks.dify.DifyHook.known_form", die)
        with pytest.raises(Killed):
            given.run()
    assert given.retry()["text"] == "hello"
    assert len(server.runs) == 1
