"""Every error this provider raises, below one root.

Classes that also derive from ``AirflowFailException`` end the task without a retry, because the same
call with the same arguments would be answered the same way. All others leave the retry to the task's
own ``retries``.
"""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, AirflowSensorTimeout

_MAX_MESSAGE_CHARS = 2000


def _fit_for_a_log(message: str) -> str:
    """Return a message that changes no log, whatever value has got into it: printable, on one line, of bounded length.

    A message that quotes what a DAG author or a server has given quotes an excerpt; this is for what has escaped that.
    """
    if not message.isprintable():
        message = "".join(char if char.isprintable() else " " if char.isspace() else "\ufffd" for char in message)
    return message if len(message) <= _MAX_MESSAGE_CHARS else message[: _MAX_MESSAGE_CHARS - 1] + "…"


class DifyError(AirflowException):
    """Root of all errors of this provider.

    :param message: What happened, what to do about it, and what a retry of the task would do.
    :param status_code: HTTP status of the answer, or the status an error event names; None without one.
    :param code: Dify's own error code, for example ``invalid_param``; None without one.
    :param workflow_run_id: The run concerned, where it is known.
    """

    def __init__(
        self,
        message: str = "",
        *,
        status_code: int | None = None,
        code: str | None = None,
        workflow_run_id: str | None = None,
    ) -> None:
        message = _fit_for_a_log(message)
        super().__init__(message)
        self.message = message
        self.status_code: Any = status_code
        self.code = code
        self.workflow_run_id = workflow_run_id


class DifyConfigurationError(DifyError, AirflowFailException):
    """The Airflow connection is incomplete or contradictory; nothing was sent."""


class DifyInvalidInputError(DifyError, AirflowFailException):
    """An argument, an input or a file was refused, by this provider before sending or by Dify."""


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
    """The run was stopped: by a person, by a stop request, or by one of Dify's execution limits."""


class DifyRunPartialSuccessError(DifyRunError):
    """The run ended with ``partial-succeeded`` and ``fail_on_partial_success`` is set."""


class DifyRunPausedError(DifyRunError):
    """The run waits for a human and ``on_pause="fail"`` is set."""


class DifyRunTimeoutError(DifyRunError):
    """The deadline struck and the run had not ended. Dify may still be working on it."""


class DifySensorTimeoutError(DifyRunTimeoutError, AirflowSensorTimeout):
    """The sensor's ``timeout`` struck; handled by Airflow as any sensor time-out (no retry, ``soft_fail``)."""


class DifyTriggerEventError(DifyError):
    """A deferred task resumed with an event that the trigger of this version does not send."""


def is_final(error: BaseException) -> bool:
    """Tell whether an error would come again the same way, so that neither a look nor a retry mends it."""
    return isinstance(error, AirflowFailException)
