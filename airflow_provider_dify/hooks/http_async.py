"""The triggerer's transport: calls over a pooled aiohttp session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
from tenacity import AsyncRetrying
from yarl import URL

from airflow_provider_dify.api.bodies import CHUNK_BYTES, Body, body_of
from airflow_provider_dify.api.calls import Call
from airflow_provider_dify.api.errors import Answer
from airflow_provider_dify.connection import DifyConnection
from airflow_provider_dify.hooks.http import (
    lower_case,
    request_headers,
    retry_rules,
    tls_context,
    transport_error,
    without_server_error,
)

# An aiohttp response can end with any of these while its head or body is awaited.
_FAILURES = (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError)


class AsyncExchange:
    """One answer whose head has come and whose body is read on demand; an async context manager that ends it."""

    def __init__(self, connection: DifyConnection, call: Call, response: aiohttp.ClientResponse) -> None:
        self._connection = connection
        self._call = call
        self._response = response
        self.head = Answer(response.status, lower_case(response.headers))

    async def __aenter__(self) -> AsyncExchange:
        """Return itself."""
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Close the connection, or give it back to the pool where the body was read to its end."""
        self._response.close()

    async def read(self) -> Answer:
        """Return the answer with its whole body.

        :raises DifyTransportError: The connection broke or fell silent.
        """
        try:
            body = await self._response.read()
        except _FAILURES as error:
            raise transport_error(self._connection, self._call, error, sent=True) from error
        return Answer(self.head.status, self.head.headers, body)

    async def chunks(self, until: float) -> AsyncIterator[bytes]:
        """Yield the body as it arrives.

        :param until: Moment of the event loop's clock at which reading ends, without an error.
        :raises DifyTransportError: The connection broke.
        """
        loop = asyncio.get_running_loop()
        while (left := until - loop.time()) > 0:
            try:
                chunk = await asyncio.wait_for(self._response.content.readany(), left)
            except asyncio.TimeoutError:
                return
            except _FAILURES as error:
                raise transport_error(self._connection, self._call, error, sent=True) from error
            if not chunk:
                return
            yield chunk


class AsyncTransport:
    """Sends calls from the triggerer. Redirects are not followed, and nothing but the connection is trusted.

    :param connection: The checked connection.
    """

    def __init__(self, connection: DifyConnection) -> None:
        self._connection = connection
        self._session: aiohttp.ClientSession | None = None
        self._session_lock = asyncio.Lock()

    async def _pooled_session(self) -> aiohttp.ClientSession:
        async with self._session_lock:
            if self._session is None:
                # Reading certificates is file access, which the event loop must not wait for.
                context = await asyncio.to_thread(tls_context, self._connection)
                self._session = aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(ssl=context),
                    # Its netrc and proxies are dealt with as in the worker: not at all, and in the connection.
                    trust_env=False,
                )
        return self._session

    async def close(self) -> None:
        """Close the pooled connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def send(self, call: Call, *, timeout: float | None = None, retry: bool = True) -> Answer:
        """Send a call and return its answer, whatever its status.

        :param timeout: Seconds for connecting and for each read; None means the connection's own.
        :param retry: Whether network errors and 5xx are tried again where that is safe.
        :raises DifyTransportError: No complete answer came.
        :raises DifyServerError: A 5xx came.
        """

        async def attempt() -> Answer:
            async with await self._open(call, timeout) as exchange:
                return without_server_error(await exchange.read(), call)

        return await AsyncRetrying(**retry_rules(call))(attempt) if retry else await attempt()

    async def open(self, call: Call, *, timeout: float | None = None, retry: bool = True) -> AsyncExchange:
        """Send a call and return its answer once the head has come, to be used in an ``async with`` block.

        :param timeout: Seconds for connecting and for each read; None means the connection's own.
        :param retry: Whether network errors are tried again where that is safe.
        :raises DifyTransportError: No head came, after the retries that are safe.
        """
        if not retry:
            return await self._open(call, timeout)
        return await AsyncRetrying(**retry_rules(call))(self._open, call, timeout)

    async def _open(self, call: Call, timeout: float | None) -> AsyncExchange:
        connection = self._connection
        session = await self._pooled_session()
        body = body_of(call)
        headers = request_headers(connection, call, body.content_type if body else None)
        if body is not None:
            headers["Content-Length"] = str(len(body))
        try:
            response = await session.request(
                call.method,
                URL(connection.base_url + call.target, encoded=True),
                data=_chunks_of(body) if body is not None else None,
                headers=headers,
                proxy=connection.proxy,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    sock_connect=min(timeout or connection.connect_timeout, connection.connect_timeout),
                    sock_read=timeout or connection.read_timeout,
                ),
            )
        except _FAILURES as error:
            sent = body is None or body.begun
            raise transport_error(connection, call, error, sent=sent) from error
        return AsyncExchange(connection, call, response)


async def _chunks_of(body: Body) -> AsyncIterator[bytes]:
    # A file may be on a slow disk or an object store: it is read beside the event loop.
    while chunk := await asyncio.to_thread(body.read, CHUNK_BYTES):
        yield chunk
