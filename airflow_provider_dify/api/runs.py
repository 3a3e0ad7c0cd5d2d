"""A workflow run as a value, and the parsers that hide how each server version writes it down."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from typing import Any

from airflow_provider_dify.api.values import (
    id_or_none,
    int_or_none,
    number_or_none,
    object_or_none,
    shape_of,
    text_or_none,
)
from airflow_provider_dify.exceptions import DifyResponseError, DifyRunNotFoundError

# A stream may call a stopped run `failed` with this text while its row says `stopped` (dify-behaviour.md, section 7).
STOP_ERROR = "Aborted: User requested stop"


class RunStatus(str, Enum):
    """Status of a run, in both API contracts (dify-behaviour.md, section 3.1; ``queued`` is of ``workflow-runs``).

    ``scheduled`` is in the enums of 1.11 and 1.14 and was never seen in an answer.
    """

    QUEUED = "queued"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    PARTIAL_SUCCEEDED = "partial-succeeded"
    FAILED = "failed"
    STOPPED = "stopped"

    def __str__(self) -> str:
        """Return the status as Dify writes it."""
        return self.value

    @property
    def is_terminal(self) -> bool:
        """Whether a run of this status has ended."""
        return self in _TERMINAL

    @property
    def is_success(self) -> bool:
        """Whether a run of this status has outputs to use."""
        return self in (RunStatus.SUCCEEDED, RunStatus.PARTIAL_SUCCEEDED)


_TERMINAL = frozenset({RunStatus.SUCCEEDED, RunStatus.PARTIAL_SUCCEEDED, RunStatus.FAILED, RunStatus.STOPPED})


@dataclass(frozen=True)
class WorkflowRun:
    """One run, as a server tells it.

    :param workflow_run_id: The run's id; a UUID on Dify, opaque in the ``workflow-runs`` contract.
    :param status: The run's status; the row that GET run answers is the authority, not an event.
    :param outputs: The outputs; empty where there are none. A failed run may carry some.
    :param error: Dify's error text; None without one (1.9.1 writes an empty string on success).
    :param workflow_id: Id of the workflow version that ran.
    :param inputs: The inputs as the server keeps them, with its ``sys.*`` variables.
    :param elapsed_time: Seconds the run took, by the server's own clock.
    :param total_tokens: Tokens used.
    :param total_steps: Nodes executed; always 0 on 1.9.1.
    :param created_at: Unix seconds.
    :param finished_at: Unix seconds; None until the run has ended.
    :param task_id: The id that a stop needs; only streams and blocking answers tell it.
    :param reasons: Why a run is paused, as the blocking answer or the pause event lists it.
    :param server_version: The server's version, from the ``x-version`` header of a poll; None without one.
    """

    workflow_run_id: str
    status: RunStatus
    outputs: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    workflow_id: str | None = None
    inputs: dict[str, Any] = field(default_factory=dict)
    elapsed_time: float | None = None
    total_tokens: int | None = None
    total_steps: int | None = None
    created_at: int | None = None
    finished_at: int | None = None
    task_id: str | None = None
    reasons: tuple[dict[str, Any], ...] = ()
    server_version: str | None = None

    @property
    def app_id(self) -> str | None:
        """The app's id, which servers tell only as the system variable ``sys.app_id`` of the inputs."""
        return id_or_none(self.inputs.get("sys.app_id"))

    @property
    def user(self) -> str | None:
        """The ``user`` of the submission, from the system variable ``sys.user_id``."""
        return text_or_none(self.inputs.get("sys.user_id"))


@dataclass(frozen=True)
class StartedRun:
    """A submission that the server accepted.

    :param workflow_run_id: The new run's id.
    :param task_id: The id that a stop needs; None where the answer did not tell it.
    :param app_id: The app's id, for the console link; None where the answer did not tell it.
    :param server_version: The server's version, from its ``x-version`` header; None without one.
    :param run: The run, where the answer already says how it ended or paused. GET run may say otherwise.
    :param settled: Whether the submission itself lasted to the run's end, so that a poll need not wait.
    """

    workflow_run_id: str
    task_id: str | None = None
    app_id: str | None = None
    server_version: str | None = None
    run: WorkflowRun | None = None
    settled: bool = False


@dataclass(frozen=True, slots=True)
class LoggedRun:
    """A row of the workflow logs: enough to find a run, not enough to use its outputs.

    :param user: The ``user`` of the submission; None for a run of an account, in the console.
    :param version: The version of the workflow that ran, as Dify names it: the moment of its publication.
    :param account: E-mail address of the account that started it in the console; None for a run of the API.
    :param exceptions_count: Errors that the workflow handled by itself.
    """

    workflow_run_id: str
    status: RunStatus
    user: str | None
    error: str | None
    created_at: int | None
    finished_at: int | None
    elapsed_time: float | None = None
    total_tokens: int | None = None
    total_steps: int | None = None
    exceptions_count: int | None = None
    version: str | None = None
    account: str | None = None


