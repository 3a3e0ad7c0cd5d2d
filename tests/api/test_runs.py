"""Runs as every server version writes them down."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_provider_dify.api import runs
from airflow_provider_dify.api.runs import RunStatus
from airflow_provider_dify.exceptions import DifyResponseError, DifyRunNotFoundError

RUN = "53cb9102-12a3-433d-bebe-e9aacf2e6703"


def row(**changes: Any) -> dict[str, Any]:
    return {
        "id": RUN,
        "workflow_id": "w",
        "status": "succeeded",
        "inputs": "{}",
        "outputs": "{}",
        "error": None,
        "total_steps": 3,
        "total_tokens": 0,
        "created_at": 1,
        "finished_at": 2,
        "elapsed_time": 0.5,
    } | changes


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ('{"text": "\\u017c"}', {"text": "ż"}),
        ({"text": "ż"}, {"text": "ż"}),
        ("{}", {}),
        ({}, {}),
        (None, {}),
        ("null", {}),
        ("", {}),
        ("  ", {}),
    ],
)
def test_outputs_come_as_an_object_however_they_are_written(outputs: Any, expected: dict[str, Any]) -> None:
    assert runs.parse_run(row(outputs=outputs), RUN).outputs == expected


@pytest.mark.parametrize("outputs", ["[1]", "text", "7", [1], 7, True, "{", '"{}"'])
def test_outputs_that_are_no_object_are_an_error_and_not_lost(outputs: Any) -> None:
    with pytest.raises(DifyResponseError, match="outputs that are no JSON object") as caught:
        runs.parse_run(row(outputs=outputs), RUN)
    assert caught.value.workflow_run_id == RUN


def test_inputs_tell_app_and_user() -> None:
    inputs = json.dumps({"sys.app_id": "app-1", "sys.user_id": "me", "text": "x"})
    run = runs.parse_run(row(inputs=inputs), RUN)
    assert (run.app_id, run.user) == ("app-1", "me")
    assert runs.parse_run(row(inputs="broken"), RUN).inputs == {}
    assert runs.parse_run(row(inputs=None), RUN).app_id is None


@pytest.mark.parametrize(
    ("status", "error", "expected", "terminal", "success"),
    [
        ("queued", None, RunStatus.QUEUED, False, False),
        ("scheduled", None, RunStatus.SCHEDULED, False, False),
        ("running", None, RunStatus.RUNNING, False, False),
        ("paused", None, RunStatus.PAUSED, False, False),
        ("succeeded", "", RunStatus.SUCCEEDED, True, True),
        ("partial-succeeded", None, RunStatus.PARTIAL_SUCCEEDED, True, True),
        ("failed", "boom", RunStatus.FAILED, True, False),
        ("failed", "Aborted: User requested stop", RunStatus.STOPPED, True, False),
        ("failed", "Aborted: Maximum execution time exceeded: 7s > 6s", RunStatus.FAILED, True, False),
        ("stopped", "Stopped by user.", RunStatus.STOPPED, True, False),
        ("stopped", "Aborted: Maximum execution time exceeded: 7s > 6s", RunStatus.STOPPED, True, False),
    ],
)
def test_statuses(status: str, error: str | None, expected: RunStatus, terminal: bool, success: bool) -> None:
    run = runs.parse_run(row(status=status, error=error), RUN)
    assert run.status is expected
    assert (run.status.is_terminal, run.status.is_success) == (terminal, success)


def test_a_status_reads_in_texts_as_dify_writes_it() -> None:
    assert f"{RunStatus.PARTIAL_SUCCEEDED}" == str(RunStatus.PARTIAL_SUCCEEDED) == "partial-succeeded"


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        ("SUCCEEDED", "'SUCCEEDED'"),
        ("partial_succeeded", "'partial_succeeded'"),
        ("x" * 99, "x" * 40),
        (7, "int"),
        (["a"], "list"),
    ],
)
def test_an_unknown_status_is_named_with_the_known_ones(status: Any, shown: str) -> None:
    with pytest.raises(DifyResponseError) as caught:
        runs.parse_run(row(status=status), RUN)
    assert shown in str(caught.value)
    assert "known are: queued, scheduled, running, paused, succeeded, partial-succeeded, failed, stopped" in str(
        caught.value
    )


def test_an_empty_error_text_is_no_error() -> None:
    assert runs.parse_run(row(error=""), RUN).error is None


@pytest.mark.parametrize("payload", [dict.fromkeys(row()), {"id": None, "status": None}, {}])
def test_an_all_null_answer_is_an_unknown_run(payload: dict[str, Any]) -> None:
    with pytest.raises(DifyRunNotFoundError, match=RUN) as caught:
        runs.parse_run(payload, RUN)
    assert caught.value.workflow_run_id == RUN


def test_an_answer_about_another_run_is_refused() -> None:
    with pytest.raises(DifyResponseError, match="about another run"):
        runs.parse_run(row(id="6b454183-889f-4bc9-8060-764be1cb16ea"), RUN)


def test_the_case_of_an_id_does_not_matter() -> None:
    assert runs.parse_run(row(id=RUN.upper()), RUN).workflow_run_id == RUN


@pytest.mark.parametrize("payload", [None, [], "text", 7, True])
def test_an_answer_that_is_no_object_is_described_by_its_shape(payload: Any) -> None:
    with pytest.raises(DifyResponseError, match=f"about run {RUN} should be a JSON object"):
        runs.parse_run(payload, RUN)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (1.5, 1.5),
        ("1.5", 1.5),
        (None, None),
        ("x", None),
        (True, None),
        ("NaN", None),
        (float("inf"), None),
        ([], None),
    ],
)
def test_numbers_are_read_without_trust(value: Any, number: float | None) -> None:
    run = runs.parse_run(row(elapsed_time=value, total_tokens=value, finished_at=value), RUN)
    assert run.elapsed_time == number
    assert run.total_tokens == run.finished_at == (None if number is None else 1)


def test_a_run_of_the_gateway_contract() -> None:
    payload = {
        "task_id": "task-1",
        "workflow_run_id": "run-4",
        "status": "succeeded",
        "outputs": {"a": 1},
        "created_at": 9,
    }
    run = runs.parse_run(payload, "run-4")
    assert (run.workflow_run_id, run.status, run.outputs, run.task_id) == (
        "run-4",
        RunStatus.SUCCEEDED,
        {"a": 1},
        "task-1",
    )


def blocking(**data: Any) -> dict[str, Any]:
    return {"task_id": "t", "workflow_run_id": RUN, "data": {"id": RUN, "status": "succeeded", "outputs": {}} | data}


@pytest.mark.parametrize(
    ("payload", "run_id", "task_id", "status", "settled"),
    [
        (blocking(), RUN, "t", "succeeded", True),
        (blocking(status="failed", error="boom"), RUN, "t", "failed", True),
        (blocking(status="paused", reasons=[{"node_title": "n"}, 7]), RUN, "t", "paused", False),
        (
            {"task_id": "task-1", "workflow_run_id": "run-4", "status": "queued", "created_at": 1},
            "run-4",
            "task-1",
            None,
            False,
        ),
        ({"workflow_run_id": "run-4"}, "run-4", None, None, False),
        ({"data": {"id": RUN}}, RUN, None, None, False),
    ],
)
def test_answers_to_a_submission(
    payload: dict[str, Any], run_id: str, task_id: str | None, status: str | None, settled: bool
) -> None:
    started = runs.parse_submitted(payload, "1.14.2")
    assert (started.workflow_run_id, started.task_id, started.settled) == (run_id, task_id, settled)
    assert started.server_version == "1.14.2"
    assert (started.run and str(started.run.status)) == status


def test_a_paused_blocking_answer_keeps_its_reasons() -> None:
    run = runs.parse_submitted(blocking(status="paused", reasons=[{"node_title": "n"}, 7])).run
    assert run is not None
    assert run.reasons == ({"node_title": "n"},)
    assert run.task_id == "t"


@pytest.mark.parametrize(
    "payload", [{}, {"task_id": "t"}, {"workflow_run_id": ""}, {"workflow_run_id": 7}, {"data": []}]
)
def test_an_answer_to_a_submission_without_a_run_id_is_an_error(payload: dict[str, Any]) -> None:
    with pytest.raises(DifyResponseError, match="names no workflow_run_id"):
        runs.parse_submitted(payload)


def logged(**run: Any) -> dict[str, Any]:
    return {
        "workflow_run": {"id": RUN, "status": "running", "error": None, "created_at": 5, "finished_at": None} | run,
        "created_by_end_user": {"session_id": "me"},
    }


def test_log_rows() -> None:
    page = runs.parse_log_page(
        {"page": 2, "has_more": True, "data": [logged(), logged(status="failed", error="x")]}, "1.14.2"
    )
    assert (page.page, page.has_more, page.server_version) == (2, True, "1.14.2")
    first = page.runs[0]
    assert (first.workflow_run_id, first.status, first.user, first.created_at) == (RUN, RunStatus.RUNNING, "me", 5)
    assert page.runs[1].error == "x"


@pytest.mark.parametrize(
    "odd",
    [None, 7, {}, {"workflow_run": None}, {"workflow_run": {"id": ""}}, logged(status="unheard"), logged(id=None)],
)
def test_odd_log_rows_are_left_out_and_the_others_stay(odd: Any) -> None:
    page = runs.parse_log_page({"data": [odd, logged()]})
    assert [run.workflow_run_id for run in page.runs] == [RUN]


@pytest.mark.parametrize("end_user", [None, {}, 7, {"session_id": None}])
def test_a_log_row_without_an_end_user_has_no_user(end_user: Any) -> None:
    assert runs.parse_log_page({"data": [logged() | {"created_by_end_user": end_user}]}).runs[0].user is None


def test_what_is_no_page_of_logs_is_an_error() -> None:
    with pytest.raises(DifyResponseError, match="no list of rows"):
        runs.parse_log_page({"data": {}})


def test_uploads_and_app_information() -> None:
    upload = runs.parse_upload({"id": "f", "name": "a.pdf", "size": "12", "extension": None})
    assert (upload.upload_file_id, upload.name, upload.size, upload.extension) == ("f", "a.pdf", 12, None)
    assert runs.parse_info({"name": "echo", "mode": "workflow"}, "1.9.1") == runs.AppInfo("echo", "workflow", "1.9.1")
    with pytest.raises(DifyResponseError, match="names no file id"):
        runs.parse_upload({"name": "x"})
    with pytest.raises(DifyResponseError, match="about the app names none"):
        runs.parse_info({"mode": "workflow"})
