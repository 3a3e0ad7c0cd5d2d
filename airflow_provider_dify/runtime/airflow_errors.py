"""What Airflow's own errors say, in words: those of its API server are dumps of a dictionary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_dify.api.values import excerpt

_MOVED_ON = frozenset({403, 404, 409, 410})


def reason_of(error: BaseException) -> str:
    """Return why Airflow did not store or give a value, as a part of a sentence.

    :param error: What a store, a database or the API server failed with.
    """
    status = _status_of(error)
    if status in _MOVED_ON:
        return (
            f"Airflow's API server answers HTTP {status}: the task instance has moved on, so this process has been "
            "given up, or was deleted"
        )
    if status is not None:
        return f"Airflow's API server answers HTTP {status}"
    name, text = type(error).__name__, excerpt(str(error), 200).rstrip(".")
    if not text or "{" in text:
        return name
    return f"{name}: {text}"


def _status_of(error: BaseException) -> int | None:
    """Return the HTTP status with which the API server refused; None where it is no such error."""
    response: Any = getattr(error, "error", None)
    detail = getattr(response, "detail", None)
    status = detail.get("status_code") if isinstance(detail, Mapping) else None
    if status is None:
        status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None
