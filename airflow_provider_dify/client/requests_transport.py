"""The worker's transport: calls over a pooled requests session."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from functools import partial

import requests
import urllib3

from airflow_provider_dify.api.errors import Answer
from airflow_provider_dify.api.operations import Call
from airflow_provider_dify.api.redaction import StreamRedaction
from airflow_provider_dify.client.bodies import CHUNK_BYTES, Size, body_of
from airflow_provider_dify.client.deadline_sockets import LimitedAdapter, socket_limit
from airflow_provider_dify.client.deadlines import Limit, seconds_for
from airflow_provider_dify.client.exchange import (
    FILE_SECONDS,
    IDENTITY,
    Exchange,
    patience,
    proxy_parts,
    request_headers,
    retried,
    tls_context,
    transport_error,
    user_agent,
    without_server_error,
)
from airflow_provider_dify.client.masking import hidden_in_http_logs
from airflow_provider_dify.connection import DifyConnection
from airflow_provider_dify.exceptions import DifyError
from airflow_provider_dify.rules.output_files import Address

# A requests response can end with any of these while its head or body is awaited.
_FAILURES = (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError)
_SIZE = Size()


class SyncExchange(Exchange[requests.Response, requests.Session], AbstractContextManager["SyncExchange"]):
    """An exchange of the worker; a context manager that ends it."""

    _is_aborted = False

    def __exit__(self, *exc_info: object) -> None:
        """Close the connection, or give it back to the pool where the body was read to its end."""
        self._response.close()
        if self._own_session is not None:
            self._own_session.close()

    def abort(self) -> None:
        """Break the connection off, also under a read in another thread, which then ends."""
        # What has come already may stand for gigabytes, and is not decompressed any more.
        self._is_aborted = True
        sock = self._socket()
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _socket(self) -> socket.socket | None:
        return getattr(getattr(self._response.raw, "connection", None), "sock", None)

    def _next(self, read: Callable[..., bytes]) -> bytes:
        """Return the next bytes of the body, decompressed; none at its end.

        :param read: A method of urllib3's answer, which reads as much as there is or waits for a whole chunk.
        :raises DifyResponseError: The body is compressed in a way that is not read.
        """
        decoder = self._decoder
        if self._refused:
            raise self._compressed()
        while not self._is_aborted:
            if decoder is None or decoder.is_hungry:
                chunk = read(CHUNK_BYTES, decode_content=False)
                if not chunk or decoder is None:
                    return chunk
                decoder.feed(chunk)
            if piece := decoder.take():
                return piece
        return b""

    def read(self) -> Answer:
        """Return the answer with its whole body, which has no secret of the connection in it.

        :raises DifyTransportError: The connection broke or fell silent, or the exchange took too long.
        :raises DifyResponseError: The body is larger than allowed, or compressed in a way that is not read.
        """
        if self._refused and not self.head.ok:
            return self._without_text()
        body = bytearray()
        failure: DifyError | None = None
        outer = socket_limit.set(self._limit)
        try:
            while chunk := self._next(self._response.raw.read):
                body += chunk
                if len(body) > self._size.most_bytes:
                    raise self._too_many_bytes()
        except _FAILURES as error:
            failure = transport_error(self._connection, self._call, error, sent=True)
        except DifyError as error:
            failure = error
        finally:
            socket_limit.reset(outer)
        # Raised outside, as in the triggerer: nothing that a client library attaches to its errors gets out.
        if failure:
            raise failure
        return replace(self.head, body=self._connection.data_redactor.bytes(bytes(body)))

    def content(self) -> Iterator[bytes]:
        """Yield the body of a file as it comes, decoded; each piece has the time of a whole answer.

        :raises DifyTransportError: The connection broke or fell silent, or the body ended before its length.
        """
        whole = Limit(seconds_for(FILE_SECONDS))
        while True:
            failure: DifyError | None = None
            outer = socket_limit.set(Limit(min(self._connection.read_timeout, whole.left())))
            try:
                chunk = self._next(self._response.raw.read)
                if not chunk and self._decoder is not None:
                    self._decoder.check_end()
            except _FAILURES as error:
                failure = transport_error(self._connection, self._call, error, sent=True)
            finally:
                socket_limit.reset(outer)
            if failure:
                raise failure
            if not chunk:
                return
            yield chunk

    def chunks(self, until: float) -> Iterator[bytes]:
        """Yield the body as it arrives, without a secret of the connection in it.

        :param until: Moment of ``time.monotonic`` at which reading ends, without an error.
        :raises DifyTransportError: The connection broke.
        """
        clean = StreamRedaction(self._connection.data_redactor)
        limit = Limit(until - time.monotonic())
        while (left := limit.left()) > 0:
            failure: DifyError | None = None
            sock = self._socket()
            outer = socket_limit.set(limit)
            try:
                if sock is not None:
                    sock.settimeout(left)
                chunk = self._next(self._response.raw.read1)
            except urllib3.exceptions.ReadTimeoutError:
                return
            except _FAILURES as error:
                failure = transport_error(self._connection, self._call, error, sent=True)
            finally:
                socket_limit.reset(outer)
            if failure:
                raise failure
            if not chunk:
                yield clean.rest()
                return
            if piece := clean.feed(chunk):
                yield piece


class _Session(requests.Session):
    """A session that leaves redirects alone."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return None: also where redirects are not followed, requests reads the whole body of one, of any size."""


