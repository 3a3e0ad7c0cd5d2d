"""Run a workflow for each document of a folder or bucket, in one task.

A function yields the rows; the file of each is uploaded right before its run is submitted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from airflow.providers.common.compat.sdk import DAG, ObjectStoragePath, task

STORE = os.environ.get("DIFY_EXAMPLE_STORE", "file:///tmp/dify-example")

with DAG(
    dag_id="dify_batch_documents",
    start_date=datetime(2026, 1, 1),
    schedule=None,
    catchup=False,
    default_args={"retries": 2},
    tags=["dify"],
    doc_md=__doc__,
):

    @task
    def put_documents() -> str:
        """Write some documents, as another system does; return their folder."""
        folder = ObjectStoragePath(f"{STORE}/inbox")
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("a", "b", "c"):
            with (folder / f"{name}.txt").open("w") as stream:
                stream.write(f"Document {name}.")
        return str(folder)

    # Its key is of an app that takes a file: `make up` has this connection.
    @task.dify_workflow_batch(
        dify_conn_id="dify_review", key="name", result_path=f"{STORE}/reviews/", max_active_runs=4
    )
    def review(folder: str) -> Iterator[dict[str, Any]]:
        """Yield a row for each document."""
        for path in sorted(ObjectStoragePath(folder).iterdir(), key=str):
            yield {"name": path.name, "document": {"path": str(path), "type": "document"}}

    @task
    def count(manifest: dict[str, Any]) -> int:
        """Return how many documents were reviewed."""
        return manifest["counts"]["succeeded"]

    count(review(put_documents()))
