"""The triggerer's transport: calls over a pooled aiohttp session."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from typing import TypeVar

import aiohttp
from tenacity import AsyncRetrying
from yarl import URL

from airflow_provider_dify.api.errors import Answer
from airflow_provider_dify.api.operations import Call
from airflow_provider_dify.api.redaction import StreamRedaction
from airflow_provider_dify.client.bodies import CHUNK_BYTES, Body, Size, body_of
from airflow_provider_dify.client.deadlines import Limit, limited, within
from airflow_provider_dify.client.exchange import (
    Exchange,
    let_go,
    patience,
    proxy_parts,
    request_headers,
    retry_rules,
    tls_context,
    transport_error,
    without_server_error,
)
from airflow_provider_dify.connection import DifyConnection
from airflow_provider_dify.exceptions import DifyError

# An aiohttp response can end with any of these while its head or body is awaited.
_FAILURES = (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError)
# What is searched for secrets, and for events, without a thread and without a turn for others.
_AT_ONCE_BYTES = 64 * 1024
_TURN_BYTES = 8 * 1024

T = TypeVar("T")


class AsyncExchange(
    Exchange[aiohttp.ClientResponse, aiohttp.ClientSession], AbstractAsyncContextManager["AsyncExchange"]
):
    """An exchange of the triggerer; an async context manager that ends it."""

    async def __aexit__(self, *exc_info: object) -> None:
        """Close the connection, or give it back to the pool where the body was read to its end."""
        self._response.close()
        if self._own_session is not None:
            await self._own_session.close()

    async def _next(self) -> bytes:
        """Return the next bytes of the body, decompressed; none at its end.

        :raises DifyResponseError: The body is compressed in a way that is not read.
        """
        decoder = self._decoder
        if self._refused:
            raise self._compressed()
        if decoder is None:
            return await self._response.content.readany()
        while True:
            if decoder.is_hungry:
                chunk = await self._response.content.readany()
                if not chunk:
                    return b""
                decoder.feed(chunk)
            else:
                # Others have their turn between two pieces, before this one is taken: a cancel loses nothing.
                await asyncio.sleep(0)
            if piece := decoder.take():
                return piece

    async def read(self) -> Answer:
        """Return the answer with its whole body, which has no secret of the connection in it.

        :raises DifyTransportError: The connection broke or fell silent, or the exchange took too long.
        :raises DifyResponseError: The body is larger than allowed, or compressed in a way that is not read.
        """
        if self._refused and not self.head.ok:
            return self._without_text()
        failure: DifyError | None = None
        try:
            body = await limited(self._read(), self._limit.left())
        except _FAILURES as error:
            failure = transport_error(self._connection, self._call, error, sent=True)
        except DifyError as error:
            failure = error
        # Raised outside: aiohttp's own errors carry the request's headers, and the proxy's password.
        if failure:
            raise failure
        redactor = self._connection.data_redactor
        at_once = len(body) <= _AT_ONCE_BYTES
        return replace(
            self.head, body=redactor.bytes(body) if at_once else await asyncio.to_thread(redactor.bytes, body)
        )

    async def _read(self) -> bytes:
        body = bytearray()
        while chunk := await self._next():
            body += chunk
            if len(body) > self._size.most_bytes:
                raise self._too_many_bytes()
        most = self._size.most_containers
        if most is not None and body.count(b"[") + body.count(b"{") > most:
            raise self._too_large(f"{most:,} objects and lists.")
        return bytes(body)

    async def chunks(self, until: float) -> AsyncIterator[bytes]:
        """Yield the body as it arrives, without a secret of the connection in it.

        :param until: Moment of the event loop's clock at which reading ends, without an error.
        :raises DifyTransportError: The connection broke.
        """
        loop = asyncio.get_running_loop()
        clean = StreamRedaction(self._connection.data_redactor)
        while (left := until - loop.time()) > 0:
            failure: DifyError | None = None
            try:
                chunk = await limited(self._next(), left)
            except asyncio.TimeoutError:
                return
            except _FAILURES as error:
                failure = transport_error(self._connection, self._call, error, sent=True)
            if failure:
                raise failure
            if not chunk:
                yield clean.rest()
                return
            for begin in range(0, len(chunk), _TURN_BYTES):
                if piece := clean.feed(chunk[begin : begin + _TURN_BYTES]):
                    yield piece
                if len(chunk) > _TURN_BYTES:
                    # Others have their turn: there may be thousands of events in what has come.
                    await asyncio.sleep(0)


class AsyncTransport:
    """Sends calls from the triggerer. Redirects are not followed, and nothing but the connection is trusted.

    :param connection: The checked connection.
    :param size: How large an answer may be.
    """

    def __init__(self, connection: DifyConnection, size: Size | None = None) -> None:
        self._connection = connection
        self._size = size or Size()
        self._session: aiohttp.ClientSession | None = None
        self._session_lock = asyncio.Lock()
        self._tls: ssl.SSLContext | None = None
        self._proxy, self._proxy_authorization = proxy_parts(connection)

    async def _pooled_session(self) -> aiohttp.ClientSession:
        async with self._session_lock:
            if self._session is None:
                # Reading certificates is file access, which the event loop must not wait for.
                self._tls = await asyncio.to_thread(tls_context, self._connection, self._connection.ca_bundle())
                self._session = self._new_session()
        return self._session

    def _new_session(self) -> aiohttp.ClientSession:
        session = aiohttp.ClientSession(
            # Without a limit of its own, so that waiting for a turn does not count as connecting.
            connector=aiohttp.TCPConnector(ssl=self._tls if self._tls is not None else True, limit=0),
            # Its netrc and proxies are dealt with as in the worker: not at all, and in the connection.
            trust_env=False,
            auto_decompress=False,
            max_line_size=65536,
            max_field_size=65536,
        )
        # aiohttp would send a GET a second time by itself where a connection breaks; it has no option for that.
        session._retry_connection = False
        return session

    async def close(self) -> None:
        """Close the pooled connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def send(self, call: Call, *, timeout: float | None = None, retry: bool = True) -> Answer:
        """Send a call and return its answer, whatever its status.

        :param timeout: Seconds for the whole exchange; None means the connection's time-outs together.
        :param retry: Whether network errors and 5xx are tried again where that is safe.
        :raises DifyTransportError: No complete answer came.
        :raises DifyServerError: A 5xx came.
        """
        if retry:
            return await _retried(call, partial(self.send, call, timeout=timeout, retry=False))
        async with await self.open(call, timeout=timeout, retry=False) as exchange:
            answer = await exchange.read()
        return without_server_error(answer, call)

    async def open(
        self,
        call: Call,
        *,
        timeout: float | None = None,
        retry: bool = True,
        before_send: Callable[[], None] | None = None,
    ) -> AsyncExchange:
        """Send a call and return its answer once the head has come, to be used in an ``async with`` block.

        :param timeout: Seconds for the exchange but for ``chunks``; None means the connection's time-outs together.
        :param retry: Whether network errors are tried again where that is safe.
        :param before_send: Called once a connection stands, before the body of the request leaves; in a thread.
        :raises DifyTransportError: No head came, after the retries that are safe.
        """
        if retry:
            again = partial(self.open, call, timeout=timeout, retry=False, before_send=before_send)
            return await _retried(call, again)
        connection = self._connection
        session = await self._pooled_session()
        # A pooled connection may be closing at this very moment, and a submission cannot be sent again.
        own_session = None if call.repeatable else self._new_session()
        session = own_session or session
        authorization, tunnel = self._proxy_authorization, connection.base_url.startswith("https:")
        failure: DifyError | None = None
        connect, read, whole = patience(connection, timeout)
        loop = asyncio.get_running_loop()
        limit = Limit(whole, loop.time)
        # A file is read in a thread.
        body = body_of(call, before_send, partial(loop.call_soon_threadsafe, limit.renew))
        headers = request_headers(connection, call, body.content_type if body else None)
        if body is not None:
            headers["Content-Length"] = str(len(body))
        if authorization and not tunnel:
            headers["Proxy-Authorization"] = authorization
        try:
            request = session.request(
                call.method,
                URL(connection.base_url + call.target, encoded=True),
                data=_chunks_of(body) if body is not None else None,
                headers=headers,
                proxy=self._proxy,
                proxy_headers={"Proxy-Authorization": authorization} if authorization and tunnel else None,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    connect=connect,
                    sock_connect=connect,
                    sock_read=read,
                ),
            )
            response = await within(request, limit, aiohttp.ClientResponse.close)
        except _FAILURES as error:
            sent = body is None or body.begun
            failure = transport_error(connection, call, error, sent=sent)
        except DifyError as error:
            failure = error
        if failure:
            if own_session is not None:
                await own_session.close()
            raise failure
        return AsyncExchange(
            connection, call, response, (response.status, response.headers), limit, own_session, self._size
        )


async def _retried(call: Call, attempt: Callable[[], Awaitable[T]]) -> T:
    """Do what sends a call, again where that is safe and helps."""
    retrying = AsyncRetrying(**retry_rules(call))
    try:
        return await retrying(attempt)
    finally:
        let_go(retrying)


async def _chunks_of(body: Body) -> AsyncIterator[bytes]:
    # A file may be on a slow disk or an object store: it is read beside the event loop.
    while chunk := await asyncio.to_thread(body.read, CHUNK_BYTES):
        yield chunk
