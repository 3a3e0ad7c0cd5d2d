"""Airflow 2's audit log keeps what a task has submitted, where Airflow 3.3 has its task state store."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_provider_dify.exceptions import DifyError
from airflow_provider_dify.runtime.record import STORE_KEY, AuditLog, SubmissionRecords, task_try
from tests.hooks.support import Start
from tests.integration.airflow_dags import example, initialize_database, is_airflow_2, run

pytestmark = [
    pytest.mark.xdist_group("dags"),
    pytest.mark.skipif(not is_airflow_2(), reason="Airflow 3 gives no task access to its audit log"),
]


@pytest.fixture
def context(dify: Start) -> dict[str, Any]:
    """The context of a task that has run."""
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session

    dify()
    initialize_database()
    outcome = run(example("dify_quickstart"))
    with create_session() as session:
        dag_run = session.query(DagRun).filter_by(run_id=outcome.run_id).one()
        ti = session.query(TaskInstance).filter_by(run_id=outcome.run_id, task_id="summarize").one()
        session.expunge_all()
    return {"ti": ti, "dag_run": dag_run}


def store_of(context: dict[str, Any]) -> AuditLog:
    store = AuditLog.of(context)
    assert store is not None
    return store


def rows(context: dict[str, Any]) -> list[Any]:
    from airflow.models.log import Log
    from airflow.utils.session import create_session

    with create_session() as session:
        found = session.query(Log.extra).filter_by(run_id=context["ti"].run_id, event=STORE_KEY).order_by(Log.id)
        return [json.loads(extra)["value"] for (extra,) in found]


def test_a_task_records_its_submission_its_run_and_that_it_is_settled(context: dict[str, Any]) -> None:
    reported = [(note["workflow_run_id"] is not None, note["settled"]) for note in rows(context)]
    assert reported == [(False, False), (True, False), (True, True)]
    assert store_of(context).get(STORE_KEY) == rows(context)[-1]


def test_the_last_value_counts(context: dict[str, Any]) -> None:
    store = store_of(context)
    store.set(STORE_KEY, {"a": 1})
    store.set(STORE_KEY, {"a": 2})
    assert store_of(context).get(STORE_KEY) == {"a": 2}
    store.delete(STORE_KEY)
    assert store_of(context).get(STORE_KEY) is None


def test_another_task_instance_has_notes_of_its_own(context: dict[str, Any]) -> None:
    context["ti"].map_index = 7
    assert store_of(context).get(STORE_KEY) is None


def test_a_dag_run_of_a_deleted_ones_id_has_none_of_its_notes(context: dict[str, Any]) -> None:
    context["dag_run"].id += 1
    assert store_of(context).get(STORE_KEY) is None


def test_a_process_that_airflow_has_given_up_submits_nothing(context: dict[str, Any]) -> None:
    before = rows(context)
    late = task_try(context["ti"], 2)
    object.__setattr__(late, "number", late.number - 1)
    with pytest.raises(DifyError, match="has given up this try of the task, so nothing was submitted"):
        SubmissionRecords(context, late, durable=True).record_intent(late.marker)
    assert rows(context) == before


def test_a_task_without_access_to_the_database_has_no_notes() -> None:
    assert AuditLog.of({"ti": object(), "dag_run": object()}) is None
