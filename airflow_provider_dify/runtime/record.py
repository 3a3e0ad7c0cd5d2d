"""What is remembered of a submission: from try to try in a record that Airflow keeps, and over a deferral."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from threading import Thread
from typing import TYPE_CHECKING, Any

from airflow_provider_dify.api.runs import StartedRun
from airflow_provider_dify.compat import tasks_reach_database, try_in_database
from airflow_provider_dify.exceptions import DifyError
from airflow_provider_dify.rules.earlier_tries import SubmissionRecord, TaskTry
from airflow_provider_dify.runtime.airflow_errors import reason_of
from airflow_provider_dify.runtime.resolve_inputs import Prepared

if TYPE_CHECKING:
    from airflow.models.taskinstance import TaskInstance

STORE_KEY = "dify_submission"
# Airflow kills a process 5 s after it has asked it to end, and the stop of the run takes its time too.
ASK_SECONDS = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Submission:
    """What a task knows of its submission, also after it was deferred.

    :param user: Dify's ``user``; the marker of this try, unless the DAG author has set one.
    :param submitted_at: Unix seconds of the first submission, from which the deadline follows.
    :param started_at: Unix seconds at which the try started.
    :param attempts: Submissions that were rate-limited.
    :param prepared: What was made of the task's files; None before the inputs were checked and the files uploaded.
    :param resubmissions: Submissions of this try that followed a run which the server's shutdown had stopped.
    :param ended: The runs that were stopped so, of the same user.
    :param doubtful: Whether a submission that was not found was sent again.
    :param hint: What a submission that was answered with silence may mean on this server.
    """

    user: str
    submitted_at: float
    started_at: float
    attempts: int = 0
    prepared: Prepared | None = None
    resubmissions: int = 0
    ended: tuple[str, ...] = ()
    doubtful: bool = False
    hint: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return what is kept while the task is deferred."""
        return {**asdict(self), "ended": list(self.ended)}

    @classmethod
    def read(cls, state: dict[str, Any]) -> Submission:
        """Return what was known before the task was deferred, maybe by a newer version of this package."""
        known = {field.name for field in fields(cls)}
        kept = {name: value for name, value in state.items() if name in known}
        if kept.get("prepared") is not None:
            kept["prepared"] = Prepared(**kept["prepared"])
        return cls(**{**kept, "ended": tuple(kept.get("ended") or ())})


class SubmissionRecords:
    """Remembers a submission across the tries of one task instance.

    Airflow 3.3 and later have a task state store for that, and on Airflow 2 its audit log does: both survive a retry,
    a kill and a clear. What is written before the POST tells a later try that there may be a run; what is missing
    there tells that there is none. Airflow 3.0 to 3.2 offer a task nothing of the kind: only the markers in Dify's
    logs are left there, and those do not list a queued run.

    What a try begins with must be read, and the note before the POST must be written: without either a try, or the
    next one, would believe that nothing was sent. Everything else is a help for the next try, and may fail.

    :param context: The task's context.
    :param task_try: This try.
    :param durable: Whether anything is remembered at all.
    """

    def __init__(self, context: Any, task_try: TaskTry, *, durable: bool) -> None:
        self._try = task_try
        self._store: Any = _store_of(context) if durable else None

    def read(self) -> SubmissionRecord | None:
        """Return what was written last, by this try or an earlier one, of this clear generation or an earlier one.

        :raises DifyError: The store failed; nothing may be sent then.
        """
        if self._store is None:
            return None
        try:
            return SubmissionRecord.read(self._store.get(STORE_KEY))
        except Exception as error:
            raise _store_error("read", error) from error

    def is_superseded(self) -> bool:
        """Tell whether another try of the task goes on with what this process has begun.

        Asked when a process is killed: Airflow also kills one that it took for dead, and whose run another try may
        have reattached since. That may be in the middle of another call, so it is asked in a thread, and not for long.
        """
        answers: list[bool] = []

        def ask() -> None:
            with suppress(Exception):
                asks_database = self._store is None or isinstance(self._store, AuditLog)
                answers.append(_is_superseded_in_database(self._try) if asks_database else self._is_noted_by_later())

        thread = Thread(target=ask, daemon=True)
        thread.start()
        thread.join(ASK_SECONDS)
        return bool(answers) and answers[0]

    def _is_noted_by_later(self) -> bool:
        # To a process whose task instance has become another try the store of Airflow 3.3 shows nothing.
        kept = self.read()
        return kept is None or (kept.number is not None and kept.number > self._try.number)

    @property
    def is_complete(self) -> bool:
        """Whether a submission of an earlier try would have been found here."""
        return self._store is not None

    def record_intent(self, user: str, ended: tuple[str, ...] = ()) -> None:
        """Write down that a submission is about to be sent.

        To be called as late as can be: a process that dies before it has submitted nothing, and the next try
        submits at once; one that dies after it may have, and the next try searches for the run until its deadline.

        :param user: The ``user`` of the submission.
        :param ended: Runs of the same user that have ended, and after which this one is submitted.
        :raises DifyError: The store failed, or another try goes on with the task; nothing may be sent then.
        """
        if self._store is None:
            return
        try:
            # Airflow 3.3 itself refuses the note of a process that it has given up.
            is_given_up = isinstance(self._store, AuditLog) and try_in_database(self._try)[0] > self._try.number
            if not is_given_up:
                self._store.set(STORE_KEY, replace(self._note(user), ended=ended).as_json())
        except Exception as error:
            raise _store_error("written", error) from error
        if is_given_up:
            raise DifyError("Airflow has given up this try of the task, so nothing was submitted.")

    def started(self, run: StartedRun, user: str, *, settled: bool = False) -> None:
        """Write down which run there is.

        :param settled: Whether it is accounted for. That is written down and not forgotten, since the process may
            still die, or fail to hand over its outputs, before Airflow knows of its success.
        """
        if self._store is None:
            return
        try:
            self._store.set(STORE_KEY, self._note(user, run, settled=settled).as_json())
        except Exception as error:
            _warn("written", error)

    def clear(self) -> None:
        """Forget the submission: there is no run, or none that a retry would take."""
        if self._store is None:
            return
        try:
            self._store.delete(STORE_KEY)
        except Exception as error:
            _warn("cleared", error)

    def _note(self, user: str, run: StartedRun | None = None, *, settled: bool = False) -> SubmissionRecord:
        run_id, task_id = (None, None) if run is None else (run.workflow_run_id, run.task_id)
        return SubmissionRecord(self._try.generation, user, run_id, task_id, number=self._try.number, settled=settled)


