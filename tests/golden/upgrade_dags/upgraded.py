"""Tasks that are under way while the provider is upgraded: they mean the same to version 0.1.0 and to today's."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow.providers.common.compat.sdk import DAG, BaseOperator

import airflow_provider_dify
from airflow_provider_dify.operators.workflow import DifyRunWorkflowOperator
from airflow_provider_dify.sensors.workflow import DifyWorkflowRunSensor

LONG = '{"seconds": {{ dag_run.conf["seconds"] }}}'
SHORT = {"seconds": 5}


class WhereOperator(BaseOperator):
    """Tells which version of the provider its worker has."""

    def execute(self, context: Any) -> str:
        return str(airflow_provider_dify.__file__)


def new_dag(dag_id: str) -> DAG:
    dag = DAG(
        dag_id,
        start_date=datetime(2026, 1, 1),
        schedule=None,
        catchup=False,
        default_args={"retries": 3, "retry_delay": timedelta(seconds=90)},
    )
    globals()[dag_id] = dag
    return dag


with new_dag("killed"):
    DifyRunWorkflowOperator(task_id="run", inputs={"seconds": 60}, timeout=3600, deferrable=False)

with new_dag("waiting"):
    before = WhereOperator(task_id="before")
    after = WhereOperator(task_id="after")
    waiting = DifyRunWorkflowOperator(task_id="waiting", inputs=LONG, timeout=3600, deferrable=True)
    searching = DifyRunWorkflowOperator(
        task_id="searching", inputs=SHORT, timeout=3600, submit_timeout=2, deferrable=True
    )
    started = DifyRunWorkflowOperator(task_id="started", inputs=LONG, wait_for_termination=False)
    sensor = DifyWorkflowRunSensor(task_id="sensor", workflow_run_id=started.output, timeout=3600, deferrable=True)
    # Reads what the old version has returned once more, in a process of the new one.
    reader = DifyWorkflowRunSensor(task_id="reader", workflow_run_id=started.output, timeout=3600, deferrable=False)
    before >> [waiting, searching, started]
    [waiting, searching, sensor] >> after >> reader
