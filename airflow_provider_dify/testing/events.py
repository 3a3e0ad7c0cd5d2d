"""The bodies of stream events, by version, and their bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from airflow_provider_dify.testing.runs import PING, Event, Execution, Form, Run
from airflow_provider_dify.testing.versions import Version
from airflow_provider_dify.testing.workflows import HumanInput

_PARALLEL_KEYS = (
    "parallel_id",
    "parallel_start_node_id",
    "parent_parallel_id",
    "parent_parallel_start_node_id",
)


def encode(event: Event, *, spaced: bool = False) -> bytes:
    """Return an event's block: compact JSON, or with blanks as the events route writes a finished run's."""
    if event is PING:
        return b"event: ping\n\n"
    separators = None if spaced else (",", ":")
    return b"data: " + json_bytes(event, separators) + b"\n\n"


def json_bytes(value: Any, separators: tuple[str, str] | None = None) -> bytes:
    """Return JSON with its texts unescaped; escaped where one is no valid Unicode, and could not be sent otherwise."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=separators).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=separators).encode()


class EventBodies:
    """Builds the events of one version."""

    def __init__(self, version: Version) -> None:
        self._version = version

    def workflow_started(self, run: Run, reason: str = "initial") -> Event:
        """Return the event with which a run, or its continuation, names itself."""
        data: dict[str, Any] = {
            "id": run.id,
            "workflow_id": run.workflow_id,
            "inputs": run.inputs | run.system_variables(),
            "created_at": int(run.segment_started_at or run.created_at),
        }
        if self._version.started_reason:
            data["reason"] = reason
        return _event("workflow_started", run, data)

    def workflow_finished(
        self, run: Run, status: str, outputs: Mapping[str, Any], error: str | None, now: float
    ) -> Event:
        """Return the terminal event."""
        started = run.segment_started_at or run.created_at
        return _event(
            "workflow_finished",
            run,
            {
                "id": run.id,
                "workflow_id": run.workflow_id,
                "status": status,
                "outputs": dict(outputs),
                "error": error or self._version.success_error,
                "elapsed_time": round(now - started, 6),
                "total_tokens": run.tokens,
                "total_steps": run.steps if self._version.row_counts_steps else 0,
                "created_by": {"id": run.end_user.id, "user": run.end_user.session_id},
                "created_at": int(started),
                "finished_at": int(now),
                "exceptions_count": run.exceptions,
                "files": [],
            },
        )

    def finished_row(self, run: Run) -> Event:
        """Return the one event that the events route gives of a finished run, made from its row."""
        row = run.row
        assert row is not None
        event = self.workflow_finished(run, row.status, row.outputs, row.error, row.finished_at or row.created_at)
        event["data"]["elapsed_time"] = row.elapsed
        return _replayed(event, run.id)

    def workflow_paused(self, run: Run, forms: Sequence[Form]) -> Event:
        """Return the event that ends the stream of a run which waits for a human."""
        assert run.segment_started_at is not None
        reasons = [{"TYPE": "human_input_required", **self._form_data(form, run)} for form in forms]
        return _event(
            "workflow_paused",
            run,
            {
                "workflow_run_id": run.id,
                "paused_nodes": [form.execution.step.node_id for form in forms],
                "outputs": {},
                "reasons": reasons,
                "status": "paused",
                "created_at": int(run.segment_started_at),
                "elapsed_time": round(forms[0].execution.started_at - run.segment_started_at, 6),
                "total_tokens": run.tokens,
                "total_steps": run.steps,
            },
        )

    def human_input_required(self, run: Run, form: Form) -> Event:
        """Return the event that tells the form and its token."""
        data = self._form_data(form, run)
        data["display_in_ui"] = True
        return _event("human_input_required", run, data)

    def _form_data(self, form: Form, run: Run) -> dict[str, Any]:
        data = _form_data(form, run)
        channels = list(form.definition.channels)
        return {**data, "approval_channels": channels} if self._version.approval_channels else data

    def human_input_form_filled(
        self, run: Run, form: Form, content: str, action: str, submitted: Mapping[str, Any]
    ) -> Event:
        """Return the event that tells the answer."""
        step = form.execution.step
        return _event(
            "human_input_form_filled",
            run,
            {
                "node_id": step.node_id,
                "node_title": step.title,
                "rendered_content": content,
                "action_id": action,
                "action_text": form.definition.actions[action],
                "submitted_data": dict(submitted),
            },
        )

    def node_started(self, run: Run, execution: Execution) -> Event:
        """Return the event of a node that begins."""
        data = {
            **_node(execution),
            "index": 1,
            "predecessor_node_id": None,
            "inputs": None,
            "inputs_truncated": False,
            "created_at": int(execution.started_at),
            "extras": {},
            "iteration_id": execution.iteration_id,
            "loop_id": execution.loop_id,
            "agent_strategy": None,
        }
        if self._version.parallel_keys:
            data |= dict.fromkeys((*_PARALLEL_KEYS, "parallel_run_id"))
        return _event("node_started", run, data)

    def node_finished(self, run: Run, execution: Execution) -> Event:
        """Return the event of a node that ended."""
        return _event("node_finished", run, self._ended_node(execution))

    def node_retry(self, run: Run, execution: Execution, retry: int) -> Event:
        """Return the event of a node that failed and is tried again."""
        data = self._ended_node(execution)
        if self._version.empty_metadata:
            data["process_data"] = None
            data["execution_metadata"] = dict.fromkeys(("iteration_id", "parallel_mode_run_id", "loop_id"))
        data["retry_index"] = retry
        return _event("node_retry", run, data)

    def _ended_node(self, execution: Execution) -> dict[str, Any]:
        metadata = execution.metadata
        if metadata is None and self._version.empty_metadata:
            metadata = {}
        data = {
            **_node(execution),
            "index": 1,
            "predecessor_node_id": None,
            "inputs": execution.inputs,
            "inputs_truncated": False,
            "process_data": execution.process_data,
            "process_data_truncated": False,
            "outputs": dict(execution.outputs),
            "outputs_truncated": False,
            "status": execution.status,
            "error": execution.error,
            "elapsed_time": execution.elapsed,
            "execution_metadata": metadata,
            "created_at": int(execution.started_at),
            "finished_at": int(execution.finished_at or execution.started_at),
            "files": execution.files,
            "iteration_id": execution.iteration_id,
            "loop_id": execution.loop_id,
        }
        if self._version.parallel_keys:
            data |= dict.fromkeys(_PARALLEL_KEYS)
        return data

    def round_started(self, run: Run, execution: Execution, length: int) -> Event:
        """Return `iteration_started` or `loop_started`."""
        kind = execution.step.type
        return _event(
            f"{kind}_started",
            run,
            {
                **_container(execution),
                "created_at": int(execution.started_at),
                "extras": {},
                "metadata": {f"{kind}_length": length},
                "inputs": execution.inputs,
                "inputs_truncated": False,
            },
        )

    def round_next(self, run: Run, execution: Execution, index: int, now: float) -> Event:
        """Return `iteration_next` or `loop_next`."""
        data = {**_container(execution), "index": index, "created_at": int(now), "extras": {}}
        if execution.step.type == "loop":
            data["pre_loop_output"] = {}
        return _event(f"{execution.step.type}_next", run, data)

    def round_completed(self, run: Run, execution: Execution, steps: int) -> Event:
        """Return `iteration_completed` or `loop_completed`."""
        return _event(
            f"{execution.step.type}_completed",
            run,
            {
                **_container(execution),
                "outputs": dict(execution.outputs),
                "outputs_truncated": False,
                "created_at": int(execution.started_at),
                "extras": {},
                "inputs": execution.inputs,
                "inputs_truncated": False,
                "status": execution.status,
                "error": execution.error,
                "elapsed_time": execution.elapsed,
                "total_tokens": 0,
                "execution_metadata": execution.metadata,
                "finished_at": int(execution.finished_at or execution.started_at),
                "steps": steps,
            },
        )

    def text_chunk(self, run: Run, text: str, selector: list[str]) -> Event:
        """Return a piece of streamed text and where it comes from."""
        return _event("text_chunk", run, {"text": text, "from_variable_selector": selector})

    def refused_inputs(self, run: Run, message: str) -> list[Event]:
        """Return what a stream says of inputs that a worker refused: nothing, or a pair of events."""
        return self._synthetic_pair(run, message) if self._version.synthetic_refusals else []

    def refused_graph(self, run: Run, message: str) -> list[Event]:
        """Return what a stream says of a graph that cannot be built."""
        error = {
            "event": "error",
            "workflow_run_id": None,
            "code": "invalid_param",
            "status": 400,
            "message": message,
        }
        return [error, *(self._synthetic_pair(run, message) if self._version.synthetic_refusals else [])]

    def _synthetic_pair(self, run: Run, message: str) -> list[Event]:
        """Return start and end of a run that never is: no row has its id, and its task id is the same."""
        now = int(run.created_at)
        known = {"id": run.id, "workflow_id": run.workflow_id}
        ended: dict[str, Any] = {
            **known,
            "status": "failed",
            "outputs": None,
            "error": message,
            "elapsed_time": 0.0,
            "total_tokens": 0,
            "total_steps": 0,
            "created_by": {},
            "created_at": now,
            "finished_at": now,
            "exceptions_count": 1,
            "files": [],
        }
        started = {**known, "inputs": dict(run.sent_inputs), "created_at": now, "reason": "initial"}
        return [
            {"event": name, "task_id": run.id, "workflow_run_id": run.id, "data": data}
            for name, data in (("workflow_started", started), ("workflow_finished", ended))
        ]

    def snapshot(self, run: Run) -> list[Event]:
        """Return the past of a run as the events route replays it: shorter bodies, made from the database."""
        task_id = run.task_id if run.status == "paused" else run.id
        started = self.workflow_started(run)
        started["data"]["inputs"] = run.inputs | run.system_variables("middle")
        started["data"]["created_at"] = int(run.created_at)
        events = [started]
        for index, execution in enumerate(run.executions, 1):
            begun = self.node_started(run, execution)
            begun["data"]["index"] = index
            for key in ("inputs_truncated", "agent_strategy"):
                del begun["data"][key]
            events.append(begun)
            if execution.status != "running":
                ended = self.node_finished(run, execution)
                ended["data"] |= {"index": index, "inputs": None, "process_data": None, "outputs": None}
                for key in ("inputs_truncated", "process_data_truncated", "outputs_truncated"):
                    del ended["data"][key]
                events.append(ended)
        waiting = [form for form in run.forms if form.answer is None]
        if run.status == "paused" and waiting:
            required = [self.human_input_required(run, form) for form in waiting]
            paused = self.workflow_paused(run, waiting)
            if not self._version.forms_are_nodes:
                open_forms = zip(required, paused["data"]["reasons"], waiting, strict=True)
                for event, reason, form in open_forms:
                    event["data"]["form_content"] = reason["form_content"] = form.definition.form_content
            paused["data"] |= {"created_at": int(run.created_at), "elapsed_time": 0.0}
            events += [*required, paused]
        return [_replayed(event, task_id) for event in events]


