"""Defers a task to one of this provider's triggers."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_ELSEWHERE = {
    "DifyHumanInputTrigger": "human_input",
    "DifyBatchTrigger": "batch",
    "DifyIndexingTrigger": "knowledge",
}


def defer(
    task: Any, trigger: str, arguments: dict[str, Any], method_name: str, kwargs: dict[str, Any] | None = None
) -> None:
    """Defer a task, without a time-out of the framework: where that passes, nothing gets to stop the run.

    :param task: The operator or sensor.
    :param trigger: The name of a trigger's class.
    :param arguments: What the trigger is made of.
    :param method_name: The method by which Airflow resumes the task.
    :param kwargs: The arguments of that method, beside the event.
    """
    # Importing it takes long, and a task that stays on its worker needs none.
    module = import_module(f"airflow_provider_dify.triggers.{_ELSEWHERE.get(trigger, 'workflow')}")
    task.defer(trigger=getattr(module, trigger)(**arguments), method_name=method_name, kwargs=kwargs)
