"""The sensor for documents that something else has uploaded: its parameters."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseSensorOperator, conf

from airflow_provider_dify.links.dify import DifyDatasetLink
from airflow_provider_dify.names import DEFAULT_KNOWLEDGE_CONN_NAME
from airflow_provider_dify.rules.settings import DEFER_AFTER_SECONDS, PollSchedule, check_bool, seconds_or_zero
from airflow_provider_dify.runtime.error_report import reports_errors

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, PokeReturnValue

    from airflow_provider_dify.hooks.knowledge import DifyKnowledgeHook
    from airflow_provider_dify.runtime.indexing_sensor import IndexingSensorRun

POKE_SECONDS = 5.0
TIMEOUT_SECONDS = 3600.0


class DifyDocumentIndexingSensor(BaseSensorOperator):
    """Wait until the documents of an upload are indexed.

    It fails for a document that Dify could not index. ``soft_fail`` and ``never_fail`` skip the task for whatever would
    have failed it, in all modes.

    :param dataset_id: The knowledge base. Templated.
    :param batch: The batch that the answer to the upload names, or a list of them. Templated.
    :param dify_conn_id: The Airflow connection, with a key of the knowledge API (``dataset-…``). Templated.
    :param deferrable: Whether to wait in the triggerer. The default is ``[operators] default_deferrable``.
    :param defer_after: Seconds, or a timedelta, for which a deferrable sensor waits on its worker first.
    :param poke_interval: Seconds, or a timedelta, between two questions.
    :param timeout: Seconds, or a timedelta, from the sensor's start to its deadline. With ``mode="reschedule"`` it is
        counted as Airflow does.

    The return value is a list with ``document_id``, ``state``, ``completed_segments`` and ``total_segments`` of each
    document.
    """

    template_fields: Sequence[str] = ("dataset_id", "batch", "dify_conn_id")
    operator_extra_links = (DifyDatasetLink(),)
    ui_color = "#e8efff"

    def __init__(
        self,
        *,
        dataset_id: str,
        batch: str | Sequence[str],
        dify_conn_id: str = DEFAULT_KNOWLEDGE_CONN_NAME,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        defer_after: float | timedelta = DEFER_AFTER_SECONDS,
        poke_interval: float | timedelta = POKE_SECONDS,
        timeout: float | timedelta = TIMEOUT_SECONDS,
        **kwargs: Any,
    ) -> None:
        schedule = PollSchedule.checked(poke_interval, poke_interval, names=("poke_interval", "poke_interval"))
        super().__init__(
            poke_interval=schedule.first,
            timeout=schedule.checked_timeout(timeout, "timeout", "poke_interval"),
            **kwargs,
        )
        self.dataset_id = dataset_id
        self.batch = batch
        self.dify_conn_id = dify_conn_id
        self.deferrable = check_bool(deferrable, "deferrable")
        self.defer_after = seconds_or_zero(defer_after, "defer_after")

    @cached_property
    def hook(self) -> DifyKnowledgeHook:
        """The hook of the sensor's connection."""
        from airflow_provider_dify.hooks.knowledge import DifyKnowledgeHook

        return DifyKnowledgeHook(self.dify_conn_id)

    def _run(self, context: Context) -> IndexingSensorRun:
        # Airflow parses DAG files again and again: only a sensor that runs pays for what running needs.
        from airflow_provider_dify.runtime.indexing_sensor import IndexingSensorRun

        return IndexingSensorRun(self, context)

    @reports_errors
    def execute(self, context: Context) -> Any:
        """Wait for the documents: here, in the triggerer, or from one reschedule to the next.

        :return: How far the documents are: all of them searchable.
        :raises DifyIndexingError: One could not be indexed.
        :raises DifyIndexingSensorTimeoutError: They were not indexed in time.
        :raises DifyError: The server refused to be asked.
        :raises AirflowSkipException: The same, with ``soft_fail`` or ``never_fail``.
        """
        run = self._run(context)
        return run.rescheduled() if self.reschedule and not self.deferrable else run.begin()

    @reports_errors
    def execute_complete(self, context: Context, event: Any) -> Any:
        """Go on with the sensor when the trigger has fired.

        :param event: The trigger's event.
        :return: As ``execute``.
        :raises DifyError: As a sensor that waits by itself.
        """
        return self._run(context).resume(event)

    def poke(self, context: Context) -> PokeReturnValue:
        """Ask once.

        :return: Whether all documents have ended, with how far they are.
        :raises DifyError: One could not be indexed, or another question would be answered the same way.
        """
        return self._run(context).poke()
