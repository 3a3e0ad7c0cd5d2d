"""What became of a submission: started, refused, or unknown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from http import HTTPStatus
from typing import Any

from airflow_provider_dify.api.errors import Answer
from airflow_provider_dify.api.events import LAST_EVENTS, WORKFLOW_STARTED, Event, EventDecoder
from airflow_provider_dify.api.refusals import Refusal, RunNaming
from airflow_provider_dify.api.runs import StartedRun
from airflow_provider_dify.api.server_versions import Server
from airflow_provider_dify.api.values import excerpt, id_or_none, object_or_none
from airflow_provider_dify.exceptions import (
    DifyError,
    DifyResponseError,
    DifyServerError,
    DifySubmissionUnknownError,
    DifyTransportError,
)

RATE_LIMIT_FIRST_SECONDS = 5.0
RATE_LIMIT_LONGEST_SECONDS = 30.0
_NAMES_AT_MOST = 12


class Fate(str, Enum):
    """What a failed submission leaves behind."""

    REFUSED = "refused"
    """No run exists; submitting again is safe."""
    UNKNOWN = "unknown"
    """A run may exist; submitting again may start a second one."""


def classify_failure(error: DifyError, response_mode: str) -> Fate:
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


class SilentStream(DifyTransportError):
    """A stream that began as it should, and fell silent before any event.

    :param hint: What that may mean on this server.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, sent=True)
        self.hint = hint


def silence_hint(server_version: str | None, submission: Mapping[str, Any] | None) -> str:
    """Return what a stream without events may mean: a queued run, or on some versions a refusal.

    Those versions take the connection of a refused submission for 300 s, even when its client has left.

    :param server_version: As the server tells it; the hint is empty for versions that say why they refuse.
    :param submission: The body that was sent, of which only the names of inputs are shown.
    """
    server = Server(server_version)
    if not server.may_refuse_silently:
        return ""
    says = f"Dify {server.version} answers" if server.version else "Dify 1.13 and 1.14 answer"
    body = submission or {}
    inputs = body.get("inputs")
    names = [repr(excerpt(str(name), 60)) for name in inputs] if isinstance(inputs, Mapping) else []
    shown = ", ".join(names[:_NAMES_AT_MOST]) + (
        f" and {more} more" if (more := len(names) - _NAMES_AT_MOST) > 0 else ""
    )
    what = f"the inputs {shown}" if names else "that no required input is missing (none was sent)"
    files = " and the files" if body.get("files") else ""
    return (
        f"{says} refused inputs with silence, and may have refused this submission: check {what}{files} against the "
        "input form of the workflow's start node (types, lengths, options, files that Dify can fetch)."
    )


def unknown_error(reason: str, user: str, hint: str = "") -> DifySubmissionUnknownError:
    """Return the exception for a submission whose outcome is unknown.

    :param hint: What else the cause may be; see ``silence_hint``.
    """
    return DifySubmissionUnknownError(
        f"The submission was sent and Dify did not name the run it started: {reason.rstrip('.')}. The run may be "
        "queued or running, and it was not sent a second time.",
        advice=f"{_sentence(hint)}Search for the user {user!r} in the app's logs in Dify before you clear or retry "
        "this task.",
        on_retry="A retry may start a second run.",
        reason=reason,
        hint=hint,
    )


def _sentence(text: str) -> str:
    return f"{text} " if text else ""


