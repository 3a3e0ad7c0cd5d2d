"""The trigger that waits until documents of a knowledge base are indexed."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any

from airflow_provider_dify.client.deadlines import ending_by
from airflow_provider_dify.rules.knowledge_indexing import WaitFlow, wait_for_batches, wait_for_sync
from airflow_provider_dify.rules.polling import Deadline
from airflow_provider_dify.rules.settings import PollSchedule
from airflow_provider_dify.runtime.knowledge_wait import DatasetPoller
from airflow_provider_dify.triggers.base import OneEventTrigger


class DifyIndexingTrigger(OneEventTrigger):
    """Wait until documents are indexed, or until there is no time left, and fire.

    All triggers of a triggerer that wait for one knowledge base share a session and its pages. What has become of the
    documents is not in the event: the task asks again, since Dify is the authority.

    :param dify_conn_id: The Airflow connection; read in the triggerer, never serialised.
    :param dataset_id: The knowledge base.
    :param sync_id: Waits for all documents of this sync.
    :param batches: Waits for the documents of these uploads; in place of ``sync_id``.
    :param end_time: Deadline in unix seconds.
    :param poll_interval: Seconds to the second question; the distance doubles from there.
    :param max_poll_interval: Seconds between two questions at most.
    :param not_before: Unix seconds before which the trigger does not fire in a triggerer.
    :param resume: What the event carries back to the task.
    """

    def __init__(
        self,
        dify_conn_id: str,
        dataset_id: str,
        end_time: float,
        poll_interval: float,
        max_poll_interval: float,
        sync_id: str | None = None,
        batches: Sequence[str] = (),
        not_before: float | None = None,
        resume: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(not_before=not_before, resume=resume or {})
        self.dify_conn_id = dify_conn_id
        self.dataset_id = dataset_id
        self.end_time = end_time
        self.poll_interval = poll_interval
        self.max_poll_interval = max_poll_interval
        self.sync_id = sync_id
        self.batches = list(batches)

    async def _event(self) -> dict[str, Any]:
        deadline = Deadline(self.end_time)
        poller = DatasetPoller.join(self.dify_conn_id, self.dataset_id)
        try:
            with ending_by(deadline):
                await poller.follow(self._flow(deadline), self.log.info, deadline)
        finally:
            await poller.leave()
        return {}

    def _flow(self, deadline: Deadline) -> WaitFlow:
        settings: dict[str, Any] = {
            "schedule": PollSchedule(self.poll_interval, self.max_poll_interval),
            "deadline": deadline,
            "clock": time.time,
            "jitter": random.random,
        }
        if self.sync_id is not None:
            return wait_for_sync(self.sync_id, **settings)
        return wait_for_batches(self.batches, **settings)
