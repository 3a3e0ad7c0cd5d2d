"""A local server for one scenario, and a client that asks it what was asked when the recordings were made."""

from __future__ import annotations

import contextlib
import copy
import json
import re
import socket
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import pytest
import requests

from airflow_provider_dify.testing.server import DifyServer
from tests.contract.server_apps import workflows
from tests.contract.server_compare import Exchange, load, recorded_blocks

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
LIMIT = 20.0
"""Seconds that anything may take at most; nothing should come near it."""


class Lab:
    """One server with the recorded apps, and the exchanges with it, by the recordings' names."""

    def __init__(self, version: str, *, limit: int = 1, human_end: str = "end_ok", **options: Any) -> None:
        self.version = version
        self.server = DifyServer(workflows(version, limit, human_end), emulate=version.partition("-")[0], **options)
        self.exchanges: dict[str, Exchange] = {}
        self._threads = ThreadPoolExecutor(max_workers=24)

    def __enter__(self) -> Lab:
        """Start."""
        self.server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.server.stop()
        self._threads.shutdown()

    def replay(
        self,
        name: str,
        uid: str | None = None,
        *,
        reader: Callable[[Exchange], bool] | None = None,
        patience: float | None = None,
        change: Callable[[dict[str, Any]], None] | None = None,
    ) -> Exchange:
        """Send a recorded request and keep its exchange under that name.

        :param uid: replaces the id in the path.
        :param reader: called after each block of a stream; True makes the client leave.
        :param patience: seconds without data after which the client leaves a stream.
        :param change: changes the recorded request before it is sent.
        """
        request = json.loads(json.dumps(load(self.version, name)["request"]))
        if change:
            change(request)
        if uid is not None:
            request["path"] = _UUID.sub(uid, request["path"])
        exchange = Exchange()
        self.exchanges[name] = exchange
        self._send(request, load(self.version, name)["app"], exchange, reader, patience)
        return exchange

    def later(self, *args: Any, **options: Any) -> Future[Exchange]:
        """Replay in a thread."""
        return self._threads.submit(self.replay, *args, **options)

    def replay_as_recorded(self, name: str, uid: str | None = None, **options: Any) -> Exchange:
        """Replay a stream, and leave it after as many blocks as the recorded client read."""
        blocks = recorded_blocks(load(self.version, name))
        wanted = [block for block in blocks if block != "event: ping"]

        def reader(exchange: Exchange) -> bool:
            return len(exchange.blocks) >= len(blocks) and len(exchange.events()) >= len(wanted)

        return self.replay(name, uid, reader=reader, **options)

    def abandon(self, name: str, wait: float = 0.0) -> Exchange:
        """Send a recorded request and close the connection without reading, `wait` seconds later."""
        user = str(load(self.version, name)["request"]["json"]["user"])
        with socket.create_connection((self.server.host, self.server.port)) as connection:
            connection.sendall(self._request_bytes(name))
            self.wait_for(lambda: self.server.runs_of(user))
            time.sleep(wait)
        exchange = self.exchanges[name] = Exchange(closed="client")
        return exchange

    def _request_bytes(self, name: str) -> bytes:
        recording = load(self.version, name)
        request = recording["request"]
        body = json.dumps(request["json"]).encode()
        head = (
            f"{request['method']} {request['path']} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Authorization: Bearer {self.server.api_key(recording['app'])}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def copy_row(self, run_id: str, times: int) -> None:
        """Add rows that are like that of a run but for their ids: a log of many rows without as many runs."""

        def add() -> None:
            runs = self.server._service.engine.runs
            for _ in range(times):
                row = copy.copy(runs[run_id])
                row.id, row.log_id = str(uuid.uuid4()), str(uuid.uuid4())
                runs[row.id] = row

        self.server._call(add)

    def leave(self, app: str, body: dict[str, Any]) -> None:
        """Send a request that is no recording, and leave as soon as the head of its answer has come."""
        headers = {"Authorization": f"Bearer {self.server.api_key(app)}"}
        url = f"{self.server.api_url}/workflows/run"
        requests.post(url, json=body, headers=headers, timeout=LIMIT, stream=True).close()

    def ask_in_vain(self, name: str, seconds: float) -> Exchange:
        """Send a recorded request whose client left before anything was answered, and leave as it did."""
        with socket.create_connection((self.server.host, self.server.port)) as connection:
            connection.settimeout(seconds)
            connection.sendall(self._request_bytes(name))
            with pytest.raises(TimeoutError):
                connection.recv(1)
        exchange = self.exchanges[name] = Exchange(closed="client")
        return exchange

    def post(self, app: str, body: dict[str, Any], *, path: str = "/workflows/run") -> requests.Response:
        """Send a request that is no recording, and read its answer."""
        headers = {"Authorization": f"Bearer {self.server.api_key(app)}"}
        return requests.post(self.server.api_url + path, json=body, headers=headers, timeout=LIMIT)

    def later_post(self, app: str, body: dict[str, Any]) -> None:
        """Send a request that is no recording in a thread, and read its answer there."""
        self._threads.submit(self._post_quietly, app, body)

    def later_stream(self, app: str, body: dict[str, Any]) -> None:
        """Stream a run that is no recording in a thread, and read it to its end there."""
        self.later_post(app, body | {"response_mode": "streaming"})

    def _post_quietly(self, app: str, body: dict[str, Any]) -> None:
        with contextlib.suppress(requests.RequestException):
            self.post(app, body)

    def wait_for(self, condition: Callable[[], Any]) -> None:
        """Wait until a condition holds."""
        end = time.monotonic() + LIMIT
        while not condition():
            assert time.monotonic() < end, "the condition never held"
            time.sleep(0.002)

    def wait_for_status(self, user: str, *statuses: str) -> None:
        """Wait until every run of a user has truly come to one of these statuses."""

        def reached() -> bool:
            runs = self.server.runs_of(user)
            return bool(runs) and all(run.status in statuses for run in runs)

        self.wait_for(reached)

    def _send(
        self,
        request: dict[str, Any],
        app: str | None,
        exchange: Exchange,
        reader: Callable[[Exchange], bool] | None,
        patience: float | None,
    ) -> None:
        headers = {name: value for name, value in request["headers"].items() if name.lower() != "content-length"}
        if "REDACTED" in headers.get("Authorization", ""):
            scheme = headers["Authorization"].split(" ")[0]
            headers["Authorization"] = f"{scheme} {self.server.api_key(app or 'echo')}"
        content = json.dumps(request["json"]) if "json" in request else request.get("body")
        try:
            response = requests.request(
                request["method"],
                self.server.base_url + request["path"],
                params=request["query"],
                headers={"Accept": "*/*", **headers},
                data=content.encode() if content is not None else None,
                stream=True,
                allow_redirects=False,
                timeout=(LIMIT, patience or LIMIT),
            )
        except requests.ConnectionError:
            exchange.closed = "broken"
            return
        exchange.status = response.status_code
        exchange.headers = {name.lower(): value for name, value in response.headers.items()}
        with response:
            if "event-stream" in exchange.headers.get("content-type", ""):
                _read_stream(response, exchange, reader)
            else:
                exchange.body = response.content.decode()


def _read_stream(response: requests.Response, exchange: Exchange, reader: Callable[[Exchange], bool] | None) -> None:
    text = ""
    try:
        for data in response.iter_content(None):
            text += data.decode()
            while "\n\n" in text:
                block, text = text.split("\n\n", 1)
                exchange.blocks.append(block)
                if reader and reader(exchange):
                    exchange.closed = "client"
                    return
    except requests.exceptions.ChunkedEncodingError:
        exchange.closed = "broken"
    except requests.ConnectionError as error:
        exchange.closed = "client" if "timed out" in str(error).lower() else "broken"
