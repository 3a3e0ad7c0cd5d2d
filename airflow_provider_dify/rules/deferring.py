"""When a deferrable task leaves its worker, and how long it then stays deferred.

Airflow's scheduler reads how worker processes ended every few seconds. Where a trigger fires before the scheduler has
read the end of the process that deferred, it takes that end for the end of the task, and fails it (apache/airflow
66374, 67287, 71580, 72716).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from airflow_provider_dify.api.runs import LoggedRun, LogPage, RunStatus, WorkflowRun
from airflow_provider_dify.rules.identity import task_of
from airflow_provider_dify.rules.polling import Deadline, PollResult
from airflow_provider_dify.rules.waiting import FindMarker, PollRun, ReadRecentRuns, Request, Sleep

T = TypeVar("T")

MIN_DEFERRED_SECONDS = 10.0
"""A task stays deferred at least this long: twice the five seconds between the scheduler's readings, by default."""

RECENT_SECONDS = 600.0
"""Runs that were started within this time tell how long the next run of their task is likely to take."""

MAPPED_FIRST_POLL_SECONDS = 0.3
"""A mapped task makes its first poll, which may end its time on the worker, so soon: its slot is wanted."""

# A poll that comes so soon after the last one costs a request and tells nothing new.
_LEAST_SLEEP_SECONDS = 0.5


@dataclass(frozen=True)
class HandOver:
    """The run has not ended, and the triggerer goes on waiting.

    :param polls: Polls that the worker has made.
    """

    polls: int


def leaves_worker_at(now: float, defer_after: float, deadline: Deadline) -> float | None:
    """Return when a deferrable task leaves its worker, in unix seconds.

    :param now: Unix seconds.
    :param defer_after: Seconds for which the worker waits first.
    :param deadline: When waiting ends.
    :return: None where so little time is left before the deadline that a deferral would outlast it.
    """
    moment = now + defer_after
    return moment if not_before(moment) < deadline.at else None


def not_before(now: float) -> float:
    """Return when the trigger of a task that is deferred now may fire, in unix seconds."""
    return now + MIN_DEFERRED_SECONDS


def left_to_hold(not_before: float | None, now: float) -> float:
    """Return the seconds for which a trigger that could fire waits.

    :param not_before: Unix seconds of the worker's clock before which it must not fire; None for no limit.
    :param now: Unix seconds of the triggerer's clock, which may differ: it never holds for longer than it was meant to.
    """
    return 0.0 if not_before is None else min(max(not_before - now, 0.0), MIN_DEFERRED_SECONDS)


def longest_worth_waiting_for(ti: Any, defer_after: float) -> float | None:
    """Return how long runs may be for a worker to wait for them; None where their length does not matter.

    It matters for mapped tasks, which are many: the slot of each is wanted by the next one.

    :param ti: Airflow's task instance.
    :param defer_after: Seconds for which the worker waits.
    """
    return defer_after if getattr(ti, "map_index", -1) >= 0 else None


def is_likely_longer(page: LogPage, own: LoggedRun, seconds: float) -> bool:
    """Return whether most runs of a mapped task have taken longer than a worker would wait for the next one.

    It is wrong where the lengths of these runs vary, which costs a second process of a worker, or some seconds of the
    first one. Runs that are younger than the wait and still running count for neither side. Ages are taken between
    rows of the page, since the server's clock may differ from the worker's.

    :param page: The app's newest runs, of which those of other tasks are passed over.
    :param own: The row of the run that is waited for.
    :param seconds: For which the worker would wait.
    """
    if own.user is None or own.created_at is None:
        return False
    task = task_of(own.user)
    longer = shorter = 0
    for row in page.runs:
        if row.workflow_run_id == own.workflow_run_id or row.user is None or task_of(row.user) != task:
            continue
        if not row.status.is_terminal:
            longer += row.created_at is not None and own.created_at - row.created_at > seconds
        elif row.status.is_success and row.elapsed_time is not None:
            longer += row.elapsed_time > seconds
            shorter += row.elapsed_time <= seconds
    return longer > shorter


def handed_over(
    flow: Generator[Request, Any, T],
    moment: float,
    clock: Callable[[], float],
    *,
    unless_longer_than: float | None = None,
) -> Generator[Request, Any, T | HandOver]:
    """Follow a wait or a search until a moment; the last poll is made then.

    :param flow: The wait or search.
    :param moment: Unix seconds at which the worker leaves the run to the triggerer.
    :param clock: Returns unix seconds.
    :param unless_longer_than: Seconds, for a mapped task: the first poll reads the app's recent runs instead of the
        run alone, and the worker leaves at once if most runs of the task take longer than this.
    :return: How the wait ended, or that it goes on elsewhere.
    """
    answer: Any = None
    polls = 0
    while True:
        try:
            request = flow.send(answer)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        if isinstance(request, Sleep):
            left = moment - clock()
            if polls and left < _LEAST_SLEEP_SECONDS:
                flow.close()
                return HandOver(polls)
            longest = left if polls or unless_longer_than is None else min(left, MAPPED_FIRST_POLL_SECONDS)
            request = Sleep(min(request.seconds, max(longest, 0.0)))
        elif isinstance(request, PollRun) and not polls and unless_longer_than is not None:
            page = yield ReadRecentRuns(RECENT_SECONDS)
            own = page.running_row(request.workflow_run_id) if isinstance(page, LogPage) else None
            if own is not None:
                polls += 1
                if is_likely_longer(page, own, unless_longer_than):
                    flow.close()
                    return HandOver(polls)
                answer = PollResult(run=WorkflowRun(request.workflow_run_id, RunStatus.RUNNING))
                continue
        polls += isinstance(request, (PollRun, FindMarker))
        answer = yield request
