"""A hook that is used where it was not made: after a fork, in another event loop, by many threads at once."""

from __future__ import annotations

import asyncio
import json
import os
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest

from airflow_provider_dify.hooks.dify import DifyHook
from tests.hooks.support import Start

POLLS = 30


def wrong_answers(hook: DifyHook, run_id: str) -> list[str]:
    """Poll a run, and return the ids of others that came as an answer."""
    reported = [hook.get_workflow_run(run_id).workflow_run_id for _ in range(POLLS)]
    return [each for each in reported if each != run_id]


@pytest.fixture
def runs(dify: Start) -> list[str]:
    dify()
    return [DifyHook().create_workflow_run({}, user=f"me{number}").workflow_run_id for number in range(4)]


# Python 3.12 and later warn of a fork in a process that has threads, as the local server's.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_children_of_a_fork_get_the_answers_to_their_own_requests(runs: list[str]) -> None:
    hook = DifyHook()
    # A pooled connection stands now, which every child inherits.
    assert wrong_answers(hook, runs[0]) == []
    children = []
    for run_id in runs:
        reader, writer = os.pipe()
        if os.fork() == 0:
            try:
                found = wrong_answers(hook, run_id)
            except BaseException:
                found = [traceback.format_exc()]
            os.write(writer, json.dumps(found).encode())
            os._exit(0)
        os.close(writer)
        children.append(reader)
    for reader in children:
        with os.fdopen(reader, "rb") as reported:
            assert json.loads(reported.read()) == []
    # The parent's connection is as it was.
    assert wrong_answers(hook, runs[0]) == []


def test_one_event_loop_after_the_other(runs: list[str]) -> None:
    hook = DifyHook()

    async def polls() -> list[str]:
        reported = await asyncio.gather(*(hook.aget_workflow_run(run_id) for run_id in runs))
        return [run.workflow_run_id for run in reported]

    async def polls_and_closes() -> list[str]:
        try:
            return await polls()
        finally:
            await hook.aclose()

    assert asyncio.run(polls()) == runs
    assert asyncio.run(polls()) == runs
    assert asyncio.run(polls_and_closes()) == runs
    assert asyncio.run(polls_and_closes()) == runs


def test_event_loops_in_two_threads(runs: list[str]) -> None:
    hook = DifyHook()

    async def polls(run_id: str) -> list[str]:
        try:
            reported = [(await hook.aget_workflow_run(run_id)).workflow_run_id for _ in range(POLLS)]
        finally:
            await hook.aclose()
        return [each for each in reported if each != run_id]

    with ThreadPoolExecutor(len(runs)) as pool:
        assert list(pool.map(lambda run_id: asyncio.run(polls(run_id)), runs)) == [[]] * len(runs)


def test_sixteen_threads_share_a_hook(runs: list[str]) -> None:
    hook = DifyHook()
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda run_id: wrong_answers(hook, run_id), runs * 4)) == [[]] * 16
