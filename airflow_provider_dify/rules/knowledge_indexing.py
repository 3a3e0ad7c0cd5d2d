"""The wait until documents are indexed: once for worker and triggerer, as a generator that asks for pages.

A page lists 100 documents. While documents are at work only the pages of those are asked for, and the whole list once
none of them is, so that waiting for a thousand documents costs a few requests a round.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_dify.api.knowledge import Document, DocumentPage, IndexingState, IndexingStatus
from airflow_provider_dify.api.values import excerpt
from airflow_provider_dify.exceptions import DifyError, DifyRateLimitError, DifyResponseError, DifyServerError, is_final
from airflow_provider_dify.rules.knowledge_names import SYNC_FIELD
from airflow_provider_dify.rules.polling import MAX_FAILURES_IN_A_ROW, Deadline
from airflow_provider_dify.rules.settings import PollSchedule
from airflow_provider_dify.rules.waiting import Say, Sleep

QUEUE_SECONDS = 60.0
"""Documents that have stayed in the queue for so long, with none at work, have probably no worker."""

LINE_SECONDS = 60.0
AT_WORK = ("queuing", "indexing")
"""The display statuses of documents of which more is to be expected; paused ones are on no list of these."""

NO_WORKER = (
    "They are in Dify's queue, and none is at work: probably no worker takes them. Dify's Celery workers must listen "
    "to the queues priority_dataset and dataset (worker option -Q; a self-hosted Dify uses priority_dataset)."
)


@dataclass(frozen=True)
class ListPage:
    """Asks the driver for a ``DocumentPage``, or for the ``DifyError`` that came instead.

    :param status: A display status; None for all documents.
    """

    page: int = 1
    status: str | None = None


@dataclass(frozen=True)
class AskBatch:
    """Asks the driver for the ``IndexingStatus`` of a batch's documents, or for the ``DifyError`` that came instead."""

    batch: str


Request = ListPage | AskBatch | Sleep | Say


@dataclass(frozen=True)
class Waited:
    """How a wait for documents ended.

    :param states: What the last round has shown, by document.
    :param errors: Why documents could not be indexed, by document.
    :param timed_out: Whether the deadline has passed.
    :param error: What ended the wait, where the server refused to be asked.
    """

    states: Mapping[str, IndexingState] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    timed_out: bool = False
    error: DifyError | None = None

    @property
    def pending(self) -> list[str]:
        """The documents that are still to be indexed."""
        return [name for name, state in self.states.items() if not state.has_ended]

    @property
    def stuck(self) -> bool:
        """Whether all that is missing is in the queue, and nothing at work."""
        pending = self.pending
        return bool(pending) and all(self.states[each] is IndexingState.WAITING for each in pending)


WaitFlow = Generator[Request, Any, Waited]
Round = Generator[Request, Any, "Waited | DifyError"]


def wait_for_sync(
    sync_id: str,
    *,
    schedule: PollSchedule,
    deadline: Deadline,
    clock: Callable[[], float],
    jitter: Callable[[], float],
) -> WaitFlow:
    """Wait until all documents of a sync have ended, searchable or not.

    :param sync_id: Which sync: its documents are known by their metadata.
    :param schedule: The distances between rounds.
    :param deadline: When waiting ends; a last round begins then.
    :param clock: Returns unix seconds.
    :param jitter: Returns random numbers from 0 to 1.
    """

    def is_own(document: Document) -> bool:
        return document.metadata.get(SYNC_FIELD) == sync_id

    return (yield from _wait(lambda: _round_of_pages(is_own), schedule, deadline, clock, jitter))


def wait_for_batches(
    batches: Iterable[str],
    *,
    schedule: PollSchedule,
    deadline: Deadline,
    clock: Callable[[], float],
    jitter: Callable[[], float],
) -> WaitFlow:
    """Wait until the documents of some uploads have ended; see ``wait_for_sync``.

    :param batches: As the uploads have returned them.
    """
    left = list(batches)
    ended = Waited()

    def one_round() -> Round:
        nonlocal ended
        states, errors = dict(ended.states), dict(ended.errors)
        for batch in list(left):
            answer = yield AskBatch(batch)
            if isinstance(answer, DifyError):
                return answer
            for status in answer:
                assert isinstance(status, IndexingStatus)
                states[status.document_id] = status.state
                if status.state is IndexingState.ERROR:
                    errors[status.document_id] = reason(status.error)
            if all(status.state.has_ended for status in answer):
                # Ended batches are asked for no more.
                left.remove(batch)
                ended = Waited(
                    {**ended.states, **{each.document_id: states[each.document_id] for each in answer}}, errors
                )
        return Waited(states, errors)

    return (yield from _wait(one_round, schedule, deadline, clock, jitter))


