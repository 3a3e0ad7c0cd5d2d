"""What both HTTP clients share: one answer, headers, TLS, errors and the retry of one call."""

from __future__ import annotations

import errno
import os
import platform
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Generic, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from tenacity import (
    BaseRetrying,
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential_jitter,
)

from airflow_provider_dify import __version__
from airflow_provider_dify.api.errors import Answer, error_for_answer
from airflow_provider_dify.api.operations import Call
from airflow_provider_dify.api.redaction import basic_login
from airflow_provider_dify.api.values import excerpt
from airflow_provider_dify.client.bodies import TOO_LARGE, BodyDecoder, Size
from airflow_provider_dify.client.deadlines import Limit, caller_left, is_too_late, seconds_for
from airflow_provider_dify.connection import DifyConnection
from airflow_provider_dify.connection_fields import field_label
from airflow_provider_dify.exceptions import (
    DifyConfigurationError,
    DifyResponseError,
    DifyServerError,
    DifyTransportError,
)
from airflow_provider_dify.rules.diagnosis import unreachable

RETRIES = 3
FIRST_RETRY_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 10.0
RETRY_FACTOR = 2.0

# The more special ones come first.
_CAUSES: tuple[tuple[type[BaseException], str], ...] = (
    (ssl.SSLCertVerificationError, "certificate"),
    (ssl.SSLError, "tls"),
    (socket.gaierror, "name"),
    (ConnectionRefusedError, "refused"),
    (TimeoutError, "timeout"),
    (ConnectionError, "closed"),
)
_PLAIN_HTTP = frozenset(
    {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"}
)
_NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN})
_PROXY_ERRORS = frozenset({"ProxyError", "ClientProxyConnectionError", "ClientHttpProxyError"})
_CLOSED = frozenset({"IncompleteRead", "ServerDisconnectedError", "ClientPayloadError", "TransferEncodingError"})

T = TypeVar("T")
ResponseT = TypeVar("ResponseT")
SessionT = TypeVar("SessionT")

IDENTITY = "identity"
"""The Accept-Encoding of every request."""
FILE_SECONDS = 3600.0
"""Seconds that the body of one file may take, however steadily it comes."""


class Exchange(Generic[ResponseT, SessionT]):
    """One answer whose head has come and whose body is read on demand.

    :param connection: The connection, for messages and its secrets.
    :param call: What was asked.
    :param response: The HTTP client's answer.
    :param head: Its status and headers.
    :param limit: The moment by which it must have ended.
    :param own_session: What is closed with it; None where the session is shared.
    :param size: How large the answer may be.
    """

    def __init__(
        self,
        connection: DifyConnection,
        call: Call,
        response: ResponseT,
        head: tuple[int, Mapping[str, str]],
        limit: Limit,
        own_session: SessionT | None,
        size: Size,
    ) -> None:
        self._connection = connection
        self._call = call
        self._response = response
        self._limit = limit
        self._own_session = own_session
        self._size = size
        # What came in several lines is joined by commas.
        headers: dict[str, str] = {}
        for name, value in head[1].items():
            name = name.lower()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        self.head = Answer(head[0], connection.data_redactor.values(headers))
        label = self.head.headers.get("content-encoding")
        self._decoder = BodyDecoder(label) if label else None
        self._refused = self._decoder.refused if self._decoder else None

    def _compressed(self) -> DifyResponseError:
        """Return the error for an answer in codings that are not read; see ``BodyDecoder``."""
        return DifyResponseError(
            f"{self._call.what}: the answer of {self._connection.base_url} (HTTP {self.head.status}) is compressed as "
            f"{self._refused!r}, which was not requested and cannot be read.",
            advice="A gateway in front of Dify is the likely cause: let it pass answers on unchanged, or use an "
            "address behind it.",
            status_code=self.head.status,
        )

    def _without_text(self) -> Answer:
        """Return an answer that is an error with a note in place of its text, since its status says what matters."""
        return replace(self.head, body=f"its text is compressed as {self._refused!r} and is not read".encode())

    def _too_large(self, more_than: str) -> DifyResponseError:
        """Return the error for an answer that is larger than whoever asked reads."""
        return DifyResponseError(
            f"{self._call.what}: the answer of {self._connection.base_url} (HTTP {self.head.status}) has more than "
            f"{more_than}",
            status_code=self.head.status,
            code=TOO_LARGE,
        )

    def _too_many_bytes(self) -> DifyResponseError:
        return self._too_large(
            f"{self._size.most_bytes:,} bytes and was given up. Let the workflow return less, or a file."
        )


