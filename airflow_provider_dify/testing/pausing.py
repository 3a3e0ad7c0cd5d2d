"""Human-input nodes: where a run pauses, and how it goes on with an answer, or without one."""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any

from airflow_provider_dify.testing.events import EventBodies, form_content
from airflow_provider_dify.testing.runs import Execution, Form, Run
from airflow_provider_dify.testing.versions import Version
from airflow_provider_dify.testing.workflows import Step

TIMED_OUT = "__timeout"
"""What a node yields as its action where its form has expired. No recording shows it."""


class Pause(Enum):
    """What came of a visit to human-input nodes."""

    WAITS = "waits"
    STOPPED = "stopped"
    OVER = "over"


class Pauses:
    """The forms of one server.

    :param version: whose behaviour is shown.
    :param bodies: makes events.
    :param resume_stops: whether a run that is resumed ends `stopped`, as on the releases 1.16.0 and 1.16.1.
    """

    def __init__(self, version: Version, bodies: EventBodies, *, resume_stops: bool) -> None:
        self._version = version
        self._bodies = bodies
        self._resume_stops = resume_stops
        self.forms: dict[str, Form] = {}

    def answer(self, form: Form, action: str, values: Mapping[str, Any]) -> bool:
        """Note a form's answer; tell whether its run is to be continued for it.

        The other form of a pause may have been answered a moment before: its run is on its way then, and sees both.
        """
        form.answer = (action, values)
        run = form.run
        if run.status != "paused" or run.is_resuming:
            return False
        run.is_resuming = True
        return True

    def expire(self, form: Form) -> bool:
        """Let a form's time be over; tell whether its run is to be continued for it."""
        form.expired = True
        return self.answer(form, TIMED_OUT, {name: _proposal(form, name) for name in form.definition.fields})

    def visit(self, run: Run, steps: Sequence[Step], say: Callable[[Run], None]) -> Pause:
        """Go through human-input nodes that are asked at the same time.

        :param say: publishes text that is ready.
        :return: whether the run waits, and whether it was stopped meanwhile.
        """
        run.is_resuming = False
        forms = {form.execution.step.node_id: form for form in run.forms}
        for step in steps:
            form = forms.get(step.node_id)
            if form is None:
                run.steps += 1
                run.forms.append(self._ask(run, step))
            elif form.answer is not None and not form.done:
                run.steps += 1
                if self._begin_again(run, form):
                    return Pause.STOPPED
                self._complete(run, form, say)
        waiting = [form for form in run.forms if form.answer is None]
        if not waiting:
            run.forms = []
            return Pause.OVER
        assert run.row is not None
        run.status = run.row.status = "paused"
        run.has_paused = True
        run.row.total_steps = run.steps
        for form in waiting:
            run.publish(self._bodies.human_input_required(run, form))
        run.publish(self._bodies.workflow_paused(run, waiting))
        if self._resume_stops:
            run.stopping = run.stopped_in_pause = True
        return Pause.WAITS

    def _ask(self, run: Run, step: Step) -> Form:
        assert step.human_input is not None
        execution = Execution(step, str(uuid.uuid4()), time.time())
        run.executions.append(execution)
        run.publish(self._bodies.node_started(run, execution))
        form = Form(
            step.human_input,
            run,
            execution,
            id=execution.id if self._version.forms_are_nodes else str(uuid.uuid4()),
            token=secrets.token_urlsafe(16)[:22].replace("-", "a").replace("_", "b"),
            expires_at=int(time.time() + step.human_input.hours * 3600),
        )
        self.forms[form.token] = form
        execution.end("paused", time.time())
        return form

    def _begin_again(self, run: Run, form: Form) -> bool:
        execution = form.execution
        execution.status, execution.started_at = "running", time.time()
        run.publish(self._bodies.node_started(run, execution))
        return run.stopped_in_pause

    def _complete(self, run: Run, form: Form, say: Callable[[Run], None]) -> None:
        assert form.answer is not None
        (action, submitted), execution = form.answer, form.execution
        content = form_content(form, run)
        for name, value in submitted.items():
            shown = "[file]" if isinstance(value, Mapping) else str(value)
            content = content.replace("{{#" + f"$output.{name}" + "#}}", shown)
        if self._version.tells_filled_forms and not form.expired:
            run.publish(self._bodies.human_input_form_filled(run, form, content, action, submitted))
        execution.files = [value for value in submitted.values() if isinstance(value, Mapping)]
        execution.inputs = {name: _submitted(value) for name, value in submitted.items()}
        execution.outputs = run.scope[execution.step.node_id] = {
            **submitted,
            "__action_id": action,
            "__rendered_content": content,
            "__action_value": form.definition.actions.get(action, ""),
        }
        say(run)
        execution.end("succeeded", time.time())
        run.publish(self._bodies.node_finished(run, execution))
        form.done = True


def _proposal(form: Form, name: str) -> Any:
    return form.definition.fields[name] if form.definition.type_of(name) == "paragraph" else None


def _submitted(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        file = {name: item for name, item in value.items() if name not in ("related_id", "url")}
        return {"value_type": "file", "value": file}
    return {"value_type": "string", "value": value}
