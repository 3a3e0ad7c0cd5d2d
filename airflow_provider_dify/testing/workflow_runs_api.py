"""The routes of the `workflow-runs` contract: submit, then poll."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

from aiohttp import web

from airflow_provider_dify.testing.apps import App
from airflow_provider_dify.testing.engine import RefusedGraph, TooManyRuns
from airflow_provider_dify.testing.errors import ApiError, invalid_param
from airflow_provider_dify.testing.faults import ROW_FAULTS
from airflow_provider_dify.testing.inputs import CrashingInputs, RefusedInputs
from airflow_provider_dify.testing.runs import LAST_EVENTS, Listener, Run
from airflow_provider_dify.testing.service import Service, json_response, parse_json
from airflow_provider_dify.testing.streams import ClientGone, EventStream, is_connected
from airflow_provider_dify.testing.validation import RESPONSE_MODES
from airflow_provider_dify.testing.versions import USER_LIMIT

PREFIXES = ("/v1", "/api", "/api/v1")
"""Where the routes are found; all are the same API."""

_STATUSES = {"stopped": "failed", "partial-succeeded": "succeeded", "lost": "running", "paused": "running"}


class WorkflowRunsApi:
    """Answers the contract's requests. It has no stop, logs, upload or info route: those are 404."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._engine = service.engine

    def routes(self) -> list[tuple[str, str, Any, str]]:
        """Return method, path, handler and fault point of every route."""
        return [
            route
            for prefix in PREFIXES
            for route in (
                ("POST", f"{prefix}/workflows/{{workflow_id}}/run", self.submit, "submit"),
                ("GET", f"{prefix}/workflow-runs/{{run_id}}", self.get_run, "get_run"),
            )
        ]

    async def submit(self, request: web.Request) -> web.StreamResponse:
        """Accept a run and answer at once."""
        app = self._service.authenticate(request)
        body = parse_json(request.headers.get("Content-Type", ""), await request.read())
        self._require_own_workflow(request, app)
        inputs, mode, files, user = _checked(body)
        if not app.workflow.published:
            raise ApiError(404, "not_found", "Workflow not published")
        try:
            release = self._engine.admit(app, streaming=False)
        except TooManyRuns:
            raise ApiError(429, "too_many_requests", "Too many requests. Please try again later.") from None
        end_user = self._engine.end_user(app, user)
        run = Run(
            app,
            end_user,
            inputs,
            mode,
            app.workflow_id,
            run_id=f"run-{secrets.token_hex(8)}",
            task_id=f"task-{secrets.token_hex(8)}",
        )
        try:
            await self._engine.prepare(run, files)
        except (RefusedInputs, RefusedGraph) as error:
            release()
            raise invalid_param(str(error)) from error
        except CrashingInputs:
            release()
            raise ApiError(500, "internal_server_error", "Internal Server Error") from None
        listener = run.listen(lambda: is_connected(request))
        delay = self._service.faults.take("submit", user, ("queue_delay",))
        self._engine.execute(run, delay.seconds or 0.0 if delay else 0.0)
        self._engine.in_background(_release_at_end(run, release))
        if mode == "streaming" and self._service.async_streaming:
            return await self._stream(request, run, listener)
        return json_response(_body(run) | {"status": "queued"})

    def _require_own_workflow(self, request: web.Request, app: App) -> None:
        if request.match_info["workflow_id"] not in (app.workflow_id, app.name):
            message = f"Workflow not found with id: {request.match_info['workflow_id']}"
            raise ApiError(404, "not_found", message)

    async def _stream(self, request: web.Request, run: Run, listener: Listener) -> web.StreamResponse:
        faults = self._service.faults
        cut = faults.take("submit", run.end_user.session_id, ("cut",))
        lost = faults.take("submit", run.end_user.session_id, ("lose_events",))
        stream = EventStream(request, cut=cut, lost=lost)
        try:
            await stream.open()
            while True:
                event = await listener.queue.get()
                await stream.send(event)
                if event["event"] in LAST_EVENTS:
                    break
            await stream.close()
        except ClientGone:
            pass
        finally:
            run.listeners.remove(listener)
        return stream.response

    async def get_run(self, request: web.Request) -> web.StreamResponse:
        """Tell how a run is doing."""
        app = self._service.authenticate(request)
        run = self._engine.runs.get(request.match_info["run_id"])
        if run is None or run.app is not app:
            raise ApiError(404, "not_found", "Workflow run not found.")
        for kind in ROW_FAULTS:
            fault = self._service.faults.take("get_run", run.end_user.session_id, (kind,))
            if fault and kind == "stale_row":
                run.stale_seconds = fault.seconds or 0.0
            elif fault:
                run.unknown_seconds = fault.seconds or 0.0
        if run.is_hidden():
            raise ApiError(404, "not_found", "Workflow run not found.")
        return json_response(_body(run))


def _body(run: Run) -> dict[str, Any]:
    status = "running" if run.is_stale() else _STATUSES.get(run.status, run.status)
    body: dict[str, Any] = {
        "task_id": run.task_id,
        "workflow_run_id": run.id,
        "status": status,
        "created_at": int(run.created_at),
    }
    if status in ("succeeded", "failed"):
        body |= {"outputs": dict(run.outputs), "error": run.error}
    return body


def _checked(body: Any) -> tuple[dict[str, Any], str, list[Any], str]:
    if not isinstance(body, dict):
        raise invalid_param("The body must be a JSON object.")
    inputs, mode = body.get("inputs"), body.get("response_mode") or "blocking"
    files, user = body.get("files") or [], str(body.get("user") or "anonymous")
    if not isinstance(inputs, dict):
        raise invalid_param("inputs must be an object.")
    if mode not in RESPONSE_MODES:
        raise invalid_param("response_mode must be 'blocking' or 'streaming'.")
    if not isinstance(files, list):
        raise invalid_param("files must be a list.")
    if len(user) > USER_LIMIT:
        raise invalid_param(f"user must not be longer than {USER_LIMIT} characters.")
    return inputs, mode, files, user


async def _release_at_end(run: Run, release: Any) -> None:
    assert run.task is not None
    await asyncio.wait([run.task])
    release()
