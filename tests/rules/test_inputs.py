"""What a DAG author passes in: accepted, or refused with a message that helps."""

from __future__ import annotations

import json
import math
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dify.api.service_api import ServiceApi
from airflow_provider_dify.exceptions import DifyInvalidInputError
from airflow_provider_dify.rules.inputs import check_files, check_inputs, check_query, check_user

UPLOAD = "6b454183-889f-4bc9-8060-764be1cb16ea"
endless: list[Any] = []
endless.append(endless)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, {}),
        ({}, {}),
        ({"text": "hi", "n": 1, "f": 1.5, "b": True, "l": [None, {"a": []}]}, None),
        ('{"text": "hi"}', {"text": "hi"}),
        (' {"a": [1]}\n', {"a": [1]}),
        ("null", {}),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (OrderedDict(a=1), {"a": 1}),
    ],
)
def test_inputs_that_are_accepted(value: Any, expected: Any) -> None:
    assert check_inputs(value) == (value if expected is None else expected)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (["a"], "inputs must be a mapping, got list of length 1."),
        (7, "inputs must be a mapping, got int."),
        ("[1]", "inputs must be a mapping, got list of length 1."),
        ("7", "inputs must be a mapping, got int."),
        (
            "{'text': 'hi'}",
            "inputs is a string of 14 characters that is not a JSON object. A template that renders a Python value "
            "renders its repr, which is not valid JSON. Render it with `| tojson`, or set "
            "render_template_as_native_obj=True on the DAG.",
        ),
        ("", "inputs is a string of 0 characters that is not a JSON object."),
        ("[" * 100_000, "inputs is a string of 100000 characters that is not a JSON object."),
        ({1: "a"}, "inputs has a key that is int: keys must be strings."),
        ({"a": {None: 1}}, "inputs['a'] has a key that is null: keys must be strings."),
        (
            {"when": datetime(2026, 1, 1)},
            "inputs['when'] is datetime.datetime, which JSON cannot carry: convert it",
        ),
        ({"a": [0, {"b": Decimal(1)}]}, "inputs['a'][1]['b'] is decimal.Decimal, which JSON cannot carry"),
        ({"a": b"x"}, "inputs['a'] is bytes of length 1, which JSON cannot carry"),
        ({"a": {1, 2}}, "inputs['a'] is set of length 2, which JSON cannot carry"),
        ({"a": math.nan}, "inputs['a'] is nan, which JSON cannot carry: pass null or a string."),
        ({"a": [math.inf]}, "inputs['a'][0] is inf, which JSON cannot carry"),
        ('{"a": NaN}', "inputs['a'] is nan, which JSON cannot carry"),
        ({"a": endless}, "is nested deeper than 100 levels, or contains itself."),
        ({"a": "\ud800"}, "inputs['a'] has a lone surrogate, which is no valid Unicode text."),
        ({"\ud800": 1}, "inputs has a lone surrogate"),
    ],
)
def test_inputs_that_are_refused(value: Any, text: str) -> None:
    with pytest.raises(DifyInvalidInputError) as caught:
        check_inputs(value)
    assert text in caught.value.message
    assert len(str(caught.value)) < 5_000


def test_the_value_of_a_refused_input_is_not_shown() -> None:
    for value in ({"password": b"hunter2"}, "hunter2", ["hunter2"]):
        with pytest.raises(DifyInvalidInputError) as caught:
            check_inputs(value)
        assert "hunter2" not in str(caught.value)


any_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.just(object()),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3) | st.tuples(inner)
    ),
    max_leaves=8,
)


@given(any_value)
def test_any_value_is_refused_or_can_be_sent(value: Any) -> None:
    try:
        inputs = check_inputs(value)
    except DifyInvalidInputError:
        return
    body = ServiceApi().run(inputs=inputs, user="u", response_mode="blocking").call.body
    assert body is not None
    assert set(json.loads(body)["inputs"]) == set(inputs)


