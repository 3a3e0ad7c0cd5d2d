"""The hook: one Airflow connection to one Dify app, with the same operations for worker and event loop."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, BinaryIO

from airflow.providers.common.compat.sdk import BaseHook

from airflow_provider_dify.api.checks import check_callable, guarded
from airflow_provider_dify.api.events import Event
from airflow_provider_dify.api.input_form import InputForm
from airflow_provider_dify.api.log_filters import log_query
from airflow_provider_dify.api.operations import LOGS_MAX_LIMIT
from airflow_provider_dify.api.runs import AppInfo, LoggedRun, RunStatus, StartedRun, UploadedFile, WorkflowRun
from airflow_provider_dify.api.tracing import Trace, check_trace_id, check_traceparent
from airflow_provider_dify.client.downloads import SavedFile, Wanted, download
from airflow_provider_dify.client.opened_upload import opened_upload
from airflow_provider_dify.client.store_writing import FileGroup, Writable, destination_target, writing
from airflow_provider_dify.connection import DATASET_KEY_CODE, DifyConnection
from airflow_provider_dify.exceptions import DifyError
from airflow_provider_dify.hooks.human_input import HumanInputCalls
from airflow_provider_dify.hooks.twins import asynchronous, asynchronous_iterator
from airflow_provider_dify.names import CONN_TYPE, DEFAULT_CONN_NAME, HOOK_NAME
from airflow_provider_dify.rules import exchanges
from airflow_provider_dify.rules.connection_test import test_connection
from airflow_provider_dify.rules.diagnosis import without_connection
from airflow_provider_dify.rules.exchanges import NewRun, RunPages
from airflow_provider_dify.rules.output_files import address_of, check_hosts, declared_size, file_object
from airflow_provider_dify.rules.polling import PollResult
from airflow_provider_dify.rules.settings import (
    MAX_FILE_BYTES,
    SUBMIT_TIMEOUT_SECONDS,
    TIMEOUT_SECONDS,
    bytes_of,
    request_seconds,
)
from airflow_provider_dify.rules.uploads import (
    check_destination,
)
from airflow_provider_dify.runtime.loop_client import LoopClient
from airflow_provider_dify.runtime.worker_client import WorkerClient, redacted

if TYPE_CHECKING:
    from typing_extensions import Self


class DifyHook(HumanInputCalls, BaseHook):
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
        BaseHook.__init__(self, **kwargs)
        WorkerClient.__init__(self, dify_conn_id)

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return which fields the form of Airflow 2.11 to 3.1 shows, and how."""
        from airflow_provider_dify.connection_form import ui_field_behaviour

        return ui_field_behaviour(in_extra=False)

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the extra fields of the form of Airflow 2.11 to 3.1."""
        from airflow_provider_dify.connection_form import form_widgets

        return form_widgets()

    @cached_property
    def in_loop(self) -> LoopClient:
        """The client that the operations for event loops use."""
        return LoopClient(self.dify_conn_id, metrics=self._metrics)

    async def aconnection(self) -> DifyConnection:
        """Return the checked connection, read once for each hook, beside the event loop.

        :raises DifyConfigurationError: It does not exist, or a field is wrong.
        """
        return await self.in_loop.connection()

    async def aclose(self) -> None:
        """Close the pooled connections of the event loop that runs."""
        await self.in_loop.close()

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
        ``running`` permanently, so there the stream is read to its end. With ``blocking`` the answer comes
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
        trace = Trace(check_trace_id(trace_id), check_traceparent(traceparent))
        check_callable(before_send, "before_send")
        check_callable(on_started, "on_started")
        return self.run_exchange(
            exchanges.submit(
                NewRun(inputs, user, response_mode, files, query, workflow_id, trace),
                submit_timeout=request_seconds(submit_timeout, "submit_timeout"),
                timeout=request_seconds(timeout, "timeout"),
                before_send=before_send,
                on_started=on_started,
                log=self.log.info,
            )
        )

    def get_workflow_run(self, workflow_run_id: str) -> WorkflowRun:
        """Return a run as its row tells it: the authority on how it ended.

        :param workflow_run_id: The run's id; a UUID in the ``service-api`` contract.
        :raises DifyInvalidInputError: The id is no UUID; nothing was sent.
        :raises DifyRunNotFoundError: The server shows no such run to this key. Rows can lag behind events.
        :raises DifyError: The server could not be asked, or did not answer as Dify does.
        """
        return self.run_exchange(exchanges.send(lambda api: api.get_run(workflow_run_id)))

    def get_workflow_run_status(self, workflow_run_id: str) -> RunStatus:
        """Return a run's status; see ``get_workflow_run``."""
        return self.run_exchange(exchanges.status(workflow_run_id))

    def stop_workflow_run(self, task_id: str, *, user: str = "airflow") -> None:
        """Ask Dify to stop a run: one call of at most 2 s, not repeated.

        Dify answers success whatever happens, and some versions leave a stopped run ``running`` permanently
        (dify-behaviour.md, section 7): nothing here says that the run has stopped, and waiting for it may never end.

        :param task_id: The task id of the run, which only streams and blocking answers tell; the run id
            in its place has no effect.
        :param user: Any non-empty text.
        :raises DifyUnsupportedError: The API contract has no stop.
        :raises DifyError: The request failed.
        """
        return self.run_exchange(exchanges.stop(task_id, user))

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
        except before Dify 1.9.2, which then shows it as ``running`` permanently.

        :param timeout: Seconds for the whole stream.
        :raises DifyInvalidInputError: An argument is wrong (nothing was sent), or Dify refused one.
        :raises DifySubmissionUnknownError: The stream broke before any event named the run.
        :raises DifyTransportError: It broke, or ended, before the run did; ``workflow_run_id`` is set.
        :raises DifyRunTimeoutError: The run had not ended after ``timeout``; ``workflow_run_id`` is set.
        """
        trace = Trace(check_trace_id(trace_id), check_traceparent(traceparent))
        run = NewRun(inputs, user, "streaming", files, query, workflow_id, trace)
        return self.iterate_exchange(exchanges.stream(run, timeout, time.monotonic))

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
        and before Dify 1.11 running ones are not either (dify-behaviour.md, section 8).

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
        filters = log_query(user, None, created_after, created_before, status, keyword)
        return self.run_exchange(exchanges.find(filters, limit))

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
        what is not, is described there. A run that is pushed to the next page by new ones comes once.

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
        filters = log_query(user, account, created_after, created_before, status, keyword)
        return self.iterate_exchange(exchanges.list_runs(RunPages(self.api, filters, page_size)))

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
        """Do in an event loop what ``list_workflow_runs`` does; see there."""
        filters = log_query(user, account, created_after, created_before, status, keyword)
        pages = RunPages(await self.in_loop.api(), filters, page_size)
        async for run in self.in_loop.iterate_exchange(exchanges.list_runs(pages)):
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

        From Dify 1.14 on a run of another user cannot use it (dify-behaviour.md, section 10).

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
        return self.run_exchange(exchanges.upload(lambda: opened_upload(file, name, mime_type), user))

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
        max_bytes, described = bytes_of(max_bytes, "max_bytes"), file_object(file)
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
        def opened() -> Iterator[Writable]:
            with writing(target.path, group) as (sink, uri):
                yield sink
            uris.append(uri)

        try:
            size = download(self.get_conn(), wanted, opened)
        except DifyError as error:
            redacted(error, self.redact)
            raise
        return SavedFile(uris[-1], size)

    def get_info(self) -> AppInfo:
        """Return what the server reports about the connection's app: name, type, description, tags, author.

        :raises DifyUnsupportedError: The API contract has no app information.
        :raises DifyError: The server could not be asked.
        """
        return self.run_exchange(exchanges.send(lambda api: api.info()))

    def get_parameters(self) -> InputForm:
        """Return the app's input form: its variables with their types and limits, and how large uploads may be.

        :raises DifyAppError: The app was never published.
        :raises DifyUnsupportedError: The API contract has no input form.
        :raises DifyError: The server could not be asked.
        """
        return self.run_exchange(exchanges.send(lambda api: api.input_form()))

    def test_connection(self) -> tuple[bool, str]:
        """Tell whether the connection can run workflows, and what to do where it cannot.

        Nothing is run, and no request is repeated, since a person waits for the answer.
        """
        try:
            connection = self.connection
            ok, message = self.run_exchange(test_connection(self.api, connection.base_url))
        except DifyError as error:
            if error.code == DATASET_KEY_CODE:
                from airflow_provider_dify.hooks.knowledge import DifyKnowledgeHook

                return DifyKnowledgeHook(self.dify_conn_id).test_connection()
            return False, without_connection(error.message, self.dify_conn_id)
        return ok, connection.redact(message)

    def look(self, workflow_run_id: str, *, timeout: float | None = None) -> PollResult:
        """Poll a run once, as ``poll`` does: the name of version 0.1.0."""
        return self.poll(workflow_run_id, timeout=timeout)

    acreate_workflow_run = asynchronous(create_workflow_run)
    aget_workflow_run = asynchronous(get_workflow_run)
    aget_workflow_run_status = asynchronous(get_workflow_run_status)
    astop_workflow_run = asynchronous(stop_workflow_run)
    astream_workflow_run = asynchronous_iterator(stream_workflow_run)
    afind_workflow_runs = asynchronous(find_workflow_runs)
    aupload_file = asynchronous(upload_file)
    aget_info = asynchronous(get_info)
    aget_parameters = asynchronous(get_parameters)
    apoll = asynchronous(WorkerClient.poll)
    alook = apoll
    acheck_server = asynchronous(WorkerClient.check_server)
    afind_started = asynchronous(WorkerClient.find_started)
    afind_task_id = asynchronous(WorkerClient.find_task_id)
