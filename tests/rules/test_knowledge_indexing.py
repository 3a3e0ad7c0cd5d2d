"""The wait until documents are indexed, with a clock that only the wait moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from airflow_provider_dify.api.knowledge import Document, DocumentPage, IndexingState, IndexingStatus
from airflow_provider_dify.exceptions import (
    DifyAuthenticationError,
    DifyError,
    DifyFileError,
    DifyInvalidInputError,
    DifyNotFoundError,
    DifyPermissionError,
    DifyRateLimitError,
    DifyServerError,
    DifyTransportError,
)
from airflow_provider_dify.rules.knowledge_indexing import (
    NO_WORKER,
    AskBatch,
    ListPage,
    Waited,
    wait_for_batches,
    wait_for_sync,
)
from airflow_provider_dify.rules.knowledge_names import SYNC_FIELD
from airflow_provider_dify.rules.knowledge_uploads import (
    Follows,
    follows_failure,
    made_by_lost_upload,
    pause_before_next,
    reason_of_refusal,
)
from airflow_provider_dify.rules.polling import MAX_FAILURES_IN_A_ROW, Deadline
from airflow_provider_dify.rules.settings import PollSchedule
from airflow_provider_dify.rules.waiting import Say, Sleep

SYNC = "dag.task"
WAITING, INDEXING, DONE, ERROR = (
    IndexingState.WAITING,
    IndexingState.INDEXING,
    IndexingState.COMPLETED,
    IndexingState.ERROR,
)


class World:
    """Answers a wait, and counts what it is asked."""

    def __init__(self, timeout: float = 300.0) -> None:
        self.now = 1000.0
        self.deadline = Deadline(self.now + timeout)
        self.asked: list[Any] = []
        self.lines: list[str] = []

    def settings(self) -> dict[str, Any]:
        return {
            "schedule": PollSchedule(),
            "deadline": self.deadline,
            "clock": lambda: self.now,
            "jitter": lambda: 0.5,
        }

    def drive(self, flow: Any, answer: Callable[[Any], Any]) -> Waited:
        reported = None
        while True:
            try:
                request = flow.send(reported)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            reported = None
            if isinstance(request, Sleep):
                self.now += request.seconds
            elif isinstance(request, Say):
                self.lines.append(request.line)
            else:
                self.asked.append(request)
                reported = answer(request)

    def sync(self, states: Callable[[float], dict[str, IndexingState] | DifyError]) -> Waited:
        """Wait for a knowledge base whose documents are in states that depend on the time."""

        def answer(request: ListPage) -> Any:
            found = states(self.now)
            if isinstance(found, DifyError):
                return found
            shown = {"queuing": {WAITING}, "indexing": {INDEXING}}.get(request.status or "", set(IndexingState))
            rows = [document(name, state) for name, state in found.items() if state in shown]
            start = 100 * (request.page - 1)
            return DocumentPage(tuple(rows[start : start + 100]), len(rows) > start + 100, request.page, len(rows))

        return self.drive(wait_for_sync(SYNC, **self.settings()), answer)


def document(name: str, state: IndexingState, sync_id: str = SYNC) -> Document:
    error = "Failed to load" if state is ERROR else None
    return Document(name, name, state, metadata={SYNC_FIELD: sync_id}, error=error)


@pytest.fixture
def world() -> World:
    return World()


def test_ends_when_all_documents_have(world: World) -> None:
    waited = world.sync(lambda now: {"a": DONE if now > 1010 else INDEXING, "b": ERROR, "c": DONE})
    assert (waited.pending, waited.timed_out, waited.error) == ([], False, None)
    assert waited.errors == {"b": "Dify could not index it: Failed to load"}
    assert 1010 < world.now < 1020


def test_asks_for_few_pages_while_documents_are_at_work(world: World) -> None:
    """A thousand documents that are done are listed once, however long the last one takes."""
    many = {f"d{n}": DONE for n in range(1000)}
    world.sync(lambda now: {**many, "late": DONE if now > 1100 else INDEXING})
    whole = [request for request in world.asked if request.status is None]
    assert len(whole) == 11
    assert len(world.asked) - len(whole) < 60


def test_a_document_that_passes_between_two_lists_is_not_overlooked(world: World) -> None:
    turns: Iterator[DocumentPage] = iter(
        [
            DocumentPage(()),
            DocumentPage(()),
            DocumentPage((document("a", INDEXING),)),
            DocumentPage(()),
            DocumentPage(()),
            DocumentPage((document("a", DONE),)),
        ]
    )
    waited = world.drive(wait_for_sync(SYNC, **world.settings()), lambda request: next(turns))
    assert waited.states == {"a": DONE}


def test_documents_of_others_are_not_waited_for(world: World) -> None:
    flow = wait_for_sync(SYNC, **world.settings())
    page = DocumentPage((document("x", WAITING, "other"), document("a", DONE)))
    assert world.drive(flow, lambda request: page).states == {"a": DONE}


def test_the_deadline_ends_it_with_what_is_missing(world: World) -> None:
    waited = world.sync(lambda now: {"a": INDEXING, "b": WAITING, "c": DONE})
    assert (waited.timed_out, sorted(waited.pending), waited.stuck) == (True, ["a", "b"], False)
    assert world.now == pytest.approx(1300.0, abs=0.1)


def test_a_queue_without_a_worker_is_named_once(world: World) -> None:
    waited = world.sync(lambda now: {"a": WAITING, "b": DONE})
    assert waited.stuck
    assert [line for line in world.lines if NO_WORKER in line] == [
        f"1 documents wait to be indexed since 60 s. {NO_WORKER}"
    ]


def test_errors_of_the_server_only_lengthen_the_wait(world: World) -> None:
    away = DifyServerError("away", status_code=502)
    waited = world.sync(lambda now: away if now < 1060 else {"a": DONE})
    assert (waited.states, waited.error) == ({"a": DONE}, None)
    assert len(world.asked) < 12


def test_a_refused_key_ends_it(world: World) -> None:
    waited = world.sync(lambda now: DifyAuthenticationError("no", status_code=401))
    assert isinstance(waited.error, DifyAuthenticationError)


def test_a_server_that_never_comes_back_ends_it() -> None:
    world = World(timeout=1e6)
    waited = world.sync(lambda now: DifyServerError("away", status_code=502))
    assert f"{MAX_FAILURES_IN_A_ROW} requests" in str(waited.error)


def test_batches_that_have_ended_are_asked_for_no_more(world: World) -> None:
    def answer(request: AskBatch) -> Any:
        late = request.batch == "2" and world.now < 1050
        return (IndexingStatus(f"d{request.batch}", INDEXING if late else ERROR, None if late else "broken"),)

    waited = world.drive(wait_for_batches(["1", "2"], **world.settings()), answer)
    assert waited.states == {"d1": ERROR, "d2": ERROR}
    assert waited.errors == dict.fromkeys(("d1", "d2"), "Dify could not index it: broken")
    assert world.asked.count(AskBatch("1")) == 1
    assert world.asked.count(AskBatch("2")) > 5


def test_a_state_that_is_not_known_is_waited_for(world: World) -> None:
    waited = world.drive(
        wait_for_batches(["1"], **world.settings()), lambda request: (IndexingStatus("d", IndexingState.UNKNOWN),)
    )
    assert waited.timed_out


# --- Uploads


@pytest.mark.parametrize(
    ("error", "follows"),
    [
        (DifyInvalidInputError("x", status_code=400, code="invalid_param"), Follows.REFUSED),
        (DifyInvalidInputError("x", status_code=413, code="file_too_large"), Follows.REFUSED),
        (DifyError("x", status_code=415), Follows.REFUSED),
        (DifyInvalidInputError("a name with a slash"), Follows.REFUSED),
        (DifyFileError("became shorter"), Follows.REFUSED),
        (DifyRateLimitError("x", status_code=429), Follows.AGAIN),
        (DifyTransportError("x", sent=False, cause="refused"), Follows.AGAIN),
        (DifyTransportError("x", sent=True, cause="closed"), Follows.UNKNOWN),
        (DifyTransportError("x", sent=False, cause="certificate"), Follows.STOP),
        (DifyServerError("x", status_code=502), Follows.UNKNOWN),
        (DifyServerError("x", status_code=500), Follows.UNKNOWN),
        (DifyAuthenticationError("x", status_code=401), Follows.STOP),
        (DifyPermissionError("x", status_code=403), Follows.STOP),
        (DifyNotFoundError("x", status_code=404), Follows.STOP),
    ],
)
def test_what_follows_a_failed_upload(error: DifyError, follows: Follows) -> None:
    assert follows_failure(error) is follows


def test_pauses_grow_and_heed_the_server() -> None:
    error = DifyServerError("x", status_code=503)
    assert [pause_before_next(n, error, 0.5) for n in (1, 2, 3, 99)] == [1, 2, 4, 30]
    assert pause_before_next(1, DifyRateLimitError("x", retry_after=77.0), 0.5) == 77


def test_the_document_of_a_lost_upload() -> None:
    rows = [Document("1", "a"), Document("2", "n", enabled=False), Document("3", "n", created_at=1.0)]
    assert made_by_lost_upload(rows, "n") == rows[2]
    assert made_by_lost_upload(rows[:2], "n") is None


@pytest.mark.parametrize(
    ("error", "title", "lines"),
    [
        (DifyInvalidInputError("Uploading: HTTP 400 invalid_param: no message. …", status_code=400), "a.exe", ".exe"),
        (DifyInvalidInputError("Uploading: HTTP 400 invalid_param: no message. …", status_code=400), "a", "without an"),
        (DifyInvalidInputError("", status_code=413, code="file_too_large"), "a.pdf", "UPLOAD_FILE_SIZE_LIMIT"),
        (DifyInvalidInputError("Uploading: HTTP 400: Invalid doc_form.", status_code=400), "a.pdf", "Invalid doc_form"),
    ],
)
def test_why_a_document_was_refused(error: DifyError, title: str, lines: str) -> None:
    assert lines in reason_of_refusal(error, title)
