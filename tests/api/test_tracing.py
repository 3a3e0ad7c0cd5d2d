"""Trace ids and W3C trace contexts."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dify.api.service_api import ServiceApi
from airflow_provider_dify.api.tracing import (
    Trace,
    check_trace_id,
    check_traceparent,
    read_traceparent,
    traceparent_in,
    traceparent_of,
)
from airflow_provider_dify.api.workflow_runs_api import WorkflowRunsApi
from airflow_provider_dify.exceptions import DifyInvalidInputError

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"
W3C = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")

READ: list[tuple[Any, str | None]] = [
    (PARENT, PARENT),
    (f" {PARENT}\n", PARENT),
    (f"cc-{TRACE_ID}-b7ad6b7169203331-01-what-the-future-will-be", PARENT),
    (f"01-{TRACE_ID}-b7ad6b7169203331-01", PARENT),
    (f"{PARENT}-more", None),
    (f"cc-{TRACE_ID}-b7ad6b7169203331-01.more", None),
    (f"ff-{TRACE_ID}-b7ad6b7169203331-01", None),
    (PARENT.upper(), None),
    (f"00-{'0' * 32}-b7ad6b7169203331-01", None),
    (f"00-{TRACE_ID}-{'0' * 16}-01", None),
    (PARENT[:-1], None),
    ("", None),
    (None, None),
    (7, None),
    (PARENT.encode(), None),
]


@pytest.mark.parametrize(("value", "read"), READ)
def test_a_traceparent_is_read(value: Any, read: str | None) -> None:
    assert read_traceparent(value) == read
    assert traceparent_in({"traceparent": value}) == read
    if read is None and value is not None:
        with pytest.raises(DifyInvalidInputError, match="traceparent must be a W3C trace context"):
            check_traceparent(value)
    else:
        assert check_traceparent(value) == read


@pytest.mark.parametrize("carrier", [None, {}, "x", ["traceparent"], {"tracestate": "a=b"}])
def test_a_carrier_without_a_trace(carrier: Any) -> None:
    assert traceparent_in(carrier) is None


@given(st.text() | st.binary() | st.none() | st.integers())
def test_what_is_read_is_always_right(value: Any) -> None:
    read = read_traceparent(value)
    assert read is None or W3C.fullmatch(read)


@given(st.integers(), st.integers(), st.integers(min_value=0))
def test_a_span_gives_a_right_one_or_none(trace_id: int, span_id: int, flags: int) -> None:
    made = traceparent_of(trace_id, span_id, flags)
    assert made == read_traceparent(made)
    if 0 < trace_id < 1 << 128 and 0 < span_id < 1 << 64:
        assert made is not None
        _, sent_trace, sent_span, sent_flags = made.split("-")
        assert (int(sent_trace, 16), int(sent_span, 16)) == (trace_id, span_id)
        assert int(sent_flags, 16) == flags % 256
    else:
        assert made is None


@pytest.mark.parametrize("value", [None, "a", "A-z_9", "x" * 128, TRACE_ID])
def test_a_trace_id_that_dify_takes(value: Any) -> None:
    assert check_trace_id(value) == value


@pytest.mark.parametrize("value", ["", "x" * 129, "a b", "a.b", "ä", "a\n", "{{ run_id }}", 7, b"a", ["a"]])
def test_a_trace_id_that_dify_would_drop(value: Any) -> None:
    with pytest.raises(DifyInvalidInputError, match="trace_id must have 1 to 128 letters"):
        check_trace_id(value)


KEYS: list[tuple[Trace, str | None, dict[str, str]]] = [
    (Trace(), None, {}),
    (Trace("mine"), "mine", {}),
    (Trace(None, PARENT), TRACE_ID, {"traceparent": PARENT}),
    (Trace("mine", PARENT), "mine", {"traceparent": PARENT}),
]


@pytest.mark.parametrize(("trace", "key", "headers"), KEYS)
def test_what_a_submission_tells(trace: Trace, key: str | None, headers: dict[str, str]) -> None:
    submission: dict[str, Any] = {"inputs": {}, "user": "me", "response_mode": "blocking", "trace": trace}
    call = ServiceApi().run(**submission).call
    assert call.headers == headers
    assert call.json == {"inputs": {}, "user": "me", "response_mode": "blocking"} | ({"trace_id": key} if key else {})
    call = WorkflowRunsApi().run(**submission, files=None, workflow_id="w").call
    assert call.headers == headers
    assert call.json is not None
    assert "trace_id" not in call.json
