"""JSON as it comes from a server: decoded with one kind of error, read without trusting its types."""

from __future__ import annotations

import json
import math
from typing import Any

from airflow_provider_dify.exceptions import DifyResponseError

EXCERPT_CHARS = 300
MAX_ID_CHARS = 255

_SIZED: tuple[Any, ...] = (str, bytes, list, tuple, dict, set, frozenset)
_NAME_CHARS = 120


def decode_json(body: bytes | str, what: str) -> Any:
    """Decode a JSON text.

    :param body: The text, as UTF-8 bytes or as a string.
    :param what: What the text is, for the error message.
    :raises DifyResponseError: It is not JSON, not UTF-8, nested too deeply, or has an absurd number.
    """
    try:
        # No other encoding, which json.loads would guess: what was searched for secrets is what is read.
        return json.loads(body.decode("utf-8-sig") if isinstance(body, bytes) else body)
    except (ValueError, RecursionError) as error:
        kind = type(error).__name__
    # Raised outside: the decoder's own error carries the whole text.
    raise DifyResponseError(f"{what} is not JSON ({kind}): {excerpt(body)!r}")


def excerpt(body: bytes | str, limit: int = EXCERPT_CHARS) -> str:
    """Return the beginning of a text on one line, for a message or a log.

    What is not printable (an escape sequence of a terminal, a mark that turns the direction of writing) is
    replaced: a text from a server must not change how a log is shown.
    """
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
    text = " ".join(text[: 4 * limit].split())
    if not text.isprintable():
        text = "".join(char if char.isprintable() else "\ufffd" for char in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def shape_of(value: Any) -> str:
    """Describe a value by its type (with its module) and size, never by its content, for a message."""
    if value is None:
        return "null"
    kind = type(value)
    for sized in _SIZED:
        # Not isinstance() and len(), which ask the value: that may raise.
        if issubclass(kind, sized):
            return f"{excerpt(kind.__name__, _NAME_CHARS)} of length {sized.__len__(value)}"
    # Two types may share a name: Python's bool and numpy's.
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return excerpt(name, _NAME_CHARS)


def as_text(value: Any) -> Any:
    """Return a number or a truth value as text, and anything else as it is.

    A template that is rendered natively makes ``42``, ``1.5`` and ``True`` of texts, which this undoes. What it has
    made of ``1e5``, ``1_000``, ``00``, ``0x10`` or ``1.10`` is lost.
    """
    return str(value) if isinstance(value, (int, float)) else value


def text_or_none(value: Any) -> str | None:
    """Return a non-empty string, or None for anything else."""
    return value if isinstance(value, str) and value else None


def id_or_none(value: Any) -> str | None:
    """Return an id: printable, of at most 255 characters, and no step to another folder of a path; None for all else.

    An id goes into URLs, log lines and XCom. What breaks a line there, cannot be encoded, or leads to another route of
    the API (``..``) is none, whoever says it.
    """
    is_id = isinstance(value, str) and 0 < len(value) <= MAX_ID_CHARS and value.isprintable()
    return value if is_id and value not in (".", "..") else None


def number_or_none(value: Any) -> float | None:
    """Return a finite number, also out of a numeric string, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def int_or_none(value: Any) -> int | None:
    """Return a whole number, also out of a numeric string, or None for anything else."""
    if value is None or type(value) is int:
        return value
    number = number_or_none(value)
    return None if number is None else int(number)


def object_or_none(value: Any) -> dict[str, Any] | None:
    """Return a JSON object that a server gives as an object, as a JSON string, or as null.

    Dify 1.9 and 1.11 answer ``inputs`` and ``outputs`` as JSON strings, 1.14 answers ``outputs`` as an
    object, and a run without outputs has null (dify-behaviour.md, section 3). Null and a string of ``null`` are an
    empty object; None stands for a value that is no object at all.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except (ValueError, RecursionError):
            return None
    if value is None:
        return {}
    return value if isinstance(value, dict) else None
