"""Print the text of a workflow in the task's log while the workflow writes it.

Streaming holds a worker, and one of the server's connections, for as long as the workflow runs: use it where somebody
watches, and ``DifyRunWorkflowOperator`` where nobody does. Events show what happens, but the run itself says how it
ended: the sensor asks for that, and returns the outputs.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from airflow.providers.common.compat.sdk import DAG, get_current_context, task

from airflow_provider_dify.sensors.workflow import DifyWorkflowRunSensor

with DAG(
    dag_id="dify_streaming",
    start_date=datetime(2026, 1, 1),
    schedule=None,
    catchup=False,
    default_args={"retries": 2},
    tags=["dify"],
    doc_md=__doc__,
):

    @task
    def stream() -> str:
        """Run the workflow, print its steps and its text, and return the run's id."""
        from airflow_provider_dify.hooks.dify import DifyHook

        text, run_id = "", ""
        inputs = {"text": "Words come one by one. Read them as they do."}
        for event in DifyHook().stream_workflow_run(inputs, user=f"airflow {get_current_context()['run_id']}"):
            run_id = event.workflow_run_id or run_id
            if event.event == "node_started":
                print(f"Step {event.data['title']!r} has started.")
            elif event.event == "text_chunk":
                text += event.data["text"]
        print(f"Text: {text}")
        return run_id

    wait = DifyWorkflowRunSensor(task_id="wait", workflow_run_id=stream(), deferrable=True)

    @task
    def report(outputs: dict[str, Any]) -> str:
        """Use the outputs."""
        return str(outputs["summary"])

    report(wait.output)