class SyncTransport:
    """Sends calls from a worker. Redirects are not followed, and nothing but the connection is trusted.

    :param connection: The checked connection.
    :raises DifyConfigurationError: A CA bundle or client certificate cannot be loaded.
    """

    def __init__(self, connection: DifyConnection) -> None:
        self._connection = connection
        self._bundle = connection.ca_bundle()
        self._proxy, self._proxy_authorization = proxy_parts(connection)
        if isinstance(self._bundle, str) or connection.client_cert:
            # requests would tell of a wrong file only when it connects.
            tls_context(connection, self._bundle)
        self._session = self._new_session()

    @property
    def base_url(self) -> str:
        """The connection's base URL."""
        return self._connection.base_url

    def _new_session(self, *, foreign: bool = False) -> requests.Session:
        connection = self._connection
        session = _Session()
        # The environment's netrc would replace the Authorization header; its proxies and CA bundles are
        # part of the connection already.
        session.trust_env = False
        session.verify = self._bundle
        if connection.client_cert and not foreign:
            paths = connection.client_cert
            session.cert = (paths[0], paths[1]) if len(paths) == 2 else paths[0]
        if self._proxy:
            session.proxies = {"http": self._proxy, "https": self._proxy}
        adapter = LimitedAdapter(verified=self._bundle is not False, proxy_authorization=self._proxy_authorization)
        for scheme in ("http://", "https://"):
            session.mount(scheme, adapter)
        return session

    def close(self) -> None:
        """Close the pooled connections."""
        self._session.close()

    def send(self, call: Call, *, timeout: float | None = None, retry: bool = True) -> Answer:
        """Send a call and return its answer, whatever its status.

        :param timeout: Seconds for the whole exchange; None means the connection's time-outs together.
        :param retry: Whether network errors and 5xx are tried again where that is safe.
        :raises DifyTransportError: No complete answer came.
        :raises DifyServerError: A 5xx came.
        """
        if retry:
            return retried(call, partial(self.send, call, timeout=timeout, retry=False))
        with self.open(call, timeout=timeout, retry=False) as exchange:
            answer = exchange.read()
        return without_server_error(answer, call)

    def open(
        self,
        call: Call,
        *,
        timeout: float | None = None,
        retry: bool = True,
        before_send: Callable[[], None] | None = None,
    ) -> SyncExchange:
        """Send a call and return its answer once the head has come, to be used in a ``with`` block.

        :param timeout: Seconds for the exchange but for ``chunks``; None means the connection's time-outs together.
        :param retry: Whether network errors are tried again where that is safe.
        :param before_send: Called once a connection stands, before the body of the request leaves.
        :raises DifyTransportError: No head came, after the retries that are safe.
        """
        if retry:
            return retried(call, partial(self.open, call, timeout=timeout, retry=False, before_send=before_send))
        connection = self._connection
        # A pooled connection may have been closed by the server in the meantime, and then nobody knows
        # whether the request arrived: what must not be doubled goes over a connection of its own.
        own_session = None if call.repeatable else self._new_session()
        connect, read, whole = patience(connection, timeout)
        limit = Limit(whole)
        body = body_of(call, before_send, limit.renew)
        failure: DifyError | None = None
        hiding = hidden_in_http_logs((call.secret,)) if call.secret else nullcontext()
        outer = socket_limit.set(limit)
        try:
            with hiding:
                response = (own_session or self._session).request(
                    call.method,
                    connection.base_url + call.target,
                    data=body,
                    headers=request_headers(connection, call, body.content_type if body else None),
                    timeout=(connect, read),
                    allow_redirects=False,
                    stream=True,
                )
        except _FAILURES as error:
            # The next chunk is read only when the socket has taken the last one: what was not read to its end
            # did not leave whole.
            sent = body is None or body.handed_over
            failure = transport_error(connection, call, error, sent=sent)
        except DifyError as error:
            failure = error
        finally:
            socket_limit.reset(outer)
        if failure:
            if own_session is not None:
                own_session.close()
            raise failure
        return SyncExchange(
            connection, call, response, (response.status_code, response.headers), limit, own_session, _SIZE
        )

    def fetch(self, address: Address, call: Call) -> SyncExchange:
        """Ask for a file by its URL and return the answer once its head has come, to be used in a ``with`` block.

        The API key is not sent, since a file's URL is signed, and to a foreign host nothing that is the connection's
        own. Redirects are not followed.

        :param address: Where the file is.
        :param call: What it is, for messages.
        :raises DifyTransportError: No head came.
        """
        connection = self._connection
        session = self._new_session(foreign=not address.is_own)
        file_connection = replace(connection, base_url=address.origin)
        headers = {**(connection.headers if address.is_own else {}), "User-Agent": user_agent()}
        failure: DifyError | None = None
        connect, read, whole = patience(connection, None)
        limit = Limit(whole)
        outer = socket_limit.set(limit)
        try:
            response = session.get(
                address.url,
                headers={**headers, "Accept": "*/*", "Accept-Encoding": IDENTITY},
                timeout=(connect, read),
                allow_redirects=False,
                stream=True,
            )
        except _FAILURES as error:
            failure = transport_error(file_connection, call, error, sent=True)
        finally:
            socket_limit.reset(outer)
        if failure:
            session.close()
            raise failure
        return SyncExchange(
            file_connection, call, response, (response.status_code, response.headers), limit, session, _SIZE
        )
