"""The operations of Dify's own API, the contract ``service-api``."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

from airflow_provider_dify.api import human_input, runs
from airflow_provider_dify.api.checks import check_number, preview
from airflow_provider_dify.api.human_input import HumanInputForm
from airflow_provider_dify.api.human_input_operations import SinceHumanInput, form_path
from airflow_provider_dify.api.input_form import InputForm
from airflow_provider_dify.api.log_filters import LOGGED_STATUSES, filter_text, logged_status, moment_of
from airflow_provider_dify.api.operations import (
    LOGS_MAX_LIMIT,
    NO_TRACE,
    Call,
    Operation,
    Upload,
    check_id,
    read_json,
    run_poll,
    submission,
)
from airflow_provider_dify.api.runs import AppInfo, LogPage, StartedRun, UploadedFile, WorkflowRun
from airflow_provider_dify.api.tracing import Trace
from airflow_provider_dify.exceptions import (
    DifyInvalidInputError,
)
from airflow_provider_dify.names import SERVICE_API

_CHECK_FILTERS = (
    "Check the filters of the logs: account must be the e-mail address of a member of the app's workspace, and status "
    f"one of {', '.join(LOGGED_STATUSES)}."
)


LOGS_MAX_PAGE = 99_999


def check_uuid(value: Any, field_name: str) -> str:
    """Return an id that is a UUID.

    :raises DifyInvalidInputError: It is none.
    """
    text = check_id(value, field_name)
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise DifyInvalidInputError(
            f"{field_name} must be a UUID such as 6b454183-889f-4bc9-8060-764be1cb16ea, got a {len(text)}-character "
            "string. Dify answers other ids with an internal error, so nothing was sent.",
            advice="Pass the id as Dify returned it.",
            where=field_name,
        ) from None


class ServiceApi:
    """Dify's own Service API: every operation there is (dify-behaviour.md, sections 1 to 11)."""

    name = SERVICE_API

    def check_run_id(self, workflow_run_id: Any, field_name: str = "workflow_run_id") -> str:
        """Return the run id in its usual form.

        :raises DifyInvalidInputError: It is no UUID; Dify would answer 500 (dify-behaviour.md, section 3).
        """
        return check_uuid(workflow_run_id, field_name)

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
                "query is only part of the workflow-runs contract; Dify's Service API drops it silently.",
                advice="Pass the text as one of the workflow's inputs.",
                where="query",
            )
        path = "/workflows/run"
        if workflow_id is not None:
            path = f"/workflows/{check_uuid(workflow_id, 'workflow_id')}/run"
        return submission(
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
        return run_poll(f"/workflows/run/{run_id}", run_id)

    def stop(self, task_id: str, user: str) -> Operation[None]:
        """Ask Dify to stop a run. Its answer is always success and proves nothing (dify-behaviour.md, section 7)."""
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
            "created_by_end_user_session_id": filter_text(user, "user"),
            "created_by_account": filter_text(account, "account"),
            "created_at__after": moment_of(created_after, "created_after"),
            "created_at__before": moment_of(created_before, "created_before"),
            "status": logged_status(status),
            "keyword": filter_text(keyword, "keyword"),
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
        """Follow a run's events (1.14 and later; dify-behaviour.md, section 9).

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
        """Upload a file; from 1.14 on only a run of the same ``user`` may use it (dify-behaviour.md, section 10)."""
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
        """Ask for the form by which a paused run asks a human (1.14 and later; dify-behaviour.md, section 9)."""
        path, secret = form_path(form_token)
        call = Call("GET", path, "Reading the human-input form", secret=secret)
        return SinceHumanInput(call, lambda answer: human_input.parse_form(read_json(answer, call.what)))

    def submit_human_input(
        self, form_token: str, *, action: str, inputs: Mapping[str, Any], user: str
    ) -> Operation[None]:
        """Answer such a form; the run goes on. A form can be answered once, so the call is not repeated."""
        path, secret = form_path(form_token)
        call = Call(
            "POST",
            path,
            "Answering the human-input form",
            json={"inputs": dict(inputs), "action": check_id(action, "action"), "user": user},
            repeatable=False,
            secret=secret,
        )
        return SinceHumanInput(call, lambda answer: runs.parse_accepted(read_json(answer, call.what)))

    def input_form(self) -> Operation[InputForm]:
        """Ask for what the inputs of a run must be; errors as for ``parameters``."""
        raw = self.parameters()
        return Operation(raw.call, lambda answer: InputForm.parse(raw.parse(answer), answer.server_version))
