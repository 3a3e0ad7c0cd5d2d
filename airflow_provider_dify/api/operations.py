"""Every operation as a value: what to ask, and how to read the answer. What both API contracts share."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, BinaryIO, Generic, Protocol, TypeVar
from urllib.parse import urlencode

from airflow_provider_dify.api import runs
from airflow_provider_dify.api.checks import guarded, plain_text
from airflow_provider_dify.api.errors import Answer, error_for_answer
from airflow_provider_dify.api.human_input import HumanInputForm
from airflow_provider_dify.api.input_form import InputForm
from airflow_provider_dify.api.runs import AppInfo, LogPage, StartedRun, UploadedFile, WorkflowRun
from airflow_provider_dify.api.tracing import Trace
from airflow_provider_dify.api.upload_names import check_mime_type, check_name
from airflow_provider_dify.api.values import MAX_ID_CHARS, decode_json, id_or_none, shape_of
from airflow_provider_dify.exceptions import DifyInvalidInputError, DifyNotFoundError, DifyRunNotFoundError

USER_MAX_CHARS = 255
LOGS_MAX_LIMIT = 100
NO_TRACE = Trace()


T = TypeVar("T")


@dataclass(frozen=True)
class Upload:
    """A file to send as the part ``file`` of a multipart form, from the start each time, where it stood at first.

    :param stream: A seekable binary file.
    :param name: File name that Dify keeps.
    :param mime_type: Its MIME type.
    """

    stream: BinaryIO
    name: str
    mime_type: str
    start: int = field(init=False)
    size: int = field(init=False)

    def __post_init__(self) -> None:
        """Measure the file, once for all times that it is sent.

        :raises DifyInvalidInputError: Its name or type cannot stand in a request.
        """
        object.__setattr__(self, "name", check_name(self.name, "name"))
        object.__setattr__(self, "mime_type", check_mime_type(self.mime_type, "mime_type"))
        start = self.stream.tell()
        object.__setattr__(self, "start", start)
        object.__setattr__(self, "size", self.stream.seek(0, os.SEEK_END) - start)
        self.stream.seek(start)


@dataclass(frozen=True)
class Call:
    """One HTTP request, without host, authentication and transport.

    :param method: HTTP method.
    :param path: Path below the connection's base URL, percent-encoded.
    :param what: What the call does, as the subject of an error message.
    :param query: Query parameters.
    :param json: Body as JSON, or None.
    :param fields: Form fields that go with ``upload``.
    :param upload: A file to send, or None.
    :param repeatable: Whether the transport may send it again after a network error or a 5xx. A submission
        is not: sent twice, it may run twice.
    :param streaming: Whether the answer may be a stream of events.
    :param headers: Headers of this call alone.
    :param secret: What of the path no message may show; None where all of it may be shown.
    :param remedies: What to do about errors of this call, by Dify's codes, where it is not the usual.
    """

    method: str
    path: str
    what: str
    query: Mapping[str, str] = field(default_factory=dict)
    json: Mapping[str, Any] | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    upload: Upload | None = None
    repeatable: bool = True
    streaming: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    secret: str | None = None
    remedies: Mapping[str, str] = field(default_factory=dict)

    @property
    def target(self) -> str:
        """Path and query, as they are appended to the base URL."""
        return f"{self.path}?{urlencode(self.query)}" if self.query else self.path

    @property
    def body(self) -> bytes | None:
        """The JSON body as bytes, or None."""
        return None if self.json is None else json.dumps(self.json, allow_nan=False).encode("ascii")


@dataclass(frozen=True)
class Operation(Generic[T]):
    """A call and the reading of its answer: the unit that worker and triggerer share."""

    call: Call
    parse: Callable[[Answer], T]

    def read(self, answer: Answer) -> T:
        """Turn an answer into the operation's value.

        :raises DifyError: The answer is an error, or is not what the operation answers.
        """
        self.check(answer)
        return self.parse(answer)

    def check(self, answer: Answer) -> None:
        """Let an answer pass that is no error.

        :raises DifyError: It is one.
        """
        if not answer.ok:
            raise error_for_answer(answer, self.call.what, self.call.remedies, reads=self.call.method == "GET")


def read_json(answer: Answer, what: str) -> Any:
    """Decode the JSON of a successful answer.

    :raises DifyResponseError: It is no JSON, for example the login page of a gateway.
    """
    if answer.is_html:
        raise error_for_answer(answer, what)
    return decode_json(answer.body, f"{what}: the answer")


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


class ApiContract(Protocol):
    """The operations that every contract names; one that a contract lacks raises ``DifyUnsupportedError``."""

    name: str

    def check_run_id(self, workflow_run_id: Any, field_name: str = "workflow_run_id") -> str:
        """Return a usable run id or raise ``DifyInvalidInputError``."""

    def run(
        self,
        *,
        inputs: Mapping[str, Any],
        user: str,
        response_mode: str,
        files: list[dict[str, Any]] | None,
        query: str | None,
        workflow_id: str | None,
        trace: Trace,
    ) -> Operation[StartedRun]:
        """Start a run."""

    def get_run(self, workflow_run_id: str) -> Operation[WorkflowRun]:
        """Ask for a run."""

    def stop(self, task_id: str, user: str) -> Operation[None]:
        """Ask Dify to stop a run."""

    def logs(
        self,
        *,
        user: str | None = None,
        account: str | None = None,
        created_after: datetime | str | None = None,
        created_before: datetime | str | None = None,
        status: str | None = None,
        keyword: str | None = None,
        page: int = 1,
        limit: int = LOGS_MAX_LIMIT,
    ) -> Operation[LogPage]:
        """Ask for a page of the workflow logs."""

    def run_events(
        self, workflow_run_id: str, user: str, *, snapshot: bool, over_pauses: bool = False
    ) -> Operation[None]:
        """Follow the events of a run."""

    def upload(self, upload: Upload, user: str) -> Operation[UploadedFile]:
        """Upload a file."""

    def info(self) -> Operation[AppInfo]:
        """Ask for the key's app."""

    def parameters(self) -> Operation[dict[str, Any]]:
        """Ask for the app's input form."""

    def human_input_form(self, form_token: str) -> Operation[HumanInputForm]:
        """Ask for the form by which a paused run asks a human."""

    def submit_human_input(
        self, form_token: str, *, action: str, inputs: Mapping[str, Any], user: str
    ) -> Operation[None]:
        """Answer such a form."""

    def input_form(self) -> Operation[InputForm]:
        """Ask for the same, read."""


def check_id(value: Any, field_name: str) -> str:
    """Return an opaque id.

    :raises DifyInvalidInputError: It is no string, empty, or cannot be an id.
    """
    text = (plain_text(value) or "").strip()
    if text:
        if id_or_none(text) is None:
            raise DifyInvalidInputError(
                f"{field_name} must be at most {MAX_ID_CHARS} printable characters, and neither . nor .., got "
                f"{shape_of(value)}. Nothing was sent.",
                advice="Use the id as Dify returned it.",
                where=field_name,
            )
        return text
    with guarded(value, field_name):
        why = _why_no_id(value, field_name)
    raise DifyInvalidInputError(
        f"{field_name} must be a non-empty string, got {shape_of(value)}.", advice=why, where=field_name
    )


def _why_no_id(value: Any, field_name: str) -> str:
    if isinstance(value, Mapping):
        return (
            "If it is what another task returned, that task has waited for its run and returned the outputs. Set "
            "wait_for_termination=False on the task that starts the run, and it returns the run's id."
        )
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        return (
            f"If these are the ids of a mapped task, map this task too: .partial(…).expand({field_name}=…) waits for "
            "each of them."
        )
    return "If it comes from XCom, the task that pushes it may not have run."