def reason(error: str | None) -> str:
    """Return why a document could not be indexed, as a line for log and manifest."""
    return f"Dify could not index it: {excerpt(error) if error else 'it does not say why'}"


def _wait(
    one_round: Callable[[], Round],
    schedule: PollSchedule,
    deadline: Deadline,
    clock: Callable[[], float],
    jitter: Callable[[], float],
) -> WaitFlow:
    rounds = failures = 0
    seen = Waited()
    queue = _Queue(clock())
    while True:
        left = deadline.left(clock())
        found = yield from one_round()
        now = clock()
        if isinstance(found, DifyError):
            failures += 1
            if is_final(found) or failures >= MAX_FAILURES_IN_A_ROW:
                return Waited(seen.states, seen.errors, error=_last(found, failures))
            if failures == 1:
                yield Say(f"The indexing could not be asked for, which is tried again: {found.message}")
        else:
            failures, seen = 0, found
            for line in queue.lines(found, now):
                yield Say(line)
            if not found.pending:
                return found
        if left <= 0:
            return Waited(seen.states, seen.errors, timed_out=True)
        asked = found.retry_after if isinstance(found, (DifyRateLimitError, DifyServerError)) else None
        rounds += 1
        yield Sleep(max(min(schedule.delay(rounds, failures, asked, jitter()), deadline.left(clock())), 0.0))


def _last(error: DifyError, failures: int) -> DifyError:
    if is_final(error):
        return error
    return DifyResponseError(
        f"{failures} requests for the indexing failed in a row; the last one: {error}", status_code=error.status_code
    )


def _round_of_pages(is_own: Callable[[Document], bool]) -> Round:
    states: dict[str, IndexingState] = {}
    for status in AT_WORK:
        rows = yield from all_pages(status)
        if isinstance(rows, DifyError):
            return rows
        states.update((row.id, row.state) for row in rows if is_own(row) and not row.state.has_ended)
    if states:
        return Waited(states)
    # A document may have passed from one list to the other in between: only the whole list tells that all have ended.
    rows = yield from all_pages(None)
    if isinstance(rows, DifyError):
        return rows
    own = [row for row in rows if is_own(row)]
    return Waited(
        {row.id: row.state for row in own},
        {row.id: reason(row.error) for row in own if row.state is IndexingState.ERROR},
    )


def all_pages(status: str | None) -> Generator[ListPage, Any, list[Document] | DifyError]:
    """Collect the documents of a knowledge base, each once, over as many pages as it takes.

    :param status: A display status; None for all documents.
    :return: The documents, or the error that a page brought instead.
    """
    found: dict[str, Document] = {}
    number = 1
    while True:
        page = yield ListPage(number, status)
        if isinstance(page, DifyError):
            return page
        assert isinstance(page, DocumentPage)
        found.update((row.id, row) for row in page.documents)
        if not (page.has_more and page.documents):
            return list(found.values())
        number += 1


class _Queue:
    """Writes the lines of a wait: how far it is once a minute, and that nobody seems to work, once."""

    def __init__(self, now: float) -> None:
        self._line_at = now + LINE_SECONDS
        self._stuck_since: float | None = None
        self._has_warned = False

    def lines(self, found: Waited, now: float) -> list[str]:
        lines = []
        pending = len(found.pending)
        self._stuck_since = (self._stuck_since or now) if found.stuck else None
        if self._stuck_since is not None and now - self._stuck_since >= QUEUE_SECONDS and not self._has_warned:
            self._has_warned = True
            lines.append(f"{pending} documents wait to be indexed since {QUEUE_SECONDS:g} s. {NO_WORKER}")
        if now >= self._line_at and pending:
            self._line_at = now + LINE_SECONDS
            lines.append(f"{pending} documents are still to be indexed.")
        return lines
