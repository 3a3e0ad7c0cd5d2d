"""The routes of Dify's Service API."""

from __future__ import annotations

import asyncio
import difflib
import os
import re
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from airflow_provider_dify.testing.apps import TENANT_ID, App
from airflow_provider_dify.testing.connections import reset
from airflow_provider_dify.testing.engine import RefusedGraph, TooManyRuns
from airflow_provider_dify.testing.errors import ApiError, crash, invalid_param, unauthorized, unknown_error
from airflow_provider_dify.testing.events import form_actions, form_content, form_inputs
from airflow_provider_dify.testing.faults import ROW_FAULTS, Fault
from airflow_provider_dify.testing.files import is_uuid
from airflow_provider_dify.testing.forms import form_values
from airflow_provider_dify.testing.gateway import fault_response
from airflow_provider_dify.testing.inputs import CrashingInputs, RefusedInputs
from airflow_provider_dify.testing.multipart import read_form
from airflow_provider_dify.testing.rows import logs_body, run_body
from airflow_provider_dify.testing.runs import ENDED, LAST_EVENTS, PING, EndUser, Event, Form, Listener, Run
from airflow_provider_dify.testing.service import Service, json_response, parse_json
from airflow_provider_dify.testing.streams import ClientGone, EventStream, is_connected
from airflow_provider_dify.testing.validation import check_form_body, check_run_body
from airflow_provider_dify.testing.versions import MEBIBYTE, PING_INTERVAL, USER_LIMIT
from airflow_provider_dify.testing.workflows import Input, Workflow

_WRONG_MODE = "Please check if your app mode matches the right API route."
_UNAVAILABLE = "App unavailable, please check your app configurations."
_DEFAULT_USER = "DEFAULT-USER"
_FORM_ROUTE = "/form/human_input/<string:form_token>"
_BLOCKING_KEYS = (
    "id", "workflow_id", "status", "outputs", "error", "elapsed_time", "total_tokens", "total_steps",
    "created_at", "finished_at",
)  # fmt: skip


