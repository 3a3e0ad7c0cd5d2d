"""Error answers of the API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NOT_FOUND_PAGE = """<!doctype html>
<html lang=en>
<title>404 Not Found</title>
<h1>Not Found</h1>
<p>The requested URL was not found on the server. If you entered the URL manually please check your spelling \
and try again.</p>
"""

_CRASH_MESSAGE = (
    "The server encountered an internal error and was unable to complete your request. Either the server is "
    "overloaded or there is an error in the application."
)


class ApiError(Exception):
    """An answer other than success.

    :param status: HTTP status.
    :param code: Dify's error code.
    :param message: its message.
    :param body: replaces the usual `{code, message, status}`.
    :param headers: further headers.
    """

    def __init__(
        self,
        status: int,
        code: str = "",
        message: str = "",
        *,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = body or {"code": code, "message": message, "status": status}
        self.headers = dict(headers or {})


def invalid_param(message: str) -> ApiError:
    """Return the 400 for wrong parameters."""
    return ApiError(400, "invalid_param", message)


def unauthorized(message: str) -> ApiError:
    """Return the 401."""
    return ApiError(401, "unauthorized", message, headers={"WWW-Authenticate": 'Bearer realm="api"'})


def unknown_error() -> ApiError:
    """Return the 500 of an exception that nothing in Dify handles."""
    return ApiError(500, "unknown", "Internal Server Error")


def crash() -> ApiError:
    """Return the 500 of an exception that Dify's run route turns into an answer."""
    return ApiError(500, "internal_server_error", _CRASH_MESSAGE)


def rejected_by_restx(field: str, message: str) -> ApiError:
    """Return the 400 of versions whose bodies flask-restx checks: neither code nor status."""
    return ApiError(400, body={"errors": {field: message}, "message": "Input payload validation failed"})
