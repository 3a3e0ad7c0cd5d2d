"""How long one exchange with a server may take: its own limit, and the deadline of whoever asked for it.

The triggerer awaits by a limit without ever losing a cancel; ``deadline_sockets`` does the same for the worker.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from airflow_provider_dify.rules.polling import Deadline

LAST_SECONDS = 0.9
"""What an exchange has at least: the last poll of a wait begins when the deadline passes."""

T = TypeVar("T")

_deadline: ContextVar[Deadline | None] = ContextVar("dify_caller_deadline", default=None)


@contextmanager
def ending_by(deadline: Deadline | None) -> Iterator[None]:
    """Let every exchange in the block end by a deadline, however short its own limit falls.

    :param deadline: The caller's deadline; None lets the exchanges have their own limits again.
    """
    before = _deadline.set(deadline)
    try:
        yield
    finally:
        _deadline.reset(before)


def caller_left() -> float | None:
    """Return the seconds until the caller's deadline, negative after it; None without one."""
    deadline = _deadline.get()
    return None if deadline is None else deadline.left(time.time())


def is_too_late() -> bool:
    """Tell whether the caller's deadline has passed, which says nothing of the server that was asked."""
    left = caller_left()
    return left is not None and left <= 0


def seconds_for(own: float) -> float:
    """Return the seconds that an exchange may take: its own limit, or what the caller's deadline leaves.

    :param own: The limit of the exchange itself.
    """
    deadline = _deadline.get()
    return own if deadline is None else min(own, max(deadline.left(time.time()), LAST_SECONDS))


class Limit:
    """The moment by which an exchange must have ended, on the clock that it is measured with.

    A server that sends a byte now and then never falls silent: no limit on silence ends that, so this one is absolute.

    :param seconds: Seconds from now.
    :param clock: A monotonic clock.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self.at = clock() + seconds
        self.on_renewal: Callable[[float], None] | None = None

    def left(self) -> float:
        """Return the seconds left, negative when it has passed."""
        return self.at - self._clock()

    def renew(self) -> None:
        """Count from now on again, since a piece of a file was sent; never beyond the caller's deadline."""
        self.at = self._clock() + seconds_for(self._seconds)
        if self.on_renewal is not None:
            self.on_renewal(self.at)


if sys.version_info >= (3, 11):

    async def limited(work: Coroutine[Any, Any, T], seconds: float) -> T:
        """Await something for a limited time.

        ``asyncio.wait_for`` is no substitute: before Python 3.12 it swallows a cancel that comes when what it waits for
        has just ended, and what was cancelled never ends.

        :param work: What is awaited; it is cancelled when the time is over.
        :param seconds: How long.
        :raises asyncio.TimeoutError: The time is over.
        """
        async with asyncio.timeout(seconds):
            return await work

    async def within(work: Coroutine[Any, Any, T], limit: Limit, release: Callable[[T], None]) -> T:
        """Await something by a limit that may be renewed meanwhile.

        :param work: What is awaited; it is cancelled when the limit has passed.
        :param limit: On the clock of the event loop.
        :param release: Gives back what came at the very moment at which the awaiting task was cancelled.
        :raises asyncio.TimeoutError: The limit has passed.
        """
        async with asyncio.timeout_at(limit.at) as scope:
            limit.on_renewal = scope.reschedule
            try:
                return await work
            finally:
                limit.on_renewal = None

else:

    async def limited(work: Coroutine[Any, Any, T], seconds: float) -> T:
        """Await something for a limited time; see above."""
        return await within(work, Limit(seconds, asyncio.get_running_loop().time), lambda _: None)

    async def within(work: Coroutine[Any, Any, T], limit: Limit, release: Callable[[T], None]) -> T:
        """Await something by a limit that may be renewed meanwhile; see above."""
        task = asyncio.ensure_future(work)
        try:
            while not task.done() and (left := limit.left()) > 0:
                await asyncio.wait({task}, timeout=left)
        except asyncio.CancelledError:
            if task.done() and not task.cancelled() and task.exception() is None:
                release(task.result())
            raise
        finally:
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if task.cancelled():
            raise asyncio.TimeoutError
        return task.result()
