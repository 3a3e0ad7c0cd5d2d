"""Values that no parameter is made for, and what must come of them."""

from __future__ import annotations

import inspect
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

from hypothesis import strategies as st

from airflow_provider_dify.exceptions import DifyError

MAX_MESSAGE_CHARS = 2_000


class Sent(BaseException):
    """A request has reached the network, which is as far as a value that is accepted gets."""


def _raise(*_: object, **__: object) -> Any:
    raise ZeroDivisionError("\x1b[31m" + "x" * 5000)


_METHODS = (
    *("__str__", "__repr__", "__eq__", "__bool__", "__len__", "__iter__", "__hash__", "__contains__", "__getitem__"),
    *("__lt__", "__gt__", "__le__", "__ge__", "__fspath__", "__format__", "__int__", "__float__", "__index__"),
    *("strip", "encode", "isprintable", "startswith", "lower", "read", "seek", "tell", "keys", "items", "get"),
    *("total_seconds", "utcoffset", "isoformat", "split", "partition", "__call__"),
)


def _hostile(base: type, *leave: str) -> type:
    """Return a class whose methods raise, but those that its objects cannot be made without."""
    methods = {name: _raise for name in _METHODS if name not in leave and (base is object or hasattr(base, name))}
    return type("H\nostile" + "e" * 200, (base,), methods)


class Lying:
    """Neither its class nor its attributes can be asked for."""

    @property
    def __class__(self) -> Any:
        return _raise()

    def __getattr__(self, name: str) -> Any:
        return _raise()


class HostileMapping(Mapping[str, Any]):
    __getitem__ = __iter__ = __len__ = _raise


class HostileSequence(Sequence[Any]):
    __getitem__ = __len__ = _raise


class NoZone(tzinfo):
    utcoffset = dst = tzname = _raise


class Undecided(tzinfo):
    def utcoffset(self, moment: datetime | None) -> None:
        return None

    dst = tzname = utcoffset


class NotAPath(PurePosixPath):
    __fspath__ = __str__ = _raise


def _itself() -> Iterator[Any]:
    items: list[Any] = []
    items.append(items)
    mapping: dict[str, Any] = {}
    mapping["me" * 100] = mapping
    yield items
    yield mapping
    yield {"files": items, "path": mapping}


def _doubled(depth: int) -> list[Any]:
    """Return a list that is small in memory, and without end when it is written down."""
    value: list[Any] = ["x"]
    for _ in range(depth):
        value = [value, value]
    return value


TEXTS = [
    *(
        "",
        " ",
        "\x00",
        "a\r\nX-Injected: 1",
        "a\x00b",
        "a\nb\tc",
        "\x1b[31mred",
        "\ud800",
        "a\udc80.txt",
        "\u202egnp.exe",
    ),
    *(
        "x" * 300,
        "x" * 100_000,
        "\ud800" * 3000,
        "é" * 300,
        "..",
        "../..",
        "/",
        "~",
        "~\ud800/x",
        "~nobody-here/x",
        "%00",
        "%",
    ),
    *(
        "http://h|x",
        "http://[::1",
        "http://[v1.x]/",
        "http://h:99999",
        "http://h:x",
        "//",
        "file:///\x00",
        "s3://\ud800/x",
    ),
    *(
        "nowhere://x/y",
        "http://user:secret-pass@h/x",
        "http://" + "a" * 64 + ".b",
        "http://\u2100.example",
        "javascript:x",
    ),
    *(
        "{",
        "[" * 100_000,
        '{"a": ' * 3000,
        "[1, 2",
        "{{ nothing }}",
        "9" * 5000,
        "1e999",
        "nan",
        "None",
        "null",
        "true",
        "0",
    ),
    *(
        "9999-12-31T23:59:59Z",
        "2026-01-31",
        "0001-01-01T00:00:00+23:59",
        "2026-01-31T00:00:00",
        "app-\u00e9",
        "Bearer app-x",
    ),
]
NUMBERS: list[Any] = [
    *(0, -1, 1, True, False, 2**31, 2**63, 10**10, 10**400, -(10**400), 10**5000, 0.0, -0.0, -1.5, 1e-300, 5e-324),
    *(1e300, -1e300, math.inf, -math.inf, math.nan, 1 + 2j, Decimal("NaN"), Decimal("1e999")),
]
TIMES: list[Any] = [
    *(timedelta.max, timedelta.min, timedelta(0), timedelta(microseconds=1), timedelta(days=40_000)),
    *(datetime.max, datetime.min, datetime(2026, 1, 31), datetime.max.replace(tzinfo=timezone.utc), date.max),
    *(datetime.min.replace(tzinfo=timezone(timedelta(hours=23))), datetime(2026, 1, 31, tzinfo=NoZone())),
    datetime(2026, 1, 31, tzinfo=Undecided()),
]


