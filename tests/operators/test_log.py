"""What stands in the log of a task that waits: a block, changes, the end, and nothing for each look."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_dify.hooks.dify import DifyHook
from airflow_provider_dify.sensors.workflow import DifyWorkflowRunSensor
from airflow_provider_dify.testing.server import DifyServer
from tests.faults.tries import Task, TaskInstance, connect
from tests.integration.airflow_dags import is_airflow_2

MOMENT = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S+, in \d+ s"


class Lines(logging.Handler):
    """Keeps what Airflow 2 hands to its task handlers, which print nothing outside of a task."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += f"{record.getMessage()}\n"


class Log:
    """The lines that were logged so far."""

    def __init__(self, capfd: pytest.CaptureFixture[str], lines: Lines) -> None:
        self._capfd = capfd
        self._lines = lines

    def read(self) -> str:
        return self._lines.text if is_airflow_2() else self._capfd.readouterr().out


@pytest.fixture
def log(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    lines = Lines()
    loggers = [logging.getLogger("airflow.task"), logging.getLogger("airflow_provider_dify")]
    for each in loggers:
        each.addHandler(lines)
        monkeypatch.setattr(each, "level", logging.INFO)
        each.manager._clear_cache()  # type: ignore[attr-defined]
    yield Log(capfd, lines)
    for each in loggers:
        each.removeHandler(lines)


def facts(printed: str) -> list[str]:
    """Return which facts and states the log tells, in their order."""
    found = re.findall(
        rf"(server): +Dify 1\.16\.1 at http|(app): +[0-9a-f-]{{36}}|(user): +airflow/dag|(link): +http\S+/app/\S+/logs"
        rf"|(deadline): {MOMENT}|Dify run [0-9a-f-]{{36}} (is running|is still|ended: succeeded)",
        printed,
    )
    return [next(filter(None, groups)) for groups in found]


@pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "deferred"])
def test_the_log_of_the_operator(monkeypatch: pytest.MonkeyPatch, log: Log, deferrable: bool) -> None:
    with DifyServer(time_scale=0.01) as server:
        connect(monkeypatch, server, "slow")
        Task(store=False, deferrable=deferrable, inputs={"seconds": 200}).run()
        assert len([request for request in server.requests if "/workflows/run/" in request.path]) > 4
    opening = ["server", "app", "user", "link", "deadline"]
    assert facts(log.read()) == [*opening, "is running", "ended: succeeded"]


@pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "deferred"])
def test_the_log_of_the_sensor(monkeypatch: pytest.MonkeyPatch, log: Log, deferrable: bool) -> None:
    with DifyServer(time_scale=0.01) as server:
        connect(monkeypatch, server, "slow")
        run_id = DifyHook().create_workflow_run({"seconds": 200}, user="me").workflow_run_id
        sensor = DifyWorkflowRunSensor(task_id="it", workflow_run_id=run_id, poke_interval=0.1, deferrable=deferrable)
        context: Any = {"ti": TaskInstance()}
        try:
            sensor.execute(context)
        except TaskDeferred as deferred:
            event = asyncio.run(Task.fire(deferred.trigger))
            sensor.execute_complete(context, event, **(deferred.kwargs or {}))
    assert facts(log.read()) == ["server", "app", "link", "deadline", "is running", "ended: succeeded"]


def test_a_rescheduled_sensor_introduces_its_run_once(monkeypatch: pytest.MonkeyPatch, log: Log) -> None:
    with DifyServer(time_scale=0.01) as server:
        connect(monkeypatch, server, "slow")
        run_id = DifyHook().create_workflow_run({"seconds": 9000}, user="me").workflow_run_id
        sensor = DifyWorkflowRunSensor(task_id="it", workflow_run_id=run_id, mode="reschedule")
        for count in range(3):
            ti = TaskInstance()
            context: Any = {"ti": ti, "task_reschedule_count": count}
            assert not sensor.poke(context).is_done
            assert ti.xcoms["dify_run_url"] == f"{server.base_url}/app/{server.app('slow').app_id}/logs"
    assert facts(log.read()) == ["server", "app", "link", "deadline"]
