"""The filters of the workflow logs, as Dify reads them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from airflow_provider_dify.api.checks import check_text, guarded, plain_text, preview
from airflow_provider_dify.api.values import shape_of
from airflow_provider_dify.exceptions import (
    DifyInvalidInputError,
)

LOGGED_STATUSES = ("succeeded", "failed", "stopped")


def moment_of(value: Any, field_name: str) -> str | None:
    """Return a moment as Dify reads it; the text of one may end in Z, which Python reads only from 3.11 on."""
    if value is None:
        return None
    with guarded(value, field_name):
        return _as_dify_reads(value, field_name)


def _as_dify_reads(value: Any, field_name: str) -> str:
    moment = value
    if (text := plain_text(value)) is not None:
        text = text.strip()
        try:
            moment = datetime.fromisoformat(f"{text[:-1]}+00:00" if text[-1:] in ("Z", "z") else text)
        except ValueError:
            raise DifyInvalidInputError(
                f"{field_name} is a text that is no time in ISO 8601 ({shape_of(value)}): write it as "
                "2026-01-31T00:00:00+00:00, or pass a datetime with a time zone."
            ) from None
    if not isinstance(moment, datetime):
        raise DifyInvalidInputError(
            f"{field_name} must be a datetime with a time zone, or its text in ISO 8601, got {shape_of(value)}."
        )
    if moment.utcoffset() is None:
        raise DifyInvalidInputError(
            f"{field_name} has no time zone: add one, such as datetime(2026, 1, 31, tzinfo=timezone.utc) or a text "
            "that ends in Z."
        )
    # Of the base class, for what a subclass writes may be no ISO 8601.
    return datetime.isoformat(moment, timespec="seconds")


def filter_text(value: Any, field_name: str) -> str | None:
    """Return the text of a filter; None where it was not given."""
    text = plain_text(value)
    if value is not None and not text:
        raise DifyInvalidInputError(f"{field_name} must be a non-empty string or None, got {shape_of(value)}.")
    check_text(text or "", field_name)
    return text


def logged_status(value: Any) -> str | None:
    """Return a status that the logs can be filtered by; None where it was not given."""
    text = plain_text(value)
    if value is None or text in LOGGED_STATUSES:
        return text
    shown = preview(text) if text is not None else shape_of(value)
    raise DifyInvalidInputError(
        f"status must be one of {', '.join(LOGGED_STATUSES)}, got {shown}: Dify filters its logs by no other. Leave "
        "it out and read the status of each run that is listed."
    )


def log_query(
    user: str | None,
    account: str | None,
    created_after: datetime | str | None,
    created_before: datetime | str | None,
    status: str | None,
    keyword: str | None,
) -> dict[str, Any]:
    """Return the filters as ``ServiceApi.logs`` names them."""
    return {
        "user": user,
        "account": account,
        "created_after": created_after,
        "created_before": created_before,
        "status": status,
        "keyword": keyword,
    }
