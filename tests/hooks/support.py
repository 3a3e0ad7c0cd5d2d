"""What the tests of everything that talks HTTP share: connections, both faces of the hook, and odd servers."""

from __future__ import annotations

import asyncio
import json
import select
import socket
import ssl
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
import tenacity

from airflow_provider_dify.exceptions import DifyError
from airflow_provider_dify.hooks.dify import DifyHook
from airflow_provider_dify.testing.server import DifyServer

KEY = "app-S3cretKeyThatNobodyMaySee"
# Of a proxy and of a gateway.
PASSWORD = "pr0xyP4ssw0rd"
TOKEN = "g4teway-t0ken"
VERSIONS = ("1.9.1", "1.11.2", "1.14.2", "1.16.1")
TIME_SCALE = 0.01

ENVIRONMENT = (
    *("DIFY_API_BASE_URL", "API_BASE_URL", "NETRC"),
    *("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing of the machine's own settings into a test."""
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def deferrals_of_any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tasks of a few seconds defer, which is what waits in the triggerer: no scheduler is there to be overtaken."""
    monkeypatch.setattr("airflow_provider_dify.rules.deferring.MIN_DEFERRED_SECONDS", 0.0)


class Face:
    """One of the hook's two faces, called the same way: ``face("get_workflow_run", id)``."""

    def __init__(self, mode: str) -> None:
        self.mode = mode

    def __call__(self, name: str, *args: Any, conn_id: str = "dify_default", **kwargs: Any) -> Any:
        if self.mode == "sync":
            hook = DifyHook(conn_id)
            try:
                return getattr(hook, name)(*args, **kwargs)
            finally:
                hook.close()

        async def call() -> Any:
            hook = DifyHook(conn_id)
            try:
                return await getattr(hook, "a" + name)(*args, **kwargs)
            finally:
                await hook.aclose()

        return asyncio.run(call())

    def stream(self, *args: Any, take: int | None = None, conn_id: str = "dify_default", **kwargs: Any) -> list[Any]:
        """Return the events of a new run, or the first of them."""
        events: list[Any] = []
        hook = DifyHook(conn_id)
        if self.mode == "sync":
            for event in hook.stream_workflow_run(*args, **kwargs):
                events.append(event)
                if len(events) == take:
                    break
            hook.close()
            return events

        async def call() -> None:
            try:
                async for event in hook.astream_workflow_run(*args, **kwargs):
                    events.append(event)
                    if len(events) == take:
                        break
            finally:
                await hook.aclose()

        asyncio.run(call())
        return events


@pytest.fixture(params=["sync", "async"])
def face(request: pytest.FixtureRequest) -> Face:
    """Give the hook as the worker, and as the triggerer uses it."""
    return Face(request.param)


Connect = Callable[..., None]


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Connect:
    """Return a function that puts a connection into the environment."""

    def put(host: str | None, key: str | None = KEY, conn_id: str = "dify_default", **fields: Any) -> None:
        content = {"conn_type": "dify", "host": host, "password": key, **fields}
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(content))

    return put


Start = Callable[..., DifyServer]


@pytest.fixture
def dify(connect: Connect) -> Iterator[Start]:
    """Return a function that starts a local Dify server and points the default connection to one of its apps."""
    servers: list[DifyServer] = []

    def start(app: str = "echo", *, extra: dict[str, Any] | None = None, **options: Any) -> DifyServer:
        server = DifyServer(**{"time_scale": TIME_SCALE, **options}).start()
        servers.append(server)
        if server.api_contract != "service-api":
            extra = {"api_contract": server.api_contract, **(extra or {})}
        connect(server.base_url, server.api_key(app), extra=extra or {})
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let the backoff of both transports pass at once, and return the seconds that it would have taken."""
    from airflow_provider_dify.client import aiohttp_transport as http_async
    from airflow_provider_dify.client import exchange

    taken: list[float] = []

    async def nap(seconds: float) -> None:
        taken.append(seconds)

    retrying, async_retrying = tenacity.Retrying, tenacity.AsyncRetrying
    monkeypatch.setattr(exchange, "Retrying", lambda **rules: retrying(sleep=taken.append, **rules))
    monkeypatch.setattr(http_async, "AsyncRetrying", lambda **rules: async_retrying(sleep=nap, **rules))
    return taken


def texts_of(error: BaseException) -> str:
    """Return everything that an exception, and what led to it, could ever print."""
    parts = ["".join(traceback.format_exception(error))]
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        each = todo.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        parts += [str(each), repr(each), repr(each.args), repr(vars(each))]
        todo += [each.__cause__, each.__context__]
    return "\n".join(parts)


def fails(kind: type[DifyError], face: Face, *args: Any, **kwargs: Any) -> DifyError:
    """Return the error that a call ends with, after a look for secrets in all that it could print."""
    with pytest.raises(kind) as caught:
        face(*args, **kwargs)
    return without_secrets(caught.value)


def poll_error(face: Face) -> DifyError:
    """Return the error of one look, after a look for secrets in all that it could print."""
    error = face("poll", RUN).error
    assert error is not None
    return without_secrets(error)


def without_secrets(error: DifyError) -> DifyError:
    """Return an error that nowhere tells a secret."""
    text = texts_of(error)
    for secret in (KEY, PASSWORD, TOKEN):
        place = text.find(secret)
        assert place < 0, f"a secret is reported: …{text[max(0, place - 300) : place + len(secret)]}"
    return error


@dataclass
class RawRequest:
    """One request as bytes, its head parsed."""

    line: str
    headers: dict[str, str]
    body: bytes = b""


@dataclass
class RawServer:
    """
    A server that answers with given bytes, one connection after the other in threads.

    :param answer: Called with the request and the socket; what it returns is sent, then the connection is closed.
    :param tls: Speak TLS with these certificates.
    """

    answer: Callable[[RawRequest, socket.socket], bytes | None]
    tls: ssl.SSLContext | None = None
    requests: list[RawRequest] = field(default_factory=list)
    port: int = 0

    @contextmanager
    def running(self) -> Iterator[RawServer]:
        """Serve meanwhile."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        ended = threading.Event()
        threading.Thread(target=self._accept, args=(listener, ended), daemon=True).start()
        try:
            yield self
        finally:
            ended.set()
            # A blocked accept() does not notice that its socket was closed; a connection wakes it.
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            listener.close()

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def _accept(self, listener: socket.socket, ended: threading.Event) -> None:
        while True:
            with suppress(OSError):
                connection, _ = listener.accept()
                if ended.is_set():
                    connection.close()
                    return
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
                continue
            return

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError, ssl.SSLError), connection:
            connection.settimeout(20)
            wrapped = self.tls.wrap_socket(connection, server_side=True) if self.tls else connection
            with wrapped:
                request = read_request(wrapped)
                if request is None:
                    return
                self.requests.append(request)
                content = self.answer(request, wrapped)
                if content:
                    wrapped.sendall(content)
                with suppress(OSError):
                    wrapped.shutdown(socket.SHUT_WR)


