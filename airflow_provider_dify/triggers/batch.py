"""The trigger that runs a batch: it submits and collects in the triggerer."""

from __future__ import annotations

import asyncio
from typing import Any

from airflow_provider_dify.exceptions import DifyError
from airflow_provider_dify.hooks.dify import DifyHook
from airflow_provider_dify.rules.batch_protocol import BatchTakenOverError
from airflow_provider_dify.rules.batch_settings import BatchSettings
from airflow_provider_dify.runtime.batch_engine import BatchEngine
from airflow_provider_dify.runtime.batch_process import prepare, run_batch
from airflow_provider_dify.runtime.metrics import Metrics
from airflow_provider_dify.runtime.report import SearchReport
from airflow_provider_dify.runtime.stopping import CALLS_ON_KILL, shielded
from airflow_provider_dify.triggers.base import OneEventTrigger

TAKEN_OVER_SECONDS = 60.0
_CLOSE_SECONDS = 5.0


class DifyBatchTrigger(OneEventTrigger):
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
        super().__init__(cancel_on_kill=cancel_on_kill, not_before=not_before)
        self.settings = settings
        self.dify_conn_id = dify_conn_id
        self._engine: BatchEngine | None = None

    async def _cancelled(self, work: asyncio.Future[Any]) -> None:
        # The runs are stopped by what is at work.
        if self._engine is not None:
            self._engine.stop_submitting()
        if not CALLS_ON_KILL:
            await self.on_kill()
        work.cancel()
        await shielded(asyncio.wait({work}), _CLOSE_SECONDS)

    async def _event(self) -> dict[str, Any]:
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

    async def _stop(self) -> None:
        engine = self._engine
        if engine is None:
            return
        asked = await engine.stop_all()
        self.log.info("Dify was asked to stop %s active runs, since their task was ended in Airflow.", asked)
