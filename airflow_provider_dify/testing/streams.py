"""Writing one stream of Server-Sent Events, with the faults that were asked for."""

from __future__ import annotations

import asyncio

from aiohttp import web

from airflow_provider_dify.testing.connections import reset
from airflow_provider_dify.testing.events import encode
from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.runs import PING, Event


class ClientGone(Exception):
    """The connection is no more: the client left, or a fault cut it."""


def is_connected(request: web.Request) -> bool:
    """Whether the request's connection is still up, as far as the server knows."""
    return request.transport is not None and not request.transport.is_closing()


class EventStream:
    """One response of Server-Sent Events. A client that left is noticed at the next write.

    :param request: the request to answer.
    :param cut: the fault that breaks the stream, if any.
    :param lost: the fault by which events get lost, if any.
    """

    def __init__(self, request: web.Request, *, cut: Fault | None = None, lost: Fault | None = None) -> None:
        self._request = request
        self._cut = cut
        self._lost = lost
        self._offered = 0
        self._events = 0
        self._bytes = 0
        self.response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        self.response.enable_chunked_encoding()

    async def open(self) -> None:
        """Send the head.

        :raises ClientGone: if nobody is there.
        """
        try:
            await self.response.prepare(self._request)
        except ConnectionError:
            raise ClientGone from None
        await self._cut_if_due()

    def check(self) -> None:
        """Tell whether the client is still there, just before a write.

        :raises ClientGone: if it has left.
        """
        if not is_connected(self._request):
            raise ClientGone

    async def send(self, event: Event, *, spaced: bool = False) -> bool:
        """Send one event, and tell whether it was sent, not lost.

        :raises ClientGone: if the client has left or a fault cut the stream.
        """
        self._offered += event is not PING
        if event is not PING and self._is_lost(event):
            return False
        block = encode(event, spaced=spaced)
        if self._cut and self._cut.after_bytes is not None:
            block = block[: self._cut.after_bytes - self._bytes]
        try:
            await self.response.write(block)
        except ConnectionError:
            raise ClientGone from None
        self._bytes += len(block)
        self._events += event is not PING
        await self._cut_if_due()
        return True

    def _is_lost(self, event: Event) -> bool:
        lost = self._lost
        if lost is None:
            return False
        return self._offered <= lost.first_events or event["event"] in lost.events or "*" in lost.events

    async def close(self) -> None:
        """End the stream cleanly."""
        try:
            await self.response.write_eof()
        except ConnectionError:
            raise ClientGone from None

    async def _cut_if_due(self) -> None:
        cut = self._cut
        if cut is None:
            return
        by_events = cut.after_events is not None and self._events >= cut.after_events
        by_bytes = cut.after_bytes is not None and self._bytes >= cut.after_bytes
        if not (by_events or by_bytes):
            return
        if cut.clean:
            await self.close()
        else:
            await asyncio.sleep(0)
            reset(self._request.transport)
        raise ClientGone
