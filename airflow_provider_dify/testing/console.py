"""Stands in for the one page of Dify's console that a task links to: an app's runs."""

from __future__ import annotations

from html import escape
from typing import Any

from aiohttp import web

from airflow_provider_dify.testing.errors import ApiError
from airflow_provider_dify.testing.service import Service

_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>{app} - local Dify server</title>
<style>body {{ font: 15px sans-serif }} td, th {{ padding: .3em 1em .3em 0; text-align: left }}</style></head>
<body>
<h1>{app}</h1>
<p>This is the local Dify server. Real Dify shows the app's logs here, behind a login.</p>
<table><tr><th>Run</th><th>Status</th><th>User</th></tr>
{rows}
</table>
</body>
</html>
"""
_ROW = "<tr><td>{}</td><td>{}</td><td>{}</td></tr>"


class Console:
    """Shows an app's runs as they truly are, newest first."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[tuple[str, str, Any, str]]:
        """Return method, path, handler and fault point of the page."""
        return [("GET", "/app/{app_id}/logs", self.logs, "any")]

    async def logs(self, request: web.Request) -> web.StreamResponse:
        """Answer with the page of an app.

        :raises ApiError: no app has the id.
        """
        app_id = request.match_info["app_id"]
        app = next((app for app in self._service.apps.values() if app.app_id == app_id), None)
        if app is None:
            raise ApiError(404, "app_not_found", "App not found.")
        records = [run.record() for run in self._service.engine.runs.values() if run.app is app]
        rows = [_ROW.format(*map(escape, (each.id, each.status, each.user))) for each in reversed(records)]
        page = _PAGE.format(app=escape(app.name), rows="\n".join(rows))
        return web.Response(text=page, content_type="text/html", charset="utf-8")
