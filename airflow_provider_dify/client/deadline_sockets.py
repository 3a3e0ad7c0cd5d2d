"""Sockets whose operations end by an absolute moment, and an adapter that gives them to requests.

A time-out of requests counts from the last byte: a server that sends one now and then is never cut off. Here each
operation of a socket is granted what is left of the exchange: connecting to any of a host's addresses, the talk with a
proxy, the TLS handshake, the head, and the body.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextvars import ContextVar
from time import monotonic
from typing import Any, TypeVar

import requests
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util.connection import allowed_gai_family
from urllib3.util.ssl_ import create_urllib3_context

from airflow_provider_dify.client.deadlines import Limit

T = TypeVar("T")

socket_limit: ContextVar[Limit | None] = ContextVar("dify_socket_limit", default=None)
"""The limit by which the socket operations of this thread end."""


def _limited(operation: Callable[..., T]) -> Callable[..., T]:
    """Return a socket's operation that has what is left of the limit, where that is less than the socket's time-out."""

    def within_limit(sock: socket.socket, *args: Any) -> T:
        limit = socket_limit.get()
        if limit is None:
            return operation(sock, *args)
        own, left = sock.gettimeout(), limit.left()
        if left <= 0:
            raise TimeoutError("timed out")
        if own is not None and own <= left:
            return operation(sock, *args)
        sock.settimeout(left)
        try:
            return operation(sock, *args)
        finally:
            sock.settimeout(own)

    return within_limit


class LimitedSocket(socket.socket):
    """A plain socket under the limit."""

    connect = _limited(socket.socket.connect)
    recv = _limited(socket.socket.recv)
    recv_into = _limited(socket.socket.recv_into)
    send = _limited(socket.socket.send)
    sendall = _limited(socket.socket.sendall)


class LimitedSSLSocket(ssl.SSLSocket):
    """A socket with TLS under the limit; what it receives and sends goes through ``read`` and ``send``."""

    do_handshake = _limited(ssl.SSLSocket.do_handshake)
    read = _limited(ssl.SSLSocket.read)
    send = _limited(ssl.SSLSocket.send)


def _connected(connection: HTTPConnection) -> socket.socket:
    """Connect to the first of a host's addresses that answers; the time-out is that of all of them together."""
    seconds = connection.timeout if isinstance(connection.timeout, (int, float)) else None
    until = None if seconds is None else monotonic() + seconds
    failure: OSError = OSError("the name has no address")
    try:
        found = socket.getaddrinfo(
            connection._dns_host.strip("[]"), connection.port, allowed_gai_family(), socket.SOCK_STREAM
        )
    except (socket.gaierror, UnicodeError) as error:
        raise NameResolutionError(connection.host, connection, _as_gaierror(error)) from error
    for family, kind, protocol, _, address in found:
        sock = LimitedSocket(family, kind, protocol)
        try:
            for option in connection.socket_options or ():
                sock.setsockopt(*option)
            sock.settimeout(None if until is None else max(until - monotonic(), 0.001))
            sock.connect(address)
        except OSError as error:
            sock.close()
            failure = error
            if until is not None and until <= monotonic():
                break
        else:
            sock.settimeout(seconds)
            return sock
    if isinstance(failure, TimeoutError):
        raise ConnectTimeoutError(connection, f"Connection to {connection.host} timed out.") from failure
    raise NewConnectionError(connection, f"Failed to establish a new connection: {failure}") from failure


def _as_gaierror(error: Exception) -> socket.gaierror:
    return error if isinstance(error, socket.gaierror) else socket.gaierror(socket.EAI_NONAME, "no name of a host")


class _Connection(HTTPConnection):
    _new_conn = _connected


class _TlsConnection(HTTPSConnection):
    _new_conn = _connected


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


def _tls(*, verified: bool) -> ssl.SSLContext:
    """Return TLS settings with limited sockets; what certificates are checked against requests adds itself."""
    context = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED if verified else ssl.CERT_NONE)
    context.sslsocket_class = LimitedSSLSocket
    return context


class LimitedAdapter(requests.adapters.HTTPAdapter):
    """Connects requests by limited sockets, and authenticates at a proxy whose URL, which errors quote, has no login.

    :param verified: Whether certificates are verified.
    :param proxy_authorization: The header for a proxy that wants a login.
    """

    def __init__(self, *, verified: bool, proxy_authorization: str | None) -> None:
        self._verified = verified
        self._proxy_authorization = proxy_authorization
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools of direct connections; called by requests."""
        super().init_poolmanager(*args, ssl_context=_tls(verified=self._verified), **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """Make the pools of connections by way of a proxy; called by requests."""
        if proxy not in self.proxy_manager:
            kwargs |= {
                "ssl_context": _tls(verified=self._verified),
                "proxy_ssl_context": _tls(verified=self._verified),
            }
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
        return manager

    def proxy_headers(self, proxy: str) -> dict[str, str]:
        """Return the headers for a proxy; called by requests."""
        return {} if self._proxy_authorization is None else {"Proxy-Authorization": self._proxy_authorization}
