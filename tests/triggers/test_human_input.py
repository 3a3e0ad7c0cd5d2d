"""The trigger that waits for an answer, when Airflow ends it after one has come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from airflow_provider_dify.hooks.dify import DifyHook
from airflow_provider_dify.runtime.required_actions import Response
from airflow_provider_dify.testing.server import DifyServer
from airflow_provider_dify.testing.workflows import HumanInput, Step, Workflow
from airflow_provider_dify.triggers import base, human_input
from airflow_provider_dify.triggers.human_input import DifyHumanInputTrigger
from tests.faults.tries import connect


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[DifyServer]:
    with DifyServer([Workflow("asks", steps=[Step("human", human_input=HumanInput("Well?"))])]) as server:
        connect(monkeypatch, server, "asks")
        yield server


@pytest.fixture
def trigger(server: DifyServer) -> DifyHumanInputTrigger:
    started = DifyHook().create_workflow_run({}, user="me")
    limit = time.monotonic() + 30
    while not server.forms.open():
        assert time.monotonic() < limit
        time.sleep(0.05)
    (form,) = server.forms.open()
    return DifyHumanInputTrigger(
        started.workflow_run_id,
        "dify_default",
        "01a21b06-9676-7ce8-9683-6343b552b854",
        time.time() + 600,
        asked=[form.id],
        known=[form.id],
        dify_task_id=started.task_id,
        user="me",
        cancel_on_kill=True,
    )


@pytest.mark.any_airflow
@pytest.mark.parametrize(
    ("state", "is_sent", "stops"),
    [
        pytest.param("queued", False, 0, id="resumed"),
        pytest.param("success", True, 0, id="over with its run"),
        pytest.param("failed", False, 1, id="marked before the answer was sent"),
    ],
)
def test_an_answered_run_is_stopped_only_while_it_goes_on(
    server: DifyServer,
    trigger: DifyHumanInputTrigger,
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    is_sent: bool,
    stops: int,
) -> None:
    async def yes(_: object) -> bool:
        return True

    async def state_of(_: object) -> str:
        return state

    monkeypatch.setattr(base, "ended_by_person", yes)
    monkeypatch.setattr(human_input, "state_of", state_of)
    monkeypatch.setattr(human_input, "read_action", lambda ti_id: Response(["Approve"], {}, "Ada"))
    monkeypatch.setattr(human_input, "close_action", lambda ti_id, why: False)
    if is_sent:
        (form,) = server.forms.open()
        server.forms.answer(form.id, "approve")
        limit = time.monotonic() + 30
        while server.active_runs():
            assert time.monotonic() < limit
            time.sleep(0.05)
    asyncio.run(trigger.on_kill())
    assert len([request for request in server.requests if request.path.endswith("/stop")]) == stops
