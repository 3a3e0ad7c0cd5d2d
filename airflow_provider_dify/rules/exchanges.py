"""Operations that take more than one call or more than an answer, written once for worker and event loop.

Each is a generator: it yields what it wants of the driver and is sent what came of it, errors included. The drivers are
``runtime.worker_client`` and ``runtime.loop_client``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any, TypeVar

from airflow_provider_dify.api.checks import check_number, check_type
from airflow_provider_dify.api.events import Event, EventDecoder, task_id_in
from airflow_provider_dify.api.human_input import HumanInputForm
from airflow_provider_dify.api.operations import LOGS_MAX_LIMIT, ApiContract, Operation, Upload, check_id
from airflow_provider_dify.api.pauses import PAUSE_EVENTS_SECONDS, PauseReader
from airflow_provider_dify.api.runs import LoggedRun, LogPage, RunStatus, StartedRun, UploadedFile, WorkflowRun
from airflow_provider_dify.api.server_versions import Server
from airflow_provider_dify.api.tracing import Trace
from airflow_provider_dify.exceptions import (
    DifyError,
    DifyResponseError,
    DifyTransportError,
)
from airflow_provider_dify.names import WORKFLOW_RUNS
from airflow_provider_dify.rules.driver_requests import (
    GET_API,
    NEXT_CHUNK,
    READ_ANSWER,
    Flow,
    Give,
    Open,
    ReadChunks,
    Send,
)
from airflow_provider_dify.rules.inputs import check_files, check_inputs, check_query, check_user
from airflow_provider_dify.rules.outages import is_outage
from airflow_provider_dify.rules.polling import PollResult
from airflow_provider_dify.rules.settings import RESPONSE_MODES, check_choice, request_seconds
from airflow_provider_dify.rules.streaming import StreamReader, no_stream
from airflow_provider_dify.rules.submission import SubmissionReader, submission_errors
from airflow_provider_dify.rules.waiting import FindMarker, ReadRecentRuns

STOP_TIMEOUT_SECONDS = 2.0
PROBE_TIMEOUT_SECONDS = 5.0
# A marker has one run; a few more rows show it where a server of another kind says otherwise.
MARKER_ROWS = 10
# An id that no server has: what matters is whether the answer is about the key or about the id.
_PROBE_RUN_ID = "airflow-connection-test"
_READ_TO_THE_END = (
    "Dify %s leaves a run whose stream is closed 'running' permanently, so the stream of run %s is read to its end "
    "here in the worker, whatever deferrable says."
)
_RUN_REMEDY = "pass what get_workflow_run returns"

T = TypeVar("T")


@dataclass(frozen=True)
class NewRun:
    """What a submission consists of, as a DAG author passes it."""

    inputs: Mapping[str, Any] | str | None
    user: str
    response_mode: str = "streaming"
    files: list[Any] | str | None = None
    query: str | None = None
    workflow_id: str | None = None
    trace: Trace | None = None

    def operation(self, api: ApiContract) -> Operation[StartedRun]:
        """Return what is sent.

        :raises DifyInvalidInputError: A part of it is wrong.
        """
        return api.run(
            inputs=check_inputs(self.inputs),
            user=check_user(self.user),
            response_mode=check_choice(self.response_mode, "response_mode", RESPONSE_MODES),
            files=check_files(self.files, opaque_ids=api.name == WORKFLOW_RUNS),
            query=check_query(self.query),
            workflow_id=self.workflow_id,
            trace=self.trace or Trace(),
        )


def _chunks(seconds: float, take: Callable[[bytes], bool], *, by_deadline: bool = False) -> Flow[None]:
    """Read the body of the answer that was opened until ``take`` returns True, or to its end."""
    yield ReadChunks(seconds, by_deadline)
    while (chunk := (yield NEXT_CHUNK)) is not None:
        if take(chunk):
            return


def submit(
    run: NewRun,
    *,
    submit_timeout: float,
    timeout: float,
    before_send: Callable[[], None] | None,
    on_started: Callable[[StartedRun], None] | None,
    log: Callable[[str], None],
) -> Flow[StartedRun]:
    """Start a run; see ``DifyHook.create_workflow_run``."""
    operation = run.operation((yield GET_API))
    wait = submit_timeout if operation.call.streaming else timeout
    with submission_errors(run.response_mode, run.user):
        head = yield Open(operation.call, timeout=wait, before_send=before_send)
        if head.ok and head.is_event_stream:
            reader = SubmissionReader(head, operation.call.json)

            def names_run(chunk: bytes) -> bool:
                reader.feed(chunk)
                return reader.names_run

            with reader.reading():
                yield from _chunks(wait, names_run)
            started = reader.started()
        else:
            reader, started = None, operation.read((yield READ_ANSWER))
        if on_started is not None:
            on_started(started)
    if reader is None or Server(started.server_version).survives_closed_stream:
        return started
    log(_READ_TO_THE_END % (started.server_version, started.workflow_run_id))

    def has_ended(chunk: bytes) -> bool:
        reader.feed(chunk)
        return reader.ended

    with suppress(DifyTransportError, DifyResponseError):
        yield from _chunks(timeout, has_ended)
    return replace(started, settled=reader.ended)


def stream(run: NewRun, seconds: float, clock: Callable[[], float]) -> Flow[None]:
    """Start a run and give its events; see ``DifyHook.stream_workflow_run``."""
    operation = run.operation((yield GET_API))
    seconds = request_seconds(seconds, "timeout")
    until = clock() + seconds
    reader = StreamReader(check_user(run.user), operation.call.json)
    with reader.errors():
        head = yield Open(operation.call, timeout=seconds, within_connection=True)
        if not (head.ok and head.is_event_stream):
            raise no_stream((yield READ_ANSWER), operation)
        reader.opened(head)
        yield ReadChunks(until - clock())
        while (chunk := (yield NEXT_CHUNK)) is not None:
            yield from _given(reader.feed(chunk))
            if reader.ended:
                return
        reader.end(timed_out=clock() >= until)


def _given(events: Iterable[Event]) -> Iterator[Give[Event]]:
    for event in events:
        yield Give(event)


def send(operation: Callable[[ApiContract], Operation[T]], **how: Any) -> Flow[T]:
    """Send one operation of the connection's contract.

    :param how: The parameters of ``Send``.
    """
    value: T = yield Send(operation((yield GET_API)), **how)
    return value


def one(operation: Operation[T], **how: Any) -> Flow[T]:
    """Send one operation.

    :param how: The parameters of ``Send``.
    """
    value: T = yield Send(operation, **how)
    return value


def status(workflow_run_id: str) -> Flow[RunStatus]:
    """Return a run's status."""
    run: WorkflowRun = yield from send(lambda api: api.get_run(workflow_run_id))
    return run.status


