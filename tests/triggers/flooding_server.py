"""A server that sends as much of one thing as anybody reads: ``python flooding_server.py MODE`` prints its port."""

from __future__ import annotations

import socket
import sys
import threading
from contextlib import suppress

RUN = "6b454183-889f-4bc9-8060-764be1cb16ea"
SIZE = 30 * 1024 * 1024
HEAD = "HTTP/1.1 200 OK\r\nX-Version: 1.14.2\r\nConnection: close\r\n"
EVENTS = {
    "comments": b":\n" * 4096,
    "pings": b"event: ping\n\n" * 1024,
    "tiny events": b'data: {"event":"a"}\n\n' * 1024,
    "one long event": b"x" * 65536,
    "empty lines": b"\n" * 8192,
}
VALUES = {
    "small objects": b'{"a":1},',
    "empty lists": b"[],",
    "short texts": b'"a",',
    "one long text": b"x",
    "deep lists": b"[",
    "numbers": b"1,",
    "escapes": b"\\u0061",
}


def row(mode: str) -> bytes:
    content = VALUES[mode] * (SIZE // len(VALUES[mode]))
    if mode in ("one long text", "escapes"):
        content = b'"' + content + b'"'
    elif mode != "deep lists":
        content = b"[" + content + b"1]"
    return b'{"id": "%s", "status": "running", "data": [], "outputs": {"a": %s}}' % (RUN.encode(), content)


def answer(connection: socket.socket, mode: str) -> None:
    with suppress(OSError), connection:
        request = b""
        while b"\r\n\r\n" not in request:
            request += connection.recv(65536) or b"\r\n\r\n"
        if mode in VALUES:
            body = row(mode)
            connection.sendall(f"{HEAD}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode())
            connection.sendall(body)
        elif b"/events" in request.split(b"\r\n")[0]:
            connection.sendall(f"{HEAD}Content-Type: text/event-stream\r\n\r\n".encode())
            while True:
                connection.sendall(EVENTS[mode])
        else:
            body = b'{"id": "%s", "status": "running", "data": []}' % RUN.encode()
            connection.sendall(f"{HEAD}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode())
            connection.sendall(body)


def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=answer, args=(connection, sys.argv[1]), daemon=True).start()


if __name__ == "__main__":
    main()
