"""Airflow 2's audit log as what Airflow 3.3 has a task state store for: notes that outlive a try."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from airflow_provider_dify.compat import tasks_reach_database

if TYPE_CHECKING:
    from airflow.models.taskinstance import TaskInstance


class AuditLog:
    """Keeps a value for each key of a task instance, over its tries and clear generations, in the audit log of Airflow
    2.

    Each change is one more row, the last one counts, and people see them among the task's events. Rows of a DAG run
    that was deleted, and started again under the same id, are none of the new one's. Who cleans the ``log`` table
    (``airflow db clean``) while a task is between two tries makes it forget.

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
        told = None if row is None else json.loads(str(row[0]))
        return told["value"] if told is not None and told["dag_run"] == self._dag_run_key else None

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
