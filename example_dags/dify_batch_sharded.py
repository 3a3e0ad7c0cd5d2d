"""Run a workflow for the rows of several files, one batch for each file, on several workers at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from airflow.providers.common.compat.sdk import DAG, ObjectStoragePath, task

from airflow_provider_dify.operators.batch import DifyRunWorkflowBatchOperator

STORE = os.environ.get("DIFY_EXAMPLE_STORE", "file:///tmp/dify-example")

with DAG(
    dag_id="dify_batch_sharded",
    start_date=datetime(2026, 1, 1),
    schedule=None,
    catchup=False,
    default_args={"retries": 2},
    tags=["dify"],
    doc_md=__doc__,
):

    @task
    def shards() -> list[str]:
        """Write files of rows, and return where they are."""
        folder = ObjectStoragePath(f"{STORE}/shards")
        folder.mkdir(parents=True, exist_ok=True)
        found = []
        for shard in range(2):
            path = folder / f"rows-{shard}.jsonl"
            rows = [{"id": f"{shard}-{number}", "text": f"Row {number} of {shard}. Well."} for number in range(3)]
            with path.open("w") as stream:
                stream.writelines(json.dumps(row) + "\n" for row in rows)
            found.append(str(path))
        return found

    summarize = DifyRunWorkflowBatchOperator.partial(
        task_id="summarize",
        key="id",
        result_path=f"{STORE}/summaries/",
        max_active_runs=4,
    ).expand(requests=shards())

    @task
    def total(manifests: Iterable[dict[str, Any]]) -> int:
        """Add up the rows of all batches."""
        return sum(manifest["counts"]["succeeded"] for manifest in manifests)

    total(summarize.output)
