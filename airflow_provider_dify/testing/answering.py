"""The people of a local Dify server: what they are asked, what they answer, and what they let expire."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_dify.testing.forms import form_values
from airflow_provider_dify.testing.runs import Form
from airflow_provider_dify.testing.service import Service


@dataclass(frozen=True, slots=True)
class FormRecord:
    """A human-input form as it is now.

    :param id: its id.
    :param token: what gives access to it over the API.
    :param run_id: the run that asks.
    :param node: the title of the node that asks.
    :param status: `open`, `answered` or `expired`.
    :param action: the id of the action that was chosen; None while it is open.
    :param inputs: what was filled in.
    """

    id: str
    token: str = field(repr=False)
    run_id: str
    node: str
    status: str
    action: str | None
    inputs: Mapping[str, Any]


class Forms:
    """The forms of a server. What is done here is done in Dify itself, as on its page, and no request shows it.

    :param service: the server's state.
    :param call: calls a function in the server's loop.
    :param run: runs a coroutine in the server's loop.
    """

    def __init__(self, service: Service, call: Callable[[Callable[[], Any]], Any], run: Callable[[Any], Any]) -> None:
        self._service = service
        self._call = call
        self._run = run

    def all(self) -> list[FormRecord]:
        """Return every form, oldest first."""
        records: list[FormRecord] = self._call(lambda: [_record(form) for form in self._forms()])
        return records

    def open(self) -> list[FormRecord]:
        """Return the forms that wait for an answer, oldest first."""
        return [record for record in self.all() if record.status == "open"]

    def answer(self, form_id: str, action: str, inputs: Mapping[str, Any] | None = None) -> None:
        """Answer a form in Dify.

        :raises ApiError: for what a real server refuses.
        :raises KeyError: no open form has the id.
        """
        self._run(answer_form(self._service, form_id, action, inputs or {}))

    def expire(self, form_id: str) -> None:
        """Let the time of a form be over; its run goes on without an answer.

        :raises KeyError: no open form has the id.
        """
        self._call(lambda: self._service.engine.expire(open_form(self._service, form_id)))

    def _forms(self) -> list[Form]:
        return list(self._service.engine.pauses.forms.values())


def open_form(service: Service, form_id: str) -> Form:
    """Return a form that waits for an answer.

    :raises KeyError: none has the id.
    """
    for form in service.engine.pauses.forms.values():
        if form.id == form_id and form.answer is None:
            return form
    raise KeyError(f"no open form {form_id!r}")


async def answer_form(service: Service, form_id: str, action: str, inputs: Mapping[str, Any]) -> None:
    """Answer a form, as the page of Dify does."""
    form = open_form(service, form_id)
    values = await form_values(form.definition, action, inputs, service.version, service.files)
    await asyncio.sleep(0)
    service.engine.resume(open_form(service, form_id), action, values)


def _record(form: Form) -> FormRecord:
    action, inputs = form.answer or (None, {})
    status = "open" if form.answer is None else "expired" if form.expired else "answered"
    return FormRecord(form.id, form.token, form.run.id, form.execution.step.title, status, action, dict(inputs))
