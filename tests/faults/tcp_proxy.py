"""A TCP proxy between provider and local Dify server that breaks a submission's connection at a chosen byte."""

from __future__ import annotations

import re
import select
import socket
import ssl
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

KINDS = ("reset", "half-close", "stall")
"""Ways to break: a TCP reset; an end towards the client while its side is still read; silence on an open connection."""

REQUEST, ANSWER, PING, STARTED = "request", "answer", "ping", "workflow_started"
POINTS = (REQUEST, ANSWER, PING, STARTED)
"""When: before anything of the request is passed on; before any byte of the answer is; after the first ping; in the
middle of the event ``workflow_started``."""

_SUBMISSION = re.compile(rb"POST \S*/workflows/(\S+/)?run[ ?]")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_PING = b"event: ping\n\n"
_CHUNK = 65536


@dataclass(frozen=True)
class Cut:
    """What is done to one submission.

    :param kind: One of ``KINDS``.
    :param point: One of ``POINTS``; the last two concern streams.
    :param submission: Which connection that carries a submission it strikes, counted from 1.
    """

    kind: str
    point: str
    submission: int = 1


def deliverable(answer: bytes, point: str) -> tuple[int, bool]:
    """Return how much of an answer may be passed on so far, and whether the cut is then due.

    :param answer: All bytes that have come from the server.
    :param point: Where the cut is to be.
    """
    if point == ANSWER:
        return 0, True
    if point == PING:
        found = answer.find(_PING)
        return (len(answer), False) if found < 0 else (found + len(_PING), True)
    found = answer.find(STARTED.encode())
    start = answer.rfind(b"\n", 0, found if found >= 0 else len(answer)) + 1
    end = answer.find(b"\n", found) if found >= 0 else -1
    return (start, False) if end < 0 else (start + (end - start) // 2, True)


class TcpProxy:
    """
    Passes connections on to a local port, all but the one that is to be cut.

    The server's side of a cut connection stays open and is read to its end, so that the server has the whole request
    and never learns of the cut. Which connections carry a submission is seen by their first request: the provider
    sends it over a connection of its own.

    :param port: Where to pass connections on to, on the loopback interface.
    :param cut: What to break; nothing where left out.
    :param tls: Speak TLS with clients, with these certificates.
    """

    def __init__(self, port: int, cut: Cut | None = None, tls: ssl.SSLContext | None = None) -> None:
        self._target = port
        self._cut = cut
        self._tls = tls
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None
        self._ended = False
        self.port = 0
        self.connections = 0
        self.submissions = 0
        self.cuts = 0

    @property
    def url(self) -> str:
        """The proxy's URL without a path."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> TcpProxy:
        """Listen on a free port."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._start(self._accept, self._listener)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Break every connection and wait for all threads."""
        assert self._listener is not None
        with self._lock:
            self._ended = True
            left = list(self._open)
        for each in (self._listener, *left):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()
        self._listener.close()

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            if not self._keep(client):
                return
            self.connections += 1
            self._start(self._serve, client)

    def _keep(self, connection: socket.socket) -> bool:
        """Remember an open connection for the end; close it where the end has come."""
        with self._lock:
            if not self._ended:
                self._open.append(connection)
                return True
        connection.close()
        return False

    def _serve(self, client: socket.socket) -> None:
        # A client that does not trust the certificate, or leaves, ends its connection and nothing else.
        with suppress(OSError), client:
            client.settimeout(30)
            if self._tls is not None:
                client = self._tls.wrap_socket(client, server_side=True)
                self._keep(client)
            with client:
                request = _read_request(client)
                cut = self._cut_of(request)
                if cut is not None and cut.point == REQUEST:
                    self._break(client, cut.kind)
                    _discard(client)
                elif request:
                    self._pass_on(client, request, cut)

    def _cut_of(self, request: bytes) -> Cut | None:
        if not _SUBMISSION.match(request):
            return None
        with self._lock:
            self.submissions += 1
            struck = self._cut is not None and self._cut.submission == self.submissions
        return self._cut if struck else None

    def _pass_on(self, client: socket.socket, request: bytes, cut: Cut | None) -> None:
        with socket.create_connection(("127.0.0.1", self._target), timeout=30) as server:
            if not self._keep(server):
                return
            server.sendall(request)
            if cut is None:
                _pump(client, server)
                return
            answer, delivered, due = b"", *deliverable(b"", cut.point)
            while not due:
                chunk = server.recv(_CHUNK)
                if not chunk:
                    return
                answer += chunk
                until, due = deliverable(answer, cut.point)
                client.sendall(answer[delivered:until])
                delivered = until
            self._break(client, cut.kind)
            _discard(client, server)

    def _break(self, client: socket.socket, kind: str) -> None:
        self.cuts += 1
        if kind == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        elif kind == "half-close":
            client.shutdown(socket.SHUT_WR)


def _read_request(client: socket.socket) -> bytes:
    """Return the first request with its body; less where the client leaves before."""
    content = b""
    while True:
        head, end, body = content.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if end and len(body) >= (int(length[1]) if length else 0):
            return content
        chunk = client.recv(_CHUNK)
        if not chunk:
            return b""
        content += chunk


def _receive(source: socket.socket) -> bytes:
    """Return what has come, also what TLS holds decrypted and no ``select`` would tell."""
    content = source.recv(_CHUNK)
    while content and isinstance(source, ssl.SSLSocket) and source.pending():
        content += source.recv(_CHUNK)
    return content


def _pump(client: socket.socket, server: socket.socket) -> None:
    """Pass bytes both ways until one side ends."""
    while True:
        for source in select.select([client, server], [], [])[0]:
            content = _receive(source)
            if not content:
                return
            (server if source is client else client).sendall(content)


def _discard(*sources: socket.socket) -> None:
    """Read what still comes, until each side has ended."""
    left = [source for source in sources if source.fileno() >= 0]
    while left:
        for source in select.select(left, [], [])[0]:
            try:
                ended = not source.recv(_CHUNK)
            except OSError:
                ended = True
            if ended:
                left.remove(source)
