"""Turns at one server: a bounded number of requests under way, and none while the server asks for a rest."""

from __future__ import annotations

import asyncio
from collections import deque
from copy import copy

from airflow_provider_dify.client.deadlines import LAST_SECONDS, caller_left
from airflow_provider_dify.exceptions import DifyError, DifyTransportError

URGENT_SECONDS = 30.0
"""How long an urgent request without a deadline waits for its turn."""

MAX_REST_SECONDS = 5.0
_NO_REST_SECONDS = 0.01


class Limiter:
    """Lets so many requests pass at a time, first come first served.

    A turn that was given back rests as long as its request took, while others wait: a server that answers slowly is
    asked less often, and at most half of the connections that the limit grants it are busy.

    What has become urgent need not wait for those that a server holds up: as many urgent requests again may be under
    way beyond the limit.

    :param limit: Requests under way at a time.
    """

    def __init__(self, limit: int) -> None:
        self._limit = self._free = limit
        self._queue: deque[asyncio.Future[DifyError | None]] = deque()
        self._urgent: deque[asyncio.Future[DifyError | None]] = deque()
        self._borrowed = 0
        self._shut_until = 0.0
        self._opening: asyncio.TimerHandle | None = None

    def limit(self, limit: int) -> None:
        """Change the limit; requests that are under way stay."""
        self._free += limit - self._limit
        self._limit = limit
        self._admit()

    async def enter(self, *, urgent: bool = False) -> None:
        """Wait for a turn; ``leave`` gives it back. Who waits becomes urgent when the caller's deadline passes.

        :param urgent: Whether it goes before those that wait, also while the server asks for a rest.
        :raises DifyError: No turn was taken: others have found that the server does not answer, or there is no time
            left.
        """
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[DifyError | None] = loop.create_future()
        (self._urgent if urgent else self._queue).append(turn)
        self._admit()
        alarms = []
        if not turn.done():
            left = caller_left()
            if left is not None:
                alarms = [
                    loop.call_later(max(left, 0.0), self._hurry, turn),
                    loop.call_later(max(left, 0.0) + LAST_SECONDS, _give_up, turn),
                ]
            elif urgent:
                alarms = [loop.call_later(URGENT_SECONDS, _give_up, turn)]
        try:
            error = await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result() is None:
                self._give_back()
            raise
        finally:
            for alarm in alarms:
                alarm.cancel()
        if error is not None:
            error = copy(error)
            if isinstance(error, DifyTransportError):
                error.sent = False
            raise error

    def leave(self, took: float) -> None:
        """Give a turn back.

        :param took: Seconds that the request took.
        """
        if took > _NO_REST_SECONDS and self._queue:
            asyncio.get_running_loop().call_later(min(took, MAX_REST_SECONDS), self._give_back)
        else:
            self._give_back()

    def pause(self, seconds: float) -> None:
        """Let none pass but the urgent for so many seconds, since the server has asked for it."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        if until <= self._shut_until:
            return
        self._shut_until = until
        if self._opening is not None:
            self._opening.cancel()
        self._opening = loop.call_at(until + _NO_REST_SECONDS, self._admit)

    def reject_waiters(self, error: DifyError) -> None:
        """Send those that wait away, since the server does not answer; the urgent stay."""
        queue, self._queue = self._queue, deque()
        for turn in queue:
            if not turn.done():
                turn.set_result(error)

    def close(self) -> None:
        """Leave no timer behind."""
        if self._opening is not None:
            self._opening.cancel()

    def _hurry(self, turn: asyncio.Future[DifyError | None]) -> None:
        # In the queue, where it stays, it is passed over when it is done.
        self._urgent.append(turn)
        self._admit()

    def _give_back(self) -> None:
        if self._borrowed:
            self._borrowed -= 1
        else:
            self._free += 1
        self._admit()

    def _admit(self) -> None:
        while True:
            if self._urgent and (self._free > 0 or self._borrowed < self._limit):
                queue = self._urgent
            elif self._queue and self._free > 0 and asyncio.get_running_loop().time() >= self._shut_until:
                queue = self._queue
            else:
                return
            turn = queue.popleft()
            if turn.done():
                continue
            if self._free > 0:
                self._free -= 1
            else:
                self._borrowed += 1
            turn.set_result(None)


def _give_up(turn: asyncio.Future[DifyError | None]) -> None:
    if not turn.done():
        turn.set_result(
            DifyTransportError(
                "Requests over the same connection have held this one up until it was too late. Nothing was sent.",
                sent=False,
            )
        )
