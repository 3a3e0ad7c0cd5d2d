"""The wait for a run, driven with a clock of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dify import exceptions as ex
from airflow_provider_dify.api.runs import RunStatus, WorkflowRun
from airflow_provider_dify.rules.log_lines import closing_line
from airflow_provider_dify.rules.polling import Deadline, Ended, GivenUp, PollResult, TimedOut
from airflow_provider_dify.rules.settings import PollSchedule
from airflow_provider_dify.rules.waiting import (
    AskWhyPaused,
    PausedOut,
    PollRun,
    Say,
    Sleep,
    WaitResult,
    wait_for_run,
)


class Driver:
    """Does what a flow asks for; time passes only when it sleeps, and by ``poll_seconds`` for each look."""

    def __init__(self, look: Callable[[float], PollResult], poll_seconds: float = 0.0) -> None:
        self.now = 1_000_000.0
        self.began = self.now
        self.polls: list[float] = []
        self.lines: list[tuple[float, str]] = []
        self.asked = 0
        self._poll = look
        self._poll_seconds = poll_seconds

    def drive(self, jitter: float = 0.5, timeout: float = 300.0, **options: Any) -> WaitResult:
        flow = wait_for_run(
            "run-1",
            deadline=Deadline(self.began + timeout),
            since=self.began,
            clock=lambda: self.now,
            jitter=lambda: jitter,
            **{"schedule": PollSchedule()} | options,
        )
        reported: Any = None
        while True:
            try:
                request = flow.send(reported)
            except StopIteration as end:
                result: WaitResult = end.value
                return result
            reported = None
            if isinstance(request, Sleep):
                assert request.seconds > 0
                self.now += request.seconds
            elif isinstance(request, PollRun):
                assert request.workflow_run_id == "run-1"
                self.now += self._poll_seconds
                self.polls.append(self.now - self.began)
                reported = self._poll(self.now - self.began)
            elif isinstance(request, AskWhyPaused):
                self.asked += 1
                reported = ["The step 'Approve' asks a human: Yes or no."]
            else:
                assert isinstance(request, Say)
                self.lines.append((self.now - self.began, request.line))


def status_at(*changes: tuple[float, str]) -> Callable[[float], PollResult]:
    def look(elapsed: float) -> PollResult:
        status = [status for since, status in changes if since <= elapsed][-1]
        return PollResult(run=WorkflowRun("run-1", RunStatus(status)))

    return look


def test_the_polls_of_a_run_that_never_ends() -> None:
    driver = Driver(status_at((0, "running")))
    assert driver.drive() == TimedOut(RunStatus.RUNNING)
    assert driver.polls[:6] == [1, 3, 7, 12, 17, 22]
    assert driver.polls[-2:] == [297, 300]
    assert len(driver.polls) == 62


@pytest.mark.parametrize("status", ["succeeded", "partial-succeeded", "failed", "stopped"])
def test_the_end_is_seen_at_the_next_poll(status: str) -> None:
    driver = Driver(status_at((0, "running"), (8, status)))
    result = driver.drive()
    assert isinstance(result, Ended)
    assert result.run.status == status
    assert driver.polls == [1, 3, 7, 12]


def test_a_run_that_ends_at_the_last_moment_is_seen_by_the_last_poll() -> None:
    driver = Driver(status_at((0, "running"), (299.5, "succeeded")))
    assert isinstance(driver.drive(), Ended)
    assert driver.polls[-1] == 300


@pytest.mark.parametrize("timeout", [1.0, 1.5, 2.0, 10.0])
def test_a_short_timeout_ends_with_a_poll_at_the_deadline(timeout: float) -> None:
    driver = Driver(status_at((0, "running")))
    assert isinstance(driver.drive(timeout=timeout), TimedOut)
    assert driver.polls[-1] == timeout


def test_a_deadline_that_has_passed_still_gets_one_poll() -> None:
    driver = Driver(status_at((0, "succeeded")))
    assert isinstance(driver.drive(timeout=-5.0), Ended)
    assert driver.polls == [0]


def test_slow_polls_do_not_stretch_the_deadline_by_more_than_one_poll() -> None:
    driver = Driver(status_at((0, "running")), poll_seconds=8.0)
    assert isinstance(driver.drive(timeout=60.0), TimedOut)
    assert driver.polls[-1] <= 68.0


def test_the_first_poll_may_come_at_once() -> None:
    driver = Driver(status_at((0, "succeeded")))
    driver.drive(first_wait=0)
    assert driver.polls == [0]


@given(st.floats(0, 1), st.floats(1, 30), st.floats(1, 10), st.floats(30, 900))
def test_with_any_jitter_the_distances_stay_within_the_schedule(
    jitter: float, first: float, times: float, timeout: float
) -> None:
    driver = Driver(status_at((0, "running")))
    driver.drive(jitter, timeout=timeout, schedule=PollSchedule(first, first * times))
    distances = [late - early for early, late in zip([0.0, *driver.polls], driver.polls, strict=False)]
    assert all(0.9 * first - 1e-6 <= distance <= 1.1 * first * times + 1e-6 for distance in distances[:-1])
    assert driver.polls[-1] == pytest.approx(timeout)


def test_failures_are_survived_and_only_lengthen_the_distance() -> None:
    error = PollResult(error=ex.DifyTransportError("connection refused"))
    ended = PollResult(run=WorkflowRun("run-1", RunStatus.SUCCEEDED))
    driver = Driver(lambda elapsed: error if elapsed < 120 else ended)
    assert isinstance(driver.drive(), Ended)
    assert len(driver.polls) < 12
    assert driver.polls[-1] <= 151


def test_an_unknown_run_ends_the_wait_after_ten_seconds() -> None:
    driver = Driver(lambda elapsed: PollResult(error=ex.DifyRunNotFoundError("no such run")))
    result = driver.drive()
    assert isinstance(result, GivenUp)
    assert isinstance(result.error, ex.DifyRunNotFoundError)
    assert 11 <= driver.polls[-1] <= 13


def test_a_row_that_lags_behind_is_waited_for() -> None:
    unknown = PollResult(error=ex.DifyRunNotFoundError("no such run"))
    driver = Driver(
        lambda elapsed: unknown if elapsed < 5 else PollResult(run=WorkflowRun("run-1", RunStatus.SUCCEEDED))
    )
    assert isinstance(driver.drive(), Ended)


def test_a_refused_key_ends_the_wait_at_once() -> None:
    driver = Driver(lambda elapsed: PollResult(error=ex.DifyAuthenticationError("401")))
    assert isinstance(driver.drive(), GivenUp)
    assert driver.polls == [1]


def test_a_watched_run_is_looked_at_seldom_and_at_the_deadline() -> None:
    driver = Driver(lambda elapsed: PollResult(run=WorkflowRun("run-1", RunStatus.RUNNING), watched=elapsed < 60))
    driver.drive(timeout=100, schedule=PollSchedule(1, 5))
    assert driver.polls == [1, 21, 41, 61, 66, 71, 76, 81, 86, 91, 96, 100]
    driver = Driver(lambda elapsed: PollResult(run=WorkflowRun("run-1", RunStatus.RUNNING), watched=True))
    driver.drive(timeout=100, schedule=PollSchedule(30, 60))
    assert driver.polls == [30, 90, 100]


def test_a_paused_run_is_asked_once_why_and_waited_for() -> None:
    driver = Driver(status_at((0, "running"), (5, "paused"), (60, "running"), (80, "paused"), (100, "succeeded")))
    assert isinstance(driver.drive(), Ended)
    assert driver.asked == 2
    assert [line for _, line in driver.lines if "Approve" in line] == [
        "The step 'Approve' asks a human: Yes or no."
    ] * 2


def test_a_failed_poll_at_a_paused_run_does_not_make_it_ask_again() -> None:
    def look(elapsed: float) -> PollResult:
        if 10 < elapsed < 30:
            return PollResult(error=ex.DifyTransportError("x"))
        return PollResult(run=WorkflowRun("run-1", RunStatus.PAUSED))

    driver = Driver(look)
    driver.drive(timeout=100)
    assert driver.asked == 1


def test_a_pause_may_fail_the_wait() -> None:
    driver = Driver(status_at((0, "paused")))
    assert driver.drive(fail_on_pause=True) == PausedOut(("The step 'Approve' asks a human: Yes or no.",))


def test_progress_is_reported_on_change_and_once_a_minute() -> None:
    driver = Driver(status_at((0, "queued"), (20, "running"), (200, "paused"), (210, "running"), (290, "succeeded")))
    driver.drive()
    lines = [(round(at), line) for at, line in driver.lines if "asks" not in line]
    assert [line for _, line in lines] == [
        "Dify run run-1 is queued after 1 s.",
        "Dify run run-1 is running after 22 s.",
        "Dify run run-1 is still running after 82 s.",
        "Dify run run-1 is still running after 142 s.",
        "Dify run run-1 is paused after 202 s.",
        "Dify run run-1 is running after 212 s.",
        "Dify run run-1 is still running after 272 s.",
    ]


def test_failed_polls_are_reported_once_a_minute() -> None:
    texts: Iterator[int] = iter(range(1000))
    driver = Driver(lambda elapsed: PollResult(error=ex.DifyTransportError(f"connection refused {next(texts)}")))
    driver.drive(timeout=200)
    assert len(driver.polls) > len(driver.lines)
    assert 3 <= len(driver.lines) <= 4
    assert "could not be read: connection refused 0" in driver.lines[0][1]


def test_a_clock_that_goes_back_does_not_break_the_lines() -> None:
    driver = Driver(status_at((-100, "running"), (0, "running")))
    driver.now -= 50
    driver.drive(timeout=10)
    assert all("after 0 s" in line or "after" in line for _, line in driver.lines)
    assert "-" not in driver.lines[0][1].replace("run-1", "")


@pytest.mark.parametrize(
    ("run", "line"),
    [
        (
            WorkflowRun("r", RunStatus.SUCCEEDED, elapsed_time=12.34, total_steps=3, total_tokens=120),
            "Dify run r ended: succeeded (12.3 s, 3 steps, 120 tokens)",
        ),
        (
            WorkflowRun("r", RunStatus.SUCCEEDED, elapsed_time=0.0, total_steps=1, total_tokens=1),
            "Dify run r ended: succeeded (0.0 s, 1 step, 1 token)",
        ),
        (
            WorkflowRun("r", RunStatus.SUCCEEDED, total_steps=0, total_tokens=0),
            "Dify run r ended: succeeded (0 tokens)",
        ),
        (WorkflowRun("r", RunStatus.PARTIAL_SUCCEEDED), "Dify run r ended: partial-succeeded"),
        (WorkflowRun("r", RunStatus.FAILED, error="a\nb"), "Dify run r ended: failed: a b"),
    ],
)
def test_closing_lines(run: WorkflowRun, line: str) -> None:
    assert closing_line(run) == line
