"""The `workflow-runs` contract of the local server."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.server import DifyServer
from airflow_provider_dify.testing.workflows import Workflow
from tests.testing.local_client import LIMIT, names, wait_for


class Contract:
    """Talks to one app by the contract."""

    def __init__(self, server: DifyServer, app: str = "echo", prefix: str = "/v1") -> None:
        self.base = server.base_url + prefix
        self.workflow_id = server.app(app).workflow_id
        self.headers = {"Authorization": f"Bearer {server.api_key(app)}"}

    def submit(self, workflow_id: str | None = None, user: str = "me", **body: Any) -> requests.Response:
        """Submit a run."""
        url = f"{self.base}/workflows/{workflow_id or self.workflow_id}/run"
        content = {"inputs": {}, "user": user, "response_mode": "blocking", **body}
        return requests.post(url, json=content, headers=self.headers, timeout=LIMIT)

    def look(self, run_id: str) -> requests.Response:
        """Poll at a run."""
        return requests.get(f"{self.base}/workflow-runs/{run_id}", headers=self.headers, timeout=LIMIT)


@pytest.fixture
def server() -> Iterator[DifyServer]:
    """Return a server of that contract."""
    with DifyServer(api_contract="workflow-runs", time_scale=0.02) as server:
        yield server


@pytest.mark.parametrize("prefix", ["/v1", "/api", "/api/v1"])
def test_submits_and_polls(server: DifyServer, prefix: str) -> None:
    """Queued at once, then running, then ended; ids are opaque."""
    contract = Contract(server, "slow", prefix)
    answer = contract.submit(inputs={"seconds": 10})
    submitted = answer.json()
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
    assert submitted.keys() == {"task_id", "workflow_run_id", "status", "created_at"}
    assert submitted["status"] == "queued"
    assert submitted["task_id"].startswith("task-")
    assert submitted["workflow_run_id"].startswith("run-")
    assert isinstance(submitted["created_at"], int)
    run_id = submitted["workflow_run_id"]
    wait_for(lambda: contract.look(run_id).json()["status"] == "running")
    wait_for(lambda: contract.look(run_id).json()["status"] == "succeeded")
    ended = contract.look(run_id).json()
    assert ended["outputs"] == {"body": "slept 10 s"}
    assert ended["error"] is None
    assert len(server.runs_of("me")) == 1


def test_tells_failures(server: DifyServer) -> None:
    """With Dify's error text."""
    contract = Contract(server, "failing")
    run_id = contract.submit().json()["workflow_run_id"]
    wait_for(lambda: contract.look(run_id).json()["status"] == "failed")
    assert contract.look(run_id).json()["error"] == "[Errno 111] Connection refused"


def test_takes_the_apps_name_for_its_id(server: DifyServer) -> None:
    """For readable routes."""
    assert Contract(server).submit("echo").status_code == 200


def test_refuses(server: DifyServer) -> None:
    """400, 401, 404, 429 as `{code, message, status}`."""
    contract = Contract(server, "limited")
    wrong_key = Contract(server)
    wrong_key.headers = {"Authorization": "Bearer app-nope"}
    refusals = [
        (contract.submit(inputs={"seconds": "soon"}), 400, "invalid_param"),
        (contract.submit(inputs=[]), 400, "invalid_param"),
        (contract.submit(response_mode="later"), 400, "invalid_param"),
        (wrong_key.submit(), 401, "unauthorized"),
        (contract.submit("echo"), 404, "not_found"),
        (contract.look("run-nope"), 404, "not_found"),
    ]
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda _: contract.submit(inputs={"seconds": 60}), range(3)))
    refusals.append((contract.submit(inputs={"seconds": 0}), 429, "too_many_requests"))
    for answer, status, code in refusals:
        assert answer.status_code == status, answer.text
        assert answer.json().keys() == {"code", "message", "status"}
        assert (answer.json()["code"], answer.json()["status"]) == (code, status)


def test_another_apps_run_is_unknown(server: DifyServer) -> None:
    """A key sees its own app's runs."""
    run_id = Contract(server).submit().json()["workflow_run_id"]
    assert Contract(server, "slow").look(run_id).status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/workflows/logs"),
        ("GET", "/v1/info"),
        ("POST", "/v1/files/upload"),
        ("POST", "/v1/workflows/tasks/task-1/stop"),
        ("POST", "/v1/workflows/run"),
    ],
)
def test_has_no_other_route(server: DifyServer, method: str, path: str) -> None:
    """No stop, logs, upload, info."""
    headers = Contract(server).headers
    assert requests.request(method, server.base_url + path, headers=headers, timeout=LIMIT).status_code == 404


def test_streaming_is_json_unless_wanted(server: DifyServer) -> None:
    """Decided by content type."""
    answer = Contract(server).submit(response_mode="streaming", inputs={"text": "x"})
    assert answer.json()["status"] == "queued"
    with DifyServer(api_contract="workflow-runs", async_streaming=True) as other:
        answer = Contract(other).submit(response_mode="streaming", inputs={"text": "x"})
        assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        found = names(answer.text)
        assert (found[0], found[-1]) == ("workflow_started", "workflow_finished")


def test_crashes_of_the_graph_are_400(server: DifyServer) -> None:
    """A graph that cannot be built."""
    broken = Workflow("broken", graph_error="no such node")
    with DifyServer([broken], api_contract="workflow-runs") as other:
        assert Contract(other, "broken").submit().json()["message"] == "no such node"


def test_faults_happen_here_too(server: DifyServer) -> None:
    """Accepted, and the answer lost; refused; stale."""
    contract = Contract(server)
    server.inject(Fault("submit", "accept_then_reset"))
    with pytest.raises(requests.ConnectionError):
        contract.submit(user="lost", inputs={"text": "x"})
    wait_for(lambda: [run.status for run in server.runs_of("lost")] == ["succeeded"])
    server.inject(Fault("submit", "too_many_requests", status=429))
    assert contract.submit(user="refused").status_code == 429
    assert server.runs_of("refused") == []
    server.inject(Fault("get_run", "stale_row", seconds=0.3))
    run_id = contract.submit(user="stale").json()["workflow_run_id"]
    wait_for(lambda: server.runs_of("stale")[0].status == "succeeded")
    assert contract.look(run_id).json()["status"] == "running"
    wait_for(lambda: contract.look(run_id).json()["status"] == "succeeded")
