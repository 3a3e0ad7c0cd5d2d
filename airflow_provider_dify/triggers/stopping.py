"""Whether a cancelled trigger's task was ended by a person, and the stop that then follows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from airflow.triggers.base import BaseTrigger

from airflow_provider_dify.exceptions import DifyError
from airflow_provider_dify.hooks.dify import DifyHook

# From 3.3 on the triggerer calls on_kill for what a person did; before, a cancelled trigger must find out.
CALLS_ON_KILL = hasattr(BaseTrigger, "on_kill")
# What Airflow 3.3 grants is 30 s.
ON_KILL_SECONDS = 25.0
_DEFERRED = "deferred"


async def undisturbed(deed: Coroutine[Any, Any, None], limit: float) -> None:
    """Do something to its end although the awaiting task is cancelled again and again, for a limited time.

    Airflow 3.3 repeats its cancel about once a second as long as a trigger is there, and so ends the ``on_kill``
    that the first one has called; asking for the task's state alone can take longer than that.

    :param deed: What is done.
    :param limit: Seconds after which it is given up.
    """
    loop = asyncio.get_running_loop()
    task, end = asyncio.ensure_future(deed), loop.time() + limit
    while not task.done() and (left := end - loop.time()) > 0:
        try:
            await asyncio.wait({task}, timeout=left)
        except asyncio.CancelledError:
            continue
    if task.done():
        task.result()
    else:
        task.cancel()


async def ended_by_person(trigger: BaseTrigger) -> bool:
    """Tell whether the task of a cancelled trigger no longer waits for it.

    A triggerer that shuts down, and one whose triggers were handed to another one, cancel healthy triggers
    too: the task is then still ``deferred``. Where the state cannot be read the trigger counts as healthy, since
    a run that is left running costs less than one that was stopped under a waiting task.
    """
    ti: Any = trigger.task_instance
    if ti is None:
        return False
    from asgiref.sync import sync_to_async

    try:
        return await sync_to_async(_no_longer_waits)(ti, trigger.trigger_id)
    except Exception as error:
        logging.getLogger(__name__).warning("The state of the cancelled trigger's task is unknown: %s", error)
        return False


def _no_longer_waits(ti: Any, trigger_id: Any) -> bool:
    try:
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
    except ImportError:
        return _no_longer_waits_in_database(ti, trigger_id)
    states = RuntimeTaskInstance.get_task_states(
        dag_id=ti.dag_id,
        task_ids=[ti.task_id],
        run_ids=[ti.run_id],
        map_index=ti.map_index if ti.map_index >= 0 else None,
    )
    name = ti.task_id if ti.map_index < 0 else f"{ti.task_id}_{ti.map_index}"
    state = (states.get(ti.run_id) or {}).get(name)
    return str(getattr(state, "value", state)) != _DEFERRED


def _no_longer_waits_in_database(ti: Any, trigger_id: Any) -> bool:
    # Airflow 2: the triggerer has the database, and its row also tells a new try that waits for another trigger.
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session

    with create_session() as session:
        row = (
            session.query(TaskInstance.state, TaskInstance.trigger_id)
            .filter_by(dag_id=ti.dag_id, task_id=ti.task_id, run_id=ti.run_id, map_index=ti.map_index)
            .one_or_none()
        )
    return row is None or row[0] != _DEFERRED or row[1] != trigger_id


async def stop_run(hook: DifyHook, workflow_run_id: str, task_id: str | None, user: str | None, log: Any) -> None:
    """Ask Dify to stop a run whose task was ended by a person; never raises, and takes a few seconds at most.

    :param task_id: Dify's id for a stop; None where only the run's marker led to it.
    :param user: The ``user`` of the submission, which the search for the task id needs.
    """
    try:
        if task_id is None and user is not None:
            task_id = await hook.afind_task_id(workflow_run_id, user)
        if task_id is None:
            log.warning("Dify run %s cannot be stopped: its task id is not known. It runs on.", workflow_run_id)
            return
        await hook.astop_workflow_run(task_id)
    except DifyError as error:
        log.warning("Dify run %s could not be stopped: %s", workflow_run_id, error)
    else:
        log.info("Dify was asked to stop run %s, since its task was ended in Airflow.", workflow_run_id)
