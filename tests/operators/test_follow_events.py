"""The steps of a run in the task's log, on the worker and in the triggerer, against the local Dify server."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_dify.exceptions import DifyRunFailedError
from airflow_provider_dify.hooks.dify import DifyHook
from airflow_provider_dify.runtime.loop_client import LoopClient
from airflow_provider_dify.runtime.stream_slots import STREAMS_PER_SERVER, StreamSlot
from airflow_provider_dify.sensors.workflow import DifyWorkflowRunSensor
from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.server import DifyServer
from airflow_provider_dify.testing.workflows import HumanInput, Input, Step, Workflow
from tests.faults.tries import Task, TaskInstance, connect

pytestmark = pytest.mark.any_airflow

SECONDS = 100.0  # of the workflow; the server's clock runs a hundred times as fast
WORKFLOWS = [
    Workflow(
        "steps",
        steps=[
            Step("fetch", type="http-request", seconds=SECONDS, outputs={"body": "x"}),
            Step("each", type="iteration", items="[1, 2]", steps=[Step("part", type="code", seconds=5)]),
            Step("ask", type="llm", seconds=SECONDS, tokens=128, outputs={"text": "Hello"}),
        ],
        outputs={"text": "{ask.text}"},
        stream_text="{ask.text}",
    ),
    Workflow("breaks", steps=[Step("fetch", type="http-request", seconds=SECONDS, error="connection refused")]),
    Workflow("long", inputs=[Input("seconds", type="number")], steps=[Step("wait", seconds="{seconds}")]),
]


class Log:
    """What the flow of a wait has reported."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def steps(self) -> list[str]:
        return [line.removeprefix("Dify step: ") for line in self.lines if line.startswith("Dify step: ")]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Log:
    """Collect what is reported: drivers take it from the flow, whatever logger stands behind them."""
    log = Log()
    follow, afollow = DifyHook.follow, LoopClient.follow

    def tell(write: Callable[[str], None]) -> Callable[[str], None]:
        def both(line: str) -> None:
            log.lines.append(line)
            write(line)

        return both

    monkeypatch.setattr(
        DifyHook, "follow", lambda self, flow, write, deadline: follow(self, flow, tell(write), deadline)
    )
    monkeypatch.setattr(
        LoopClient, "follow", lambda self, flow, write, deadline: afollow(self, flow, tell(write), deadline)
    )
    return log


@pytest.fixture
def server() -> Iterator[DifyServer]:
    with DifyServer(WORKFLOWS, time_scale=0.01) as started:
        yield started


def events_requests(server: DifyServer) -> list[Any]:
    return [request for request in server.requests if request.path.endswith("/events")]


@pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "deferred"])
def test_steps_are_reported_and_tabled(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, lines: Log, deferrable: bool
) -> None:
    connect(monkeypatch, server, "steps")
    task = Task(store=False, deferrable=deferrable, follow_events=True)
    assert task.run() == {"text": "Hello"}
    reported = lines.steps()
    assert "ask (llm): text: Hello" in reported
    assert [line for line in reported if line.startswith("ask (llm): succeeded, ") and line.endswith(" s, 128 tokens")]
    assert [line for line in reported if line.startswith("  part (code): succeeded")]
    table = lines.lines[lines.lines.index(f"Steps of Dify run {server.runs[0].id}:") :]
    assert list(dict.fromkeys(line.split()[1] for line in table[2:])) == [
        "start",
        "fetch",
        "each",
        "part",
        "ask",
        "end",
    ]
    assert len(events_requests(server)) == 1
    assert lines.lines.count(f"Steps of Dify run {server.runs[0].id}:") == 1


@pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "deferred"])
def test_the_failed_step_is_named(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, lines: Log, deferrable: bool
) -> None:
    connect(monkeypatch, server, "breaks")
    with pytest.raises(
        DifyRunFailedError, match=r"failed: connection refused\. The failed step is fetch \(http-request\)\.\n"
    ):
        Task(store=False, deferrable=deferrable, follow_events=True).run()
    assert [line for line in lines.steps() if line.endswith("s: connection refused")]


@pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "deferred"])
def test_nothing_is_followed_unless_asked(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, lines: Log, deferrable: bool
) -> None:
    connect(monkeypatch, server, "steps")
    Task(store=False, deferrable=deferrable).run()
    assert lines.steps() == []
    assert events_requests(server) == []


ASKING = Workflow(
    "asks",
    steps=[
        Step("prepare", type="code"),
        Step("ask", human_input=HumanInput("Go on?", actions={"yes": "Yes"})),
        Step("work", type="code", seconds=5),
        Step("close", type="code"),
    ],
)
ALL_STEPS = ["start", "prepare", "ask", "work", "close", "end"]


def answer_when(is_time: Callable[[], bool], server: DifyServer) -> None:
    """Answer for a human, as soon as it is time."""
    hook = DifyHook()
    while not is_time():
        time.sleep(0.02)
    run = hook.get_workflow_run(server.runs[0].id)
    hook.submit_human_input(hook.get_form_tokens(run)[0], action="yes")
    hook.close()


@pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "deferred"])
@pytest.mark.parametrize("cut", [None, True, False], ids=["whole", "ends at the pause", "cut at the pause"])
def test_a_run_is_followed_over_a_pause(
    monkeypatch: pytest.MonkeyPatch, lines: Log, deferrable: bool, cut: bool | None
) -> None:
    with DifyServer([ASKING], time_scale=0.01) as server:
        connect(monkeypatch, server, "asks")
        if cut is not None:
            # The eighth is the event of the pause, or the one before it where the past is replayed.
            server.inject(Fault("events", "cut", after_events=8, clean=cut))
        streams = 1 if cut is None else 2
        paused = "asks a human: Go on?"

        def is_time() -> bool:
            asked = any(paused in line for line in lines.lines)
            followed = [r for r in events_requests(server) if r.query.get("continue_on_pause") == "true"]
            return asked and len(followed) == streams

        human = threading.Thread(target=answer_when, args=(is_time, server))
        human.start()
        # The next poll after the pause comes when all is over: only a stream that was kept can tell the steps.
        Task(store=False, deferrable=deferrable, follow_events=True, poll_interval=0.5, max_poll_interval=0.5).run()
        human.join()
        table = lines.lines[lines.lines.index(f"Steps of Dify run {server.runs[0].id}:") :]
        assert [line.split()[1] for line in table[2:]] == ALL_STEPS
        assert {line.split()[3] for line in table[2:]} == {"succeeded"}
        assert not any("not followed" in line for line in lines.lines)


FAULTS: dict[str, tuple[Fault, str]] = {
    "cut": (Fault("events", "cut", after_events=2), "no complete answer"),
    "ends": (Fault("events", "cut", after_events=2, clean=True), "their stream ended before the run did"),
    "502": (Fault("events", "status", status=502), "HTTP 502"),
    "login": (Fault("events", "login_page"), "an HTML page (Sign in)"),
    "404": (Fault("events", "status", status=404, body="<h1>Not Found</h1>"), "as Dify before 1.14 has not"),
    "garbage": (Fault("events", "body", body="data: {\n\n", content_type="text/event-stream"), "is not JSON"),
}


@pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "deferred"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_stream_costs_one_line(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, lines: Log, deferrable: bool, fault: str
) -> None:
    connect(monkeypatch, server, "steps")
    server.inject(FAULTS[fault][0])
    assert Task(store=False, deferrable=deferrable, follow_events=True).run() == {"text": "Hello"}
    over = [line for line in lines.lines if "are not followed any further" in line]
    assert len(over) == 1
    assert FAULTS[fault][1] in over[0]
    assert len(events_requests(server)) == 1


@pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "deferred"])
def test_a_server_without_events(monkeypatch: pytest.MonkeyPatch, lines: Log, deferrable: bool) -> None:
    with DifyServer(WORKFLOWS, emulate="1.11.2", time_scale=0.01) as server:
        connect(monkeypatch, server, "steps")
        assert Task(store=False, deferrable=deferrable, follow_events=True).run() == {"text": "Hello"}
        assert sum("as Dify before 1.14 has not" in line for line in lines.lines) == 1


@pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "deferred"])
def test_the_sensor_follows_too(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, lines: Log, deferrable: bool
) -> None:
    connect(monkeypatch, server, "steps")
    hook = DifyHook()
    run_id = hook.create_workflow_run({}, user="somebody").workflow_run_id
    sensor = DifyWorkflowRunSensor(
        task_id="wait", workflow_run_id=run_id, poke_interval=0.2, deferrable=deferrable, follow_events=True
    )
    context: Any = {"ti": TaskInstance()}
    try:
        outputs = sensor.execute(context)
    except TaskDeferred as deferred:
        event = asyncio.run(Task.fire(deferred.trigger))
        outputs = sensor.execute_complete(context, event, **(deferred.kwargs or {}))
    hook.close()
    assert getattr(outputs, "xcom_value", outputs) == {"text": "Hello"}
    assert "ask (llm): text: Hello" in lines.steps()


def test_no_more_streams_than_stated_and_none_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    count = STREAMS_PER_SERVER + 3
    with DifyServer(WORKFLOWS, time_scale=0.01, worker_slots=None) as server:
        connect(monkeypatch, server, "long")
        results: list[Any] = []

        def run(number: int) -> None:
            task = Task(store=False, deferrable=False, follow_events=True, inputs={"seconds": 500})
            task.ti.map_index = number
            results.append(task.run())

        threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        looked_at: set[str] = set()
        while len(looked_at) < count:
            assert any(thread.is_alive() for thread in threads)
            time.sleep(0.02)
            looked_at = {request.path for request in server.requests if "/workflows/run/" in request.path}
        assert len(events_requests(server)) == STREAMS_PER_SERVER
        for thread in threads:
            thread.join()
        assert len(results) == count
        slots = [StreamSlot.take(f"{server.base_url}/v1") for _ in range(STREAMS_PER_SERVER + 1)]
        assert [slot is not None for slot in slots] == [True] * STREAMS_PER_SERVER + [False]
        for slot in slots:
            if slot is not None:
                slot.free()
    assert not [thread for thread in threading.enumerate() if thread.name == "dify-events"]


def test_tasks_beyond_the_limit_wait_without_following(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, lines: Log
) -> None:
    connect(monkeypatch, server, "steps")
    taken = [StreamSlot.take(f"{server.base_url}/v1") for _ in range(STREAMS_PER_SERVER)]
    assert Task(store=False, deferrable=False, follow_events=True).run() == {"text": "Hello"}
    assert Task(store=False, deferrable=True, follow_events=True).run() == {"text": "Hello"}
    assert events_requests(server) == []
    for slot in taken:
        assert slot is not None
        slot.free()
    assert Task(store=False, deferrable=False, follow_events=True).run() == {"text": "Hello"}
    assert len(events_requests(server)) == 1


def test_a_cancelled_trigger_leaves_no_stream(monkeypatch: pytest.MonkeyPatch, server: DifyServer) -> None:
    connect(monkeypatch, server, "long")
    task = Task(store=False, deferrable=True, follow_events=True, inputs={"seconds": 5000})
    with pytest.raises(TaskDeferred) as caught:
        task.operator.execute({"ti": task.ti})
    trigger = caught.value.trigger

    async def cancel() -> None:
        async def fire() -> None:
            async for _ in trigger.run():
                pass

        firing = asyncio.create_task(fire())
        while not events_requests(server):
            await asyncio.sleep(0.02)
        firing.cancel()
        await asyncio.gather(firing, return_exceptions=True)
        assert [each for each in asyncio.all_tasks() if each is not asyncio.current_task()] == []

    asyncio.run(cancel())
    slot = StreamSlot.take(f"{server.base_url}/v1", limit=1)
    assert slot is not None
    slot.free()
    json.dumps(trigger.serialize())
