"""
One server for the triggers of four providers, each in its own dialect; what waiting costs is measured against it.

    python -m benchmarks.stub

Prints its port. Speaks just enough HTTP, by hand, to be no part of what is measured. `POST /control/runs` takes the
runs of one measurement, `GET /control/stats` tells what they have cost the server so far.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

DIFY_BASE = uuid.UUID("6b454183-0000-4000-8000-000000000000").int


def dify_id(index: int) -> str:
    return str(uuid.UUID(int=DIFY_BASE + index))


class Book:
    """The runs of one measurement, and the requests and connections that were seen since."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.created = 0
        self.rows: list[tuple[bytes, bytes]] = []
        self.requests = self.connections = 0

    def begin(self, ends: list[float]) -> None:
        self.ends, self.created = ends, int(time.time())
        self.rows = [(self._row(index, "running"), self._row(index, "succeeded")) for index in range(len(ends))]
        self.requests = self.connections = 0

    def has_ended(self, index: int) -> bool:
        return time.time() >= self.ends[index]

    def _row(self, index: int, status: str) -> bytes:
        ended = status != "running"
        run = {
            "id": dify_id(index),
            "version": "2026-11-23 02:41:35.364115",
            "status": status,
            "triggered_from": "app-run",
            "error": None,
            "elapsed_time": 12.345678 if ended else 0.0,
            "total_tokens": 0,
            "total_steps": 3 if ended else 0,
            "created_at": self.created,
            "finished_at": self.created + 12 if ended else None,
            "exceptions_count": 0,
        }
        end_user = {"id": str(uuid.uuid4()), "type": "service-api", "is_anonymous": False, "session_id": f"run-{index}"}
        row = {
            "id": str(uuid.uuid4()),
            "workflow_run": run,
            "details": None,
            "created_from": "service-api",
            "created_by_role": "end_user",
            "created_by_account": None,
            "created_by_end_user": end_user,
            "created_at": self.created,
        }
        return json.dumps(row).encode()

    def answer(self, target: str, body: bytes) -> tuple[int, bytes]:
        parts = urlsplit(target)
        path = parts.path
        if path == "/control/runs":
            self.begin(json.loads(body))
            return 200, b"{}"
        if path == "/control/stats":
            return 200, json.dumps({"requests": self.requests, "connections": self.connections}).encode()
        self.requests += 1
        if path == "/v1/workflows/logs":
            return 200, self._page(parse_qs(parts.query))
        if path.startswith("/v1/workflows/run/"):
            return 200, self._dify_run(path.rpartition("/")[2])
        if path == "/api/2.2/jobs/runs/get":
            return 200, self._databricks_run(json.loads(body)["run_id"])
        if path.startswith("/api/v2/accounts/"):
            return 200, self._dbt_run(int(path.split("/")[6]))
        if path.startswith("/http/"):
            return (200, b"{}") if self.has_ended(int(path.rpartition("/")[2])) else (404, b"{}")
        return 404, b"{}"

    def _page(self, query: dict[str, list[str]]) -> bytes:
        number, limit = int(query["page"][0]), int(query["limit"][0])
        after = datetime.fromisoformat(query["created_at__after"][0]).timestamp()
        total = len(self.ends) if self.created >= after else 0
        last = max(total - (number - 1) * limit, 0)
        rows = [self.rows[index][self.has_ended(index)] for index in range(last - 1, max(last - limit, 0) - 1, -1)]
        more = b"true" if total > number * limit else b"false"
        return b'{"page": %d, "limit": %d, "total": %d, "has_more": %s, "data": [%s]}' % (
            *(number, limit, total, more),
            b", ".join(rows),
        )

    def _dify_run(self, run_id: str) -> bytes:
        index = uuid.UUID(run_id).int - DIFY_BASE
        ended = self.has_ended(index)
        run = {
            "id": run_id,
            "workflow_id": dify_id(10**6),
            "status": "succeeded" if ended else "running",
            "inputs": json.dumps({"text": "x" * 200, "sys.user_id": f"run-{index}", "sys.app_id": dify_id(10**6 + 1)}),
            "outputs": {"text": "x" * 200} if ended else {},
            "error": None,
            "total_steps": 3 if ended else 0,
            "total_tokens": 0,
            "created_at": self.created,
            "finished_at": self.created + 12 if ended else None,
            "elapsed_time": 12.345678 if ended else 0.0,
        }
        return json.dumps(run).encode()

    def _databricks_run(self, run_id: int) -> bytes:
        life = "TERMINATED" if self.has_ended(run_id) else "RUNNING"
        state = {"life_cycle_state": life, "state_message": "", "user_cancelled_or_timedout": False}
        if life == "TERMINATED":
            state["result_state"] = "SUCCESS"
        run = {"job_id": 1, "run_id": run_id, "run_page_url": "http://x", "state": state, "tasks": []}
        return json.dumps(run | {"start_time": 1, "setup_duration": 0, "creator_user_name": "x" * 200}).encode()

    def _dbt_run(self, run_id: int) -> bytes:
        status = 10 if self.has_ended(run_id) else 3
        run = {"id": run_id, "status": status, "is_complete": status == 10, "href": "http://x", "git_sha": "x" * 200}
        return json.dumps({"data": run, "status": {"code": 200, "is_success": True}}).encode()


class Connection(asyncio.Protocol):
    """One connection: requests in a row, answered at once."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._received = b""
        self._is_counted = False
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:end]
            length, at = 0, head.lower().find(b"content-length:")
            if at >= 0:
                length = int(head[at + 15 :].split(b"\r\n", 1)[0])
            if len(self._received) < end + 4 + length:
                return
            body, self._received = self._received[end + 4 : end + 4 + length], self._received[end + 4 + length :]
            target = head.split(b" ", 2)[1].decode()
            if not self._is_counted and not target.startswith("/control/"):
                self._is_counted = True
                self._book.connections += 1
            status, content = self._book.answer(target, body)
            self._transport.write(
                b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nX-Version: 1.14.2\r\nContent-Length: %d\r\n\r\n%s"
                % (status, len(content), content)
            )


async def serve() -> None:
    book = Book()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(book), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
