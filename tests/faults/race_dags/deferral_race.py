"""Mapped deferrable tasks without retries: one that Airflow fails shows as failed."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dify.operators.workflow import DifyRunWorkflowOperator
from airflow_provider_dify.sensors.workflow import DifyWorkflowRunSensor

TASKS = 24
INPUTS = '{"seconds": {{ dag_run.conf["seconds"] }}}'
DEFAULTS: dict[str, Any] = {"retries": 0, "timeout": 600}


def new_dag(dag_id: str) -> DAG:
    dag = DAG(
        dag_id,
        start_date=datetime(2026, 1, 1),
        schedule=None,
        catchup=False,
        max_active_tasks=TASKS,
        default_args=DEFAULTS,
    )
    globals()[dag_id] = dag
    return dag


for kind in ("free", "busy"):
    with new_dag(f"runs_{kind}"):
        DifyRunWorkflowOperator.partial(task_id="run", dify_conn_id=f"dify_{kind}", deferrable=True).expand(
            inputs=[INPUTS] * TASKS
        )

with new_dag("sensors"):
    start = DifyRunWorkflowOperator(
        task_id="start", dify_conn_id="dify_free", inputs=INPUTS, wait_for_termination=False
    )
    started = "{{ ti.xcom_pull(task_ids='start') }}"
    sensors = DifyWorkflowRunSensor.partial(task_id="wait", dify_conn_id="dify_free", deferrable=True).expand(
        workflow_run_id=[started] * TASKS
    )
    start >> sensors