class ServiceApi:
    """Answers the Service API's requests as the emulated version does."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._version = service.version
        self._engine = service.engine

    def routes(self) -> list[tuple[str, str, Any, str]]:
        """Return method, path, handler and fault point of every route."""
        routes = [
            ("POST", "/v1/workflows/run", self.submit, "submit"),
            ("POST", "/v1/workflows/{workflow_id}/run", self.submit, "submit"),
            ("GET", "/v1/workflows/run/{run_id}", self.get_run, "get_run"),
            ("POST", "/v1/workflows/tasks/{task_id}/stop", self.stop, "stop"),
            ("GET", "/v1/workflows/logs", self.logs, "logs"),
            ("POST", "/v1/files/upload", self.upload, "upload"),
            ("GET", "/v1/files/{file_id}/preview", self.preview, "any"),
            ("GET", "/files/{file_id}/file-preview", self.signed_preview, "file"),
            ("GET", "/files/tools/{file_id}.{extension}", self.tool_file, "file"),
            ("GET", "/v1/info", self.info, "info"),
            ("GET", "/v1/parameters", self.parameters, "parameters"),
            ("GET", "/v1/meta", self.meta, "any"),
            ("GET", "/v1/site", self.site, "any"),
            ("POST", "/v1/chat-messages", self.chat, "any"),
            ("POST", "/v1/completion-messages", self.completion, "any"),
            ("POST", "/api/workflows/run", self.web_app, "any"),
            ("GET", "/v1", self.root, "any"),
            ("GET", "/health", self.health, "any"),
        ]
        if self._version.human_input:
            routes += [
                ("GET", "/v1/workflow/{run_id}/events", self.events, "events"),
                ("GET", "/v1/form/human_input/{form_token}", self.get_form, "any"),
                ("POST", "/v1/form/human_input/{form_token}", self.submit_form, "any"),
            ]
        return routes

    async def submit(self, request: web.Request) -> web.StreamResponse:
        """Run a workflow, blocking or streaming."""
        app = self._service.authenticate(request)
        body = await _json_object(request)
        end_user = self._end_user(app, body.get("user"))
        _require_workflow_app(app)
        inputs, mode, files = check_run_body(body, self._version)
        trace_session = request.headers.get("X-Trace-Session-Id")
        if self._version.trace_sessions and trace_session and not 1 <= len(trace_session.strip()) <= 200:
            raise ApiError(400, "bad_request", "trace_session_id must be 1 to 200 characters after trimming.")
        streaming = mode == "streaming"
        try:
            release = self._engine.admit(app, streaming)
        except TooManyRuns:
            raise invalid_param(too_many_requests(app)) from None
        try:
            workflow_id = _workflow_id(request, app)
            if not app.workflow.published:
                raise invalid_param("Workflow not published")
            run = Run(app, end_user, inputs, mode, workflow_id)
            if streaming:
                return await self._stream_run(request, run, files)
            return await self._block_on_run(request, run, files)
        finally:
            release()

    async def _block_on_run(self, request: web.Request, run: Run, files: list[Any]) -> web.StreamResponse:
        try:
            await self._prepare(run, files)
        except RefusedGraph as error:
            raise invalid_param(str(error)) from error
        listener = run.listen(lambda: True)
        self._engine.execute(run, self._queue_delay(run))
        lost = self._take(run, "accept_then_status", "accept_then_reset", "stall")
        if lost and lost.kind != "stall":
            self._engine.in_background(self._last_event(run, listener))
            return _answer_lost(request, lost)
        event = await self._last_event(run, listener)
        if lost:
            await asyncio.sleep(lost.seconds or 0.0)
        return json_response(_blocking_body(run, event), content_type=self._version.run_content_type)

    async def _stream_run(self, request: web.Request, run: Run, files: list[Any]) -> web.StreamResponse:
        refusal: Event | None = None
        listener = run.listen(lambda: is_connected(request))
        if self._version.worker_queue:
            self._engine.enqueue(run, files, self._queue_delay(run))
        else:
            try:
                await self._prepare(run, files)
                self._engine.execute(run, self._queue_delay(run))
            except RefusedGraph as error:
                (refusal,) = self._engine.bodies.refused_graph(run, str(error))
        lost = self._take(run, "accept_then_status", "accept_then_reset", "stall")
        if lost and lost.kind != "stall":
            run.listeners.remove(listener)
            return _answer_lost(request, lost)
        if lost:
            await asyncio.sleep(lost.seconds or 0.0)
        stream = self._event_stream(request, "submit", run.end_user.session_id)
        try:
            await stream.open()
            if self._version.first_ping:
                await stream.send(PING)
            if refusal:
                await stream.send(refusal)
            else:
                await self._relay(stream, run, listener)
            await stream.close()
        except ClientGone:
            pass
        finally:
            run.listeners.remove(listener)
        return stream.response

    async def _relay(self, stream: EventStream, run: Run, listener: Listener) -> None:
        """Pass a run's events on, until the last one or until the idle limit."""
        limit = self._version.idle_limit
        idle_limit = None if limit is None else limit * self._service.time_scale
        while True:
            try:
                event = await asyncio.wait_for(listener.queue.get(), idle_limit)
            except asyncio.TimeoutError:
                return
            stream.check()
            self._engine.witness(run, event)
            sent = await stream.send(event)
            if event["event"] not in LAST_EVENTS:
                continue
            if event["event"] == "error" and (self._version.errors_keep_stream or self._version.synthetic_refusals):
                continue
            if sent or idle_limit is None:
                await asyncio.sleep(self._version.close_delay * self._service.time_scale)
                return

    async def _last_event(self, run: Run, listener: Listener) -> Event:
        while True:
            event = await listener.queue.get()
            self._engine.witness(run, event)
            if event["event"] in LAST_EVENTS:
                return event

    async def _prepare(self, run: Run, files: list[Any]) -> None:
        try:
            await self._engine.prepare(run, files)
        except RefusedInputs as error:
            raise invalid_param(str(error)) from error
        except CrashingInputs:
            raise crash() from None

    def _queue_delay(self, run: Run) -> float:
        fault = self._take(run, "queue_delay")
        return fault.seconds or 0.0 if fault else 0.0

    def _take(self, run: Run, *kinds: str) -> Fault | None:
        return self._service.faults.take("submit", run.end_user.session_id, kinds)

    def _event_stream(self, request: web.Request, point: str, user: str) -> EventStream:
        cut = self._service.faults.take(point, user, ("cut",))
        lost = self._service.faults.take(point, user, ("lose_events",))
        return EventStream(request, cut=cut, lost=lost)

    async def get_run(self, request: web.Request) -> web.StreamResponse:
        """Tell a run's row."""
        app = self._service.authenticate(request)
        run_id = request.match_info["run_id"]
        if not is_uuid(run_id):
            raise unknown_error()
        run = self._engine.runs.get(run_id)
        if run is None or run.app is not app:
            return json_response(run_body(None, self._version, self._service.files))
        self._falsify(run)
        return json_response(run_body(run, self._version, self._service.files))

    def _falsify(self, run: Run) -> None:
        for kind in ROW_FAULTS:
            if getattr(run, f"{kind.removesuffix('_row')}_seconds"):
                continue
            fault = self._service.faults.take("get_run", run.end_user.session_id, (kind,))
            if fault:
                setattr(run, f"{kind.removesuffix('_row')}_seconds", fault.seconds)

    async def stop(self, request: web.Request) -> web.StreamResponse:
        """Stop the run of a task. Always says success."""
        app = self._service.authenticate(request)
        body = await _json_object(request)
        user = self._end_user(app, body.get("user")).session_id
        _require_workflow_app(app)
        if not self._service.faults.take("stop", user, ("stop_without_effect",)):
            self._engine.stop(request.match_info["task_id"])
        return json_response({"result": "success"})

    async def logs(self, request: web.Request) -> web.StreamResponse:
        """List runs."""
        app = self._service.authenticate(request)
        runs = list(self._engine.runs.values())
        return json_response(logs_body(runs, app, request.query, self._version))

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Stream a run's events once more."""
        app = self._service.authenticate(request)
        user = self._end_user(app, request.query.get("user"))
        run_id = request.match_info["run_id"]
        if not is_uuid(run_id):
            raise unknown_error()
        run = self._engine.runs.get(run_id)
        if run is None or run.row is None or run.app is not app or run.end_user != user:
            raise ApiError(404, "not_found", "Workflow run not found")
        stream = self._event_stream(request, "events", user.session_id)
        stream.response.headers["Cache-Control"] = "no-cache"
        listener = run.listen(lambda: is_connected(request))
        try:
            await stream.open()
            if run.row.status in ENDED:
                await stream.send(self._engine.bodies.finished_row(run), spaced=True)
            else:
                await self._replay(stream, run, listener, request.query)
            await stream.close()
        except ClientGone:
            pass
        finally:
            run.listeners.remove(listener)
        return stream.response

    async def _replay(self, stream: EventStream, run: Run, listener: Listener, query: Mapping[str, str]) -> None:
        snapshot = query.get("include_state_snapshot") == "true"
        stays = query.get("continue_on_pause") == "true"
        await stream.send(PING)
        if snapshot:
            was_paused = run.status == "paused"
            for event in self._engine.bodies.snapshot(run):
                await stream.send(event)
            if was_paused and not stays:
                await asyncio.sleep(self._version.close_delay * self._service.time_scale)
                return
        interval = PING_INTERVAL * self._service.time_scale
        while True:
            try:
                event = await asyncio.wait_for(listener.queue.get(), interval)
            except asyncio.TimeoutError:
                await stream.send(PING)
                continue
            if run.response_mode == "blocking" and not run.has_paused:
                continue
            if event is PING:
                if not snapshot:
                    await stream.send(PING)
                continue
            await stream.send(event)
            if stays and not snapshot and self._version.resumed_live_events_stay_open:
                continue
            if event["event"] == "workflow_finished" or (event["event"] == "workflow_paused" and not stays):
                await asyncio.sleep(self._version.close_delay * self._service.time_scale)
                return

    async def get_form(self, request: web.Request) -> web.StreamResponse:
        """Tell a human-input form."""
        form = self._form(request)
        return json_response(
            {
                "form_content": form_content(form, form.run),
                "inputs": form_inputs(form),
                "resolved_default_values": {},
                "user_actions": form_actions(form),
                "expiration_time": form.expires_at,
            }
        )

    async def submit_form(self, request: web.Request) -> web.StreamResponse:
        """Take a human's answer; the run goes on."""
        app = self._service.authenticate(request)
        body = await _json_object(request)
        self._end_user(app, body.get("user"))
        inputs, action = check_form_body(body, self._version)
        form = self._form(request)
        values = await form_values(form.definition, action, inputs, self._version, self._service.files)
        # Another answer may have come while a file was looked up.
        self._form(request)
        self._engine.resume(form, action, values)
        return json_response({})

    def _suggested_routes(self, path: str) -> str:
        """Return what Dify's framework appends to the message of a 404: routes that are spelled much like the path."""
        last = f"/api{_FORM_ROUTE}/upload-token" if self._version.form_upload_tokens else f"/console/api{_FORM_ROUTE}"
        routes = {re.sub("<.*>", "", route): route for route in (f"/v1{_FORM_ROUTE}", f"/api{_FORM_ROUTE}", last)}
        near = difflib.get_close_matches(path, routes)
        named = " or ".join(routes[match] for match in near)
        return f". You have requested this URI [{path}] but did you mean {named} ?" if near else ""

    def _form(self, request: web.Request) -> Form:
        app = self._service.authenticate(request)
        form = self._engine.pauses.forms.get(request.match_info["form_token"])
        if form is None or form.run.app is not app:
            raise ApiError(404, "not_found", f"Form not found{self._suggested_routes(request.path)}")
        if form.expired:
            raise ApiError(412, "human_input_form_expired", f"This form has expired, form_id={form.id}")
        if form.answer is not None:
            message = f"This form has already been submitted by another user, form_id={form.id}"
            raise ApiError(412, "human_input_form_submitted", message)
        return form

    async def upload(self, request: web.Request) -> web.StreamResponse:
        """Keep a file for later runs."""
        app = self._service.authenticate(request)
        fields, files = await read_form(request)
        user = self._end_user(app, fields.get("user") or _DEFAULT_USER)
        if "file" not in files:
            raise ApiError(400, "no_file_uploaded", "Please upload your file.")
        part = files["file"]
        if part.content.size > self._service.upload_limit * MEBIBYTE:
            raise ApiError(413, "file_too_large", self._version.too_large_message)
        stored = self._service.files.add(part.name, part.content, part.mime_type, user)
        body: dict[str, Any] = {
            "id": stored.id,
            "name": stored.name,
            "size": stored.content.size,
            "extension": stored.extension,
            "mime_type": stored.mime_type,
            "created_by": user.id,
            "created_at": int(stored.created_at),
            "preview_url": None,
            "source_url": stored.source_url,
        }
        if self._version.file_references:
            absent = ("reference", "original_url", "user_id", "conversation_id", "file_key")
            body |= dict.fromkeys(absent) | {"tenant_id": TENANT_ID}
        if not self._version.upload_references:
            body.pop("reference", None)
        return json_response(body, status=201)

    async def preview(self, request: web.Request) -> web.StreamResponse:
        """Give back an upload, where the version does so though no chat message has it."""
        self._service.authenticate(request)
        if not self._version.previews_uploads:
            raise ApiError(404, "file_not_found", "File not found in message context")
        return await self._content(request)

    async def signed_preview(self, request: web.Request) -> web.StreamResponse:
        """Give back an upload to whoever has a URL whose signature is good."""
        if not self._service.files.admits(request.match_info["file_id"], request.query):
            raise ApiError(404, "not_found", "File not found or signature is invalid.")
        return await self._content(request)

    async def tool_file(self, request: web.Request) -> web.StreamResponse:
        """Give a file that a workflow has made to whoever has a URL whose signature is good."""
        if not self._service.files.admits(request.match_info["file_id"], request.query):
            raise ApiError(403, "forbidden", "Invalid request.")
        return await self._content(request)

    async def _content(self, request: web.Request) -> web.StreamResponse:
        stored = self._service.files.get(request.match_info["file_id"])
        if stored is None:
            raise ApiError(404, "file_not_found", "The requested file was not found.")
        response = web.StreamResponse(headers={"Content-Type": stored.mime_type})
        if stored.content.size:
            response.content_length = stored.content.size
        await response.prepare(request)
        for chunk in stored.content.chunks():
            await response.write(chunk)
        await response.write_eof()
        return response

    async def info(self, request: web.Request) -> web.StreamResponse:
        """Tell the app's name and mode."""
        app = self._service.authenticate(request)
        return json_response(
            {
                "name": app.name,
                "description": app.workflow.description,
                "tags": [],
                "mode": app.mode,
                "author_name": "admin",
            }
        )

    async def parameters(self, request: web.Request) -> web.StreamResponse:
        """Tell the app's input form."""
        app = self._service.authenticate(request)
        if not app.workflow.published:
            raise ApiError(400, "app_unavailable", _UNAVAILABLE)
        disabled = {"enabled": False}
        limits = {
            "image_file_size_limit": 10,
            "video_file_size_limit": 100,
            "audio_file_size_limit": 50,
            "file_size_limit": self._service.upload_limit,
            "workflow_file_upload_limit": 10,
        }
        body: dict[str, Any] = {
            "opening_statement": "",
            "suggested_questions": [],
            "suggested_questions_after_answer": disabled,
            "speech_to_text": disabled,
            "text_to_speech": {"enabled": False, "voice": "", "language": ""},
            "retriever_resource": disabled,
            "annotation_reply": disabled,
            "more_like_this": disabled,
            "user_input_form": input_form(app.workflow),
            "sensitive_word_avoidance": disabled,
            "file_upload": disabled,
            "system_parameters": limits,
        }
        return json_response(body | dict(app.workflow.parameters))

    async def meta(self, request: web.Request) -> web.StreamResponse:
        """Tell the app's tool icons: none."""
        self._service.authenticate(request)
        return json_response({"tool_icons": {}})

    async def site(self, request: web.Request) -> web.StreamResponse:
        """Tell how the app's web page looks."""
        app = self._service.authenticate(request)
        placeholder = {"input_placeholder": None} if self._version.site_placeholder else {}
        return json_response(
            {
                "title": app.name,
                "chat_color_theme": None,
                "chat_color_theme_inverted": False,
                "icon_type": "emoji",
                "icon": "\N{ROBOT FACE}",
                "icon_background": "#FFEAD5",
                "icon_url": None,
                "description": None,
                "copyright": None,
                "privacy_policy": None,
                **placeholder,
                "custom_disclaimer": "",
                "default_language": "en-US",
                "show_workflow_steps": True,
                "use_icon_as_answer_icon": False,
            }
        )

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Refuse a chat message: no app of this server is a chat app that answers."""
        app = self._service.authenticate(request)
        self._end_user(app, (await _json_object(request)).get("user"))
        raise ApiError(400, "not_chat_app", _WRONG_MODE)

    async def completion(self, request: web.Request) -> web.StreamResponse:
        """Refuse a completion message."""
        app = self._service.authenticate(request)
        self._end_user(app, (await _json_object(request)).get("user"))
        raise ApiError(400, "app_unavailable", _UNAVAILABLE)

    async def web_app(self, request: web.Request) -> web.StreamResponse:
        """Refuse an app key on the web-app API."""
        raise unauthorized("App token is missing.")

    async def root(self, request: web.Request) -> web.StreamResponse:
        """Redirect to a path that does not exist, as Dify does."""
        url = f"{self._service.files.base_url}/v1/"
        page = (
            "<!doctype html>\n<html lang=en>\n<title>Redirecting...</title>\n<h1>Redirecting...</h1>\n"
            "<p>You should be redirected automatically to the target URL: "
            f'<a href="{url}">{url}</a>. If not, click the link.\n'
        )
        headers = {"Content-Type": "text/html; charset=utf-8", "Location": url}
        return web.Response(body=page.encode(), status=308, headers=headers)

    async def health(self, request: web.Request) -> web.StreamResponse:
        """Say that the process is running; needs no key."""
        return json_response({"pid": os.getpid(), "status": "ok", "version": self._version.number})

    def _end_user(self, app: App, user: Any) -> EndUser:
        if not user:
            raise invalid_param("Arg user must be provided.")
        if len(str(user)) > USER_LIMIT:
            raise unknown_error()
        return self._engine.end_user(app, str(user))


async def _json_object(request: web.Request) -> dict[str, Any]:
    body = parse_json(request.headers.get("Content-Type", ""), await request.read())
    if not isinstance(body, dict):
        raise unknown_error()
    return body


def _require_workflow_app(app: App) -> None:
    if app.mode != "workflow":
        raise ApiError(400, "not_workflow_app", _WRONG_MODE)


def _workflow_id(request: web.Request, app: App) -> str:
    workflow_id = request.match_info.get("workflow_id")
    if workflow_id is None:
        return app.workflow_id
    if not is_uuid(workflow_id):
        raise ApiError(400, "bad_request", f"Invalid workflow_id format: '{workflow_id}'. ")
    if workflow_id == app.draft_workflow_id:
        message = (
            f"Cannot use draft workflow version. Workflow ID: {workflow_id}. "
            "Please use a published workflow version or leave workflow_id empty."
        )
        raise ApiError(400, "bad_request", message)
    if workflow_id not in (app.workflow_id, *app.older_workflow_ids):
        raise ApiError(404, "not_found", f"Workflow not found with id: {workflow_id}")
    return workflow_id


def too_many_requests(app: App) -> str:
    """Return Dify's message for an app whose limit is reached."""
    return (
        "Too many requests. Please try again later. The current maximum concurrent requests allowed for "
        f"{app.app_id} is {app.workflow.max_active_requests}."
    )


