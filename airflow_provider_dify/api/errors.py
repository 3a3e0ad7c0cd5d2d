"""An HTTP answer or an error event in, the right exception out."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from itertools import islice
from typing import Any

from airflow_provider_dify.api.values import decode_json, excerpt, int_or_none, text_or_none
from airflow_provider_dify.exceptions import (
    DifyAppError,
    DifyAuthenticationError,
    DifyError,
    DifyInvalidInputError,
    DifyNotFoundError,
    DifyPermissionError,
    DifyProviderError,
    DifyQuotaError,
    DifyRateLimitError,
    DifyResponseError,
    DifyServerError,
    DifyTransportError,
)

RETRY_AFTER_MAX_SECONDS = 3600.0

_RATE_LIMIT_TEXT = "too many requests"
_UNPUBLISHED_CODE = "app_unavailable"
_UNPUBLISHED_TEXT = "Workflow not published"
_OTHER_APP_CODES = frozenset({"not_workflow_app", "not_chat_app", "not_completion_app", "app_mode_mismatch"})
_PROVIDER_REMEDIES = {
    "provider_not_initialize": "Enter the credentials of the model's provider in Dify (Settings, Model Provider).",
    "provider_quota_exceeded": (
        "Renew the quota of the model's provider, or enter credentials of your own in Dify (Settings, Model Provider)."
    ),
    "model_currently_not_support": "Choose another model in the app, or install the provider's plugin, in Dify.",
}
_PROVIDER_CODES = frozenset({*_PROVIDER_REMEDIES, "completion_request_error"})
_QUOTA_CODE = "rate_limit_error"
_QUOTA_TEXTS = ("upgrade your plan", "quota exceeded", "quota has been exceeded", "insufficient_quota")
_HTTP_ON_TLS_PORT = ("plain http request was sent to https port", "http request to an https server")
USE_WORKFLOW_APP = "Use the API key of an app of the type workflow (in Dify: the app, API Access)."
# Input errors inside a stream come as events of status 500 without a code, or with the text alone (API facts 2.1
# and 10).
_INPUT_TEXTS = (
    "in input form",
    "invalid upload file",
    "detected file type does not match",
    "file type is not allowed",
    "file validation failed",
    "invalid file type",
    "is not a valid filetransfermethod",
    "number of files",
    "reached maximum retries",
    "expected value type",
    "query is required",
)
_URL_QUERY = re.compile(r"(\bhttps?://[^\s?'\"<>]{1,2000})\?[^\s'\"<>]+", re.IGNORECASE)
_TITLE_BEGIN = re.compile(r"<(?:title|h1)(?:\s[^>]{0,200})?>", re.IGNORECASE)
_TITLE_END = re.compile(r"</(?:title|h1)", re.IGNORECASE)
# An error says what it has to say at its beginning; what follows is neither decoded nor searched.
_TOLD_BYTES = 65536
_CODE_CHARS = 100
_TOLD_FIELDS = 20

_AGAIN_SAME = "A retry would be answered the same way, so the task is not retried."
_AGAIN_HELPS = "A retry of the task may succeed."
_AGAIN_AFTER = "A retry helps only after that."


def without_retry_advice(message: str) -> str:
    """Return the message of an error without what it says of a task's retry, for where there is no task."""
    for advice in (_AGAIN_SAME, _AGAIN_HELPS, _AGAIN_AFTER):
        message = message.removesuffix(advice)
    return message.rstrip()


@dataclass(frozen=True)
class Answer:
    """One HTTP answer, read to its end.

    :param status: HTTP status.
    :param headers: Header names in lower case.
    :param body: The body; empty where it was not read.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    @property
    def content_type(self) -> str:
        """The content type without parameters, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def is_event_stream(self) -> bool:
        """Whether the body is a stream of server-sent events."""
        return self.content_type == "text/event-stream"

    @property
    def is_html(self) -> bool:
        """Whether the body is an HTML page, which Dify's API itself sends only for unknown paths."""
        return self.content_type == "text/html" or self.body[:64].lstrip()[:1] == b"<"

    @property
    def server_version(self) -> str | None:
        """The server's version as it tells it."""
        return self.headers.get("x-version") or None


