"""Where the link leads, and that it is there while the task waits and however it ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, TaskDeferred

from airflow_provider_dify.links.dify import DifyRunLink
from airflow_provider_dify.operators.workflow import DifyRunWorkflowOperator
from airflow_provider_dify.runtime.run_link import run_url
from airflow_provider_dify.sensors.workflow import DifyWorkflowRunSensor
from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.server import DifyServer
from tests.faults.tries import Task, TaskInstance
from tests.integration import airflow_dags

# One process: the database that a DAG needs takes each of them seconds to set up.
pytestmark = pytest.mark.xdist_group("links")

KEY = "dify_run_url"
Connect = Callable[..., None]
APP = "39291739-8d00-4db6-9134-5072ec569333"


@pytest.mark.parametrize(
    ("console", "app", "url"),
    [
        ("https://cloud.dify.ai", APP, f"https://cloud.dify.ai/app/{APP}/logs"),
        (
            "https://dify.example.com/console",
            "a/../b?c#d",
            "https://dify.example.com/console/app/a%2F..%2Fb%3Fc%23d/logs",
        ),
        ("https://dify.example.com", None, "https://dify.example.com"),
        (None, APP, None),
        (None, None, None),
    ],
)
def test_where_it_leads(console: str | None, app: str | None, url: str | None) -> None:
    assert run_url(console, app) == url


def page(server: DifyServer, app: str, console: str | None = None) -> str:
    return f"{console or server.base_url}/app/{server.app(app).app_id}/logs"


def put(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, app: str, conn_id: str = "dify_default", **extra: Any
) -> None:
    content = {"conn_type": "dify", "host": server.base_url, "password": server.api_key(app), "extra": extra}
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(content))


def link_of_dag(outcome: airflow_dags.Outcome, dag: Any, task_id: str) -> str:
    """Return the link as Airflow asks for it."""
    try:
        from airflow.sdk.types import TaskInstanceKey  # type: ignore[attr-defined]
    except ImportError:
        from airflow.models.taskinstancekey import TaskInstanceKey  # type: ignore[assignment]
    key = TaskInstanceKey(dag.dag_id, task_id, outcome.run_id, 1, -1)
    return DifyRunLink().get_link(dag.get_task(task_id), ti_key=key)


def play(dag_id: str, *, expected: str, sensor: bool = False, run_id: str = "", **parameters: Any) -> tuple[Any, Any]:
    with DAG(dag_id, start_date=datetime(2026, 1, 1, tzinfo=timezone.utc), schedule=None) as dag:
        if sensor:
            DifyWorkflowRunSensor(task_id="it", workflow_run_id=run_id, poke_interval=0.2, **parameters)
        else:
            DifyRunWorkflowOperator(task_id="it", poll_interval=0.1, **parameters)
    outcome = airflow_dags.run(dag)
    assert outcome.states["it", -1] == expected
    return outcome, dag


ENDS: dict[str, tuple[str, dict[str, Any], str]] = {
    "success": ("echo", {"inputs": {"text": "x"}}, "success"),
    "failure": ("failing", {}, "failed"),
    "timeout": ("slow", {"inputs": {"seconds": 9000}, "timeout": 1.5}, "failed"),
}


@pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "deferred"])
@pytest.mark.parametrize("end", ENDS)
def test_the_operator_s_link_after_its_end(monkeypatch: pytest.MonkeyPatch, end: str, deferrable: bool) -> None:
    app, parameters, state = ENDS[end]
    with DifyServer(time_scale=0.01) as server:
        put(monkeypatch, server, app)
        outcome, dag = play(f"link_{end}_{deferrable}", expected=state, deferrable=deferrable, **parameters)
        assert outcome.xcom("it", KEY) == page(server, app)
        if not airflow_dags.is_airflow_2():
            # What the web interface of Airflow 3 reads.
            assert DifyRunLink().xcom_key == KEY
        else:
            assert link_of_dag(outcome, dag, "it") == page(server, app)


@pytest.mark.parametrize("mode", ["poke", "reschedule", "deferred"])
@pytest.mark.parametrize("end", ENDS)
def test_the_sensor_s_link_after_its_end(monkeypatch: pytest.MonkeyPatch, end: str, mode: str) -> None:
    app, parameters, state = ENDS[end]
    with DifyServer(time_scale=0.01) as server:
        put(monkeypatch, server, app)
        from airflow_provider_dify.hooks.dify import DifyHook

        run_id = DifyHook().create_workflow_run(parameters.get("inputs", {}), user="me").workflow_run_id
        options: dict[str, Any] = {"deferrable": True} if mode == "deferred" else {"mode": mode}
        outcome, _ = play(
            f"sensor_{end}_{mode}",
            expected=state,
            sensor=True,
            run_id=run_id,
            timeout=parameters.get("timeout", 20),
            **{"deferrable": False, **options},
        )
        assert outcome.xcom("it", KEY) == page(server, app)


def deferred_link(task: Task) -> Any:
    """Run a task until it waits in the triggerer, and return its link at that moment."""
    with pytest.raises(TaskDeferred):
        task.operator.execute({"ti": task.ti})
    return task.ti.xcoms.get(KEY)


def test_the_link_while_the_operator_is_deferred(monkeypatch: pytest.MonkeyPatch) -> None:
    with DifyServer(time_scale=0.01) as server:
        put(monkeypatch, server, "slow")
        task = Task(store=False, deferrable=True, inputs={"seconds": 500})
        assert deferred_link(task) == page(server, "slow")


def test_the_link_while_the_operator_waits_on_its_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    with DifyServer(time_scale=0.01) as server:
        put(monkeypatch, server, "slow")
        seen: list[Any] = []

        class Watched(TaskInstance):
            def xcom_push(self, key: str, value: Any) -> None:
                seen.append((key, value, [run.status for run in server.runs]))

        task = Task(store=False, deferrable=False, inputs={"seconds": 100})
        task.ti = Watched()
        task.run()
        assert (KEY, page(server, "slow"), ["running"]) in seen


@pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "deferred"])
def test_the_link_of_a_run_that_was_found_by_its_marker(monkeypatch: pytest.MonkeyPatch, deferrable: bool) -> None:
    with DifyServer(time_scale=0.01) as server:
        put(monkeypatch, server, "slow")
        server.inject(Fault("submit", "accept_then_reset"))
        task = Task(store=False, deferrable=deferrable, inputs={"seconds": 300}, timeout=1.5, cancel_on_timeout=False)
        with pytest.raises(Exception, match="had not ended at the deadline"):
            task.run()
        assert task.ti.xcoms[KEY] == page(server, "slow")
        assert len(server.runs) == 1


@pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "deferred"])
@pytest.mark.parametrize("mode", ["streaming", "blocking"])
@pytest.mark.parametrize("version", ["1.9.1", "1.11.2", "1.14.2"])
def test_the_link_on_every_version(monkeypatch: pytest.MonkeyPatch, version: str, mode: str, deferrable: bool) -> None:
    with DifyServer(time_scale=0.01, emulate=version) as server:
        put(monkeypatch, server, "echo")
        task = Task(store=False, deferrable=deferrable, inputs={"text": "x"}, response_mode=mode)
        task.run()
        assert task.ti.xcoms[KEY] == page(server, "echo")


def test_the_link_while_the_sensor_is_deferred(monkeypatch: pytest.MonkeyPatch) -> None:
    with DifyServer(time_scale=0.01) as server:
        put(monkeypatch, server, "slow")
        from airflow_provider_dify.hooks.dify import DifyHook

        run_id = DifyHook().create_workflow_run({"seconds": 500}, user="me").workflow_run_id
        ti = TaskInstance()
        sensor = DifyWorkflowRunSensor(task_id="it", workflow_run_id=run_id, deferrable=True, defer_after=0)
        context: Any = {"ti": ti}
        with pytest.raises(TaskDeferred):
            sensor.execute(context)
        assert ti.xcoms == {KEY: page(server, "slow")}


def test_a_server_that_does_not_tell_the_app_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    with DifyServer(time_scale=0.01) as server:
        put(monkeypatch, server, "slow")
        from airflow_provider_dify.hooks.dify import DifyHook

        run_id = DifyHook().create_workflow_run({"seconds": 100}, user="me").workflow_run_id
        server.inject(Fault("get_run", "status", status=502))
        ti = TaskInstance()
        sensor = DifyWorkflowRunSensor(task_id="it", workflow_run_id=run_id, deferrable=True, defer_after=0)
        context: Any = {"ti": ti}
        with pytest.raises(TaskDeferred) as deferred:
            sensor.execute(context)
        assert ti.xcoms == {KEY: server.base_url}
        event = asyncio.run(Task.fire(deferred.value.trigger))
        sensor.execute_complete(context, event, **(deferred.value.kwargs or {}))
        assert ti.xcoms == {KEY: page(server, "slow")}


def test_the_console_of_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    with DifyServer(time_scale=0.01) as server:
        put(monkeypatch, server, "echo", console_url="console.example.com/dify/")
        task = Task(store=False, deferrable=False, inputs={"text": "x"})
        task.run()
        assert task.ti.xcoms[KEY] == page(server, "echo", "https://console.example.com/dify")


@pytest.mark.parametrize("console", [None, "https://console.example.com"])
def test_a_gateway_is_no_console(monkeypatch: pytest.MonkeyPatch, console: str | None) -> None:
    with DifyServer(time_scale=0.01, api_contract="workflow-runs") as server:
        extra = {"console_url": console} if console else {}
        put(monkeypatch, server, "echo", api_contract="workflow-runs", **extra)
        task = Task(store=False, deferrable=False, inputs={"text": "x"}, workflow_id=server.app("echo").workflow_id)
        task.run()
        link = task.ti.xcoms.get(KEY)
        assert link is None if console is None else link.startswith(console)
