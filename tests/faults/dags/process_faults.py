"""DAGs whose processes are killed by the tests."""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dify.operators.workflow import DifyRunWorkflowOperator

# What is cleared must still run when the command, slow on a busy machine, has got there.
for dag_id, deferrable, seconds in (
    ("worker_killed", False, 15),
    ("triggerer_killed", True, 40),
    ("cleared", True, 150),
):
    with DAG(dag_id=dag_id, start_date=datetime(2026, 1, 1), schedule=None, catchup=False) as dag:
        DifyRunWorkflowOperator(
            task_id="run",
            inputs={"seconds": seconds},
            deferrable=deferrable,
            retries=1,
            retry_delay=timedelta(seconds=1),
        )
    globals()[dag_id] = dag
