"""Sleeps of many that end together."""

from __future__ import annotations

import asyncio
import math

TICK_SECONDS = 0.1


TOGETHER_SECONDS = 1.0


LONG_TICK_SECONDS = 1.0


LONG_SECONDS = 10.0
"""Long sleeps end together, each second: Airflow's triggerer asks the database again whenever something was logged, and
once for all that was logged together."""


class Alarms:
    """Wakes those that sleep a second or longer together, each tenth of a second, and so at a fraction of the cost."""

    def __init__(self) -> None:
        self._ticks: dict[int, tuple[asyncio.TimerHandle, list[asyncio.Future[None]]]] = {}

    def set(self, seconds: float, *, exact: bool) -> asyncio.Future[None]:
        """Return a future that is done after so many seconds, a tenth of a second more at most.

        :param exact: Whether that holds for long sleeps too, which may else take a second more.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        if seconds < TOGETHER_SECONDS:
            loop.call_later(max(seconds, 0.0), wake, future)
            return future
        tick_seconds = TICK_SECONDS if exact or seconds < LONG_SECONDS else LONG_TICK_SECONDS
        tick = math.ceil((loop.time() + seconds) / tick_seconds) * round(tick_seconds / TICK_SECONDS)
        found = self._ticks.get(tick)
        if found is None:
            found = self._ticks[tick] = loop.call_at(tick * TICK_SECONDS, self._ring, tick), []
        found[1].append(future)
        return future

    def close(self) -> None:
        """Leave no timer behind."""
        for handle, _ in self._ticks.values():
            handle.cancel()

    def _ring(self, tick: int) -> None:
        for future in self._ticks.pop(tick)[1]:
            wake(future)


def wake(future: asyncio.Future[None] | None) -> None:
    """End a sleep, if there is one and it goes on."""
    if future is not None and not future.done():
        future.set_result(None)
