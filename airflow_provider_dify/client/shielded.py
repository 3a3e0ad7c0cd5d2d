"""Wait in the triggerer for a limited time, without ever losing a cancel."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from airflow_provider_dify.client.deadlines import Limit

T = TypeVar("T")

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
