"""The worker's client of one Airflow connection: does what an exchange or a wait asks for, over requests."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, nullcontext
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_dify.api.checks import check_callable, check_type
from airflow_provider_dify.api.contracts import contract
from airflow_provider_dify.api.operations import ApiContract, Operation
from airflow_provider_dify.api.pauses import PauseReader
from airflow_provider_dify.api.values import shape_of
from airflow_provider_dify.client.deadlines import ending_by, seconds_for
from airflow_provider_dify.connection import DifyConnection
from airflow_provider_dify.exceptions import DifyError, DifyInvalidInputError
from airflow_provider_dify.rules import exchanges
from airflow_provider_dify.rules.driver_requests import (
    Flow,
    GetApi,
    Give,
    NextChunk,
    Open,
    ReadAnswer,
    ReadChunks,
    Send,
)
from airflow_provider_dify.rules.event_log import ReadEvents
from airflow_provider_dify.rules.outages import is_outage
from airflow_provider_dify.rules.polling import Deadline, PollResult
from airflow_provider_dify.rules.settings import check_bool
from airflow_provider_dify.rules.waiting import (
    AskWhyPaused,
    CheckServer,
    FindMarker,
    PollRun,
    ReadRecentRuns,
    Request,
    Say,
    Sleep,
)
from airflow_provider_dify.runtime.connections import read_connection
from airflow_provider_dify.runtime.event_stream import SyncFollowing
from airflow_provider_dify.runtime.input_form_cache import KnownForm, known_form, remember_form
from airflow_provider_dify.runtime.metrics import Metrics

if TYPE_CHECKING:
    from airflow_provider_dify.client.requests_transport import SyncTransport

# A submission follows what was read before it within milliseconds, unless files are uploaded in between.
ANSWERED_SECONDS = 1.0
# A stock server all of whose connections are taken answers after about this long (dify-behaviour.md, section 12.1).
FORM_TIMEOUT_SECONDS = 10.0

T = TypeVar("T")


class WorkerClient:
    """Talks to the app of one Airflow connection from a worker's thread.

    :param dify_conn_id: The Airflow connection.
    :param for_knowledge: Whether its key must be one of the knowledge API, instead of an app's.
    """

    if TYPE_CHECKING:

        @property
        def log(self) -> Any:
            """The logger of the hook."""

    def __init__(self, dify_conn_id: str, *, for_knowledge: bool = False) -> None:
        self.dify_conn_id = dify_conn_id
        self._for_knowledge = for_knowledge
        self._transports: dict[int, SyncTransport] = {}
        self._answered_at = -ANSWERED_SECONDS
        self._metrics = Metrics(dify_conn_id)

    @cached_property
    def connection(self) -> DifyConnection:
        """The checked connection, read once for each hook.

        :raises DifyConfigurationError: It does not exist, or a field is wrong.
        """
        return read_connection(self.dify_conn_id, for_knowledge=self._for_knowledge)

    @cached_property
    def api(self) -> ApiContract:
        """The operations of the connection's API contract."""
        return contract(self.connection.api_contract)

    def get_conn(self) -> SyncTransport:
        """Return what sends the worker's requests."""
        # Each process has its own: over a connection that was inherited by a fork come the answers to others' requests.
        process = os.getpid()
        transport = self._transports.get(process)
        if transport is None:
            from airflow_provider_dify.client.requests_transport import SyncTransport

            transport = self._transports.setdefault(process, SyncTransport(self.connection))
        return transport

    def close(self) -> None:
        """Close the worker's pooled connections, of this process."""
        transport = self._transports.get(os.getpid())
        if transport is not None:
            transport.close()

    def redact(self, text: str) -> str:
        """Return a text of the server without the connection's secrets; unchanged before there is a connection."""
        check_type(text, "text", str, "pass what is to be shown as a text")
        connection = self.__dict__.get("connection")
        return connection.redact(text) if isinstance(connection, DifyConnection) else text

    def run_exchange(self, flow: Flow[T]) -> T:
        """Do what an exchange asks for, until it returns."""
        try:
            next(_given(self, flow))
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        raise AssertionError("only an iterated exchange gives values")

    def iterate_exchange(self, flow: Flow[None]) -> Iterator[Any]:
        """Do what an exchange asks for, and yield what it gives."""
        yield from _given(self, flow)

    def send(self, request: Send[T]) -> T:
        """Return the value of an operation."""
        operation = request.operation
        with ending_by(None) if request.past_deadline else nullcontext():
            answer = self.get_conn().send(operation.call, timeout=request.timeout, retry=request.retry)
        self._answered_at = time.monotonic()
        return operation.read(answer)

    def poll(self, workflow_run_id: str, *, timeout: float | None = None) -> PollResult:
        """Poll a run once: not repeated, since the next poll is its retry; errors are part of the result."""
        return self.run_exchange(exchanges.poll(workflow_run_id, timeout, self._metrics.polled))

    def check_server(self) -> DifyError | None:
        """Ask once whether a Dify server answers, with anything but the error page of a gateway before it.

        :return: None where it does, or what came instead.
        """
        return self.run_exchange(exchanges.outage())

    def require_server(self) -> None:
        """Let nobody submit into an outage: after it the outcome of the submission would be unknown.

        :raises DifyError: No server answers, and none has answered just before.
        """
        if time.monotonic() - self._answered_at < ANSWERED_SECONDS:
            return
        error = self.check_server()
        if error is not None:
            raise error

    def find_started(self, user: str) -> str | None:
        """Return the id of an active run of a user, after one request of at most 2 s; None where none is listed.

        :param user: The ``user`` of the submission.
        """
        return self.run_exchange(exchanges.active_run(user, time.time(), self._metrics.polled))

    def find_task_id(self, workflow_run_id: str, user: str) -> str | None:
        """Return the task id that a stop needs, for a run that was found by its user; None where nothing tells it.

        :param workflow_run_id: The run.
        :param user: The ``user`` of its submission.
        """
        return self.run_exchange(exchanges.task_id(workflow_run_id, user, self.log.debug))

    def known_form(self, *, fresh: bool = False) -> KnownForm:
        """Return what is known of the app's input form, and ask for it where this process has not lately.

        One request of at most 10 s, which is not repeated: whoever asks goes on without a form.

        :param fresh: Whether to ask in any case, since the app may have been published again.
        :raises DifyError: No server answers at all.
        """
        known = None if check_bool(fresh, "fresh") else known_form(self.connection)
        if known is not None:
            return known
        try:
            form = self.run_exchange(
                exchanges.send(lambda api: api.input_form(), timeout=FORM_TIMEOUT_SECONDS, retry=False)
            )
        except DifyError as error:
            if is_outage(error):
                self.require_server()
            return remember_form(self.connection, None, error.message_without_retry)
        return remember_form(self.connection, form)

    def follow(
        self, flow: Generator[Request | ReadEvents, Any, T], log: Callable[[str], None], deadline: Deadline
    ) -> T:
        """Do what a wait asks for, until it returns.

        :param flow: One that has not begun, from ``rules.waiting``, ``rules.event_log`` or ``rules.searching``.
        :param log: Takes a line for the task's log.
        :param deadline: The flow's deadline, which no request of it outlasts.
        :return: What the flow returns.
        """
        check_flow(flow, log, deadline)
        following: SyncFollowing | None = None
        answer: Any = None
        with ending_by(deadline):
            try:
                while True:
                    try:
                        request = flow.send(answer)
                    except StopIteration as end:
                        return end.value  # type: ignore[no-any-return]
                    answer = None
                    if isinstance(request, Sleep):
                        time.sleep(request.seconds)
                    elif isinstance(request, ReadEvents):
                        following = following or SyncFollowing(self)
                        answer = following.read(request)
                    elif isinstance(request, Say):
                        log(request.line)
                    elif isinstance(request, PollRun):
                        answer = self.poll(request.workflow_run_id)
                    else:
                        answer = self.run_exchange(asked_by(request, self._metrics.polled, self.log.debug))
            finally:
                if following is not None:
                    following.close()