REMOTE = {"type": "image", "transfer_method": "remote_url", "url": "https://example.com/a"}
LOCAL = {"type": "document", "transfer_method": "local_file", "upload_file_id": UPLOAD}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ([], None),
        ("", None),
        ("[]", None),
        ("null", None),
        ([REMOTE, LOCAL], [REMOTE, LOCAL]),
        ((REMOTE,), [REMOTE]),
        (json.dumps([REMOTE]), [REMOTE]),
        ([UPLOAD], [LOCAL]),
        ([UPLOAD.upper()], [LOCAL]),
        ([{**LOCAL, "upload_file_id": UPLOAD.upper()}], [LOCAL]),
        (["https://example.com/a.PNG?x=1"], [{**REMOTE, "url": "https://example.com/a.PNG?x=1"}]),
        (["http://example.com/a.mp3"], [{**REMOTE, "type": "audio", "url": "http://example.com/a.mp3"}]),
        (["http://example.com/a.mp4"], [{**REMOTE, "type": "video", "url": "http://example.com/a.mp4"}]),
        (["http://example.com/a.pdf"], [{**REMOTE, "type": "document", "url": "http://example.com/a.pdf"}]),
        (["http://example.com/a"], [{**REMOTE, "type": "document", "url": "http://example.com/a"}]),
    ],
)
def test_files_that_are_accepted(value: Any, expected: Any) -> None:
    assert check_files(value) == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": 1}, "files must be a list, got one mapping. Put it into a list: files=[…]."),
        ("/data/a.pdf", "files must be a list, got one path. Put it into a list"),
        ("s3://bucket/a.pdf", "files must be a list, got one URI. Put it into a list"),
        (UPLOAD, "files must be a list, got one upload id. Put it into a list"),
        (Path("/data/a.pdf"), "files must be a list, got one path. Put it into a list"),
        (7, "files must be a list of files, got int."),
        (b"x", "files must be a list of files, got bytes of length 1."),
        ('{"a": 1}', "files must be a list, got one mapping. Put it into a list"),
        ("https://example.com/a.pdf", "files must be a list, got one URL. Put it into a list: files=[…]."),
        ("['a']", "files is a string of 5 characters that is not a JSON list."),
        ([7], "files[0] must be a URL, an upload id or a mapping, got int."),
        (
            ["ftp://example.com/a"],
            "files[0] is a string of 19 characters that is neither an http(s) URL nor an upload id",
        ),
        ([REMOTE, "/tmp/a.pdf"], "files[1] is a string of 10 characters that is neither"),
        (["http://[broken"], "files[0] is a string of 14 characters that is neither"),
        ([{}], "files[0]['type'] must be one of document, image, audio, video, custom, got null."),
        ([{**REMOTE, "type": "pdf"}], "files[0]['type'] must be one of"),
        (
            [{**REMOTE, "transfer_method": "upload"}],
            "files[0]['transfer_method'] must be one of remote_url, local_file",
        ),
        ([{**REMOTE, "url": "a.pdf"}], "files[0]['url'] must be an http or https URL, got str of length 5."),
        ([{**REMOTE, "url": None}], "files[0]['url'] must be an http or https URL, got null."),
        (
            [{**LOCAL, "upload_file_id": "x"}],
            "files[0]['upload_file_id'] must be the id (UUID) that an upload returned",
        ),
        ([{**LOCAL, "upload_file_id": 7}], "files[0]['upload_file_id'] must be the id (UUID)"),
        ([{**REMOTE, "extra": b"x"}], "files[0]['extra'] is bytes of length 1, which JSON cannot carry"),
        ([{**REMOTE, 7: 1}], "files[0] has a key that is int"),
    ],
)
def test_files_that_are_refused(value: Any, text: str) -> None:
    with pytest.raises(DifyInvalidInputError) as caught:
        check_files(value)
    assert text in caught.value.message


def test_upload_ids_of_the_gateway_contract_are_opaque() -> None:
    file = {**LOCAL, "upload_file_id": "file-1"}
    assert check_files([file], opaque_ids=True) == [file]
    with pytest.raises(DifyInvalidInputError, match="upload_file_id'] must be a non-empty string, got null"):
        check_files([{**LOCAL, "upload_file_id": None}], opaque_ids=True)


@given(any_value)
def test_any_value_is_refused_as_files_or_can_be_sent(value: Any) -> None:
    for candidate in (
        value,
        [value],
        [{**REMOTE, "x": value}],
        [{**LOCAL, "upload_file_id": value}],
        [{**REMOTE, "type": value}],
    ):
        try:
            files = check_files(candidate)
        except DifyInvalidInputError:
            continue
        assert ServiceApi().run(inputs={}, user="u", response_mode="blocking", files=files).call.body


