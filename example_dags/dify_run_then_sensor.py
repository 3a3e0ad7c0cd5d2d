"""Start a run, do something else meanwhile, and wait for the run only where its outputs are needed."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_dify.operators.workflow import DifyRunWorkflowOperator
from airflow_provider_dify.sensors.workflow import DifyWorkflowRunSensor

with DAG(
    dag_id="dify_run_then_sensor",
    start_date=datetime(2026, 1, 1),
    schedule=None,
    catchup=False,
    default_args={"retries": 2},
    tags=["dify"],
    doc_md=__doc__,
):
    start = DifyRunWorkflowOperator(
        task_id="start",
        inputs={"text": "A long report is being summarized. Something else goes on meanwhile."},
        # The task returns the run's id instead of its outputs.
        wait_for_termination=False,
    )

    @task
    def meanwhile() -> int:
        """Work that does not need the outputs."""
        return 42

    wait = DifyWorkflowRunSensor(
        task_id="wait",
        workflow_run_id=start.output,
        deferrable=True,
    )

    @task
    def use(outputs: dict[str, Any], number: int) -> str:
        """Use both."""
        return f"{outputs['summary']} ({number})"

    use(wait.output, meanwhile())