def _given(client: WorkerClient, flow: Flow[Any]) -> Generator[Any, None, Any]:
    """Do what an exchange asks for, yield what it gives, and return its result; what it has open is closed."""
    exchange: Any = None
    chunks: Iterator[bytes] = iter(())
    advance: Callable[[], Any] = partial(next, flow)
    with ExitStack() as stack:
        stack.callback(flow.close)
        while True:
            try:
                request = advance()
            except StopIteration as end:
                return end.value
            except DifyError as error:
                redacted(error, client.redact)
                raise
            answer: Any = None
            try:
                if isinstance(request, GetApi):
                    answer = client.api
                elif isinstance(request, Open):
                    exchange = stack.enter_context(_opened(client, request))
                    answer = exchange.head
                elif isinstance(request, ReadAnswer):
                    answer = exchange.read()
                elif isinstance(request, ReadChunks):
                    seconds = seconds_for(request.seconds) if request.by_deadline else request.seconds
                    chunks = exchange.chunks(time.monotonic() + seconds)
                elif isinstance(request, NextChunk):
                    answer = next(chunks, None)
                elif isinstance(request, Give):
                    yield request.value
                else:
                    answer = client.send(as_send(request))
            except GeneratorExit:
                raise
            except BaseException as error:
                if isinstance(error, DifyError):
                    redacted(error, client.redact)
                advance = partial(flow.throw, error)
            else:
                advance = partial(flow.send, answer)