def _answer_lost(request: web.Request, fault: Fault) -> web.StreamResponse:
    if fault.kind == "accept_then_reset":
        reset(request.transport)
        return web.Response()
    return fault_response(fault)


def _blocking_body(run: Run, event: Event) -> dict[str, Any]:
    event_data = event["data"] | {"id": run.id, "workflow_id": run.workflow_id}
    data = {key: event_data.get(key) for key in _BLOCKING_KEYS}
    if event["event"] == "workflow_paused":
        data |= {key: event_data[key] for key in ("paused_nodes", "reasons")}
    return {"task_id": run.task_id, "workflow_run_id": run.id, "data": data}


def input_form(workflow: Workflow) -> list[dict[str, Any]]:
    """Return the form of an app as `/parameters` tells it."""
    return [{item.type: _form_field(item)} for item in workflow.inputs]


def _form_field(item: Input) -> dict[str, Any]:
    described: dict[str, Any] = {
        "variable": item.name,
        "label": item.label or item.name,
        "type": item.type,
        "required": item.required,
        "max_length": item.max_length,
        "options": list(item.options or []),
    }
    if item.type in ("file", "file-list"):
        described |= {
            "allowed_file_types": list(item.allowed_file_types),
            "allowed_file_extensions": [],
            "allowed_file_upload_methods": ["local_file", "remote_url"],
        }
    return described
