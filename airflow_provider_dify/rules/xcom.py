"""What of a run's outputs Airflow's XCom cannot carry, found before a task counts as successful.

Airflow itself notices it only when the task has returned, with an error that names neither run nor place: its
serializer refuses some keys and instantiates classes for others, the connection between a task and its supervisor
carries whole numbers of 64 bits, the API server refuses numbers that JSON does not have, and PostgreSQL refuses U+0000.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

RESERVED_KEYS = frozenset({"__classname__", "__id__", "__type"})
"""Keys by which Airflow's serializer knows objects of classes: refused on the way in, or changed on the way out."""

MAX_DEPTH = 200
MAX_FOUND = 5
_LEAST, _MOST = -(2**63), 2**64 - 1
_KEY_CHARS = 60


@dataclass(frozen=True)
class Unfit:
    """A value that XCom cannot carry.

    :param place: Where it stands, for example ``outputs['rows'][3]['score']``.
    :param what: What stands there.
    """

    place: str
    what: str

    def __str__(self) -> str:
        """Return both in words."""
        return f"{self.place} {self.what}"


def unfit_for_xcom(outputs: Any) -> list[Unfit]:
    """Return what of a JSON value XCom cannot carry, the first few of it.

    :param outputs: The outputs of a run, as JSON gives them.
    """
    found: list[Unfit] = []
    todo: list[tuple[Any, Any]] = [(outputs, None)]
    # A stack, since what is nested deepest may be what is to be found. Each item knows the way back to the top.
    while todo and len(found) < MAX_FOUND:
        value, way = todo.pop()
        what = _what_is_wrong(value, 0 if way is None else way[2])
        if what is not None:
            found.append(Unfit(_place(way), what))
            continue
        todo.extend(reversed(list(_within(value, way))))
    return found


def _within(value: Any, way: Any) -> Iterator[tuple[Any, Any]]:
    depth = 1 if way is None else way[2] + 1
    if isinstance(value, dict):
        yield from ((item, (way, key, depth)) for key, item in value.items())
    elif isinstance(value, list):
        yield from ((item, (way, index, depth)) for index, item in enumerate(value))


def _what_is_wrong(value: Any, depth: int) -> str | None:
    if isinstance(value, str):
        return _text_problem(value, "is a text with")
    if isinstance(value, float):
        return None if math.isfinite(value) else f"is {_NUMBERS.get(repr(value), 'no number')}"
    if isinstance(value, int):
        fits = _LEAST <= value <= _MOST
        return None if fits else f"is a whole number of {value.bit_length()} bits, and 64 are possible"
    if isinstance(value, (dict, list)) and depth >= MAX_DEPTH:
        return f"is nested deeper than {MAX_DEPTH} levels"
    if isinstance(value, dict):
        for key in value:
            if key in RESERVED_KEYS:
                return f"has the key {key!r}, which Airflow keeps for itself"
            problem = _text_problem(key, "has a key with")
            if problem is not None:
                return problem
    return None


_NUMBERS = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def _text_problem(text: str, begin: str) -> str | None:
    if "\0" in text:
        return f"{begin} the character U+0000"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return f"{begin} half of a surrogate pair, which is no valid Unicode"
    return None


def _place(way: Any) -> str:
    parts: list[str] = []
    while way is not None:
        way, key, _ = way
        shown = key if isinstance(key, int) or len(key) <= _KEY_CHARS else key[: _KEY_CHARS - 1] + "…"
        parts.append(f"[{shown!r}]")
    parts.reverse()
    if len(parts) > 12:
        parts = [*parts[:6], "[…]", *parts[-5:]]
    return "outputs" + "".join(parts)
