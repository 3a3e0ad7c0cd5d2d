"""Mapped tasks of the operator, each with a run of its own."""

from __future__ import annotations

import os
from datetime import datetime

from airflow.sdk import DAG

from airflow_provider_dify.operators.workflow import DifyRunWorkflowOperator

RUNS = int(os.environ.get("BENCH_RUNS", "1"))

with DAG("running", start_date=datetime(2026, 1, 1), schedule=None, max_active_tasks=100_000):
    DifyRunWorkflowOperator.partial(task_id="run", deferrable=True, timeout=7200, retries=2).expand(
        inputs=[{"number": number} for number in range(RUNS)]
    )
