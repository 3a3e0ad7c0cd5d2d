"""The text that a workflow's end node streams."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from airflow_provider_dify.testing.templates import as_text, lookup, references, render
from airflow_provider_dify.testing.workflows import Workflow


class TextStream:
    """The text that a workflow's end node streams: its outputs, one line each, as soon as they are known."""

    def __init__(self, workflow: Workflow) -> None:
        self._parts: deque[tuple[str, list[str]]] = deque()
        self._steps = {step.node_id for step in workflow.steps}
        template = workflow.output_template()
        if callable(template) or workflow.stream_text is not None:
            return
        inputs = {item.name for item in workflow.inputs}
        literal = [workflow.end.node_id, "answer"]
        for value in template.values():
            if self._parts:
                self._parts.append(("\n", literal))
            names = references(value)
            if not (isinstance(value, str) and len(names) == 1 and value == f"{{{names[0]}}}"):
                self._parts.append((value, literal))
            elif names[0] in inputs:
                self._parts.append((value, [workflow.start.node_id, names[0]]))
            else:
                self._parts.append((value, names[0].split(".")))

    def ready(self, scope: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
        """Return, and forget, the parts whose values are known."""
        parts = []
        while self._parts:
            template, selector = self._parts[0]
            needed = {name.split(".")[0] for name in references(template)} & self._steps
            if any(lookup(step, scope) is None for step in needed):
                break
            self._parts.popleft()
            parts.append((as_text(render(template, scope)), selector))
        return parts
