"""Server-Sent Events, cut and framed in every way a network and a server may choose."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dify.api.events import Event, EventDecoder, parse_event, task_id_in
from airflow_provider_dify.api.values import id_or_none
from airflow_provider_dify.exceptions import DifyInvalidInputError, DifyResponseError, DifyServerError

RUN = "53cb9102-12a3-433d-bebe-e9aacf2e6703"
LINE_ENDS = ["\n", "\r\n", "\r"]


def decode(stream: bytes, cuts: list[int] | None = None, limit: int = 1 << 20) -> list[Event]:
    decoder = EventDecoder(limit)
    places = [0, *sorted(cut % (len(stream) + 1) for cut in cuts or []), len(stream)]
    found = [event for start, end in pairwise(places) for event in decoder.feed(stream[start:end])]
    return [*found, *decoder.close()]


texts = st.text(st.characters(codec="utf-8"), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
payloads = st.fixed_dictionaries(
    {
        "event": st.sampled_from(["workflow_started", "text_chunk", "node_finished", "日本語"]),
        "data": st.dictionaries(texts, json_values, max_size=3),
    },
    optional={"workflow_run_id": st.sampled_from([RUN, "", None, 7]), "task_id": texts},
)
# Each block: its lines without line ends, and the payload that is to come out; "ping" for a ping, None for nothing.
blocks = st.one_of(
    st.builds(
        lambda payload, ascii_only, space: (
            [f"data:{' ' if space else ''}{json.dumps(payload, ensure_ascii=ascii_only)}"],
            payload,
        ),
        payloads,
        st.booleans(),
        st.booleans(),
    ),
    st.builds(
        lambda payload: ([f"data: {line}" for line in json.dumps(payload, indent=1).split("\n")], payload), payloads
    ),
    st.builds(
        lambda payload: (["id: 7", "retry: 10", "unknown", f"data: {json.dumps(payload)}", ": comment"], payload),
        payloads,
    ),
    st.just((["event: ping"], "ping")),
    st.just((["event:ping"], "ping")),
    st.builds(
        lambda text: ([f": {line}" for line in text.splitlines()] or [":"], None),
        texts.filter(lambda text: "\r" not in text),
    ),
    st.just(([], None)),
)


@given(
    st.lists(blocks, max_size=6), st.sampled_from(LINE_ENDS), st.booleans(), st.lists(st.integers(0, 5000), max_size=12)
)
def test_a_stream_cut_anywhere_gives_the_same_events(
    parts: list[tuple[list[str], Any]], end: str, bom: bool, cuts: list[int]
) -> None:
    text = "".join("".join(line + end for line in lines) + end for lines, _ in parts)
    stream = (b"\xef\xbb\xbf" if bom else b"") + text.encode()

    events = decode(stream, cuts)

    assert events == decode(stream)
    expected = [reported for _, reported in parts if reported is not None]
    assert [event.event for event in events] == [
        reported if reported == "ping" else reported["event"] for reported in expected
    ]
    for event, reported in zip(events, expected, strict=True):
        if reported == "ping":
            assert event == Event("ping", {})
        else:
            run_id = reported.get("workflow_run_id")
            assert event.data == reported["data"]
            assert event.workflow_run_id == (RUN if run_id == RUN else None)
            assert event.task_id == id_or_none(reported.get("task_id"))


@pytest.mark.parametrize("end", LINE_ENDS)
def test_every_byte_in_a_chunk_of_its_own(end: str) -> None:
    payload = json.dumps({"event": "text_chunk", "data": {"text": "żółć 🦜\u2028\u0085 日本"}}, ensure_ascii=False)
    stream = f"event: ping{end}{end}data: {payload}{end}{end}".encode()

    events = decode(stream, list(range(len(stream))))

    assert [event.event for event in events] == ["ping", "text_chunk"]
    assert events[1].data["text"] == "żółć 🦜\u2028\u0085 日本"


def test_line_ends_may_change_within_a_stream() -> None:
    stream = b'data: {"event": "a"}\r\n\r\ndata: {"event": "b"}\n\ndata: {"event": "c"}\r\r'
    assert [event.event for event in decode(stream)] == ["a", "b", "c"]


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5))
def test_any_bytes_give_events_or_one_kind_of_error(stream: bytes, cuts: list[int]) -> None:
    def outcome(cuts: list[int]) -> Any:
        try:
            return decode(stream, cuts)
        except DifyResponseError as error:
            return str(error)

    assert outcome(cuts) == outcome([])


@given(json_values)
def test_any_json_in_a_data_line_gives_an_event_or_an_own_error(value: Any) -> None:
    try:
        event = parse_event(json.dumps(value))
    except DifyResponseError:
        assert not isinstance(value, dict) or not value.get("event") or not isinstance(value.get("event"), str)
    else:
        assert event.event == value["event"]
        assert isinstance(event.data, dict)


@pytest.mark.parametrize(
    "line",
    [
        b"data: {",
        b"data: 7",
        b"data: null",
        b'data: "text"',
        b"data: []",
        b"data: {}",
        b'data: {"event": 7}',
        b'data: {"event": ""}',
        b'data: {"event": "\xff"}',
        b"data: " + b"[" * 100_000,
    ],
)
def test_data_that_is_no_event_is_a_response_error(line: bytes) -> None:
    with pytest.raises(DifyResponseError, match="event of the stream"):
        decode(line + b"\n\n")


def test_the_name_in_front_of_data_counts_where_the_data_has_none() -> None:
    assert decode(b'event: ping\ndata: {"a": 1}\n\n')[0].event == "ping"
    assert decode(b'event: ping\ndata: {"event": "text_chunk"}\n\n')[0].event == "text_chunk"


@pytest.mark.parametrize("size", [1, 100, 4096])
def test_an_endless_line_is_given_up_at_its_limit(size: int) -> None:
    decoder = EventDecoder(max_event_bytes=10_000)
    for _ in range(10_000 // size):
        assert list(decoder.feed(b"x" * size)) == []
    with pytest.raises(DifyResponseError, match=r"larger than 10,000 bytes.*GET run"):
        list(decoder.feed(b"x" * size))


def test_an_event_of_endless_data_lines_is_given_up_at_its_limit() -> None:
    decoder = EventDecoder(max_event_bytes=10_000)
    for _ in range(900):
        assert list(decoder.feed(b"data: xxxx\n")) == []
    with pytest.raises(DifyResponseError, match="larger than"):
        list(decoder.feed(b"data: xxxx\n" * 1_500))


def test_the_limit_holds_for_one_event_and_not_for_the_stream() -> None:
    event = b'data: {"event": "text_chunk", "data": {"text": "' + b"x" * 8_000 + b'"}}\n\n'
    assert len(decode(event * 50 + b": comment\n" * 5_000, limit=10_000)) == 50


def test_a_large_event_within_the_limit_passes() -> None:
    text = "ö" * 4_000_000
    stream = ('data: {"event": "workflow_finished", "data": {"outputs": {"text": "' + text + '"}}}\n\n').encode()
    decoder = EventDecoder()
    events = [event for at in range(0, len(stream), 65_536) for event in decoder.feed(stream[at : at + 65_536])]
    assert events[0].data["outputs"]["text"] == text


def test_an_event_without_its_closing_line_counts_at_the_end_of_the_stream() -> None:
    assert [event.event for event in decode(b'data: {"event": "a"}\n')] == ["a"]


@pytest.mark.parametrize("rest", [b'data: {"event": "a"', b'data: {"event": "a"}', b'data: {"event"\n', b"event: pi"])
def test_a_torn_event_at_the_end_of_the_stream_is_dropped(rest: bytes) -> None:
    assert [event.event for event in decode(b'data: {"event": "first"}\n\n' + rest)] == ["first"]


@pytest.mark.parametrize(
    ("payload", "kind", "status", "code"),
    [
        (
            {"workflow_run_id": None, "code": "invalid_param", "status": 400, "message": "Field required"},
            DifyInvalidInputError,
            400,
            "invalid_param",
        ),
        ({"message": "text is required in input form", "status": 500}, DifyInvalidInputError, 500, None),
        ({"message": "Internal error", "status": 500}, DifyServerError, 500, None),
        ({}, DifyServerError, 500, None),
        ({"message": [1], "status": "x", "code": {}}, DifyServerError, 500, None),
    ],
)
def test_error_events_become_the_exceptions_of_http_answers(
    payload: dict[str, Any], kind: type, status: int, code: str | None
) -> None:
    event = decode(b"data: " + json.dumps({"event": "error"} | payload).encode() + b"\n\n")[0]
    error = event.error("Starting")
    assert event.event == "error"
    assert type(error) is kind
    assert (error.status_code, error.code) == (status, code)
    assert str(error).startswith("Starting: HTTP")


def test_the_task_id_of_a_run_is_not_the_run_id_that_replayed_events_carry() -> None:
    events = [
        Event("workflow_started", {}, RUN, RUN),
        Event("node_started", {}, "another", "task-of-another"),
        Event("node_started", {}, RUN, None),
        Event("text_chunk", {}, RUN, "task-1"),
    ]
    assert task_id_in(events, RUN) == "task-1"
    assert task_id_in(events[:3], RUN) is None