def _objects() -> list[Any]:
    """Return objects of which some can be read only once."""
    return [
        *(b"", b"x", bytearray(b"x"), memoryview(b"x"), object(), type, len, lambda: None, NotImplemented, ...),
        *(
            (each for each in "ab"),
            iter([1]),
            range(10**12),
            [],
            [None],
            {},
            {"a": 1},
            {1: 2},
            {"a\n" * 500: 1},
            set(),
            {1, "a"},
        ),
        *(
            _hostile(object)(),
            _hostile(str)("succeeded"),
            _hostile(str)("x" * 300),
            _hostile(int)(3),
            _hostile(float)(3.5),
        ),
        *(
            _hostile(list)([1]),
            _hostile(dict)(a=1),
            _hostile(tuple)((1,)),
            _hostile(timedelta)(seconds=3),
            _hostile(bytes)(b"x"),
        ),
        *(_hostile(datetime)(2026, 1, 31, tzinfo=timezone.utc), _hostile(Exception)("x"), Lying(), HostileMapping()),
        *(HostileSequence(), NotAPath("x"), io.StringIO("x"), io.BytesIO(b"x"), *_itself(), _doubled(60), [Lying()]),
        *(
            {"path": "\ud800"},
            {"url": "http://h|x"},
            {"path": "/x", "mime_type": "a\r\nX: 1"},
            {"a": 10**5000},
            {"a": math.nan},
        ),
        *(
            [{"path": "/x", "name": "\ud800"}],
            ["\ud800"],
            ["http://h\x00"],
            {"type": Lying()},
            {"X\r\nY": "1"},
            {"X": "1\r\n2"},
        ),
        *(
            {"x" * 5000: "y" * 5000},
            {"\ud800": 1},
            {f"key{n}": n for n in range(3000)},
            ["/data\x00"],
            ["*"],
            ["x" * 5000],
        ),
    ]


def hostile() -> st.SearchStrategy[Any]:
    """Return a strategy of values as nobody should pass them, fresh ones each time."""
    return st.one_of(
        hostile_texts(),
        # By their places, since Hypothesis asks values for their hashes.
        st.integers(0, len(every_value()) - 1).map(lambda index: every_value()[index]),
        st.integers() | st.integers(10**300, 10**500),
        st.floats(),
        st.binary(max_size=5),
        st.datetimes() | st.timedeltas(),
    )


def hostile_texts() -> st.SearchStrategy[str]:
    """Return a strategy of texts as nobody should pass them."""
    return st.one_of(
        st.sampled_from(TEXTS),
        st.text(max_size=30),
        st.text(alphabet=st.characters(categories=["Cc", "Cs", "Cf", "Zs", "Zl"]), min_size=1, max_size=5),
    )


def every_value() -> list[Any]:
    """Return each of the values that have a name, once."""
    return [*TEXTS, *NUMBERS, *TIMES, *_objects(), None]


def own_parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters that a function of this provider declares, without ``self`` and ``**kwargs``."""
    found = inspect.signature(inspect.unwrap(function)).parameters
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {name: each for name, each in found.items() if name != "self" and each.kind not in kinds}


def check_refusal(error: DifyError, name: str, reported: str | None = None) -> None:
    """Let an error pass that names what is wrong, in a form that any log can take."""
    message = error.message
    assert str(error).replace("\n", " ") == message
    assert len(str(error).splitlines()) <= 2
    assert (reported or name) in message, message[:500]
    assert len(message) <= MAX_MESSAGE_CHARS
    assert message.isprintable(), ascii(message)
