"""The hook: one Airflow connection to one Dify app, with the same operations for worker and triggerer."""

from __future__ import annotations

import asyncio
import json
import mimetypes
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Generator, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_provider_dify.api.answers import fit_answer
from airflow_provider_dify.api.calls import (
    LOGS_MAX_LIMIT,
    ApiContract,
    Call,
    Operation,
    Upload,
    check_id,
    contract,
)
from airflow_provider_dify.api.checks import check_callable, check_type, guarded, plain_text
from airflow_provider_dify.api.diagnosis import without_connection
from airflow_provider_dify.api.downloads import address_of, check_hosts, declared_size
from airflow_provider_dify.api.errors import without_retry_advice
from airflow_provider_dify.api.events import Event, EventDecoder, task_id_in
from airflow_provider_dify.api.flows import Flow, RunPages, find_runs, probe, test_connection
from airflow_provider_dify.api.following import ReadEvents
from airflow_provider_dify.api.forms import InputForm
from airflow_provider_dify.api.human_input import HumanInputForm, HumanInputRequest
from airflow_provider_dify.api.inputs import check_files, check_inputs, check_query, check_user
from airflow_provider_dify.api.outages import is_outage
from airflow_provider_dify.api.pauses import PAUSE_EVENTS_SECONDS, PauseReader
from airflow_provider_dify.api.polling import Deadline, Look
from airflow_provider_dify.api.runs import (
    AppInfo,
    LoggedRun,
    LogPage,
    RunStatus,
    StartedRun,
    UploadedFile,
    WorkflowRun,
)
from airflow_provider_dify.api.server import Server
from airflow_provider_dify.api.settings import (
    MAX_FILE_BYTES,
    RESPONSE_MODES,
    SUBMIT_TIMEOUT_SECONDS,
    TIMEOUT_SECONDS,
    bytes_of,
    check_bool,
    check_choice,
    request_seconds,
)
from airflow_provider_dify.api.streaming import StreamReader, no_stream
from airflow_provider_dify.api.submission import SubmissionReader, submission_errors
from airflow_provider_dify.api.tracing import Trace, check_trace_id, check_traceparent
from airflow_provider_dify.api.uploads import (
    UNKNOWN_MIME_TYPE,
    check_destination,
    check_mime_type,
    check_name,
    described_file,
    is_path_object,
    path_of,
)
from airflow_provider_dify.api.values import shape_of
from airflow_provider_dify.api.waiting import AskWhyPaused, CheckServer, FindMarker, LookAt, Request, Say, Sleep
from airflow_provider_dify.connection import DifyConnection
from airflow_provider_dify.exceptions import (
    DifyConfigurationError,
    DifyError,
    DifyInvalidInputError,
    DifyResponseError,
    DifyTransportError,
)
from airflow_provider_dify.hooks.destinations import destination_target
from airflow_provider_dify.hooks.downloads import SavedFile, Wanted, download
from airflow_provider_dify.hooks.following import AsyncFollowing, SyncFollowing
from airflow_provider_dify.hooks.forms import KnownForm, known_form, remember_form
from airflow_provider_dify.hooks.limits import ending_by, seconds_for
from airflow_provider_dify.hooks.masking import mask_secrets
from airflow_provider_dify.hooks.sizes import Size
from airflow_provider_dify.hooks.stores import FileGroup, Source, Writable, check_stream, reading, writing
from airflow_provider_dify.names import CONN_TYPE, DEFAULT_CONN_NAME, HOOK_NAME, WORKFLOW_RUNS

if TYPE_CHECKING:
    from typing_extensions import Self

    from airflow_provider_dify.hooks.http_async import AsyncTransport
    from airflow_provider_dify.hooks.http_sync import SyncTransport

STOP_TIMEOUT_SECONDS = 2.0
PROBE_TIMEOUT_SECONDS = 5.0
# A submission follows what was read before it within milliseconds, unless files are uploaded in between.
ANSWERED_SECONDS = 1.0
# A stock server all of whose connections are taken answers after about this long (API facts, section 12.1).
FORM_TIMEOUT_SECONDS = 10.0
# A marker has one run; a few more rows show it where a server of another kind says otherwise.
MARKER_ROWS = 10
_READ_TO_THE_END = (
    "Dify %s leaves a run whose stream is closed 'running' for ever, so the stream of run %s is read to its end "
    "here in the worker, whatever deferrable says."
)

_RUN_REMEDY = "pass what get_workflow_run returns"

T = TypeVar("T")


