"""What a server can do, from the version that it tells."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dify.api.server import Server

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
    # Not told or not understood: as a current one.
    (None, NAMES),
    ("", NAMES),
    ("latest", NAMES),
    ("1", NAMES),
]


@pytest.mark.parametrize(("version", "capabilities"), CAPABILITIES)
def test_capabilities(version: str | None, capabilities: tuple[str, ...]) -> None:
    server = Server(version)
    assert tuple(name for name in NAMES if getattr(server, name)) == capabilities


@given(st.text() | st.from_regex(r"v?[0-9]{1,12}(\.[0-9]{1,12}){0,4}.*"))
def test_any_version_gives_an_answer(version: str) -> None:
    assert all(isinstance(getattr(Server(version), name), bool) for name in NAMES)


@given(st.tuples(*[st.integers(0, 30)] * 3), st.tuples(*[st.integers(0, 30)] * 3))
def test_a_newer_server_can_do_no_less(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    older, newer = (Server(".".join(map(str, number))) for number in sorted((one, other)))
    assert all(getattr(newer, name) >= getattr(older, name) for name in NAMES)
