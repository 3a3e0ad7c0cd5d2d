"""When to poll a run next, and when to give up: one pure decision for worker, sensor and trigger."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone

from airflow_provider_dify.api.runs import RunStatus, WorkflowRun
from airflow_provider_dify.exceptions import (
    DifyError,
    DifyNotFoundError,
    DifyRateLimitError,
    DifyResponseError,
    DifyServerError,
    is_final,
)
from airflow_provider_dify.rules.settings import PollSchedule

# A run's row can lag behind the event that names it (dify-behaviour.md, section 3.2): only a run unknown for this long
# is unknown.
UNKNOWN_GRACE_SECONDS = 10.0
MAX_FAILURES_IN_A_ROW = 60
# For a run that the driver watches: often enough for the line a minute in the log.
WATCHED_SECONDS = 20.0
# Airflow measures execution_timeout from an earlier moment than the deadline can know, and deals with it
# without asking the operator: the provider's own deadline must pass first to stop the run and to say why.
EXECUTION_TIMEOUT_MARGIN_SECONDS = 5.0
# After the trigger has seen the end, reading the outputs may take this long, whatever the deadline.
COLLECT_SECONDS = 60.0

TIMEOUT = "timeout"
EXECUTION_TIMEOUT = "execution_timeout"


@dataclass(frozen=True)
class Deadline:
    """The wall-clock moment at which waiting ends.

    Wall-clock, so that it means the same in the worker, in a triggerer and in another triggerer after a
    restart.

    :param at: Unix seconds.
    :param limit: Name of the parameter that sets it.
    """

    at: float
    limit: str = TIMEOUT

    @classmethod
    def after(
        cls, submitted_at: float, timeout: float, *, started_at: float, execution_timeout: timedelta | None
    ) -> Deadline:
        """Return the earlier of the operator's own timeout and Airflow's ``execution_timeout``.

        :param submitted_at: Unix seconds at which the run was submitted.
        :param timeout: Seconds to wait from then on.
        :param started_at: Unix seconds at which the task's try started.
        :param execution_timeout: Airflow's limit of that try; it is kept by a small margin.
        """
        own = cls(submitted_at + timeout)
        if execution_timeout is None:
            return own
        limit = execution_timeout.total_seconds()
        at = started_at + limit - min(EXECUTION_TIMEOUT_MARGIN_SECONDS, limit / 10)
        return cls(at, EXECUTION_TIMEOUT) if at < own.at else own

    def at_least(self, moment: float) -> Deadline:
        """Return the later of this deadline and a moment in unix seconds."""
        return replace(self, at=max(self.at, moment))

    def left(self, now: float) -> float:
        """Return the seconds left, negative after the deadline."""
        return self.at - now

    def __str__(self) -> str:
        """Return the moment in the machine's local time."""
        try:
            return f"{datetime.fromtimestamp(self.at, timezone.utc).astimezone():%Y-%m-%d %H:%M:%S %Z}"
        except (OverflowError, OSError, ValueError):
            return "the end of time"


@dataclass(frozen=True)
class PollResult:
    """What one poll brought: a run, or the error that came instead.

    :param watched: Whether the driver cuts the next sleep short when the run changes, so that it may be a long one.
    """

    run: WorkflowRun | None = None
    error: DifyError | None = None
    watched: bool = False


@dataclass(frozen=True)
class Wait:
    """Poll again after so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Ended:
    """The run has ended.

    :param failed_step: A sentence about the step that failed, where its events were followed.
    """

    run: WorkflowRun
    failed_step: str | None = None


@dataclass(frozen=True)
class GivenUp:
    """Waiting makes no sense any more."""

    error: DifyError


@dataclass(frozen=True)
class TimedOut:
    """The deadline has passed, and the last poll brought no end."""

    status: RunStatus | None


Decision = Wait | Ended | GivenUp | TimedOut


@dataclass(frozen=True)
class Watch:
    """What is known of a run that is waited for.

    :param polls: Polls made.
    :param failures: The last polls that failed, in a row.
    :param unknown_since: Unix seconds since when the server has shown no such run; None while it shows it.
    :param status: The last status seen.
    """

    polls: int = 0
    failures: int = 0
    unknown_since: float | None = None
    status: RunStatus | None = None

    def first_wait(self, schedule: PollSchedule, deadline: Deadline, now: float, jitter: float) -> float:
        """Return the seconds to wait before the first poll."""
        return max(0.0, min(schedule.delay(self.polls, 0, None, jitter), deadline.left(now)))

    def decide(
        self, poll_result: PollResult, *, now: float, deadline: Deadline, schedule: PollSchedule, jitter: float
    ) -> tuple[Watch, Decision]:
        """Take what a poll brought and decide what to do next.

        A failed poll is a transient error: network errors, 5xx and rate limits only lengthen the distance, up to
        ``MAX_FAILURES_IN_A_ROW`` of them. Errors that the next poll cannot mend end the wait, and so does
        a run that stays unknown for ``UNKNOWN_GRACE_SECONDS``. A poll is always taken at the deadline
        itself, since the wait before it is cut to what is left.

        :param poll_result: The poll's result.
        :param now: Unix seconds after the poll.
        :param deadline: When waiting ends.
        :param schedule: The distances between polls.
        :param jitter: A random number from 0 to 1, for the jitter.
        """
        watch, given_up = self._after(poll_result, now)
        if poll_result.run is not None and poll_result.run.status.is_terminal:
            return watch, Ended(poll_result.run)
        if given_up is not None:
            return watch, GivenUp(given_up)
        left = deadline.left(now)
        if left <= 0:
            return watch, TimedOut(watch.status)
        retry_after = (
            poll_result.error.retry_after
            if isinstance(poll_result.error, (DifyRateLimitError, DifyServerError))
            else None
        )
        wait = schedule.delay(watch.polls, watch.failures, retry_after, jitter)
        if poll_result.watched:
            wait = max(wait, WATCHED_SECONDS * (0.9 + 0.2 * jitter))
        if isinstance(poll_result.error, DifyNotFoundError) and watch.unknown_since is not None:
            wait = min(wait, max(watch.unknown_since + UNKNOWN_GRACE_SECONDS - now, schedule.first))
        return watch, Wait(min(wait, left))

    def _after(self, poll_result: PollResult, now: float) -> tuple[Watch, DifyError | None]:
        polls = self.polls + 1
        if poll_result.run is not None:
            return Watch(polls=polls, status=poll_result.run.status), None
        error = poll_result.error
        if isinstance(error, DifyNotFoundError):
            since = now if self.unknown_since is None else self.unknown_since
            watch = replace(self, polls=polls, failures=0, unknown_since=since)
            return watch, error if now - since >= UNKNOWN_GRACE_SECONDS else None
        watch = replace(self, polls=polls, failures=self.failures + 1)
        if error is None or is_final(error):
            return watch, error
        if watch.failures < MAX_FAILURES_IN_A_ROW:
            return watch, None
        return watch, DifyResponseError(
            f"{watch.failures} polls of the run failed in a row; the last one: {error.message}",
            status_code=error.status_code,
            code=error.code,
        )
