"""``DifyRetryPolicy``, and what Airflow makes of its decisions."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timedelta
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dify.exceptions import (
    DifyAuthenticationError,
    DifyInvalidInputError,
    DifyRateLimitError,
    DifyRunFailedError,
    DifyServerError,
)
from airflow_provider_dify.operators.workflow import DifyRunWorkflowOperator
from airflow_provider_dify.testing.faults import Fault
from tests.hooks.support import Start
from tests.integration.airflow_dags import run

AIRFLOW = tuple(int(part) for part in version("apache-airflow").split(".")[:2])
RESCHEDULES = AIRFLOW >= (3, 4)
MODULE = "airflow_provider_dify.policies.retry"

with_policies = pytest.mark.skipif(AIRFLOW < (3, 3), reason="Airflow has retry policies since 3.3")


def policy(**arguments: Any) -> Any:
    from airflow_provider_dify.policies.retry import DifyRetryPolicy

    return DifyRetryPolicy(**arguments)


def seconds(decision: Any) -> float:
    return float(decision.retry_delay.total_seconds())


def context(**known: Any) -> Any:
    return {"task": SimpleNamespace(retries=3), **known}


def test_an_older_airflow_gets_an_error_that_names_the_needed_one() -> None:
    """On Airflow 3.3 and later, the old one is played by an SDK that has no policies."""
    hidden = "" if AIRFLOW < (3, 3) else "import airflow.sdk; airflow.sdk.RetryPolicy = None; "
    code = f"{hidden}import {MODULE}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "ImportError: DifyRetryPolicy needs Airflow 3.3 or later" in done.stderr


@with_policies
@pytest.mark.parametrize(
    ("error", "action"),
    [
        (DifyAuthenticationError("x"), "fail"),
        (DifyRateLimitError("x"), "reschedule" if RESCHEDULES else "retry"),
        (DifyServerError("x", status_code=503), "reschedule" if RESCHEDULES else "retry"),
        (DifyServerError("x", status_code=503, workflow_run_id="1"), "retry"),
        (DifyRunFailedError("x"), "default"),
        (KeyError("x"), "default"),
    ],
)
def test_airflow_gets_the_decision_of_the_rule(error: Exception, action: str) -> None:
    decision = policy().evaluate(error, 1, 3, None)
    assert decision.action.value == action
    assert (decision.reason is None) == (action == "default")
    assert (decision.retry_delay is None) == (action in ("default", "fail"))
    if action == "reschedule":
        assert decision.reschedule_timeout == timedelta(hours=1)


@with_policies
def test_without_a_timeout_nothing_is_rescheduled() -> None:
    decision = policy(reschedule_timeout=None).evaluate(DifyRateLimitError("x"), 1, 3, None)
    assert decision.action.value == "retry"


@with_policies
@pytest.mark.parametrize(
    ("try_number", "max_tries", "known", "doublings"),
    [
        (1, 3, None, 0),
        (3, 3, None, 2),
        (1, 3, context(), 0),
        (3, 3, context(), 2),
        # Cleared after its fourth try: the fifth is the first of its generation.
        (5, 7, context(), 0),
        (6, 7, context(), 1),
        (1, 3, context(task_reschedule_count=2), 2),
        (1, 3, {"task": SimpleNamespace(retries=3, mode="reschedule"), "task_reschedule_count": 9}, 0),
    ],
)
def test_the_pause_grows_with_the_failures_since_the_last_clear(
    try_number: int, max_tries: int, known: Any, doublings: int
) -> None:
    decision = policy().evaluate(DifyRateLimitError("x"), try_number, max_tries, known)
    assert 60 * 2**doublings <= seconds(decision) <= 66 * 2**doublings


@with_policies
def test_it_survives_json() -> None:
    kept = policy(delay=timedelta(seconds=5), max_delay=timedelta(seconds=7), reschedule_timeout=None)
    again = type(kept).deserialize(json.loads(json.dumps(kept.serialize())))
    assert again.serialize() == kept.serialize() == {"delay": 5, "max_delay": 7, "reschedule_timeout": None}


@with_policies
@pytest.mark.parametrize(
    "arguments",
    [
        {"delay": timedelta(0)},
        {"delay": 60},
        {"max_delay": None},
        {"max_delay": timedelta(seconds=1)},
        {"reschedule_timeout": timedelta(seconds=-1)},
    ],
)
def test_parameters_that_make_no_sense_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(DifyInvalidInputError, match=next(iter(arguments))):
        policy(**arguments)


def dag_of(**parameters: Any) -> Any:
    with DAG(dag_id="retry_policy", schedule=None, start_date=datetime(2026, 1, 1)) as dag:
        DifyRunWorkflowOperator(
            task_id="run",
            inputs={"text": "x"},
            on_rate_limit="fail",
            retry_delay=timedelta(minutes=10),
            retry_policy=policy(delay=timedelta(seconds=1)),
            **parameters,
        )
    return dag


@with_policies
@pytest.mark.xdist_group("dags")
def test_a_rate_limit_is_overcome_without_the_tasks_own_pause(dify: Start) -> None:
    """On Airflow 3.4 even by a task without retries, within its first try."""
    server = dify("echo")
    server.inject(Fault("submit", "too_many_requests", times=2))
    outcome = run(dag_of(retries=0 if RESCHEDULES else 2))
    assert (outcome.state, outcome.xcom("run")) == ("success", {"text": "x"})
    (ran,) = server.runs
    assert ran.user.split("/")[-1] == ("1" if RESCHEDULES else "3")


@with_policies
@pytest.mark.xdist_group("dags")
def test_a_final_error_takes_no_retry(dify: Start) -> None:
    server = dify("echo")
    server.inject(Fault("submit", "status", status=401))
    assert run(dag_of(retries=2)).state == "failed"
    assert len([each for each in server.requests if each.method == "POST"]) == 1
