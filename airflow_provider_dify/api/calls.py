"""Every operation as a value: what to ask, and how to read the answer. Both API contracts."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from http import HTTPStatus
from typing import Any, BinaryIO, Generic, Protocol, TypeVar
from urllib.parse import quote, unquote, urlencode

from airflow_provider_dify.api import human_input, runs
from airflow_provider_dify.api.checks import check_number, check_text, guarded, plain_text, preview
from airflow_provider_dify.api.errors import Answer, error_for_answer
from airflow_provider_dify.api.forms import InputForm
from airflow_provider_dify.api.human_input import HumanInputForm
from airflow_provider_dify.api.runs import AppInfo, LogPage, StartedRun, UploadedFile, WorkflowRun
from airflow_provider_dify.api.server import Server
from airflow_provider_dify.api.tracing import Trace
from airflow_provider_dify.api.uploads import check_mime_type, check_name
from airflow_provider_dify.api.values import MAX_ID_CHARS, decode_json, is_id, shape_of
from airflow_provider_dify.exceptions import (
    DifyInvalidInputError,
    DifyNotFoundError,
    DifyRunNotFoundError,
    DifyUnsupportedError,
)
from airflow_provider_dify.names import SERVICE_API, WORKFLOW_RUNS

USER_MAX_CHARS = 255
LOGS_MAX_LIMIT = 100
LOGS_MAX_PAGE = 99_999
LOGGED_STATUSES = ("succeeded", "failed", "stopped")
_CHECK_FILTERS = (
    "Check the filters of the logs: account must be the e-mail address of a member of the app's workspace, and status "
    f"one of {', '.join(LOGGED_STATUSES)}."
)
NO_TRACE = Trace()

_TOKEN_CHARS = 8
_COMPARE_FORM = (
    "Compare action and inputs with the form that get_human_input_form returns: its actions, and a value of the right "
    "type for each of its fields. The run still waits for an answer."
)
_FORM_REMEDIES = {
    "human_input_form_submitted": (
        "A form can be answered once, and this one has been: by somebody else, or by an earlier try. Read how the run "
        "goes on with get_workflow_run; if it is paused again, get_form_tokens tells the token of its next form."
    ),
    "human_input_form_expired": (
        "The time to answer the form is over. Read with get_workflow_run what became of its run."
    ),
    "invalid_form_data": _COMPARE_FORM,
    "invalid_param": _COMPARE_FORM,
    "not_found": (
        "There is no such form for the app whose API key is used. Take the token of the run's present form from "
        "get_form_tokens, over the connection of the run's own app."
    ),
}

T = TypeVar("T")


@dataclass(frozen=True)
class Upload:
    """A file to send as the part ``file`` of a multipart form, each time anew from where it stood at first.

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
        if not is_id(text):
            raise DifyInvalidInputError(
                f"{field_name} must be at most {MAX_ID_CHARS} printable characters, and neither . nor .., and is "
                f"{shape_of(value)}. Nothing was sent: use it as Dify told it."
            )
        return text
    with guarded(value, field_name):
        why = _why_no_id(value, field_name)
    raise DifyInvalidInputError(f"{field_name} must be a non-empty string and is {shape_of(value)}. {why}")


def _why_no_id(value: Any, field_name: str) -> str:
    if isinstance(value, Mapping):
        return (
            "If it is what another task returned, that task has waited for its run and returned the outputs: set "
            "wait_for_termination=False on the task that starts the run, and it returns the run's id."
        )
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        return (
            f"If these are the ids of a mapped task, map this task too: .partial(…).expand({field_name}=…) waits for "
            "each of them."
        )
    return "If it comes from XCom, the task that pushes it may not have run."


def _check_uuid(value: Any, field_name: str) -> str:
    text = check_id(value, field_name)
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise DifyInvalidInputError(
            f"{field_name} must be a UUID such as 6b454183-889f-4bc9-8060-764be1cb16ea and is a string of "
            f"{len(text)} characters. Dify answers other ids with an internal error, so nothing was sent."
        ) from None


def _moment(value: Any, field_name: str) -> str | None:
    """Return a moment as Dify reads it; the text of one may end in Z, which Python reads only from 3.11 on."""
    if value is None:
        return None
    with guarded(value, field_name):
        return _as_dify_reads(value, field_name)


