"""The event stream beside a wait: a thread in the worker, a task in the triggerer, the same answers."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from airflow_provider_dify.api.errors import error_for_answer
from airflow_provider_dify.api.events import Event
from airflow_provider_dify.api.operations import ApiContract, Operation
from airflow_provider_dify.client.deadlines import limited
from airflow_provider_dify.exceptions import DifyError
from airflow_provider_dify.rules.event_log import EventBatch, EventReader, ReadEvents
from airflow_provider_dify.runtime.stream_slots import StreamSlot

if TYPE_CHECKING:
    from airflow_provider_dify.client.aiohttp_transport import AsyncTransport
    from airflow_provider_dify.client.requests_transport import SyncExchange, SyncTransport
    from airflow_provider_dify.connection import DifyConnection

    class _Worker(Protocol):
        @property
        def connection(self) -> DifyConnection: ...
        @property
        def api(self) -> ApiContract: ...
        def get_conn(self) -> SyncTransport: ...

    class _Loop(Protocol):
        async def connection(self) -> DifyConnection: ...
        async def api(self) -> ApiContract: ...
        async def transport(self) -> AsyncTransport: ...


# Longer than any wait: the stream is closed by who listens, or by the server.
_STREAM_SECONDS = 7 * 86400.0
_CLOSE_SECONDS = 2.0
# Of a larger event the triggerer reads nothing: all others stand still while it is decoded.
_TRIGGERER_EVENT_BYTES = 256 * 1024
# Events that wait to be reported in the log, and that are reported at once: the server is read no faster.
_TRIGGERER_EVENTS = 200


class _End:
    """Stands in the queue for the end of the stream."""

    def __init__(self, error: DifyError | None) -> None:
        self.error = error


def _failure(error: Exception) -> DifyError:
    # Following is a convenience: whatever goes wrong in it must not become the task's failure.
    return error if isinstance(error, DifyError) else DifyError(f"{type(error).__name__} while it was read")


def _events_of(api: ApiContract, request: ReadEvents) -> Operation[None]:
    # A stream of a run that waits for a human is kept: what is resumed and ends soon is replayed to nobody.
    return api.run_events(request.workflow_run_id, request.user, snapshot=True, over_pauses=True)


def _batch_of(items: list[Event | _End]) -> EventBatch:
    events = tuple(item for item in items if isinstance(item, Event))
    end = next((item for item in items if isinstance(item, _End)), None)
    return EventBatch(events, ended=end is not None, error=end.error if end else None)


class SyncFollowing:
    """The stream of one wait in a worker; to be closed.

    A thread reads it, since a read that was given up after a second could not be resumed.

    :param client: What the wait asks with.
    """

    def __init__(self, client: _Worker) -> None:
        self._client = client
        self._items: queue.SimpleQueue[Event | _End] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()
        self._exchange: SyncExchange | None = None

    def read(self, request: ReadEvents) -> EventBatch:
        """Wait for the next events, at most for the seconds of the request."""
        if self._thread is None and not self._open(request):
            time.sleep(request.seconds)
            return EventBatch(refused=True)
        items: list[Event | _End] = []
        with suppress(queue.Empty):
            items.append(self._items.get(timeout=request.seconds))
            while True:
                items.append(self._items.get_nowait())
        batch = _batch_of(items)
        if batch.ended:
            self.close()
        return batch

    def _open(self, request: ReadEvents) -> bool:
        slot = StreamSlot.take(self._client.connection.base_url)
        if slot is None:
            return False
        self._items, self._ending = queue.SimpleQueue(), threading.Event()
        self._thread = threading.Thread(
            target=self._pump, args=(request, slot, self._items, self._ending), name="dify-events", daemon=True
        )
        self._thread.start()
        return True

    def _pump(
        self,
        request: ReadEvents,
        slot: StreamSlot,
        items: queue.SimpleQueue[Event | _End],
        ending: threading.Event,
    ) -> None:
        error: DifyError | None = None
        with slot:
            try:
                operation = _events_of(self._client.api, request)
                with self._client.get_conn().open(operation.call, retry=False) as exchange:
                    self._exchange = exchange
                    if not ending.is_set():
                        self._relay(operation, exchange, items)
            except Exception as failure:
                error = _failure(failure)
        items.put(_End(error))

    @staticmethod
    def _relay(operation: Operation[Any], exchange: SyncExchange, items: queue.SimpleQueue[Event | _End]) -> None:
        if not exchange.head.ok or not exchange.head.is_event_stream:
            raise error_for_answer(exchange.read(), operation.call.what)
        reader = EventReader()
        for chunk in exchange.chunks(time.monotonic() + _STREAM_SECONDS):
            for event in reader.feed(chunk):
                items.put(event)
            if reader.ended:
                return

    def close(self) -> None:
        """Close the stream."""
        thread, self._thread = self._thread, None
        self._ending.set()
        if thread is None:
            return
        if self._exchange is not None:
            self._exchange.abort()
        thread.join(_CLOSE_SECONDS)
        self._exchange = None


class AsyncFollowing:
    """The stream of one wait in a triggerer; to be closed.

    :param client: What the wait asks with.
    """

    def __init__(self, client: _Loop) -> None:
        self._client = client
        self._task: asyncio.Task[None] | None = None

    async def read(self, request: ReadEvents) -> EventBatch:
        """Wait for the next events; see ``SyncFollowing.read``."""
        if self._task is None and not await self._open(request):
            await asyncio.sleep(request.seconds)
            return EventBatch(refused=True)
        items: list[Event | _End] = []
        with suppress(asyncio.TimeoutError, asyncio.QueueEmpty):
            items.append(await limited(self._items.get(), request.seconds))
            while True:
                items.append(self._items.get_nowait())
        batch = _batch_of(items)
        if batch.ended:
            await self.close()
        return batch

    async def _open(self, request: ReadEvents) -> bool:
        try:
            connection = await self._client.connection()
        except DifyError:
            return False
        slot = StreamSlot.take(connection.base_url)
        if slot is None:
            return False
        # Not before it is needed: a triggerer holds thousands of waits, and few of them follow events.
        self._items: asyncio.Queue[Event | _End] = asyncio.Queue(_TRIGGERER_EVENTS)
        self._task = asyncio.create_task(self._pump(request, slot, self._items))
        return True

    async def _pump(self, request: ReadEvents, slot: StreamSlot, items: asyncio.Queue[Event | _End]) -> None:
        error: DifyError | None = None
        with slot:
            try:
                api = await self._client.api()
                operation = _events_of(api, request)
                transport = await self._client.transport()
                async with await transport.open(operation.call, retry=False) as exchange:
                    if not exchange.head.ok or not exchange.head.is_event_stream:
                        raise error_for_answer(await exchange.read(), operation.call.what)
                    reader = EventReader(_TRIGGERER_EVENT_BYTES)
                    async for chunk in exchange.chunks(asyncio.get_running_loop().time() + _STREAM_SECONDS):
                        for event in reader.feed(chunk):
                            await items.put(event)
                        if reader.ended:
                            break
            except Exception as failure:
                error = _failure(failure)
        await items.put(_End(error))

    async def close(self) -> None:
        """Close the stream."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
