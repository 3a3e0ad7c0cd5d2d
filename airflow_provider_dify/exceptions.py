"""Every error this provider raises, below one root.

Classes that also derive from ``AirflowFailException`` end the task without a retry, because the same
call with the same arguments would be answered the same way. All others leave the retry to the task's
own ``retries``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, AirflowSensorTimeout

_MAX_MESSAGE_CHARS = 2000
_MAX_ADVICE_CHARS = 800


def _printable(text: str) -> str:
    """Return a text that changes no log, whatever value has got into it: printable and on one line.

    A message that quotes what a DAG author or a server has given quotes an excerpt; this is for what has escaped that.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else " " if char.isspace() else "\ufffd" for char in text)


class DifyError(AirflowException):
    """Root of all errors of this provider.

    What happened, what to do and what a retry would do are kept apart, so that a task can log them as lines of
    their own. ``str()`` gives two lines: what happened, and the rest. ``message`` gives all of it on one line.

    :param message: What happened, and why. May hold everything where the parts are not known.
    :param advice: What to do about it.
    :param on_retry: What a retry of the task would do.
    :param where: The field, input or argument that is wrong, as the form or the operator names it, for example
        ``field API key`` or ``input 'text'``.
    :param status_code: HTTP status of the answer, or the status an error event names; None without one.
    :param code: Dify's own error code, for example ``invalid_param``; None without one.
    :param workflow_run_id: The run concerned, where it is known.
    """

    def __init__(
        self,
        message: str = "",
        *,
        advice: str = "",
        on_retry: str = "",
        where: str = "",
        status_code: int | None = None,
        code: str | None = None,
        workflow_run_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.is_reported = False
        self.where = _printable(where)
        self.status_code: Any = status_code
        self.code = code
        self.workflow_run_id = workflow_run_id
        self.reword(problem=message, advice=advice, on_retry=on_retry)

    def reword(self, *, problem: str | None = None, advice: str | None = None, on_retry: str | None = None) -> None:
        """Replace parts of the text; a part that is left out stays.

        A text that is too long for a log loses the end of what happened, and never the advice.
        """
        self.advice: str = _printable(self.advice if advice is None else advice)[:_MAX_ADVICE_CHARS]
        self.on_retry: str = _printable(self.on_retry if on_retry is None else on_retry)[:_MAX_ADVICE_CHARS]
        problem = _printable(self.problem if problem is None else problem)
        room = _MAX_MESSAGE_CHARS - sum(len(part) + 1 for part in (self.advice, self.on_retry) if part)
        self.problem: str = problem if len(problem) <= room else problem[: room - 1] + "…"
        self.args = (self.message,)

    def rewrite(self, change: Callable[[str], str]) -> None:
        """Replace every part of the text by what a function makes of it, for example one that redacts secrets."""
        self.where = change(self.where)
        self.reword(problem=change(self.problem), advice=change(self.advice), on_retry=change(self.on_retry))

    @property
    def message(self) -> str:
        """The whole text on one line."""
        return " ".join(part for part in (self.problem, self.advice, self.on_retry) if part)

    @property
    def message_without_retry(self) -> str:
        """The text without what a retry of a task would do, for where there is no task."""
        return " ".join(part for part in (self.problem, self.advice) if part)

    def __str__(self) -> str:
        """Return two lines: what happened, and what to do."""
        remedy = " ".join(part for part in (self.advice, self.on_retry) if part)
        return "\n".join(part for part in (self.problem, remedy) if part)


class DifyConfigurationError(DifyError, AirflowFailException):
    """The Airflow connection is incomplete or contradictory; nothing was sent."""


class DifyInvalidInputError(DifyError, AirflowFailException):
    """An argument, an input or a file was refused, by this provider before sending or by Dify."""


class DifyBatchRowsError(DifyInvalidInputError):
    """Rows of a batch are wrong; no row was submitted.

    :param rows: Rows that were checked.
    :param wrong: Rows that are wrong.
    :param faults: The first faults, each with its row.
    """

    def __init__(self, rows: int | str = 0, wrong: int = 0, faults: tuple[str, ...] = (), **kwargs: Any) -> None:
        if isinstance(rows, str):
            # As a trigger's event, or a pickled error, tells it.
            super().__init__(rows, **kwargs)
        else:
            shown = "first " if wrong > len(faults) else ""
            super().__init__(
                f"{wrong:,} of {rows:,} rows are wrong, so nothing was submitted. The {shown}faults, rows counted from "
                f"0: {' | '.join(faults)}",
                advice="Correct the rows, or set validate_inputs=False to leave the check to Dify.",
                **kwargs,
            )
        self.faults = faults


class DifyFileError(DifyError):
    """A file could not be read, sent, fetched or saved, or it changed meanwhile. Runs that exist are kept and named."""


class DifyFileExpiredError(DifyFileError):
    """The server does not give a file: the signature of its URL has expired, or it was deleted."""


class DifyFileRefusedError(DifyFileError, AirflowFailException):
    """A file of a run's outputs is not fetched: its address, or its size, is not one that was allowed."""


class DifyOutputsError(DifyError, AirflowFailException):
    """A run has succeeded and Airflow's XCom cannot carry its outputs; nothing was lost, and the run is named."""


class DifyUnsupportedError(DifyError, AirflowFailException):
    """The connection's API contract or the server's version has no route for what was asked."""


class DifyAuthenticationError(DifyError, AirflowFailException):
    """HTTP 401: the API key is missing, unknown, or not meant for this server."""


class DifyPermissionError(DifyError, AirflowFailException):
    """HTTP 403: the app's API access is switched off, or the app or its workspace is not available."""


class DifyNotFoundError(DifyError, AirflowFailException):
    """HTTP 404: no such route, workflow or run."""


class DifyRunNotFoundError(DifyNotFoundError):
    """The server knows no run of this id for the app that the API key selects."""


class DifyAppError(DifyError, AirflowFailException):
    """The key's app cannot run workflows: another app type, or never published."""


class DifyProviderError(DifyError):
    """The model provider or plugin behind the app refused or was down; Dify reports it as HTTP 400."""


class DifyRateLimitError(DifyError):
    """The server takes no further run or request now, and has not started one.

    Dify reports its own limit as HTTP 400 with the text "Too many requests", gateways as 429. A quota that is used
    up is a ``DifyQuotaError``.

    :param retry_after: Seconds the server asks to wait; None where it does not say.
    """

    def __init__(self, message: str = "", *, retry_after: float | None = None, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.retry_after = retry_after


class DifyQuotaError(DifyRateLimitError, AirflowFailException):
    """HTTP 429 for a submission that waiting does not help: the plan's or the gateway's quota of runs is used up."""


class DifyServerError(DifyError):
    """HTTP 5xx, from Dify or from a gateway before it.

    :param retry_after: Seconds the server asks to wait; None where it does not say.
    """

    def __init__(self, message: str = "", *, retry_after: float | None = None, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.retry_after = retry_after


class DifyTransportError(DifyError):
    """No complete answer came: DNS, connection, TLS, proxy, a time-out or a broken stream.

    :param sent: False when it is certain that the server got no complete request, so that sending it
        again cannot start a second run.
    :param cause: ``proxy``, ``certificate``, ``tls``, ``plain_http`` (the server speaks no TLS), ``name`` (not known
        to DNS), ``refused``, ``unreachable``, ``closed`` or ``timeout``; None for others.
    :param detail: What OpenSSL or the system says, where that helps.
    """

    def __init__(
        self, message: str = "", *, sent: bool = True, cause: str | None = None, detail: str = "", **kwargs: Any
    ) -> None:
        super().__init__(message, **kwargs)
        self.sent = sent
        self.cause = cause
        self.detail = detail


class DifyResponseError(DifyError):
    """An answer that is not Dify's: no JSON, another shape, a redirect, a login page, an oversized event."""


class DifySubmissionUnknownError(DifyError):
    """A submission was sent and nothing tells whether Dify accepted it.

    It is never sent again by itself: a second submission could start, and bill, a second run.

    :param reason: Why nothing is known, without what follows from it.
    :param hint: What else the cause may be, where the server is one that says nothing when it refuses; empty otherwise.
    """

    def __init__(self, message: str = "", *, reason: str = "", hint: str = "", **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.reason = reason
        self.hint = hint


class DifyRunError(DifyError):
    """A run that ended, or is waited for no longer, without the outputs that were asked for."""


class DifyRunFailedError(DifyRunError):
    """The run ended with status ``failed``."""


class DifyRunStoppedError(DifyRunError):
    """The run was stopped: by a user, by a stop request, or by one of Dify's execution limits."""


class DifyRunPartialSuccessError(DifyRunError):
    """The run ended with ``partial-succeeded`` and ``fail_on_partial_success`` is set."""


class DifyRunPausedError(DifyRunError):
    """The run waits for a human and ``on_pause="fail"`` is set."""


class DifyHumanInputTimeoutError(DifyRunError):
    """Nobody has answered the question of a paused run within ``response_timeout``, and no default action could be."""


class DifyRunTimeoutError(DifyRunError):
    """The deadline passed and the run had not ended. Dify may still be working on it."""


class DifySensorTimeoutError(DifyRunTimeoutError, AirflowSensorTimeout):
    """The sensor's ``timeout`` passed; handled by Airflow as any sensor time-out (no retry, ``soft_fail``)."""


class DifyEmptySourceError(DifyError):
    """The source of a knowledge base's sync has nothing; nothing was written. It may be filled late."""


class DifyTooManyDeletionsError(DifyError, AirflowFailException):
    """A sync would delete more documents than ``max_deletions`` allows; nothing was written."""


class DifyIndexingError(DifyError):
    """Documents could not be uploaded or indexed; the others are."""


class DifyIndexingTimeoutError(DifyIndexingError):
    """The deadline passed before all documents were indexed. Dify goes on with them."""


class DifyIndexingSensorTimeoutError(DifyIndexingTimeoutError, AirflowSensorTimeout):
    """The sensor's ``timeout`` passed; handled by Airflow as any sensor time-out (no retry, ``soft_fail``)."""


class DifyBatchError(DifyRunError):
    """A batch ended with rows that have no outputs; ``manifest`` says how many, and where the results are.

    :param manifest: The manifest; empty where the batch did not get so far.
    """

    def __init__(self, message: str = "", *, manifest: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.manifest = manifest or {}


class DifyBatchLimitError(DifyBatchError, AirflowFailException):
    """A batch ended because ``max_tokens`` was passed; a retry would end at once."""


class DifyTriggerEventError(DifyError):
    """A deferred task resumed with an event that the trigger of this version does not send."""


def is_final(error: BaseException) -> bool:
    """Tell whether an error would come again the same way, so that neither a poll nor a retry mends it."""
    return isinstance(error, AirflowFailException)