def form_inputs(form: Form) -> list[dict[str, Any]]:
    """Return a form's fields as the API describes them."""
    return [_form_input(form.definition, name) for name in form.definition.fields]


def _form_input(definition: HumanInput, name: str) -> dict[str, Any]:
    kind = definition.type_of(name)
    described: dict[str, Any] = {"output_variable_name": name, "type": kind}
    if kind == "select":
        constant = {"type": "constant", "selector": [], "value": definition.options_of(name)}
        return described | {"option_source": constant}
    if kind == "file":
        return described | {
            "allowed_file_types": definition.file_types_of(name),
            "allowed_file_extensions": [],
            "allowed_file_upload_methods": ["local_file", "remote_url"],
        }
    return described | {"default": {"type": "constant", "selector": [], "value": definition.fields[name]}}


def form_actions(form: Form) -> list[dict[str, Any]]:
    """Return a form's buttons as the API describes them."""
    return [
        {"id": action, "title": title, "button_style": "default" if number else "primary"}
        for number, (action, title) in enumerate(form.definition.actions.items())
    ]


def form_content(form: Form, run: Run) -> str:
    """Return a form's text with the run's inputs put in."""
    content = form.definition.form_content
    for name, value in run.inputs.items():
        content = content.replace("{{#" + f"start.{name}" + "#}}", str(value))
    return content


def _form_data(form: Form, run: Run) -> dict[str, Any]:
    return {
        "form_id": form.id,
        "node_id": form.execution.step.node_id,
        "node_title": form.execution.step.title,
        "form_content": form_content(form, run),
        "inputs": form_inputs(form),
        "actions": form_actions(form),
        "form_token": form.token if "console" in form.definition.channels else None,
        "resolved_default_values": {},
        "expiration_time": form.expires_at,
    }


def _event(name: str, run: Run, data: dict[str, Any]) -> Event:
    return {"event": name, "workflow_run_id": run.id, "task_id": run.task_id, "data": data}


def _replayed(event: Event, task_id: str) -> Event:
    return {
        "event": event["event"],
        "task_id": task_id,
        "workflow_run_id": event["workflow_run_id"],
        "data": event["data"],
    }


def _node(execution: Execution) -> dict[str, Any]:
    step = execution.step
    return {"id": execution.id, "node_id": step.node_id, "node_type": step.node_type, "title": step.title}


def _container(execution: Execution) -> dict[str, Any]:
    return _node(execution) | {"id": execution.step.node_id}
