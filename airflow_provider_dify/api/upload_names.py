"""The name and the MIME type that a file is uploaded under, checked before anything is sent."""

from __future__ import annotations

from typing import Any

from airflow_provider_dify.api.checks import guarded, plain_text, preview
from airflow_provider_dify.api.values import shape_of
from airflow_provider_dify.exceptions import DifyInvalidInputError

# No file system takes a name as long, and Dify's database no longer MIME type.
MAX_NAME_CHARS = 1000
MAX_MIME_TYPE_CHARS = 255


def check_name(value: Any, place: str) -> str:
    """Return the name that a file is uploaded under.

    :raises DifyInvalidInputError: It is no text, empty, too long, or cannot be sent.
    """
    with guarded(value, place):
        text = plain_text(value)
        if text is None or not text.strip():
            raise DifyInvalidInputError(f"{place} must be a non-empty text, got {shape_of(value)}.")
        if len(text) > MAX_NAME_CHARS or "\0" in text:
            raise DifyInvalidInputError(
                f"{place} must be a file name of at most {MAX_NAME_CHARS} characters, without NUL, got {preview(text)}."
            )
        if not _is_encodable(text):
            raise DifyInvalidInputError(
                f"{place} is {preview(text)}, which is no valid Unicode text and cannot be sent: give the file another "
                "'name'."
            )
        return text


def check_mime_type(value: Any, place: str) -> str:
    """Return a MIME type that can stand in a header.

    :raises DifyInvalidInputError: It is no text on one line, empty, or too long.
    """
    with guarded(value, place):
        text = plain_text(value)
        if text is None or not is_mime_type(text):
            raise DifyInvalidInputError(
                f"{place} must be a non-empty text on one line, of at most {MAX_MIME_TYPE_CHARS} characters, such as "
                f"'application/pdf', got {preview(value)}."
            )
        return text


def is_mime_type(text: str) -> bool:
    """Tell whether a text can stand in a header as a MIME type."""
    return bool(text.strip()) and len(text) <= MAX_MIME_TYPE_CHARS and text.isprintable()


def _is_encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
