"""Ten mistakes that are made easily, a task for each."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dify.operators.workflow import DifyRunWorkflowOperator
from airflow_provider_dify.sensors.workflow import DifyWorkflowRunSensor

GOOD: dict[str, Any] = {"inputs": {"text": "hi"}, "dify_conn_id": "dify_reader"}

with DAG(dag_id="dify_mistakes", start_date=datetime(2026, 1, 1), schedule=None, catchup=False, tags=["dify"]):
    DifyRunWorkflowOperator(task_id="wrong_input", **{**GOOD, "inputs": {"txt": "hi", "text": "hi"}})
    DifyRunWorkflowOperator(task_id="missing_input", **{**GOOD, "inputs": {}})
    DifyRunWorkflowOperator(task_id="wrong_type", **{**GOOD, "inputs": {"text": "hi", "count": "many"}})
    DifyRunWorkflowOperator(task_id="wrong_connection_id", **{**GOOD, "dify_conn_id": "dify_prod"})
    DifyRunWorkflowOperator(task_id="wrong_key", **{**GOOD, "dify_conn_id": "dify_refused"})
    DifyRunWorkflowOperator(task_id="dataset_key", **{**GOOD, "dify_conn_id": "dify_dataset"})
    DifyRunWorkflowOperator(task_id="python_repr", **{**GOOD, "inputs": "{'text': 'hi'}"})
    DifyWorkflowRunSensor(
        task_id="dict_to_the_sensor", workflow_run_id={"body": "hi"}, dify_conn_id="dify_reader", poke_interval=1
    )
    DifyRunWorkflowOperator(task_id="unpublished_app", **{**GOOD, "dify_conn_id": "dify_draft"})
    DifyRunWorkflowOperator(task_id="chatflow_key", **{**GOOD, "dify_conn_id": "dify_chatflow"})
