"""What the routes of one server share: its apps, its engine, its record of requests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from airflow_provider_dify.testing.apps import App
from airflow_provider_dify.testing.connections import ConnectionSlots
from airflow_provider_dify.testing.engine import Engine
from airflow_provider_dify.testing.errors import ApiError, unauthorized
from airflow_provider_dify.testing.events import json_bytes
from airflow_provider_dify.testing.faults import FaultBox
from airflow_provider_dify.testing.files import FileStore
from airflow_provider_dify.testing.knowledge import KnowledgeBases
from airflow_provider_dify.testing.versions import Version


@dataclass(slots=True)
class Request:
    """One request as the server received it.

    :param method: the HTTP method.
    :param path: the path, without the query.
    :param query: the query parameters.
    :param headers: the headers, the API key included.
    :param json: the body, where it was JSON, else None.
    :param at: unix time of arrival, float seconds.
    :param status: HTTP status of the answer; None while there is none, 0 where the connection was broken
        instead.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    json: Any
    at: float
    status: int | None = None


@dataclass(slots=True)
class Service:
    """The state of one server.

    :param version: whose behaviour is shown.
    :param apps: the apps, by name.
    :param engine: executes the runs.
    :param files: the uploads, and what workflows have made.
    :param upload_limit: largest accepted upload in MiB.
    :param time_scale: factor on every duration.
    :param async_streaming: whether the `workflow-runs` contract answers a streaming submission with a stream.
    :param faults: what goes wrong on demand.
    :param slots: the connection slots.
    :param knowledge: the knowledge bases.
    :param outage: None, or how the gateway in front answers: `500`, `502-html`.
    :param requests: the record, oldest first.
    """

    version: Version
    apps: Mapping[str, App]
    engine: Engine
    files: FileStore
    upload_limit: int
    time_scale: float
    async_streaming: bool
    slots: ConnectionSlots
    knowledge: KnowledgeBases
    faults: FaultBox = field(default_factory=FaultBox)
    outage: str | None = None
    requests: list[Request] = field(default_factory=list)

    def authenticate(self, request: web.Request) -> App:
        """Return the app that the request's key selects.

        :raises ApiError: without a valid key, or if the app's API is switched off.
        """
        scheme, _, key = request.headers.get("Authorization", "").strip().partition(" ")
        if not key:
            raise unauthorized("Authorization header must be provided and start with 'Bearer'")
        if scheme.lower() != "bearer":
            raise unauthorized("Authorization scheme must be 'Bearer'")
        app = next((app for app in self.apps.values() if app.api_key == key.strip()), None)
        if app is None:
            raise unauthorized("Access token is invalid")
        if not app.workflow.api_enabled:
            raise ApiError(403, "forbidden", "The app's API service has been disabled.")
        return app


def parse_json(content_type: str, body: bytes) -> Any:
    """Return a JSON body.

    :raises ApiError: for another content type, or what is no JSON.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise ApiError(
            415,
            "unsupported_media_type",
            "Did not attempt to load JSON data because the request Content-Type was not 'application/json'.",
        )
    try:
        return json.loads(body)
    except ValueError:
        raise ApiError(
            400,
            "bad_request",
            "The browser (or proxy) sent a request that this server could not understand.",
        ) from None


def json_response(
    body: Any,
    status: int = 200,
    content_type: str = "application/json",
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """Return a JSON answer with exactly that content type."""
    return web.Response(
        body=json_bytes(body),
        status=status,
        headers={"Content-Type": content_type, **(headers or {})},
    )
