"""When a deferrable task leaves its worker, how long it stays deferred, and what the two ask of the server."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dify.api.deferring import (
    MIN_DEFERRED_SECONDS,
    HandOver,
    handed_over,
    leaves_worker_at,
    left_to_hold,
)
from airflow_provider_dify.api.polling import Deadline, Ended, Look
from airflow_provider_dify.api.runs import RunStatus, WorkflowRun
from airflow_provider_dify.api.settings import PollSchedule
from airflow_provider_dify.api.waiting import LookAt, Sleep, wait_for_run


@pytest.mark.parametrize(
    ("defer_after", "deadline", "moment"),
    [
        (3.0, 400.0, 103.0),
        (0.0, 400.0, 100.0),
        (3.0, 113.1, 103.0),
        # A deferral would outlast the deadline.
        (3.0, 113.0, None),
        (0.0, 110.0, None),
        (500.0, 400.0, None),
    ],
)
def test_a_task_leaves_its_worker_unless_its_deadline_is_near(
    defer_after: float, deadline: float, moment: float | None
) -> None:
    assert leaves_worker_at(100.0, defer_after, Deadline(deadline)) == moment


@pytest.mark.parametrize(
    ("not_before", "seconds"), [(None, 0.0), (90.0, 0.0), (100.0, 0.0), (104.0, 4.0), (5000.0, MIN_DEFERRED_SECONDS)]
)
def test_a_trigger_holds_its_event_and_never_for_longer_than_it_was_meant_to(
    not_before: float | None, seconds: float
) -> None:
    assert left_to_hold(not_before, 100.0) == seconds


def play(ends_at: float, *, until: float | None, polls: int = 0, schedule: PollSchedule | None = None, chance: float):
    """Return how a wait goes, and the moments of its polls."""
    clock = [0.0]
    wait = wait_for_run(
        "r",
        schedule=schedule or PollSchedule(),
        deadline=Deadline(300.0),
        since=0.0,
        clock=lambda: clock[0],
        chance=lambda: chance,
        polls=polls,
    )
    flow = wait if until is None else handed_over(wait, until, lambda: clock[0])
    moments: list[float] = []
    answer: Any = None
    while True:
        try:
            request = flow.send(answer)
        except StopIteration as end:
            return end.value, moments
        answer = None
        if isinstance(request, Sleep):
            clock[0] += request.seconds
        elif isinstance(request, LookAt):
            moments.append(clock[0])
            status = RunStatus.SUCCEEDED if clock[0] >= ends_at else RunStatus.RUNNING
            answer = Look(run=WorkflowRun("r", status))


@given(chance=st.floats(0, 1))
def test_a_run_of_two_seconds_ends_on_the_worker(chance: float) -> None:
    result, moments = play(2.0, until=3.0, chance=chance)
    assert isinstance(result, Ended)
    assert moments[-1] <= 3.0


@given(chance=st.floats(0, 1), first=st.floats(0.1, 10), longest=st.floats(10, 60), until=st.floats(0.5, 30))
def test_a_longer_one_is_handed_over_with_no_more_polls_than_a_wait_in_one_place(
    chance: float, first: float, longest: float, until: float
) -> None:
    schedule = PollSchedule(first, longest)
    result, moments = play(200.0, until=until, chance=chance, schedule=schedule)
    assert isinstance(result, HandOver)
    assert result.polls == len(moments) > 0
    assert moments[-1] <= until + 1e-6
    _, alone = play(until, until=None, chance=chance, schedule=schedule)
    assert len(moments) <= len(alone)


def test_the_distances_go_on_growing_where_the_wait_goes_on() -> None:
    _, moments = play(60.0, until=None, polls=2, chance=0.5)
    assert moments[:3] == [4.0, 9.0, 14.0]
