"""Let people decide in Airflow what a workflow asks them.

The workflow drafts a text and asks whether it may go out. The question appears among Airflow's required actions (3.1
and later), and may be answered there or in Dify, whoever is first. Nobody holds a worker meanwhile. The connection
dify_approval is that of an app with a human-input node; `make up` has one.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_dify.operators.workflow import DifyRunWorkflowOperator

with DAG(
    dag_id="dify_human_input",
    start_date=datetime(2026, 1, 1),
    schedule=None,
    catchup=False,
    default_args={"retries": 2},
    tags=["dify"],
    doc_md=__doc__,
):
    approve = DifyRunWorkflowOperator(
        task_id="approve",
        dify_conn_id="dify_approval",
        inputs={"text": "Sales went up in October."},
        on_pause="ask",
        # Both the run and the people have this long.
        timeout=timedelta(days=2),
        # Who does not answer within a day has declined.
        response_timeout=timedelta(days=1),
        default_action="reject",
        deferrable=True,
        max_poll_interval=15,
    )

    @task
    def report(outputs: dict[str, Any]) -> str:
        """Go on with what was decided."""
        return f"{outputs['decision']}, {outputs['tone']}: {outputs['comment']}"

    report(approve.output)
