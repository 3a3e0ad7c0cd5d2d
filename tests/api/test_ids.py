"""Which texts are ids, whoever says them: a server or the author of a DAG."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dify.api.events import parse_event
from airflow_provider_dify.api.runs import parse_log_page, parse_submitted
from airflow_provider_dify.api.service_api import ServiceApi
from airflow_provider_dify.api.values import id_or_none
from airflow_provider_dify.api.workflow_runs_api import WorkflowRunsApi
from airflow_provider_dify.exceptions import DifyInvalidInputError, DifyResponseError

RUN = "6b454183-889f-4bc9-8060-764be1cb16ea"
GOOD = [RUN, "run-7", "a/b", "日本語", "x" * 255]
BAD: list[Any] = [
    "..",
    ".",
    "../x\r\n2026-11-25 ERROR forged",
    "\x1b[2J",
    "\ud800",
    "\u202etxt",
    "a\x00b",
    "x" * 256,
    "x" * 20_000_000,
]


@pytest.mark.parametrize("value", GOOD)
def test_an_id_is_taken_as_it_is(value: str) -> None:
    assert id_or_none(value) == value
    assert parse_submitted({"workflow_run_id": value, "task_id": value}).task_id == value


@pytest.mark.parametrize("value", [*BAD, "", None, 7, [RUN], True], ids=lambda value: repr(value)[:20])
def test_a_server_that_names_no_id_has_named_none(value: Any) -> None:
    """A submission is unknown then, and nothing of it reaches a log, a URL or XCom."""
    with pytest.raises(DifyResponseError) as caught:
        parse_submitted({"workflow_run_id": value})
    assert len(str(caught.value)) < 500
    assert caught.value.message.isprintable()
    assert parse_submitted({"workflow_run_id": RUN, "task_id": value}).task_id is None
    event = parse_event(json.dumps({"event": "workflow_started", "workflow_run_id": value, "task_id": value}))
    assert (event.workflow_run_id, event.task_id) == (None, None)
    rows = [{"workflow_run": {"id": value, "status": "running"}}, {"workflow_run": {"id": RUN, "status": "running"}}]
    assert [row.workflow_run_id for row in parse_log_page({"data": rows}).runs] == [RUN]


@pytest.mark.parametrize("value", BAD, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("what", ["run", "stop", "workflow"])
def test_an_author_s_id_that_cannot_be_one_is_refused_by_name(what: str, value: str) -> None:
    """``..`` would be another route of the API."""
    calls = {
        "run": lambda: WorkflowRunsApi().get_run(value),
        "stop": lambda: ServiceApi().stop(value, "me"),
        "workflow": lambda: WorkflowRunsApi().run(inputs={}, user="me", response_mode="blocking", workflow_id=value),
    }
    with pytest.raises(DifyInvalidInputError, match=r"_id must be at most 255 printable characters") as caught:
        calls[what]()
    assert len(str(caught.value)) < 500
    assert caught.value.message.isprintable()


def test_a_token_that_cannot_be_one_is_not_shown() -> None:
    with pytest.raises(DifyInvalidInputError, match="form_token must be at most 255") as caught:
        ServiceApi().human_input_form("s3cret\x00token")
    assert "s3cret" not in str(caught.value)


@given(st.text())
def test_any_id_can_be_written_and_sent(value: str) -> None:
    reported = id_or_none(value)
    if reported is not None:
        assert reported.encode().decode() == value
        assert "\n" not in reported
        assert len(reported.splitlines()) == 1
