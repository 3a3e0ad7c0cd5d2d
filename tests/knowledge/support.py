"""A sync as Airflow runs it, in worker and triggerer, against a local server."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_dify.operators.knowledge import DifyKnowledgeSyncOperator
from airflow_provider_dify.testing.server import DifyServer
from tests.faults.tries import Task, TaskInstance

DATASET = "handbook"


def connect(monkeypatch: Any, server: DifyServer, *, host: str | None = None, key: str | None = None) -> None:
    """Let the connection dify_knowledge lead to the server."""
    connection = {
        "conn_type": "dify",
        "host": host or server.base_url,
        "password": key or server.dataset_key,
        "extra": {"connect_timeout": 5, "read_timeout": 10},
    }
    monkeypatch.setenv("AIRFLOW_CONN_DIFY_KNOWLEDGE", json.dumps(connection))


class Sync:
    """One task that syncs a folder or rows, and its tries."""

    def __init__(self, server: DifyServer, source: Any, *, deferrable: bool = False, **parameters: Any) -> None:
        self.ti = TaskInstance()
        self.parameters: dict[str, Any] = {
            "task_id": "task",
            "source": source,
            "dataset_id": None if "dataset_name" in parameters else server.datasets[DATASET],
            "indexing_technique": "economy",
            "deferrable": deferrable,
            "defer_after": 0,
            "poll_interval": 0.05,
            "max_poll_interval": 0.2,
            "timeout": 60,
            **parameters,
        }
        self.deferrals = 0

    def operator(self) -> DifyKnowledgeSyncOperator:
        return DifyKnowledgeSyncOperator(**self.parameters)

    def run(self, **changes: Any) -> Any:
        """Run a try to its end; each part of it is another process, with an operator of its own."""
        self.parameters |= changes
        context: Any = {"ti": self.ti}
        method, arguments = "execute", {}
        while True:
            try:
                return getattr(self.operator(), method)(context, **arguments)
            except TaskDeferred as deferred:
                self.deferrals += 1
                event = asyncio.run(Task.fire(deferred.trigger))
                method, arguments = deferred.method_name, {**(deferred.kwargs or {}), "event": event}


class RecordStore:
    """Counts the requests that a server gets from now on."""

    def __init__(self, server: DifyServer) -> None:
        self._server = server
        self._before = len(server.requests)

    def counts(self) -> dict[str, int]:
        """Return how many requests there were of each kind."""
        return dict(Counter(_kind(request) for request in self._server.requests[self._before :]))

    def writes(self) -> dict[str, int]:
        """Return how many requests changed something."""
        return {kind: count for kind, count in self.counts().items() if kind in ("upload", "delete", "tag", "field")}


def _kind(request: Any) -> str:
    path, method = request.path, request.method
    if "/document/create" in path or path.endswith("update-by-text"):
        return "upload"
    if method == "DELETE":
        return "delete"
    if path.endswith("/documents/metadata"):
        return "tag"
    if path.endswith("/metadata"):
        return "field" if method == "POST" else "fields"
    if path.endswith("/documents"):
        return "list"
    return "status" if path.endswith("indexing-status") else "other"


def write(folder: Path, files: dict[str, str]) -> None:
    """Write files, by their relative paths."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def mirrors(server: DifyServer, folder: Path, *, sync_id: str = "dag.task", dataset: str = DATASET) -> bool:
    """Tell whether the documents of a sync are the files of a folder, each once and with its content."""
    own = [each for each in server.documents(dataset) if each.metadata.get("airflow_sync") == sync_id]
    found = sorted((each.metadata["airflow_source"], each.sha256) for each in own)
    files = [path for path in folder.rglob("*") if path.is_file()]
    return found == sorted((f"file://{path}", hashlib.sha256(path.read_bytes()).hexdigest()) for path in files)
