"""Run a workflow once for each of a list of inputs that another task has made, some of them at a time.

Each mapped task has a run of its own. A Dify server that takes no further run is asked again later, without a worker.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_dify.operators.workflow import DifyRunWorkflowOperator

with DAG(
    dag_id="dify_mapped",
    start_date=datetime(2026, 1, 1),
    schedule=None,
    catchup=False,
    default_args={"retries": 2},
    tags=["dify"],
    doc_md=__doc__,
):

    @task
    def documents() -> list[dict[str, str]]:
        """Return the inputs of each run."""
        return [{"text": f"Document {number} says something. The rest is silence."} for number in (1, 2, 3)]

    summarize = DifyRunWorkflowOperator.partial(
        task_id="summarize",
        deferrable=True,
        max_active_tis_per_dagrun=4,
    ).expand(inputs=documents())

    @task
    def collect(all_outputs: Iterable[dict[str, Any]]) -> list[str]:
        """Gather what the runs have returned, in the order of the documents."""
        return [outputs["summary"] for outputs in all_outputs]

    collect(summarize.output)