@cache
def user_agent() -> str:
    """Return the User-Agent of every request: provider, Airflow and Python version."""
    try:
        airflow = version("apache-airflow-core")
    except PackageNotFoundError:
        airflow = version("apache-airflow")
    return f"airflow-provider-dify/{__version__} apache-airflow/{airflow} python/{platform.python_version()}"


def request_headers(connection: DifyConnection, call: Call, content_type: str | None) -> dict[str, str]:
    """Return all headers of a request but its length."""
    headers = {
        **call.headers,
        "Authorization": f"Bearer {connection.api_key}",
        "User-Agent": user_agent(),
        "Accept": "text/event-stream, application/json" if call.streaming else "application/json",
        # A kilobyte of a compressed answer can stand for gigabytes. And a gateway that compresses would hold events
        # back until its buffer is full.
        "Accept-Encoding": IDENTITY,
    }
    if content_type:
        headers["Content-Type"] = content_type
    if not connection.headers:
        return headers
    own = {name.lower() for name in headers}
    return {name: value for name, value in connection.headers.items() if name.lower() not in own} | headers


def proxy_parts(connection: DifyConnection) -> tuple[str | None, str | None]:
    """Return the proxy's URL without user info, and the header that carries it."""
    if not connection.proxy:
        return None, None
    parts = urlsplit(connection.proxy)
    user, at, host = parts.netloc.rpartition("@")
    if not at:
        return connection.proxy, None
    name, _, password = user.partition(":")
    return urlunsplit(parts._replace(netloc=host)), f"Basic {basic_login(unquote(name), unquote(password))}"


def tls_context(connection: DifyConnection, bundle: bool | str) -> ssl.SSLContext:
    """Build the TLS settings of a connection.

    :param bundle: Its CA bundle.
    :raises DifyConfigurationError: A CA bundle or client certificate cannot be loaded.
    """
    field_name = "verify"
    try:
        if isinstance(bundle, str):
            folder = os.path.isdir(bundle)
            context = ssl.create_default_context(cafile=None if folder else bundle, capath=bundle if folder else None)
        else:
            import certifi

            context = ssl.create_default_context(cafile=certifi.where())
        if bundle is False:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if connection.client_cert:
            field_name = "client_cert"
            # Without a password OpenSSL would ask the terminal for that of an encrypted key.
            paths = connection.client_cert
            context.load_cert_chain(paths[0], paths[1] if len(paths) > 1 else None, password="")
    except (OSError, ValueError) as error:
        raise DifyConfigurationError(
            f"The connection's field {field_label(field_name)} names a file that cannot be loaded ({error}).",
            advice="It must hold PEM certificates that worker and triggerer can read.",
            where=f"field {field_label(field_name)}",
        ) from error
    return context


def transport_error(connection: DifyConnection, call: Call, error: BaseException, *, sent: bool) -> DifyTransportError:
    """Build the exception for a call that brought no complete answer."""
    cause, detail = _network_cause(error)
    if cause == "proxy":
        detail = f"{proxy_parts(connection)[0]}{detail}"
    detail = connection.redact(detail)
    if call.secret:
        detail = detail.replace(call.secret, "***")
    why, advice = unreachable(cause, detail, connection.base_url)
    return DifyTransportError(
        f"{call.what}: {why}{'' if sent else ' Nothing was sent.'}",
        advice=advice,
        sent=sent,
        cause=cause or "other",
        detail=detail,
    )


