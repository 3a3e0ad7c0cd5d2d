"""Defers a task to one of this provider's triggers."""

from __future__ import annotations

import time
from importlib import import_module
from typing import Any, NoReturn

from airflow_provider_dify.rules.deferring import not_before

_ELSEWHERE = {
    "DifyHumanInputTrigger": "human_input",
    "DifyBatchTrigger": "batch",
    "DifyIndexingTrigger": "knowledge",
}


def defer(
    task: Any, trigger: str, method_name: str, arguments: dict[str, Any], kwargs: dict[str, Any] | None = None
) -> NoReturn:
    """Defer a task, without a time-out of the framework: where that passes, nothing gets to stop the run.

    :param task: The operator or sensor.
    :param trigger: The name of a trigger's class.
    :param method_name: The method by which Airflow resumes the task.
    :param arguments: What the trigger is made of, besides ``not_before``.
    :param kwargs: The arguments of that method, beside the event.
    """
    # Importing it takes long, and a task that stays on its worker needs none.
    module = import_module(f"airflow_provider_dify.triggers.{_ELSEWHERE.get(trigger, 'workflow')}")
    made = getattr(module, trigger)(**arguments, not_before=not_before(time.time()))
    task.defer(trigger=made, method_name=method_name, kwargs=kwargs)
    raise AssertionError("defer() does not return")