def _opened(client: WorkerClient, request: Open) -> Any:
    with ending_by(None) if request.past_deadline else nullcontext():
        return client.get_conn().open(
            request.call,
            timeout=head_timeout(request, client.connection),
            retry=request.retry,
            before_send=request.before_send,
        )


def redacted(error: DifyError, redact: Callable[[str], str]) -> DifyError:
    """Return an error whose text echoes no secret."""
    error.rewrite(redact)
    return error


def as_send(request: Any) -> Send[Any]:
    """Return a request for the value of an operation, which may stand for itself."""
    return Send(request) if isinstance(request, Operation) else request


def head_timeout(request: Open, connection: DifyConnection) -> float | None:
    """Return the seconds in which an answer must have begun."""
    if request.within_connection and request.timeout is not None:
        return min(connection.connect_timeout + connection.read_timeout, request.timeout)
    return request.timeout


def asked_by(request: Any, count: Callable[[object], None], debug: Callable[..., None]) -> Flow[Any]:
    """Return the exchange that answers what a wait asks for.

    :param count: Takes what came of each request for the state of runs.
    :param debug: Takes what is logged at the level DEBUG.
    :raises DifyInvalidInputError: The wait is none of this package's.
    """
    if isinstance(request, (FindMarker, ReadRecentRuns)):
        return exchanges.page(request, time.time(), count)
    if isinstance(request, CheckServer):
        return exchanges.outage()
    if isinstance(request, AskWhyPaused):
        return exchanges.pause(request.run, PauseReader.questions, debug)
    raise DifyInvalidInputError(
        f"flow has yielded {shape_of(request)}: pass one from rules.waiting, rules.event_log or rules.searching."
    )


def check_flow(flow: Any, log: Any, deadline: Any) -> None:
    """Check the parameters of ``follow``.

    :raises DifyInvalidInputError: One of them is wrong.
    """
    check_type(deadline, "deadline", Deadline, "pass that of the flow")
    check_type(flow, "flow", Generator, "pass one from rules.waiting, rules.event_log or rules.searching")
    if log is None:
        raise DifyInvalidInputError("log must be a function that takes a line, got null.")
    check_callable(log, "log")