def form(form_token: str) -> Flow[HumanInputForm]:
    """Return the form by which a paused run asks a human."""
    found: HumanInputForm = yield from send(lambda api: api.human_input_form(form_token))
    return found


def stop(task_id: str, user: str = "airflow") -> Flow[None]:
    """Ask Dify to stop a run: once, and also after the deadline of the task, which is often why it is stopped."""
    user = check_user(user)
    yield from send(lambda api: api.stop(task_id, user), timeout=STOP_TIMEOUT_SECONDS, retry=False, past_deadline=True)


def find(filters: Mapping[str, Any], limit: int) -> Flow[list[LoggedRun]]:
    """Collect rows of the workflow logs over as many pages as it takes."""
    found: list[LoggedRun] = yield from find_runs((yield GET_API), filters, limit)
    return found


def list_runs(pages: RunPages) -> Flow[None]:
    """Give the rows of the workflow logs, page by page."""
    while pages.next is not None:
        for run in pages.take((yield pages.next)):
            yield Give(run)


def upload(opened: Callable[[], AbstractContextManager[Upload]], user: str) -> Flow[UploadedFile]:
    """Upload a file for a run of the same user."""
    user = check_user(user)
    with opened() as file:
        uploaded: UploadedFile = yield Send((yield GET_API).upload(file, user))
    return uploaded


def poll(workflow_run_id: str, timeout: float | None, count: Callable[[object], None]) -> Flow[PollResult]:
    """Poll a run once: not repeated, since the next poll is its retry; errors are part of the result.

    :param count: Takes the error that came of the request, or None.
    """
    timeout = None if timeout is None else request_seconds(timeout, "timeout")
    try:
        poll_result = PollResult(
            run=(yield Send((yield GET_API).get_run(workflow_run_id), timeout=timeout, retry=False))
        )
    except DifyError as error:
        poll_result = PollResult(error=error)
    count(poll_result.error)
    return poll_result


def page(
    request: FindMarker | ReadRecentRuns, now: float, count: Callable[[object], None], **how: Any
) -> Flow[LogPage | DifyError]:
    """Read one page of the workflow logs; an error is its result.

    :param now: Unix seconds.
    :param count: Takes what came of the request.
    :param how: The parameters of ``Send``.
    """
    found: LogPage | DifyError
    try:
        api: ApiContract = yield GET_API
        if isinstance(request, FindMarker):
            operation = api.logs(user=request.user, limit=MARKER_ROWS)
        else:
            operation = api.logs(created_after=datetime.fromtimestamp(now - request.seconds, timezone.utc))
        found = yield Send(operation, retry=False, **how)
    except DifyError as error:
        found = error
    count(found)
    return found


