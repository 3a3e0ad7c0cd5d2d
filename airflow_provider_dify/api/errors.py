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
    is_final,
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
# Input errors inside a stream come as events of status 500 without a code, or with the text alone (dify-behaviour.md,
# section 2.1 and 10).
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
_ERROR_BYTES = 65536
_CODE_CHARS = 100
_ERROR_FIELDS = 20

AGAIN_SAME = "A retry would be answered the same way, so the task is not retried."
AGAIN_HELPS = "A retry of the task may succeed."
AGAIN_AFTER = "A retry helps only after that."


def rules_out_retry(error: DifyError) -> bool:
    """Tell whether an error is final, or says that a retry alone does not help."""
    return is_final(error) or error.on_retry in (AGAIN_SAME, AGAIN_AFTER)


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
class _ErrorInfo:
    status: int
    code: str | None
    text: str


def _error_info(answer: Answer) -> _ErrorInfo:
    if answer.is_html:
        title = _page_title(answer.body[:_ERROR_BYTES].decode("utf-8", "replace"))
        return _ErrorInfo(answer.status, None, f"an HTML page ({excerpt(html.unescape(title)) or 'without a title'})")
    try:
        payload = decode_json(answer.body[:_ERROR_BYTES], "the body")
    except DifyResponseError:
        return _ErrorInfo(answer.status, None, excerpt(answer.body) or "an empty body")
    return _payload_info(payload, answer.status)


def _page_title(page: str) -> str:
    """Return the first title or headline of an HTML page, in one pass over it, whatever the page repeats."""
    begin = _TITLE_BEGIN.search(page)
    end = _TITLE_END.search(page, begin.end()) if begin else None
    return page[begin.end() : end.start()] if begin and end else ""


def _payload_info(payload: Any, status: int) -> _ErrorInfo:
    if not isinstance(payload, dict):
        return _ErrorInfo(status, None, excerpt(str(payload)))
    text = (text_or_none(payload.get("message")) or "no message")[:4000]
    fields = payload.get("errors")
    if isinstance(fields, dict) and fields:
        text += ": " + "; ".join(f"{name}: {message}"[:500] for name, message in islice(fields.items(), _ERROR_FIELDS))
    code = excerpt(text_or_none(payload.get("code")) or "", _CODE_CHARS) or None
    return _ErrorInfo(status, code, excerpt(_without_queries(text[:4000]), 1000))


def _without_queries(text: str) -> str:
    """Return a text whose URLs have no query: the signature of a file that could not be fetched is in it."""
    return _URL_QUERY.sub(r"\1?…", text)


def is_input_text(text: str) -> bool:
    """Tell whether an error text is one by which Dify refuses inputs or files."""
    return any(known in text.lower() for known in _INPUT_TEXTS)


