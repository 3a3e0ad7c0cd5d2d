"""Whether a task that has failed is tried again, when, and whether that takes one of its retries."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from airflow_provider_dify.api.errors import rules_out_retry
from airflow_provider_dify.exceptions import (
    DifyError,
    DifyRateLimitError,
    DifySensorTimeoutError,
    DifyServerError,
    DifyTransportError,
    is_final,
)
from airflow_provider_dify.rules.outages import is_outage

# Waiting mends neither. A name that DNS does not know, or a TLS handshake that breaks, may come from a network in
# trouble.
_MISTAKES = frozenset({"certificate", "plain_http"})
_LARGEST_POWER = 16


class RetryKind(Enum):
    """What follows a failure."""

    FAIL = "fail"
    RETRY = "retry"
    RESCHEDULE = "reschedule"
    DEFAULT = "default"


@dataclass(frozen=True)
class RetryPlan:
    """What follows a failure, and why.

    :param kind: ``DEFAULT`` leaves it to the task's own ``retries`` and ``retry_delay``.
    :param seconds: Until the next start; None where there is none, or where the task's own settings say it.
    :param why: For the log; None where the task's own settings decide.
    """

    kind: RetryKind
    seconds: float | None = None
    why: str | None = None


def plan_retry(
    error: BaseException,
    *,
    attempt: int,
    first_delay: float,
    longest_delay: float,
    can_reschedule: bool,
    jitter: float,
) -> RetryPlan:
    """Return what follows a failure.

    A reschedule starts the same try again, under the marker that Dify knows it by. It is therefore only for errors
    that name no run: were there one, a search for the next submission could find the run of the one before.

    :param error: What the task failed with.
    :param attempt: Starts of the task in this clear generation that failed before this one.
    :param first_delay: Seconds to wait after the first failure; each further one doubles them.
    :param longest_delay: Seconds to wait at most, unless the server asks for more.
    :param can_reschedule: Whether Airflow can start a task again without taking one of its retries.
    :param jitter: A random number from 0 to 1: tasks that failed together should not return together.
    """
    name = type(error).__name__
    if not isinstance(error, DifyError):
        return RetryPlan(RetryKind.FAIL, why=f"{name} asks for no retry") if is_final(error) else _DEFAULT
    if _is_hopeless(error):
        return RetryPlan(RetryKind.FAIL, why=f"{name}: a retry would end the same way")
    is_limited, is_away = isinstance(error, DifyRateLimitError), is_outage(error)
    if not (is_limited or is_away or isinstance(error, DifyServerError)):
        return _DEFAULT
    delay = min(first_delay * 2 ** min(max(attempt, 0), _LARGEST_POWER), longest_delay)
    asked = error.retry_after if isinstance(error, (DifyRateLimitError, DifyServerError)) else None
    seconds = max(delay, asked or 0.0) * (1 + 0.1 * jitter)
    if can_reschedule and (is_limited or is_away) and error.workflow_run_id is None:
        return RetryPlan(RetryKind.RESCHEDULE, seconds, f"{name}: no run was started, so this takes no retry")
    return RetryPlan(RetryKind.RETRY, seconds, f"{name}: a later try may succeed")


def _is_hopeless(error: DifyError) -> bool:
    if isinstance(error, DifySensorTimeoutError) or rules_out_retry(error):
        return True
    return isinstance(error, DifyTransportError) and error.cause in _MISTAKES


_DEFAULT = RetryPlan(RetryKind.DEFAULT)
