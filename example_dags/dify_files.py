"""Send a file to a workflow and save the file that it makes.

The document goes from the store to Dify, and the report from Dify to the store, without ever being whole in a
worker's memory. Set DIFY_EXAMPLE_STORE to a folder of any store that Airflow knows; by default a local one is used.
"""

from __future__ import annotations

import os
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import DAG, ObjectStoragePath, task

from airflow_provider_dify.operators.workflow import DifyRunWorkflowOperator

STORE = os.environ.get("DIFY_EXAMPLE_STORE") or (Path(tempfile.gettempdir()) / "dify_example").as_uri()

with DAG(
    dag_id="dify_files",
    start_date=datetime(2026, 1, 1),
    schedule=None,
    catchup=False,
    default_args={"retries": 2},
    tags=["dify"],
    doc_md=__doc__,
):

    @task
    def provide() -> str:
        """Put a document into the store, for want of a real one, and return where it is."""
        folder = ObjectStoragePath(STORE)
        folder.mkdir(parents=True, exist_ok=True)
        document = folder / "contract.txt"
        document.write_text("We agree.")
        return f"{STORE}/contract.txt"

    review = DifyRunWorkflowOperator(
        task_id="review",
        # Its key is of an app that takes a file: `make up` has this connection.
        dify_conn_id="dify_review",
        inputs={"document": {"path": provide()}, "title": "Contract of {{ dag_run.run_id }}"},
        output_files_to=f"{STORE}/reports",
        deferrable=True,
    )

    @task
    def use(outputs: dict[str, Any]) -> str:
        """Read the report from where it was saved."""
        text: str = ObjectStoragePath(outputs["report"]["saved_to"]).read_text()
        return text.splitlines()[-1]

    use(review.output)
