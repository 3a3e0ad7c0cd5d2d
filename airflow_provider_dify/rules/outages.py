"""A Dify server that is away for a while, as during its upgrade: what counts as that, and the wait for its return."""

from __future__ import annotations

from collections.abc import Callable, Generator
from copy import copy
from http import HTTPStatus
from typing import Any

from airflow_provider_dify.api.runs import RunStatus, WorkflowRun
from airflow_provider_dify.exceptions import DifyError, DifyServerError, DifyTransportError
from airflow_provider_dify.rules.polling import Deadline
from airflow_provider_dify.rules.waiting import CheckServer, Say, Sleep

FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 15.0
MAX_RESUBMISSIONS = 5
"""How often one try submits again after the server's shutdown has stopped its run."""
_RESUBMISSION_FIRST_SECONDS = 5.0
_RESUBMISSION_LONGEST_SECONDS = 30.0

_GATEWAY_STATUSES = frozenset({HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT})
# A wrong name or certificate is a mistake in the connection, which waiting does not mend.
_MISTAKES = frozenset({"name", "certificate", "tls", "plain_http"})
# The text in stream, GET run and logs alike, seen on Dify 1.16.1.
_SHUTDOWN_TEXT = "workflow stopped because the worker is shutting down"

ServerFlow = Generator[Sleep | CheckServer | Say, Any, bool]


def is_outage(error: DifyError | None) -> bool:
    """Tell whether an error means that no Dify answers at present: 502, 503 and 504 of a gateway, or nothing at all."""
    if isinstance(error, DifyServerError):
        return error.status_code in _GATEWAY_STATUSES
    return isinstance(error, DifyTransportError) and error.status_code is None and error.cause not in _MISTAKES


def wait_for_server(
    deadline: Deadline, clock: Callable[[], float], jitter: Callable[[], float], until: float | None = None
) -> ServerFlow:
    """Wait until the server answers, or until there is no time left.

    Who waits then submits, and sees what is left of the outage itself.

    :param deadline: When waiting ends.
    :param clock: Returns unix seconds.
    :param jitter: Returns random numbers from 0 to 1: tasks that were stopped together should not return together.
    :param until: Unix seconds at which somebody else goes on waiting; the deadline where left out.
    :return: Whether it answers.
    """
    wait = FIRST_WAIT_SECONDS
    end = deadline.at if until is None else min(deadline.at, until)
    while True:
        left = end - clock()
        if left <= 0:
            return False
        yield Sleep(min(wait * (0.75 + 0.5 * jitter()), left))
        error = yield CheckServer()
        if not is_outage(error):
            yield Say("The Dify server answers again.")
            return True
        wait = min(2 * wait, LONGEST_WAIT_SECONDS)


def no_server_error(error: DifyError) -> DifyError:
    """Return the exception of a task whose server stayed away until the deadline.

    :param error: What its last attempt met.
    """
    failure = copy(error)
    failure.reword(
        problem=f"No Dify server answered before the deadline, and nothing was submitted: {error.problem}",
        on_retry="A retry of the task waits for it again.",
    )
    return failure


def was_stopped_by_shutdown(run: WorkflowRun) -> bool:
    """Tell whether the server's own shutdown has stopped a run, as Dify 1.16 and later do to every active one."""
    return run.status is RunStatus.STOPPED and is_shutdown_text(run.error)


def is_shutdown_text(error: str | None) -> bool:
    """Tell whether the error of a run that was stopped names the shutdown of Dify's worker."""
    return error is not None and _SHUTDOWN_TEXT in error.lower()


def resubmission_wait(resubmissions: int, jitter: float) -> float:
    """Return the seconds before a run that a shutdown has stopped is submitted again: growing from 5 to 30.

    :param resubmissions: Submissions of this try that followed a shutdown before this one.
    :param jitter: A random number from 0 to 1.
    """
    wait: float = min(_RESUBMISSION_FIRST_SECONDS * 2 ** min(resubmissions, 8), _RESUBMISSION_LONGEST_SECONDS)
    return wait * (0.9 + 0.2 * jitter)
