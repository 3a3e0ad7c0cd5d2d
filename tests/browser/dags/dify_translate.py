"""Follows a run with an iteration and a loop, step by step, in the triggerer."""

from __future__ import annotations

from datetime import datetime

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dify.operators.workflow import DifyRunWorkflowOperator

with DAG(dag_id="dify_translate", start_date=datetime(2026, 1, 1), schedule=None, catchup=False, tags=["dify"]):
    DifyRunWorkflowOperator(
        task_id="translate",
        dify_conn_id="dify_translate",
        inputs={"text": "Good morning. How are you?"},
        deferrable=True,
        follow_events=True,
    )