def is_rate_limit(status: int, text: str) -> bool:
    """Tell whether an error means that the server takes no further run now.

    Dify answers its own limit as HTTP 400 with a text, never as 429 (dify-behaviour.md, section 11).
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
    info = _error_info(answer)
    retry_after = retry_after_seconds(answer.headers)
    if answer.ok:
        return DifyResponseError(
            f"{what}: HTTP {answer.status} came with {info.text} instead of JSON.",
            advice="Something in front of Dify, such as the login page of a gateway, may have answered: check the "
            "connection's Base URL (host) and Gateway headers (headers).",
            where="field Base URL",
            status_code=answer.status,
        )
    if 300 <= answer.status < 400:
        target = excerpt(answer.headers.get("location", "nowhere").partition("?")[0])
        return DifyResponseError(
            f"{what}: the server redirects (HTTP {answer.status}) to {target}. Redirects are not followed, since "
            "the API key must not reach another host.",
            advice="Put the final address into the connection's Base URL (host).",
            where="field Base URL",
            status_code=answer.status,
        )
    if answer.status == HTTPStatus.NOT_FOUND and info.code is None and answer.is_html:
        return DifyNotFoundError(
            f"{what}: HTTP 404 with {info.text}: nothing is served at this path.",
            advice="Check the connection's Base URL (host): it usually ends in /v1.",
            on_retry=AGAIN_SAME,
            where="field Base URL",
            status_code=404,
        )
    return _error(info, what, retry_after, remedies, reads=reads)


def error_for_event(payload: Mapping[str, Any], what: str) -> DifyError:
    """Build the exception for an ``error`` event inside a stream of HTTP 200 (dify-behaviour.md, section 4).

    No run exists then. Events of 1.14 about wrong inputs have the status 500 and no code.
    """
    status = int_or_none(payload.get("status")) or 500
    return _error(_payload_info(dict(payload), status), what, None)


def _error(
    info: _ErrorInfo,
    what: str,
    retry_after: float | None,
    remedies: Mapping[str, str] | None = None,
    *,
    reads: bool = False,
) -> DifyError:
    label = f"HTTP {info.status}" + (f" {info.code}" if info.code else "")
    text = info.text.lower()

    def error(kind: type[DifyError], remedy: str, again: str, **more: Any) -> DifyError:
        return kind(
            f"{what}: {label}: {info.text.rstrip('.')}.",
            advice=(remedies or {}).get(info.code or "", remedy),
            on_retry=again,
            status_code=info.status,
            code=info.code,
            **more,
        )

    if not reads and is_quota(info.status, info.code, info.text):
        remedy = "A quota is used up, so nothing was started: wait until it is renewed, or upgrade the plan."
        return error(DifyQuotaError, remedy, AGAIN_SAME, retry_after=retry_after)
    if is_rate_limit(info.status, info.text):
        remedy = "The server takes no further request now; nothing was started."
        return error(DifyRateLimitError, remedy, AGAIN_HELPS, retry_after=retry_after)
    if info.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        remedy = "The proxy refuses user and password: check the connection's Proxy (proxy)."
        return error(DifyTransportError, remedy, AGAIN_SAME, sent=False, where="field Proxy")
    if info.status == HTTPStatus.UNAUTHORIZED:
        remedy = "Put the app's API key (app-…; in Dify: the app, API Access) into the connection's API key (password)."
        return error(DifyAuthenticationError, remedy, AGAIN_SAME, where="field API key")
    if info.status == HTTPStatus.FORBIDDEN:
        remedy = "Switch on the app's API access in Dify, or check what the gateway asks for."
        return error(DifyPermissionError, remedy, AGAIN_SAME)
    if info.status == HTTPStatus.NOT_FOUND:
        remedy = "Check the id, and that it belongs to the app whose API key is used."
        return error(DifyNotFoundError, remedy, AGAIN_SAME)
    if info.code == _UNPUBLISHED_CODE or info.text.startswith(_UNPUBLISHED_TEXT):
        remedy = "The app has never been published: open its workflow in Dify and press Publish."
        return error(DifyAppError, remedy, AGAIN_SAME)
    if info.code in _OTHER_APP_CODES:
        remedy = (
            "The key is of an app of another type (chatflow, chatbot, agent or text generator), which cannot be run. "
            f"{USE_WORKFLOW_APP}"
        )
        return error(DifyAppError, remedy, AGAIN_SAME, where="field API key")
    if info.code in _PROVIDER_CODES or "plugin daemon" in text:
        cause = "The model provider or plugin behind the app is the cause, not the inputs."
        if special := _PROVIDER_REMEDIES.get(info.code or ""):
            return error(DifyProviderError, f"{cause} {special}", AGAIN_AFTER)
        return error(DifyProviderError, cause, AGAIN_HELPS)
    if info.status == HTTPStatus.BAD_REQUEST and any(known_text in text for known_text in _HTTP_ON_TLS_PORT):
        remedy = "The server speaks https here: let the connection's Base URL (host) begin with https://."
        return error(DifyResponseError, remedy, AGAIN_AFTER, where="field Base URL")
    if info.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return error(DifyInvalidInputError, "The file or body is larger than the server accepts.", AGAIN_SAME)
    if info.status in (
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.PRECONDITION_FAILED,
        HTTPStatus.UNPROCESSABLE_ENTITY,
    ) or (info.status == HTTPStatus.INTERNAL_SERVER_ERROR and is_input_text(info.text)):
        remedy = "Compare inputs and files with the input form of the workflow's start node."
        return error(DifyInvalidInputError, remedy, AGAIN_SAME)
    if info.status >= 500:
        remedy = "The server or a gateway before it failed."
        return error(DifyServerError, remedy, AGAIN_HELPS, retry_after=retry_after)
    remedy = "Dify's API does not answer this way: check the connection's Base URL (host)."
    return error(DifyResponseError, remedy, AGAIN_HELPS, where="field Base URL")
