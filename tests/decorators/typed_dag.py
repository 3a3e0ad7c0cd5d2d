"""What type checkers are to accept, and with which words they are to refuse; read by a test, never run."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow_provider_dify.decorators.workflow import dify_workflow_task


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
