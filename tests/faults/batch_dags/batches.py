"""One batch on a worker, and one in the triggerer, over the same rows."""

from __future__ import annotations

import os
from datetime import datetime, timedelta

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dify.operators.batch import DifyRunWorkflowBatchOperator

for mode in ("worker", "deferred"):
    with DAG(f"batch_{mode}", start_date=datetime(2026, 1, 1), schedule=None, catchup=False):
        DifyRunWorkflowBatchOperator(
            task_id="run",
            requests=os.environ["BATCH_ROWS_FILE"],
            result_path=os.environ["BATCH_RESULTS"] + "/{{ dag.dag_id }}",
            key="id",
            inputs={"text": "text"},
            max_active_runs=12,
            run_timeout=60,
            submit_timeout=5,
            retries_per_request=5,
            fail_on_partial_error=False,
            deferrable=mode == "deferred",
            # One for each time that a worker is killed beneath the task.
            retries=30,
            retry_delay=timedelta(seconds=2),
        )
