"""When a task that runs or watches Dify workflows is retried, on Airflow 3.3 and later."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_dify.compat import reschedule_decision, retry_policy_types
from airflow_provider_dify.exceptions import DifyInvalidInputError
from airflow_provider_dify.rules.retries import RetryKind, plan_retry

if TYPE_CHECKING:
    from airflow.sdk import Context, RetryDecision, RetryPolicy
else:
    RetryDecision, RetryPolicy = retry_policy_types()

__all__ = ["DifyRetryPolicy"]

_reschedule: Any = reschedule_decision(RetryDecision)


class DifyRetryPolicy(RetryPolicy):
    """Retry outages and rate limits after a pause, and nothing that a retry cannot mend.

    Errors that would come again the same way fail the task at once. A rate limit, or a server that is away, leads to
    another start after ``delay``, which doubles up to ``max_delay`` and is never shorter than the server asks for. On
    Airflow 3.4 and later that is a reschedule, which takes none of the task's ``retries``, as long as the error names
    no run. Every other error is left to the task's own ``retries`` and ``retry_delay``.

    A retry that this policy asks for still needs one of the task's ``retries``.

    :param delay: The first pause.
    :param max_delay: The longest pause that the policy chooses by itself.
    :param reschedule_timeout: How long after its first reschedule a try is rescheduled; then its retries count. None
        takes a retry each time. A sensor in reschedule mode counts its pokes too, so there its retries count sooner.
    :raises DifyInvalidInputError: A parameter is no positive timedelta, or ``max_delay`` is less than ``delay``.
    """

    def __init__(
        self,
        *,
        delay: timedelta = timedelta(minutes=1),
        max_delay: timedelta = timedelta(minutes=15),
        reschedule_timeout: timedelta | None = timedelta(hours=1),
    ) -> None:
        self.delay = _positive(delay, "delay")
        self.max_delay = _positive(max_delay, "max_delay")
        self.reschedule_timeout = (
            None if reschedule_timeout is None else _positive(reschedule_timeout, "reschedule_timeout")
        )
        if max_delay < delay:
            raise DifyInvalidInputError(f"max_delay ({max_delay}) must not be less than delay ({delay}).")

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        """Decide what follows a failure; Airflow calls it in the worker.

        :param exception: What the task failed with.
        :param try_number: The try, from 1.
        :param max_tries: As of the task instance, which grows when the task is cleared.
        :param context: The task's context.
        """
        plan = plan_retry(
            exception,
            attempt=_attempt(try_number, max_tries, context),
            first_delay=self.delay.total_seconds(),
            longest_delay=self.max_delay.total_seconds(),
            can_reschedule=_reschedule is not None and self.reschedule_timeout is not None,
            jitter=random.random(),
        )
        pause = None if plan.seconds is None else timedelta(seconds=plan.seconds)
        if plan.kind is RetryKind.FAIL:
            return RetryDecision.fail(plan.why)
        if plan.kind is RetryKind.RETRY:
            return RetryDecision.retry(pause, plan.why)
        if plan.kind is RetryKind.RESCHEDULE:
            decision: RetryDecision = _reschedule(pause, reschedule_timeout=self.reschedule_timeout, reason=plan.why)
            return decision
        return RetryDecision.default()

    def serialize(self) -> dict[str, Any]:
        """Return the parameters as JSON, in seconds."""
        timeout = self.reschedule_timeout
        return {
            "delay": self.delay.total_seconds(),
            "max_delay": self.max_delay.total_seconds(),
            "reschedule_timeout": None if timeout is None else timeout.total_seconds(),
        }

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> DifyRetryPolicy:
        """Return the policy that ``serialize`` was called on."""
        parameters: dict[str, Any] = {
            name: None if value is None else timedelta(seconds=value) for name, value in data.items()
        }
        return cls(**parameters)


def _attempt(try_number: int, max_tries: int, context: Any) -> int:
    """Return how many starts of the task have failed before, since it was last cleared."""
    known: Mapping[str, Any] = context or {}
    task = known.get("task")
    retries = getattr(task, "retries", None)
    # A clear sets max_tries to the tries so far and retries.
    first = 1 if retries is None else max(1, max_tries - int(retries) + 1)
    # The reschedules of a sensor in this mode are its pokes.
    reschedules = 0 if getattr(task, "mode", None) == "reschedule" else known.get("task_reschedule_count") or 0
    return max(0, try_number - first) + int(reschedules)


def _positive(value: Any, name: str) -> timedelta:
    if not isinstance(value, timedelta) or value <= timedelta(0):
        raise DifyInvalidInputError(f"{name} must be a timedelta of more than 0, got {value!r:.100}.")
    return value