@pytest.mark.parametrize("value", ["u", "x" * 255, "ż" * 255, "airflow/dag/task"])
def test_users_that_are_accepted(value: str) -> None:
    assert check_user(value) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "user must be a non-empty string, got null."),
        ("", "user must be a non-empty string, got str of length 0."),
        (" \n", "user must be a non-empty string, got str of length 2."),
        ([7], "user must be a non-empty string, got list of length 1."),
        ("x" * 256, "user must have at most 255 characters and has 256: shorten it."),
        ("\ud800", "user has a lone surrogate, which is no valid Unicode text."),
    ],
)
def test_users_that_are_refused(value: Any, text: str) -> None:
    with pytest.raises(DifyInvalidInputError) as caught:
        check_user(value)
    assert str(caught.value) == text


def test_a_query_is_a_text() -> None:
    assert check_query(None) is None
    assert check_query("") == ""
    with pytest.raises(DifyInvalidInputError, match="query must be a string, got list of length 1"):
        check_query(["a"])


class Lazy(Sequence[Any]):
    """A sequence that counts how often it is asked, as Airflow's lazy XComs ask its API."""

    def __init__(self, *items: Any) -> None:
        self.items, self.asked = items, 0

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        self.asked += 1
        return self.items[index]


def test_a_lazy_sequence_is_a_list_wherever_it_stands() -> None:
    lazy = Lazy("a", Lazy(1))
    inputs = check_inputs({"j": {"parts": lazy}, "deque": deque([1]), "range": range(2)})
    assert inputs == {"j": {"parts": ["a", [1]]}, "deque": [1], "range": [0, 1]}
    assert check_inputs(inputs) == inputs
    asked = lazy.asked
    check_inputs(inputs)
    assert lazy.asked == asked
    assert check_files(Lazy(REMOTE)) == [REMOTE]


@dataclass
class Row:
    a: int


class Colour(Enum):
    RED = 1


def scalar(module: str, name: str, item: Any, **attributes: Any) -> Any:
    """Return what looks like a scalar of a library that need not be installed."""
    return type(name, (), {"__module__": module, "item": lambda _: item, **attributes})()


def test_a_scalar_of_numpy_is_the_number() -> None:
    values = {"b": scalar("numpy", "bool_", True, ndim=0), "i": scalar("numpy", "int64", 7, ndim=0)}
    assert check_inputs(values) == {"b": True, "i": 7}
    with pytest.raises(DifyInvalidInputError, match="is nan, which JSON cannot carry"):
        check_inputs({"f": scalar("numpy", "float64", math.nan, ndim=0)})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (
            scalar("numpy", "ndarray", None, ndim=1),
            "is numpy.ndarray, which JSON cannot carry: convert it with .tolist()",
        ),
        (scalar("pandas", "DataFrame", None, to_dict=None), 'convert it with .to_dict(orient="records")'),
        (scalar("pandas", "NaTType", None), "pass None where a value is missing"),
        ({1: "a"}, 'Convert it with str(), or a table of pandas with .to_dict(orient="records")'),
        (timedelta(1), "is datetime.timedelta, which JSON cannot carry: convert it with .total_seconds()"),
        (UUID(UPLOAD), "is uuid.UUID, which JSON cannot carry: convert it with str()"),
        ({1}, "is set of length 1, which JSON cannot carry: convert it with sorted() or list()"),
        (b"x", 'decode a text with .decode("utf-8"), or upload a file'),
        (Row(1), "convert it with dataclasses.asdict()"),
        (Row, "pass a value and not a type"),
        (Colour.RED, "pass its .value"),
        (scalar("m", "Model", None, model_dump=None), 'convert it with .model_dump(mode="json")'),
        ((each for each in "x"), "an iterator can be read only once, so convert it with list()"),
        (len, "call it, and pass what it returns"),
        (object(), "convert it to a string, number, list or dict first"),
    ],
)
def test_what_json_cannot_carry_is_named_with_its_remedy(value: Any, text: str) -> None:
    with pytest.raises(DifyInvalidInputError) as caught:
        check_inputs({"a": value})
    assert text in str(caught.value)


@pytest.mark.parametrize(("value", "text"), [(12345, "12345"), (1.5, "1.5"), (True, "True")])
def test_a_user_or_query_that_a_native_template_has_read_is_its_text(value: Any, text: str) -> None:
    assert check_user(value) == text
    assert check_query(value) == text