def read_request(connection: socket.socket) -> RawRequest | None:
    """Read one request with its body."""
    content = b""
    while b"\r\n\r\n" not in content:
        chunk = connection.recv(65536)
        if not chunk:
            return None
        content += chunk
    head, _, body = content.partition(b"\r\n\r\n")
    line, *rest = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in rest)}
    length = int(headers.get("content-length", 0))
    while len(body) < length:
        chunk = connection.recv(65536)
        if not chunk:
            break
        body += chunk
    return RawRequest(line, headers, body)


def http(status: int, body: bytes | str | dict[str, Any], **headers: str) -> bytes:
    """Return an answer as bytes."""
    kind = "application/json"
    if isinstance(body, dict):
        body = json.dumps(body)
    content = body.encode() if isinstance(body, str) else body
    lines = {"Content-Type": kind, "Content-Length": str(len(content)), "Connection": "close"}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} Text\r\n{head}\r\n".encode() + content


RUN = "6b454183-889f-4bc9-8060-764be1cb16ea"
ROW = {"id": RUN, "status": "succeeded", "outputs": {"text": "x"}}
# Good as an answer to a blocking submission and to a look.
ANSWER = {**ROW, "workflow_run_id": RUN, "task_id": "task", "data": ROW}
INFO = http(200, {"name": "raw", "mode": "workflow"})


def sse_head(version: str = "1.14.2") -> bytes:
    """Return the head of a stream that ends with its connection."""
    lines = ["HTTP/1.1 200 OK", "Content-Type: text/event-stream", f"X-Version: {version}", "Connection: close"]
    return "\r\n".join([*lines, "", ""]).encode()


class Proxy(RawServer):
    """An HTTP proxy: forwards plain requests and tunnels with CONNECT."""

    def __init__(self, authorization: str | None = None) -> None:
        super().__init__(self._forward)
        self._authorization = authorization

    def _forward(self, request: RawRequest, client: socket.socket) -> bytes | None:
        if self._authorization and request.headers.get("proxy-authorization") != self._authorization:
            return http(407, "no", Proxy_Authenticate="Basic realm=proxy")
        method, target, _ = request.line.split(" ")
        if method == "CONNECT":
            host, _, port = target.partition(":")
            with socket.create_connection((host, int(port)), timeout=10) as server:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                _pump(client, server)
            return None
        parts = urlsplit(target)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        passed = {name: value for name, value in request.headers.items() if not name.startswith("proxy-")}
        passed["connection"] = "close"
        head = "".join(f"{name}: {value}\r\n" for name, value in passed.items())
        with socket.create_connection((str(parts.hostname), int(parts.port or 80)), timeout=10) as server:
            server.sendall(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + request.body)
            while chunk := server.recv(65536):
                client.sendall(chunk)
        return None


def _pump(one: socket.socket, other: socket.socket) -> None:
    while True:
        readable, _, _ = select.select([one, other], [], [], 10)
        if not readable:
            return
        for source in readable:
            chunk = source.recv(65536)
            if not chunk:
                return
            (other if source is one else one).sendall(chunk)


Serve = Callable[..., RawServer]


@contextmanager
def serving() -> Iterator[Serve]:
    """Give a function that starts a proxy, or a server of one answer or of computed ones."""
    with ExitStack() as stack:

        def start(answer: Any = None, tls: ssl.SSLContext | None = None) -> RawServer:
            if isinstance(answer, RawServer):
                return stack.enter_context(answer.running())
            content = http(200, ANSWER) if answer is None else answer
            respond = content if callable(content) else lambda request, connection: content
            return stack.enter_context(RawServer(respond, tls).running())

        yield start
