"""What a DAG author passes in, as JSON has it: plain dicts, lists and scalars, or an error with the remedy."""

from __future__ import annotations

import dataclasses
import enum
import math
import uuid
from collections import UserString
from collections.abc import Iterator, Mapping, Sequence, Set
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

from airflow_provider_dify.api.uploads import is_path_object
from airflow_provider_dify.api.values import shape_of
from airflow_provider_dify.exceptions import DifyInvalidInputError

_MAX_DEPTH = 100
_TEXTS = (str, bytes, bytearray, memoryview, UserString)


def is_list(value: Any) -> bool:
    """Tell whether a value is a list by its meaning: any sequence but a text, such as the XComs of mapped tasks.

    An iterator is none. It can be read once only, and Airflow may render and a task may check its values again.
    """
    return isinstance(value, Sequence) and not isinstance(value, _TEXTS)


def as_list(value: Any) -> Any:
    """Return a sequence as a list, and anything else as it is.

    A lazy sequence asks Airflow for each of its items: whoever needs it more than once keeps the list.
    """
    return list(value) if is_list(value) and not isinstance(value, list) else value


def check_text(text: str, place: str) -> None:
    """Let a text pass that can be sent.

    :raises DifyInvalidInputError: It is no valid Unicode text.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise DifyInvalidInputError(f"{place} has a lone surrogate, which is no valid Unicode text.") from None


def plain(value: Any, place: str, *, paths: bool = False, _depth: int = 0) -> Any:
    """Return a value as JSON has it: every mapping a dict, every sequence a list, a scalar of numpy a number.

    :param value: What a DAG author, a template or a function has given.
    :param place: Where it stands, for the message.
    :param paths: Whether path objects pass, which stand for files.
    :raises DifyInvalidInputError: JSON cannot carry it. The message names the place, the type and the remedy.
    """
    if _depth > _MAX_DEPTH:
        raise DifyInvalidInputError(f"{place} is nested deeper than {_MAX_DEPTH} levels, or contains itself.")
    if _is_numpy(value) and getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        item = value.item()
        if not _is_numpy(item):
            value = item
    if value is None or isinstance(value, (bool, int)) or (paths and is_path_object(value)):
        return value
    if isinstance(value, str):
        check_text(value, place)
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise DifyInvalidInputError(f"{place} is {value}, which JSON cannot carry: pass null or a string.")
        return value
    if isinstance(value, Mapping):
        return {
            _key(key, place): plain(item, f"{place}[{key!r}]", paths=paths, _depth=_depth + 1)
            for key, item in value.items()
        }
    if is_list(value):
        return [plain(item, f"{place}[{index}]", paths=paths, _depth=_depth + 1) for index, item in enumerate(value)]
    raise DifyInvalidInputError(f"{place} is {shape_of(value)}, which JSON cannot carry: {_remedy(value)}.")


def _key(key: Any, place: str) -> str:
    if not isinstance(key, str):
        raise DifyInvalidInputError(
            f"{place} has a key that is {shape_of(key)}: keys must be strings. Convert it with str(), or a "
            'table of pandas with .to_dict(orient="records").'
        )
    check_text(key, place)
    return key


def _is_numpy(value: Any) -> bool:
    # Asked of the type's name: importing numpy costs every task that does not use it.
    return type(value).__module__.partition(".")[0] == "numpy"


def _remedy(value: Any) -> str:
    """Return how a DAG author makes JSON of a value, for the kinds that are met."""
    module = type(value).__module__.partition(".")[0]
    if module == "numpy":
        return "convert it with .tolist(), and a point in time with str()"
    if type(value).__name__ in ("NaTType", "NAType") and module == "pandas":
        return "pass None where a value is missing"
    if module == "pandas" and hasattr(value, "to_dict"):
        return 'convert it with .to_dict(orient="records"), or one column with .tolist()'
    if isinstance(value, timedelta):
        return "convert it with .total_seconds()"
    if isinstance(value, (date, time)):
        return "convert it with .isoformat()"
    if isinstance(value, Decimal):
        return "convert it with str(), or with float() where the last digits do not matter"
    if isinstance(value, (uuid.UUID, UserString)) or is_path_object(value):
        return "convert it with str()"
    if isinstance(value, enum.Enum):
        return "pass its .value"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return 'decode a text with .decode("utf-8"), or upload a file'
    if isinstance(value, Set):
        return "convert it with sorted() or list()"
    if isinstance(value, type):
        return "pass a value and not a type"
    if dataclasses.is_dataclass(value):
        return "convert it with dataclasses.asdict()"
    if hasattr(value, "model_dump"):
        return 'convert it with .model_dump(mode="json")'
    if isinstance(value, Iterator):
        return "an iterator can be read only once, so convert it with list()"
    if callable(value):
        return "call it, and pass what it returns"
    return "convert it to a string, number, list or dict first"
