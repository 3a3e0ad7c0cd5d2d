"""A task without retries that a retry policy starts again."""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import DAG

from airflow_provider_dify.operators.workflow import DifyRunWorkflowOperator
from airflow_provider_dify.policies.retry import DifyRetryPolicy

with DAG("rescheduling", start_date=datetime(2026, 1, 1), schedule=None):
    DifyRunWorkflowOperator(
        task_id="run",
        inputs={"text": "x"},
        on_rate_limit="fail",
        retries=0,
        retry_policy=DifyRetryPolicy(delay=timedelta(seconds=4)),
    )
