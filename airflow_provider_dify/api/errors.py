"""An HTTP answer or an error event in, the right exception out."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http import HTTPStatus
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
    DifyRateLimitError,
    DifyResponseError,
    DifyServerError,
    DifyTransportError,
)

RETRY_AFTER_MAX_SECONDS = 3600.0

_RATE_LIMIT_TEXT = "too many requests"
_APP_CODES = frozenset({"not_workflow_app", "app_unavailable", "not_chat_app"})
_PROVIDER_CODES = frozenset(
    {
        "provider_not_initialize",
        "provider_quota_exceeded",
        "model_currently_not_support",
        "completion_request_error",
    }
)
# Input errors of a 1.14 stream come as events of status 500 without a code (API facts 2.1 and 10).
_INPUT_TEXTS = (
    "in input form",
    "invalid upload file",
    "detected file type does not match",
    "file type is not allowed",
    "number of files",
)
_HTML_TITLE = re.compile(r"<(title|h1)[^>]*>(.*?)</\1>", re.IGNORECASE | re.DOTALL)

_AGAIN_SAME = "A retry would be answered the same way, so the task is not retried."
_AGAIN_HELPS = "A retry of the task may succeed."


def without_retry_advice(message: str) -> str:
    """Return the message of an error without what it says of a task's retry, for where there is no task."""
    for advice in (_AGAIN_SAME, _AGAIN_HELPS):
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
        page = answer.body.decode("utf-8", "replace")
        match = _HTML_TITLE.search(page)
        title = excerpt(html.unescape(match[2])) if match else "without a title"
        return _Told(answer.status, None, f"an HTML page ({title})")
    try:
        payload = decode_json(answer.body, "the body")
    except DifyResponseError:
        return _Told(answer.status, None, excerpt(answer.body) or "an empty body")
    return _told_by_payload(payload, answer.status)


def _told_by_payload(payload: Any, status: int) -> _Told:
    if not isinstance(payload, dict):
        return _Told(status, None, excerpt(str(payload)))
    text = text_or_none(payload.get("message")) or "no message"
    fields = payload.get("errors")
    if isinstance(fields, dict) and fields:
        text += ": " + "; ".join(f"{name}: {message}" for name, message in fields.items())
    return _Told(status, text_or_none(payload.get("code")), excerpt(text, 1000))


def is_rate_limit(status: int, text: str) -> bool:
    """Tell whether an error means that the server takes no further run now.

    Dify answers its own limit as HTTP 400 with a text, never as 429 (API facts, section 11).
    """
    return status == HTTPStatus.TOO_MANY_REQUESTS or (
        status in (HTTPStatus.BAD_REQUEST, HTTPStatus.INTERNAL_SERVER_ERROR)
        and text.lower().lstrip().startswith(_RATE_LIMIT_TEXT)
    )


def error_for_answer(answer: Answer, what: str) -> DifyError:
    """Build the exception for an answer that is an error, or that is not Dify's.

    :param answer: The answer; also a 2xx that turned out to be no JSON.
    :param what: What was being done, as the subject of the message.
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
    return _error(told, what, retry_after)


def error_for_event(payload: Mapping[str, Any], what: str) -> DifyError:
    """Build the exception for an ``error`` event inside a stream of HTTP 200 (API facts, section 4).

    No run exists then. Events of 1.14 about wrong inputs have the status 500 and no code.
    """
    status = int_or_none(payload.get("status")) or 500
    return _error(_told_by_payload(dict(payload), status), what, None)


def _error(told: _Told, what: str, retry_after: float | None) -> DifyError:
    known: dict[str, Any] = {"status_code": told.status, "code": told.code}
    label = f"HTTP {told.status}" + (f" {told.code}" if told.code else "")
    text = told.text.lower()

    def message(remedy: str, again: str) -> str:
        return f"{what}: {label}: {told.text.rstrip('.')}. {remedy} {again}"

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
            message("Put the app's API key (app-…) into the connection's password.", _AGAIN_SAME), **known
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
    if told.code in _APP_CODES or told.text == "Workflow not published":
        return DifyAppError(
            message("The key must be of an app of the type workflow that has been published.", _AGAIN_SAME),
            **known,
        )
    if told.code in _PROVIDER_CODES or "plugin daemon" in text:
        return DifyProviderError(
            message("The model provider or plugin behind the app is the cause, not the inputs.", _AGAIN_HELPS),
            **known,
        )
    if told.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return DifyInvalidInputError(
            message("The file or body is larger than the server accepts.", _AGAIN_SAME), **known
        )
    if told.status in (
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.PRECONDITION_FAILED,
        HTTPStatus.UNPROCESSABLE_ENTITY,
    ) or (told.status == HTTPStatus.INTERNAL_SERVER_ERROR and any(known_text in text for known_text in _INPUT_TEXTS)):
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
