"""Whether a user cancelled the task of a cancelled trigger, and the stop that then follows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from airflow.triggers.base import BaseTrigger

from airflow_provider_dify.compat import task_state, triggerer_calls_on_kill, waits_for_trigger
from airflow_provider_dify.exceptions import DifyError
from airflow_provider_dify.rules import exchanges
from airflow_provider_dify.runtime.loop_client import LoopClient

# Where it does not, a cancelled trigger must find out what a user did.
CALLS_ON_KILL = triggerer_calls_on_kill()
# What Airflow 3.3 grants is 30 s.
ON_KILL_SECONDS = 25.0


async def shielded(work: Coroutine[Any, Any, Any], limit: float) -> None:
    """Do something to its end although the awaiting task is cancelled again and again, for a limited time.

    Airflow 3.3 repeats its cancel about once a second as long as a trigger is there, and so ends the ``on_kill``
    that the first one has called; asking for the task's state alone can take longer than that.

    :param work: What is done.
    :param limit: Seconds after which it is given up.
    """
    loop = asyncio.get_running_loop()
    task, end = asyncio.ensure_future(work), loop.time() + limit
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
        return not await sync_to_async(waits_for_trigger)(ti, trigger.trigger_id)
    except Exception as error:
        logging.getLogger(__name__).warning("The state of the cancelled trigger's task is unknown: %s", error)
        return False


async def state_of(trigger: BaseTrigger) -> str | None:
    """Return the state of a trigger's task, on Airflow 3; None where nothing tells."""
    from asgiref.sync import sync_to_async

    try:
        return await sync_to_async(task_state)(trigger.task_instance)
    except Exception as error:
        logging.getLogger(__name__).warning("The state of the cancelled trigger's task is unknown: %s", error)
        return None


async def stop_run(client: LoopClient, workflow_run_id: str, task_id: str | None, user: str | None, log: Any) -> None:
    """Ask Dify to stop a run whose task was cancelled by a user; never raises, and takes a few seconds at most.

    :param task_id: Dify's id for a stop; None where only the run's marker led to it.
    :param user: The ``user`` of the submission, which the search for the task id needs.
    """
    try:
        if task_id is None and user is not None:
            task_id = await client.run_exchange(exchanges.task_id(workflow_run_id, user, client.log.debug))
        if task_id is None:
            log.warning("Dify run %s cannot be stopped: its task id is not known. It runs on.", workflow_run_id)
            return
        await client.run_exchange(exchanges.stop(task_id))
    except DifyError as error:
        log.warning("Dify run %s could not be stopped: %s", workflow_run_id, error.message)
    else:
        log.info("Dify was asked to stop run %s, since its task was ended in Airflow.", workflow_run_id)
