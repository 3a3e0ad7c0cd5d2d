"""Holds the local server against every recording of a real one."""

from __future__ import annotations

import copy
import json
from functools import cache
from typing import Any

import pytest

from tests.contract.server_compare import RELEASE, VERSIONS, Exchange, differences, load, names, recorded_blocks
from tests.contract.server_scenarios import COVERED, Scenario

_PROXIED = "the local server has no proxy in front whose headers and connections it could show"
_INSTANT = "it was subscribed in the instant between the start node's end and the next node's start"
_BUILD = "the release of 1.14.2, which the local server stands in for, answers otherwise than this later build"
NOT_COMPARED: dict[str, str] = {
    "1.14.2/file-run-other-user-streaming": _BUILD,
    "1.14.2/file-upload": _BUILD,
    "1.14.2/file-upload-no-user": _BUILD,
    "1.14.2/missing-required-streaming": _BUILD,
    "1.14.2-release/run-streaming-echo": "whether text or the start node comes first varies from run to run",
    "1.16.1/events-running-live": _INSTANT,
    "1.16.1/events-running-snapshot": _INSTANT,
    "1.16.1/nginx-api-killed-blocking": _PROXIED,
    "1.16.1/nginx-api-killed-stream": _PROXIED,
    "1.16.1/nginx-info": _PROXIED,
    "1.16.1/nginx-run-streaming-echo": _PROXIED,
}
"""Recordings that the local server does not agree with, or no scenario can bring about, each with the reason."""

LISTED = {(version, name) for version, _, name in (entry.partition("/") for entry in NOT_COMPARED)}
ALL = {(version, name) for version in (*VERSIONS, RELEASE) for name in names(version)}
# How much of a version's recordings may be listed.
MOST_LISTED = {"1.9.1": 0.0, "1.11.2": 0.0, "1.14.2": 0.03, RELEASE: 0.03, "1.16.1": 0.03}


def _keys(*keys: tuple[str, str]) -> list[Any]:
    """Return the parameters of a test, those of one scenario in one process, which plays it once."""
    return [
        pytest.param(*key, marks=pytest.mark.xdist_group(f"{key[0]} {COVERED[key].__name__}")) for key in sorted(keys)
    ]


@cache
def played(scenario: Scenario, version: str) -> dict[str, Exchange]:
    """Play a scenario once."""
    return scenario(version)


@pytest.mark.parametrize(("version", "name"), _keys(*(set(COVERED) - LISTED)))
def test_answers_as_recorded(version: str, name: str) -> None:
    """The local server says what the real one lines."""
    exchange = played(COVERED[version, name], version)[name]
    assert differences(load(version, name), exchange) == []


@pytest.mark.parametrize(("version", "name"), _keys(*(set(COVERED) & LISTED)))
def test_a_listed_recording_differs(version: str, name: str) -> None:
    """Nothing is listed that the local server agrees with."""
    exchange = played(COVERED[version, name], version)[name]
    assert differences(load(version, name), exchange)


def test_every_recording_is_compared_or_listed() -> None:
    """No recording is forgotten, no entry of the list is stale, and the list stays short."""
    assert LISTED | set(COVERED) == ALL
    for version, most in MOST_LISTED.items():
        assert sum(key[0] == version for key in LISTED) <= most * sum(key[0] == version for key in ALL)


def _as_exchange(recording: dict) -> Exchange:  # type: ignore[type-arg]
    response = recording["response"]
    exchange = Exchange(response["status"], dict(response["headers"]), closed=recording.get("closed_by") or "server")
    if "sse" in response:
        exchange.blocks = recorded_blocks(recording)
    else:
        exchange.body = json.dumps(response["json"])
    return exchange


@pytest.mark.parametrize(("version", "name"), [("1.14.2", "run-streaming-echo"), ("1.9.1", "get-run-succeeded")])
def test_a_recording_agrees_with_itself(version: str, name: str) -> None:
    """The comparison accepts what is the same."""
    recording = load(version, name)
    assert differences(recording, _as_exchange(recording)) == []


TAMPERINGS = {
    "another status": lambda recording: recording["response"].update(status=500),
    "another content type": lambda recording: recording["response"]["headers"].update({"content-type": "text/x"}),
    "another version header": lambda recording: recording["response"]["headers"].update({"x-version": "0"}),
    "another value": lambda recording: recording["response"]["json"].update(status="failed"),
    "another type": lambda recording: recording["response"]["json"].update(outputs={}),
    "null for a time": lambda recording: recording["response"]["json"].update(finished_at=None),
    "a key more": lambda recording: recording["response"]["json"].update(task_id="x"),
    "a key less": lambda recording: recording["response"]["json"].pop("error"),
    "an id that is none": lambda recording: recording["response"]["json"].update(id="x"),
    "an input within the JSON text": lambda recording: recording["response"]["json"].update(
        inputs=recording["response"]["json"]["inputs"].replace('"text"', '"test"')
    ),
}


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_a_tampered_answer_is_detected(tampering: str) -> None:
    """The comparison can fail: on any change of an answer."""
    recording = load("1.9.1", "get-run-succeeded")
    tampered = copy.deepcopy(recording)
    TAMPERINGS[tampering](tampered)
    assert differences(tampered, _as_exchange(recording))


STREAM_TAMPERINGS = {
    "an event less": lambda blocks: blocks[:3] + blocks[4:],
    "two events swapped": lambda blocks: [*blocks[:-2], blocks[-1], blocks[-2]],
    "no first ping": lambda blocks: blocks[1:],
    "a later ping": lambda blocks: [*blocks[:5], "event: ping", *blocks[5:]],
    "another run id in one event": lambda blocks: [
        *blocks[:-1],
        blocks[-1].replace(json.loads(blocks[-1][6:])["workflow_run_id"], "0" * 8 + "-0000" * 3 + "-" + "0" * 12, 1),
    ],
    "another text": lambda blocks: [block.replace('"text":"hello"', '"text":"hullo"') for block in blocks],
    "blanks after the colons": lambda blocks: [block.replace('"event":"', '"event": "') for block in blocks],
    "a key of the data less": lambda blocks: [block.replace('"reason":"initial"', '"raison":1') for block in blocks],
}


@pytest.mark.parametrize("tampering", STREAM_TAMPERINGS)
def test_a_tampered_stream_is_detected(tampering: str) -> None:
    """The comparison can fail: on any change of a stream."""
    recording = load("1.14.2", "run-streaming-echo")
    exchange = _as_exchange(recording)
    exchange.blocks = STREAM_TAMPERINGS[tampering](exchange.blocks)
    assert differences(recording, exchange)


def test_a_stream_that_ends_otherwise_is_detected() -> None:
    """The comparison can fail: on how a stream ends."""
    recording = load("1.14.2", "run-streaming-echo")
    exchange = _as_exchange(recording)
    exchange.closed = "broken"
    assert differences(recording, exchange)
