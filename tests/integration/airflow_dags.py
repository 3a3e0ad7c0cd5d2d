"""Runs DAGs as ``dag.test()`` does, on any supported Airflow, and tells what came of them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tests.conftest import EXAMPLES, HOME
from tests.integration.airflow_database import copy_empty_database


@dataclass
class Outcome:
    """What a DAG run left behind: states and XComs by task id and map index (-1 where not mapped)."""

    state: str
    run_id: str
    states: dict[tuple[str, int], str] = field(default_factory=dict)
    xcoms: dict[tuple[str, int, str], Any] = field(default_factory=dict)

    def xcom(self, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        return self.xcoms.get((task_id, map_index, key))


@cache
def initialize_database() -> None:
    """Create Airflow's tables in the database of the tests, once for each process."""
    copy_empty_database(HOME / "airflow.db")


def is_airflow_2() -> bool:
    import airflow

    return airflow.__version__.startswith("2.")


def dag_bag(folder: Path | str) -> Any:
    try:
        from airflow.dag_processing.dagbag import DagBag
    except ImportError:
        from airflow.models.dagbag import DagBag
    return DagBag(str(folder))


def store(bag: Any) -> None:
    """Put a bag's DAGs into the database, without which Airflow 3.1 and later test none; 3.0 does without."""
    if is_airflow_2():
        bag.sync_to_db()
        return
    try:
        from airflow.dag_processing.dagbag import sync_bag_to_db
    except ImportError:
        from airflow.models import dagbag

        sync_bag_to_db: Any = getattr(dagbag, "sync_bag_to_db", None)
        if sync_bag_to_db is None:
            return
    from airflow.models.dagbundle import DagBundleModel
    from airflow.utils.session import create_session

    with create_session() as session:
        session.merge(DagBundleModel(name="testing"))
    sync_bag_to_db(bag, "testing", None)


def example(dag_id: str) -> Any:
    """Return an example DAG, as Airflow reads it from its file."""
    bag = dag_bag(EXAMPLES / f"{dag_id}.py")
    assert bag.import_errors == {}
    return bag.dags[dag_id]


def run(dag: Any, conf: dict[str, Any] | None = None) -> Outcome:
    """Run a DAG to its end in this process, triggers included."""
    initialize_database()
    bag = dag_bag(EXAMPLES / "none.py")
    if is_airflow_2():
        bag.bag_dag(dag, root_dag=dag)
    else:
        bag.bag_dag(dag)
    store(bag)
    dag_run = dag.test(run_conf=conf)
    return outcome_of(dag.dag_id, dag_run.run_id)


def outcome_of(dag_id: str, run_id: str) -> Outcome:
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session

    with create_session() as session:
        dag_run = session.query(DagRun).filter_by(dag_id=dag_id, run_id=run_id).one()
        outcome = Outcome(str(dag_run.state), run_id)
        for ti in session.query(TaskInstance).filter_by(dag_id=dag_id, run_id=run_id):
            outcome.states[ti.task_id, ti.map_index] = str(ti.state)
        for row in xcom_rows(session, dag_id, run_id):
            outcome.xcoms[row.task_id, row.map_index, row.key] = decoded(row.value)
    return outcome


def latest_outcome_of(dag_id: str) -> Outcome:
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    with create_session() as session:
        (run_id,) = session.query(DagRun.run_id).filter_by(dag_id=dag_id).order_by(DagRun.id.desc()).first()
    return outcome_of(dag_id, run_id)


def decoded(value: Any) -> Any:
    """Return an XCom's value: most are stored as JSON text, but Airflow 3 stores some of its own as they are."""
    try:
        return json.loads(value)
    except (TypeError, ValueError):
        return value


def xcom_rows(session: Any, dag_id: str, run_id: str) -> list[Any]:
    if is_airflow_2():
        from airflow.models.xcom import XCom as Model
    else:
        from airflow.models.xcom import XComModel as Model
    columns = (Model.task_id, Model.map_index, Model.key, Model.value)
    return list(session.query(*columns).filter(Model.dag_id == dag_id, Model.run_id == run_id))


def set_deferrable(dag: Any, deferrable: bool) -> None:
    """Let all of a DAG's Dify tasks wait in the triggerer, or on the worker."""
    for each in dag.tasks:
        partial = getattr(each, "partial_kwargs", None)
        if partial is not None and "deferrable" in partial:
            partial["deferrable"] = deferrable
            partial["defer_after"] = 0
        elif hasattr(each, "deferrable"):
            each.deferrable = deferrable
            each.defer_after = 0
