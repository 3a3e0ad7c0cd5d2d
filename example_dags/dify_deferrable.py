"""Run a workflow with a deadline of its own, and decide by its outputs what comes next.

The task holds a worker for three seconds; a run that takes longer is waited for in the triggerer, for up to an hour. A
retry reattaches to the run of the try before it, and never starts a second one.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_dify.operators.workflow import DifyRunWorkflowOperator

with DAG(
    dag_id="dify_deferrable",
    start_date=datetime(2026, 1, 1),
    schedule=None,
    catchup=False,
    default_args={"retries": 2},
    tags=["dify"],
    doc_md=__doc__,
):
    summarize = DifyRunWorkflowOperator(
        task_id="summarize",
        # Templates reach into the values of a mapping.
        inputs={"text": "The run {{ run_id }} of {{ dag.dag_id }} has begun. Nobody has read its report yet."},
        deferrable=True,
        timeout=timedelta(hours=1),
        max_poll_interval=30,
        retry_delay=timedelta(seconds=30),
    )

    @task.branch
    def choose(outputs: dict[str, Any]) -> str:
        """Continue with the task for long, or with that for short texts."""
        return "keep" if outputs["word_count"] > 5 else "drop"

    @task
    def keep(outputs: dict[str, Any]) -> str:
        """Go on with the summary."""
        return str(outputs["summary"])

    @task
    def drop() -> None:
        """Do nothing."""

    choose(summarize.output) >> [keep(summarize.output), drop()]
