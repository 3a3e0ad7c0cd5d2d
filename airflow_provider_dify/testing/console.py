"""Stands in for two pages of Dify: that of an app's runs, to which a task links, and that where forms are answered."""

from __future__ import annotations

from html import escape
from typing import Any

from aiohttp import web

from airflow_provider_dify.testing.answering import answer_form
from airflow_provider_dify.testing.errors import ApiError
from airflow_provider_dify.testing.events import form_content
from airflow_provider_dify.testing.runs import Form
from airflow_provider_dify.testing.service import Service

_FORMS = "/console/forms"

_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>{title} - local Dify server</title>
<style>
body {{ font: 15px sans-serif; max-width: 60em }} td, th {{ padding: .3em 1em .3em 0; text-align: left }}
form {{ border: 1px solid #bbb; border-radius: 6px; padding: 0 1em 1em; margin: 1em 0 }} pre {{ white-space: pre-wrap }}
label {{ display: block; margin: .6em 0 }} .error {{ color: #a00 }}
</style></head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""
_RUNS = """<p>This is the local Dify server. Real Dify shows the app's logs here, behind a login.
<a href="{forms}">{count} waiting for a human's answer</a>.</p>
<table><tr><th>Run</th><th>Status</th><th>User</th></tr>
{rows}
</table>"""
_ROW = "<tr><td>{}</td><td>{}</td><td>{}</td></tr>"
_FORM = """<form method="post" action="{address}">
<h2>{title}</h2>
<p>Run {run} of {app}</p>
<pre>{content}</pre>
{fields}
{buttons}
</form>"""
_BUTTON = '<button name="action" value="{}">{}</button>'


class Console:
    """Shows an app's runs as they truly are, newest first, and lets a person answer what they ask."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[tuple[str, str, Any, str]]:
        """Return method, path, handler and fault point of the pages."""
        return [
            ("GET", "/app/{app_id}/logs", self.logs, "any"),
            ("GET", _FORMS, self.forms, "any"),
            ("POST", _FORMS + "/{form_id}", self.answer, "any"),
        ]

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
        count = len([form for form in self._open() if form.run.app is app])
        return _page(app.name, _RUNS.format(rows="\n".join(rows), forms=_FORMS, count=count))

    async def forms(self, request: web.Request) -> web.StreamResponse:
        """Answer with the page of all forms that wait for an answer."""
        return _page("Waiting for an answer", self._shown())

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Take what a person has filled in, and show the page again."""
        sent = await request.post()
        form_id = request.match_info["form_id"]
        form = next((form for form in self._open() if form.id == form_id), None)
        if form is None:
            return _page("Waiting for an answer", f'<p class="error">It was answered before.</p>{self._shown()}')
        inputs = {name: _value(form, name, sent.get(f"field.{name}")) for name in form.definition.fields}
        try:
            await answer_form(self._service, form_id, str(sent.get("action")), inputs)
        except (ApiError, KeyError) as error:
            return _page("Waiting for an answer", f'<p class="error">{escape(str(error))}</p>{self._shown()}')
        # Returned, not raised: the server takes a raised one for a route that it does not have.
        return web.Response(status=303, headers={"Location": _FORMS})

    def _open(self) -> list[Form]:
        return [form for form in self._service.engine.pauses.forms.values() if form.answer is None]

    def _shown(self) -> str:
        return "\n".join(map(_form, self._open())) or "<p>No run waits for a human.</p>"


def _page(title: str, body: str) -> web.Response:
    page = _PAGE.format(title=escape(title), body=body)
    return web.Response(text=page, content_type="text/html", charset="utf-8")


def _form(form: Form) -> str:
    return _FORM.format(
        address=f"{_FORMS}/{form.id}",
        title=escape(form.execution.step.title),
        run=escape(form.run.id),
        app=escape(form.run.app.name),
        content=escape(form_content(form, form.run)),
        fields="\n".join(_field(form, name) for name in form.definition.fields),
        buttons=" ".join(_BUTTON.format(escape(id), escape(title)) for id, title in form.definition.actions.items()),
    )


def _field(form: Form, name: str) -> str:
    kind, called = form.definition.type_of(name), f'name="field.{escape(name)}"'
    if kind == "select":
        options = "".join(f"<option>{escape(option)}</option>" for option in form.definition.options_of(name))
        return f"<label>{escape(name)} <select {called}>{options}</select></label>"
    if kind == "file":
        return f'<label>{escape(name)}, a URL <input {called} type="url" size="60"></label>'
    proposal = escape(str(form.definition.fields[name]))
    return f"<label>{escape(name)}<br><textarea {called} rows=3 cols=60>{proposal}</textarea></label>"


def _value(form: Form, name: str, sent: Any) -> Any:
    if form.definition.type_of(name) != "file":
        return str(sent or "")
    kind = next(iter(form.definition.file_types_of(name)))
    return {"type": kind, "transfer_method": "remote_url", "url": str(sent or "")}
