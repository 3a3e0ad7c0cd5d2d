"""What follows a failed task: which errors are tried again, after how long, and at whose cost."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from airflow_provider_dify import exceptions
from airflow_provider_dify.api.errors import Answer, error_for_answer
from airflow_provider_dify.exceptions import (
    DifyError,
    DifyFileError,
    DifyRateLimitError,
    DifyResponseError,
    DifyRunFailedError,
    DifyRunTimeoutError,
    DifySensorTimeoutError,
    DifyServerError,
    DifySubmissionUnknownError,
    DifyTransportError,
    is_final,
)
from airflow_provider_dify.rules.retries import RetryKind, RetryPlan, plan_retry

FAIL, RETRY, RESCHEDULE, DEFAULT = RetryKind.FAIL, RetryKind.RETRY, RetryKind.RESCHEDULE, RetryKind.DEFAULT
CLASSES = [kind for kind in vars(exceptions).values() if isinstance(kind, type) and issubclass(kind, DifyError)]


def plan(error: BaseException, **arguments: Any) -> RetryPlan:
    known = {"attempt": 0, "first_delay": 60, "longest_delay": 900, "can_reschedule": True, "jitter": 0.0}
    return plan_retry(error, **{**known, **arguments})


def answered(status: int, body: bytes = b"{}") -> DifyError:
    return error_for_answer(Answer(status, body=body), "Starting a run")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (DifyRateLimitError("x", status_code=429), RESCHEDULE),
        (DifyRateLimitError("x", status_code=400), RESCHEDULE),
        # A run that is known makes the marker of this try one that is taken.
        (DifyRateLimitError("x", workflow_run_id="1"), RETRY),
        *[(DifyServerError("x", status_code=status), RESCHEDULE) for status in (502, 503, 504)],
        *[(DifyServerError("x", status_code=status, workflow_run_id="1"), RETRY) for status in (502, 503, 504)],
        *[(DifyServerError("x", status_code=status), RETRY) for status in (500, 501, 507)],
        *[(DifyTransportError("x", cause=cause), RESCHEDULE) for cause in (None, "refused", "timeout", "closed")],
        (DifyTransportError("x", cause="refused", workflow_run_id="1"), RETRY),
        *[(DifyTransportError("x", cause=cause), FAIL) for cause in ("certificate", "plain_http")],
        *[(DifyTransportError("x", cause=cause), DEFAULT) for cause in ("name", "tls")],
        # Nothing tells whether there is a run: whether a further try may look for it is the DAG author's choice.
        (DifySubmissionUnknownError("x"), DEFAULT),
        (DifyRunFailedError("x", workflow_run_id="1"), DEFAULT),
        (DifyRunTimeoutError("x", workflow_run_id="1"), DEFAULT),
        (DifySensorTimeoutError("x", workflow_run_id="1"), FAIL),
        (DifyFileError("x"), DEFAULT),
        (DifyResponseError("a login page", status_code=200), DEFAULT),
        (AirflowFailException("x"), FAIL),
        (AirflowException("x"), DEFAULT),
        (ValueError("x"), DEFAULT),
    ],
)
def test_the_kind_of_error_decides(error: BaseException, kind: RetryKind) -> None:
    assert plan(error).kind is kind


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (answered(407), FAIL),
        (answered(400, b'{"code": "provider_quota_exceeded", "message": "no credits"}'), FAIL),
        (answered(400, b'{"code": "completion_request_error", "message": "overloaded"}'), DEFAULT),
        (answered(400, b'{"message": "The plain HTTP request was sent to HTTPS port"}'), FAIL),
        (answered(429, b'{"code": "rate_limit_error", "message": "used up"}'), FAIL),
        (answered(400, b'{"message": "Too many requests"}'), RESCHEDULE),
        (answered(418), DEFAULT),
    ],
)
def test_an_error_that_says_that_a_retry_does_not_help_is_believed(error: DifyError, kind: RetryKind) -> None:
    assert plan(error).kind is kind, error


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_final_errors_fail_and_no_other_class_fails_by_itself(kind: type[DifyError]) -> None:
    error = kind("x")
    assert (plan(error).kind is FAIL) == (is_final(error) or kind is DifySensorTimeoutError)


@pytest.mark.parametrize(
    ("attempt", "retry_after", "seconds"),
    [
        (0, None, 60),
        (1, None, 120),
        (3, None, 480),
        (4, None, 900),
        (10_000, None, 900),
        (-1, None, 60),
        # The server may ask for more than the policy would wait, and never for less.
        (0, 5, 60),
        (0, 90, 90),
        (4, 3600, 3600),
    ],
)
def test_the_pause_doubles_and_is_never_shorter_than_asked(
    attempt: int, retry_after: float | None, seconds: float
) -> None:
    error = DifyRateLimitError("x", retry_after=retry_after)
    assert plan(error, attempt=attempt).seconds == seconds
    assert plan(error, attempt=attempt, jitter=1.0).seconds == pytest.approx(seconds * 1.1)


@pytest.mark.parametrize("error", [DifyRateLimitError("x"), DifyServerError("x", status_code=503)])
def test_where_nothing_can_be_rescheduled_a_retry_takes_its_place(error: DifyError) -> None:
    rescheduled, retried = plan(error), plan(error, can_reschedule=False)
    assert (rescheduled.kind, retried.kind) == (RESCHEDULE, RETRY)
    assert rescheduled.seconds == retried.seconds == 60


@pytest.mark.parametrize("kind", [FAIL, DEFAULT])
def test_without_another_start_of_its_own_there_is_no_pause(kind: RetryKind) -> None:
    error = AirflowFailException("x") if kind is FAIL else ValueError("x")
    assert (plan(error).kind, plan(error).seconds) == (kind, None)
