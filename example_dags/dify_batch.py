"""Run a workflow for each row of a table, in one task, and write the results beside each other.

The rows come from an upstream task, as from a query; a retry goes on where the try before has ended.
"""

from __future__ import annotations

import os
from datetime import datetime
from typing import Any

from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_dify.operators.batch import DifyRunWorkflowBatchOperator

STORE = os.environ.get("DIFY_EXAMPLE_STORE", "file:///tmp/dify-example")

with DAG(
    dag_id="dify_batch",
    start_date=datetime(2026, 1, 1),
    schedule=None,
    catchup=False,
    default_args={"retries": 2},
    tags=["dify"],
    doc_md=__doc__,
):

    @task
    def tickets() -> list[dict[str, Any]]:
        """Return the rows, as a task that asks a database does."""
        return [{"ticket": number, "body": f"Ticket {number} is open. It is about a bill."} for number in range(1, 6)]

    summarize = DifyRunWorkflowBatchOperator(
        task_id="summarize",
        requests=tickets(),
        key="ticket",
        inputs={"text": "body"},
        result_path=f"{STORE}/tickets/",
        max_active_runs=4,
        deferrable=True,
    )

    @task
    def report(manifest: dict[str, Any]) -> str:
        """Say how the batch went."""
        return f"{manifest['counts']['succeeded']} of {manifest['rows']} tickets were summarized"

    report(summarize.output)
