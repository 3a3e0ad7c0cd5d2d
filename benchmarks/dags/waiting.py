"""Mapped tasks that defer at once to the trigger of a provider, and check its event when they resume."""

from __future__ import annotations

import os
from datetime import datetime
from typing import Any

from airflow.sdk import DAG, BaseOperator

PROVIDER = os.environ.get("BENCH_PROVIDER", "dify")
RUNS = int(os.environ.get("BENCH_RUNS", "1"))


class Wait(BaseOperator):
    """Waits for a run of the stub server, whose number is the map index."""

    def execute(self, context: Any) -> None:
        from benchmarks.waiting import trigger_of

        self.defer(trigger=trigger_of(PROVIDER, context["ti"].map_index), method_name="resume")

    def resume(self, context: Any, event: Any) -> None:
        told = {
            "dify": lambda: (
                (event["workflow_run_id"][-4:], event["run_status"]) == (f"{context['ti'].map_index:04x}", "succeeded")
            ),
            "databricks": lambda: event["run_id"] == context["ti"].map_index,
            "dbt-cloud": lambda: (event["run_id"], event["status"]) == (context["ti"].map_index, "success"),
            "http": lambda: event is True,
        }
        if not told[PROVIDER]():
            raise ValueError(f"not the event of this run: {event!r}")


with DAG("waiting", start_date=datetime(2026, 1, 1), schedule=None, max_active_tasks=100_000):
    Wait.partial(task_id="wait", max_active_tis_per_dag=None).expand(doc=[f"run {number}" for number in range(RUNS)])
