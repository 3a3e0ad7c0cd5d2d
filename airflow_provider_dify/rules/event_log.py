"""A wait whose sleep is spent on the run's events, once for worker and triggerer.

Events only ever tell the log what happens. How the run ends is reported by the row that the wait polls, and a
stream that breaks ends nothing but the following.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any, overload

from airflow_provider_dify.api.events import (
    ERROR,
    HUMAN_INPUT_REQUIRED,
    MAX_EVENT_BYTES,
    PING,
    WORKFLOW_FINISHED,
    WORKFLOW_PAUSED,
    WORKFLOW_STARTED,
    Event,
    EventDecoder,
)
from airflow_provider_dify.api.runs import RunStatus
from airflow_provider_dify.api.server_versions import Server
from airflow_provider_dify.api.values import excerpt
from airflow_provider_dify.exceptions import DifyError, DifyNotFoundError, DifyUnsupportedError
from airflow_provider_dify.rules.deferring import HandOver
from airflow_provider_dify.rules.polling import Ended, PollResult
from airflow_provider_dify.rules.steps import StepLog
from airflow_provider_dify.rules.waiting import PollRun, Request, Say, Sleep, WaitFlow, WaitResult

FollowFlow = Generator["Request | ReadEvents", Any, WaitResult]
HandOverFlow = Generator["Request | ReadEvents", Any, WaitResult | HandOver]

LAST_EVENTS_SECONDS = 1.5
"""Time for the events that are under way when the row already says that the run has ended."""
# A row can lag behind the event that named the run (dify-behaviour.md, section 3.2), and the events route asks for the
# row.
_MISSING_AT_MOST = 3
# A stream that is cut while its run waits for a human is opened again, so often; then the row says when to.
_REOPENED_AT_MOST = 30
# The stream is kept over a pause, and nothing follows these.
_LAST = frozenset({ERROR, WORKFLOW_FINISHED})


@dataclass(frozen=True)
class ReadEvents:
    """Asks the driver for what happens in a run, as ``EventBatch``, within so many seconds.

    The first one opens the stream, which replays the past; it stays open until it ends or the wait does. The
    driver answers as soon as something has happened, and lets the time pass where it cannot listen.
    """

    workflow_run_id: str
    user: str
    seconds: float


@dataclass(frozen=True)
class EventBatch:
    """What a driver has read.

    :param events: Events, in their order.
    :param ended: Whether the stream has ended; it was closed then.
    :param error: Why, where that was not the run's doing.
    :param refused: Whether no stream could be opened, since others have taken all that there may be.
    """

    events: tuple[Event, ...] = ()
    ended: bool = False
    error: DifyError | None = None
    refused: bool = False


class EventReader:
    """Bytes of the events route in, events out, without pings.

    :param max_event_bytes: As in ``EventDecoder``.
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._decoder = EventDecoder(max_event_bytes)
        self.ended = False

    def feed(self, chunk: bytes) -> list[Event]:
        """Return the events that these bytes complete, up to the run's last one; a pause is not the last."""
        events = []
        for event in self._decoder.feed(chunk):
            if event.event == PING or self.ended:
                continue
            events.append(event)
            self.ended = event.event in _LAST
        return events


@overload
def followed(flow: WaitFlow, steps: StepLog, *, user: str | None, clock: Callable[[], float]) -> FollowFlow: ...


@overload
def followed(
    flow: Generator[Request, Any, WaitResult | HandOver],
    steps: StepLog,
    *,
    user: str | None,
    clock: Callable[[], float],
) -> HandOverFlow: ...


def followed(
    flow: Generator[Request, Any, WaitResult | HandOver],
    steps: StepLog,
    *,
    user: str | None,
    clock: Callable[[], float],
) -> HandOverFlow:
    """Let a wait tell the steps of its run as they happen, and a table of them at its end.

    A ``workflow_finished`` cuts the sleep short, so the poll that decides follows at once.

    :param flow: The wait.
    :param steps: Where the steps are collected.
    :param user: The ``user`` of the submission, which the events route asks for; None where the first poll tells it.
    :param clock: Returns unix seconds.
    :return: What the wait returns, with the step that failed where that is known.
    """
    follower = _Follower(steps, user, clock)
    answer: Any = None
    while True:
        try:
            request = flow.send(answer)
        except StopIteration as end:
            result: WaitResult | HandOver = end.value
            break
        if isinstance(request, Sleep) and follower.may_listen:
            yield from follower.listen(request.seconds)
            answer = None
        else:
            answer = yield request
            if isinstance(request, PollRun) and isinstance(answer, PollResult):
                yield from follower.polled(answer)
    if isinstance(result, HandOver):
        return result
    for line in steps.closing():
        yield Say(line)
    if isinstance(result, Ended) and not steps.is_known and not follower.has_given_up:
        yield Say(f"The steps of Dify run {steps.workflow_run_id} are not known: {follower.why_unknown()}.")
    if isinstance(result, Ended) and not result.run.status.is_success:
        return replace(result, failed_step=steps.failure(result.run.error))
    return result


