"""The lines about a run's steps, from events as real servers send them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_dify.api.events import Event, EventDecoder
from airflow_provider_dify.rules.event_log import EventReader
from airflow_provider_dify.rules.steps import MAX_STEPS, TABLE_ROWS, StepLog

RUN = "6b454183-889f-4bc9-8060-764be1cb16ea"
RECORDINGS = Path(__file__).resolve().parent.parent / "contract" / "recordings"


def recorded(name: str, version: str = "1.14.2") -> list[Event]:
    """Return the events of a recording, as they came."""
    stream = json.loads((RECORDINGS / version / f"{name}.json").read_text(encoding="utf-8"))["response"]["sse"]
    decoder = EventDecoder()
    return [event for block in stream for event in decoder.feed(block["raw"].encode())]


def reported(events: list[Event], *, at_once: bool = False, steps: StepLog | None = None) -> list[str]:
    """Return the lines about events that came one by one, or all at once."""
    steps = steps or StepLog(RUN)
    lines = steps.take(events) if at_once else [line for event in events for line in steps.take([event])]
    return [line.removeprefix("Dify step: ") for line in lines]


def node(event: str, id: str = "e1", **data: Any) -> Event:
    content = {"id": id, "node_id": "n1", "node_type": "llm", "title": "Ask", **data}
    return Event(event, content, RUN, "task")


@pytest.mark.parametrize(
    ("version", "name"),
    [("1.14.2", "events-resume"), ("1.16.1", "events-resume"), ("1.16.1", "human-select-events-resume")],
)
def test_a_run_that_was_resumed_is_reported_as_a_whole(version: str, name: str) -> None:
    reader, steps = EventReader(), StepLog(RUN)
    stream = json.loads((RECORDINGS / version / f"{name}.json").read_text(encoding="utf-8"))["response"]["sse"]
    for block in stream:
        steps.take(reader.feed(block["raw"].encode()))
    assert reader.ended
    assert [line.split()[1:4:2] for line in steps.table()[2:]] == [
        ["start", "succeeded"], ["human", "succeeded"], ["end_ok", "succeeded"],
    ]  # fmt: skip


def test_events_of_newer_servers_are_passed_over() -> None:
    chunk = Event("reasoning_chunk", {"reasoning": "hm", "from_variable_selector": ["n1", "reasoning"]}, RUN, "task")
    assert reported([node("node_started"), chunk, node("node_finished", status="succeeded")]) == [
        "Ask (llm): started",
        "Ask (llm): succeeded",
    ]


def test_a_failing_run() -> None:
    steps = StepLog(RUN)
    assert reported(recorded("run-streaming-retry"), steps=steps) == [
        "start (start): started",
        "start (start): succeeded, 0.0 s",
        "http (http-request): started",
        "http (http-request): retry 1 after: [Errno 111] Connection refused",
        "http (http-request): retry 2 after: [Errno 111] Connection refused",
        "http (http-request): failed, 1.1 s: [Errno 111] Connection refused",
    ]
    assert steps.closing() == [
        f"Steps of Dify run {RUN}:",
        "  #  step   type          status     seconds  tokens",
        "  1  start  start         succeeded      0.0       -",
        "  2  http   http-request  failed         1.1       -",
    ]
    assert steps.failure("[Errno 111] Connection refused") == "The failed step is http (http-request)."
    assert steps.failure(None) == "The failed step is http (http-request): [Errno 111] Connection refused."


def test_starts_are_not_reported_where_the_end_is_known_already() -> None:
    assert reported(recorded("run-streaming-partial-default"), at_once=True) == [
        "start (start): succeeded, 0.0 s",
        "http (http-request): text: DEFAULT",
        "http (http-request): exception, 0.0 s: Unknown error",
        "end (end): succeeded, 0.0 s",
    ]


def test_an_iteration_is_indented() -> None:
    steps = StepLog(RUN)
    lines = reported(recorded("run-streaming-iteration"), steps=steps)
    assert lines[2:9] == [
        "iter (iteration): started",
        "iter (iteration): round 1",
        "  ihttp (http-request): started",
        "  ihttp (http-request): succeeded, 0.0 s",
        "iter (iteration): round 2",
        "  ihttp (http-request): started",
        "  ihttp (http-request): succeeded, 0.0 s",
    ]
    assert [line.split()[1:3] for line in steps.table()[2:6]] == [
        ["start", "start"],
        ["iter", "iteration"],
        ["ihttp", "http-request"],
        ["ihttp", "http-request"],
    ]
    assert "    ihttp" in steps.table()[4]


def test_a_loop_is_indented() -> None:
    lines = reported(recorded("run-streaming-loop"))
    # The first round of a loop is its start; Dify tells those that follow.
    assert [line.rpartition(": ")[2] for line in lines if "round" in line] == ["round 2"]
    assert any(line.startswith("  ") for line in lines)


@pytest.mark.parametrize("name", ["events-running-snapshot", "run-streaming-iteration", "events-resume"])
def test_what_is_reported_twice_is_logged_once(name: str) -> None:
    steps, events = StepLog(RUN), recorded(name)
    once = reported(events, steps=steps)
    table = steps.table()
    again = reported(events, steps=steps)
    assert once
    assert [line for line in again if ": text" not in line and ": retry" not in line] == []
    assert steps.table() == table


def test_streamed_text_is_joined() -> None:
    chunks = [
        Event("text_chunk", {"text": text, "from_variable_selector": ["n1", "text"]}, RUN)
        for text in ("Hel", "lo\n", "you")
    ]
    steps = StepLog(RUN)
    assert reported([node("node_started"), *chunks], steps=steps) == ["Ask (llm): started"]
    ended = node("node_finished", status="succeeded", elapsed_time=2.26, execution_metadata={"total_tokens": 128})
    assert reported([ended], steps=steps) == ["Ask (llm): text: Hello you", "Ask (llm): succeeded, 2.3 s, 128 tokens"]
    assert steps.table()[-1].split() == ["1", "Ask", "llm", "succeeded", "2.3", "128"]


def test_a_long_text_is_cut_and_its_size_reported() -> None:
    chunk = Event("text_chunk", {"text": "x" * 100, "from_variable_selector": ["n1", "text"]}, RUN)
    (line,) = reported([chunk] * 500 + [Event("workflow_finished", {}, RUN)])
    assert line.startswith("n1: text (50000 characters): xxx")
    assert len(line) < 1100


def test_a_blank_text_is_not_reported() -> None:
    chunk = Event("text_chunk", {"text": "\n", "from_variable_selector": ["end", "answer"]}, RUN)
    assert reported([chunk, Event("workflow_finished", {}, RUN)]) == []


def test_secrets_are_taken_out() -> None:
    steps = StepLog(RUN, lambda text: text.replace("S3cret", "***"))
    events = [
        node("node_finished", title="Use S3cret", status="failed", error="bad S3cret"),
        Event("text_chunk", {"text": "S3", "from_variable_selector": ["n1", "text"]}, RUN),
        Event("text_chunk", {"text": "cret", "from_variable_selector": ["n1", "text"]}, RUN),
        Event("workflow_finished", {}, RUN),
    ]
    lines = reported(events, steps=steps) + steps.table() + [steps.failure("S3cret") or ""]
    assert "S3cret" not in "".join(lines)
    assert "The failed step is Use *** (llm): bad ***." in lines


HOSTILE = "a\x1b[2J\r\nTask failed\u202e\x00\x9b31m\u2028" + "y" * 5000


def test_a_hostile_title_stays_within_its_line() -> None:
    steps = StepLog(RUN)
    events = [
        node("node_started", title=HOSTILE, node_type=HOSTILE),
        node("node_retry", error=HOSTILE, retry_index=1),
        Event("text_chunk", {"text": HOSTILE, "from_variable_selector": ["n1", "text"]}, RUN),
        node("node_finished", status=HOSTILE, error=HOSTILE),
    ]
    lines = reported(events, steps=steps) + steps.table()
    assert len(lines) == 4 + 3
    for line in lines:
        assert line.isprintable()
        assert len(line) < 1200


def test_a_run_of_very_many_steps_is_cut() -> None:
    steps = StepLog(RUN)
    for number in range(MAX_STEPS + 50):
        steps.take([node("node_started", id=f"e{number}"), node("node_finished", id=f"e{number}", status="succeeded")])
    last = reported([node("node_finished", id="last", title="Last", status="failed", error="no")], steps=steps)
    assert last == ["Last (llm): failed: no"]
    assert len(steps.table()) == TABLE_ROWS + 3
    assert steps.table()[-1] == f"  … and {MAX_STEPS - TABLE_ROWS + 51} more"
    assert steps.failure(None) == "The failed step is Last (llm): no."


def test_nothing_is_logged_of_a_run_without_steps() -> None:
    steps = StepLog(RUN)
    assert steps.take([Event("workflow_started", {}, RUN), Event("workflow_finished", {"status": "failed"}, RUN)]) == []
    assert steps.closing() == []
    assert steps.failure("x") is None


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(["n1", "n2", "iteration"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)
KEYS = [
    *("id", "node_id", "node_type", "title", "status", "error", "elapsed_time", "execution_metadata", "total_tokens"),
    *("iteration_id", "loop_id", "index", "retry_index", "text", "from_variable_selector"),
]
NAMES = [
    *("node_started", "node_finished", "node_retry", "text_chunk", "workflow_finished", "workflow_paused"),
    *("iteration_started", "iteration_next", "iteration_completed", "loop_started", "loop_next", "other"),
]
events = st.builds(Event, st.sampled_from(NAMES), st.dictionaries(st.sampled_from(KEYS), values))


@settings(deadline=None, database=None)
@given(st.lists(st.lists(events, max_size=6), max_size=4))
def test_any_events_give_lines_that_fit_a_log(batches: list[list[Event]]) -> None:
    steps = StepLog(RUN)
    lines = [line for batch in batches for line in steps.take(batch)] + steps.closing()
    for line in [*lines, steps.failure("x") or ""]:
        assert line.isprintable()
        assert len(line) < 1300
