"""Summarize the documents of an object store one by one, and write the summaries back as JSON Lines.

Set DIFY_EXAMPLE_STORE to a folder of any store that Airflow knows, such as `s3://aws_default@bucket/example`; by
default a local one is used. Each document gets a run of its own, some at a time, and no worker waits for them.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import DAG, ObjectStoragePath, task

from airflow_provider_dify.operators.workflow import DifyRunWorkflowOperator

STORE = os.environ.get("DIFY_EXAMPLE_STORE") or (Path(tempfile.gettempdir()) / "dify_example").as_uri()

with DAG(
    dag_id="dify_documents",
    start_date=datetime(2026, 1, 1),
    schedule=None,
    catchup=False,
    default_args={"retries": 2},
    tags=["dify"],
    doc_md=__doc__,
):

    @task
    def provide() -> None:
        """Put three documents into the store, for want of real ones."""
        folder = ObjectStoragePath(STORE) / "documents"
        folder.mkdir(parents=True, exist_ok=True)
        for number in (1, 2, 3):
            text = f"Document {number} says something. The rest is silence."
            (folder / f"{number}.txt").write_text(text)

    @task
    def read() -> list[dict[str, str]]:
        """Return the inputs of a run for each document, in the order of their names."""
        documents = sorted((ObjectStoragePath(STORE) / "documents").iterdir(), key=lambda path: path.name)
        return [{"text": path.read_text()} for path in documents]

    documents = read()
    summarize = DifyRunWorkflowOperator.partial(
        task_id="summarize",
        deferrable=True,
        max_active_tis_per_dagrun=4,
        outputs_to=f"{STORE}/large",
    ).expand(inputs=documents)

    @task
    def write(all_outputs: Iterable[dict[str, Any]]) -> str:
        """Write a line for each document, and return where they are.

        With pandas and pyarrow, DataFrame(rows).to_parquet() writes a table instead.
        """
        from airflow_provider_dify.operators.outputs import load_outputs

        rows = [load_outputs(outputs) for outputs in all_outputs]
        target = ObjectStoragePath(STORE) / "summaries.jsonl"
        target.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(target)

    provide() >> documents
    write(summarize.output)
