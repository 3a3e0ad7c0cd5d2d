"""What type checkers are to accept, and with which words they are to refuse; read by a test, never run."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, TypedDict

from airflow.sdk import task

from airflow_provider_dify.decorators.workflow import dify_workflow_task
from airflow_provider_dify.operators.workflow import DifyRunWorkflowOperator
from airflow_provider_dify.sensors.workflow import DifyWorkflowRunSensor


@dify_workflow_task
def bare(text: str) -> dict[str, str]:
    return {"text": text}


@dify_workflow_task(deferrable=True, timeout=timedelta(hours=1), on_pause="fail", retries=3)
def summarize(text: str, words: int = 10) -> tuple[dict[str, Any], list[str]]:
    return {"text": text, "words": words}, ["https://example.com/a.pdf"]


@dify_workflow_task(wait_for_termination=False)
def nothing() -> None:
    return None


bare("x")
summarize("x", words=3) >> nothing()
summarize.override(task_id="other", pool="dify")("x")
summarize.partial(words=3).expand(text=["x", "y"])
summarize.expand_kwargs([{"text": "x"}])

bare(1)  # error: arg-type
summarize()  # error: call-arg
summarize("x", wordz=3)  # error: call-arg


@dify_workflow_task(deferrable="yes")  # error: call-overload, untyped-decorator
def wrong_parameter() -> None: ...


@dify_workflow_task()  # error: arg-type
def returns_a_text() -> str:
    return "x"


@dify_workflow_task  # error: arg-type
def returns_a_list() -> list[str]:
    return ["x"]


class Summary(TypedDict):
    summary: str
    word_count: int


@task
def inputs_of_today() -> dict[str, str]:
    return {"text": "x"}


@task
def paths() -> list[str]:
    return ["/data/a.pdf"]


def publish(summary: str, words: int) -> None: ...


start = DifyRunWorkflowOperator[Summary](
    task_id="start", inputs=inputs_of_today(), files=paths(), wait_for_termination=False, on_rate_limit="fail"
)
DifyWorkflowRunSensor(task_id="wait", workflow_run_id=start.output, on_pause="fail")
DifyWorkflowRunSensor(task_id="id", workflow_run_id="{{ ti.xcom_pull('start') }}")
DifyRunWorkflowOperator(task_id="template", inputs="{{ params.inputs | tojson }}", response_mode="blocking")
DifyRunWorkflowOperator(task_id="chained", inputs={"text": start.output}, user=bare("x"))
DifyRunWorkflowOperator.partial(task_id="mapped", deferrable=True).expand(inputs=paths())
publish(start.outputs["summary"], start.outputs["word_count"])

publish(start.outputs["word_count"], 1)  # error: arg-type
start.outputs["sumary"]  # error: typeddict-item
DifyRunWorkflowOperator(task_id="a", on_pause="ask nobody")  # error: arg-type
DifyRunWorkflowOperator(task_id="b", response_mode="async")  # error: arg-type
DifyRunWorkflowOperator(task_id="c", on_orphaned_intent="wait")  # error: arg-type
DifyRunWorkflowOperator(task_id="d", inputs=["x"])  # error: arg-type
DifyRunWorkflowOperator(task_id="e", files=7)  # error: arg-type
DifyWorkflowRunSensor(task_id="f", workflow_run_id={"body": "x"})  # error: arg-type
DifyWorkflowRunSensor(task_id="g")  # error: call-arg
