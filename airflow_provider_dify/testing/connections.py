"""Connections: the slots that requests occupy, and how to break one."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import cast


class ConnectionSlots:
    """The request slots of one server. With all taken, a further request waits before it is read.

    :param limit: number of slots, None for no limit.
    """

    def __init__(self, limit: int | None) -> None:
        self._semaphore = asyncio.Semaphore(limit) if limit is not None else None
        self.busy = 0
        self.waiting = 0

    async def take(self) -> None:
        """Wait for a slot, first come first served, and occupy it."""
        if self._semaphore:
            self.waiting += 1
            try:
                await self._semaphore.acquire()
            finally:
                self.waiting -= 1
        self.busy += 1

    def free(self) -> None:
        """Give a slot back."""
        self.busy -= 1
        if self._semaphore:
            self._semaphore.release()


def reset(transport: asyncio.BaseTransport | None) -> None:
    """Break a connection with a TCP reset: the peer sees `Connection reset by peer`, not a clean end."""
    if transport is None:
        return
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    cast(asyncio.Transport, transport).abort()
