"""What the trigger tells the worker: a frozen set of statuses, checked on arrival."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from airflow_provider_dify import exceptions
from airflow_provider_dify.api.runs import RunStatus
from airflow_provider_dify.api.values import shape_of, text_or_none
from airflow_provider_dify.exceptions import DifyError, DifyTriggerEventError
from airflow_provider_dify.rules.polling import Ended, GivenUp, TimedOut
from airflow_provider_dify.rules.searching import FindResult, Found, NotFound
from airflow_provider_dify.rules.waiting import PausedOut, WaitResult

ENDED = "ended"
TIMED_OUT = "timed_out"
PAUSED = "paused"
FOUND = "found"
NOT_FOUND = "not_found"
ERROR = "error"
DUE = "due"
RESUME = "resume"
"""Key of an event under which it carries all that the resumed task needs: ``dag.test()`` and ``airflow dags test`` drop
the arguments of ``defer()``."""
_WAIT_STATUSES = frozenset({ENDED, TIMED_OUT, PAUSED, ERROR})
_SEARCH_STATUSES = frozenset({FOUND, NOT_FOUND, ERROR})
# The parts of an error's text, in the order in which an event has them.
_PARTS = ("message", "advice", "on_retry", "where")


@dataclass(frozen=True)
class Report:
    """How a deferred wait ended. It carries no outputs: the worker reads them itself.

    :param status: ``ended``, ``timed_out``, ``paused`` or ``error``.
    :param workflow_run_id: The run that was waited for.
    :param run_status: The last status seen; None where none was.
    :param questions: What a paused run asks a human.
    :param error: Name of the exception's class, its message as a whole and in parts, ``status_code`` and ``code``.
    :param failed_step: A sentence about the step that failed, where its events were followed.
    :param marker: The marker that led to the run, where the trigger has searched for it first.
    """

    status: str
    workflow_run_id: str
    run_status: str | None = None
    questions: tuple[str, ...] = ()
    error: dict[str, Any] | None = None
    failed_step: str | None = None
    marker: str | None = None

    @classmethod
    def of(cls, workflow_run_id: str, result: WaitResult) -> Report:
        """Put the end of a wait into a report."""
        if isinstance(result, Ended):
            return cls(ENDED, workflow_run_id, run_status=str(result.run.status), failed_step=result.failed_step)
        if isinstance(result, TimedOut):
            return cls(TIMED_OUT, workflow_run_id, run_status=result.status and str(result.status))
        if isinstance(result, PausedOut):
            return cls(PAUSED, workflow_run_id, questions=result.questions)
        return cls.of_error(workflow_run_id, result.error)

    @classmethod
    def of_error(cls, workflow_run_id: str, error: DifyError) -> Report:
        """Put an exception into a report."""
        return cls(
            ERROR,
            workflow_run_id,
            error=_error_as_json(error),
        )

    def event(self) -> dict[str, Any]:
        """Return the payload of the trigger's event."""
        return _without_blanks(self)

    @classmethod
    def parse(cls, event: Any, workflow_run_id: str | None) -> Report:
        """Read the payload of an event.

        :param event: What Airflow hands to the resumed task.
        :param workflow_run_id: The run that the task waits for; None takes the event's.
        :raises DifyTriggerEventError: It is not an event of this trigger about this run.
        """
        run_id = event.get("workflow_run_id") if isinstance(event, dict) else None
        known = _has_status(event, _WAIT_STATUSES) and isinstance(run_id, str)
        if not known or workflow_run_id not in (None, run_id):
            raise _foreign_event(event, workflow_run_id)
        error = event.get("error")
        return cls(
            status=event["status"],
            workflow_run_id=str(run_id),
            run_status=event.get("run_status"),
            questions=tuple(map(str, event.get("questions") or ())),
            error=error if isinstance(error, dict) else None,
            failed_step=text_or_none(event.get("failed_step")),
            marker=text_or_none(event.get("marker")),
        )

    def wait_result(self) -> TimedOut | PausedOut | GivenUp | None:
        """Return how the wait ended, or None where the run has ended and the worker reads it."""
        if self.status == ENDED:
            return None
        if self.status == TIMED_OUT:
            known = self.run_status in set(map(str, RunStatus))
            return TimedOut(RunStatus(self.run_status) if known else None)
        if self.status == PAUSED:
            return PausedOut(self.questions)
        return GivenUp(_error_from_json(self.error, self.workflow_run_id))


