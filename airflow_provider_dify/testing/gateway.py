"""What stands in front of the routes: the record, the connection slots, outages, faults, error answers."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from aiohttp import web

from airflow_provider_dify.testing.connections import reset
from airflow_provider_dify.testing.errors import NOT_FOUND_PAGE, ApiError, unknown_error
from airflow_provider_dify.testing.faults import LOST_ANSWERS, REFUSALS, Fault
from airflow_provider_dify.testing.service import Request, Service, json_response
from airflow_provider_dify.testing.streams import is_connected

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_HANG_CHECK = 0.05
_PAGE = (
    "<html>\r\n<head><title>{0}</title></head>\r\n<body>\r\n<center><h1>{0}</h1></center>\r\n"
    "<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)
_REASONS = {
    429: "Too Many Requests",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Temporarily Unavailable",
    504: "Gateway Time-out",
}
_LOGIN_PAGE = "<!doctype html><html><head><title>Sign in</title></head><body><form>Sign in</form></body></html>"
_LOG = logging.getLogger(__name__)


class ForeignResponse(web.Response):
    """An answer that does not come from Dify but from what stands in front of it."""


class Gateway:
    """Passes each request to its handler, or does to it what was asked for.

    :param service: the server's state.
    :param points: fault point of each handler.
    :param own_answers: points whose handlers see to lost answers themselves.
    """

    def __init__(self, service: Service, points: dict[Any, str], own_answers: Collection[str]) -> None:
        self._service = service
        self._points = points
        self._own_answers = own_answers
        self._entries: dict[asyncio.Task[Any], Request] = {}

    def install(self, app: web.Application) -> None:
        """Put itself in front of an application's routes."""

        @web.middleware
        async def pass_through(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._handle(request, handler)

        app.middlewares.append(pass_through)
        app.on_response_prepare.append(self._add_headers)

    def cancel_all(self) -> None:
        """Cancel every request that is being handled, as the death of the process does."""
        for task in self._entries:
            task.cancel()

    async def _handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None
        entry = self._entries[task] = Request(
            request.method, request.path, dict(request.query), dict(request.headers), None, time.time()
        )
        self._service.requests.append(entry)
        try:
            if not request.content_type.startswith("multipart/"):
                entry.json = _json_or_none(await request.read())
            response = await self._answer(request, handler, entry)
        except (ConnectionError, web.RequestPayloadError):
            return web.Response()
        finally:
            del self._entries[task]
            if entry.status is None and not is_connected(request):
                entry.status = 0
        if entry.status is None:
            entry.status = response.status
        return response

    async def _answer(self, request: web.Request, handler: Handler, entry: Request) -> web.StreamResponse:
        if self._service.outage == "500":
            return json_response(unknown_error().body, 500)
        if self._service.outage == "502-html":
            return _page(502)
        await self._service.slots.take()
        try:
            return await self._answer_in_slot(request, handler, entry)
        finally:
            self._service.slots.free()

    async def _answer_in_slot(self, request: web.Request, handler: Handler, entry: Request) -> web.StreamResponse:
        point = self._points.get(request.match_info.handler, "any")
        user = self._user(request, entry)
        fault = self._service.faults.take(point, user, REFUSALS)
        if fault:
            return await self._refuse(request, fault)
        try:
            response = await handler(request)
        except ApiError as error:
            response = json_response(error.body, error.status, headers=error.headers)
        except web.HTTPException as error:
            response = _routing_error(request, error)
        except Exception:
            _LOG.exception("The local Dify server failed at %s %s", request.method, request.path)
            response = json_response(unknown_error().body, 500)
        if point in self._own_answers or response.prepared:
            return response
        return await self._lose(request, response, point, user)

    async def _refuse(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        if fault.kind == "hang":
            end = time.monotonic() + (fault.seconds if fault.seconds is not None else float("inf"))
            # aiohttp tells a handler nothing when its client leaves, so there is no event to wait for.
            while time.monotonic() < end and request.transport is not None:  # noqa: ASYNC110
                await asyncio.sleep(_HANG_CHECK)
        if fault.kind in ("reset_before", "hang"):
            reset(request.transport)
            return web.Response()
        return fault_response(fault)

    async def _lose(
        self, request: web.Request, response: web.StreamResponse, point: str, user: str | None
    ) -> web.StreamResponse:
        fault = self._service.faults.take(point, user, LOST_ANSWERS)
        if fault is None:
            return response
        if fault.kind == "stall":
            await asyncio.sleep(fault.seconds or 0.0)
            return response
        if fault.kind == "accept_then_reset":
            reset(request.transport)
            return web.Response()
        return fault_response(fault)

    def _user(self, request: web.Request, entry: Request) -> str | None:
        if isinstance(entry.json, dict) and entry.json.get("user"):
            return str(entry.json["user"])
        run = self._service.engine.runs.get(request.match_info.get("run_id", ""))
        if run:
            return run.end_user.session_id
        return entry.query.get("user") or entry.query.get("created_by_end_user_session_id")

    async def _add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        task = asyncio.current_task()
        if task in self._entries:
            self._entries[task].status = response.status
        if isinstance(response, ForeignResponse):
            response.headers["Server"] = "nginx"
            return
        response.headers["Server"] = "gunicorn"
        response.headers["X-Version"] = self._service.version.number
        response.headers["X-Env"] = "PRODUCTION"


def fault_response(fault: Fault) -> web.StreamResponse:
    """Return the answer that a fault gives in place of the true one."""
    if fault.kind == "too_many_requests" and fault.status != 429:
        message = fault.message or (
            "Too many requests. Please try again later. The current maximum concurrent requests allowed for "
            "this app is 1."
        )
        return json_response({"code": "invalid_param", "message": message, "status": 400}, 400, headers=fault.headers)
    if fault.kind == "too_many_requests":
        message = fault.message or "Too many requests."
        body = {"code": "too_many_requests", "message": message, "status": 429}
        return json_response(body, 429, headers=fault.headers)
    if fault.kind == "login_page":
        return _content(_LOGIN_PAGE, "text/html; charset=utf-8", 200, fault)
    if fault.kind == "redirect":
        response = _content("", "text/html; charset=utf-8", fault.status or 302, fault)
        response.headers["Location"] = fault.url
        return response
    if fault.kind == "body" or fault.body is not None:
        return _content(fault.body or b"", fault.content_type, fault.status or 200, fault)
    status = fault.status or 500
    if fault.code or fault.message:
        body = {"code": fault.code, "message": fault.message, "status": status}
        return json_response(body, status, headers=fault.headers)
    return _page(status, fault)


def _content(body: str | bytes, content_type: str, status: int, fault: Fault) -> web.Response:
    content = body.encode() if isinstance(body, str) else body
    headers = {"Content-Type": content_type, **fault.headers}
    return ForeignResponse(body=content, status=status, headers=headers)


def _page(status: int, fault: Fault | None = None) -> web.Response:
    page = _PAGE.format(f"{status} {_REASONS.get(status, 'Error')}")
    headers = {"Content-Type": "text/html", **(fault.headers if fault else {})}
    return ForeignResponse(body=page.encode(), status=status, headers=headers)


def _routing_error(request: web.Request, error: web.HTTPException) -> web.Response:
    if not isinstance(error, web.HTTPMethodNotAllowed):
        headers = {"Content-Type": "text/html; charset=utf-8"}
        return web.Response(body=NOT_FOUND_PAGE.encode(), status=404, headers=headers)
    if request.method == "OPTIONS":
        allow = ", ".join([*sorted(error.allowed_methods), "OPTIONS"])
        headers = {"Content-Type": "text/html; charset=utf-8", "Allow": allow}
        return web.Response(body=b"", headers=headers)
    message = "The method is not allowed for the requested URL."
    return json_response({"code": "method_not_allowed", "message": message, "status": 405}, 405)


def _json_or_none(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None
