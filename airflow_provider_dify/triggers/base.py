"""What all triggers of this provider share: one event, and what follows a cancel."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import AsyncIterator
from inspect import signature
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_dify.rules.deferring import left_to_hold
from airflow_provider_dify.runtime.report import RESUME
from airflow_provider_dify.runtime.stopping import CALLS_ON_KILL, ON_KILL_SECONDS, ended_by_person, shielded

# What a cancelled wait has open is closed at once; a server that does not let go of it holds nothing up.
CLOSE_SECONDS = 2.0


class OneEventTrigger(BaseTrigger):
    """A trigger that waits, fires once, and stops what it waits for when a user cancels the task.

    :param cancel_on_kill: Whether it stops anything.
    :param not_before: Unix seconds before which the trigger does not fire in a triggerer.
    :param resume: What the event carries back to the task; None for nothing.
    """

    def __init__(
        self, *, cancel_on_kill: bool = False, not_before: float | None = None, resume: dict[str, Any] | None = None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.cancel_on_kill = cancel_on_kill
        self.not_before = not_before
        self.resume = resume

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments; none of them is secret."""
        kind = type(self)
        return f"{kind.__module__}.{kind.__name__}", {name: getattr(self, name) for name in signature(kind).parameters}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield one event."""
        work = asyncio.ensure_future(self._event())
        try:
            # Not awaited itself: what it awaits may swallow the message by which Airflow knows a user's cancel.
            await asyncio.wait({work})
            event = work.result()
            await asyncio.sleep(self.left_to_hold())
            yield TriggerEvent(event if self.resume is None else {**event, RESUME: self.resume})  # type: ignore[no-untyped-call]
        except asyncio.CancelledError:
            await self._cancelled(work)
            raise

    def left_to_hold(self) -> float:
        """Return the seconds before which it must not fire.

        0 where no scheduler could be overtaken: ``dag.test()`` runs triggers without a triggerer, which is what gives
        them an id.
        """
        return 0.0 if self.trigger_id is None else left_to_hold(self.not_before, time.time())

    async def on_kill(self) -> None:
        """Stop what the trigger waits for when a user marked, cleared or failed the task.

        Called by Airflow 3.3 and later, and by ``run`` before. Some versions call it as well when a healthy
        trigger is handed to another triggerer (apache/airflow 73454), so the task's state is asked first.
        """
        if self.cancel_on_kill:
            await shielded(self._stop_if_ended(), ON_KILL_SECONDS)

    async def _stop_if_ended(self) -> None:
        if await ended_by_person(self):
            await self._stop()

    async def _cancelled(self, work: asyncio.Future[Any]) -> None:
        work.cancel()
        await shielded(asyncio.wait({work}), CLOSE_SECONDS)
        if not CALLS_ON_KILL:
            await self.on_kill()

    @abstractmethod
    async def _event(self) -> dict[str, Any]:
        """Wait for what the trigger is for, close what that needed, and return the payload of the event."""

    async def _stop(self) -> None:
        """Stop what the trigger waits for; called when a user has ended the task."""
