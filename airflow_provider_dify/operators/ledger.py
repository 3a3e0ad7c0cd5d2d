"""What the tries of one task instance know of each other: Airflow's task state store, where there is one."""

from __future__ import annotations

import logging
from typing import Any

from airflow_provider_dify.api.attempts import Submitted, TaskTry
from airflow_provider_dify.api.runs import StartedRun
from airflow_provider_dify.exceptions import DifyError

STORE_KEY = "dify_submission"

log = logging.getLogger(__name__)


class SubmissionLedger:
    """Remembers a submission across the tries of one task instance.

    Airflow 3.3 and later keep a task state store, which survives a retry, a kill and a clear. What is written
    before the POST tells a later try that there may be a run; what is missing there tells that there is none.
    Without a store only the markers in Dify's logs are left, and those do not list a queued run.

    Only the note before the POST must not fail: without it the next try would believe that nothing was sent.

    :param context: The task's context.
    :param task_try: This try.
    :param durable: Whether anything is remembered at all.
    """

    def __init__(self, context: Any, task_try: TaskTry, *, durable: bool) -> None:
        self._try = task_try
        self._store = context.get("task_state_store") if durable else None

    def read(self) -> Submitted | None:
        """Return what was written last, by this try or an earlier one, of this life or a former one."""
        if self._store is None:
            return None
        try:
            return Submitted.read(self._store.get(STORE_KEY))
        except Exception as error:
            self._give_up("read", error)
            return None

    @property
    def is_complete(self) -> bool:
        """Whether a submission of an earlier try would have been found here."""
        return self._store is not None

    def intend(self, user: str) -> None:
        """Write down that a submission is about to be sent.

        To be called as late as can be: a process that dies before it has submitted nothing, and the next try
        submits at once; one that dies after it may have, and the next try looks for the run until its deadline.

        :raises DifyError: The store failed; nothing may be sent then.
        """
        if self._store is None:
            return
        try:
            self._store.set(STORE_KEY, Submitted(self._try.life, user).as_json())
        except Exception as error:
            raise DifyError(
                f"Airflow's task state store could not be written ({type(error).__name__}: {error}), so nothing was "
                "submitted: a retry could not tell whether there is a run. A retry of the task submits."
            ) from error

    def started(self, run: StartedRun, user: str) -> None:
        """Write down which run there is."""
        if self._store is None:
            return
        submitted = Submitted(self._try.life, user, run.workflow_run_id, run.task_id)
        try:
            self._store.set(STORE_KEY, submitted.as_json())
        except Exception as error:
            self._give_up("written", error)

    def settle(self) -> None:
        """Forget the submission: its run is accounted for, or there is none."""
        if self._store is None:
            return
        try:
            self._store.delete(STORE_KEY)
        except Exception as error:
            self._give_up("cleared", error)

    def _give_up(self, deed: str, error: Exception) -> None:
        log.warning("The task state store could not be %s (%s): a retry goes by Dify's logs.", deed, error)
        self._store = None


def task_try(ti: Any, retries: int | None) -> TaskTry:
    """Return the try that a task instance stands for."""
    return TaskTry(
        dag_id=str(ti.dag_id),
        task_id=str(ti.task_id),
        run_id=str(ti.run_id),
        map_index=int(ti.map_index),
        life=int(ti.max_tries or 0),
        number=int(ti.try_number),
        retries=int(retries or 0),
    )
