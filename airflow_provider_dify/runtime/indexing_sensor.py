"""One try of a sensor that waits for documents to be indexed."""

from __future__ import annotations

import inspect
import random
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import (
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseSensorOperator,
    PokeReturnValue,
)

from airflow_provider_dify.api.knowledge import IndexingStatus
from airflow_provider_dify.api.knowledge_operations import check_uuid
from airflow_provider_dify.api.operations import check_id
from airflow_provider_dify.api.values import shape_of
from airflow_provider_dify.client.deadlines import ending_by
from airflow_provider_dify.exceptions import (
    DifyError,
    DifyIndexingError,
    DifyIndexingSensorTimeoutError,
    DifyInvalidInputError,
    DifyTriggerEventError,
    is_final,
)
from airflow_provider_dify.names import DATASET_URL_XCOM_KEY
from airflow_provider_dify.rules.deferring import leaves_worker_at
from airflow_provider_dify.rules.knowledge_indexing import NO_WORKER, Waited, reason, wait_for_batches
from airflow_provider_dify.rules.polling import COLLECT_SECONDS, Deadline
from airflow_provider_dify.rules.settings import PollSchedule
from airflow_provider_dify.runtime.deferral import defer
from airflow_provider_dify.runtime.knowledge_wait import follow
from airflow_provider_dify.runtime.run_link import dataset_url, push_url

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class IndexingSensorRun:
    """One try of the sensor.

    :param sensor: The sensor, with its templates rendered.
    :param context: Airflow's context of the try.
    """

    def __init__(self, sensor: Any, context: Context) -> None:
        self._sensor = sensor
        self._context = context
        self._hook = sensor.hook
        self._dataset_id = ""
        self._batches: list[str] = []

    def begin(self) -> Any:
        """Wait here, or defer."""
        try:
            self._check()
            now = time.time()
            deadline = Deadline.after(
                now, self._sensor.timeout, started_at=now, execution_timeout=self._sensor.execution_timeout
            )
            return self._wait(deadline)
        except DifyError as error:
            self._give_up(error)

    def resume(self, event: Any) -> Any:
        """Go on where the triggerer has handed the sensor back: the server is asked again."""
        try:
            state = event.get("resume") if isinstance(event, Mapping) else None
            if not isinstance(state, Mapping) or not {"end_time", "limit"} <= state.keys():
                raise DifyTriggerEventError(
                    "The event that resumed the sensor is none of this version's trigger: clear the task."
                )
            self._check()
            return self._wait(Deadline(state["end_time"], state["limit"]))
        except DifyError as error:
            self._give_up(error)

    def rescheduled(self) -> Any:
        """Let Airflow poke and reschedule, with the errors of the other modes."""
        try:
            self._check()
            try:
                # Airflow 2 takes a nested call of a decorated execute for one from outside of a task, and warns.
                return inspect.unwrap(BaseSensorOperator.execute)(self._sensor, self._context)
            except AirflowSensorTimeout as error:
                raise DifyIndexingSensorTimeoutError(f"{error} The documents are not indexed.") from error
        except DifyError as error:
            self._give_up(error)

    def poke(self) -> PokeReturnValue:
        """Ask once; transient errors are ignored."""
        self._check()
        try:
            found = self._ask()
        except DifyError as error:
            if is_final(error):
                raise
            self._sensor.log.info("The indexing could not be asked for, which is tried again: %s", error.message)
            return PokeReturnValue(is_done=False)
        if not all(each.state.has_ended for each in found):
            return PokeReturnValue(is_done=False)
        return PokeReturnValue(is_done=True, xcom_value=self._result(found))

    def _check(self) -> None:
        self._dataset_id = check_uuid(self._sensor.dataset_id, "dataset_id")
        batch = self._sensor.batch
        batches = [batch] if isinstance(batch, str) else batch
        if not isinstance(batches, Sequence) or not batches:
            raise DifyInvalidInputError(
                f"batch must be the batch of an upload, or a list of them, and is {shape_of(batch)}."
            )
        self._batches = list(dict.fromkeys(check_id(each, "batch") for each in batches))
        url = dataset_url(self._hook.connection.console_url, self._dataset_id)
        if url is not None:
            push_url(self._context["ti"], DATASET_URL_XCOM_KEY, url)

    def _ask(self) -> list[IndexingStatus]:
        return [each for batch in self._batches for each in self._hook.get_indexing_status(self._dataset_id, batch)]

    def _wait(self, deadline: Deadline) -> Any:
        sensor = self._sensor
        leaves_at = leaves_worker_at(time.time(), sensor.defer_after, deadline) if sensor.deferrable else None
        here = deadline if leaves_at is None else Deadline(min(deadline.at, leaves_at), deadline.limit)
        flow = wait_for_batches(
            self._batches,
            schedule=PollSchedule(sensor.poke_interval, sensor.poke_interval),
            deadline=here,
            clock=time.time,
            jitter=random.random,
        )
        waited = follow(self._hook, self._dataset_id, flow, sensor.log.info, here)
        if waited.error is not None:
            raise waited.error
        if waited.timed_out:
            if leaves_at is None or deadline.left(time.time()) <= 0:
                raise self._timed_out(waited, deadline)
            self._defer(deadline)
        with ending_by(deadline.at_least(time.time() + COLLECT_SECONDS)):
            return self._result(self._ask())

    def _timed_out(self, waited: Waited, deadline: Deadline) -> DifyIndexingSensorTimeoutError:
        what = NO_WORKER if waited.stuck else "Dify goes on with them."
        return DifyIndexingSensorTimeoutError(
            f"{len(waited.pending) or len(self._batches)} documents were not indexed by {deadline} ({deadline.limit}). "
            f"{what}"
        )

    def _defer(self, deadline: Deadline) -> NoReturn:
        # No framework timeout, so that a sensor in the triggerer ends with the same error as one on a worker.
        defer(
            self._sensor,
            "DifyIndexingTrigger",
            "execute_complete",
            {
                "dify_conn_id": self._sensor.dify_conn_id,
                "dataset_id": self._dataset_id,
                "batches": self._batches,
                "end_time": deadline.at,
                "poll_interval": self._sensor.poke_interval,
                "max_poll_interval": self._sensor.poke_interval,
                "resume": {"end_time": deadline.at, "limit": deadline.limit},
            },
        )

    def _result(self, found: Sequence[IndexingStatus]) -> list[dict[str, Any]]:
        """Return what XCom carries.

        :raises DifyIndexingError: A document could not be indexed.
        """
        failed = [f"document {each.document_id}: {reason(each.error)}" for each in found if str(each.state) == "error"]
        if failed:
            raise DifyIndexingError(
                f"{len(failed)} of {len(found)} documents could not be indexed: {'; '.join(failed[:5])}. Upload them "
                "again once the cause is mended: a retry of this sensor is answered the same way."
            )
        return [
            {
                "document_id": each.document_id,
                "state": str(each.state),
                "completed_segments": each.completed_segments,
                "total_segments": each.total_segments,
            }
            for each in found
        ]

    def _give_up(self, error: DifyError) -> NoReturn:
        """Skip where the author asked for it: Airflow's own rules differ by mode and version."""
        if self._sensor.soft_fail or self._sensor.never_fail:
            option = "soft_fail" if self._sensor.soft_fail else "never_fail"
            raise AirflowSkipException(f"Skipping, since {option} is set: {error}") from error
        raise error
