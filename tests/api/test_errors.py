"""HTTP answers that are errors, and the exceptions that they become."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import pytest

from airflow_provider_dify import exceptions as ex
from airflow_provider_dify.api.errors import (
    Answer,
    error_for_answer,
    error_for_event,
    is_rate_limit,
    retry_after_seconds,
)
from airflow_provider_dify.exceptions import DifyError, is_final

RATE = (
    "Too many requests. Please try again later. The current maximum concurrent requests allowed for "
    "f5a398e5-cb7d-4af6-a55a-1f9e42f00000 is 1."
)
PYDANTIC = (
    "1 validation error for WorkflowRunPayload\ninputs\n  Field required [type=missing, input_value={'user': 'u'}, "
    "input_type=dict]\n    For further information visit https://errors.pydantic.dev/2.11/v/missing"
)


def answer(status: int, body: Any, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if isinstance(body, (bytes, str)):
        return Answer(status, named, body.encode() if isinstance(body, str) else body)
    return Answer(status, {"content-type": "application/json"} | named, json.dumps(body).encode())


def dify(status: int, code: str, message: str) -> Answer:
    return answer(status, {"code": code, "message": message, "status": status})


TABLE: dict[str, tuple[Answer, type[DifyError], str | None, bool, str]] = {
    "no key": (
        dify(401, "unauthorized", "Access token is invalid"),
        ex.DifyAuthenticationError,
        "unauthorized",
        True,
        "password",
    ),
    "switched off": (
        dify(403, "forbidden", "The app's API service has been disabled."),
        ex.DifyPermissionError,
        "forbidden",
        True,
        "API access",
    ),
    "unknown run": (
        dify(404, "not_found", "Workflow run not found."),
        ex.DifyNotFoundError,
        "not_found",
        True,
        "Check the id",
    ),
    "wrong app": (
        dify(400, "not_workflow_app", "Please check if your app mode matches."),
        ex.DifyAppError,
        "not_workflow_app",
        True,
        "app of another type",
    ),
    "chat app": (dify(400, "not_chat_app", "x"), ex.DifyAppError, "not_chat_app", True, "type workflow"),
    "app unavailable": (
        dify(400, "app_unavailable", "App unavailable"),
        ex.DifyAppError,
        "app_unavailable",
        True,
        "published",
    ),
    "unpublished": (
        dify(400, "invalid_param", "Workflow not published"),
        ex.DifyAppError,
        "invalid_param",
        True,
        "published",
    ),
    "rate limit under 400": (
        dify(400, "invalid_param", RATE),
        ex.DifyRateLimitError,
        "invalid_param",
        False,
        "nothing was started",
    ),
    "rate limit under 429": (
        dify(429, "too_many_requests", "Too many."),
        ex.DifyRateLimitError,
        "too_many_requests",
        False,
        "nothing was",
    ),
    "billing quota": (
        dify(429, "rate_limit_error", "quota"),
        ex.DifyQuotaError,
        "rate_limit_error",
        True,
        "upgrade the plan",
    ),
    "quota of a gateway": (
        answer(429, {"error": {"message": "x"}, "message": "Monthly quota exceeded for this key"}),
        ex.DifyQuotaError,
        None,
        True,
        "A quota is used up",
    ),
    "http on a port of https": (
        answer(400, "<html><title>400 The plain HTTP request was sent to HTTPS port</title>"),
        ex.DifyResponseError,
        None,
        False,
        "Base URL (host) begin with https://",
    ),
    "429 of a gateway": (
        answer(429, "<html><title>429 Too Many Requests</title>"),
        ex.DifyRateLimitError,
        None,
        False,
        "429",
    ),
    "provider": (
        dify(400, "provider_quota_exceeded", "Your quota for Dify Hosted OpenAI has been exhausted."),
        ex.DifyProviderError,
        "provider_quota_exceeded",
        False,
        "Renew the quota of the model's provider",
    ),
    "plugin daemon": (
        dify(400, "invalid_param", "Failed to request plugin daemon, url: plugin/x"),
        ex.DifyProviderError,
        "invalid_param",
        False,
        "plugin",
    ),
    "missing input": (
        dify(400, "invalid_param", "text is required in input form"),
        ex.DifyInvalidInputError,
        "invalid_param",
        True,
        "input form",
    ),
    "pydantic text": (
        dify(400, "invalid_param", PYDANTIC),
        ex.DifyInvalidInputError,
        "invalid_param",
        True,
        "inputs Field required",
    ),
    "1.9.1 body shape": (
        answer(
            400,
            {
                "errors": {"inputs": "Missing required parameter in the JSON body"},
                "message": "Input payload validation failed",
            },
        ),
        ex.DifyInvalidInputError,
        None,
        True,
        "validation failed: inputs: Missing required parameter",
    ),
    "bad workflow id": (
        dify(400, "bad_request", "Invalid workflow_id format: 'x'. "),
        ex.DifyInvalidInputError,
        "bad_request",
        True,
        "'x'",
    ),
    "form answered": (
        dify(412, "human_input_form_submitted", "x"),
        ex.DifyInvalidInputError,
        "human_input_form_submitted",
        True,
        "412",
    ),
    "too large": (
        dify(413, "file_too_large", ""),
        ex.DifyInvalidInputError,
        "file_too_large",
        True,
        "larger than the server accepts",
    ),
    "413 of a gateway": (answer(413, "<html><h1>413</h1></html>"), ex.DifyInvalidInputError, None, True, "larger"),
    "long user": (
        dify(500, "unknown", "Internal Server Error"),
        ex.DifyServerError,
        "unknown",
        False,
        "Internal Server Error",
    ),
    "gateway error": (
        answer(502, "<html><title>502 Bad Gateway</title>"),
        ex.DifyServerError,
        None,
        False,
        "502 Bad Gateway",
    ),
    "gateway time-out": (answer(504, "upstream timed out"), ex.DifyServerError, None, False, "upstream timed out"),
    "empty 503": (answer(503, b""), ex.DifyServerError, None, False, "an empty body"),
    "unknown path": (
        answer(404, "<!doctype html>\n<title>404 Not Found</title>", content_type="text/html; charset=utf-8"),
        ex.DifyNotFoundError,
        None,
        True,
        "usually ends in /v1",
    ),
    "wrong method": (
        dify(405, "method_not_allowed", "x"),
        ex.DifyResponseError,
        "method_not_allowed",
        False,
        "connection's Base URL",
    ),
    "redirect": (
        answer(302, "", location="https://sso.example.com/login?token=abc"),
        ex.DifyResponseError,
        None,
        False,
        "sso.example.com/login",
    ),
    "permanent redirect": (
        answer(308, "", location="http://h/v1/"),
        ex.DifyResponseError,
        None,
        False,
        "final address",
    ),
    "redirect to nowhere": (answer(307, ""), ex.DifyResponseError, None, False, "nowhere"),
    "login page": (
        answer(200, "<!doctype html><html><head><title>Sign in</title>", content_type="text/html"),
        ex.DifyResponseError,
        None,
        False,
        "Sign in",
    ),
    "login page without its type": (
        answer(200, "  <html><h1>Log &amp; in</h1>"),
        ex.DifyResponseError,
        None,
        False,
        "Log & in",
    ),
    "json list": (answer(500, []), ex.DifyServerError, None, False, "[]"),
    "json null": (answer(400, None), ex.DifyInvalidInputError, None, True, "None"),
}


@pytest.mark.parametrize("name", TABLE)
def test_error_answers(name: str) -> None:
    given, kind, code, final, text = TABLE[name]
    error = error_for_answer(given, "Starting the run")
    assert type(error) is kind
    assert error.code == code
    assert error.status_code == given.status
    assert is_final(error) is final
    assert str(error).startswith("Starting the run: ")
    assert text in error.message
    assert "\n" not in error.message
    assert len(str(error).splitlines()) <= 2


@pytest.mark.parametrize(
    "name",
    sorted(
        set(TABLE)
        - {"redirect", "permanent redirect", "redirect to nowhere", "login page", "login page without its type"}
    ),
)
def test_every_error_of_a_server_says_what_a_retry_would_do(name: str) -> None:
    assert "retry" in str(error_for_answer(TABLE[name][0], "Starting the run"))


def test_a_redirect_does_not_show_the_query_of_its_target() -> None:
    assert "abc" not in str(error_for_answer(TABLE["redirect"][0], "x"))


def test_a_long_text_is_cut() -> None:
    assert len(str(error_for_answer(dify(400, "invalid_param", "x" * 100_000), "x"))) < 2_000
    assert len(str(error_for_answer(answer(500, "y" * 100_000), "x"))) < 2_000
    assert len(str(error_for_answer(answer(500, "<title>" + "z" * 100_000 + "</title>"), "x"))) < 2_000


@pytest.mark.parametrize("page", ["<title>" * 16_000, "<title " * 16_000, "<h1>" * 30_000 + "</h1>", "<" * 500_000])
def test_a_page_that_never_ends_a_title_is_read_once(page: str) -> None:
    """112 KB of titles took 8 s, in which no other trigger went on."""
    error = error_for_answer(answer(502, page, content_type="text/html"), "Starting the run")
    assert "an HTML page" in str(error)
    assert len(str(error)) < 1_000


def test_only_the_beginning_of_an_error_is_read() -> None:
    body = b'{"code": "no", "message": "first", "pad": "' + b"x" * 1_000_000 + b'"}'
    error = error_for_answer(answer(400, body), "x")
    assert error.code is None
    assert '"message": "first"' in str(error)
    assert len(str(error)) < 1_000


@pytest.mark.parametrize("code", ["c" * 50_000, "\x1b[31mred", "line\nbreak"])
def test_a_code_of_the_server_is_bounded_and_printable(code: str) -> None:
    for error in (
        error_for_answer(dify(400, code, "no"), "x"),
        error_for_event({"status": 400, "code": code * 100, "message": "no"}, "x"),
    ):
        assert error.code is not None
        assert len(error.code) <= 100
        assert error.code.isprintable()
        assert error.message.isprintable()


def test_fields_of_an_error_are_bounded() -> None:
    fields = {f"field{number}" * 50: "m" * 10_000 for number in range(5_000)}
    error = error_for_event({"status": 400, "code": "invalid_param", "message": "no", "errors": fields}, "x")
    assert len(str(error)) < 2_000


@pytest.mark.parametrize(
    ("status", "text", "expected"),
    [
        (429, "", True),
        (400, RATE, True),
        (400, "  too many requests", True),
        (500, RATE, True),
        (400, "The text says: too many requests", False),
        (404, RATE, False),
        (503, RATE, False),
    ],
)
def test_what_counts_as_a_rate_limit(status: int, text: str, expected: bool) -> None:
    assert is_rate_limit(status, text) is expected


NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("0", 0.0),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("99999999", 3600.0),
        ("Thu, 01 Jan 2026 12:00:30 GMT", 30.0),
        ("Thu, 01 Jan 2026 13:00:30 +0100", 30.0),
        ("Thu, 01 Jan 2026 12:00:30", 30.0),
        ("Thu, 01 Jan 2026 11:00:00 GMT", 0.0),
        ("Thu, 01 Jan 2099 11:00:00 GMT", 3600.0),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after_seconds({} if value is None else {"retry-after": value}, NOW) == seconds


@pytest.mark.parametrize(("status", "body"), [(429, "x"), (400, {"message": RATE}), (503, "x")])
def test_retry_after_reaches_the_exception(status: int, body: Any) -> None:
    error: Any = error_for_answer(answer(status, body, retry_after="7"), "x")
    assert error.retry_after == 7.0


def test_all_exceptions_are_below_one_root_and_keep_what_is_known() -> None:
    for kind in vars(ex).values():
        if isinstance(kind, type) and issubclass(kind, BaseException) and kind.__module__ == ex.__name__:
            error = kind("text", status_code=400, code="c", workflow_run_id="r")
            assert isinstance(error, DifyError)
            assert (str(error), error.message, error.status_code, error.code, error.workflow_run_id) == (
                "text",
                "text",
                400,
                "c",
                "r",
            )
            assert kind.__doc__


def test_a_quota_of_runs_is_a_limit_like_others_for_what_starts_none() -> None:
    error = error_for_answer(dify(429, "rate_limit_error", "upgrade your plan"), "Reading the run", reads=True)
    assert type(error) is ex.DifyRateLimitError
    assert not is_final(error)


@pytest.mark.parametrize(
    ("code", "message", "remedy"),
    [
        ("app_unavailable", "App unavailable, please check your app configurations.", "press Publish"),
        ("invalid_param", "Workflow not published", "press Publish"),
        ("not_workflow_app", "Please check if your app mode matches the right API route.", "Use the API key of an app"),
        ("not_chat_app", "x", "Use the API key of an app of the type workflow"),
    ],
)
def test_each_fault_of_an_app_has_its_own_remedy(code: str, message: str, remedy: str) -> None:
    text = str(error_for_answer(dify(400, code, message), "Starting the run"))
    assert remedy in text
    assert ("press Publish" in text) != ("of another type" in text)
