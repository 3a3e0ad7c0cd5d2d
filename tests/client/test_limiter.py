"""The limiter before a server: how many pass, in which order, and what a turn that is given up leaves behind."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from pytest_mock import MockerFixture

from airflow_provider_dify.client.deadlines import LAST_SECONDS, ending_by
from airflow_provider_dify.client.limiter import URGENT_SECONDS, Limiter
from airflow_provider_dify.exceptions import DifyTransportError
from airflow_provider_dify.rules.polling import Deadline
from tests.hooks.virtual import VirtualLoop

Run = Callable[[Callable[[VirtualLoop], Coroutine[Any, Any, None]]], None]


@pytest.fixture
def run() -> Run:
    def running(test: Callable[[VirtualLoop], Coroutine[Any, Any, None]]) -> None:
        loop = VirtualLoop()
        try:
            loop.run_until_complete(test(loop))
        finally:
            loop.close()

    return running


def test_no_more_than_the_limit_pass_and_a_turn_rests_as_long_as_it_took(run: Run) -> None:
    async def test(loop: VirtualLoop) -> None:
        limiter, busy, most, spent = Limiter(4), 0, 0, 0.0

        async def request() -> None:
            nonlocal busy, most, spent
            await limiter.enter()
            busy += 1
            most = max(most, busy)
            await asyncio.sleep(1.0)
            spent += 1.0
            busy -= 1
            limiter.leave(1.0)

        await asyncio.gather(*(request() for _ in range(40)))
        assert most == 4
        assert spent / (4 * loop.time()) <= 0.55

    run(test)


def test_requests_that_take_no_time_do_not_rest(run: Run) -> None:
    async def test(loop: VirtualLoop) -> None:
        limiter = Limiter(1)
        for _ in range(1000):
            await limiter.enter()
            limiter.leave(0.001)
        assert loop.time() == 0

    run(test)


def test_the_urgent_go_first_also_while_the_limiter_is_paused(run: Run) -> None:
    async def test(loop: VirtualLoop) -> None:
        limiter, passed = Limiter(1), []

        async def request(name: str, urgent: bool = False) -> None:
            await limiter.enter(urgent=urgent)
            passed.append((name, round(loop.time())))
            limiter.leave(0.0)

        limiter.pause(30)
        limiter.pause(10)
        tasks = [asyncio.ensure_future(request(name)) for name in "abc"]
        await asyncio.sleep(5)
        await request("urgent", urgent=True)
        await asyncio.gather(*tasks)
        assert passed == [("urgent", 5), ("a", 30), ("b", 30), ("c", 30)]

    run(test)


def test_those_that_wait_are_turned_away_and_the_urgent_stay(run: Run) -> None:
    async def test(loop: VirtualLoop) -> None:
        limiter = Limiter(1)
        await limiter.enter()
        await limiter.enter(urgent=True)
        waiting = [asyncio.ensure_future(limiter.enter()) for _ in range(3)]
        urgent = asyncio.ensure_future(limiter.enter(urgent=True))
        await asyncio.sleep(0)
        limiter.reject_waiters(DifyTransportError("away", cause="refused"))
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [str(each) for each in results] == ["away"] * 3
        assert len({id(each) for each in results}) == 3
        assert not urgent.done()
        limiter.leave(0.0)
        await urgent

    run(test)


def test_an_urgent_turn_is_given_up_in_the_end(run: Run) -> None:
    async def test(loop: VirtualLoop) -> None:
        limiter = Limiter(1)
        await limiter.enter()
        await limiter.enter(urgent=True)
        with pytest.raises(DifyTransportError):
            await limiter.enter(urgent=True)
        assert loop.time() == URGENT_SECONDS
        limiter.leave(0.0)
        limiter.leave(0.0)
        await limiter.enter()

    run(test)


def test_who_waits_becomes_urgent_when_the_deadline_passes(run: Run, mocker: MockerFixture) -> None:
    """Requests that a server holds up for ever must not hold up the last poll of others."""

    async def test(loop: VirtualLoop) -> None:
        mocker.patch("airflow_provider_dify.client.deadlines.time.time", loop.time)
        limiter = Limiter(2)
        for _ in range(2):
            await limiter.enter()
        passed = []

        async def request(seconds: float) -> None:
            with ending_by(Deadline(seconds)):
                await limiter.enter()
            passed.append(round(loop.time(), 1))

        results = await asyncio.gather(*(request(each) for each in (8.0, 5.0, 9.0)), return_exceptions=True)
        assert passed == [5.0, 8.0]
        # As many again may pass, and whoever finds no room ends all the same.
        assert isinstance(results[2], DifyTransportError)
        assert not results[2].sent
        assert round(loop.time(), 1) == 9.0 + LAST_SECONDS

    run(test)


def test_turns_that_are_cancelled_at_any_moment_are_not_lost(run: Run) -> None:
    async def test(loop: VirtualLoop) -> None:
        limiter, rng, busy = Limiter(3), random.Random(7), {True: 0, False: 0}

        async def request(urgent: bool) -> None:
            await limiter.enter(urgent=urgent)
            busy[urgent] += 1
            assert busy[False] <= 3
            assert sum(busy.values()) <= 6
            try:
                await asyncio.sleep(rng.random())
            finally:
                busy[urgent] -= 1
                limiter.leave(0.0)

        tasks = [asyncio.ensure_future(request(rng.random() < 0.2)) for _ in range(300)]
        while not all(task.done() for task in tasks):
            rng.choice(tasks).cancel()
            await asyncio.sleep(rng.choice([0, 0.001, 0.05]))
        for _ in range(3):
            await asyncio.wait_for(limiter.enter(), 1)

    run(test)


def test_the_limit_can_change(run: Run) -> None:
    async def test(loop: VirtualLoop) -> None:
        limiter = Limiter(1)
        await limiter.enter()
        limiter.limit(2)
        await limiter.enter()
        limiter.limit(1)
        limiter.leave(0.0)
        third = asyncio.ensure_future(limiter.enter())
        await asyncio.sleep(1)
        assert not third.done()
        limiter.leave(0.0)
        await third

    run(test)