def _as_dify_reads(value: Any, field_name: str) -> str:
    moment = value
    if (text := plain_text(value)) is not None:
        text = text.strip()
        try:
            moment = datetime.fromisoformat(f"{text[:-1]}+00:00" if text[-1:] in ("Z", "z") else text)
        except ValueError:
            raise DifyInvalidInputError(
                f"{field_name} is a text that is no time in ISO 8601 ({shape_of(value)}): write it as "
                "2026-01-31T00:00:00+00:00, or pass a datetime with a time zone."
            ) from None
    if not isinstance(moment, datetime):
        raise DifyInvalidInputError(
            f"{field_name} must be a datetime with a time zone, or its text in ISO 8601, and is {shape_of(value)}."
        )
    if moment.utcoffset() is None:
        raise DifyInvalidInputError(
            f"{field_name} has no time zone: add one, such as datetime(2026, 1, 31, tzinfo=timezone.utc) or a text "
            "that ends in Z."
        )
    # Of the base class, for what a subclass writes may be no ISO 8601.
    return datetime.isoformat(moment, timespec="seconds")


def _filter_text(value: Any, field_name: str) -> str | None:
    text = plain_text(value)
    if value is not None and not text:
        raise DifyInvalidInputError(f"{field_name} must be a non-empty string or None and is {shape_of(value)}.")
    check_text(text or "", field_name)
    return text


def _logged_status(value: Any) -> str | None:
    text = plain_text(value)
    if value is None or text in LOGGED_STATUSES:
        return text
    shown = preview(text) if text is not None else shape_of(value)
    raise DifyInvalidInputError(
        f"status must be one of {', '.join(LOGGED_STATUSES)} and is {shown}: Dify filters its logs by no other. Leave "
        "it out and read the status of each run that is listed."
    )


class ServiceApi:
    """Dify's own Service API: every operation there is (API facts, sections 1 to 11)."""

    name = SERVICE_API

    def check_run_id(self, workflow_run_id: Any, field_name: str = "workflow_run_id") -> str:
        """Return the run id in its usual form.

        :raises DifyInvalidInputError: It is no UUID; Dify would answer 500 (API facts, section 3).
        """
        return _check_uuid(workflow_run_id, field_name)

    def run(
        self,
        *,
        inputs: Mapping[str, Any],
        user: str,
        response_mode: str,
        files: list[dict[str, Any]] | None = None,
        query: str | None = None,
        workflow_id: str | None = None,
        trace: Trace = NO_TRACE,
    ) -> Operation[StartedRun]:
        """Start a run of the published workflow, or of one published version of it.

        :raises DifyInvalidInputError: ``query`` is given (Dify would drop it silently) or ``workflow_id``
            is no UUID.
        """
        if query is not None:
            raise DifyInvalidInputError(
                "query is only part of the workflow-runs contract; Dify's Service API drops it silently. "
                "Pass the text as one of the workflow's inputs."
            )
        path = "/workflows/run"
        if workflow_id is not None:
            path = f"/workflows/{_check_uuid(workflow_id, 'workflow_id')}/run"
        return _submission(
            path,
            inputs=inputs,
            user=user,
            response_mode=response_mode,
            files=files,
            trace_id=trace.key,
            headers=trace.headers,
        )

    def get_run(self, workflow_run_id: str) -> Operation[WorkflowRun]:
        """Ask for a run; unknown ones raise ``DifyRunNotFoundError`` whichever way the server shows it."""
        run_id = self.check_run_id(workflow_run_id)
        return _run_look(f"/workflows/run/{run_id}", run_id)

    def stop(self, task_id: str, user: str) -> Operation[None]:
        """Ask Dify to stop a run. Its answer is always success and proves nothing (API facts, section 7)."""
        call = Call(
            "POST",
            f"/workflows/tasks/{quote(check_id(task_id, 'task_id'), safe='')}/stop",
            "Stopping the run",
            json={"user": user},
        )
        return Operation(call, lambda answer: runs.parse_accepted(read_json(answer, call.what)))

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
        """Ask for a page of the workflow logs, newest first.

        :raises DifyInvalidInputError: A filter is of another type, a status or a limit is none that Dify takes, or a
            time has no time zone.
        """
        query = {
            "created_by_end_user_session_id": _filter_text(user, "user"),
            "created_by_account": _filter_text(account, "account"),
            "created_at__after": _moment(created_after, "created_after"),
            "created_at__before": _moment(created_before, "created_before"),
            "status": _logged_status(status),
            "keyword": _filter_text(keyword, "keyword"),
            "page": str(check_number(page, "page", 1, LOGS_MAX_PAGE)),
            "limit": str(check_number(limit, "page_size", 1, LOGS_MAX_LIMIT)),
        }
        call = Call(
            "GET",
            "/workflows/logs",
            "Reading the workflow logs",
            query={name: value for name, value in query.items() if value is not None},
            remedies=dict.fromkeys(("invalid_param", "bad_request", ""), _CHECK_FILTERS),
        )
        return Operation(call, lambda answer: runs.parse_log_page(read_json(answer, call.what), answer.server_version))

    def run_events(
        self, workflow_run_id: str, user: str, *, snapshot: bool = False, over_pauses: bool = False
    ) -> Operation[None]:
        """Follow a run's events (1.14 and later; API facts, section 9).

        :param user: The ``user`` of the submission.
        :param snapshot: Whether the past is replayed first.
        :param over_pauses: Whether the stream stays open while the run waits for a human. It has no end of its own
            without a snapshot: stop reading at ``workflow_finished``.
        """
        run_id = self.check_run_id(workflow_run_id)
        query = {"user": user}
        if snapshot:
            query["include_state_snapshot"] = "true"
        if over_pauses:
            query["continue_on_pause"] = "true"
        call = Call(
            "GET",
            f"/workflow/{run_id}/events",
            f"Following the events of run {run_id}",
            query=query,
            streaming=True,
        )
        return Operation(call, lambda answer: None)

    def upload(self, upload: Upload, user: str) -> Operation[UploadedFile]:
        """Upload a file; from 1.14 on only a run of the same ``user`` may use it (API facts, section 10)."""
        call = Call(
            "POST",
            "/files/upload",
            f"Uploading {preview(upload.name, 200)}",
            fields={"user": user},
            upload=upload,
            repeatable=False,
        )
        return Operation(call, lambda answer: runs.parse_upload(read_json(answer, call.what)))

    def info(self) -> Operation[AppInfo]:
        """Ask for the key's app."""
        call = Call("GET", "/info", "Reading the app's information")
        return Operation(call, lambda answer: runs.parse_info(read_json(answer, call.what), answer.server_version))

    def parameters(self) -> Operation[dict[str, Any]]:
        """Ask for the app's input form; an app that was never published raises ``DifyAppError``."""
        call = Call("GET", "/parameters", "Reading the app's input form")
        return Operation(call, lambda answer: runs.parse_parameters(read_json(answer, call.what)))

    def human_input_form(self, form_token: str) -> Operation[HumanInputForm]:
        """Ask for the form by which a paused run asks a human (1.14 and later; API facts, section 9)."""
        path, secret = _form_path(form_token)
        call = Call("GET", path, "Reading the human-input form", secret=secret)
        return _SinceHumanInput(call, lambda answer: human_input.parse_form(read_json(answer, call.what)))

    def submit_human_input(
        self, form_token: str, *, action: str, inputs: Mapping[str, Any], user: str
    ) -> Operation[None]:
        """Answer such a form; the run goes on. A form can be answered once, so the call is not repeated."""
        path, secret = _form_path(form_token)
        call = Call(
            "POST",
            path,
            "Answering the human-input form",
            json={"inputs": dict(inputs), "action": check_id(action, "action"), "user": user},
            repeatable=False,
            secret=secret,
        )
        return _SinceHumanInput(call, lambda answer: runs.parse_accepted(read_json(answer, call.what)))

    def input_form(self) -> Operation[InputForm]:
        """Ask for what the inputs of a run must be; errors as for ``parameters``."""
        raw = self.parameters()
        return Operation(raw.call, lambda answer: InputForm.parse(raw.parse(answer), answer.server_version))


