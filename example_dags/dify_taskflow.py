"""Run a workflow out of a function: it returns the inputs, and the task returns what the workflow makes of them.

The function runs on the worker and only prepares; the run is waited for in the triggerer. Mapped over the documents,
each gets a run of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from airflow.providers.common.compat.sdk import DAG, task

with DAG(
    dag_id="dify_taskflow",
    start_date=datetime(2026, 1, 1),
    schedule=None,
    catchup=False,
    default_args={"retries": 2},
    tags=["dify"],
    doc_md=__doc__,
):

    @task
    def documents() -> list[dict[str, Any]]:
        """Return what is to be summarized."""
        return [{"title": f"Report {number}", "lines": ["Sales went up.", "Costs did not."]} for number in (1, 2, 3)]

    @task.dify_workflow(deferrable=True, max_active_tis_per_dagrun=4)
    def summarize(document: dict[str, Any]) -> dict[str, Any]:
        """Return the inputs of one run."""
        return {"text": f"{document['title']}: {' '.join(document['lines'])}"}

    @task
    def join(summaries: Iterable[dict[str, Any]]) -> str:
        """Return one text out of what the runs have returned."""
        return " ".join(outputs["summary"] for outputs in summaries)

    @task.dify_workflow(deferrable=True, multiple_outputs=True)
    def summarize_all(text: str) -> dict[str, Any]:
        """Return the inputs of the last run."""
        return {"text": text}

    @task
    def report(words: int) -> str:
        """Say how long the whole was."""
        return f"{words} words"

    report(summarize_all(join(summarize.expand(document=documents())))["word_count"])
