"""The steps of a run, from its events: a line as each happens, a table at the end, and the step that failed.

Titles, errors and texts are the workflow's and the server's own: every one is cut, put on one line and freed
of what is not printable before it gets into a log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_dify.api.events import TEXT_CHUNK, WORKFLOW_FINISHED, WORKFLOW_PAUSED, Event
from airflow_provider_dify.api.values import excerpt, int_or_none, number_or_none, text_or_none

MAX_STEPS = 500
"""Steps that are reported one by one; an iteration over a long list has no end that a log could hold."""
TABLE_ROWS = 100
TEXT_CHARS = 1000
MAX_DEPTH = 5

_TITLE_CHARS = 60
_TYPE_CHARS = 30
_ERROR_CHARS = 500
_STARTED = frozenset({"node_started", "iteration_started", "loop_started"})
_FINISHED = frozenset({"node_finished", "iteration_completed", "loop_completed"})
_NEXT = frozenset({"iteration_next", "loop_next"})
_CONTAINERS = frozenset({"iteration", "loop"})


@dataclass
class Step:
    """One execution of a node.

    :param node_id: The node.
    :param title: Its title, fit for a log.
    :param node_type: Its type, fit for a log.
    :param parents: Ids of the iteration and the loop that it belongs to.
    :param status: As Dify writes it: ``succeeded``, ``failed``, ``exception`` (handled), ``retry``, ``paused``.
    :param seconds: Time it took; None while it is at work.
    :param tokens: Tokens used; None where nothing is reported.
    :param error: Error text, fit for a log.
    :param key: What tells it from all other steps of the run.
    """

    node_id: str
    title: str
    node_type: str
    parents: tuple[str, ...] = ()
    status: str = "running"
    seconds: float | None = None
    tokens: int | None = None
    error: str = ""
    start_is_logged: bool = False
    key: str = ""

    @property
    def name(self) -> str:
        """Title and type."""
        return f"{self.title} ({self.node_type})"


@dataclass
class _Text:
    head: str = ""
    chars: int = 0


@dataclass
class StepLog:
    """Collects a run's steps; events may come twice, out of order, or not at all.

    :param workflow_run_id: The run.
    :param redact: Takes the connection's secrets out of a text.
    :param logged: Steps that another process has logged, by their keys, with the status that it has logged.
    """

    workflow_run_id: str
    redact: Callable[[str], str] = str
    logged: Mapping[str, str] = field(default_factory=dict)
    _steps: dict[str, Step] = field(default_factory=dict)
    _texts: dict[str, _Text] = field(default_factory=dict)
    _rounds: dict[str, int] = field(default_factory=dict)
    _failed: Step | None = None
    _not_kept: int = 0

    def logged_steps(self) -> dict[str, str]:
        """Return what ``logged`` of the process is that goes on; the oldest where there are very many."""
        steps = list(self._steps.values())[:TABLE_ROWS]
        return {step.key: step.status for step in steps if step.start_is_logged or step.status != "running"}

    @property
    def is_known(self) -> bool:
        """Whether any step has been reported."""
        return bool(self._steps)

    def take(self, events: Iterable[Event]) -> list[str]:
        """Take events and return the lines to log. A start whose end is among them too is left out."""
        lines: list[str] = []
        fresh: list[Step] = []
        for event in events:
            if event.event in _STARTED:
                step = self._started(event)
                if step is not None:
                    fresh.append(step)
                continue
            # What a step does is reported after its start.
            if event.event in _NEXT or event.event == "node_retry":
                lines += self._starts(fresh)
            if event.event in _FINISHED:
                ended = self._finished(event)
                if ended is not None and self.logged.get(ended.key) != ended.status:
                    lines += self._starts([step for step in fresh if step is not ended and _holds(step, ended)])
                    lines += self._text_lines(ended.node_id)
                    lines.append(self._line(ended, _outcome(ended)))
            elif event.event in _NEXT:
                lines += self._next(event)
            elif event.event == "node_retry":
                lines += self._retry(event)
            elif event.event == TEXT_CHUNK:
                self._collect(event)
            elif event.event in (WORKFLOW_FINISHED, WORKFLOW_PAUSED):
                lines += self._starts(fresh)
                lines += self._all_text_lines()
        return lines + self._starts(fresh)

    def closing(self) -> list[str]:
        """Return what is left to say when the wait ends: streamed text, and the table of the steps."""
        return self._all_text_lines() + self.table()

    def table(self) -> list[str]:
        """Return the steps as a table, a line for each; empty where none is known."""
        if not self._steps:
            return []
        shown = list(self._steps.values())[:TABLE_ROWS]
        rows = [("#", "step", "type", "status", "seconds", "tokens")]
        for number, step in enumerate(shown, 1):
            rows.append(
                (
                    str(number),
                    "  " * self._depth(step) + step.title,
                    step.node_type,
                    step.status,
                    "-" if step.seconds is None else f"{step.seconds:.1f}",
                    "-" if step.tokens is None else str(step.tokens),
                )
            )
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [f"Steps of Dify run {self.workflow_run_id}:"]
        for row in rows:
            cells = [
                text.rjust(width) if column in (0, 4, 5) else text.ljust(width)
                for column, (text, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  " + "  ".join(cells).rstrip())
        more = len(self._steps) - len(shown) + self._not_kept
        return [*lines, f"  … and {more} more"] if more else lines

    def failure(self, run_error: str | None) -> str | None:
        """Return a sentence about the step that failed, or None where none is known.

        :param run_error: The run's error text, which is not repeated twice.
        """
        step = self._failed
        if step is None:
            return None
        known = step.error and step.error in excerpt(self.redact(run_error or ""), 10 * _ERROR_CHARS)
        error = f": {step.error.rstrip('.')}" if step.error and not known else ""
        return f"The failed step is {step.name}{error}."

    def _clean(self, value: Any, limit: int, default: str = "") -> str:
        text = text_or_none(value)
        return (excerpt(self.redact(text), limit) if text else "") or default

    def _step(self, event: Event) -> Step | None:
        """Return the step that an event is about, a new one where it was not known."""
        data = event.data
        node_id = text_or_none(data.get("node_id")) or text_or_none(data.get("id"))
        if node_id is None:
            return None
        kind = self._clean(data.get("node_type"), _TYPE_CHARS, "unknown type")
        # Live events name an iteration by its node, replayed ones by its execution.
        execution = None if kind in _CONTAINERS else text_or_none(data.get("id"))
        key = execution or f"node {node_id}"
        step = self._steps.get(key)
        if step is None:
            title = self._clean(data.get("title"), _TITLE_CHARS, self._clean(node_id, _TITLE_CHARS))
            parents = (text_or_none(data.get("iteration_id")), text_or_none(data.get("loop_id")))
            above = tuple(parent for parent in parents if parent and parent != node_id)
            step = Step(node_id, title, kind, above, start_is_logged=key in self.logged, key=key)
            if len(self._steps) >= MAX_STEPS:
                return self._one_too_many(step, event)
            self._steps[key] = step
        return step

    def _one_too_many(self, step: Step, event: Event) -> Step | None:
        if event.event in _FINISHED:
            self._not_kept += 1
            if event.data.get("status") == "failed":
                # That a run fails is worth a line however many steps it has.
                return step
        return None

    def _started(self, event: Event) -> Step | None:
        step = self._step(event)
        return step if step is not None and step.status == "running" and not step.start_is_logged else None

    def _starts(self, fresh: list[Step]) -> list[str]:
        """Tell the starts that were not reported yet, of steps that are at work."""
        lines = []
        for step in fresh:
            if step.status == "running" and not step.start_is_logged:
                step.start_is_logged = True
                lines.append(self._line(step, "started"))
        return lines

    def _finished(self, event: Event) -> Step | None:
        step, data = self._step(event), event.data
        status = self._clean(data.get("status"), 20, "succeeded")
        # A step that asked a human ends again, and the past is reported again to each new stream.
        if step is None or step.status not in ("running", "paused") or step.status == status:
            return None
        step.status = status
        step.seconds = number_or_none(data.get("elapsed_time"))
        metadata = data.get("execution_metadata")
        tokens = data.get("total_tokens")
        if tokens is None and isinstance(metadata, dict):
            tokens = metadata.get("total_tokens")
        step.tokens = int_or_none(tokens)
        step.error = self._clean(data.get("error"), _ERROR_CHARS)
        if step.status == "failed" and self._failed is None:
            self._failed = step
        return step

    def _next(self, event: Event) -> list[str]:
        step = self._step(event)
        number = int_or_none(event.data.get("index"))
        if step is None or number is None or number <= self._rounds.get(step.node_id, -1):
            return []
        self._rounds[step.node_id] = number
        if len(self._steps) >= MAX_STEPS or not 0 <= number < MAX_STEPS:
            return []
        return [self._line(step, f"round {number + 1}")]

    def _retry(self, event: Event) -> list[str]:
        step = self._step(event)
        if step is None:
            return []
        error = self._clean(event.data.get("error"), _ERROR_CHARS, "no error text")
        number = int_or_none(event.data.get("retry_index"))
        return [self._line(step, f"retry{'' if number is None else f' {number:.0f}'} after: {error}")]

    def _collect(self, event: Event) -> None:
        text, selector = text_or_none(event.data.get("text")), event.data.get("from_variable_selector")
        source = text_or_none(selector[0]) if isinstance(selector, list) and selector else None
        if text is None or (source not in self._texts and len(self._texts) >= MAX_STEPS):
            return
        collected = self._texts.setdefault(source or "", _Text())
        collected.head += text[: max(0, 4 * TEXT_CHARS - len(collected.head))]
        collected.chars += len(text)

    def _text_lines(self, node_id: str) -> list[str]:
        text = self._texts.pop(node_id, None)
        shown = excerpt(self.redact(text.head), TEXT_CHARS) if text is not None else ""
        if text is None or not shown:
            return []
        step = next((step for step in reversed(list(self._steps.values())) if step.node_id == node_id), None)
        more = f" ({text.chars} characters)" if shown.endswith("…") else ""
        if step is None:
            return [f"Dify step: {self._clean(node_id, _TITLE_CHARS, 'the run')}: text{more}: {shown}"]
        return [self._line(step, f"text{more}: {shown}")]

    def _all_text_lines(self) -> list[str]:
        return [line for node_id in list(self._texts) for line in self._text_lines(node_id)]

    def _depth(self, step: Step) -> int:
        depth, parents = 0, step.parents
        while parents and depth < MAX_DEPTH:
            depth += len(parents)
            above = [self._steps[key] for parent in parents if (key := f"node {parent}") in self._steps]
            parents = tuple(parent for each in above for parent in each.parents if parent not in step.parents)
        return min(depth, MAX_DEPTH)

    def _line(self, step: Step, what: str) -> str:
        return f"Dify step: {'  ' * self._depth(step)}{step.name}: {what}"


def _holds(container: Step, step: Step) -> bool:
    return container.node_id in step.parents


def _outcome(step: Step) -> str:
    parts = [step.status]
    if step.seconds is not None:
        parts.append(f"{step.seconds:.1f} s")
    if step.tokens:
        parts.append(f"{step.tokens} token{'s' if step.tokens != 1 else ''}")
    return ", ".join(parts) + (f": {step.error}" if step.error else "")