def unresolved_error(
    reason: str, user: str, *, sent: bool, remembered: bool, durable: bool, hint: str = ""
) -> DifySubmissionUnknownError:
    """Return the exception for a submission whose run was not found before the deadline.

    :param user: The ``user`` of the submission.
    :param sent: Whether it was sent for sure: an earlier try may have died just before.
    :param remembered: Whether a note tells the next try of the submission.
    :param durable: Whether the next try searches for it at all.
    :param hint: ``hint`` of the ``DifySubmissionUnknownError`` with which the search began.
    """
    if remembered:
        again = "A retry of the task searches for it and reattaches to it, and does not submit; a clear submits again."
    elif durable:
        again = "A retry of the task searches for it and reattaches to it, and submits again where it finds none."
    else:
        again = "A retry of the task submits again, which may start a second run."
    sending = "The submission was sent" if sent else "An earlier try has sent its submission, or died just before"
    return DifySubmissionUnknownError(
        f"{sending}, and Dify shows no run of the user {user!r} before the deadline: "
        f"{reason.rstrip('.')}. It may still be queued, will then run, and cannot be stopped before it starts. It was "
        "not sent a second time.",
        advice=hint,
        on_retry=again,
        hint=hint,
    )


def rate_limit_wait(attempts: int, retry_after: float | None, jitter: float) -> float:
    """Return the seconds before a rate-limited submission is tried again: 5 to 30, or as the server asks.

    :param attempts: Submissions that were rate-limited before this one.
    :param retry_after: What the server asks for; None where it does not say.
    :param jitter: A random number from 0 to 1: tasks that were refused together should not return together.
    """
    if retry_after is not None:
        return retry_after * (1 + 0.1 * jitter)
    wait: float = min(RATE_LIMIT_FIRST_SECONDS * 2 ** min(attempts, 8), RATE_LIMIT_LONGEST_SECONDS)
    return wait * (0.9 + 0.2 * jitter)


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
        if error.workflow_run_id is None and classify_failure(error, response_mode) is Fate.UNKNOWN:
            hint = error.hint if isinstance(error, SilentStream) else ""
            raise unknown_error(error.message, user, hint) from error
        raise


class SubmissionReader:
    """Reads the stream that answers a submission, up to the event that names a run that exists.

    :param answer: The head of the answer.
    :param submission: The body that was sent.
    """

    def __init__(self, answer: Answer, submission: Mapping[str, Any] | None = None) -> None:
        self._server_version = answer.server_version
        self._submission = submission
        self._decoder = EventDecoder()
        self._naming = RunNaming()
        self._started: StartedRun | None = None
        self.ended = False

    @property
    def names_run(self) -> bool:
        """Whether an event has named the run."""
        return self._started is not None

    def feed(self, chunk: bytes) -> None:
        """Take bytes of the stream.

        :raises Refusal: Events say that no run exists.
        :raises DifyResponseError: The stream is not Dify's.
        """
        for event in self._decoder.feed(chunk):
            self._take(event)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Let a stream break as it likes: what its events have reported up to there stays certain.

        :raises Refusal: It broke between the two events of a synthetic pair.
        """
        try:
            yield
        except DifyError:
            self._close()
            if self._started is None:
                raise

    def started(self) -> StartedRun:
        """Return the run that the stream named.

        :raises Refusal: The stream ended between the two events of a synthetic pair.
        :raises DifyTransportError: It ended, or was given up, before it named one.
        """
        self._close()
        if self._started is not None:
            return self._started
        reason = "the stream ended, or fell silent, before it named the run"
        if self._naming.is_silent:
            raise SilentStream(reason, hint=silence_hint(self._server_version, self._submission))
        raise DifyTransportError(reason, sent=True)

    def _close(self) -> None:
        if self._started is None:
            for event in self._decoder.close():
                self._take(event)
        self._naming.close()

    def _take(self, event: Event) -> None:
        self.ended = self.ended or event.event in LAST_EVENTS
        certain = self._naming.take(event)
        named = self._naming.named
        if self._started is not None or named is None or named.workflow_run_id is None:
            return
        inputs = None
        for kept in certain:
            if kept.event == WORKFLOW_STARTED:
                inputs = object_or_none(kept.data.get("inputs"))
                break
        self._started = StartedRun(
            workflow_run_id=named.workflow_run_id,
            task_id=named.task_id,
            app_id=id_or_none((inputs or {}).get("sys.app_id")),
            server_version=self._server_version,
        )
