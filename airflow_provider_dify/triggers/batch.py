"""The trigger that runs a batch: it submits and collects in the triggerer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_dify.exceptions import DifyError
from airflow_provider_dify.hooks.dify import DifyHook
from airflow_provider_dify.rules.batch_protocol import BatchTakenOverError
from airflow_provider_dify.rules.batch_settings import BatchSettings
from airflow_provider_dify.rules.deferring import left_to_hold
from airflow_provider_dify.runtime.batch_engine import BatchEngine
from airflow_provider_dify.runtime.batch_process import prepare, run_batch
from airflow_provider_dify.runtime.metrics import Metrics
from airflow_provider_dify.runtime.report import SearchReport
from airflow_provider_dify.runtime.stopping import CALLS_ON_KILL, ON_KILL_SECONDS, ended_by_person, shielded

TAKEN_OVER_SECONDS = 60.0
_CLOSE_SECONDS = 5.0


class DifyBatchTrigger(BaseTrigger):
    """Run a batch from wherever the process before has left it, and fire once, with its manifest.

    A triggerer that is restarted, or another one that is handed the trigger, takes the batch over by its folder.

    :param settings: ``BatchSettings`` as JSON; nothing in them is secret.
    :param dify_conn_id: The Airflow connection; read in the triggerer, never serialised.
    :param cancel_on_kill: Whether the active runs are stopped when a user cancels the task.
    :param not_before: Unix seconds before which the trigger does not fire in a triggerer.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        dify_conn_id: str,
        cancel_on_kill: bool = True,
        not_before: float | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.settings = settings
        self.dify_conn_id = dify_conn_id
        self.cancel_on_kill = cancel_on_kill
        self.not_before = not_before
        self._engine: BatchEngine | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments."""
        return "airflow_provider_dify.triggers.batch.DifyBatchTrigger", {
            "settings": self.settings,
            "dify_conn_id": self.dify_conn_id,
            "cancel_on_kill": self.cancel_on_kill,
            "not_before": self.not_before,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Run the batch, and yield one event."""
        work = asyncio.ensure_future(self._report())
        try:
            # Not awaited itself: what it awaits may swallow the message by which Airflow knows a user's cancel.
            await asyncio.wait({work})
            event = work.result()
            await asyncio.sleep(0.0 if self.trigger_id is None else left_to_hold(self.not_before, time.time()))
            yield TriggerEvent(event)  # type: ignore[no-untyped-call]
        except asyncio.CancelledError:
            if self._engine is not None:
                self._engine.stop_submitting()
            if not CALLS_ON_KILL:
                await self.on_kill()
            work.cancel()
            await shielded(_over(work), _CLOSE_SECONDS)
            raise

    async def _report(self) -> dict[str, Any]:
        from asgiref.sync import sync_to_async

        settings = BatchSettings.read(self.settings)
        metrics = Metrics(self.dify_conn_id, in_triggerer=True)
        while True:
            try:
                prepared = await sync_to_async(prepare)(settings)
                hook = DifyHook(self.dify_conn_id)
                manifest = await run_batch(hook, settings, prepared, metrics, self.log, self._take_engine)
                return {"status": "ended", "manifest": manifest}
            except BatchTakenOverError as error:
                # An event of this process would resume the task under the one that goes on. A triggerer cancels a
                # trigger that another one has; who is not cancelled by then is the one that has to go on.
                self.log.warning("%s", error)
                await asyncio.sleep(TAKEN_OVER_SECONDS)
            except DifyError as error:
                return SearchReport.of_error(error).event()

    def _take_engine(self, engine: BatchEngine) -> None:
        self._engine = engine

    async def on_kill(self) -> None:
        """Stop the active runs when a user marked, cleared or failed the task.

        Called by Airflow 3.3 and later, and by ``run`` before. Some versions call it as well when a healthy
        trigger is handed to another triggerer (apache/airflow 73454), so the task's state is asked first.
        """
        if self.cancel_on_kill:
            await shielded(self._stop_if_ended(), ON_KILL_SECONDS)

    async def _stop_if_ended(self) -> None:
        engine = self._engine
        if engine is None or not await ended_by_person(self):
            return
        asked = await engine.stop_all()
        self.log.info("Dify was asked to stop %s active runs, since their task was ended in Airflow.", asked)


async def _over(work: asyncio.Future[Any]) -> None:
    await asyncio.wait({work})