def _store_of(context: Any) -> Any:
    store = context.get("task_state_store")
    return AuditLog.of(context) if store is None else store


def _store_error(action: str, error: Exception) -> DifyError:
    return DifyError(
        f"The record of this task's submission could not be {action} ({reason_of(error)}), so nothing was "
        "submitted: a retry could not tell whether there is a run.",
        on_retry="A retry of the task tries again.",
    )


def _warn(action: str, error: Exception) -> None:
    log.warning(
        "The record of this task's submission could not be %s (%s). The task goes on; a retry goes by Dify's logs.",
        action,
        reason_of(error),
    )


def _is_superseded_in_database(this: TaskTry) -> bool:
    if not tasks_reach_database():
        # Airflow 3.0 to 3.2: nothing tells a task which try its task instance is at.
        return False
    number, state = try_in_database(this)
    return number > this.number or (number > 0 and state in (None, "up_for_retry"))


def task_try(ti: Any, retries: int | None) -> TaskTry:
    """Return the try that a task instance stands for."""
    return TaskTry(
        dag_id=str(ti.dag_id),
        task_id=str(ti.task_id),
        run_id=str(ti.run_id),
        map_index=int(ti.map_index),
        generation=int(ti.max_tries or 0),
        number=int(ti.try_number),
        retries=int(retries or 0),
    )


class AuditLog:
    """Keeps a value for each key of a task instance, over its tries and clear generations, in Airflow 2's audit log.

    It stands for the task state store of Airflow 3.3. Each change is one more row, the last one counts, and people see
    them among the task's events. Rows of a DAG run that was deleted, and started again under the same id, are none of
    the new one's. ``airflow db clean`` of the table ``log``, while a task is between two tries, makes it forget.

    :param ti: The task instance.
    :param dag_run_key: The primary key of its DAG run.
    """

    def __init__(self, ti: TaskInstance, dag_run_key: int) -> None:
        self._ti = ti
        self._dag_run_key = dag_run_key

    @classmethod
    def of(cls, context: Any) -> AuditLog | None:
        """Return that of a task; None on Airflow 3, for ``airflow tasks test``, and without access to the database."""
        if not tasks_reach_database():
            return None
        from airflow.models.dagrun import DagRun
        from airflow.models.taskinstance import TaskInstance

        ti, dag_run = context["ti"], context.get("dag_run")
        if not isinstance(ti, TaskInstance) or not isinstance(dag_run, DagRun) or dag_run.id is None:
            return None
        return cls(ti, int(dag_run.id))

    def get(self, key: str) -> Any:
        """Return the last value; None for none."""
        from airflow.models.log import Log
        from airflow.utils.session import create_session

        with create_session() as session:
            row = (
                session.query(Log.extra)
                .filter_by(
                    event=key,
                    dag_id=self._ti.dag_id,
                    task_id=self._ti.task_id,
                    run_id=self._ti.run_id,
                    map_index=self._ti.map_index,
                )
                .order_by(Log.id.desc())
                .first()
            )
        kept = None if row is None else json.loads(str(row[0]))
        return kept["value"] if kept is not None and kept["dag_run"] == self._dag_run_key else None

    def set(self, key: str, value: Any) -> None:
        """Add a row with the value, which JSON must be able to hold."""
        from airflow.models.log import Log
        from airflow.utils.session import create_session

        extra = json.dumps({"dag_run": self._dag_run_key, "value": value})
        with create_session() as session:
            session.add(Log(event=key, task_instance=self._ti, extra=extra))

    def delete(self, key: str) -> None:
        """Add a row that says that there is no value any more."""
        self.set(key, None)
