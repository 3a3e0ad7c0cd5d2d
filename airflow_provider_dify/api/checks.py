"""What every check of a parameter shares: the value shown in a message, text that can be sent, errors of ours alone.

A DAG author's value can be anything: a number with a thousand digits, a text with half a character, an object whose
methods raise. Whatever it is, the error is one of this provider, and names the parameter.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from airflow_provider_dify.api.values import shape_of
from airflow_provider_dify.exceptions import DifyError, DifyInvalidInputError

PREVIEW_CHARS = 60
# Longer numbers are reported by their size: Python itself refuses to write those of more than 4,300 digits.
_SHOWN_BITS = 256
_DIGITS_OF_A_BIT = 0.30103
_PLACE_CHARS = 300


@contextmanager
def guarded(value: Any, field_name: str) -> Iterator[None]:
    """Make an error of ours of whatever a value raises while it is checked.

    :param value: The value, of which only type and size are shown.
    :param field_name: The parameter or field that it was passed as.
    :raises DifyInvalidInputError: The value cannot be read.
    """
    try:
        yield
        return
    except DifyError:
        raise
    except Exception as error:
        message = unreadable(error, value, field_name)
    raise DifyInvalidInputError(message)


def unreadable(error: Exception, value: Any, field_name: str) -> str:
    """Return the message about a value that raised an error of another kind while it was checked."""
    if isinstance(error, RecursionError):
        why = "it is nested too deeply, or contains itself"
    else:
        # The error's text may be anything, and raise as well.
        why = f"{type(error).__name__} was raised while it was read"
    return f"{field_name} cannot be used, since {why}; it is {shape_of(value)}. Pass a plain Python value."


def preview(value: Any, limit: int = PREVIEW_CHARS) -> str:
    """Return a value that is no secret for a message: a text or number in a bounded form, others by type and size."""
    text = plain_text(value)
    if text is not None:
        return repr(text if len(text) <= limit else text[: limit - 1] + "…")
    number = plain_int(value)
    if number is not None:
        bits = number.bit_length()
        if bits > _SHOWN_BITS:
            sign = " negative" if number < 0 else ""
            return f"a{sign} whole number of about {int(bits * _DIGITS_OF_A_BIT) + 1} digits"
        return str(number)
    return float.__repr__(value) if issubclass(type(value), float) else shape_of(value)


def plain_text(value: Any) -> str | None:
    """Return a text as Python's own type, whatever a subclass makes of its methods; None for what is no text."""
    return str.__str__(value) if issubclass(type(value), str) else None


def plain_int(value: Any) -> int | None:
    """Return a whole number as Python's own type; None for anything else, truth values included."""
    kind = type(value)
    return int.__int__(value) if issubclass(kind, int) and kind is not bool else None


def check_text(text: str, place: str) -> None:
    """Let a text pass that can be sent.

    :raises DifyInvalidInputError: It is no valid Unicode text.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise DifyInvalidInputError(f"{place} has a lone surrogate, which is no valid Unicode text.") from None


def check_number(value: Any, field_name: str, least: int, most: int | None = None) -> int:
    """Return a whole number within limits.

    :raises DifyInvalidInputError: It is none, or beyond the limits.
    """
    number = plain_int(value)
    if number is None or number < least or (most is not None and number > most):
        wanted = f"of at least {least}" if most is None else f"from {least} to {most}"
        shown = shape_of(value) if number is None else preview(number)
        raise DifyInvalidInputError(f"{field_name} must be a whole number {wanted}, got {shown}.")
    return min(number, sys.maxsize)


def check_callable(value: Any, field_name: str) -> None:
    """Let a function pass, or None.

    :raises DifyInvalidInputError: It is something else.
    """
    if value is not None and not callable(value):
        raise DifyInvalidInputError(f"{field_name} must be a function, or None, got {shape_of(value)}.")


def check_type(value: Any, field_name: str, wanted: type, remedy: str) -> None:
    """Let a value of one of this provider's own types pass.

    :param remedy: Where such a value comes from.
    :raises DifyInvalidInputError: It is something else.
    """
    if not issubclass(type(value), wanted):
        raise DifyInvalidInputError(f"{field_name} must be a {wanted.__name__}, got {shape_of(value)}: {remedy}.")


def within(place: str, key: Any) -> str:
    """Return the place of an item for a message; of a place that is nested deeply, its beginning and its end."""
    text = f"{place}[{preview(key)}]"
    return text if len(text) <= _PLACE_CHARS else f"{text[: _PLACE_CHARS // 2]}…{text[-_PLACE_CHARS // 2 :]}"
