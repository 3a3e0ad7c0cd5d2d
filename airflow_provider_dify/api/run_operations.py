"""What both API contracts share: how a run is submitted and read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from airflow_provider_dify.api import runs
from airflow_provider_dify.api.errors import Answer
from airflow_provider_dify.api.operations import Call, Operation, read_json
from airflow_provider_dify.api.runs import StartedRun, WorkflowRun
from airflow_provider_dify.exceptions import (
    DifyNotFoundError,
    DifyRunNotFoundError,
)


def submission(
    path: str,
    *,
    inputs: Mapping[str, Any],
    user: str,
    response_mode: str,
    files: list[dict[str, Any]] | None,
    query: str | None = None,
    trace_id: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Operation[StartedRun]:
    """Return what starts a run, and reads the answer of a blocking one."""
    body: dict[str, Any] = {"inputs": dict(inputs), "response_mode": response_mode, "user": user}
    if files:
        body["files"] = files
    if query is not None:
        body["query"] = query
    if trace_id is not None:
        body["trace_id"] = trace_id
    call = Call(
        "POST",
        path,
        "Starting the workflow run",
        json=body,
        repeatable=False,
        streaming=response_mode == "streaming",
        headers=headers or {},
    )
    return Operation(call, lambda answer: runs.parse_submitted(read_json(answer, call.what), answer.server_version))


def run_poll(path: str, run_id: str) -> Operation[WorkflowRun]:
    """Return what reads a run."""
    call = Call("GET", path, f"Reading run {run_id}")

    def parse(answer: Answer) -> WorkflowRun:
        return replace(runs.parse_run(read_json(answer, call.what), run_id), server_version=answer.server_version)

    return _RunPoll(call, parse)


class _RunPoll(Operation[WorkflowRun]):
    """A poll of a run, for which Dify's own 404 means: no such run."""

    def read(self, answer: Answer) -> WorkflowRun:
        """Turn an answer into a run, or raise ``DifyRunNotFoundError`` for one that is not shown."""
        try:
            return super().read(answer)
        except DifyNotFoundError as error:
            if answer.is_html:
                raise
            raise DifyRunNotFoundError(
                error.problem,
                advice=error.advice,
                on_retry=error.on_retry,
                status_code=error.status_code,
                code=error.code,
            ) from error
