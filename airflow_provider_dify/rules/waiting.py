"""The wait for a run, once for worker and triggerer: a generator that asks, and acts on the answers."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from airflow_provider_dify.api.runs import RunStatus, WorkflowRun
from airflow_provider_dify.rules.log_lines import Progress
from airflow_provider_dify.rules.polling import (
    Deadline,
    Ended,
    GivenUp,
    PollResult,
    TimedOut,
    Wait,
    Watch,
)
from airflow_provider_dify.rules.settings import PollSchedule


@dataclass(frozen=True)
class Sleep:
    """Asks the driver to let seconds pass."""

    seconds: float


@dataclass(frozen=True)
class PollRun:
    """Asks the driver for a ``PollResult`` at a run."""

    workflow_run_id: str


@dataclass(frozen=True)
class AskWhyPaused:
    """Asks the driver for what a paused run asks a human, as a list of sentences."""

    run: WorkflowRun


@dataclass(frozen=True)
class FindMarker:
    """Asks the driver for the ``LogPage`` of a marker, or for the ``DifyError`` that came instead."""

    user: str


@dataclass(frozen=True)
class ReadRecentRuns:
    """Asks the driver for the ``LogPage`` of the app's newest runs, or for the ``DifyError`` that came instead.

    :param seconds: Runs that were started longer ago are left out.
    """

    seconds: float


@dataclass(frozen=True)
class CheckServer:
    """Asks the driver whether the server answers: None where it does, or the ``DifyError`` that came instead."""


@dataclass(frozen=True)
class Say:
    """Asks the driver to log a line."""

    line: str


Request = Sleep | PollRun | FindMarker | ReadRecentRuns | AskWhyPaused | CheckServer | Say


@dataclass(frozen=True)
class PausedOut:
    """The run waits for a human, and that is to fail."""

    questions: tuple[str, ...]


WaitResult = Ended | GivenUp | TimedOut | PausedOut
WaitFlow = Generator[Request, Any, WaitResult]


def wait_for_run(
    workflow_run_id: str,
    *,
    schedule: PollSchedule,
    deadline: Deadline,
    since: float,
    clock: Callable[[], float],
    jitter: Callable[[], float],
    first_wait: float | None = None,
    polls: int = 0,
    fail_on_pause: bool = False,
) -> WaitFlow:
    """Wait for the end of a run.

    :param workflow_run_id: The run.
    :param schedule: The distances between polls.
    :param deadline: When waiting ends; a last poll is taken when it passes.
    :param since: Unix seconds from which the waiting time in the log is counted.
    :param clock: Returns unix seconds.
    :param jitter: Returns random numbers from 0 to 1.
    :param first_wait: Seconds before the first poll; None means the schedule's.
    :param polls: Polls that were made elsewhere before this wait; the distances go on growing from there.
    :param fail_on_pause: Whether a run that waits for a human ends the wait.
    :return: How the wait ended.
    """
    watch = Watch(polls=polls)
    progress = Progress(workflow_run_id, since)
    pause = watch.first_wait(schedule, deadline, clock(), jitter()) if first_wait is None else first_wait
    while True:
        if pause > 0:
            yield Sleep(pause)
        poll_result = yield PollRun(workflow_run_id)
        assert isinstance(poll_result, PollResult)
        now = clock()
        if line := progress.line(poll_result, now):
            yield Say(line)
        paused_before = watch.status is RunStatus.PAUSED
        watch, decision = watch.decide(poll_result, now=now, deadline=deadline, schedule=schedule, jitter=jitter())
        if poll_result.run is not None and watch.status is RunStatus.PAUSED and not paused_before:
            questions = yield AskWhyPaused(poll_result.run)
            for question in questions:
                yield Say(question)
            if fail_on_pause:
                return PausedOut(tuple(questions))
        if not isinstance(decision, Wait):
            return decision
        pause = decision.seconds
