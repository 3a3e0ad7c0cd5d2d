"""What became of a row and of a batch."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_dify.api.runs import RunStatus, WorkflowRun
from airflow_provider_dify.exceptions import (
    DifyAuthenticationError,
    DifyError,
    DifyInvalidInputError,
    DifyQuotaError,
    DifyRateLimitError,
    DifyServerError,
    DifySubmissionUnknownError,
    DifyTransportError,
)
from airflow_provider_dify.rules.batch_outcome import (
    EndBatch,
    Limits,
    PutBack,
    RowSelection,
    RowStatus,
    SearchFor,
    Settle,
    SubmitAgain,
    Tally,
    after_run,
    after_search,
    after_submission_error,
    check_max_failures,
    check_only,
)

SHUTDOWN = "Aborted: Workflow stopped because the worker is shutting down."


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (DifySubmissionUnknownError("?", reason="the stream broke"), SearchFor),
        (DifyAuthenticationError("no"), EndBatch),
        (DifyQuotaError("used up"), EndBatch),
        (DifyRateLimitError("later"), PutBack),
        (DifyServerError("away", status_code=502), PutBack),
        (DifyTransportError("refused", sent=False, cause="refused"), PutBack),
        (DifyInvalidInputError("too long"), Settle),
        (DifyServerError("crash", status_code=500, code="internal_server_error"), SubmitAgain),
    ],
)
def test_only_what_was_certainly_not_accepted_is_sent_again(error: DifyError, expected: type) -> None:
    assert isinstance(after_submission_error(error, retries_left=1), expected)


def test_a_row_that_dify_refuses_is_final() -> None:
    settled = after_submission_error(DifyInvalidInputError("too long"), retries_left=9)
    assert settled == Settle(RowStatus.FAILED, "too long", "DifyInvalidInputError", final=True)


def test_a_failed_run_is_submitted_again_as_often_as_asked() -> None:
    run = WorkflowRun("id", RunStatus.FAILED, error="boom")
    assert isinstance(after_run(run, retries_left=1, shutdowns=0), SubmitAgain)
    assert after_run(run, retries_left=0, shutdowns=0) == Settle(RowStatus.FAILED, "boom", "DifyRunFailedError")


def test_a_run_that_a_shutdown_has_stopped_takes_no_retry() -> None:
    run = WorkflowRun("id", RunStatus.STOPPED, error=SHUTDOWN)
    assert after_run(run, retries_left=0, shutdowns=4) == SubmitAgain(
        "the server's shutdown has stopped its run", shutdown=True
    )
    settled = after_run(run, retries_left=3, shutdowns=5)
    assert isinstance(settled, Settle)
    assert settled.status is RowStatus.FAILED


def test_a_lost_submission_is_sent_again_once_and_only_where_asked() -> None:
    known: dict[str, Any] = {"user": "u"}
    failed = after_search("lost", on_orphaned_intent="fail", resubmitted=False, **known)
    assert isinstance(failed, Settle)
    assert failed.status is RowStatus.UNKNOWN
    assert isinstance(after_search("lost", on_orphaned_intent="resubmit", resubmitted=False, **known), SubmitAgain)
    assert isinstance(after_search("lost", on_orphaned_intent="resubmit", resubmitted=True, **known), Settle)


def tally(succeeded: int, failed: int, rows: int | None = None, tokens: int = 0) -> Tally:
    found = Tally(rows)
    for _ in range(succeeded):
        found.add(RowStatus.SUCCEEDED, tokens, 1.0)
    for _ in range(failed):
        found.add(RowStatus.FAILED, tokens, 1.0)
    return found


@pytest.mark.parametrize(
    ("limit", "succeeded", "failed", "rows", "ends"),
    [
        (0, 5, 0, None, False),
        (0, 5, 1, None, True),
        (3, 5, 3, None, False),
        (3, 5, 4, None, True),
        (0.1, 5, 5, None, False),
        (0.1, 18, 2, None, False),
        (0.1, 17, 3, None, True),
        (0.5, 1, 3, 4, True),
    ],
)
def test_failures_end_a_batch(limit: float, succeeded: int, failed: int, rows: int | None, ends: bool) -> None:
    assert bool(Limits(max_failures=limit).passed(tally(succeeded, failed, rows))) is ends


def test_tokens_end_a_batch_once_they_are_passed() -> None:
    assert Limits(max_tokens=10).passed(tally(10, 0, tokens=1)) is None
    assert Limits(max_tokens=10).passed(tally(11, 0, tokens=1)) is not None


@pytest.mark.parametrize("value", [-1, 1.0, 0.0, 1.5, "3", True, float("nan"), [1]])
def test_other_limits_are_refused_by_name(value: Any) -> None:
    with pytest.raises(DifyInvalidInputError, match="max_failures must be a whole number of rows"):
        check_max_failures(value)


@pytest.mark.parametrize("value", ["failed", [], ["fail"], 1, {"failed": 1}, [1]])
def test_other_statuses_are_refused_by_name(value: Any) -> None:
    with pytest.raises(DifyInvalidInputError, match="only must be a list of statuses"):
        check_only(value)


def test_rows_are_selected_by_how_they_ended_last() -> None:
    ends = [(1, "failed"), (2, "succeeded"), (3, "unknown"), (1, "succeeded")]
    selection = RowSelection.of(ends, ("failed", "unknown"))
    assert [digest for digest in (1, 2, 3, 4) if selection.wants(digest)] == [3]
    assert selection.count(10) == 1
    rest = RowSelection.of(ends, ("unknown", "not_run"))
    assert [digest for digest in (1, 2, 3, 4) if rest.wants(digest)] == [3, 4]
    assert rest.count(10) == 8
