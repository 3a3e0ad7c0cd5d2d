"""The event loop's client of one Airflow connection: does what an exchange or a wait asks for, over aiohttp."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import AsyncExitStack, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_dify.api.contracts import contract
from airflow_provider_dify.api.operations import ApiContract
from airflow_provider_dify.client.bodies import Size
from airflow_provider_dify.client.deadlines import ending_by, seconds_for
from airflow_provider_dify.connection import DifyConnection
from airflow_provider_dify.exceptions import DifyError
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
from airflow_provider_dify.rules.polling import Deadline, PollResult
from airflow_provider_dify.rules.waiting import PollRun, Request, Say, Sleep
from airflow_provider_dify.runtime.connections import read_connection_beside_loop
from airflow_provider_dify.runtime.event_stream import AsyncFollowing
from airflow_provider_dify.runtime.metrics import Metrics
from airflow_provider_dify.runtime.worker_client import as_send, asked_by, head_timeout, redacted

if TYPE_CHECKING:
    from typing_extensions import Self

    from airflow_provider_dify.client.aiohttp_transport import AsyncTransport

T = TypeVar("T")


class LoopClient:
    """Talks to the app of one Airflow connection from an event loop.

    :param conn_id: The Airflow connection.
    :param size: How large an answer may be.
    :param metrics: Where requests are counted.
    :param for_knowledge: Whether its key must be one of the knowledge API, instead of an app's.
    """

    log = logging.getLogger(__name__)

    def __init__(
        self,
        conn_id: str,
        *,
        size: Size | None = None,
        metrics: Metrics | None = None,
        for_knowledge: bool = False,
    ) -> None:
        self._for_knowledge = for_knowledge
        self._conn_id = conn_id
        self._size = size or Size()
        self._metrics = metrics or Metrics(conn_id)
        self._connection: DifyConnection | None = None
        self._transports: dict[asyncio.AbstractEventLoop, AsyncTransport] = {}

    async def connection(self) -> DifyConnection:
        """Return the checked connection, read once.

        :raises DifyConfigurationError: It does not exist, or a field is wrong.
        """
        if self._connection is None:
            self._connection = await read_connection_beside_loop(self._conn_id, for_knowledge=self._for_knowledge)
        return self._connection

    async def api(self) -> ApiContract:
        """Return the operations of the connection's API contract."""
        return contract((await self.connection()).api_contract)

    async def transport(self) -> AsyncTransport:
        """Return what sends the requests of the running event loop."""
        # Each event loop has its own: connections and locks of another one cannot be awaited.
        loop = asyncio.get_running_loop()
        transport = self._transports.get(loop)
        if transport is None:
            from airflow_provider_dify.client.aiohttp_transport import AsyncTransport

            connection = await self.connection()
            for ended in [each for each in self._transports if each.is_closed()]:
                self._transports.pop(ended, None)
            transport = self._transports.setdefault(loop, AsyncTransport(connection, self._size))
        return transport

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Close it."""
        await self.close()

    async def close(self) -> None:
        """Close the pooled connections of the event loop that runs."""
        transport = self._transports.get(asyncio.get_running_loop())
        if transport is not None:
            await transport.close()

    def redact(self, text: str) -> str:
        """Return a text of the server without the connection's secrets; unchanged before there is a connection."""
        return text if self._connection is None else self._connection.redact(text)

    async def send(self, request: Send[T]) -> T:
        """Return the value of an operation."""
        operation, transport = request.operation, await self.transport()
        with ending_by(None) if request.past_deadline else nullcontext():
            return operation.read(await transport.send(operation.call, timeout=request.timeout, retry=request.retry))

    async def _open(self, request: Open) -> Any:
        transport, timeout = await self.transport(), head_timeout(request, await self.connection())
        with ending_by(None) if request.past_deadline else nullcontext():
            return await transport.open(
                request.call, timeout=timeout, retry=request.retry, before_send=request.before_send
            )

    async def run_exchange(self, flow: Flow[T]) -> T:
        """Do what an exchange asks for, until it returns."""
        driving = _Driving(self, flow)
        async for _ in driving.given():
            raise AssertionError("only an iterated exchange gives values")
        return driving.result  # type: ignore[no-any-return]

    async def iterate_exchange(self, flow: Flow[None]) -> AsyncIterator[Any]:
        """Do what an exchange asks for, and yield what it gives."""
        given = _Driving(self, flow).given()
        try:
            async for value in given:
                yield value
        finally:
            await given.aclose()

    def poll(self, workflow_run_id: str) -> Coroutine[Any, Any, PollResult]:
        """Poll a run once; errors are part of the result."""
        return self.run_exchange(exchanges.poll(workflow_run_id, None, self._metrics.polled))

    def sleep(self, seconds: float) -> Awaitable[None]:
        """Return what is done after so many seconds."""
        return asyncio.sleep(seconds)

    async def follow(
        self, flow: Generator[Request | ReadEvents, Any, T], log: Callable[[str], None], deadline: Deadline
    ) -> T:
        """Do what a wait asks for; see ``WorkerClient.follow``."""
        following: AsyncFollowing | None = None
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
                        await self.sleep(request.seconds)
                    elif isinstance(request, ReadEvents):
                        following = following or AsyncFollowing(self)
                        answer = await following.read(request)
                    elif isinstance(request, Say):
                        log(request.line)
                    elif isinstance(request, PollRun):
                        answer = await self.poll(request.workflow_run_id)
                    else:
                        answer = await self.run_exchange(asked_by(request, self._metrics.polled, self.log.debug))
            finally:
                # No exit stack: its memory counts for each of thousands of waits, and few of them follow events.
                if following is not None:
                    await following.close()


class _Driving:
    """An exchange that is being done in an event loop; see ``worker_client._given``."""

    def __init__(self, client: LoopClient, flow: Flow[Any]) -> None:
        self._client = client
        self._flow = flow
        self.result: Any = None

    async def given(self) -> AsyncGenerator[Any, None]:
        """Do what the exchange asks for; what it has open is closed at the end."""
        client, flow = self._client, self._flow
        clock = asyncio.get_running_loop().time
        exchange: Any = None
        chunks: Any = None
        advance: Callable[[], Any] = partial(next, flow)
        async with AsyncExitStack() as stack:
            stack.callback(flow.close)
            while True:
                try:
                    request = advance()
                except StopIteration as end:
                    self.result = end.value
                    return
                except DifyError as error:
                    redacted(error, client.redact)
                    raise
                answer: Any = None
                try:
                    if isinstance(request, GetApi):
                        answer = await client.api()
                    elif isinstance(request, Open):
                        exchange = await stack.enter_async_context(await client._open(request))
                        answer = exchange.head
                    elif isinstance(request, ReadAnswer):
                        answer = await exchange.read()
                    elif isinstance(request, ReadChunks):
                        seconds = seconds_for(request.seconds) if request.by_deadline else request.seconds
                        chunks = exchange.chunks(clock() + seconds)
                    elif isinstance(request, NextChunk):
                        answer = await anext(chunks, None)
                    elif isinstance(request, Give):
                        yield request.value
                    else:
                        answer = await client.send(as_send(request))
                except GeneratorExit:
                    raise
                except BaseException as error:
                    if isinstance(error, DifyError):
                        redacted(error, client.redact)
                    advance = partial(flow.throw, error)
                else:
                    advance = partial(flow.send, answer)
