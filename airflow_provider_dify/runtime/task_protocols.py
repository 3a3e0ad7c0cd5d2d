"""What one try of a task needs of its operator or sensor, and of the hook: for type checks alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from datetime import timedelta
from typing import Any, BinaryIO, Protocol, TypeVar

from airflow_provider_dify.api.operations import ApiContract
from airflow_provider_dify.api.runs import StartedRun, UploadedFile, WorkflowRun
from airflow_provider_dify.client.downloads import SavedFile
from airflow_provider_dify.client.store_writing import FileGroup
from airflow_provider_dify.connection import DifyConnection
from airflow_provider_dify.exceptions import DifyError
from airflow_provider_dify.rules.polling import Deadline, PollResult
from airflow_provider_dify.rules.settings import PollSchedule
from airflow_provider_dify.runtime.input_form_cache import KnownForm

T = TypeVar("T")


class TaskHook(Protocol):
    """The hook, as far as a task uses it; see ``DifyHook`` and ``WorkerClient``."""

    dify_conn_id: str

    @property
    def connection(self) -> DifyConnection: ...
    @property
    def api(self) -> ApiContract: ...
    def get_conn(self) -> Any: ...
    def close(self) -> None: ...
    def redact(self, text: str) -> str: ...
    def poll(self, workflow_run_id: str, *, timeout: float | None = None) -> PollResult: ...
    def follow(self, flow: Generator[Any, Any, T], log: Callable[[str], None], deadline: Deadline) -> T: ...
    def require_server(self) -> None: ...
    def check_server(self) -> DifyError | None: ...
    def find_started(self, user: str) -> str | None: ...
    def find_task_id(self, workflow_run_id: str, user: str) -> str | None: ...
    def known_form(self, *, fresh: bool = False) -> KnownForm: ...
    def get_pause_questions(self, run: WorkflowRun) -> list[str]: ...
    def get_workflow_run(self, workflow_run_id: str) -> WorkflowRun: ...
    def stop_workflow_run(self, task_id: str, *, user: str = "airflow") -> None: ...
    def create_workflow_run(
        self,
        inputs: Mapping[str, Any] | str | None = None,
        *,
        user: str,
        response_mode: str = "streaming",
        files: list[Any] | str | None = None,
        query: str | None = None,
        workflow_id: str | None = None,
        trace_id: str | None = None,
        traceparent: str | None = None,
        submit_timeout: float = ...,
        timeout: float = ...,
        before_send: Callable[[], None] | None = None,
        on_started: Callable[[StartedRun], None] | None = None,
    ) -> StartedRun: ...
    def upload_file(
        self,
        file: str | os.PathLike[str] | BinaryIO,
        *,
        user: str,
        name: str | None = None,
        mime_type: str | None = None,
    ) -> UploadedFile: ...
    def download_file(
        self,
        file: str | Mapping[str, Any],
        destination: str | os.PathLike[str] | Any,
        *,
        allowed_hosts: Collection[str] = (),
        max_bytes: int = ...,
        group: FileGroup | None = None,
    ) -> SavedFile: ...


class SavingTask(Protocol):
    """An operator or sensor that saves what a run has put out."""

    output_files_to: Any
    outputs_to: Any
    allowed_file_hosts: Any
    max_file_bytes: int
    max_xcom_bytes: int


class WaitingTask(SavingTask, Protocol):
    """An operator or sensor that waits for a run."""

    dify_conn_id: str
    deferrable: bool
    defer_after: float
    on_pause: str
    follow_events: bool
    fail_on_partial_success: bool
    execution_timeout: timedelta | None

    @property
    def hook(self) -> Any: ...
    @property
    def log(self) -> Any: ...


class RunWorkflowTask(WaitingTask, Protocol):
    """The operator, as far as its try uses it; see ``DifyRunWorkflowOperator``."""

    inputs: Mapping[str, Any] | str | None
    files: Sequence[Any] | str | None
    validate_inputs: bool
    query: str | None
    user: str | None
    workflow_id: str | None
    trace: bool
    trace_id: str | None
    response_mode: str
    submit_timeout: float
    wait_for_termination: bool
    poll_interval: float
    max_poll_interval: float
    timeout: float
    durable: bool
    cancel_on_kill: bool
    cancel_on_timeout: bool
    on_rate_limit: str
    on_orphaned_intent: str
    allowed_upload_roots: Any
    retries: int | None

    @property
    def known_run(self) -> StartedRun | None: ...


class RunSensorTask(WaitingTask, Protocol):
    """The sensor, as far as its try uses it; see ``DifyWorkflowRunSensor``."""

    workflow_run_id: Any
    timeout: float
    soft_fail: bool
    never_fail: bool

    @property
    def schedule(self) -> PollSchedule: ...