@dataclass(frozen=True)
class LogPage:
    """One page of the workflow logs, newest first."""

    runs: tuple[LoggedRun, ...]
    page: int
    has_more: bool
    server_version: str | None = None

    @cached_property
    def running(self) -> frozenset[str]:
        """Ids, in lower case, of the runs that every row of theirs calls running."""
        by_state: tuple[set[str], set[str]] = (set(), set())
        for row in self.runs:
            by_state[row.status is RunStatus.RUNNING].add(row.workflow_run_id.lower())
        return frozenset(by_state[True] - by_state[False])

    def running_row(self, workflow_run_id: str) -> LoggedRun | None:
        """Return the row of a run that every row of it calls running, else None."""
        own = workflow_run_id.lower()
        rows = self.runs if own in self.running else ()
        return next((row for row in rows if row.workflow_run_id.lower() == own), None)


@dataclass(frozen=True)
class UploadedFile:
    """A file that Dify keeps for its uploader: ``upload_file_id`` goes into ``files`` or a file input."""

    upload_file_id: str
    name: str | None
    size: int | None
    extension: str | None
    mime_type: str | None


@dataclass(frozen=True)
class AppInfo:
    """What ``GET /info`` reports about the key's app.

    :param mode: The type of the app: ``workflow`` for one that can be run.
    :param author_name: Who has made it; None where the server does not tell.
    :param server_version: From the ``x-version`` header; None without one.
    """

    name: str
    mode: str | None
    server_version: str | None = None
    description: str = ""
    tags: tuple[str, ...] = ()
    author_name: str | None = None


def _mapping(payload: Any, what: str) -> dict[str, Any]:
    if not isinstance(payload, dict):
        raise DifyResponseError(f"{what} should be a JSON object, got {shape_of(payload)}.")
    return payload


def _status(value: Any, error: str | None, what: str) -> RunStatus:
    try:
        status = RunStatus(value)
    except ValueError:
        shown = repr(value[:40]) if isinstance(value, str) else shape_of(value)
        known = ", ".join(RunStatus)
        raise DifyResponseError(f"{what} has the unknown status {shown}; known are: {known}.") from None
    if status is RunStatus.FAILED and error is not None and error.startswith(STOP_ERROR):
        return RunStatus.STOPPED
    return status


def _run(data: dict[str, Any], run_id: str, what: str) -> WorkflowRun:
    error = text_or_none(data.get("error"))
    status = _status(data.get("status"), error, what)
    outputs = object_or_none(data.get("outputs"))
    if outputs is None:
        raise DifyResponseError(
            f"{what} has outputs that are no JSON object but {shape_of(data['outputs'])}.",
            workflow_run_id=run_id,
        )
    reasons = data.get("reasons")
    return WorkflowRun(
        workflow_run_id=run_id,
        status=status,
        outputs=outputs,
        error=error,
        workflow_id=id_or_none(data.get("workflow_id")),
        inputs=object_or_none(data.get("inputs")) or {},
        elapsed_time=number_or_none(data.get("elapsed_time")),
        total_tokens=int_or_none(data.get("total_tokens")),
        total_steps=int_or_none(data.get("total_steps")),
        created_at=int_or_none(data.get("created_at")),
        finished_at=int_or_none(data.get("finished_at")),
        task_id=id_or_none(data.get("task_id")),
        reasons=tuple(r for r in reasons if isinstance(r, dict)) if isinstance(reasons, list) else (),
    )


def parse_run(payload: Any, run_id: str) -> WorkflowRun:
    """Read the answer of GET run, of either contract.

    :param payload: The decoded JSON.
    :param run_id: The run that was asked for.
    :raises DifyRunNotFoundError: All fields are null: how 1.9 and 1.11 show a run they do not know.
    :raises DifyResponseError: The answer is not a run, or is another run.
    """
    what = f"The answer about run {run_id}"
    data = _mapping(payload, what)
    found = data.get("id") or data.get("workflow_run_id")
    if found is None and data.get("status") is None:
        raise DifyRunNotFoundError(
            f"The server shows no run {run_id} to this API key. The id may be of another app, "
            "or the run's row may not be written yet.",
            workflow_run_id=run_id,
        )
    if found is not None and str(found).lower() != run_id.lower():
        raise DifyResponseError(f"{what} is about another run.", workflow_run_id=run_id)
    return _run(data, run_id, what)


