"""What a TaskFlow function may return."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dify.exceptions import DifyInvalidInputError
from airflow_provider_dify.rules.taskflow_inputs import inputs_and_files, without_path_objects

names = st.text(max_size=5)
inputs = st.dictionaries(names, st.integers() | st.text(max_size=5), max_size=3)
files = st.lists(st.text(max_size=5), max_size=3)


@given(inputs, files)
def test_what_is_returned_is_passed_on(given_inputs: dict[str, Any], given_files: list[str]) -> None:
    assert inputs_and_files(given_inputs, "f") == (given_inputs, None)
    assert inputs_and_files((given_inputs, given_files), "f") == (given_inputs, given_files)
    assert inputs_and_files((given_inputs, tuple(given_files)), "f") == (given_inputs, given_files)
    assert inputs_and_files((given_inputs, None), "f") == (given_inputs, None)
    assert inputs_and_files((None, given_files), "f") == ({}, given_files)


def test_nothing_is_no_inputs() -> None:
    assert inputs_and_files(None, "f") == ({}, None)
    assert inputs_and_files((None, None), "f") == ({}, None)


WRONG: list[tuple[Any, str]] = [
    ("text", "str of length 4"),
    ('{"text": "x"}', "str of length 13"),
    (["x"], "list of length 1"),
    (7, "int"),
    (False, "bool"),
    ((), "tuple of length 0"),
    (({},), "tuple of length 1"),
    (({}, [], []), "tuple of length 3"),
    (({}, "https://example.com/a.pdf"), "a tuple of dict of length 0 and str of length 25"),
    (({}, {"type": "document"}), "a tuple of dict of length 0 and dict of length 1"),
    ((["x"], []), "a tuple of list of length 1 and list of length 0"),
    ((each for each in "x"), "generator"),
]


@pytest.mark.parametrize(("returned", "shape"), WRONG, ids=[shape for _, shape in WRONG])
def test_anything_else_is_refused_by_its_shape(returned: Any, shape: str) -> None:
    with pytest.raises(DifyInvalidInputError) as caught:
        inputs_and_files(returned, "summarize")
    assert "The function 'summarize' must return the workflow's inputs" in str(caught.value)
    assert str(caught.value).endswith(f"and returned {shape}.")


@given(
    st.recursive(inputs | files | st.none(), lambda each: st.lists(each) | st.dictionaries(names, each), max_leaves=5)
)
def test_what_json_can_carry_is_kept_as_it_is(value: Any) -> None:
    assert without_path_objects(value) == value == json.loads(json.dumps(value))


def test_path_objects_are_kept_as_what_means_the_same() -> None:
    path = Path("/a/b.txt")
    kept = without_path_objects([{"doc": path, "docs": (path, "x")}, [path, {"path": path, "type": "document"}], None])
    named = {"path": "/a/b.txt"}
    assert kept == [{"doc": named, "docs": [named, "x"]}, [named, {**named, "type": "document"}], None]
