"""Refusals inside a stream of HTTP 200: what tells them from the events of a run that exists.

From 1.15 on Dify answers a submission that fails before the workflow's engine starts with a synthetic pair:
``workflow_started`` and a failed ``workflow_finished``, whose id never gets a row. They are recognized by what they
hold and never by the server's version, which does not tell two builds of one number apart.
"""

from __future__ import annotations

import re

from airflow_provider_dify.api.errors import error_for_event, is_input_text
from airflow_provider_dify.api.events import (
    ERROR,
    HUMAN_INPUT_REQUIRED,
    PING,
    TEXT_CHUNK,
    WORKFLOW_FINISHED,
    WORKFLOW_PAUSED,
    WORKFLOW_STARTED,
    Event,
)
from airflow_provider_dify.api.values import number_or_none, text_or_none
from airflow_provider_dify.exceptions import DifyError, DifyServerError

WHAT = "Starting the workflow run"

_SYSTEM_PREFIX = "sys."
_ENGINE_EVENTS = frozenset(
    {
        WORKFLOW_STARTED,
        WORKFLOW_FINISHED,
        WORKFLOW_PAUSED,
        HUMAN_INPUT_REQUIRED,
        TEXT_CHUNK,
        "text_replace",
        "agent_log",
    }
)
_ENGINE_PREFIXES = ("node_", "iteration_", "loop_")
# A synthetic pair has the error's text and no code. These are texts of the server's own parts, which answer HTTP 500
# where Dify answers at once.
_INFRASTRUCTURE = re.compile(
    r"psycopg|sqlalche|operationalerror|redis|connection (?:refused|reset|aborted|closed|pool|timed)|"
    r"timed out|internal server error|server closed the connection",
    re.IGNORECASE,
)


class Refusal(Exception):
    """The stream that answers a submission says that Dify refused it: no run exists."""

    def __init__(self, error: DifyError) -> None:
        super().__init__(error.message)
        self.error = error


def is_synthetic_start(event: Event) -> bool:
    """Tell whether a ``workflow_started`` of a submission's own stream may be that of a refusal.

    A real one has a task id of its own, and the system's variables among the inputs. The events route replays real
    runs with the run id in place of the task id, so this holds for the stream of a submission alone.
    """
    inputs = event.data.get("inputs")
    return (
        event.event == WORKFLOW_STARTED
        and _has_one_id(event)
        and isinstance(inputs, dict)
        and not any(name.startswith(_SYSTEM_PREFIX) for name in inputs)
    )


def is_synthetic_end(event: Event, *, after_start: bool) -> bool:
    """Tell whether a ``workflow_finished`` of a submission's own stream is that of a refusal.

    :param after_start: Whether a synthetic start came before. It can be lost, and then every sign has to agree.
    """
    data = event.data
    if event.event != WORKFLOW_FINISHED or not _has_one_id(event) or data.get("status") != "failed":
        return False
    if data.get("total_steps") or data.get("outputs") or data.get("created_by"):
        return False
    # A real run that fails has an empty object as its outputs.
    alone = data.get("outputs") is None and number_or_none(data.get("total_steps")) == 0
    return after_start or (alone and not number_or_none(data.get("elapsed_time")))


def refusal_error(end: Event | None) -> DifyError:
    """Return the error that a refusal stands for: the one that the same mistake has in blocking mode.

    :param end: The ``workflow_finished`` of the synthetic pair; None where it did not come.
    """
    text = text_or_none(end.data.get("error")) if end is not None else None
    if text is None:
        return DifyServerError(
            f"{WHAT}: Dify refused the submission before a run existed, and did not say why: its stream ended too "
            "early. Compare inputs and files with the input form of the workflow's start node. A retry of the task "
            "starts no second run, and may name the reason."
        )
    internal = _INFRASTRUCTURE.search(text) is not None and not is_input_text(text)
    return error_for_event({"status": 500 if internal else 400, "message": text}, WHAT)


class RunNaming:
    """Hands on the events of a submission's stream from the one on that names a run that exists.

    ``workflow_started`` usually names it, and can be lost: any event with a run id will do. One that looks
    synthetic is kept back until the next event of the run says which it is.
    """

    def __init__(self) -> None:
        self._kept: list[Event] = []
        self.named: Event | None = None
        self._has_events = False
        self._has_pings = False

    @property
    def is_silent(self) -> bool:
        """Whether the stream has begun as it should, with a ping, and nothing else came."""
        return self._has_pings and not self._has_events

    def take(self, event: Event) -> tuple[Event, ...]:
        """Return the events that are certain now; pings are left out.

        :raises Refusal: The event says that no run exists.
        """
        if event.event == PING:
            self._has_pings = True
            return ()
        self._has_events = True
        if self.named is not None:
            return (event,)
        if event.event == ERROR:
            raise Refusal(event.error(WHAT))
        if is_synthetic_end(event, after_start=bool(self._kept)):
            raise Refusal(refusal_error(event))
        if self._kept and not _is_proof(event):
            self._kept.append(event)
            return ()
        if is_synthetic_start(event):
            self._kept.append(event)
            return ()
        if event.workflow_run_id is None:
            return (event,)
        self.named = event
        certain = (*(kept for kept in self._kept if kept.workflow_run_id in (None, event.workflow_run_id)), event)
        self._kept.clear()
        return certain

    def close(self) -> None:
        """Say that no more events come, however the stream ended.

        :raises Refusal: It ended between the two events of a synthetic pair, whose id never names a run.
        """
        if self._kept:
            raise Refusal(refusal_error(None))


def _has_one_id(event: Event) -> bool:
    return event.workflow_run_id is not None and event.task_id == event.workflow_run_id


def _is_proof(event: Event) -> bool:
    """Tell whether an event after a synthetic start comes from an engine, so that there is a run after all."""
    if event.workflow_run_id is None or is_synthetic_start(event):
        return False
    at_work = event.event in _ENGINE_EVENTS or event.event.startswith(_ENGINE_PREFIXES)
    return at_work or event.task_id not in (None, event.workflow_run_id)
