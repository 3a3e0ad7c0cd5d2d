"""Keep a knowledge base in step with a folder, every night, and ask an app about it only when all of it is indexed.

Set DIFY_EXAMPLE_STORE to a folder of any store that Airflow knows, such as `s3://aws_default@bucket/example`; by
default a local one is used. The connection dify_knowledge has a key of the knowledge API (dataset-…), and the workspace
gets a knowledge base named "handbook" where it has none.
"""

from __future__ import annotations

import os
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import DAG, ObjectStoragePath, task

from airflow_provider_dify.operators.knowledge import DifyKnowledgeSyncOperator

STORE = os.environ.get("DIFY_EXAMPLE_STORE") or (Path(tempfile.gettempdir()) / "dify_example").as_uri()

with DAG(
    dag_id="dify_knowledge",
    start_date=datetime(2026, 1, 1),
    schedule=None,
    catchup=False,
    default_args={"retries": 2},
    tags=["dify"],
    doc_md=__doc__,
):

    @task
    def provide() -> None:
        """Put three documents into the folder, for want of real ones."""
        for number in (1, 2, 3):
            folder = ObjectStoragePath(STORE) / "handbook" / f"chapter-{number}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "page.md").write_text(f"# Chapter {number}\n\nApples are red.\n")

    sync = DifyKnowledgeSyncOperator(
        task_id="sync",
        source=f"{STORE}/handbook",
        pattern=["*.md", "*.pdf"],
        dataset_name="handbook",
        create_dataset=True,
        indexing_technique="economy",
        metadata={"synced_by": "{{ dag.dag_id }}"},
        deferrable=True,
    )

    @task
    def report(manifest: dict[str, Any]) -> str:
        """Return what the sync has done."""
        return ", ".join(f"{count} {outcome}" for outcome, count in manifest["counts"].items() if count)

    provide() >> sync
    report(sync.output)