class DifyHook(BaseHook):
    """Talk to one Dify app over an Airflow connection of the type ``dify``.

    The connection's API key selects the app; no call names one. Each operation exists twice, for the worker
    (``get_workflow_run``) and for an event loop (``aget_workflow_run``); both share every rule but the
    HTTP client. Errors are ``DifyError`` and below, and never contain the API key or a gateway header.

    :param dify_conn_id: The Airflow connection. The key is in its password, the base URL in its host.
    """

    conn_name_attr = "dify_conn_id"
    default_conn_name = DEFAULT_CONN_NAME
    conn_type = CONN_TYPE
    hook_name = HOOK_NAME

    def __init__(self, dify_conn_id: str = DEFAULT_CONN_NAME, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dify_conn_id = dify_conn_id
        self._transports: dict[int, SyncTransport] = {}
        self._async_transports: dict[asyncio.AbstractEventLoop, AsyncTransport] = {}
        self._async_connection: DifyConnection | None = None
        self._answered_at = -ANSWERED_SECONDS

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return which fields the form of Airflow 2.11 to 3.1 shows, and how."""
        from airflow_provider_dify.form import ui_field_behaviour

        return ui_field_behaviour(in_extra=False)

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the extra fields of the form of Airflow 2.11 to 3.1."""
        from airflow_provider_dify.form import form_widgets

        return form_widgets()

    @cached_property
    def connection(self) -> DifyConnection:
        """The checked connection, read once for each hook.

        :raises DifyConfigurationError: It does not exist, or a field is wrong.
        """
        return self._read_connection()

    def get_conn(self) -> SyncTransport:
        """Return the transport that the worker's operations use."""
        return self._transport

    @property
    def _transport(self) -> SyncTransport:
        # Each process has its own: over a connection that was inherited by a fork come the answers to others' requests.
        process = os.getpid()
        transport = self._transports.get(process)
        if transport is None:
            from airflow_provider_dify.hooks.http_sync import SyncTransport

            transport = self._transports.setdefault(process, SyncTransport(self.connection))
        return transport

    @property
    def api(self) -> ApiContract:
        """The operations of the connection's API contract; for the worker."""
        return contract(self.connection.api_contract)

    def _read_connection(self) -> DifyConnection:
        conn_id = check_id(self.dify_conn_id, "dify_conn_id")
        try:
            found = self.get_connection(conn_id)
        except AirflowNotFoundException as error:
            raise DifyConfigurationError(
                f"There is no Airflow connection {conn_id!r}. Create one of the type dify with the app's API key as "
                "its password. If the environment or a secrets backend defines it, correct its URI or JSON."
            ) from error
        try:
            # extra_dejson has Airflow 3.3 warn in every log of values too short to be masked, such as "true".
            extra = json.loads(found.extra) if found.extra else {}
        except (ValueError, TypeError, RecursionError) as error:
            raise DifyConfigurationError(f"Connection {conn_id!r}, field extra: must be a JSON object.") from error
        connection = DifyConnection.parse(
            conn_id=conn_id,
            host=found.host,
            schema=found.schema,
            port=found.port,
            password=found.password,
            extra=extra,
        )
        mask_secrets(connection.secrets)
        connection.check_app_key(conn_id)
        return connection

    async def aconnection(self) -> DifyConnection:
        """Return the checked connection, read once for each hook, beside the event loop.

        :raises DifyConfigurationError: It does not exist, or a field is wrong.
        """
        if self._async_connection is None:
            from asgiref.sync import sync_to_async

            try:
                # The one way that finds connections of every kind in every triggerer from 2.11 on.
                self._async_connection = await sync_to_async(self._read_connection)()
            except DifyError:
                raise
            except Exception as error:
                # Whatever Airflow's metadata or secrets backend fails with: the next look asks again.
                raise DifyTransportError(
                    f"The Airflow connection {self.dify_conn_id!r} could not be read ({type(error).__name__}).",
                    sent=False,
                ) from error
        return self._async_connection

    async def aapi(self) -> ApiContract:
        """Return the operations of the connection's API contract."""
        return contract((await self.aconnection()).api_contract)

    async def aget_conn(self) -> AsyncTransport:
        """Return the transport that the event loop's operations use."""
        return await self._atransport()

    async def _atransport(self) -> AsyncTransport:
        # Each event loop has its own: connections and locks of another one cannot be awaited.
        loop = asyncio.get_running_loop()
        transport = self._async_transports.get(loop)
        if transport is None:
            from airflow_provider_dify.hooks.http_async import AsyncTransport

            connection = await self.aconnection()
            for ended in [each for each in self._async_transports if each.is_closed()]:
                self._async_transports.pop(ended, None)
            transport = self._async_transports.setdefault(loop, AsyncTransport(connection, self._answer_size()))
        return transport

    def _answer_size(self) -> Size:
        return Size()

    def close(self) -> None:
        """Close the worker's pooled connections, of this process."""
        transport = self._transports.get(os.getpid())
        if transport is not None:
            transport.close()

    async def aclose(self) -> None:
        """Close the pooled connections of the event loop that runs."""
        transport = self._async_transports.get(asyncio.get_running_loop())
        if transport is not None:
            await transport.close()

    def __enter__(self) -> Self:
        """Return the hook; leaving the block closes the worker's pooled connections."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close the worker's pooled connections."""
        self.close()

    async def __aenter__(self) -> Self:
        """Return the hook; leaving the block closes all of its pooled connections."""
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Close all pooled connections."""
        await self.aclose()
        self.close()

    def redact(self, text: str) -> str:
        """Return a text of the server without the connection's secrets; unchanged before there is a connection."""
        check_type(text, "text", str, "pass what is to be shown as a text")
        connection = self._async_connection or self.__dict__.get("connection")
        return connection.redact(text) if isinstance(connection, DifyConnection) else text

    @contextmanager
    def _redacted(self, connection: DifyConnection) -> Iterator[None]:
        """Let no error out whose text echoes a secret."""
        try:
            yield
        except DifyError as error:
            error.message = connection.redact(error.message)
            error.args = (error.message,)
            raise

    def _send(self, operation: Operation[T], *, timeout: float | None = None, retry: bool = True) -> T:
        with self._redacted(self.connection):
            answer = self._transport.send(operation.call, timeout=timeout, retry=retry)
            self._answered_at = time.monotonic()
            return operation.read(answer)

    async def _asend(self, operation: Operation[T], *, timeout: float | None = None, retry: bool = True) -> T:
        transport = await self._atransport()
        with self._redacted(await self.aconnection()):
            return operation.read(await transport.send(operation.call, timeout=timeout, retry=retry))

    def create_workflow_run(
        self,
        inputs: Mapping[str, Any] | str | None = None,
        *,
        user: str,
        response_mode: str = "streaming",
        files: list[Any] | str | None = None,
        query: str | None = None,
        workflow_id: str | None = None,
        trace_id: str | None = None,
        traceparent: str | None = None,
        submit_timeout: float = SUBMIT_TIMEOUT_SECONDS,
        timeout: float = TIMEOUT_SECONDS,
        before_send: Callable[[], None] | None = None,
        on_started: Callable[[StartedRun], None] | None = None,
    ) -> StartedRun:
        """Start a run and return it as soon as its id is known.

        Dify has no asynchronous submit: with ``streaming`` the answer's stream is read until the first event
        that names the run and then closed; the run goes on. Before Dify 1.9.2 closing it would leave the run
        ``running`` for ever, so there the stream is read to its end. With ``blocking`` the answer comes
        only when the run has ended or paused. Nothing here is ever sent twice unless it is certain that
        the first was not accepted.

        :param inputs: The workflow's inputs; a string must be a JSON object.
        :param user: Caller identity, 1 to 255 characters; runs can be found by it.
        :param response_mode: ``streaming`` or ``blocking``.
        :param files: Remote URLs, upload ids or mappings in Dify's form.
        :param query: Text of a conversational workflow; only in the ``workflow-runs`` contract.
        :param workflow_id: A published version to run; required by the ``workflow-runs`` contract.
        :param trace_id: Dify's id of the trace that the run belongs to: 1 to 128 letters, digits, ``-`` or ``_``. By
            default that of ``traceparent``.
        :param traceparent: The W3C trace context of what asks for the run.
        :param submit_timeout: Seconds to wait for the id of a streaming run.
        :param timeout: Seconds to wait for the end of a blocking run, or of a stream that must not be closed.
        :param before_send: Called when a connection to the server stands, and before the submission leaves; what
            is written down here is true for a process that dies in the middle. An exception prevents the
            submission, and should be a ``DifyError``: others pass through the HTTP client.
        :param on_started: Called the moment the run's id is known, which can be long before the return.
        :raises DifyInvalidInputError: An argument is wrong (nothing was sent), or Dify refused one.
        :raises DifySubmissionUnknownError: It was sent and nothing tells whether a run was started.
        :raises DifyError: Dify refused, or could not be reached; no run exists.
        """
        trace = _trace(trace_id, traceparent)
        operation = self._submission(self.api, inputs, user, response_mode, files, query, workflow_id, trace)
        waits = _Waits.checked(submit_timeout, timeout, before_send, on_started)
        wait = waits.of(operation.call)
        with self._redacted(self.connection), ExitStack() as stack:
            with submission_errors(response_mode, user):
                exchange = stack.enter_context(
                    self._transport.open(operation.call, timeout=wait, before_send=before_send)
                )
                if not (exchange.head.ok and exchange.head.is_event_stream):
                    return _told(operation.read(exchange.read()), on_started)
                reader = SubmissionReader(exchange.head, operation.call.json)
                with reader.reading():
                    for chunk in exchange.chunks(time.monotonic() + wait):
                        reader.feed(chunk)
                        if reader.names_run:
                            break
                started = _told(reader.started(), on_started)
            if not Server(started.server_version).survives_closed_stream:
                self.log.info(_READ_TO_THE_END, started.server_version, started.workflow_run_id)
                with suppress(DifyTransportError, DifyResponseError):
                    for chunk in exchange.chunks(time.monotonic() + waits.end):
                        reader.feed(chunk)
                        if reader.ended:
                            break
                return replace(started, settled=reader.ended)
            return started

    async def acreate_workflow_run(
        self,
        inputs: Mapping[str, Any] | str | None = None,
        *,
        user: str,
        response_mode: str = "streaming",
        files: list[Any] | str | None = None,
        query: str | None = None,
        workflow_id: str | None = None,
        trace_id: str | None = None,
        traceparent: str | None = None,
        submit_timeout: float = SUBMIT_TIMEOUT_SECONDS,
        timeout: float = TIMEOUT_SECONDS,
        before_send: Callable[[], None] | None = None,
        on_started: Callable[[StartedRun], None] | None = None,
    ) -> StartedRun:
        """Start a run; see ``create_workflow_run``."""
        api, transport = await self.aapi(), await self._atransport()
        trace = _trace(trace_id, traceparent)
        operation = self._submission(api, inputs, user, response_mode, files, query, workflow_id, trace)
        waits = _Waits.checked(submit_timeout, timeout, before_send, on_started)
        wait = waits.of(operation.call)
        clock = asyncio.get_running_loop().time
        async with AsyncExitStack() as stack:
            stack.enter_context(self._redacted(await self.aconnection()))
            with submission_errors(response_mode, user):
                exchange = await stack.enter_async_context(
                    await transport.open(operation.call, timeout=wait, before_send=before_send)
                )
                if not (exchange.head.ok and exchange.head.is_event_stream):
                    return _told(operation.read(await exchange.read()), on_started)
                reader = SubmissionReader(exchange.head, operation.call.json)
                with reader.reading():
                    async for chunk in exchange.chunks(clock() + wait):
                        reader.feed(chunk)
                        if reader.names_run:
                            break
                started = _told(reader.started(), on_started)
            if not Server(started.server_version).survives_closed_stream:
                self.log.info(_READ_TO_THE_END, started.server_version, started.workflow_run_id)
                with suppress(DifyTransportError, DifyResponseError):
                    async for chunk in exchange.chunks(clock() + waits.end):
                        reader.feed(chunk)
                        if reader.ended:
                            break
                return replace(started, settled=reader.ended)
            return started

    @staticmethod
    def _submission(
        api: ApiContract,
        inputs: Mapping[str, Any] | str | None,
        user: str,
        response_mode: str,
        files: list[Any] | str | None,
        query: str | None,
        workflow_id: str | None,
        trace: Trace,
    ) -> Operation[StartedRun]:
        return api.run(
            inputs=check_inputs(inputs),
            user=check_user(user),
            response_mode=check_choice(response_mode, "response_mode", RESPONSE_MODES),
            files=check_files(files, opaque_ids=api.name == WORKFLOW_RUNS),
            query=check_query(query),
            workflow_id=workflow_id,
            trace=trace,
        )

    @staticmethod
    def _head_limit(connection: DifyConnection, seconds: float) -> float:
        """Return the seconds in which a stream must have begun."""
        return min(connection.connect_timeout + connection.read_timeout, seconds)

    def get_workflow_run(self, workflow_run_id: str) -> WorkflowRun:
        """Return a run as its row tells it: the authority on how it ended.

        :param workflow_run_id: The run's id; a UUID in the ``service-api`` contract.
        :raises DifyInvalidInputError: The id is no UUID; nothing was sent.
        :raises DifyRunNotFoundError: The server shows no such run to this key. Rows can lag behind events.
        :raises DifyError: The server could not be asked, or did not answer as Dify does.
        """
        return self._send(self.api.get_run(workflow_run_id))

    async def aget_workflow_run(self, workflow_run_id: str) -> WorkflowRun:
        """Return a run; see ``get_workflow_run``."""
        return await self._asend((await self.aapi()).get_run(workflow_run_id))

    def get_workflow_run_status(self, workflow_run_id: str) -> RunStatus:
        """Return a run's status; see ``get_workflow_run``."""
        return self.get_workflow_run(workflow_run_id).status

    async def aget_workflow_run_status(self, workflow_run_id: str) -> RunStatus:
        """Return a run's status; see ``get_workflow_run``."""
        return (await self.aget_workflow_run(workflow_run_id)).status

    def stop_workflow_run(self, task_id: str, *, user: str = "airflow") -> None:
        """Ask Dify to stop a run: one call of at most 2 s, not repeated.

        Dify answers success whatever happens, and some versions leave a stopped run ``running`` for ever
        (API facts, section 7): nothing here says that the run has stopped, and waiting for it may never end.

        :param task_id: The task id of the run, which only streams and blocking answers tell; the run id
            in its place has no effect.
        :param user: Any non-empty text.
        :raises DifyUnsupportedError: The API contract has no stop.
        :raises DifyError: The request failed.
        """
        # Also after the deadline of the task, which is often why a run is stopped.
        with ending_by(None):
            self._send(self.api.stop(task_id, check_user(user)), timeout=STOP_TIMEOUT_SECONDS, retry=False)

    async def astop_workflow_run(self, task_id: str, *, user: str = "airflow") -> None:
        """Ask Dify to stop a run; see ``stop_workflow_run``."""
        operation = (await self.aapi()).stop(task_id, check_user(user))
        with ending_by(None):
            await self._asend(operation, timeout=STOP_TIMEOUT_SECONDS, retry=False)

    def stream_workflow_run(
        self,
        inputs: Mapping[str, Any] | str | None = None,
        *,
        user: str,
        files: list[Any] | str | None = None,
        query: str | None = None,
        workflow_id: str | None = None,
        trace_id: str | None = None,
        traceparent: str | None = None,
        timeout: float = TIMEOUT_SECONDS,
    ) -> Iterator[Event]:
        """Start a run and yield its events as they come, without pings, until it ends or pauses.

        For output that is shown while it is made. Each stream takes one of the server's few connections (10
        on a stock server). Events can be lost and the last one can disagree with the run's row: take the
        outputs that matter from ``get_workflow_run``. Leaving the iterator early lets the run go on,
        except before Dify 1.9.2, which then shows it as ``running`` for ever.

        :param timeout: Seconds for the whole stream.
        :raises DifyInvalidInputError: An argument is wrong (nothing was sent), or Dify refused one.
        :raises DifySubmissionUnknownError: The stream broke before any event named the run.
        :raises DifyTransportError: It broke, or ended, before the run did; ``workflow_run_id`` is set.
        :raises DifyRunTimeoutError: The run had not ended after ``timeout``; ``workflow_run_id`` is set.
        """
        trace = _trace(trace_id, traceparent)
        operation = self._submission(self.api, inputs, user, "streaming", files, query, workflow_id, trace)
        seconds = request_seconds(timeout, "timeout")
        until = time.monotonic() + seconds
        reader = StreamReader(check_user(user), operation.call.json)
        with (
            self._redacted(self.connection),
            reader.errors(),
            self._transport.open(operation.call, timeout=self._head_limit(self.connection, seconds)) as exchange,
        ):
            if not (exchange.head.ok and exchange.head.is_event_stream):
                raise no_stream(exchange.read(), operation)
            reader.opened(exchange.head)
            for chunk in exchange.chunks(until):
                yield from reader.feed(chunk)
                if reader.ended:
                    return
            reader.end(timed_out=time.monotonic() >= until)

    async def astream_workflow_run(
        self,
        inputs: Mapping[str, Any] | str | None = None,
        *,
        user: str,
        files: list[Any] | str | None = None,
        query: str | None = None,
        workflow_id: str | None = None,
        trace_id: str | None = None,
        traceparent: str | None = None,
        timeout: float = TIMEOUT_SECONDS,
    ) -> AsyncIterator[Event]:
        """Start a run and yield its events; see ``stream_workflow_run``."""
        transport = await self._atransport()
        api, trace = await self.aapi(), _trace(trace_id, traceparent)
        operation = self._submission(api, inputs, user, "streaming", files, query, workflow_id, trace)
        clock = asyncio.get_running_loop().time
        seconds = request_seconds(timeout, "timeout")
        until = clock() + seconds
        reader = StreamReader(check_user(user), operation.call.json)
        connection = await self.aconnection()
        with self._redacted(connection), reader.errors():
            async with await transport.open(operation.call, timeout=self._head_limit(connection, seconds)) as exchange:
                if not (exchange.head.ok and exchange.head.is_event_stream):
                    raise no_stream(await exchange.read(), operation)
                reader.opened(exchange.head)
                async for chunk in exchange.chunks(until):
                    for event in reader.feed(chunk):
                        yield event
                    if reader.ended:
                        return
                reader.end(timed_out=clock() >= until)

    def find_workflow_runs(
        self,
        *,
        user: str | None = None,
        created_after: datetime | str | None = None,
        created_before: datetime | str | None = None,
        status: str | None = None,
        keyword: str | None = None,
        limit: int = LOGS_MAX_LIMIT,
    ) -> list[LoggedRun]:
        """Return runs from the app's workflow logs, newest first.

        A run that is listed was accepted; one that is not listed may still exist. Queued runs are never listed,
        and before Dify 1.11 running ones are not either (API facts, section 8).

        :param user: The ``user`` of the submission, exactly.
        :param created_after: A datetime with a time zone or its text in ISO 8601, such as ``2026-01-31T00:00:00Z``; to
            the second.
        :param created_before: As ``created_after``.
        :param status: ``succeeded``, ``failed`` or ``stopped``; Dify refuses the others.
        :param keyword: Up to 30 characters of inputs, outputs or user, or a whole run id.
        :param limit: Runs to return at most.
        :raises DifyUnsupportedError: The API contract has no logs.
        :raises DifyError: The server could not be asked.
        """
        filters = _log_filters(user, None, created_after, created_before, status, keyword)
        return self._drive(find_runs(self.api, filters, limit))

    async def afind_workflow_runs(
        self,
        *,
        user: str | None = None,
        created_after: datetime | str | None = None,
        created_before: datetime | str | None = None,
        status: str | None = None,
        keyword: str | None = None,
        limit: int = LOGS_MAX_LIMIT,
    ) -> list[LoggedRun]:
        """Return runs from the app's workflow logs; see ``find_workflow_runs``."""
        filters = _log_filters(user, None, created_after, created_before, status, keyword)
        return await self._adrive(find_runs(await self.aapi(), filters, limit))

    def list_workflow_runs(
        self,
        *,
        user: str | None = None,
        account: str | None = None,
        created_after: datetime | str | None = None,
        created_before: datetime | str | None = None,
        status: str | None = None,
        keyword: str | None = None,
        page_size: int = LOGS_MAX_LIMIT,
    ) -> Iterator[LoggedRun]:
        """Iterate over all runs in the app's workflow logs, newest first; a page is asked for when it is needed.

        For as many runs as there are: ``find_workflow_runs`` returns a list of at most so many. What is listed, and
        what is not, is said there. A run that is pushed to the next page by new ones comes once.

        :param user: The ``user`` of the submission, exactly.
        :param account: E-mail address of the account that ran the workflow in Dify's console. From 1.11 on an unknown
            one is an error.
        :param created_after: A datetime with a time zone or its text in ISO 8601, such as ``2026-01-31T00:00:00Z``; to
            the second.
        :param created_before: As ``created_after``.
        :param status: ``succeeded``, ``failed`` or ``stopped``; Dify refuses the others.
        :param keyword: Up to 30 characters of inputs, outputs or user, or a whole run id.
        :param page_size: Rows of a page, 1 to 100.
        :raises DifyInvalidInputError: An argument is wrong; raised at once where it is not Dify that refuses it.
        :raises DifyUnsupportedError: The API contract has no logs; raised at once.
        :raises DifyError: The server could not be asked for a page; what was listed so far was right.
        """
        filters = _log_filters(user, account, created_after, created_before, status, keyword)
        return self._runs_of(RunPages(self.api, filters, page_size))

    def _runs_of(self, pages: RunPages) -> Iterator[LoggedRun]:
        while pages.next is not None:
            yield from pages.take(self._send(pages.next))

    async def alist_workflow_runs(
        self,
        *,
        user: str | None = None,
        account: str | None = None,
        created_after: datetime | str | None = None,
        created_before: datetime | str | None = None,
        status: str | None = None,
        keyword: str | None = None,
        page_size: int = LOGS_MAX_LIMIT,
    ) -> AsyncIterator[LoggedRun]:
        """Iterate over all runs in the app's workflow logs; see ``list_workflow_runs``."""
        filters = _log_filters(user, account, created_after, created_before, status, keyword)
        pages = RunPages(await self.aapi(), filters, page_size)
        while pages.next is not None:
            for run in pages.take(await self._asend(pages.next)):
                yield run

    def upload_file(
        self,
        file: str | os.PathLike[str] | BinaryIO,
        *,
        user: str,
        name: str | None = None,
        mime_type: str | None = None,
    ) -> UploadedFile:
        """Upload a file for a run of the same ``user``; it is read while it is sent.

        From Dify 1.14 on a run of another user cannot use it (API facts, section 10).

        :param file: A local path, the URI of an object (``s3://…``, of any store that Airflow knows), an
            ``ObjectStoragePath``, or a seekable binary file, which is read from its current position.
        :param user: The ``user`` of the run that will use the file.
        :param name: File name that Dify keeps; by default the path's.
        :param mime_type: By default guessed from the name.
        :return: The file; its ``upload_file_id`` goes into ``files`` or a file input.
        :raises DifyInvalidInputError: There is no such file, or it is larger than the server accepts.
        :raises DifyFileError: It could not be read to its end, or changed its length meanwhile.
        :raises DifyUnsupportedError: The API contract has no upload.
        """
        user = check_user(user)
        with _opened(file, name, mime_type) as upload:
            return self._send(self.api.upload(upload, user))

    async def aupload_file(
        self,
        file: str | os.PathLike[str] | BinaryIO,
        *,
        user: str,
        name: str | None = None,
        mime_type: str | None = None,
    ) -> UploadedFile:
        """Upload a file; see ``upload_file``."""
        user = check_user(user)
        with _opened(file, name, mime_type) as upload:
            return await self._asend((await self.aapi()).upload(upload, user))

    def download_file(
        self,
        file: str | Mapping[str, Any],
        destination: str | os.PathLike[str] | Any,
        *,
        allowed_hosts: Collection[str] = (),
        max_bytes: int = MAX_FILE_BYTES,
        group: FileGroup | None = None,
    ) -> SavedFile:
        """Fetch a file of a run's outputs and save it; it is written while it arrives.

        Only the connection's own server is asked, without the API key, and redirects lead nowhere else. The file gets
        its name when it is whole; after a failure nothing of it is left. A file at its place is replaced, and so is a
        link, but not what the link leads to; a folder is an error. A local file gets the mode 0600, and a folder that
        is made 0700; a file that is replaced keeps its mode. URLs of files are signed and soon expire (after 300 s on a
        stock server): each answer of ``get_workflow_run`` has new ones.

        :param file: A file object out of ``outputs``, or its URL; a relative one counts from the server's root.
        :param destination: Where the file is to be: a local path, the URI of an object, or an ``ObjectStoragePath``.
        :param allowed_hosts: Further hosts that may be asked, as ``host`` for the usual ports or ``host:port``.
        :param max_bytes: Largest file that is fetched.
        :param group: Files that share a limit and are given up together; None for a file by itself.
        :raises DifyFileRefusedError: The URL is not of an allowed host, or the file is larger than allowed.
        :raises DifyFileExpiredError: The server does not give the file, or not any more.
        :raises DifyFileError: It could not be fetched or saved, or has another size than the file object tells.
        """
        max_bytes, described = bytes_of(max_bytes, "max_bytes"), _file_object(file)
        check_destination(destination, "destination", required=True)
        with guarded(allowed_hosts, "allowed_hosts"):
            is_one = isinstance(allowed_hosts, (str, bytes, Mapping)) or not isinstance(allowed_hosts, Iterable)
            allowed_hosts = check_hosts(allowed_hosts if is_one else list(allowed_hosts), "allowed_hosts")
        address = address_of(described.get("url"), self.connection.base_url, allowed_hosts)
        mime_type = described.get("mime_type")
        wanted = Wanted(
            address,
            declared_size(described),
            max_bytes,
            is_page=not isinstance(mime_type, str) or not mime_type or "html" in mime_type,
            allowed_hosts=allowed_hosts,
        )
        target = destination_target(destination, "destination")
        uris: list[str] = []

        @contextmanager
        def anew() -> Iterator[Writable]:
            with writing(target.path, group) as (sink, uri):
                yield sink
            uris.append(uri)

        with self._redacted(self.connection):
            size = download(self._transport, wanted, anew)
        return SavedFile(uris[-1], size)

    def known_form(self, *, fresh: bool = False) -> KnownForm:
        """Return what is known of the app's input form, and ask for it where this process has not lately.

        One request of at most 10 s, which is not repeated: whoever asks goes on without a form.

        :param fresh: Whether to ask in any case, since the app may have been published anew.
        :raises DifyError: No server answers at all.
        """
        known = None if check_bool(fresh, "fresh") else known_form(self.connection)
        if known is not None:
            return known
        try:
            form = self._send(self.api.input_form(), timeout=FORM_TIMEOUT_SECONDS, retry=False)
        except DifyError as error:
            if is_outage(error):
                self.require_server()
            return remember_form(self.connection, None, without_retry_advice(error.message))
        return remember_form(self.connection, form)

    def check_server(self) -> DifyError | None:
        """Ask once whether a Dify server answers, with anything but the error page of a gateway before it.

        :return: None where it does, or what came instead.
        """
        try:
            self._send(probe(self.api), timeout=PROBE_TIMEOUT_SECONDS, retry=False)
        except DifyError as error:
            return error if is_outage(error) else None
        return None

    async def acheck_server(self) -> DifyError | None:
        """Ask once whether a Dify server answers; see ``check_server``."""
        try:
            await self._asend(probe(await self.aapi()), timeout=PROBE_TIMEOUT_SECONDS, retry=False)
        except DifyError as error:
            return error if is_outage(error) else None
        return None

    def require_server(self) -> None:
        """Let nobody submit into an outage: after it the outcome of the submission would be unknown.

        :raises DifyError: No server answers, and none has answered just before.
        """
        if time.monotonic() - self._answered_at < ANSWERED_SECONDS:
            return
        error = self.check_server()
        if error is not None:
            raise error

    def test_connection(self) -> tuple[bool, str]:
        """Tell whether the connection can run workflows, and what to do where it cannot.

        Nothing is run, and no request is repeated, since a person waits for the answer.
        """
        try:
            connection = self.connection
            ok, message = self._drive(test_connection(self.api, connection.base_url), retry=False)
        except DifyError as error:
            return False, without_connection(error.message, self.dify_conn_id)
        return ok, connection.redact(message)

    def find_started(self, user: str) -> str | None:
        """Return the id of an active run of a user, after one look of at most 2 s; None where none is listed.

        :param user: The ``user`` of the submission.
        """
        user = check_user(user)
        with ending_by(None):
            return _active_in(self._look_up(user, timeout=STOP_TIMEOUT_SECONDS))

    async def afind_started(self, user: str) -> str | None:
        """Return the id of an active run of a user; see ``find_started``."""
        user = check_user(user)
        with ending_by(None):
            return _active_in(await self._alook_up(user, timeout=STOP_TIMEOUT_SECONDS))

    def find_task_id(self, workflow_run_id: str, user: str) -> str | None:
        """Return the task id that a stop needs, for a run that was found by its user; None where nothing tells it.

        Only the live events of Dify 1.14 tell it (API facts, section 9), and only when something happens in
        the run within 2 s: replayed events carry the run id in its place.

        :param workflow_run_id: The run.
        :param user: The ``user`` of its submission.
        """
        decoder, user, run_id = EventDecoder(), check_user(user), check_id(workflow_run_id, "workflow_run_id")
        try:
            operation = self.api.run_events(run_id, user, snapshot=True)
            until = time.monotonic() + STOP_TIMEOUT_SECONDS
            with (
                ending_by(None),
                self._redacted(self.connection),
                self._transport.open(operation.call, timeout=STOP_TIMEOUT_SECONDS, retry=False) as exchange,
            ):
                operation.check(exchange.head)
                for chunk in exchange.chunks(until):
                    if task_id := task_id_in(decoder.feed(chunk), workflow_run_id):
                        return task_id
        except DifyError as error:
            self.log.debug("The task id of run %s could not be read: %s", workflow_run_id, error)
        return None

    async def afind_task_id(self, workflow_run_id: str, user: str) -> str | None:
        """Return the task id that a stop needs; see ``find_task_id``."""
        decoder, user, run_id = EventDecoder(), check_user(user), check_id(workflow_run_id, "workflow_run_id")
        try:
            operation = (await self.aapi()).run_events(run_id, user, snapshot=True)
            transport = await self._atransport()
            until = asyncio.get_running_loop().time() + STOP_TIMEOUT_SECONDS
            with ending_by(None), self._redacted(await self.aconnection()):
                exchange = await transport.open(operation.call, timeout=STOP_TIMEOUT_SECONDS, retry=False)
                async with exchange:
                    operation.check(exchange.head)
                    async for chunk in exchange.chunks(until):
                        if task_id := task_id_in(decoder.feed(chunk), workflow_run_id):
                            return task_id
        except DifyError as error:
            self.log.debug("The task id of run %s could not be read: %s", workflow_run_id, error)
        return None

    def look(self, workflow_run_id: str, *, timeout: float | None = None) -> Look:
        """Take one look at a run: not repeated, since the next look is its retry; errors are part of it."""
        timeout = None if timeout is None else request_seconds(timeout, "timeout")
        try:
            return Look(run=self._send(self.api.get_run(workflow_run_id), timeout=timeout, retry=False))
        except DifyError as error:
            return Look(error=error)

    async def alook(self, workflow_run_id: str, *, timeout: float | None = None) -> Look:
        """Take one look at a run; see ``look``."""
        timeout = None if timeout is None else request_seconds(timeout, "timeout")
        try:
            operation = (await self.aapi()).get_run(workflow_run_id)
            run = await self._asend(operation, timeout=timeout, retry=False)
            return Look(run=run)
        except DifyError as error:
            return Look(error=error)

    def get_pause_questions(self, run: WorkflowRun) -> list[str]:
        """Return what a paused run asks, a sentence for each question; empty where the server does not tell.

        Only the events route of Dify 1.14 tells it for a run that is known by its id (API facts, section 9).

        :param run: A run with its ``inputs``, which name the user that may read its events.
        """
        return self._read_pause(run).questions()

    async def aget_pause_questions(self, run: WorkflowRun) -> list[str]:
        """Return what a paused run asks; see ``get_pause_questions``."""
        return (await self._aread_pause(run)).questions()

    def get_form_tokens(self, run: WorkflowRun) -> list[str]:
        """Return the tokens of the forms by which a paused run asks a human; empty where the server does not tell.

        A token is what ``get_human_input_form`` and ``submit_human_input`` need. Who has it and the app's API key can
        decide in a human's place, so keep it out of logs and XComs.

        :param run: A run with its ``inputs``, as ``get_workflow_run`` returns it.
        """
        return self._read_pause(run).form_tokens()

    async def aget_form_tokens(self, run: WorkflowRun) -> list[str]:
        """Return the tokens of a paused run's forms; see ``get_form_tokens``."""
        return (await self._aread_pause(run)).form_tokens()

    def get_human_input_requests(self, run: WorkflowRun) -> list[HumanInputRequest]:
        """Return what a paused run asks, form by form, with where it may be answered; empty where nothing tells.

        :param run: A run with its ``inputs``, as ``get_workflow_run`` returns it.
        """
        return self._read_pause(run).requests()

    async def aget_human_input_requests(self, run: WorkflowRun) -> list[HumanInputRequest]:
        """Return what a paused run asks, form by form; see ``get_human_input_requests``."""
        return (await self._aread_pause(run)).requests()

    def _read_pause(self, run: WorkflowRun) -> PauseReader:
        check_type(run, "run", WorkflowRun, _RUN_REMEDY)
        reader = PauseReader()
        try:
            operation = self.api.run_events(run.workflow_run_id, check_user(run.user), snapshot=True)
            until = time.monotonic() + seconds_for(PAUSE_EVENTS_SECONDS)
            with (
                self._redacted(self.connection),
                self._transport.open(operation.call, timeout=PAUSE_EVENTS_SECONDS) as exchange,
            ):
                operation.check(exchange.head)
                for chunk in exchange.chunks(until):
                    if not reader.feed(chunk):
                        break
        except DifyError as error:
            self.log.debug("What the paused run %s asks could not be read: %s", run.workflow_run_id, error)
        return reader

    async def _aread_pause(self, run: WorkflowRun) -> PauseReader:
        check_type(run, "run", WorkflowRun, _RUN_REMEDY)
        reader = PauseReader()
        try:
            operation = (await self.aapi()).run_events(run.workflow_run_id, check_user(run.user), snapshot=True)
            transport = await self._atransport()
            until = asyncio.get_running_loop().time() + seconds_for(PAUSE_EVENTS_SECONDS)
            with self._redacted(await self.aconnection()):
                async with await transport.open(operation.call, timeout=PAUSE_EVENTS_SECONDS) as exchange:
                    operation.check(exchange.head)
                    async for chunk in exchange.chunks(until):
                        if not reader.feed(chunk):
                            break
        except DifyError as error:
            self.log.debug("What the paused run %s asks could not be read: %s", run.workflow_run_id, error)
        return reader

    def get_human_input_form(self, form_token: str) -> HumanInputForm:
        """Return the form by which a paused run asks a human.

        :param form_token: From ``get_form_tokens``, or from the run's ``reasons`` or its event
            ``human_input_required``.
        :raises DifyUnsupportedError: The server is older than Dify 1.14, or the API contract has no forms.
        :raises DifyNotFoundError: There is no such form for the connection's app.
        :raises DifyInvalidInputError: It has been answered already.
        """
        return self._send(self.api.human_input_form(form_token))

    async def aget_human_input_form(self, form_token: str) -> HumanInputForm:
        """Return the form by which a paused run asks a human; see ``get_human_input_form``."""
        return await self._asend((await self.aapi()).human_input_form(form_token))

    def submit_human_input(
        self,
        form_token: str,
        *,
        action: str,
        inputs: Mapping[str, Any] | None = None,
        user: str = "airflow",
        form: HumanInputForm | None = None,
    ) -> None:
        """Answer a paused run in a human's place; the run goes on.

        It is sent once: after a ``DifyTransportError`` whose ``sent`` is true, Dify may have taken the answer.

        :param form_token: The form; see ``get_human_input_form``.
        :param action: The id of one of the form's actions.
        :param inputs: A value for each of the form's fields. A file is what ``upload_file`` returns, or a mapping in
            Dify's form; with ``form`` also an upload id or a URL.
        :param user: Who answers, 1 to 255 characters; Dify takes anybody.
        :param form: The form that is answered: what does not fit it is then refused before anything is sent.
        :raises DifyInvalidInputError: There is no such action, a field has no value or a wrong one, or the form has
            been answered.
        :raises DifyUnsupportedError: The server is older than Dify 1.14, or the API contract has no forms.
        :raises DifyNotFoundError: There is no such form for the connection's app.
        """
        values = fit_answer(form, action, inputs)
        self._send(self.api.submit_human_input(form_token, action=action, inputs=values, user=check_user(user)))

    async def asubmit_human_input(
        self,
        form_token: str,
        *,
        action: str,
        inputs: Mapping[str, Any] | None = None,
        user: str = "airflow",
        form: HumanInputForm | None = None,
    ) -> None:
        """Answer a paused run in a human's place; see ``submit_human_input``."""
        api, values = await self.aapi(), fit_answer(form, action, inputs)
        await self._asend(api.submit_human_input(form_token, action=action, inputs=values, user=check_user(user)))

    def get_info(self) -> AppInfo:
        """Return what the server tells of the connection's app: name, type, description, tags, author.

        :raises DifyUnsupportedError: The API contract has no app information.
        :raises DifyError: The server could not be asked.
        """
        return self._send(self.api.info())

    async def aget_info(self) -> AppInfo:
        """Return what the server tells of the connection's app; see ``get_info``."""
        return await self._asend((await self.aapi()).info())

    def get_parameters(self) -> InputForm:
        """Return the app's input form: its variables with their types and limits, and how large uploads may be.

        :raises DifyAppError: The app was never published.
        :raises DifyUnsupportedError: The API contract has no input form.
        :raises DifyError: The server could not be asked.
        """
        return self._send(self.api.input_form())

    async def aget_parameters(self) -> InputForm:
        """Return the app's input form; see ``get_parameters``."""
        return await self._asend((await self.aapi()).input_form())

    def follow(
        self, flow: Generator[Request | ReadEvents, Any, T], log: Callable[[str], None], deadline: Deadline
    ) -> T:
        """Do in the worker what a flow asks for, until it returns.

        :param flow: One that has not begun, from ``api.waiting``, ``api.following`` or ``api.finding``.
        :param log: Takes a line for the task's log.
        :param deadline: The flow's deadline, which no request of it outlasts.
        :return: What the flow returns.
        """
        _check_flow(flow, log, deadline)
        with ending_by(deadline), SyncFollowing(self) as following:
            return self._follow(flow, log, following)

    def _follow(
        self, flow: Generator[Request | ReadEvents, Any, T], log: Callable[[str], None], following: SyncFollowing
    ) -> T:
        told: Any = None
        while True:
            try:
                request = flow.send(told)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            told = None
            if isinstance(request, Sleep):
                time.sleep(request.seconds)
            elif isinstance(request, LookAt):
                told = self.look(request.workflow_run_id)
            elif isinstance(request, FindMarker):
                told = self._look_up(request.user)
            elif isinstance(request, ReadEvents):
                told = following.read(request)
            elif isinstance(request, CheckServer):
                told = self.check_server()
            elif isinstance(request, AskWhyPaused):
                told = self.get_pause_questions(request.run)
            else:
                log(_line_of(request))

    async def afollow(
        self, flow: Generator[Request | ReadEvents, Any, T], log: Callable[[str], None], deadline: Deadline
    ) -> T:
        """Do in the triggerer what a flow asks for; see ``follow``."""
        _check_flow(flow, log, deadline)
        with ending_by(deadline):
            async with AsyncFollowing(self) as following:
                return await self._afollow(flow, log, following)

    async def _afollow(
        self, flow: Generator[Request | ReadEvents, Any, T], log: Callable[[str], None], following: AsyncFollowing
    ) -> T:
        told: Any = None
        while True:
            try:
                request = flow.send(told)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            told = None
            if isinstance(request, Sleep):
                await self._anap(request.seconds)
            elif isinstance(request, LookAt):
                told = await self.alook(request.workflow_run_id)
            elif isinstance(request, FindMarker):
                told = await self._alook_up(request.user)
            elif isinstance(request, ReadEvents):
                told = await following.read(request)
            elif isinstance(request, CheckServer):
                told = await self.acheck_server()
            elif isinstance(request, AskWhyPaused):
                told = await self.aget_pause_questions(request.run)
            else:
                log(_line_of(request))

    def _anap(self, seconds: float) -> Awaitable[None]:
        return asyncio.sleep(seconds)

    def _look_up(self, user: str, *, timeout: float | None = None) -> LogPage | DifyError:
        try:
            page = self._send(self.api.logs(user=user, limit=MARKER_ROWS), timeout=timeout, retry=False)
        except DifyError as error:
            return error
        return page

    async def _alook_up(self, user: str, *, timeout: float | None = None) -> LogPage | DifyError:
        try:
            operation = (await self.aapi()).logs(user=user, limit=MARKER_ROWS)
            page = await self._asend(operation, timeout=timeout, retry=False)
        except DifyError as error:
            return error
        return page

    def _drive(self, flow: Flow[T], *, retry: bool = True) -> T:
        """Answer the operations of a flow, errors included, until it returns."""
        advance: Callable[[], Operation[Any]] = partial(next, flow)
        while True:
            try:
                operation = advance()
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            try:
                advance = partial(flow.send, self._send(operation, retry=retry))
            except DifyError as error:
                advance = partial(flow.throw, error)

    async def _adrive(self, flow: Flow[T]) -> T:
        """Answer the operations of a flow; see ``_drive``."""
        advance: Callable[[], Operation[Any]] = partial(next, flow)
        while True:
            try:
                operation = advance()
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            try:
                advance = partial(flow.send, await self._asend(operation))
            except DifyError as error:
                advance = partial(flow.throw, error)


def _active_in(page: LogPage | DifyError) -> str | None:
    runs = () if isinstance(page, DifyError) else page.runs
    return next((run.workflow_run_id for run in runs if not run.status.is_terminal), None)


def _trace(trace_id: str | None, traceparent: str | None) -> Trace:
    return Trace(check_trace_id(trace_id), check_traceparent(traceparent))


def _log_filters(
    user: str | None,
    account: str | None,
    created_after: datetime | str | None,
    created_before: datetime | str | None,
    status: str | None,
    keyword: str | None,
) -> dict[str, Any]:
    return {
        "user": user,
        "account": account,
        "created_after": created_after,
        "created_before": created_before,
        "status": status,
        "keyword": keyword,
    }


def _told(started: StartedRun, on_started: Callable[[StartedRun], None] | None) -> StartedRun:
    if on_started is not None:
        on_started(started)
    return started


@dataclass(frozen=True)
class _Waits:
    """How long a submission waits.

    :param submit: Seconds for the id of a streaming run.
    :param end: Seconds for the end of a run.
    """

    submit: float
    end: float

    @classmethod
    def checked(cls, submit_timeout: Any, timeout: Any, before_send: Any, on_started: Any) -> _Waits:
        """Return them, with what is called meanwhile checked too."""
        check_callable(before_send, "before_send")
        check_callable(on_started, "on_started")
        return cls(request_seconds(submit_timeout, "submit_timeout"), request_seconds(timeout, "timeout"))

    def of(self, call: Call) -> float:
        """Return the seconds for the first answer to a submission."""
        return self.submit if call.streaming else self.end


def _check_flow(flow: Any, log: Any, deadline: Any) -> None:
    check_type(deadline, "deadline", Deadline, "pass that of the flow")
    check_type(flow, "flow", Generator, "pass one from api.waiting, api.following or api.finding")
    if log is None:
        raise DifyInvalidInputError("log must be a function that takes a line, and is null.")
    check_callable(log, "log")


def _line_of(request: Any) -> str:
    """Return what a flow wants to have logged."""
    if not isinstance(request, Say):
        raise DifyInvalidInputError(
            f"flow has yielded {shape_of(request)}: pass one from api.waiting, api.following or api.finding."
        )
    return request.line


def _file_object(file: Any) -> Mapping[str, Any]:
    """Return what is told of a file to fetch."""
    with guarded(file, "file"):
        text = plain_text(file)
        if text is not None:
            return {"url": text}
        if isinstance(file, Mapping):
            return dict(file)
    raise DifyInvalidInputError(
        f"file must be a file object out of a run's outputs, or its URL, and is {shape_of(file)}."
    )


@contextmanager
def _opened(file: Any, name: str | None, mime_type: str | None) -> Iterator[Upload]:
    """Give an upload out of a path, the URI of an object or an open file; a file that was open stays open."""
    with guarded(name, "name"):
        name = check_name(name, "name") if name else None
    with guarded(mime_type, "mime_type"):
        mime_type = check_mime_type(mime_type, "mime_type") if mime_type else None
    with ExitStack() as stack:
        if plain_text(file) is not None or is_path_object(file):
            with guarded(file, "file"):
                found = described_file(path_of(file, "file"), "file", (), name=name, mime_type=mime_type)
            name = found.name
            stream = stack.enter_context(Source(found.source, "file").open())
        else:
            stream = _binary_file(file)
        if not name:
            raise DifyInvalidInputError("name is missing: an open file needs the name that Dify is to keep.")
        with reading(name, "file"):
            upload = Upload(stream, name, mime_type or mimetypes.guess_type(name)[0] or UNKNOWN_MIME_TYPE)
        yield upload


def _binary_file(file: Any) -> BinaryIO:
    """Return an open file that can be sent."""
    with guarded(file, "file"):
        check_stream(file, "file")
        if all(callable(getattr(file, name, None)) for name in ("read", "seek", "tell")) and file.read(0) == b"":
            return file  # type: ignore[no-any-return]
    raise DifyInvalidInputError(
        "file must be a path, the URI of an object, an ObjectStoragePath, or a seekable file that is open in binary "
        f"mode (open(path, 'rb')), and is {shape_of(file)}."
    )
