"""What a task has logged, and whether the scheduler knows what its workers have done."""

from __future__ import annotations

from pathlib import Path


def task_log(home: Path, dag_id: str, run_id: str, task_id: str) -> str:
    """Return what a task and its trigger have logged.

    :param home: Airflow's home.
    """
    paths = sorted(home.glob(f"logs/dag_id={dag_id}/run_id={run_id}/task_id={task_id}/*.log*"))
    return "\n".join(path.read_text(errors="replace") for path in paths if path.is_file())


def is_settled(scheduler_log: Path, home: Path, dag_id: str, run_id: str, task_id: str) -> bool:
    """Tell whether the scheduler has read how each worker of a task that has deferred has ended.

    :param scheduler_log: What the scheduler has printed.
    :param home: Airflow's home.
    """
    read = scheduler_log.read_text(errors="replace").splitlines()
    key = f"dag_id='{dag_id}', task_id='{task_id}', run_id='{run_id}'"
    known = [line for line in read if "Received executor event" in line and key in line]
    return len(known) >= task_log(home, dag_id, run_id, task_id).count("Pausing task as DEFERRED")
