"""What XCom cannot carry is named with its place, and whatever passes survives Airflow's own way to the database."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dify.rules.xcom import MAX_FOUND, unfit_for_xcom

DEEP: Any = "x"
for _ in range(250):
    DEEP = [DEEP]

UNFIT = {
    "NaN": ({"x": float("nan")}, "outputs['x'] is NaN"),
    "Infinity": ({"rows": [{"a": 1}, {"a": float("inf")}]}, "outputs['rows'][1]['a'] is Infinity"),
    "-Infinity": ({"x": float("-inf")}, "outputs['x'] is -Infinity"),
    "U+0000": ({"x": "a\0b"}, "outputs['x'] is a text with the character U+0000"),
    "U+0000 in a key": ({"x": {"a\0": 1}}, "outputs['x'] has a key with the character U+0000"),
    "a lone surrogate": ({"x": ["\ud800"]}, "outputs['x'][0] is a text with half of a surrogate pair"),
    "a lone surrogate in a key": ({"\udc00": 1}, "outputs has a key with half of a surrogate pair"),
    "a class": ({"x": {"__classname__": "builtins.str", "__version__": 1}}, "outputs['x'] has the key '__classname__'"),
    "an id": ({"__id__": 1}, "outputs has the key '__id__'"),
    "an old class": ({"x": [{"__type": "dict", "__var": {}}]}, "outputs['x'][0] has the key '__type'"),
    "a huge number": ({"n": 2**64}, "outputs['n'] is a whole number of 65 bits"),
    "a huge negative number": ({"n": -(2**63) - 1}, "outputs['n'] is a whole number of 64 bits"),
    "depth": ({"x": DEEP}, "is nested deeper than 200 levels"),
}


@pytest.mark.parametrize(("outputs", "reported"), UNFIT.values(), ids=UNFIT)
def test_what_does_not_fit_is_named_with_its_place(outputs: Any, reported: str) -> None:
    (found,) = unfit_for_xcom(outputs)
    assert reported in str(found)


@pytest.mark.parametrize(
    "outputs",
    [
        {},
        {"n": 2**64 - 1, "m": -(2**63), "f": 1e308, "b": True, "z": None},
        {"text": "\U0001f600 \x01 \ufffe", "": {"__data__": 1, "__version__": 1, "__var": 2}},
    ],
)
def test_what_fits_passes(outputs: Any) -> None:
    assert unfit_for_xcom(outputs) == []


def test_a_list_of_a_million_faults_is_reported_shortly() -> None:
    assert len(unfit_for_xcom({"x": [float("nan")] * 1_000_000})) == MAX_FOUND


TEXTS = st.text(st.characters(codec=None), max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-(2**70), 2**70) | st.floats() | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(TEXTS | st.sampled_from(["__type", "__classname__", "__id__", "__data__"]), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(outputs=st.dictionaries(TEXTS, JSON, max_size=4))
def test_whatever_passes_survives_airflow(outputs: dict[str, Any]) -> None:
    if unfit_for_xcom(outputs):
        return
    assert through_airflow(outputs) == outputs


def through_airflow(value: Any) -> Any:
    """Return a value as the next task gets it: Airflow's serializer, its messages, and JSON as a database keeps it."""
    try:
        from airflow.sdk.serde import deserialize, serialize
    except ImportError:
        from airflow.serialization.serde import deserialize, serialize
    serialized = serialize(value)
    try:
        import msgspec
    except ImportError:
        sent = serialized
    else:
        sent = msgspec.msgpack.decode(msgspec.msgpack.encode(serialized))
    kept = json.dumps(sent, allow_nan=False, ensure_ascii=False).encode()
    assert b"\\u0000" not in kept
    return deserialize(json.loads(kept))
