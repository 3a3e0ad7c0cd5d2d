"""Parameters that are refused, or completed, when a DAG is parsed."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from airflow_provider_dify.exceptions import DifyInvalidInputError
from airflow_provider_dify.operators.workflow import DifyRunWorkflowOperator
from airflow_provider_dify.sensors.workflow import DifyWorkflowRunSensor

TASKS: dict[type, dict[str, Any]] = {
    DifyRunWorkflowOperator: {"task_id": "it"},
    DifyWorkflowRunSensor: {"task_id": "it", "workflow_run_id": "x"},
}
BOOLEANS = [
    (task, name)
    for task in TASKS
    for name, each in inspect.signature(inspect.unwrap(task.__init__)).parameters.items()  # type: ignore[misc]
    if each.annotation in ("bool", bool)
]


def test_the_booleans_are_found() -> None:
    assert len(BOOLEANS) == 13


@pytest.mark.parametrize(("task", "name"), BOOLEANS, ids=lambda each: getattr(each, "__name__", each))
@pytest.mark.parametrize("value", ["false", "True", 1, None, []])
def test_a_boolean_that_is_none_is_refused_by_name(task: type, name: str, value: Any) -> None:
    with pytest.raises(DifyInvalidInputError, match=f"^{name} must be True or False, got ") as caught:
        task(**TASKS[task], **{name: value})
    assert ("without quotes" in str(caught.value)) == isinstance(value, str)


@pytest.mark.parametrize(("first", "longest"), [(1, 5), (5, 5), (10, 10), (0.2, 5)])
def test_the_longest_interval_follows_the_first(first: float, longest: float) -> None:
    assert DifyRunWorkflowOperator(task_id="it", poll_interval=first).max_poll_interval == longest
    sensor = DifyWorkflowRunSensor(task_id="it", workflow_run_id="x", poke_interval=first)
    assert sensor.schedule.longest == longest


def test_intervals_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(DifyInvalidInputError, match=r"max_poll_interval \(5 s\) must not be below poll_interval"):
        DifyRunWorkflowOperator(task_id="it", poll_interval=10, max_poll_interval=5)
    with pytest.raises(DifyInvalidInputError, match=r"max_wait \(5 s\) must not be below poke_interval"):
        DifyWorkflowRunSensor(task_id="it", workflow_run_id="x", poke_interval=10, max_wait=5)
