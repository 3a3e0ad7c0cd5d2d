"""DAGs whose workflows ask people, in each way in which an answer may come or not come."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dify.operators.workflow import DifyRunWorkflowOperator
from airflow_provider_dify.sensors.workflow import DifyWorkflowRunSensor

PATIENT = {"on_pause": "ask", "poll_interval": 1, "max_poll_interval": 1, "timeout": 1500, "defer_after": 1}
OPERATORS: dict[str, dict[str, Any]] = {
    "asks": {},
    "asks_for_deferrable": {"deferrable": True, "defer_after": 0},
    "asks_with_default": {"dify_conn_id": "dify_simple", "response_timeout": 14, "default_action": "Reject"},
    "asks_in_vain": {"response_timeout": 14, "cancel_on_timeout": True},
    "asks_until_deadline": {"timeout": 25},
    "asks_two": {"dify_conn_id": "dify_two"},
    "asks_often": {"dify_conn_id": "dify_often"},
}


def new_dag(dag_id: str) -> DAG:
    dag = DAG(dag_id, start_date=datetime(2026, 1, 1), schedule=None, catchup=False, default_args={"retries": 0})
    globals()[dag_id] = dag
    return dag


for name, parameters in OPERATORS.items():
    with new_dag(name):
        DifyRunWorkflowOperator(
            task_id="review",
            **{
                "dify_conn_id": "dify_default",
                "inputs": {"text": "{{ dag_run.conf.get('text', 'the draft') }}"},
                **PATIENT,
                **parameters,
            },
        )

with new_dag("asks_by_sensor"):
    start = DifyRunWorkflowOperator(task_id="start", inputs={"text": "the draft"}, wait_for_termination=False)
    DifyWorkflowRunSensor(
        task_id="review", workflow_run_id=start.output, on_pause="ask", poke_interval=1, max_wait=1, timeout=1500
    )
