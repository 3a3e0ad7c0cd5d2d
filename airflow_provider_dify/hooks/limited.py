"""Wait in the triggerer for a limited time, without ever losing a cancel."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

if sys.version_info >= (3, 11):

    async def limited(deed: Coroutine[Any, Any, T], seconds: float) -> T:
        """Await something for a limited time.

        ``asyncio.wait_for`` is no substitute: before Python 3.12 it swallows a cancel that comes when what it waits for
        has just ended, and what was cancelled goes on for ever.

        :param deed: What is awaited; it is cancelled when the time is over.
        :param seconds: How long.
        :raises asyncio.TimeoutError: The time is over.
        """
        async with asyncio.timeout(seconds):
            return await deed

else:

    async def limited(deed: Coroutine[Any, Any, T], seconds: float) -> T:
        """Await something for a limited time; see above."""
        task = asyncio.ensure_future(deed)
        try:
            await asyncio.wait({task}, timeout=seconds)
        finally:
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if task.cancelled():
            raise asyncio.TimeoutError
        return task.result()
