"""Follows a run that fails."""

from __future__ import annotations

from datetime import datetime

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dify.operators.workflow import DifyRunWorkflowOperator

with DAG(dag_id="dify_broken", start_date=datetime(2026, 1, 1), schedule=None, catchup=False, tags=["dify"]):
    DifyRunWorkflowOperator(
        task_id="fetch_and_translate", dify_conn_id="dify_broken", inputs={}, deferrable=True, follow_events=True
    )
