"""A DAG for each thing that a deferrable task may meet, with a connection of its own; errors go to a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dify.operators.workflow import DifyRunWorkflowOperator
from airflow_provider_dify.sensors.workflow import DifyWorkflowRunSensor

OPERATORS: dict[str, dict[str, Any]] = {
    "waited_for": {},
    "answer_lost": {},
    "answer_late": {},
    "never_found": {"timeout": 15},
    "rate_limited": {},
    "deadline_passed": {"inputs": {"seconds": 600}, "timeout": 25},
}
SENSORS: dict[str, dict[str, Any]] = {"sensor": {}, "sensor_deadline_passed": {"seconds": 600, "timeout": 15}}


@contextmanager
def errors_reported(dag_id: str) -> Iterator[None]:
    """Write the class of a task's error where the test finds it; a callback's context has it on some versions alone."""
    try:
        yield
    except Exception as error:
        folder = Path(os.environ["DEFERRING_ERRORS"])
        folder.mkdir(exist_ok=True)
        (folder / dag_id).write_text(type(error).__name__)
        raise


class TellingOperator(DifyRunWorkflowOperator):
    """An operator that tells how it failed."""

    def execute(self, context: Any) -> Any:
        with errors_reported(self.dag_id):
            return super().execute(context)

    def resume_execution(self, *arguments: Any, **named: Any) -> Any:
        with errors_reported(self.dag_id):
            return super().resume_execution(*arguments, **named)


class TellingSensor(DifyWorkflowRunSensor):
    """A sensor that tells how it failed."""

    def execute(self, context: Any) -> Any:
        with errors_reported(self.dag_id):
            return super().execute(context)

    def resume_execution(self, *arguments: Any, **named: Any) -> Any:
        with errors_reported(self.dag_id):
            return super().resume_execution(*arguments, **named)


def new_dag(dag_id: str) -> DAG:
    dag = DAG(dag_id, start_date=datetime(2026, 1, 1), schedule=None, catchup=False, default_args={"retries": 0})
    globals()[dag_id] = dag
    return dag


for name, parameters in OPERATORS.items():
    with new_dag(name):
        TellingOperator(
            task_id="run",
            **{
                "dify_conn_id": f"dify_{name}",
                "inputs": {"seconds": 8},
                # Where an answer comes, a busy machine may need longer for it.
                "submit_timeout": 1 if name in ("answer_lost", "answer_late", "never_found") else 15,
                "timeout": 120,
                "deferrable": True,
                # So that every path goes through a trigger.
                "defer_after": 0,
                **parameters,
            },
        )

for name, parameters in SENSORS.items():
    with new_dag(name):
        start = DifyRunWorkflowOperator(
            task_id="start",
            dify_conn_id=f"dify_{name}",
            inputs={"seconds": parameters.get("seconds", 8)},
            wait_for_termination=False,
        )
        TellingSensor(
            task_id="run",
            dify_conn_id=f"dify_{name}",
            workflow_run_id=start.output,
            timeout=parameters.get("timeout", 120),
            deferrable=True,
            defer_after=0,
        )
