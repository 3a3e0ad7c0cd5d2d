"""What became of a submission: started, refused, or unknown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from http import HTTPStatus

from airflow_provider_dify.api.errors import Answer
from airflow_provider_dify.api.events import ERROR, LAST_EVENTS, WORKFLOW_STARTED, Event, EventDecoder
from airflow_provider_dify.api.runs import StartedRun
from airflow_provider_dify.api.values import object_or_none, text_or_none
from airflow_provider_dify.exceptions import (
    DifyError,
    DifyResponseError,
    DifyServerError,
    DifySubmissionUnknownError,
    DifyTransportError,
)

RATE_LIMIT_FIRST_SECONDS = 5.0
RATE_LIMIT_LONGEST_SECONDS = 30.0
WHAT = "Starting the workflow run"


class Fate(str, Enum):
    """What a failed submission leaves behind."""

    REFUSED = "refused"
    """No run exists; submitting again is safe."""
    UNKNOWN = "unknown"
    """A run may exist; submitting again may start a second one."""


def fate_of(error: DifyError, response_mode: str) -> Fate:
    """Tell what a submission that ended with an error leaves behind.

    Only certainty refuses: a connection that was never made, a rate limit, an answer that names a
    refusal. A 500 names one only before a stream; a blocking call may have been in the middle of the run.
    Errors inside a stream are refusals and never come here.

    :param error: What the HTTP exchange ended with.
    :param response_mode: ``streaming`` or ``blocking``.
    """
    if isinstance(error, DifyTransportError):
        return Fate.UNKNOWN if error.sent else Fate.REFUSED
    if isinstance(error, DifyServerError):
        own_answer = error.status_code == HTTPStatus.INTERNAL_SERVER_ERROR and error.code is not None
        return Fate.REFUSED if own_answer and response_mode == "streaming" else Fate.UNKNOWN
    if isinstance(error, DifyResponseError):
        redirected = error.status_code is not None and 300 <= error.status_code < 400
        wrong_route = error.status_code in (HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        return Fate.REFUSED if redirected or wrong_route else Fate.UNKNOWN
    return Fate.REFUSED


def unknown_error(reason: str, user: str) -> DifySubmissionUnknownError:
    """Return the exception for a submission whose fate is unknown."""
    return DifySubmissionUnknownError(
        f"The submission was sent and Dify did not tell which run it started: {reason.rstrip('.')}. The run may be "
        "queued or running, and it was not sent a second time. Look for the user "
        f"{user!r} in the app's logs in Dify before you clear or retry this task: "
        "a retry may start a second run.",
        reason=reason,
    )


def unresolved_error(
    reason: str, user: str, *, sent: bool, remembered: bool, durable: bool
) -> DifySubmissionUnknownError:
    """Return the exception for a submission whose run was not found before the deadline.

    :param user: The ``user`` of the submission.
    :param sent: Whether it was sent for sure: an earlier try may have died just before.
    :param remembered: Whether a note tells the next try of the submission.
    :param durable: Whether the next try looks for it at all.
    """
    if remembered:
        again = "A retry of the task looks for it and takes it up, and does not submit; a clear submits anew."
    elif durable:
        again = "A retry of the task looks for it and takes it up, and submits anew where it finds none."
    else:
        again = "A retry of the task submits anew, which may start a second run."
    sending = "The submission was sent" if sent else "An earlier try has sent its submission, or died just before"
    return DifySubmissionUnknownError(
        f"{sending}, and Dify shows no run of the user {user!r} before the deadline: "
        f"{reason.rstrip('.')}. It may still be queued, will then run, and cannot be stopped before it starts. It was "
        f"not sent a second time. {again}"
    )


def rate_limit_wait(attempts: int, retry_after: float | None, chance: float) -> float:
    """Return the seconds before a rate-limited submission is tried again: growing from 5 to 30, or as told.

    :param attempts: Submissions that were rate-limited before this one.
    :param retry_after: What the server asks for; None where it does not say.
    :param chance: A random number from 0 to 1: tasks that were refused together should not return together.
    """
    if retry_after is not None:
        return retry_after * (1 + 0.1 * chance)
    wait: float = min(RATE_LIMIT_FIRST_SECONDS * 2 ** min(attempts, 8), RATE_LIMIT_LONGEST_SECONDS)
    return wait * (0.9 + 0.2 * chance)


class Refusal(Exception):
    """An ``error`` event in the stream that answers a submission: Dify refused, and no run exists."""

    def __init__(self, error: DifyError) -> None:
        super().__init__(str(error))
        self.error = error


@contextmanager
def submission_errors(
    response_mode: str, user: str, named_run: Callable[[], str | None] = lambda: None
) -> Iterator[None]:
    """Let errors of a submission out as what they leave behind.

    :param named_run: Returns the id of the run, once an event has named it: errors then concern that run.
    :raises DifySubmissionUnknownError: A run may exist.
    :raises DifyError: Anything else: no run exists.
    """
    try:
        yield
    except Refusal as refusal:
        raise refusal.error from None
    except DifyError as error:
        error.workflow_run_id = error.workflow_run_id or named_run()
        if error.workflow_run_id is None and fate_of(error, response_mode) is Fate.UNKNOWN:
            raise unknown_error(error.message, user) from error
        raise


class SubmissionReader:
    """Reads the stream that answers a submission.

    ``workflow_started`` usually names the run, but it can be lost: any event with a run id will do (API
    facts 4.1).

    :param answer: The head of the answer.
    """

    def __init__(self, answer: Answer) -> None:
        self._server_version = answer.server_version
        self._decoder = EventDecoder()
        self._started: StartedRun | None = None
        self.ended = False

    @property
    def names_run(self) -> bool:
        """Whether an event has named the run."""
        return self._started is not None

    def feed(self, chunk: bytes) -> None:
        """Take bytes of the stream.

        :raises Refusal: An ``error`` event before any that names the run.
        :raises DifyResponseError: The stream is not Dify's.
        """
        for event in self._decoder.feed(chunk):
            self._take(event)

    def started(self) -> StartedRun:
        """Return the run that the stream named.

        :raises DifyTransportError: The stream ended, or was given up, before it named one.
        """
        if self._started is None:
            for event in self._decoder.close():
                self._take(event)
        if self._started is None:
            raise DifyTransportError("the stream ended, or fell silent, before it named the run", sent=True)
        return self._started

    def _take(self, event: Event) -> None:
        self.ended = self.ended or event.event in LAST_EVENTS
        if self._started is not None:
            return
        if event.event == ERROR:
            raise Refusal(event.error(WHAT))
        if event.workflow_run_id is not None:
            inputs = object_or_none(event.data.get("inputs")) if event.event == WORKFLOW_STARTED else None
            self._started = StartedRun(
                workflow_run_id=event.workflow_run_id,
                task_id=event.task_id,
                app_id=text_or_none((inputs or {}).get("sys.app_id")),
                server_version=self._server_version,
            )