def retry_after_seconds(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Read a Retry-After header, in seconds or as a date.

    :return: Seconds from now, 0 to one hour; None without a readable header.
    """
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    if value.isascii() and value.isdigit():
        seconds = float(value)
    else:
        try:
            moment = parsedate_to_datetime(value)
        except (ValueError, TypeError, OverflowError):
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=timezone.utc)
        seconds = (moment - (now or datetime.now(timezone.utc))).total_seconds()
    return min(max(seconds, 0.0), RETRY_AFTER_MAX_SECONDS)


@dataclass(frozen=True)
class _Told:
    status: int
    code: str | None
    text: str


def _told_by(answer: Answer) -> _Told:
    if answer.is_html:
        title = _page_title(answer.body[:_TOLD_BYTES].decode("utf-8", "replace"))
        return _Told(answer.status, None, f"an HTML page ({excerpt(html.unescape(title)) or 'without a title'})")
    try:
        payload = decode_json(answer.body[:_TOLD_BYTES], "the body")
    except DifyResponseError:
        return _Told(answer.status, None, excerpt(answer.body) or "an empty body")
    return _told_by_payload(payload, answer.status)


def _page_title(page: str) -> str:
    """Return the first title or headline of an HTML page, in one pass over it, whatever the page repeats."""
    begin = _TITLE_BEGIN.search(page)
    end = _TITLE_END.search(page, begin.end()) if begin else None
    return page[begin.end() : end.start()] if begin and end else ""


def _told_by_payload(payload: Any, status: int) -> _Told:
    if not isinstance(payload, dict):
        return _Told(status, None, excerpt(str(payload)))
    text = (text_or_none(payload.get("message")) or "no message")[:4000]
    fields = payload.get("errors")
    if isinstance(fields, dict) and fields:
        text += ": " + "; ".join(f"{name}: {message}"[:500] for name, message in islice(fields.items(), _TOLD_FIELDS))
    code = excerpt(text_or_none(payload.get("code")) or "", _CODE_CHARS) or None
    return _Told(status, code, excerpt(_without_queries(text[:4000]), 1000))


def _without_queries(text: str) -> str:
    """Return a text whose URLs have no query: the signature of a file that could not be fetched is in it."""
    return _URL_QUERY.sub(r"\1?…", text)


def is_input_text(text: str) -> bool:
    """Tell whether an error text is one by which Dify refuses inputs or files."""
    return any(known in text.lower() for known in _INPUT_TEXTS)


def is_rate_limit(status: int, text: str) -> bool:
    """Tell whether an error means that the server takes no further run now.

    Dify answers its own limit as HTTP 400 with a text, never as 429 (API facts, section 11).
    """
    return status == HTTPStatus.TOO_MANY_REQUESTS or (
        status in (HTTPStatus.BAD_REQUEST, HTTPStatus.INTERNAL_SERVER_ERROR)
        and text.lower().lstrip().startswith(_RATE_LIMIT_TEXT)
    )


def is_quota(status: int, code: str | None, text: str) -> bool:
    """Tell whether a 429 means that a quota is used up, for which no wait of a task is long enough."""
    return status == HTTPStatus.TOO_MANY_REQUESTS and (
        code == _QUOTA_CODE or any(known in text.lower() for known in _QUOTA_TEXTS)
    )


def is_unpublished(error: DifyError) -> bool:
    """Tell whether an error of an app means that it was never published."""
    return error.code == _UNPUBLISHED_CODE or _UNPUBLISHED_TEXT in error.message


def error_for_answer(
    answer: Answer, what: str, remedies: Mapping[str, str] | None = None, *, reads: bool = False
) -> DifyError:
    """Build the exception for an answer that is an error, or that is not Dify's.

    :param answer: The answer; also a 2xx that turned out to be no JSON.
    :param what: What was being done, as the subject of the message.
    :param remedies: What to do about errors of this operation, by their code, where it is not the usual.
    :param reads: Whether nothing was to be started, so that a quota of runs is a limit like others.
    """
    told = _told_by(answer)
    retry_after = retry_after_seconds(answer.headers)
    if answer.ok:
        return DifyResponseError(
            f"{what}: HTTP {answer.status} came with {told.text} instead of JSON. Something in front of Dify, "
            "such as the login page of a gateway, may have answered: check the connection's host and headers.",
            status_code=answer.status,
        )
    if 300 <= answer.status < 400:
        target = excerpt(answer.headers.get("location", "nowhere").partition("?")[0])
        return DifyResponseError(
            f"{what}: the server redirects (HTTP {answer.status}) to {target}. Redirects are not followed, since "
            "the API key must not reach another host: put the final address into the connection's host.",
            status_code=answer.status,
        )
    if answer.status == HTTPStatus.NOT_FOUND and told.code is None and answer.is_html:
        return DifyNotFoundError(
            f"{what}: HTTP 404 with {told.text}: nothing is served at this path. Check the connection's host: "
            f"a base URL usually ends in /v1. {_AGAIN_SAME}",
            status_code=404,
        )
    return _error(told, what, retry_after, remedies, reads=reads)


def error_for_event(payload: Mapping[str, Any], what: str) -> DifyError:
    """Build the exception for an ``error`` event inside a stream of HTTP 200 (API facts, section 4).

    No run exists then. Events of 1.14 about wrong inputs have the status 500 and no code.
    """
    status = int_or_none(payload.get("status")) or 500
    return _error(_told_by_payload(dict(payload), status), what, None)


def _error(
    told: _Told,
    what: str,
    retry_after: float | None,
    remedies: Mapping[str, str] | None = None,
    *,
    reads: bool = False,
) -> DifyError:
    known: dict[str, Any] = {"status_code": told.status, "code": told.code}
    label = f"HTTP {told.status}" + (f" {told.code}" if told.code else "")
    text = told.text.lower()

    def message(remedy: str, again: str) -> str:
        remedy = (remedies or {}).get(told.code or "", remedy)
        return f"{what}: {label}: {told.text.rstrip('.')}. {remedy} {again}"

    if not reads and is_quota(told.status, told.code, told.text):
        return DifyQuotaError(
            message(
                "A quota is used up, so nothing was started: wait until it is renewed, or upgrade the plan.",
                _AGAIN_SAME,
            ),
            retry_after=retry_after,
            **known,
        )
    if is_rate_limit(told.status, told.text):
        return DifyRateLimitError(
            message("The server takes no further request now; nothing was started.", _AGAIN_HELPS),
            retry_after=retry_after,
            **known,
        )
    if told.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return DifyTransportError(
            message("The proxy refuses user and password: check the connection's field proxy.", _AGAIN_SAME),
            sent=False,
            **known,
        )
    if told.status == HTTPStatus.UNAUTHORIZED:
        return DifyAuthenticationError(
            message(
                "Put the app's API key (app-…; in Dify: the app, API Access) into the connection's password.",
                _AGAIN_SAME,
            ),
            **known,
        )
    if told.status == HTTPStatus.FORBIDDEN:
        return DifyPermissionError(
            message("Switch on the app's API access in Dify, or check what the gateway asks for.", _AGAIN_SAME),
            **known,
        )
    if told.status == HTTPStatus.NOT_FOUND:
        return DifyNotFoundError(
            message("Check the id, and that it belongs to the app whose API key is used.", _AGAIN_SAME),
            **known,
        )
    if told.code == _UNPUBLISHED_CODE or told.text.startswith(_UNPUBLISHED_TEXT):
        return DifyAppError(
            message("The app has never been published: open its workflow in Dify and press Publish.", _AGAIN_SAME),
            **known,
        )
    if told.code in _OTHER_APP_CODES:
        return DifyAppError(
            message(
                "The key is of an app of another type (chatflow, chatbot, agent or text generator), which cannot be "
                f"run. {USE_WORKFLOW_APP}",
                _AGAIN_SAME,
            ),
            **known,
        )
    if told.code in _PROVIDER_CODES or "plugin daemon" in text:
        cause = "The model provider or plugin behind the app is the cause, not the inputs."
        if special := _PROVIDER_REMEDIES.get(told.code or ""):
            return DifyProviderError(message(f"{cause} {special}", _AGAIN_AFTER), **known)
        return DifyProviderError(message(cause, _AGAIN_HELPS), **known)
    if told.status == HTTPStatus.BAD_REQUEST and any(known_text in text for known_text in _HTTP_ON_TLS_PORT):
        return DifyResponseError(
            message("The server speaks https here: let the base URL begin with https://.", _AGAIN_AFTER), **known
        )
    if told.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return DifyInvalidInputError(
            message("The file or body is larger than the server accepts.", _AGAIN_SAME), **known
        )
    if told.status in (
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.PRECONDITION_FAILED,
        HTTPStatus.UNPROCESSABLE_ENTITY,
    ) or (told.status == HTTPStatus.INTERNAL_SERVER_ERROR and is_input_text(told.text)):
        return DifyInvalidInputError(
            message("Compare inputs and files with the input form of the workflow's start node.", _AGAIN_SAME),
            **known,
        )
    if told.status >= 500:
        return DifyServerError(
            message("The server or a gateway before it failed.", _AGAIN_HELPS),
            retry_after=retry_after,
            **known,
        )
    return DifyResponseError(
        message("Dify's API does not answer this way: check the connection's host.", _AGAIN_HELPS), **known
    )
