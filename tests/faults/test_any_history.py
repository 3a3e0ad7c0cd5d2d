"""Whatever befalls the tries of a task, each of its generations has one run, and the last try returns its outputs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.server import DifyServer
from airflow_provider_dify.testing.workflows import Input, Workflow
from tests.faults.tries import Task, connect

INPUTS = {"text": "hello"}
EXECUTION = "airflow_provider_dify.runtime.task_run.Execution"
FAULTS: dict[str, dict[str, Any]] = {
    "healthy": {},
    "reset after it was accepted": {"kind": "accept_then_reset"},
    "502 after it was accepted": {"kind": "accept_then_status", "status": 502},
    "cut within the first event": {"kind": "cut", "after_bytes": 60},
    "clean end after the ping": {"kind": "cut", "after_events": 0, "clean": True},
    "only the end is reported": {
        "kind": "lose_events",
        "events": ("workflow_started", "node_started", "node_finished"),
    },
    "nothing is reported": {"kind": "lose_events", "events": ("*",)},
    "rate limit": {"kind": "status", "status": 429, "headers": {"Retry-After": "0"}},
}
DEATHS = {
    "before the POST": ("_go",),
    "between POST and id": ("_announce",),
    "between id and wait": ("_await", "_reported"),
}


class Killed(BaseException):
    """The process is gone: nothing of ours runs any more."""


def die(*_: object, **__: object) -> None:
    raise Killed


tries = st.tuples(st.sampled_from(sorted(FAULTS)), st.sampled_from(sorted(DEATHS)))
generations = st.lists(st.lists(tries, max_size=2), min_size=1, max_size=2)


@given(generations=generations, last=st.sampled_from(sorted(FAULTS)), store=st.booleans(), deferrable=st.booleans())
@example(
    generations=[[("nothing is reported", "between id and wait")], []], last="healthy", store=False, deferrable=True
)
@example(generations=[[("rate limit", "between POST and id")]], last="rate limit", store=True, deferrable=False)
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
def test_each_generation_has_one_run(
    generations: list[list[tuple[str, str]]], last: str, store: bool, deferrable: bool
) -> None:
    workflow = Workflow("echo", inputs=[Input("text")], duration=0.05, outputs={"text": "{text}"})
    with DifyServer([workflow]) as server, pytest.MonkeyPatch.context() as patch:
        connect(patch, server, "echo")
        patch.setattr("airflow_provider_dify.rules.earlier_tries.QUEUE_PATIENCE_SECONDS", 0.5)
        task = Task(store=store, deferrable=deferrable, inputs=INPUTS, retries=3, submit_timeout=0.3)
        begun = False
        for number, generation in enumerate(generations, start=1):
            start = task.clear if begun else task.run
            for fault, death in generation:
                inject(server, fault)
                with pytest.MonkeyPatch.context() as deadly:
                    for step in DEATHS[death]:
                        deadly.setattr(f"{EXECUTION}.{step}", die)
                    with pytest.raises(Killed):
                        start()
                start, begun = task.retry, True
            inject(server, last)
            assert start() == INPUTS
            begun = True
            assert len(server.runs) == number
            server.clear_faults()
        assert server.active_runs() == []


def inject(server: DifyServer, fault: str) -> None:
    server.clear_faults()
    if FAULTS[fault]:
        server.inject(Fault("submit", **FAULTS[fault]))