def _network_cause(error: BaseException) -> tuple[str | None, str]:
    """Tell what is behind an HTTP client's error, which wraps the system's own in several ways.

    What the clients say themselves is never shown: it is the dump of an object, or repeats the whole URL.
    """
    todo: list[Any] = [error]
    seen: list[BaseException] = []
    while todo:
        each = todo.pop(0)
        if not isinstance(each, BaseException) or any(each is other for other in seen):
            continue
        seen.append(each)
        todo += [each.__cause__, each.__context__, getattr(each, "reason", None), *each.args]
    # The clients' own errors have classes of their own, which are not to be imported for their names.
    names = {kind.__name__ for each in seen for kind in type(each).__mro__}
    if names & _PROXY_ERRORS and not any(isinstance(each, ssl.SSLCertVerificationError) for each in seen):
        wants_login = any(getattr(each, "status", None) == 407 or "407" in str(each) for each in seen)
        return "proxy", " (HTTP 407: it refuses user and password)" if wants_login else ""
    for kind, cause in _CAUSES:
        matching = [each for each in seen if isinstance(each, kind)]
        if matching:
            # aiohttp's wrappers are of the system's classes too, and know no details.
            texts = (getattr(each, name, None) for each in matching for name in ("verify_message", "reason"))
            return _tls_cause(cause, next((text for text in texts if isinstance(text, str) and text), ""))
    if any(isinstance(each, OSError) and each.errno in _NO_ROUTE for each in seen):
        return "unreachable", ""
    if any("Timeout" in name for name in names):
        return "timeout", ""
    if names & _CLOSED:
        return "closed", ""
    return None, _text_of_innermost(seen)


def _tls_cause(cause: str, reason: str) -> tuple[str, str]:
    if cause != "tls":
        return cause, reason
    if reason in _PLAIN_HTTP:
        return "plain_http", ""
    if "EOF" in reason:
        return "closed", ""
    return cause, reason.replace("_", " ").lower()


def _text_of_innermost(errors: list[BaseException]) -> str:
    """Return what the innermost error says, unless it is a client's dump."""
    inner = errors[-1]
    text = excerpt(str(inner), 200)
    return type(inner).__name__ if not text or " object at 0x" in text or "Pool(" in text else text


def without_server_error(answer: Answer, call: Call) -> Answer:
    """Return an answer that is not a 5xx.

    :raises DifyServerError: It is one, which the retry rules then deal with.
    """
    if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise error_for_answer(answer, call.what)
    return answer


def may_repeat(call: Call, error: BaseException) -> bool:
    """Tell whether a call may be sent again after an error.

    Network errors and 5xx, never a 4xx; a call that must not be doubled only where nothing was sent. Nor where the
    server asks for a longer pause than a call may last: who has a deadline waits for that.
    """
    if isinstance(error, DifyServerError) and (error.retry_after or 0.0) > LONGEST_PAUSE_SECONDS:
        return False
    if isinstance(error, DifyTransportError) and not error.sent:
        return True
    return call.repeatable and isinstance(error, (DifyTransportError, DifyServerError))


def retry_rules(call: Call) -> dict[str, Any]:
    """Return the arguments for tenacity: 3 retries after 1, 2 and 4 s, with jitter, or later if the server asks for it.

    None begins after the caller's deadline, and no pause goes beyond it.
    """
    backoff = wait_exponential_jitter(initial=FIRST_RETRY_SECONDS, exp_base=RETRY_FACTOR, jitter=0.5)

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, DifyServerError) else None
        pause, left = max(backoff(state), asked or 0.0), caller_left()
        return pause if left is None else max(min(pause, left), 0.0)

    def is_worth_it(error: BaseException) -> bool:
        return not is_too_late() and may_repeat(call, error)

    return {
        "retry": retry_if_exception(is_worth_it),
        "stop": stop_after_attempt(1 + RETRIES),
        "wait": wait,
        "reraise": True,
    }


def let_go(retrying: BaseRetrying) -> None:
    """Forget the steps of a call that has ended.

    They refer to themselves: without this the memory of thousands of calls waits for a garbage collection.
    """
    retrying.iter_state.reset()


def retried(call: Call, attempt: Callable[[], T]) -> T:
    """Do what sends a call, again where that is safe and helps; for a worker."""
    retrying = Retrying(**retry_rules(call))
    try:
        return retrying(attempt)
    finally:
        let_go(retrying)


def patience(connection: DifyConnection, timeout: float | None) -> tuple[float, float, float]:
    """Return the seconds to connect, those to wait for the next byte, and those for the whole exchange.

    :param timeout: The limit of the call; by default what the connection grants to connect and to read.
    """
    connect, read = connection.connect_timeout, connection.read_timeout
    if timeout is None:
        return connect, read, seconds_for(connect + read)
    return min(timeout, connect), timeout, seconds_for(timeout)
