"""When a deferrable task leaves its worker, and how long it then stays deferred.

Airflow's scheduler reads how worker processes ended every few seconds. Where a trigger fires before the scheduler has
read the end of the process that deferred, it takes that end for the end of the task, and fails it (apache/airflow
66374, 67287, 71580, 72716).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from airflow_provider_dify.api.polling import Deadline
from airflow_provider_dify.api.waiting import FindMarker, LookAt, Request, Sleep

T = TypeVar("T")

MIN_DEFERRED_SECONDS = 10.0
"""A task stays deferred at least this long: twice the five seconds between the scheduler's readings, by default."""

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


def handed_over(
    flow: Generator[Request, Any, T], moment: float, clock: Callable[[], float]
) -> Generator[Request, Any, T | HandOver]:
    """Follow a wait or a search until a moment; the last poll is made then.

    :param flow: The wait or search.
    :param moment: Unix seconds at which the worker leaves the run to the triggerer.
    :param clock: Returns unix seconds.
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
            request = Sleep(min(request.seconds, max(left, 0.0)))
        polls += isinstance(request, (LookAt, FindMarker))
        answer = yield request
