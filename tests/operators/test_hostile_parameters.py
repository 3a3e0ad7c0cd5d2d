"""Every parameter of operator and sensor with values that nobody should pass: at parsing, and out of a template."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from airflow.providers.common.compat.sdk import TaskDeferred
from hypothesis import HealthCheck, Phase, given, settings

from airflow_provider_dify.client import exchange as http
from airflow_provider_dify.exceptions import DifyError
from airflow_provider_dify.operators.workflow import DifyRunWorkflowOperator
from airflow_provider_dify.sensors.workflow import DifyWorkflowRunSensor
from tests.faults.tries import TaskInstance
from tests.hooks.support import KEY, RUN
from tests.hostile import Sent, check_refusal, every_value, hostile, own_parameters

pytestmark = pytest.mark.any_airflow

TASKS: dict[type, dict[str, Any]] = {
    DifyRunWorkflowOperator: {"task_id": "it"},
    DifyWorkflowRunSensor: {"task_id": "it", "workflow_run_id": RUN},
}
# Whoever renders a template can give a task anything there, and nothing before.
TEMPLATED = [(task, name) for task in TASKS for name in task.template_fields]  # type: ignore[attr-defined]
FIXED = [
    (task, name)
    for task in TASKS
    for name in own_parameters(task.__init__)  # type: ignore[misc]
    if (task, name) not in TEMPLATED
]
# What messages about an Airflow connection call it.
CONNECTION = "Airflow connection"

quick = settings(
    max_examples=10,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module", autouse=True)
def network() -> Iterator[list[str]]:
    """Count requests, and let none of them out."""
    sent: list[str] = []

    def send(self: Any, request: requests.PreparedRequest, **_: Any) -> Any:
        sent.append(str(request.url))
        if request.body is not None:
            b"".join(request.body)  # type: ignore[arg-type]
        raise Sent

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requests.adapters.HTTPAdapter, "send", send)
        patch.setattr(http, "RETRIES", 0)
        connection = {"conn_type": "dify", "host": "http://127.0.0.1:9", "password": KEY}
        patch.setenv("AIRFLOW_CONN_DIFY_DEFAULT", json.dumps(connection))
        logging.disable(logging.CRITICAL)
        yield sent
        logging.disable(logging.NOTSET)


def executed(task: Any) -> None:
    """Let a task run until it sends something."""
    try:
        task.execute({"ti": TaskInstance()})
    except (Sent, TaskDeferred):
        return


def parsed(kind: type, name: str, value: Any) -> None:
    try:
        task = kind(**{**TASKS[kind], name: value})
    except DifyError as error:
        check_refusal(error, name)
        return
    executed(task)


def rendered(kind: type, name: str, value: Any, sent: list[str]) -> None:
    task = kind(**TASKS[kind], **({"defer_after": 0} if kind is DifyWorkflowRunSensor else {}))
    # As Airflow does before it renders: what is assigned to a templated field is then not searched for tasks any more.
    task = task.prepare_for_execution()
    vars(task)[name] = value
    before = len(sent)
    try:
        executed(task)
    except DifyError as error:
        check_refusal(error, CONNECTION if name == "dify_conn_id" and CONNECTION in str(error) else name)
        assert len(sent) - before == 0, "a request was sent for a value that is refused"


def test_all_parameters_are_tried() -> None:
    assert len(FIXED) >= 34
    assert len(TEMPLATED) == 13


@pytest.mark.parametrize(("kind", "name"), FIXED, ids=lambda each: getattr(each, "__name__", each))
def test_each_hostile_value_is_taken_or_refused_by_name(kind: type, name: str) -> None:
    for value in every_value():
        parsed(kind, name, value)


@pytest.mark.parametrize(("kind", "name"), FIXED, ids=lambda each: getattr(each, "__name__", each))
@quick
@given(value=hostile())
def test_any_value_is_taken_or_refused_by_name(kind: type, name: str, value: Any) -> None:
    parsed(kind, name, value)


@pytest.mark.parametrize(("kind", "name"), TEMPLATED, ids=lambda each: getattr(each, "__name__", each))
def test_each_hostile_rendered_value_is_sent_or_refused_by_name(kind: type, name: str, network: list[str]) -> None:
    for value in every_value():
        rendered(kind, name, value, network)


@pytest.mark.parametrize(("kind", "name"), TEMPLATED, ids=lambda each: getattr(each, "__name__", each))
@quick
@given(value=hostile())
def test_any_rendered_value_is_sent_or_refused_by_name(kind: type, name: str, network: list[str], value: Any) -> None:
    rendered(kind, name, value, network)
