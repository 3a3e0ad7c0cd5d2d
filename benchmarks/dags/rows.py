"""The same rows twice: as one batch, and as mapped tasks of the operator with as many runs at a time."""

from __future__ import annotations

import os
from datetime import datetime

from airflow.sdk import DAG

from airflow_provider_dify.operators.batch import DifyRunWorkflowBatchOperator
from airflow_provider_dify.operators.workflow import DifyRunWorkflowOperator

ROWS = int(os.environ.get("BENCH_RUNS", "1"))
ACTIVE = int(os.environ.get("BENCH_ACTIVE", "16"))

with DAG("batched", start_date=datetime(2026, 1, 1), schedule=None):
    DifyRunWorkflowBatchOperator(
        task_id="run",
        requests=os.environ.get("BENCH_ROWS_FILE", "rows.jsonl"),
        result_path=os.environ.get("BENCH_RESULTS", "results"),
        key="id",
        inputs={"text": "text"},
        max_active_runs=ACTIVE,
        deferrable=True,
    )

with DAG("mapped", start_date=datetime(2026, 1, 1), schedule=None, max_active_tasks=100_000):
    DifyRunWorkflowOperator.partial(task_id="run", deferrable=True, max_active_tis_per_dagrun=ACTIVE, retries=2).expand(
        inputs=[{"text": f"text {number}"} for number in range(ROWS)]
    )
