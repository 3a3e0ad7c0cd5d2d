"""Mapped deferrable tasks, each with a run of its own that takes 20 to 40 s."""

from __future__ import annotations

import os
from datetime import datetime, timedelta

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dify.operators.workflow import DifyRunWorkflowOperator

with DAG("celery_runs", start_date=datetime(2026, 1, 1), schedule=None, catchup=False):
    DifyRunWorkflowOperator.partial(
        task_id="run",
        deferrable=True,
        durable=os.environ["CELERY_DURABLE"] == "True",
        # For the longest run, and for another triggerer that has to notice first that the one before it is dead.
        timeout=150,
        # One for each time that a worker is killed beneath the task.
        retries=20,
        retry_delay=timedelta(seconds=2),
    ).expand(
        inputs=[{"number": number, "seconds": 20 + number % 21} for number in range(int(os.environ["CELERY_TASKS"]))]
    )
