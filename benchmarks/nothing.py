"""A trigger that waits for nothing: what a triggerer itself costs for each task that is deferred."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent


class NothingTrigger(BaseTrigger):
    """Sleeps for a day.

    :param index: Tells it from others.
    """

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{__name__}.NothingTrigger", {"index": self.index}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        await asyncio.sleep(86400)
        yield TriggerEvent(None)