def parse_submitted(payload: Any, server_version: str | None = None) -> StartedRun:
    """Read the JSON answer of a submission: a finished or paused blocking run, or an asynchronous receipt.

    :raises DifyResponseError: No run id is in it.
    """
    what = "The answer to the submission"
    data = _mapping(payload, what)
    inner = data.get("data") if isinstance(data.get("data"), dict) else {}
    assert isinstance(inner, dict)
    run_id = id_or_none(data.get("workflow_run_id")) or id_or_none(inner.get("id"))
    if run_id is None:
        raise DifyResponseError(f"{what} names no workflow_run_id that can be one; its keys are {sorted(data)[:12]}.")
    task_id = id_or_none(data.get("task_id"))
    run = None
    if inner.get("status") is not None:
        run = replace(_run(inner, run_id, what), task_id=task_id)
    return StartedRun(
        run_id,
        task_id,
        server_version=server_version,
        run=run,
        settled=run is not None and run.status.is_terminal,
    )


def parse_log_page(payload: Any, server_version: str | None = None) -> LogPage:
    """Read a page of the workflow logs. Rows that name no run or no known status are left out.

    :raises DifyResponseError: It is not a page of logs.
    """
    what = "The answer with workflow logs"
    data = _mapping(payload, what)
    rows = data.get("data")
    if not isinstance(rows, list):
        raise DifyResponseError(f"{what} has no list of rows; its keys are {sorted(data)[:12]}.")
    runs = (_logged_run(row) for row in rows)
    return LogPage(
        runs=tuple(run for run in runs if run is not None),
        page=int_or_none(data.get("page")) or 1,
        has_more=data.get("has_more") is True,
        server_version=server_version,
    )


def _status_or_none(value: Any, error: str | None) -> RunStatus | None:
    try:
        return _status(value, error, "A row of the workflow logs")
    except DifyResponseError:
        return None


def _logged_run(row: Any) -> LoggedRun | None:
    run = row.get("workflow_run") if isinstance(row, dict) else None
    run_id = id_or_none(run.get("id")) if isinstance(run, dict) else None
    if run_id is None or not isinstance(run, dict):
        return None
    error = text_or_none(run.get("error"))
    text = run.get("status")
    # Most rows of a page that is asked for again and again are of runs that go on.
    status = RunStatus.RUNNING if text == "running" else _status_or_none(text, error)
    if status is None:
        return None
    end_user, account = row.get("created_by_end_user"), row.get("created_by_account")
    return LoggedRun(
        workflow_run_id=run_id,
        status=status,
        user=text_or_none(end_user.get("session_id")) if isinstance(end_user, dict) else None,
        error=error,
        created_at=int_or_none(run.get("created_at")),
        finished_at=int_or_none(run.get("finished_at")),
        elapsed_time=number_or_none(run.get("elapsed_time")),
        total_tokens=int_or_none(run.get("total_tokens")),
        total_steps=int_or_none(run.get("total_steps")),
        exceptions_count=int_or_none(run.get("exceptions_count")),
        version=text_or_none(run.get("version")),
        account=text_or_none(account.get("email")) if isinstance(account, dict) else None,
    )


def parse_upload(payload: Any) -> UploadedFile:
    """Read the answer of an upload.

    :raises DifyResponseError: No file id is in it.
    """
    what = "The answer to the upload"
    data = _mapping(payload, what)
    file_id = id_or_none(data.get("id"))
    if file_id is None:
        raise DifyResponseError(f"{what} names no file id; its keys are {sorted(data)[:12]}.")
    return UploadedFile(
        upload_file_id=file_id,
        name=text_or_none(data.get("name")),
        size=int_or_none(data.get("size")),
        extension=text_or_none(data.get("extension")),
        mime_type=text_or_none(data.get("mime_type")),
    )


def parse_info(payload: Any, server_version: str | None = None) -> AppInfo:
    """Read the answer of GET info.

    :raises DifyResponseError: It does not name an app.
    """
    data = _mapping(payload, "The answer about the app")
    name = text_or_none(data.get("name"))
    if name is None:
        raise DifyResponseError(f"The answer about the app names none; its keys are {sorted(data)[:12]}.")
    tags = data.get("tags")
    return AppInfo(
        name=name,
        mode=text_or_none(data.get("mode")),
        server_version=server_version,
        description=text_or_none(data.get("description")) or "",
        tags=tuple(tag for tag in tags if isinstance(tag, str)) if isinstance(tags, list) else (),
        author_name=text_or_none(data.get("author_name")),
    )


def parse_parameters(payload: Any) -> dict[str, Any]:
    """Read the answer of GET parameters: the app's input form and settings, as Dify writes them.

    :raises DifyResponseError: It is not a JSON object.
    """
    return _mapping(payload, "The answer about the app's parameters")


def parse_accepted(payload: Any) -> None:
    """Read an answer that carries nothing but its arrival (a stop).

    :raises DifyResponseError: It is not a JSON object.
    """
    _mapping(payload, "The answer")
