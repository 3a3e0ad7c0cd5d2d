"""What a DAG author passes in, as JSON has it: plain dicts, lists and scalars, or an error with the remedy."""

from __future__ import annotations

import dataclasses
import enum
import itertools
import math
import uuid
from collections import UserString
from collections.abc import Iterator, Mapping, Sequence, Set
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

from airflow_provider_dify.api.checks import check_text, plain_int, plain_text, preview, within
from airflow_provider_dify.api.values import shape_of
from airflow_provider_dify.exceptions import DifyInvalidInputError
from airflow_provider_dify.rules.uploads import is_path_object

_MAX_DEPTH = 100
# Lists that hold one another many times are small in memory, and without end as JSON.
_MAX_VALUES = 5_000_000
# A sequence that makes its items when it is asked for them may have no end.
_MAX_ITEMS = 100_000
# Below so many bits Python writes every number.
_WRITABLE_BITS = 14_000
_TEXTS = (str, bytes, bytearray, memoryview, UserString)


def is_list(value: Any) -> bool:
    """Tell whether a value is a list by its meaning: any sequence but a text, such as the XComs of mapped tasks.

    An iterator is none. It can be read once only, and Airflow may render and a task may check its values again.
    """
    return isinstance(value, Sequence) and not isinstance(value, _TEXTS)


def as_list(value: Any, place: str = "files") -> Any:
    """Return a sequence as a list, and anything else as it is.

    A lazy sequence asks Airflow for each of its items: whoever needs it more than once keeps the list.

    :raises DifyInvalidInputError: It has no end, or one that is too far away.
    """
    if not is_list(value) or isinstance(value, list):
        return value
    items = list(itertools.islice(value, _MAX_ITEMS + 1))
    if len(items) > _MAX_ITEMS:
        raise DifyInvalidInputError(f"{place} has more than {_MAX_ITEMS:,} items: pass fewer.")
    return items


def plain(value: Any, place: str, *, paths: bool = False) -> Any:
    """Return a value as JSON has it: every mapping a dict, every sequence a list, a scalar of numpy a number.

    :param value: What a DAG author, a template or a function has given.
    :param place: Where it stands, for the message.
    :param paths: Whether path objects pass, which stand for files.
    :raises DifyInvalidInputError: JSON cannot carry it. The message names the place, the type and the remedy.
    """
    return _plain(value, (None, place), paths, 0, itertools.count())


# Where a value stands: the place of what holds it, and its key there. It is put into words for a message alone.
_Place = tuple[Any, Any]


def _shown(place: _Place) -> str:
    around, key = place
    return str(key) if around is None else within(_shown(around), key)


def _plain(value: Any, place: _Place, paths: bool, depth: int, counter: Iterator[int]) -> Any:
    if depth > _MAX_DEPTH:
        raise DifyInvalidInputError(f"{_shown(place)} is nested deeper than {_MAX_DEPTH} levels, or contains itself.")
    if next(counter) > _MAX_VALUES:
        raise DifyInvalidInputError(
            f"{_shown(place)} is the last of more than {_MAX_VALUES:,} values: pass so much as a file, or its address."
        )
    kind = type(value)
    # Most values are these.
    if value is None or kind is bool or (kind is str and value.isascii()):
        return value
    if kind is dict:
        return _plain_items(value, place, paths, depth, counter)
    if _is_numpy(value) and getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        item = value.item()
        if not _is_numpy(item):
            value = item
    if isinstance(value, int):
        return _number(value, place)
    if paths and is_path_object(value):
        return value
    text = plain_text(value)
    if text is not None:
        if not text.isascii():
            check_text(text, _shown(place))
        return value if kind is str else text
    if isinstance(value, float):
        if not math.isfinite(value):
            raise DifyInvalidInputError(
                f"{_shown(place)} is {preview(value)}, which JSON cannot carry: pass null or a string."
            )
        return value
    if isinstance(value, Mapping):
        return _plain_items(value, place, paths, depth, counter)
    if is_list(value):
        return [_plain(item, (place, index), paths, depth + 1, counter) for index, item in enumerate(value)]
    raise DifyInvalidInputError(f"{_shown(place)} is {shape_of(value)}, which JSON cannot carry: {_remedy(value)}.")


def _plain_items(
    value: Mapping[Any, Any], place: _Place, paths: bool, depth: int, counter: Iterator[int]
) -> dict[str, Any]:
    items = {}
    for key, item in value.items():
        name = key if type(key) is str and key.isascii() else _key(key, place)
        items[name] = _plain(item, (place, key), paths, depth + 1, counter)
    return items


def _number(value: int, place: _Place) -> int:
    number = plain_int(value)
    if number is not None and number.bit_length() > _WRITABLE_BITS:
        try:
            str(number)
        except ValueError:
            raise DifyInvalidInputError(
                f"{_shown(place)} is {preview(number)}, which JSON cannot carry: pass it as a string."
            ) from None
    return value


def _key(key: Any, place: _Place) -> str:
    text = plain_text(key)
    if text is None:
        raise DifyInvalidInputError(
            f"{_shown(place)} has a key that is {shape_of(key)}: keys must be strings. Convert it with str(), or a "
            'table of pandas with .to_dict(orient="records").'
        )
    check_text(text, _shown(place))
    return key if type(key) is str else text


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