class WorkflowRunsApi:
    """The asynchronous contract of gateways before Dify: submit and status, nothing else."""

    name = WORKFLOW_RUNS

    def check_run_id(self, workflow_run_id: Any, field_name: str = "workflow_run_id") -> str:
        """Return the run id; ids of this contract are opaque.

        :raises DifyInvalidInputError: It is no string or empty.
        """
        return check_id(workflow_run_id, field_name)

    def run(
        self,
        *,
        inputs: Mapping[str, Any],
        user: str,
        response_mode: str,
        files: list[dict[str, Any]] | None = None,
        query: str | None = None,
        workflow_id: str | None = None,
        trace: Trace = NO_TRACE,
    ) -> Operation[StartedRun]:
        """Start a run.

        :raises DifyInvalidInputError: ``workflow_id`` is missing; this contract's route names it.
        """
        if workflow_id is None:
            raise DifyInvalidInputError(
                "workflow_id is missing: the workflow-runs contract names the workflow in its route. "
                "Pass workflow_id, or set the connection's api_contract to service-api."
            )
        path = f"/workflows/{quote(check_id(workflow_id, 'workflow_id'), safe='')}/run"
        # Dify's own key is not of this contract, whose gateway may refuse what it does not know.
        return _submission(
            path,
            inputs=inputs,
            user=user,
            response_mode=response_mode,
            files=files,
            query=query,
            headers=trace.headers,
        )

    def get_run(self, workflow_run_id: str) -> Operation[WorkflowRun]:
        """Ask for a run."""
        run_id = self.check_run_id(workflow_run_id)
        return _run_look(f"/workflow-runs/{quote(run_id, safe='')}", run_id)

    def stop(self, task_id: str, user: str) -> Operation[None]:
        """There is no stop in this contract."""
        raise self._unsupported("stop a run")

    def logs(self, **filters: Any) -> Operation[LogPage]:
        """There are no logs in this contract."""
        raise self._unsupported("list or find runs")

    def run_events(
        self, workflow_run_id: str, user: str, *, snapshot: bool = False, over_pauses: bool = False
    ) -> Operation[None]:
        """There is no events route in this contract."""
        raise self._unsupported("follow a run's events")

    def upload(self, upload: Upload, user: str) -> Operation[UploadedFile]:
        """There is no upload in this contract."""
        raise self._unsupported("upload a file")

    def info(self) -> Operation[AppInfo]:
        """There is no app information in this contract."""
        raise self._unsupported("read the app's information")

    def parameters(self) -> Operation[dict[str, Any]]:
        """There is no input form in this contract."""
        raise self._unsupported("read the app's input form")

    def human_input_form(self, form_token: str) -> Operation[HumanInputForm]:
        """There are no forms in this contract."""
        raise self._unsupported("read a human-input form")

    def submit_human_input(
        self, form_token: str, *, action: str, inputs: Mapping[str, Any], user: str
    ) -> Operation[None]:
        """There are no forms in this contract."""
        raise self._unsupported("answer a human-input form")

    def input_form(self) -> Operation[InputForm]:
        """There is no input form in this contract."""
        raise self._unsupported("read the app's input form")

    @staticmethod
    def _unsupported(deed: str) -> DifyUnsupportedError:
        return DifyUnsupportedError(
            f"The workflow-runs contract has no route to {deed}. "
            "If the server is a Dify server, set the connection's api_contract to service-api."
        )


