"""What a batch asks of Dify, on an event loop: the few operations of the hook that it needs, in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from airflow_provider_dify.api.input_form import InputForm
from airflow_provider_dify.api.runs import LogPage, StartedRun, WorkflowRun
from airflow_provider_dify.connection import DifyConnection
from airflow_provider_dify.exceptions import DifyError
from airflow_provider_dify.names import SERVICE_API
from airflow_provider_dify.rules import exchanges
from airflow_provider_dify.rules.exchanges import NewRun
from airflow_provider_dify.rules.uploads import FileToUpload
from airflow_provider_dify.runtime.loop_client import LoopClient
from airflow_provider_dify.runtime.metrics import Metrics
from airflow_provider_dify.runtime.task_protocols import TaskHook
from airflow_provider_dify.runtime.upload import upload_all

STREAMS = 8
"""Submissions under way at a time: a stock server has ten connections, and polls need some of them."""

_STOP_SECONDS = 2.0


class BatchClient:
    """Asks Dify for one batch. No request is repeated by itself: the batch decides what follows an error.

    :param hook: The hook of the batch's connection.
    :param metrics: Counts the requests that ask for the state of runs.
    """

    def __init__(self, hook: TaskHook, metrics: Metrics) -> None:
        self._hook = hook
        self._loop = LoopClient(hook.dify_conn_id, metrics=metrics)
        self._metrics = metrics
        self._connection: DifyConnection | None = None

    async def connect(self) -> None:
        """Read the connection.

        :raises DifyError: There is none, or it is wrong.
        """
        self._connection = await self._loop.connection()
        # The files of rows are uploaded in threads, where Airflow's connections cannot be read on every version.
        self._hook.__dict__.setdefault("connection", self._connection)

    @property
    def connection(self) -> DifyConnection:
        """The checked connection."""
        assert self._connection is not None
        return self._connection

    @property
    def can_search(self) -> bool:
        """Whether runs can be found by their markers, and read from pages of the log."""
        return self.connection.api_contract == SERVICE_API

    @property
    def streams(self) -> int:
        """Submissions under way at a time."""
        return max(STREAMS, self.connection.max_connections)

    def redact(self, text: str) -> str:
        """Return a text of the server without the connection's secrets."""
        return self._loop.redact(text)

    async def form(self) -> InputForm:
        """Return the app's input form.

        :raises DifyError: It cannot be read.
        """
        return await self._loop.run_exchange(exchanges.send(lambda api: api.input_form()))

    async def submit(
        self,
        inputs: Mapping[str, Any],
        *,
        user: str,
        workflow_id: str | None,
        submit_timeout: float,
        timeout: float,
        before_send: Callable[[], None],
    ) -> StartedRun:
        """Submit a run; see ``DifyHook.create_workflow_run``."""
        return await self._loop.run_exchange(
            exchanges.submit(
                NewRun(inputs, user, workflow_id=workflow_id),
                submit_timeout=submit_timeout,
                timeout=timeout,
                before_send=before_send,
                on_started=None,
                log=self._loop.log.info,
            )
        )

    def upload(self, files: list[FileToUpload], *, user: str, form: InputForm | None) -> dict[Any, str]:
        """Upload the files of a row, in a thread, and return their ids by their keys."""
        return upload_all(self._hook, files, user=user, limits=(form or InputForm()).limits)

    async def page(self, number: int, limit: int) -> LogPage:
        """Return a page of the workflow log, newest first.

        :raises DifyError: The server could not be asked.
        """
        return await self._logs(page=number, limit=limit)

    async def marked(self, marker: str) -> LogPage:
        """Return what the workflow log has of one marker.

        :raises DifyError: The server could not be asked.
        """
        return await self._logs(user=marker)

    async def _logs(self, **query: Any) -> LogPage:
        try:
            page: LogPage = await self._loop.run_exchange(exchanges.send(lambda api: api.logs(**query), retry=False))
        except DifyError as error:
            self._metrics.polled(error)
            raise
        self._metrics.polled(page)
        return page

    async def run(self, workflow_run_id: str) -> WorkflowRun:
        """Return a run as its row tells it.

        :raises DifyError: The server could not be asked, or does not show it.
        """
        poll_result = await self._loop.poll(workflow_run_id)
        if poll_result.run is None:
            assert poll_result.error is not None
            raise poll_result.error
        return poll_result.run

    async def away(self) -> DifyError | None:
        """Return what is wrong where no Dify server answers; None where one does."""
        return await self._loop.run_exchange(exchanges.outage())

    async def stop(self, workflow_run_id: str, task_id: str | None, user: str) -> bool:
        """Ask Dify to stop a run, for a few seconds at most; tell whether it was asked."""
        with suppress(DifyError):
            task_id = task_id or await self._loop.run_exchange(
                exchanges.task_id(workflow_run_id, user, self._loop.log.debug)
            )
            if task_id is not None:
                await self._loop.run_exchange(exchanges.stop(task_id))
                return True
        return False

    async def close(self) -> None:
        """Close the connections of the event loop that runs."""
        await self._loop.close()
        self._hook.close()
