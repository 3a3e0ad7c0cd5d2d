"""What a server can do, from the version that it tells."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dify.api.server_versions import NEWEST_TESTED, Server

NAMES = ("survives_closed_stream", "lists_running_runs", "queues_runs", "has_run_events")
CAPABILITIES = [
    ("1.9.0", ()),
    ("1.9.1", ()),
    ("1.9.2", NAMES[:1]),
    ("1.10.0", NAMES[:1]),
    ("1.11.0", NAMES[:2]),
    ("1.11.2", NAMES[:2]),
    ("1.12.0", NAMES[:3]),
    ("1.13.9", NAMES[:3]),
    ("1.14.0", NAMES),
    ("1.14.2", NAMES),
    ("2.0.0", NAMES),
    ("v1.9.1", ()),
    ("1.9.1-rc1", ()),
    ("1.11", NAMES[:2]),
    # Not reported or not understood: as a current one.
    (None, NAMES),
    ("", NAMES),
    ("latest", NAMES),
    ("1", NAMES),
]


@pytest.mark.parametrize(("version", "capabilities"), CAPABILITIES)
def test_capabilities(version: str | None, capabilities: tuple[str, ...]) -> None:
    server = Server(version)
    assert tuple(name for name in NAMES if getattr(server, name)) == capabilities


NUMBERS = [
    ("1.14.2", (1, 14, 2)),
    ("1.14", (1, 14, 0)),
    (" v1.9.1\r\n", (1, 9, 1)),
    ("01.09.02", (1, 9, 2)),
    ("1.14.0-beta.1+build.7", (1, 14, 0)),
    ("1.14.2.3", (1, 14, 2)),
    ("1.14.x", (1, 14, 0)),
    *[(odd, None) for odd in ("1", "1.", ".1.2", "-1.2.3", "1,14,2", "1. 14", "dify 1.14.2", "9" * 5000)],
    *[(odd, None) for odd in ("1.x", "1.1234567890", "main-3f2c1e0", "null", "\ud800")],
    (None, None),
    ("", None),
]


@pytest.mark.parametrize(("version", "number"), NUMBERS)
def test_the_number_of_a_version(version: str | None, number: tuple[int, int, int] | None) -> None:
    assert Server(version).number == number


@pytest.mark.parametrize("version", ["1.17.0", "1.18.0", "1.19.0", "1.20.0", "v1.20.1-rc1", "2.0.0"])
def test_a_version_that_is_newer_than_any_tested(version: str) -> None:
    assert Server(version).is_newer_than_tested
    assert tuple(name for name in NAMES if getattr(Server(version), name)) == NAMES


@pytest.mark.parametrize("version", ["1.9.1", "1.14.2", "1.16.1", "1.16.9", "latest", "", None])
def test_a_version_that_is_not(version: str | None) -> None:
    assert not Server(version).is_newer_than_tested


def test_the_newest_tested_version_is_the_newest_of_the_recordings() -> None:
    recordings = Path(__file__).parents[1] / "contract" / "recordings"
    versions = [path.name for path in recordings.iterdir() if path.is_dir() and "knowledge" not in path.name]
    assert max(versions, key=lambda version: Server(version).number or ()) == NEWEST_TESTED


def test_a_server_that_tells_no_version_is_a_current_one() -> None:
    assert Server() == Server(None)
    assert all(getattr(Server(), name) for name in NAMES)


@given(st.text() | st.from_regex(r"v?[0-9]{1,12}(\.[0-9]{1,12}){0,4}.*"))
def test_any_version_gives_an_answer(version: str) -> None:
    server = Server(version)
    assert all(isinstance(getattr(server, name), bool) for name in NAMES)
    assert server.number is None or len(server.number) == 3


@given(st.tuples(*[st.integers(0, 30)] * 3), st.tuples(*[st.integers(0, 30)] * 3))
def test_a_newer_server_can_do_no_less(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    older, newer = (Server(".".join(map(str, number))) for number in sorted((one, other)))
    assert all(getattr(newer, name) >= getattr(older, name) for name in NAMES)
