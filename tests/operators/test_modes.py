"""The operator returns and raises the same, whether it waits on the worker or in the triggerer."""

from __future__ import annotations

import re
from typing import Any

import pytest

from airflow_provider_dify.exceptions import DifyError, is_final
from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.server import DifyServer
from airflow_provider_dify.testing.workflows import Workflow
from tests.faults.tries import Task, connect
from tests.hooks.support import VERSIONS

WORKFLOWS = [Workflow("done", duration=1.0, outputs={"text": "ok"}), Workflow("chat", mode="advanced-chat")]
VARIABLE = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|\d+\.\d+|127\.0\.0\.1:\d+|\d\d:\d\d:\d\d")


def play(monkeypatch: pytest.MonkeyPatch, deferrable: bool, app: str, version: str, **parameters: Any) -> Any:
    """Return what one try returns or raises, without what differs from run to run."""
    from airflow_provider_dify.testing.workflows import builtin_workflows

    with DifyServer([*builtin_workflows(), *WORKFLOWS], emulate=version, time_scale=0.01) as server:
        connect(monkeypatch, server, app)
        task = Task(store=False, deferrable=deferrable, **parameters)
        try:
            result = task.run()
        except Exception as error:
            cause = error if isinstance(error, DifyError) else error.__cause__
            final = isinstance(cause, DifyError) and is_final(cause)
            result = (type(error).__name__, type(cause).__name__, final, VARIABLE.sub("…", str(error)))
        if parameters.get("wait_for_termination") is False:
            assert result == server.runs[0].id
            result = "the run's id"
        pushed = {key for key, value in task.ti.xcoms.items() if value}
        return result, pushed, len(server.runs)


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "succeeded": ("echo", {"inputs": {"text": "x"}}),
    "succeeded, rendered to JSON text": ("echo", {"inputs": '{"text": "x"}'}),
    "failed": ("failing", {}),
    "partial": ("partial", {}),
    "partial that fails": ("partial", {"fail_on_partial_success": True}),
    "not waited for": ("echo", {"wait_for_termination": False}),
    "past its deadline": ("slow", {"inputs": {"seconds": 6000}, "timeout": 1.5}),
    "an input is missing": ("summarize", {"inputs": {}}),
    "an input is no JSON": ("echo", {"inputs": {"text": object()}}),
    "another type of app": ("chat", {}),
    "blocking": ("echo", {"response_mode": "blocking"}),
    "blocking and failed": ("failing", {"response_mode": "blocking"}),
    "a user of its own": ("echo", {"user": "me"}),
    "a user that is too long": ("echo", {"user": "x" * 256}),
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("case", CASES)
def test_both_modes_give_the_same(monkeypatch: pytest.MonkeyPatch, case: str, version: str) -> None:
    app, parameters = CASES[case]
    on_worker = play(monkeypatch, False, app, version, **parameters)
    deferred = play(monkeypatch, True, app, version, **parameters)
    assert deferred == on_worker
    if isinstance(on_worker[0], dict):
        assert {"workflow_run_id"} <= on_worker[1]


@pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "deferred"])
def test_a_paused_run_fails_where_asked(monkeypatch: pytest.MonkeyPatch, deferrable: bool) -> None:
    result, _, runs = play(
        monkeypatch, deferrable, "human_input", "1.14.2", inputs={"text": "the plan"}, on_pause="fail"
    )
    assert runs == 1
    assert result[1] == "DifyRunPausedError", result


BAD_PARAMETERS: list[tuple[dict[str, Any], str]] = [
    ({"poll_interval": 0}, "poll_interval must be more than 0"),
    ({"poll_interval": -1}, "poll_interval must be more than 0"),
    ({"poll_interval": "1"}, "poll_interval"),
    ({"poll_interval": 2, "max_poll_interval": 1}, "max_poll_interval"),
    ({"timeout": 0}, "timeout"),
    ({"poll_interval": 5, "max_poll_interval": 5, "timeout": 4}, "timeout"),
    ({"submit_timeout": 0}, "submit_timeout must be more than 0"),
    ({"response_mode": "async"}, "response_mode must be one of streaming, blocking"),
    ({"on_pause": "stop"}, "on_pause must be one of wait, fail, ask"),
    ({"on_rate_limit": "ask"}, "on_rate_limit must be one of wait, fail"),
]


@pytest.mark.parametrize(("parameters", "text"), BAD_PARAMETERS, ids=[str(each) for each, _ in BAD_PARAMETERS])
def test_a_wrong_parameter_is_refused_while_the_dag_is_parsed(parameters: dict[str, Any], text: str) -> None:
    with pytest.raises((DifyError, ValueError), match=text):
        Task(store=False, deferrable=False, **parameters)


BAD_INPUTS: list[tuple[dict[str, Any], str]] = [
    ({"inputs": ["x"]}, "inputs must be a mapping"),
    ({"inputs": "no JSON"}, "inputs is a string"),
    ({"inputs": "[1]"}, "inputs"),
    ({"inputs": {"x": float("nan")}}, "inputs"),
    ({"files": "no JSON"}, "files"),
    ({"workflow_id": "x"}, "workflow_id must be a UUID"),
    ({"query": "x"}, "query is only part of the workflow-runs contract"),
]


@pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "deferred"])
@pytest.mark.parametrize(("parameters", "text"), BAD_INPUTS, ids=[str(each) for each, _ in BAD_INPUTS])
def test_a_wrong_value_is_refused_before_a_run_exists(
    monkeypatch: pytest.MonkeyPatch, parameters: dict[str, Any], text: str, deferrable: bool
) -> None:
    with DifyServer(time_scale=0.01) as server:
        connect(monkeypatch, server, "echo")
        with pytest.raises(Exception, match=text):
            Task(store=False, deferrable=deferrable, **parameters).run()
        assert [request.path for request in server.requests if request.method == "POST"] == []
        assert server.runs == []


def test_a_server_that_is_down_for_a_while_does_not_fail_a_waiting_task(monkeypatch: pytest.MonkeyPatch) -> None:
    with DifyServer(time_scale=0.01) as server:
        connect(monkeypatch, server, "slow")
        server.inject(Fault("get_run", "status", status=502, times=3))
        for deferrable in (False, True):
            task = Task(store=False, deferrable=deferrable, inputs={"seconds": 100})
            assert task.run() == {"body": "slept 100 s"}