@dataclass(frozen=True)
class SearchReport:
    """How a deferred search for a run ended.

    :param status: ``found``, ``not_found`` or ``error``.
    :param workflow_run_id: The run that was found.
    :param marker: The marker that led to it.
    :param reason: Why none was found.
    :param error: As in ``Report``.
    """

    status: str
    workflow_run_id: str | None = None
    marker: str | None = None
    reason: str | None = None
    error: dict[str, Any] | None = None

    @classmethod
    def of(cls, result: FindResult) -> SearchReport:
        """Put the end of a search into a report."""
        if isinstance(result, Found):
            return cls(FOUND, workflow_run_id=result.workflow_run_id, marker=result.marker)
        return cls(NOT_FOUND, reason=result.reason)

    @classmethod
    def of_error(cls, error: DifyError) -> SearchReport:
        """Put an exception into a report."""
        return cls(ERROR, error=_error_as_json(error))

    def event(self) -> dict[str, Any]:
        """Return the payload of the trigger's event."""
        return _without_blanks(self)

    @classmethod
    def parse(cls, event: Any) -> FindResult | Report:
        """Read the payload of an event.

        :return: How the search ended; or, where the trigger has also waited for the run that it found, how that ended.
        :raises DifyTriggerEventError: It is not an event of this trigger.
        :raises DifyError: What the search gave up for.
        """
        if isinstance(event, dict) and event.get("marker") and event.get("status") != FOUND:
            return Report.parse(event, None)
        if not _has_status(event, _SEARCH_STATUSES):
            raise _foreign_event(event, None)
        if event["status"] == ERROR:
            raise _error_from_json(event.get("error"), None)
        if event["status"] == NOT_FOUND:
            return NotFound(str(event.get("reason")))
        run_id, marker = event.get("workflow_run_id"), event.get("marker")
        if not isinstance(run_id, str) or not isinstance(marker, str):
            raise _foreign_event(event, None)
        return Found(run_id, marker)


def carried(event: Any) -> dict[str, Any]:
    """Return what the event of a trigger carries for the task that it resumes; empty for that of an older version."""
    resume = event.get(RESUME) if isinstance(event, dict) else None
    return resume if isinstance(resume, dict) else {}


def _without_blanks(report: Report | SearchReport) -> dict[str, Any]:
    return {name: value for name, value in asdict(report).items() if value not in (None, ())}


def _has_status(event: Any, statuses: frozenset[str]) -> bool:
    status = event.get("status") if isinstance(event, dict) else None
    return isinstance(status, str) and status in statuses


def _foreign_event(event: Any, workflow_run_id: str | None) -> DifyTriggerEventError:
    shown = f"the keys {sorted(map(str, event))}" if isinstance(event, dict) else shape_of(event)
    run = f"Dify run {workflow_run_id}" if workflow_run_id else "a Dify run"
    return DifyTriggerEventError(
        f"The task that waits for {run} was resumed with {shown} instead of this provider's event. Triggerer and "
        "worker may run different versions of airflow-provider-dify. The run goes on.",
        workflow_run_id=workflow_run_id,
    )


def _error_as_json(error: DifyError) -> dict[str, Any]:
    return {
        "type": type(error).__name__,
        "message": error.message,
        "parts": [error.problem, error.advice, error.on_retry, error.where],
        "status_code": error.status_code,
        "code": error.code,
    }


def _error_from_json(error: Any, workflow_run_id: str | None) -> DifyError:
    error = error if isinstance(error, dict) else {}
    kind = getattr(exceptions, str(error.get("type")), None)
    if not (isinstance(kind, type) and issubclass(kind, DifyError)):
        kind = DifyError
    parts = error.get("parts")
    if not (isinstance(parts, list) and len(parts) == len(_PARTS)):
        # The event of an older version.
        parts = [error.get("message") or "The trigger ended without naming an error."]
    texts = {name: str(text) for name, text in zip(_PARTS, parts, strict=False)}
    return kind(
        **texts,
        status_code=error.get("status_code"),
        code=error.get("code"),
        workflow_run_id=workflow_run_id,
    )
