"""How a run's end becomes a task's end: outputs or the right exception, the same in both modes."""

from __future__ import annotations

from typing import Any

from airflow_provider_dify.api.runs import RunStatus, WorkflowRun
from airflow_provider_dify.api.server_versions import Server
from airflow_provider_dify.api.values import excerpt
from airflow_provider_dify.exceptions import (
    DifyRunFailedError,
    DifyRunPartialSuccessError,
    DifyRunPausedError,
    DifyRunStoppedError,
    DifyRunTimeoutError,
)
from airflow_provider_dify.rules.log_lines import status_words
from airflow_provider_dify.rules.polling import Deadline

STOPPED = "Dify was asked to stop it."
NEW_RUN = "A retry of the task starts a new run."
NEW_RUN_UNLESS_ACTIVE = (
    "A retry of the task starts a new run, or reattaches to this one where Dify still shows it as active."
)
REATTACHED = (
    "It was not stopped: a retry of the task reattaches to it. If Dify has lost it (a restart, say), only a clear of "
    "the task starts a new run."
)
LEFT_BEHIND = "It was not stopped and runs on: a retry of the task starts a second run beside it."
SAVED_ON_RETRY = (
    "A retry of the task reattaches to this run and saves its outputs. So does a DifyWorkflowRunSensor with its id, "
    "also after the task was cleared, which would start a new run."
)
SENSOR_SAVES = (
    "Dify keeps the outputs: a DifyWorkflowRunSensor with the run's id and outputs_to saves them. A retry would end "
    "the same way, so the task is not retried; a clear starts a new run."
)
LOST_ON_RETRY = (
    "A retry of the task starts a new run; a DifyWorkflowRunSensor with the id of this one saves its outputs instead."
)
SAME_RUN = "A retry of this sensor polls the same run again; start a new one with the task that runs the workflow."


def outputs_of(
    run: WorkflowRun, *, fail_on_partial_success: bool, on_retry: str = NEW_RUN, failed_step: str | None = None
) -> dict[str, Any]:
    """Return the outputs of a run that has ended.

    :param run: A run of a terminal status.
    :param fail_on_partial_success: Whether ``partial-succeeded`` is a failure.
    :param on_retry: What a retry of the task does, for the message.
    :param failed_step: A sentence about the step that failed, where it is known.
    :raises DifyRunFailedError: It failed.
    :raises DifyRunStoppedError: It was stopped.
    :raises DifyRunPartialSuccessError: It succeeded partially, and that is to fail.
    """
    known: dict[str, Any] = {"workflow_run_id": run.workflow_run_id}
    text = excerpt(run.error, 2000).rstrip(".") if run.error else "no error text was given"
    if run.status is RunStatus.FAILED:
        step = f" {failed_step}" if failed_step else ""
        raise DifyRunFailedError(
            f"Dify run {run.workflow_run_id} failed: {text}.{step}",
            advice="Open the run in Dify (the task's link) to see the node that failed.",
            on_retry=on_retry,
            **known,
        )
    if run.status is RunStatus.STOPPED:
        raise DifyRunStoppedError(
            f"Dify run {run.workflow_run_id} was stopped: {text}. A user, a stop request or one of Dify's "
            f"execution limits ended it.{_stopped_at_resume(run)}",
            on_retry=on_retry,
            **known,
        )
    if run.status is RunStatus.PARTIAL_SUCCEEDED and fail_on_partial_success:
        raise DifyRunPartialSuccessError(
            f"Dify run {run.workflow_run_id} succeeded only partially: a node failed and its error was handled "
            "in the workflow. fail_on_partial_success is set.",
            on_retry=on_retry,
            **known,
        )
    return run.outputs


def _stopped_at_resume(run: WorkflowRun) -> str:
    """Say what stops runs on the servers that stop every run which was paused."""
    was_asked_to = "Stopped by user" in (run.error or "") or "User requested stop" in (run.error or "")
    if not was_asked_to or not Server(run.server_version).stops_resumed_runs:
        return ""
    return (
        f" If it had asked a human: Dify {run.server_version} as released stops each run that goes on after a pause, "
        "whatever the answer was. Upgrade Dify to 1.17 or later; a retry would only ask again."
    )


def retry_after_timeout(*, asked_to_stop: bool, remembered: bool, findable: bool) -> str:
    """Say what a retry does after the deadline of a run.

    :param asked_to_stop: Whether Dify was asked to stop the run; some servers then show it as ``running`` permanently.
    :param remembered: Whether a note tells the next try of the run, and of its stop.
    :param findable: Whether the next try searches for the run by its marker.
    """
    if asked_to_stop:
        return f"{STOPPED} {NEW_RUN_UNLESS_ACTIVE if findable and not remembered else NEW_RUN}"
    return REATTACHED if findable or remembered else LEFT_BEHIND


def timeout_error(
    workflow_run_id: str,
    status: RunStatus | None,
    deadline: Deadline,
    kind: type[DifyRunTimeoutError] = DifyRunTimeoutError,
    on_retry: str = NEW_RUN,
) -> DifyRunTimeoutError:
    """Return the exception for a run that had not ended at the deadline."""
    return kind(
        f"Dify run {workflow_run_id} had not ended at the deadline {deadline}, which follows from {deadline.limit}; it "
        f"was {status_words(status)}.",
        advice=f"Raise {deadline.limit} if such runs take longer.",
        on_retry=on_retry,
        where=deadline.limit,
        workflow_run_id=workflow_run_id,
    )


def paused_error(workflow_run_id: str, questions: list[str], on_retry: str = NEW_RUN) -> DifyRunPausedError:
    """Return the exception for a run that waits for a human where ``on_pause`` is ``fail``."""
    asked = (" " + " ".join(questions)) if questions else ""
    return DifyRunPausedError(
        f'Dify run {workflow_run_id} is paused until a human answers, and on_pause="fail" is set.{asked}',
        on_retry=on_retry,
        where="on_pause",
        workflow_run_id=workflow_run_id,
    )