def active_run(user: str, now: float, count: Callable[[object], None]) -> Flow[str | None]:
    """Return the id of an active run of a user, after one request of at most 2 s; None where none is listed."""
    found = yield from page(FindMarker(check_user(user)), now, count, timeout=STOP_TIMEOUT_SECONDS, past_deadline=True)
    runs = () if isinstance(found, DifyError) else found.runs
    return next((run.workflow_run_id for run in runs if not run.status.is_terminal), None)


def outage() -> Flow[DifyError | None]:
    """Ask once whether a Dify server answers, with anything but the error page of a gateway before it.

    :return: None where it does, or what came instead.
    """
    try:
        yield Send(probe((yield GET_API)), timeout=PROBE_TIMEOUT_SECONDS, retry=False)
    except DifyError as error:
        return error if is_outage(error) else None
    return None


def task_id(workflow_run_id: str, user: str, log: Callable[..., None]) -> Flow[str | None]:
    """Return the task id that a stop needs, for a run that was found by its user; None where nothing tells it.

    Only the live events of Dify 1.14 tell it (dify-behaviour.md, section 9), and only when something happens in the run
    within 2 s: replayed events carry the run id in its place.

    :param log: Takes why it could not be read.
    """
    decoder, user, run_id = EventDecoder(), check_user(user), check_id(workflow_run_id, "workflow_run_id")
    found: list[str] = []

    def names_task(chunk: bytes) -> bool:
        found.extend(filter(None, [task_id_in(decoder.feed(chunk), workflow_run_id)]))
        return bool(found)

    try:
        operation = (yield GET_API).run_events(run_id, user, snapshot=True)
        operation.check((yield Open(operation.call, timeout=STOP_TIMEOUT_SECONDS, retry=False, past_deadline=True)))
        yield from _chunks(STOP_TIMEOUT_SECONDS, names_task)
    except DifyError as error:
        log("The task id of run %s could not be read: %s", workflow_run_id, error)
    return found[0] if found else None


def pause(run: WorkflowRun, take: Callable[[PauseReader], T], log: Callable[..., None]) -> Flow[T]:
    """Read what a paused run asks a human; nothing where the server does not tell.

    :param take: Returns what is wanted of it.
    :param log: Takes why it could not be read.
    """
    check_type(run, "run", WorkflowRun, _RUN_REMEDY)
    reader = PauseReader()
    try:
        operation = (yield GET_API).run_events(run.workflow_run_id, check_user(run.user), snapshot=True)
        operation.check((yield Open(operation.call, timeout=PAUSE_EVENTS_SECONDS)))
        yield from _chunks(PAUSE_EVENTS_SECONDS, lambda chunk: not reader.feed(chunk), by_deadline=True)
    except DifyError as error:
        log("What the paused run %s asks could not be read: %s", run.workflow_run_id, error)
    return take(reader)


class RunPages:
    """The pages of the workflow logs, one after the other.

    Runs that start meanwhile push rows to the next page, so a run may come twice: it is given out once.

    :param api: The operations of the connection's contract.
    :param filters: The filters of ``ServiceApi.logs``.
    :param page_size: Rows to ask for at a time, 1 to 100.
    :raises DifyUnsupportedError: The contract has no logs.
    :raises DifyInvalidInputError: A filter is wrong.
    """

    def __init__(self, api: ApiContract, filters: Mapping[str, Any], page_size: int = LOGS_MAX_LIMIT) -> None:
        self._api = api
        self._filters = filters
        self._page_size = page_size
        self._seen: set[str] = set()
        self._number = 1
        self.next: Operation[LogPage] | None = self._page()

    def _page(self) -> Operation[LogPage]:
        return self._api.logs(**self._filters, page=self._number, limit=self._page_size)

    def take(self, page: LogPage) -> list[LoggedRun]:
        """Return the runs of a page that were on none before it; ``next`` then asks for the following one, if any."""
        new = [run for run in page.runs if run.workflow_run_id not in self._seen]
        self._seen.update(run.workflow_run_id for run in new)
        self._number += 1
        self.next = self._page() if page.has_more and page.runs else None
        return new


def find_runs(api: ApiContract, filters: Mapping[str, Any], limit: int) -> Flow[list[LoggedRun]]:
    """Collect rows of the workflow logs over as many pages as it takes.

    :param filters: The filters of ``ServiceApi.logs``.
    :param limit: Rows to return at most.
    """
    limit = check_number(limit, "limit", 1)
    pages = RunPages(api, filters, min(limit, LOGS_MAX_LIMIT))
    found: list[LoggedRun] = []
    while pages.next is not None and len(found) < limit:
        found += pages.take((yield pages.next))
    return found[:limit]


def probe(api: ApiContract) -> Operation[Any]:
    """Return the cheapest call that any server answers, be it with an error of its own."""
    return api.get_run(_PROBE_RUN_ID) if api.name == WORKFLOW_RUNS else api.info()
