"""A run followed by its own stream, what paused runs ask, and how an end becomes a task's end."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_provider_dify import exceptions as ex
from airflow_provider_dify.api.errors import Answer
from airflow_provider_dify.api.pauses import PauseReader, questions_of
from airflow_provider_dify.api.refusals import Refusal
from airflow_provider_dify.api.runs import RunStatus, WorkflowRun
from airflow_provider_dify.api.service_api import ServiceApi
from airflow_provider_dify.rules.outcome import outputs_of, paused_error, timeout_error
from airflow_provider_dify.rules.polling import Deadline
from airflow_provider_dify.rules.streaming import StreamReader, no_stream

RUN = "53cb9102-12a3-433d-bebe-e9aacf2e6703"


def block(event: str, run_id: str | None = RUN, **fields: Any) -> bytes:
    return b"data: " + json.dumps({"event": event, "workflow_run_id": run_id, "data": {}} | fields).encode() + b"\n\n"


def test_events_come_without_pings_up_to_the_last_one() -> None:
    reader = StreamReader("u")
    stream = (
        b"event: ping\n\n"
        + block("workflow_started")
        + block("text_chunk")
        + block("workflow_finished")
        + block("late")
    )
    assert [event.event for event in reader.feed(stream)] == ["workflow_started", "text_chunk", "workflow_finished"]
    assert reader.ended
    assert reader.workflow_run_id == RUN


def test_an_error_event_refuses_before_the_start_and_not_after_it() -> None:
    with pytest.raises(Refusal):
        list(StreamReader("u").feed(block("error", None, status=400, message="no")))
    reader = StreamReader("u")
    list(reader.feed(block("workflow_started")))
    with pytest.raises(ex.DifyServerError) as caught:
        list(reader.feed(block("error", None, status=500, message="boom")))
    assert caught.value.workflow_run_id == RUN


@pytest.mark.parametrize(
    ("named", "timed_out", "kind"),
    [
        (True, True, ex.DifyRunTimeoutError),
        (True, False, ex.DifyTransportError),
        (False, True, ex.DifySubmissionUnknownError),
        (False, False, ex.DifySubmissionUnknownError),
    ],
)
def test_a_stream_that_ends_too_early(named: bool, timed_out: bool, kind: type[ex.DifyError]) -> None:
    reader = StreamReader("u")
    list(reader.feed(block("workflow_started") if named else b"event: ping\n\n"))
    with pytest.raises(ex.DifyError) as caught, reader.errors():
        reader.end(timed_out=timed_out)
    assert type(caught.value) is kind
    assert caught.value.workflow_run_id == (RUN if named else None)


def test_an_answer_that_is_no_stream() -> None:
    operation = ServiceApi().run(inputs={}, user="u", response_mode="streaming")
    accepted = Answer(200, {"content-type": "application/json"}, b'{"workflow_run_id": "run-1"}')
    error = no_stream(accepted, operation)
    assert isinstance(error, ex.DifyUnsupportedError)
    assert error.workflow_run_id == "run-1"
    assert isinstance(no_stream(Answer(401, {}, b"{}"), operation), ex.DifyAuthenticationError)
    assert isinstance(no_stream(Answer(200, {}, b"<html>"), operation), ex.DifyResponseError)


def test_questions_name_step_text_and_answers_and_hide_the_token() -> None:
    reason = {
        "node_title": "Approve",
        "form_content": "Please\napprove.",
        "form_token": "secret-token",
        "actions": [{"id": "yes", "title": "Yes"}, {"id": "no"}, "odd"],
    }
    assert questions_of([reason]) == ["The step 'Approve' asks a human: Please approve. Possible answers: Yes, no."]


@pytest.mark.parametrize(
    ("reason", "questions"),
    [
        ({}, []),
        ({"node_title": 7}, []),
        ({"node_id": "n1"}, ["The step 'n1' asks a human: a decision."]),
        ({"node_title": "n", "actions": "odd", "form_content": None}, ["The step 'n' asks a human: a decision."]),
    ],
)
def test_odd_questions_are_read_without_trust(reason: dict[str, Any], questions: list[str]) -> None:
    assert questions_of([reason]) == questions


def test_a_paused_runs_snapshot_is_read_to_its_pause() -> None:
    reader = PauseReader()
    assert reader.feed(block("workflow_started")) is True
    assert reader.feed(block("human_input_required", data={"node_title": "n", "form_content": "Ok?"})) is True
    assert reader.feed(block("workflow_paused")) is False
    assert reader.questions()[0].startswith("The step 'n' asks a human: Ok?")


def ended(status: str, error: str | None = None) -> WorkflowRun:
    return WorkflowRun("r", RunStatus(status), {"a": 1}, error)


@pytest.mark.parametrize(
    ("status", "strict", "kind"),
    [
        ("succeeded", True, None),
        ("partial-succeeded", False, None),
        ("partial-succeeded", True, ex.DifyRunPartialSuccessError),
        ("failed", False, ex.DifyRunFailedError),
        ("stopped", False, ex.DifyRunStoppedError),
    ],
)
def test_how_an_end_becomes_a_tasks_end(status: str, strict: bool, kind: type[ex.DifyError] | None) -> None:
    if kind is None:
        assert outputs_of(ended(status), fail_on_partial_success=strict) == {"a": 1}
        return
    with pytest.raises(ex.DifyRunError) as caught:
        outputs_of(ended(status, "what Dify says."), fail_on_partial_success=strict)
    assert type(caught.value) is kind
    assert caught.value.workflow_run_id == "r"
    assert "Dify run r" in str(caught.value)
    assert "A retry of the task starts a new run." in str(caught.value)
    assert not ex.is_final(caught.value)
    if kind is not ex.DifyRunPartialSuccessError:
        assert "what Dify says." in str(caught.value)


def test_an_end_without_a_text_says_so() -> None:
    with pytest.raises(ex.DifyRunFailedError, match="no error text was given"):
        outputs_of(ended("failed"), fail_on_partial_success=False)


def test_time_outs_and_pauses_say_what_was_seen_last() -> None:
    error = timeout_error("r", RunStatus.RUNNING, Deadline(0.0))
    assert "had not ended at the deadline" in str(error)
    assert "it was running" in str(error)
    assert "of unknown status" in str(timeout_error("r", None, Deadline(0.0)))
    sensor = timeout_error("r", None, Deadline(0.0), ex.DifySensorTimeoutError)
    assert isinstance(sensor, ex.DifySensorTimeoutError)
    assert "Ok?" in str(paused_error("r", ["Ok?"]))
    assert paused_error("r", []).workflow_run_id == "r"
