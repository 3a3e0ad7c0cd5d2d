"""A run's first words in the log and its link, the same for operator and sensor."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow_provider_dify.api.runs import StartedRun
from airflow_provider_dify.rules.log_lines import Opening
from airflow_provider_dify.rules.polling import Deadline
from airflow_provider_dify.runtime.run_link import push_link

if TYPE_CHECKING:
    from airflow_provider_dify.runtime.task_protocols import TaskHook

STATE_SECONDS = 2.0


def log_run_started(
    hook: TaskHook,
    context: Any,
    started: StartedRun,
    log: Callable[[str], None],
    *,
    user: str | None,
    deadline: Deadline | None,
) -> None:
    """Push the link of a run and log what is known of it.

    A run that was found by its marker, or that something else has started, told no app: one poll of at most 2 s
    asks for it, so that the link is there while the task waits.

    :param hook: The hook of the task's connection.
    :param context: Airflow's context of the try.
    :param started: The run.
    :param log: Takes a line for the task's log.
    :param user: The ``user`` of the submission, where the task has submitted the run.
    :param deadline: When waiting ends; None where nobody waits.
    """
    app_id, version = started.app_id, started.server_version
    if app_id is None:
        run = hook.look(started.workflow_run_id, timeout=STATE_SECONDS).run
        if run is not None:
            app_id, version = run.app_id, version or run.server_version
    connection = hook.connection
    url = push_link(context["ti"], connection.console_url, app_id)
    opening = Opening(started.workflow_run_id, connection.base_url, version, app_id, user, url, deadline)
    for line in opening.lines(time.time()):
        log(line)
