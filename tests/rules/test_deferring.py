"""When a deferrable task leaves its worker, how long it stays deferred, and what the two ask of the server."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dify.api.runs import LoggedRun, LogPage, RunStatus, WorkflowRun
from airflow_provider_dify.exceptions import DifyServerError
from airflow_provider_dify.rules.deferring import (
    MAPPED_FIRST_POLL_SECONDS,
    MIN_DEFERRED_SECONDS,
    RECENT_SECONDS,
    HandOver,
    handed_over,
    is_likely_longer,
    leaves_worker_at,
    left_to_hold,
    longest_worth_waiting_for,
)
from airflow_provider_dify.rules.identity import marker
from airflow_provider_dify.rules.polling import Deadline, Ended, PollResult
from airflow_provider_dify.rules.settings import PollSchedule
from airflow_provider_dify.rules.waiting import PollRun, ReadRecentRuns, Say, Sleep, wait_for_run


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
def test_a_trigger_holds_its_event_for_a_limited_time(not_before: float | None, seconds: float) -> None:
    assert left_to_hold(not_before, 100.0) == seconds


def play(
    ends_at: float, *, until: float | None, polls: int = 0, schedule: PollSchedule | None = None, jitter: float
) -> Any:
    """Return how a wait goes, and the moments of its polls."""
    clock = [0.0]
    wait = wait_for_run(
        "r",
        schedule=schedule or PollSchedule(),
        deadline=Deadline(300.0),
        since=0.0,
        clock=lambda: clock[0],
        jitter=lambda: jitter,
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
        elif isinstance(request, PollRun):
            moments.append(clock[0])
            status = RunStatus.SUCCEEDED if clock[0] >= ends_at else RunStatus.RUNNING
            answer = PollResult(run=WorkflowRun("r", status))


@given(jitter=st.floats(0, 1))
def test_a_run_of_two_seconds_ends_on_the_worker(jitter: float) -> None:
    result, moments = play(2.0, until=3.0, jitter=jitter)
    assert isinstance(result, Ended)
    assert moments[-1] <= 3.0


@given(jitter=st.floats(0, 1), first=st.floats(0.1, 10), longest=st.floats(10, 60), until=st.floats(0.5, 30))
def test_a_hand_over_costs_no_more_polls_than_a_wait_in_one_place(
    jitter: float, first: float, longest: float, until: float
) -> None:
    schedule = PollSchedule(first, longest)
    result, moments = play(200.0, until=until, jitter=jitter, schedule=schedule)
    assert isinstance(result, HandOver)
    assert result.polls == len(moments) > 0
    assert moments[-1] <= until + 1e-6
    _, alone = play(until, until=None, jitter=jitter, schedule=schedule)
    assert len(moments) <= len(alone)


def test_the_distances_go_on_growing_where_the_wait_goes_on() -> None:
    _, moments = play(60.0, until=None, polls=2, jitter=0.5)
    assert moments[:3] == [4.0, 9.0, 14.0]


def user_of(task: str, map_index: int) -> str:
    return marker("dag", task, "manual__2026-01-01T00:00:00+00:00", map_index, 2, 1)


def row(run_id: str, status: str, created: int, took: float | None = None, task: str = "task") -> LoggedRun:
    return LoggedRun(run_id, RunStatus(status), user_of(task, ord(run_id)), None, created, None, took)


OWN = row("r", "running", 1000)


@pytest.mark.parametrize(
    ("rows", "is_longer"),
    [
        ([], False),
        # What still runs and is younger than the wait tells nothing.
        ([row("a", "running", 999), row("b", "running", 997)], False),
        ([row("a", "running", 996)], True),
        ([row("a", "paused", 900)], True),
        ([row("a", "succeeded", 900, 3.1)], True),
        ([row("a", "succeeded", 900, 3.0)], False),
        ([row("a", "partial-succeeded", 900, 30.0)], True),
        # How long a run took that failed or was stopped tells nothing of one that succeeds.
        ([row("a", "failed", 900, 60.0), row("b", "stopped", 900, 60.0)], False),
        ([row("a", "running", 900), row("b", "succeeded", 900, 1.0)], False),
        ([row("a", "running", 900), row("b", "succeeded", 900, 9.0), row("c", "succeeded", 900, 1.0)], True),
        ([row("a", "succeeded", 900, None)], False),
        ([row("a", "succeeded", 900, 60.0, "other")], False),
    ],
)
def test_most_recent_runs_tell_whether_the_next_one_is_worth_a_wait(rows: list[LoggedRun], is_longer: bool) -> None:
    assert is_likely_longer(LogPage((OWN, *rows), 1, False), OWN, 3.0) is is_longer


@pytest.mark.parametrize(("map_index", "longest"), [(-1, None), (0, 3.0), (7, 3.0)])
def test_only_mapped_tasks_ask_for_the_length_of_runs(map_index: int, longest: float | None) -> None:
    class TaskInstance:
        pass

    ti: Any = TaskInstance()
    assert longest_worth_waiting_for(ti, 3.0) is None
    ti.map_index = map_index
    assert longest_worth_waiting_for(ti, 3.0) == longest


def test_a_mapped_task_polls_early_and_goes_on_as_others() -> None:
    wait = wait_for_run(
        "r", schedule=PollSchedule(), deadline=Deadline(300.0), since=0.0, clock=lambda: 0.0, jitter=lambda: 0.5
    )
    flow = handed_over(wait, 3.0, lambda: 0.0, unless_longer_than=3.0)
    assert next(flow) == Sleep(MAPPED_FIRST_POLL_SECONDS)
    assert flow.send(None) == ReadRecentRuns(RECENT_SECONDS)
    assert isinstance(flow.send(LogPage((OWN,), 1, False)), Say)
    assert flow.send(None) == Sleep(2.0)


def first_request(answer: Any) -> tuple[list[type], Any]:
    """Return what a wait of one mapped task asks up to its second sleep, and how it ends, if it does."""
    wait = wait_for_run(
        "r", schedule=PollSchedule(), deadline=Deadline(300.0), since=0.0, clock=lambda: 1.0, jitter=lambda: 0.5
    )
    flow = handed_over(wait, 3.0, lambda: 1.0, unless_longer_than=3.0)
    asked: list[type] = []
    reported: Any = None
    while True:
        try:
            request = flow.send(reported)
        except StopIteration as end:
            return asked, end.value
        if not isinstance(request, Say):
            asked.append(type(request))
        if asked.count(Sleep) == 2:
            return asked, None
        reported = None
        if isinstance(request, ReadRecentRuns):
            reported = answer
        elif isinstance(request, PollRun):
            reported = PollResult(run=WorkflowRun("r", RunStatus.RUNNING))


def test_a_page_takes_the_place_of_the_first_poll() -> None:
    assert first_request(LogPage((OWN,), 1, False)) == ([Sleep, ReadRecentRuns, Sleep], None)


def test_a_mapped_task_leaves_at_once_where_runs_take_long() -> None:
    page = LogPage((OWN, row("a", "running", 900)), 1, False)
    assert first_request(page) == ([Sleep, ReadRecentRuns], HandOver(1))


@pytest.mark.parametrize(
    "answer",
    [
        DifyServerError("down", status_code=502),
        LogPage((), 1, False),
        LogPage((row("r", "succeeded", 1000, 0.5), row("a", "running", 900)), 1, False),
    ],
)
def test_the_run_is_polled_where_the_page_does_not_show_it_running(answer: Any) -> None:
    assert first_request(answer) == ([Sleep, ReadRecentRuns, PollRun, Sleep], None)
