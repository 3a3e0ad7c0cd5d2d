"""Puts routes and gateway together into one aiohttp application."""

from __future__ import annotations

from aiohttp import web

from airflow_provider_dify.testing.console import Console
from airflow_provider_dify.testing.gateway import Gateway
from airflow_provider_dify.testing.knowledge_api import KnowledgeApi
from airflow_provider_dify.testing.service import Service
from airflow_provider_dify.testing.service_api import ServiceApi
from airflow_provider_dify.testing.workflow_runs_api import WorkflowRunsApi

API_CONTRACTS = ("service-api", "workflow-runs")

_MAX_BODY = 100 * 1024 * 1024


def build_app(service: Service, api_contract: str) -> tuple[web.Application, Gateway]:
    """Return the application that serves one of the contracts, and the gateway in front of it."""
    streams = api_contract == "service-api"
    api: ServiceApi | WorkflowRunsApi = ServiceApi(service) if streams else WorkflowRunsApi(service)
    app = web.Application(client_max_size=_MAX_BODY)
    points = {}
    routes = [*api.routes(), *(Console(service).routes() if streams else ())]
    if streams and service.version.knowledge:
        routes += KnowledgeApi(service).routes()
    for method, path, handler, point in routes:
        app.router.add_route(method, path, handler)
        if method == "GET":
            app.router.add_route("HEAD", path, handler)
        points[handler] = point
    gateway = Gateway(service, points, own_answers=("submit",) if streams else ())
    gateway.install(app)
    return app, gateway
