"""A wait that listens: what it tells, and that it waits on whatever the stream does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_dify import exceptions as ex
from airflow_provider_dify.api.events import Event
from airflow_provider_dify.api.runs import RunStatus, WorkflowRun
from airflow_provider_dify.rules.event_log import EventBatch, EventReader, ReadEvents, followed
from airflow_provider_dify.rules.polling import Deadline, Ended, PollResult, TimedOut
from airflow_provider_dify.rules.settings import PollSchedule
from airflow_provider_dify.rules.steps import StepLog
from airflow_provider_dify.rules.waiting import AskWhyPaused, PollRun, Say, Sleep, wait_for_run

STARTED = Event("node_started", {"id": "e1", "node_id": "n", "node_type": "code", "title": "Work"}, "run-1")
FAILED = Event("node_finished", {**STARTED.data, "status": "failed", "error": "no"}, "run-1")
FINISHED = Event("workflow_finished", {"status": "failed"}, "run-1")
PAUSED = Event("workflow_paused", {}, "run-1")
BEGINS = "Dify step: Work (code): started"
FAILS = "Dify step: Work (code): failed: no"
TABLE = [
    "Steps of Dify run run-1:",
    "  #  step  type  status  seconds  tokens",
    "  1  Work  code  failed        -       -",
]


class Driver:
    """A clock of its own, a run whose status depends on it, and a stream of scripted answers."""

    def __init__(
        self,
        status: Callable[[float], str],
        read: list[EventBatch | None],
        user: str | None = "me",
        version: str | None = None,
        deadline: float = 100.0,
    ) -> None:
        self.version = version
        self.now = 1000.0
        self.status = status
        self.read = read
        self.lines: list[str] = []
        self.reads: list[ReadEvents] = []
        self.polls: list[float] = []
        self.slept = 0.0
        flow = wait_for_run(
            "run-1",
            schedule=PollSchedule(),
            deadline=Deadline(1000.0 + deadline),
            since=1000.0,
            clock=self.clock,
            jitter=lambda: 0.5,
        )
        self.result = self.drive(followed(flow, StepLog("run-1"), user=user, clock=self.clock))

    def clock(self) -> float:
        return self.now

    def steps(self) -> list[str]:
        return [line for line in self.lines if not line.startswith("Dify run ")]

    def drive(self, flow: Any) -> Any:
        reported: Any = None
        while True:
            try:
                request = flow.send(reported)
            except StopIteration as end:
                return end.value
            reported = None
            if isinstance(request, Sleep):
                self.now += request.seconds
                self.slept += request.seconds
            elif isinstance(request, ReadEvents):
                assert 0 < request.seconds <= 5.5
                self.reads.append(request)
                reported = self.read.pop(0) if self.read else None
                if reported is None:
                    self.now += request.seconds
                    reported = EventBatch()
            elif isinstance(request, PollRun):
                self.polls.append(self.now - 1000.0)
                run = WorkflowRun("run-1", RunStatus(self.status(self.now - 1000.0)), inputs={"sys.user_id": "me"})
                run = replace(run, server_version=self.version)
                reported = PollResult(run=run)
            elif isinstance(request, AskWhyPaused):
                reported = []
            else:
                assert isinstance(request, Say)
                self.lines.append(request.line)


def failed_after(seconds: float) -> Callable[[float], str]:
    return lambda elapsed: "failed" if elapsed >= seconds else "running"


def test_steps_are_reported_as_they_happen_and_the_failed_one_is_named() -> None:
    driver = Driver(failed_after(6), [EventBatch((STARTED,)), None, None, EventBatch((FAILED,))])
    assert driver.steps() == [BEGINS, FAILS, *TABLE]
    assert isinstance(driver.result, Ended)
    assert driver.result.failed_step == "The failed step is Work (code): no."
    assert driver.slept == 0


def test_the_last_event_brings_the_poll_forward() -> None:
    driver = Driver(lambda elapsed: "failed", [EventBatch((STARTED, FAILED, FINISHED), ended=True)])
    assert driver.polls == [0.0]
    assert isinstance(driver.result, Ended)


@pytest.mark.parametrize(
    "read",
    [
        [EventBatch((FINISHED,), ended=True)],
        [EventBatch(ended=True, error=ex.DifyNotFoundError("gone", code="not_found"))],
    ],
    ids=["the end alone", "nothing"],
)
def test_a_run_that_has_ended_before_anybody_listened(read: list[EventBatch | None]) -> None:
    driver = Driver(lambda elapsed: "failed", read)
    assert driver.steps() == [
        "The steps of Dify run run-1 are not known: the run ended before its events could be read, and Dify (1.14 and "
        "later) replays them only while a run is at work."
    ]


def test_a_run_without_a_stream_of_its_own_says_why_no_step_is_known() -> None:
    driver = Driver(failed_after(3), [EventBatch(refused=True)] * 9)
    assert driver.steps()[-1].endswith(
        "are not known: other tasks of this machine held all the event streams that it may hold to one server."
    )
    old = Driver(lambda elapsed: "failed", [EventBatch((FINISHED,), ended=True)], version="1.11.2")
    assert old.steps()[-1].endswith("are not known: Dify 1.11.2 does not tell them, as 1.14 and later do.")


def test_the_event_is_no_authority() -> None:
    driver = Driver(failed_after(20), [EventBatch((FINISHED,), ended=True)])
    assert driver.polls[0] == 0.0
    assert driver.polls[-1] >= 20
    assert len(driver.reads) == 1
    assert driver.slept >= 20
    assert isinstance(driver.result, Ended)


def test_events_under_way_when_the_row_ends_are_taken() -> None:
    driver = Driver(failed_after(1), [None, EventBatch((STARTED, FAILED)), EventBatch((FINISHED,), ended=True)])
    assert driver.steps() == [FAILS, *TABLE]
    assert driver.reads[-1].seconds <= 1.5


def test_the_user_is_learned_from_the_first_poll() -> None:
    driver = Driver(failed_after(3), [EventBatch((STARTED,))], user=None)
    assert driver.polls[0] == 1.0
    assert {read.user for read in driver.reads} == {"me"}
    assert BEGINS in driver.lines


ENDS: list[tuple[EventBatch, str]] = [
    (EventBatch(ended=True), "their stream ended before the run did"),
    (EventBatch((STARTED,), ended=True, error=ex.DifyTransportError("It broke.")), "It broke"),
    (
        EventBatch(ended=True, error=ex.DifyNotFoundError("HTML")),
        "this server has no events of a run, as Dify before 1.14 has not",
    ),
    (
        EventBatch(ended=True, error=ex.DifyUnsupportedError("none")),
        "the workflow-runs contract has no events of a run",
    ),
    (EventBatch(ended=True, error=ex.DifyServerError("HTTP 502.\n\x1b[2J")), "HTTP 502. \ufffd[2J"),
]


@pytest.mark.parametrize(("end", "why"), ENDS, ids=[why for _, why in ENDS])
def test_a_stream_that_breaks_ends_the_following_with_one_line(end: EventBatch, why: str) -> None:
    driver = Driver(failed_after(30), [end])
    over = [line for line in driver.lines if "not followed" in line]
    assert over == [f"The steps of Dify run run-1 are not followed any further: {why}."]
    assert len(driver.reads) == 1
    assert isinstance(driver.result, Ended)
    assert driver.slept >= 29


def test_a_run_that_is_not_there_yet_is_asked_for_again() -> None:
    missing = EventBatch(ended=True, error=ex.DifyNotFoundError("no run", code="not_found"))
    driver = Driver(failed_after(9), [missing, missing, EventBatch((STARTED,))])
    assert BEGINS in driver.lines
    assert not any("not followed" in line for line in driver.lines)
    given_up = Driver(failed_after(60), [missing] * 9)
    assert len(given_up.reads) == 4
    assert sum("not followed" in line for line in given_up.lines) == 1


def pausing(elapsed: float) -> str:
    return "paused" if elapsed < 30 else "running" if elapsed < 32 else "failed"


RESUMED = Event("workflow_started", {"reason": "resumption"}, "run-1")


def test_a_run_is_followed_over_its_pause() -> None:
    read = [EventBatch((STARTED, PAUSED)), *[None] * 7, EventBatch((RESUMED, FAILED, FINISHED), ended=True)]
    driver = Driver(pausing, read)
    assert driver.steps() == [BEGINS, FAILS, *TABLE]
    assert driver.polls[0] == 0.0, "a pause is polled, and asked about, at once"
    assert len(driver.reads) == 9


@pytest.mark.parametrize("error", [None, ex.DifyTransportError("reset")], ids=["ended", "cut"])
def test_a_stream_that_ends_at_the_pause_is_opened_again(error: ex.DifyError | None) -> None:
    ends = EventBatch((STARTED, PAUSED), ended=True, error=error)
    driver = Driver(pausing, [ends, ends, ends, None, EventBatch((RESUMED, FAILED, FINISHED), ended=True)])
    assert driver.steps() == [BEGINS, FAILS, *TABLE]
    assert driver.slept > 0, "not without a rest"
    empty = EventBatch((), ended=True, error=error)
    assert Driver(pausing, [ends, empty, empty, EventBatch((RESUMED, FAILED))]).steps() == [BEGINS, FAILS, *TABLE]


def test_a_stream_that_never_stays_open_is_not_opened_for_ever() -> None:
    def waits(elapsed: float) -> str:
        return "paused" if elapsed < 3000 else "failed"

    ends = EventBatch((STARTED, PAUSED), ended=True)
    driver = Driver(waits, [ends] * 999, deadline=4000.0)
    assert len(driver.reads) == 30
    assert isinstance(driver.result, Ended)


def test_a_pause_that_the_row_does_not_show_yet_is_no_busy_loop() -> None:
    driver = Driver(failed_after(60), [EventBatch((PAUSED,), ended=True) for _ in range(99)])
    assert len(driver.polls) < 40


def test_a_stream_that_says_nothing_changes_nothing() -> None:
    driver = Driver(lambda elapsed: "running", [])
    assert isinstance(driver.result, TimedOut)
    assert driver.polls[-1] == pytest.approx(100.0)
    assert driver.polls[:3] == pytest.approx([1.0, 3.0, 7.0])


heards = st.none() | st.builds(
    EventBatch,
    st.lists(st.sampled_from([STARTED, FAILED, FINISHED, PAUSED, Event("other", {})]), max_size=3).map(tuple),
    st.booleans(),
    st.none() | st.sampled_from([ex.DifyTransportError("x"), ex.DifyNotFoundError("x", code="not_found")]),
)


@settings(deadline=None, database=None)
@given(st.lists(heards, max_size=12), st.floats(0, 60))
def test_whatever_events_come_the_row_decides_in_time(read: list[EventBatch | None], seconds: float) -> None:
    # A driver that hears again and again without time passing would be none.
    driver = Driver(failed_after(seconds), read)
    assert isinstance(driver.result, Ended)
    assert driver.polls[-1] <= seconds + 6


def test_the_reader_passes_no_pings_and_nothing_after_the_end() -> None:
    reader = EventReader()
    block = (
        b'event: ping\n\ndata: {"event":"workflow_finished","data":{}}\n\ndata: {"event":"node_started","data":{}}\n\n'
    )
    assert [event.event for event in reader.feed(block)] == ["workflow_finished"]
    assert reader.ended