def contract(name: str) -> ApiContract:
    """Return the operations of the contract of this name (``service-api`` or ``workflow-runs``)."""
    return WorkflowRunsApi() if name == WORKFLOW_RUNS else ServiceApi()


def _submission(
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


def _run_look(path: str, run_id: str) -> Operation[WorkflowRun]:
    call = Call("GET", path, f"Reading run {run_id}")

    def parse(answer: Answer) -> WorkflowRun:
        return replace(runs.parse_run(read_json(answer, call.what), run_id), server_version=answer.server_version)

    return _RunLook(call, parse)


class _RunLook(Operation[WorkflowRun]):
    """A look at a run, for which Dify's own 404 means: no such run."""

    def read(self, answer: Answer) -> WorkflowRun:
        """Turn an answer into a run, or raise ``DifyRunNotFoundError`` for one that is not shown."""
        try:
            return super().read(answer)
        except DifyNotFoundError as error:
            if answer.is_html:
                raise
            raise DifyRunNotFoundError(error.message, status_code=error.status_code, code=error.code) from error


def _form_path(form_token: str) -> tuple[str, str]:
    """Return a form's path, and what of it gives access to the form."""
    secret = quote(check_id(form_token, "form_token"), safe="")
    return f"/form/human_input/{secret}", secret


class _SinceHumanInput(Operation[T]):
    """An operation on a form, which older servers do not have: they answer its path with a page (API facts, section 1).

    Errors have advice about forms, by their codes: the texts differ, and the one of an unknown form repeats its path,
    and with it the token.
    """

    def check(self, answer: Answer) -> None:
        """Let an answer pass that is no error.

        :raises DifyUnsupportedError: The server does not have the route.
        :raises DifyError: It is an error; the form's token is not in it.
        """
        if answer.status == HTTPStatus.NOT_FOUND and answer.is_html and not self._is_there(answer):
            told = answer.server_version
            which = f"and this server is {told}" if told else "and this server has no such route"
            raise DifyUnsupportedError(
                f"{self.call.what} needs Dify 1.14 or later, {which}. Nothing was changed.", status_code=404
            )
        if not answer.ok:
            error = error_for_answer(answer, self.call.what, _FORM_REMEDIES)
            error.message = self._without_token(error.message)
            error.args = (error.message,)
            raise error

    def _without_token(self, text: str) -> str:
        secret = self.call.secret or ""
        for token in {secret, unquote(secret)} - {""}:
            # A short one is no token of Dify's, and may stand in any word.
            text = text.replace(f"/human_input/{token}", "/human_input/***")
            text = text.replace(token, "***") if len(token) >= _TOKEN_CHARS else text
        return text

    @staticmethod
    def _is_there(answer: Answer) -> bool:
        return answer.server_version is not None and Server(answer.server_version).has_human_input