def with_failed_step(result: WaitResult, failed_step: str | None) -> WaitResult:
    """Return how a wait ended, with the step that another process saw fail."""
    return replace(result, failed_step=failed_step) if isinstance(result, Ended) else result


class _Follower:
    def __init__(self, steps: StepLog, user: str | None, clock: Callable[[], float]) -> None:
        self._steps = steps
        self._run_id = steps.workflow_run_id
        self._user = user
        self._clock = clock
        self._status: RunStatus | None = None
        self._server = Server()
        self._listening = False
        self._over = False
        self._pass_over = False
        self._missing = 0
        self._reopened = 0
        self._is_paused = False
        self._cut_short = False
        self._has_ended = False
        self._was_refused = False
        self.has_given_up = False

    @property
    def may_listen(self) -> bool:
        """Whether the next sleep is spent on events."""
        if self._pass_over:
            # A paused run would be replayed, and polled, without a rest where the server ends its stream at the pause.
            self._pass_over = False
            return False
        if self._over or self._user is None:
            return False
        if self._status is RunStatus.PAUSED:
            return self._listening or self._reopened < _REOPENED_AT_MOST
        return self._status in (None, RunStatus.RUNNING)

    def polled(self, poll_result: PollResult) -> Generator[ReadEvents | Say, Any, None]:
        """Learn from a poll; after the one that shows the end, take the events that are still under way."""
        if poll_result.run is None:
            return
        self._status = poll_result.run.status
        self._server = Server(poll_result.run.server_version or self._server.version)
        self._user = self._user or poll_result.run.user
        if self._status.is_terminal and self._listening:
            yield from self._hear(LAST_EVENTS_SECONDS)

    def listen(self, seconds: float) -> Generator[ReadEvents | Say | Sleep, Any, None]:
        """Spend a sleep on events."""
        until = self._clock() + seconds
        yield from self._hear(seconds)
        if not self._listening and not self._cut_short:
            left = until - self._clock()
            if left > 0:
                yield Sleep(left)

    def why_unknown(self) -> str:
        """Return why no step is known at the end of the wait."""
        if not self._server.has_run_events:
            return f"Dify {self._server.version} does not tell them, as 1.14 and later do"
        if self._has_ended or not self._was_refused:
            return (
                "the run ended before its events could be read, and Dify (1.14 and later) replays them only while "
                "a run is at work"
            )
        return "other tasks of this machine held all the event streams that it may hold to one server"

    def _hear(self, seconds: float) -> Generator[ReadEvents | Say, Any, None]:
        assert self._user is not None
        until = self._clock() + seconds
        self._cut_short = False
        self._listening = True
        while self._listening and not self._cut_short and (left := until - self._clock()) > 0:
            batch = yield ReadEvents(self._run_id, self._user, left)
            assert isinstance(batch, EventBatch)
            self._was_refused = self._was_refused or batch.refused
            for line in self._steps.take(batch.events):
                yield Say(line)
            self._note(batch.events)
            if batch.ended:
                self._listening = False
                yield from self._ended(batch)

    def _note(self, events: tuple[Event, ...]) -> None:
        """Learn of a pause, which a poll is to show at once, and of a resume and the end."""
        for event in events:
            if event.event in (HUMAN_INPUT_REQUIRED, WORKFLOW_PAUSED):
                self._is_paused = True
            elif event.event in (WORKFLOW_STARTED, WORKFLOW_FINISHED):
                self._is_paused = False
                self._has_ended = self._has_ended or event.event == WORKFLOW_FINISHED
        paused_now = any(event.event == WORKFLOW_PAUSED for event in events) and self._is_paused
        self._cut_short = paused_now and self._status is not RunStatus.PAUSED

    def _ended(self, batch: EventBatch) -> Generator[Say, Any, None]:
        last = batch.events[-1].event if batch.events else None
        if batch.error is None and last in _LAST:
            self._cut_short = self._over = True
            return
        if self._is_paused or self._status is RunStatus.PAUSED:
            self._reopened += 1
            self._pass_over = True
            return
        if _is_missing(batch.error) and self._missing < _MISSING_AT_MOST:
            self._missing += 1
            return
        self._over = True
        if self._status is None or not self._status.is_terminal:
            self.has_given_up = True
            yield Say(f"The steps of Dify run {self._run_id} are not followed any further: {self._why(batch.error)}.")

    def _why(self, error: DifyError | None) -> str:
        if error is None:
            return "their stream ended before the run did"
        if isinstance(error, DifyUnsupportedError):
            return "the workflow-runs contract has no events of a run"
        if isinstance(error, DifyNotFoundError) and error.code is None:
            return "this server has no events of a run, as Dify before 1.14 has not"
        return excerpt(self._steps.redact(error.message_without_retry)).rstrip(".")


def _is_missing(error: DifyError | None) -> bool:
    return isinstance(error, DifyNotFoundError) and error.code is not None
