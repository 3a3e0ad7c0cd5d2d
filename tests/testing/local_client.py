"""A small client for tests of the local server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import requests

from airflow_provider_dify.testing.server import DifyServer

LIMIT = 20.0
"""Seconds that anything may take at most; nothing should come near it."""


def wait_for(condition: Callable[[], Any]) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, "the condition never held"
        time.sleep(0.002)


class Client:
    """Talks to one app of a server."""

    def __init__(self, server: DifyServer, app: str = "echo") -> None:
        self.server = server
        self.headers = {"Authorization": f"Bearer {server.api_key(app)}"}

    def get(self, path: str, **options: Any) -> requests.Response:
        """GET a path below /v1."""
        return requests.get(
            self.server.api_url + path,
            headers=self.headers,
            **{"timeout": LIMIT, "allow_redirects": False} | options,
        )

    def post(self, path: str, body: dict[str, Any], **options: Any) -> requests.Response:
        """POST a JSON body to a path below /v1."""
        return requests.post(
            self.server.api_url + path,
            json=body,
            headers=self.headers,
            **{"timeout": LIMIT, "allow_redirects": False} | options,
        )

    def run(self, user: str = "me", mode: str = "blocking", **inputs: Any) -> requests.Response:
        """Run the workflow and read the whole answer."""
        return self.post("/workflows/run", {"inputs": inputs, "user": user, "response_mode": mode})

    def stream(self, user: str = "me", **inputs: Any) -> Stream:
        """Open a stream."""
        body = {"inputs": inputs, "user": user, "response_mode": "streaming"}
        return Stream(self.post("/workflows/run", body, stream=True))

    def row(self, run_id: str) -> dict[str, Any]:
        """Return what GET run says."""
        body: dict[str, Any] = self.get(f"/workflows/run/{run_id}").json()
        return body

    def logged(self, user: str) -> int:
        """Return how many runs of a user the logs list."""
        total: int = self.get("/workflows/logs", params={"created_by_end_user_session_id": user}).json()["total"]
        return total


def names(text: str) -> list[str]:
    """Return the names of the events of a whole stream, pings included."""
    return [
        "ping" if block == "event: ping" else json.loads(block[6:])["event"] for block in text.split("\n\n") if block
    ]


class Stream:
    """A stream that is read event by event."""

    def __init__(self, response: requests.Response) -> None:
        self.response = response
        self._text = ""
        self._chunks = response.iter_content(None)

    def __enter__(self) -> Stream:
        """Do nothing."""
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the stream."""
        self.response.close()

    def until(self, event: str) -> dict[str, Any]:
        """Read up to an event and return it; `ping` is one too."""
        while True:
            while "\n\n" in self._text:
                block, self._text = self._text.split("\n\n", 1)
                found: dict[str, Any] = {"event": "ping"} if block == "event: ping" else json.loads(block[6:])
                if found["event"] == event:
                    return found
            data = next(self._chunks, None)
            assert data is not None, f"the stream ended without {event}"
            self._text += data.decode()
