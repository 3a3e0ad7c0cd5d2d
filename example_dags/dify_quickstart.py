"""Summarize a text with a Dify workflow, wait for it, and use its outputs in the next task.

A run that takes longer than three seconds is waited for in the triggerer, and holds no worker.

It needs a connection ``dify_default`` to an app with the input ``text``; other inputs can be given when the DAG is
triggered. ``make demo`` runs it against a local Dify server.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from airflow.providers.common.compat.sdk import DAG, Param, task

from airflow_provider_dify.operators.workflow import DifyRunWorkflowOperator

TEXT = "Airflow runs the workflow and waits for it without a worker slot. Everything else is up to you."

with DAG(
    dag_id="dify_quickstart",
    start_date=datetime(2026, 1, 1),
    schedule=None,
    catchup=False,
    default_args={"retries": 2},
    params={"inputs": Param({"text": TEXT}, type="object", description="The inputs of the workflow")},
    tags=["dify"],
    doc_md=__doc__,
):
    summarize = DifyRunWorkflowOperator(
        task_id="summarize",
        inputs="{{ params.inputs | tojson }}",
        deferrable=True,
    )

    @task
    def report(outputs: dict[str, Any]) -> str:
        """Use what the workflow has returned: a plain dictionary."""
        return ", ".join(f"{name}: {value}" for name, value in outputs.items())

    report(summarize.output)
