"""What a server sends too much of costs a triggerer neither its memory nor the time of other triggers."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_dify.triggers.workflow import DifyFindRunTrigger, DifyWorkflowRunTrigger
from tests.hooks.support import RUN, Connect
from tests.memory import Growth

pytestmark = pytest.mark.any_airflow

# In a process of its own, whose work would else be measured too.
SERVER = Path(__file__).with_name("flooding_server.py")
EVENTS = ("comments", "pings", "tiny events", "one long event", "empty lines")
ROWS = ("small objects", "empty lists", "short texts", "one long text", "deep lists", "numbers", "escapes")
# CPU of the loop's thread in one turn: how long the loop stands still depends on how busy the machine is, and is given
# some seconds. Without a bound it takes several of CPU alone.
TURN_SECONDS, LAG_SECONDS = 1.0, 5.0
MEMORY_BYTES = 100 * 1024 * 1024


@contextmanager
def flooding(mode: str) -> Iterator[str]:
    with subprocess.Popen([sys.executable, str(SERVER), mode], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


async def lag_of(seconds: float, trigger: Any) -> tuple[float, float, list[Any]]:
    """Return the longest turn of the loop in CPU time and by the clock while a trigger ran, and what that has fired."""
    busiest, worst, fired = 0.0, 0.0, []

    async def run() -> None:
        async for event in trigger.run():
            fired.append(event.payload)
            return

    task, end = asyncio.ensure_future(run()), time.monotonic() + seconds
    while not task.done() and time.monotonic() < end:
        began, worked = time.monotonic(), time.thread_time()
        await asyncio.sleep(0.002)
        worst = max(worst, time.monotonic() - began - 0.002)
        busiest = max(busiest, time.thread_time() - worked)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return busiest, worst, fired


def measured(connect: Connect, mode: str, trigger: Any, seconds: float = 4.0) -> list[Any]:
    with flooding(mode) as url:
        connect(url)
        growth = Growth()
        busiest, lag, fired = asyncio.run(lag_of(seconds, trigger()))
        grown = growth.mib() * 2**20
    print(f"{mode}: {busiest * 1000:.0f} ms of CPU, {lag * 1000:.0f} ms, {grown / 2**20:.0f} MiB")
    assert busiest < TURN_SECONDS
    assert lag < LAG_SECONDS
    assert grown < MEMORY_BYTES
    return fired


@pytest.mark.parametrize("mode", ROWS)
def test_a_row_that_is_too_large_for_the_triggerer_is_left_to_the_worker(connect: Connect, mode: str) -> None:
    def trigger() -> Any:
        return DifyWorkflowRunTrigger(RUN, "dify_default", time.time() + 60, poll_interval=0.1)

    assert [event["status"] for event in measured(connect, mode, trigger, seconds=30)] == ["ended"]


@pytest.mark.parametrize("mode", ROWS)
def test_a_list_of_runs_that_is_too_large_is_no_end_of_the_search(connect: Connect, mode: str) -> None:
    def trigger() -> Any:
        return DifyFindRunTrigger(["me"], "dify_default", time.time() + 3, time.time(), poll_interval=0.1)

    assert [event["status"] for event in measured(connect, mode, trigger, seconds=30)] == ["not_found"]


@pytest.mark.parametrize("mode", EVENTS)
def test_a_flood_of_events_leaves_others_their_turn(connect: Connect, mode: str) -> None:
    def trigger() -> Any:
        return DifyWorkflowRunTrigger(
            RUN, "dify_default", time.time() + 60, user="me", follow_events=True, poll_interval=0.05
        )

    assert json.dumps(measured(connect, mode, trigger)) == "[]"
