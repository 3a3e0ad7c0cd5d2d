"""Airflow's tables under one name and with the same columns on every version, for queries in SQL.

Airflow 3.4 keeps a row for each try of a task, the latest of which is the one that earlier versions have alone; its
XComs belong to such a row, and the column ``map_index`` is named ``region_index``.
"""

from __future__ import annotations

from importlib.metadata import version

_HAS_ROWS_FOR_TRIES = tuple(int(part) for part in version("apache-airflow").split(".")[:2]) >= (3, 4)

TASK_INSTANCE = "task_instance AS ti"
XCOM = "xcom AS x"
TASK_STATE_STORE = "task_state_store AS s"

if _HAS_ROWS_FOR_TRIES:
    TASK_INSTANCE = (
        "(SELECT dag_id, run_id, task_id, region_index AS map_index, state, try_number, pid, trigger_id "
        "FROM task_instance WHERE working_set) AS ti"
    )
    XCOM = (
        "(SELECT t.dag_id, t.run_id, t.task_id, t.region_index AS map_index, v.key, v.value "
        "FROM xcom_v2 v JOIN task_instance t ON t.id = v.task_instance_id WHERE t.working_set) AS x"
    )
    TASK_STATE_STORE = (
        "(SELECT dag_id, run_id, task_id, region_index AS map_index, key, value FROM task_state_store) AS s"
    )
