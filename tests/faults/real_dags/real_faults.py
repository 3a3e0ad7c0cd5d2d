"""DAGs for faults among Airflow's real processes: one for each way to wait and to end, steered by the run's conf."""

from __future__ import annotations

import os
import signal
from datetime import datetime, timedelta
from typing import Any
from unittest.mock import patch

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dify.operators.workflow import DifyRunWorkflowOperator

EXECUTION = "airflow_provider_dify.runtime.task_run.Execution"
DEATHS = {
    "before the POST": "urllib3.connection.HTTPConnection.connect",
    "between POST and id": f"{EXECUTION}._announce",
    "before the search": f"{EXECUTION}._search",
    "between id and deferral": f"{EXECUTION}._defer_wait",
    "in the wait": "airflow_provider_dify.hooks.dify.DifyHook.poll",
}


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def prepare_death(context: Any) -> None:
    """Let the first try's process die at the point that the run's conf names."""
    point = (context["dag_run"].conf or {}).get("die")
    if point and context["ti"].try_number == 1:
        patch(DEATHS[point], die).start()


def new_dag(dag_id: str, **parameters: Any) -> DAG:
    dag = DAG(
        dag_id=dag_id,
        start_date=datetime(2026, 1, 1),
        schedule=None,
        catchup=False,
        max_active_runs=50,
        **parameters,
    )
    globals()[dag_id] = dag
    return dag


for mode, deferrable in (("worker", False), ("deferred", True)):
    for name, dag_parameters, parameters in (
        ("run", {}, {"retries": 1, "retry_delay": timedelta(seconds=1), "pre_execute": prepare_death}),
        ("timeout", {}, {"timeout": 20}),
        ("execution_timeout", {}, {"execution_timeout": timedelta(seconds=25)}),
        ("dagrun_timeout", {"dagrun_timeout": timedelta(seconds=25)}, {}),
    ):
        with new_dag(f"{name}_{mode}", **dag_parameters):
            DifyRunWorkflowOperator(
                task_id="run",
                inputs='{"seconds": {{ dag_run.conf["seconds"] }}}',
                deferrable=deferrable,
                **parameters,
            )

for dag_id, connection, count, seconds in (("forty", "dify_stock", 40, 2), ("thirty", "dify_limited", 30, 1)):
    with new_dag(dag_id):
        DifyRunWorkflowOperator.partial(
            task_id="run",
            dify_conn_id=connection,
            deferrable=True,
            submit_timeout=3,
            timeout=900,
            # Airflow's scheduler may fail a task that resumes before it has read how the deferral ended.
            retries=3,
            retry_delay=timedelta(seconds=1),
            max_active_tis_per_dag=16,
        ).expand(inputs=[{"seconds": seconds}] * count)

# As many tasks as the soak asks for, half of them on workers.
for mode, deferrable in (("worker", False), ("deferred", True)):
    with new_dag(f"soak_{mode}", max_active_tasks=200):
        DifyRunWorkflowOperator.partial(
            task_id="run",
            deferrable=deferrable,
            on_orphaned_intent=os.environ.get("SOAK_ORPHANS", "fail"),
            timeout=int(os.environ.get("SOAK_TIMEOUT", "60")),
            retries=30,
            retry_delay=timedelta(seconds=2),
            retry_exponential_backoff=False,
        ).expand(inputs=[{"seconds": 2 + index % 7} for index in range(int(os.environ.get("SOAK_RUNS", "0")) // 2)])
