"""One scenario per group of recordings: the same steps, against the local server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from typing import Any

from airflow_provider_dify.testing.faults import Fault
from tests.contract.server_compare import VERSIONS, Exchange, load, names
from tests.contract.server_lab import Lab

Scenario = Callable[[str], dict[str, Exchange]]

OLD = ("1.9.1", "1.11.2")
NEW = ("1.14.2",)

COVERED: dict[tuple[str, str], Scenario] = {}
"""Scenario by version and recording."""


def covers(*recordings: str, versions: tuple[str, ...] = VERSIONS) -> Callable[[Scenario], Scenario]:
    """Register a scenario for those of the recordings that exist."""

    def register(scenario: Scenario) -> Scenario:
        for version in versions:
            for name in set(recordings) & set(names(version)):
                assert (version, name) not in COVERED, f"{name} has two scenarios"
                COVERED[version, name] = scenario
        return scenario

    return register


def user_of(version: str, name: str) -> str:
    """Return the `user` of a recorded request."""
    return str(load(version, name)["request"]["json"]["user"])


def first_event(exchange: Exchange) -> bool:
    """Tell whether the first data event has come."""
    return bool(exchange.events())


_SINGLE = (
    "api-disabled", "auth-bad-key", "auth-lowercase-bearer", "auth-missing", "auth-wrong-scheme",
    "bad-graph-blocking", "body-invalid-json", "body-json-list", "content-type-missing", "get-run-not-a-uuid",
    "get-run-unknown-id", "info", "inputs-missing", "logs-account-unknown", "logs-after-epoch",
    "logs-limit-0", "logs-limit-101", "logs-status-partial", "logs-status-running", "method-not-allowed",
    "missing-required-blocking", "number-list", "number-numeric-string", "object-json-string", "options-run",
    "parameters", "path-api-workflow-runs", "path-api-workflows-id-run", "path-api-workflows-run",
    "plugin-daemon-down-blocking", "required-empty", "response-mode-invalid", "run-by-id-bad-uuid",
    "run-by-id-unknown", "run-default-mode", "run-idempotency-header-ignored", "select-bad-option",
    "stop-unknown-task", "stop-wrong-app-mode", "text-too-long", "unknown-path", "unpublished-blocking",
    "unpublished-parameters", "unpublished-streaming", "user-300-chars", "user-integer", "user-missing",
    "v1-no-slash", "wrong-app-mode-blocking", "wrong-app-mode-logs", "wrong-app-mode-streaming",
)  # fmt: skip


@covers(*_SINGLE)
def single_requests(version: str) -> dict[str, Exchange]:
    """Requests that need no other before them."""
    with Lab(version) as lab:
        for name in set(_SINGLE) & set(names(version)):
            lab.replay(name)
        return lab.exchanges


@covers("missing-required-streaming", "bad-graph-streaming", "bad-graph-logs")
def refused_in_the_stream(version: str) -> dict[str, Exchange]:
    """Errors that 1.14.2 tells in the stream, which then stays open, silent."""
    with Lab(version, time_scale=0.003) as lab:
        lab.replay("missing-required-streaming")
        lab.replay("bad-graph-streaming", patience=0.3)
        lab.replay("bad-graph-logs")
        return lab.exchanges


@covers("run-by-id-blocking", "run-by-id-draft", "run-by-id-older-version", "run-by-id-other-app")
def run_by_id(version: str) -> dict[str, Exchange]:
    """Runs of a named version of the workflow."""
    with Lab(version) as lab:
        echo = lab.server.app("echo")
        lab.replay("run-by-id-blocking", echo.workflow_id)
        lab.replay("run-by-id-draft", echo.draft_workflow_id)
        lab.replay("run-by-id-other-app", lab.server.app("slow").workflow_id)
        if version in NEW:
            lab.replay("run-by-id-older-version", echo.older_workflow_ids[0])
        return lab.exchanges


@covers(
    "run-blocking-echo", "get-run-succeeded", "run-blocking-failing", "get-run-failed",
    "run-blocking-partial-default", "get-run-partial-succeeded", "run-blocking-partial-failbranch",
    "get-run-other-app", "get-run-multi-end", "run-streaming-partial-default", "logs-partial-row",
)  # fmt: skip
def blocking_runs(version: str) -> dict[str, Exchange]:
    """Blocking runs, and their rows afterwards."""
    with Lab(version) as lab:
        for run, row in (
            ("run-blocking-echo", "get-run-succeeded"),
            ("run-blocking-failing", "get-run-failed"),
            ("run-blocking-partial-default", "get-run-partial-succeeded"),
        ):
            run_id = lab.replay(run).json()["workflow_run_id"]
            lab.replay(row, run_id)
        lab.replay("get-run-other-app", run_id)
        lab.replay("run-blocking-partial-failbranch")
        lab.replay("run-streaming-partial-default")
        if version in OLD:
            lab.replay("logs-partial-row")
        else:
            run = lab.post("multi_end", {"inputs": {}, "user": "u1"}).json()
            lab.replay("get-run-multi-end", run["workflow_run_id"])
        return lab.exchanges


_STREAMS = (
    "run-streaming-echo", "run-streaming-failing", "run-streaming-retry", "run-streaming-loop",
    "run-streaming-iteration",
)  # fmt: skip


@covers(*_STREAMS)
def streaming_runs(version: str) -> dict[str, Exchange]:
    """Streams that are read to their end."""
    with Lab(version, time_scale=0.05) as lab:
        for name in set(_STREAMS) & set(names(version)):
            lab.replay(name)
        return lab.exchanges


@covers("run-streaming-slow-pings", versions=NEW)
def pings_on_1_14(version: str) -> dict[str, Exchange]:
    """A node that outlives the idle limit: the worker's pings keep the stream open."""
    with Lab(version, time_scale=0.004) as lab:
        lab.replay("run-streaming-slow-pings")
        return lab.exchanges


@covers("run-streaming-slow-pings", "get-run-running", "logs-by-user-running", "logs-by-user-after", versions=OLD)
def pings_on_older(version: str) -> dict[str, Exchange]:
    """A long node; meanwhile and afterwards a look at its row and its log."""
    with Lab(version, time_scale=0.02) as lab:

        def look(exchange: Exchange) -> bool:
            if len(exchange.events()) == 1:
                lab.replay("get-run-running", exchange.events()[0]["workflow_run_id"])
                lab.replay("logs-by-user-running")
            return False

        lab.replay("run-streaming-slow-pings", reader=look)
        lab.replay("logs-by-user-after")
        return lab.exchanges


@covers(
    "disconnect-after-started-stream", "disconnect-after-started-get-final", "disconnect-after-started-logs",
    "disconnect-after-ping-stream", "disconnect-after-ping-logs-after", "disconnect-before-first-byte",
    "disconnect-before-first-byte-logs",
)  # fmt: skip
@covers("get-run-running", "logs-by-user-running", versions=NEW)
def disconnected_streams(version: str) -> dict[str, Exchange]:
    """Clients that leave their stream: the run goes on; what its row says depends on the version."""
    with Lab(version, time_scale=0.02) as lab:
        stream = lab.replay("disconnect-after-started-stream", reader=first_event)
        run_id = stream.events()[0]["workflow_run_id"]
        if version in NEW:
            lab.replay("get-run-running", run_id)
            lab.replay("logs-by-user-running")
        lab.wait_for_status(user_of(version, "disconnect-after-started-stream"), "succeeded")
        lab.wait_for(lambda: lab.server.busy_connections == 0)
        lab.replay("disconnect-after-started-get-final", run_id)
        lab.replay("disconnect-after-started-logs")
        if version in NEW:
            lab.replay("disconnect-after-ping-stream", reader=lambda exchange: True)
            lab.wait_for_status(user_of(version, "disconnect-after-ping-stream"), "succeeded")
            lab.replay("disconnect-after-ping-logs-after")
            lab.abandon("disconnect-before-first-byte")
            lab.wait_for_status(user_of(version, "disconnect-before-first-byte"), "succeeded")
            lab.replay("disconnect-before-first-byte-logs")
        return lab.exchanges


@covers(
    "disconnect-blocking-call", "disconnect-blocking-logs-running", "disconnect-blocking-get-final",
    "disconnect-blocking-logs-after",
)  # fmt: skip
def disconnected_blocking_call(version: str) -> dict[str, Exchange]:
    """A client that gives up on a blocking run."""
    with Lab(version, time_scale=0.03) as lab:
        user = user_of(version, "disconnect-blocking-call")
        lab.abandon("disconnect-blocking-call", wait=0.05)
        lab.replay("disconnect-blocking-logs-running")
        lab.wait_for_status(user, "succeeded")
        lab.wait_for(lambda: lab.server.runs_of(user)[0].row_status == "succeeded")
        lab.replay("disconnect-blocking-get-final", lab.server.runs_of(user)[0].id)
        if version in OLD:
            lab.replay("disconnect-blocking-logs-after")
        return lab.exchanges


def _stop_outcome(version: str, wanted: str) -> str:
    return "stuck" if version == "1.11.2" else wanted


@covers("stop-stream", "stop-call", "stop-get-final", "stop-missing-user")
def stop_by_owner(version: str) -> dict[str, Exchange]:
    """Stop a run whose stream is open, first without the user it takes."""
    with Lab(version, time_scale=0.1, stop_outcome=_stop_outcome(version, "stopped")) as lab:

        def stop(exchange: Exchange) -> bool:
            if exchange.events()[-1:] and exchange.events()[-1]["event"] == "workflow_finished":
                lab.replay("stop-get-final", exchange.events()[0]["workflow_run_id"])
            elif len(exchange.events()) == 4 and "stop-call" not in lab.exchanges:
                task_id = exchange.events()[0]["task_id"]
                lab.replay("stop-missing-user", task_id)
                lab.replay("stop-call", task_id)
            return False

        lab.replay("stop-stream", reader=stop)
        return lab.exchanges


@covers("stop-race-stopped-stream", "stop-race-failed-stream")
def stop_races(version: str) -> dict[str, Exchange]:
    """Both ways in which a stop ends."""
    exchanges: dict[str, Exchange] = {}
    for outcome in ("stopped", "failed"):
        name = f"stop-race-{outcome}-stream"
        if name in names(version):
            with Lab(version, time_scale=0.1, stop_outcome=_stop_outcome(version, outcome)) as lab:
                lab.replay(name, reader=_stops(lab, load(version, name)["app"], 4))
                exchanges |= lab.exchanges
    return exchanges


def _stops(lab: Lab, app: str, events: int) -> Callable[[Exchange], bool]:
    """Return a reader that stops the run after so many events."""

    def stop(exchange: Exchange) -> bool:
        if len(exchange.events()) == events:
            lab.post(app, {"user": "anybody"}, path=f"/workflows/tasks/{exchange.events()[0]['task_id']}/stop")
        return False

    return stop


@covers("stop-stuck-running-stream", "stop-stuck-running-call", "stop-stuck-running-get")
def stop_stuck(version: str) -> dict[str, Exchange]:
    """A stopped run whose row never says so."""
    with Lab(version, time_scale=0.5, stop_outcome="stuck") as lab:

        def stop(exchange: Exchange) -> bool:
            if len(exchange.events()) == 4:
                lab.replay("stop-stuck-running-call", exchange.events()[0]["task_id"])
            return False

        stream = lab.replay("stop-stuck-running-stream", reader=stop)
        lab.replay("stop-stuck-running-get", stream.events()[0]["workflow_run_id"])
        return lab.exchanges


@covers("stop-multi-node-stream", "stop-multi-node-get-final")
def stop_in_second_node(version: str) -> dict[str, Exchange]:
    """Stop during the second of three nodes."""
    with Lab(version, time_scale=0.05, stop_outcome="stopped") as lab:
        stream = lab.replay("stop-multi-node-stream", reader=_stops(lab, "slow_multi", 8))
        lab.replay("stop-multi-node-get-final", stream.events()[0]["workflow_run_id"])
        return lab.exchanges


@covers(
    "stop-other-user-call", "stop-other-user-get-final", "stop-other-app-key-stream",
    "stop-other-app-key-call", "stop-other-app-key-get-final",
)  # fmt: skip
def stop_by_others(version: str) -> dict[str, Exchange]:
    """Stop by another user, and with another app's key."""
    with Lab(version, time_scale=0.1, stop_outcome=_stop_outcome(version, "stopped")) as lab:
        for case, app in (
            ("stop-other-user", "slow" if version in NEW else "slow2"),
            ("stop-other-app-key", "slow_multi" if version in NEW else "slow2"),
        ):
            run_id, task_id = _begin_like(lab, case, app)
            if f"{case}-call" in names(version):
                lab.replay(f"{case}-call", task_id)
            else:
                lab.post(app, {"user": "someone-else"}, path=f"/workflows/tasks/{task_id}/stop")
            lab.wait_for(partial(_has_stopped, lab, run_id))
            lab.wait_for(lambda: lab.server.busy_connections == 0)
            lab.replay(f"{case}-get-final", run_id)
        return lab.exchanges


def _has_stopped(lab: Lab, run_id: str) -> bool:
    return next(run for run in lab.server.runs if run.id == run_id).status == "stopped"


def _begin_like(lab: Lab, case: str, app: str) -> tuple[str, str]:
    """Begin the run that a recorded GET tells of; the client of 1.14.2's other-app-key case leaves it."""
    if f"{case}-stream" in names(lab.version):
        event = lab.replay(f"{case}-stream", reader=first_event).events()[0]
        return event["workflow_run_id"], event["task_id"]
    body = load(lab.version, f"{case}-get-final")["response"]["json"]
    inputs = json.loads(body["inputs"])
    user = inputs.pop("sys.user_id")
    own = {name: value for name, value in inputs.items() if not name.startswith("sys.")}
    lab.later_stream(app, {"inputs": own, "user": user})
    lab.wait_for(lambda: lab.server.runs_of(user) and lab.server.runs_of(user)[0].status == "running")
    run = lab.server.runs_of(user)[0]
    return run.id, run.task_id


@covers("stop-detached-stream", "stop-detached-call", "stop-detached-get-final")
def stop_detached(version: str) -> dict[str, Exchange]:
    """Leave a stream, then stop its run."""
    with Lab(version, time_scale=0.05, stop_outcome=_stop_outcome(version, "stopped")) as lab:
        event = lab.replay("stop-detached-stream", reader=first_event).events()[0]
        lab.replay("stop-detached-call", event["task_id"])
        lab.wait_for(partial(_has_stopped, lab, event["workflow_run_id"]))
        lab.wait_for(lambda: lab.server.busy_connections == 0)
        lab.replay("stop-detached-get-final", event["workflow_run_id"])
        return lab.exchanges


@covers("stop-after-finish", "stop-after-finish-get", "stop-with-run-id")
def stop_without_effect(version: str) -> dict[str, Exchange]:
    """Stop what has ended, and stop with an id that names no task."""
    with Lab(version, time_scale=0.05) as lab:
        app = load(version, "stop-after-finish")["app"]
        user = user_of(version, "stop-after-finish")
        inputs = {"text": "x"} if app == "echo" else {"seconds": 0}
        run = lab.post(app, {"inputs": inputs, "user": user}).json()
        lab.replay("stop-after-finish", run["task_id"])
        if version in OLD:
            lab.replay("stop-after-finish-get", run["workflow_run_id"])
        lab.replay("stop-with-run-id", run["workflow_run_id"])
        return lab.exchanges


@covers("stop-blocking-run", "stop-blocking-run-get-final")
def stop_blocking_run(version: str) -> dict[str, Exchange]:
    """Stop a blocking run from outside."""
    with Lab(version, time_scale=0.1, stop_outcome=_stop_outcome(version, "stopped")) as lab:
        user = user_of(version, "stop-blocking-run")
        call = lab.later("stop-blocking-run")
        lab.wait_for(lambda: lab.server.runs_of(user))
        run = lab.server.runs_of(user)[0]
        lab.post("slow2", {"user": user}, path=f"/workflows/tasks/{run.task_id}/stop")
        call.result()
        lab.replay("stop-blocking-run-get-final", run.id)
        return lab.exchanges


_LOGS = (
    "logs-no-filter", "logs-by-user", "logs-keyword-run-id", "logs-status-succeeded", "logs-after-iso",
    "logs-page-2",
)  # fmt: skip


@covers(*_LOGS)
def logs(version: str) -> dict[str, Exchange]:
    """Pages of the logs: the recorded rows are run again, among as many others as there were."""
    exchanges: dict[str, Exchange] = {}
    for name in set(_LOGS) & set(names(version)):
        with Lab(version, time_scale=0.2, connections=None) as lab:
            recording = load(version, name)
            page = recording["response"]["json"]
            newer = (page["page"] - 1) * page["limit"]
            older = page["total"] - newer - len(page["data"])
            filtered = recording["request"]["query"].get("created_by_end_user_session_id")
            for number in range(older):
                _quick_run(lab, recording["app"], filtered or f"older-{number}")
            for row in reversed(page["data"]):
                run_id = _run_again(lab, recording["app"], row)
            for number in range(newer):
                _quick_run(lab, recording["app"], filtered or f"newer-{number}")
            lab.replay(name, change=_with_fresh_query(run_id))
            exchanges |= lab.exchanges
    return exchanges


def _with_fresh_query(run_id: str) -> Callable[[dict[str, Any]], None]:
    def change(request: dict[str, Any]) -> None:
        query = request["query"]
        if "keyword" in query:
            query["keyword"] = run_id
        if "created_at__after" in query:
            moment = datetime.fromtimestamp(time.time() - 60, tz=timezone.utc)
            query["created_at__after"] = moment.strftime("%Y-%m-%dT%H:%M:%SZ")

    return change


def _quick_run(lab: Lab, app: str, user: str) -> str:
    inputs = {"text": "x"} if app == "echo" else {"seconds": 0}
    run_id: str = lab.post(app, {"inputs": inputs, "user": user}).json()["workflow_run_id"]
    return run_id


def _run_again(lab: Lab, app: str, row: dict[str, Any]) -> str:
    user, status = row["created_by_end_user"]["session_id"], row["workflow_run"]["status"]
    if status == "succeeded":
        return _quick_run(lab, app, user)
    assert status == "running", f"no recipe for a {status} row"
    lab.later_stream(app, {"inputs": {"seconds": 60}, "user": user})
    lab.wait_for(lambda: lab.server.runs_of(user) and lab.server.runs_of(user)[-1].status == "running")
    return lab.server.runs_of(user)[-1].id


@covers(
    "queued-stream", "queued-logs", "queued-blocking", "queued-logs-after", "queued-disconnected-stream",
    "queued-disconnected-logs-after",
)  # fmt: skip
def queue(version: str) -> dict[str, Exchange]:
    """All worker slots are busy: streams wait, blocking runs do not."""
    with Lab(version, time_scale=0.2) as lab:
        for number in range(4):
            lab.later_stream("slow", {"inputs": {"seconds": 22}, "user": f"busy{number}"})
        lab.wait_for(lambda: sum(run.status == "running" for run in lab.server.runs) == 4)
        stream = lab.later("queued-stream")
        lab.wait_for(lambda: lab.server.runs_of(user_of(version, "queued-stream")))
        lab.replay("queued-disconnected-stream", reader=lambda exchange: True)
        lab.replay("queued-logs")
        lab.replay("queued-blocking")
        stream.result()
        lab.wait_for_status(user_of(version, "queued-disconnected-stream"), "succeeded")
        lab.replay("queued-logs-after")
        lab.replay("queued-disconnected-logs-after")
        return lab.exchanges


@covers("queued-over-300s-stream", "queued-over-300s-logs-after")
def queued_too_long(version: str) -> dict[str, Exchange]:
    """Queued beyond the idle limit: the stream ends, the run comes later."""
    with Lab(version, time_scale=0.01) as lab:
        for number in range(4):
            lab.later_stream("slow", {"inputs": {"seconds": 400}, "user": f"busy{number}"})
        lab.wait_for(lambda: sum(run.status == "running" for run in lab.server.runs) == 4)
        lab.replay("queued-over-300s-stream")
        lab.wait_for_status(user_of(version, "queued-over-300s-stream"), "succeeded")
        lab.replay("queued-over-300s-logs-after")
        return lab.exchanges


@covers("no-worker-stream", "no-worker-logs-after")
def no_worker(version: str) -> dict[str, Exchange]:
    """No worker is alive; the run executes once one is back."""
    with Lab(version, time_scale=0.02) as lab:
        lab.server.kill_workers()
        lab.replay("no-worker-stream", patience=0.3)
        lab.server.start_workers()
        lab.wait_for_status(user_of(version, "no-worker-stream"), "succeeded")
        lab.replay("no-worker-logs-after")
        return lab.exchanges


@covers("worker-killed-stream", "worker-killed-stop", "worker-killed-get-after-stop")
def worker_killed(version: str) -> dict[str, Exchange]:
    """The worker dies: silence, and a row that is running for ever."""
    with Lab(version, time_scale=0.05) as lab:

        def kill(exchange: Exchange) -> bool:
            if len(exchange.events()) == 4:
                lab.server.kill_workers()
            return False

        stream = lab.replay("worker-killed-stream", reader=kill, patience=0.8)
        lab.server.start_workers()
        lab.replay("worker-killed-stop", stream.events()[0]["task_id"])
        lab.replay("worker-killed-get-after-stop", stream.events()[0]["workflow_run_id"])
        return lab.exchanges


@covers("api-killed-stream", "api-killed-get-stream-run", "api-killed-blocking", "api-killed-blocking-logs")
def api_killed(version: str) -> dict[str, Exchange]:
    """The API dies: the streaming run goes on in its worker, the blocking one is lost."""
    with Lab(version, time_scale=0.05) as lab:
        blocking = lab.later("api-killed-blocking")
        stream = lab.later("api-killed-stream")
        lab.wait_for(lambda: len(lab.server.runs) == 2)
        lab.wait_for(lambda: len(lab.exchanges.get("api-killed-stream", Exchange()).blocks) == 5)
        lab.server.restart(lose_runs=False)
        blocking.result()
        lab.wait_for_status(user_of(version, "api-killed-stream"), "succeeded")
        lab.replay("api-killed-get-stream-run", stream.result().events()[0]["workflow_run_id"])
        lab.replay("api-killed-blocking-logs")
        return lab.exchanges


@covers("slots-full-info")
def connection_slots(version: str) -> dict[str, Exchange]:
    """All ten connections are taken: even /info waits."""
    with Lab(version, time_scale=0.2) as lab:
        inputs = {"seconds": 10} if version in NEW else {"seconds": 10, "tag": "full"}
        for number in range(10):
            lab.later_stream("slow", {"inputs": inputs, "user": f"full{number}"})
        lab.wait_for(lambda: lab.server.busy_connections == 10)
        begin = time.monotonic()
        lab.replay("slots-full-info")
        assert time.monotonic() - begin > 0.2, "it did not wait"
        return lab.exchanges


@covers("lost-start-events-stream", "lost-all-but-finished-stream", "lost-all-events-stream")
def lost_events(version: str) -> dict[str, Exchange]:
    """Events that never arrive, though the runs succeed."""
    every = ("workflow_started", "node_started", "node_finished", "text_chunk")
    with Lab(version, time_scale=0.02) as lab:
        user = user_of(version, "lost-start-events-stream")
        lab.server.inject(Fault("submit", "lose_events", user=user, first_events=3))
        lab.replay("lost-start-events-stream")
        lab.server.inject(Fault("submit", "lose_events", events=every))
        lab.replay("lost-all-but-finished-stream")
        lab.server.inject(Fault("submit", "lose_events", events=("*",)))
        lab.replay("lost-all-events-stream", patience=0.3)
        return lab.exchanges


@covers("rate-limit-blocking", "rate-limit-streaming", "rate-limit-get-run", versions=OLD)
def limit_on_older(version: str) -> dict[str, Exchange]:
    """The app's limit: an open stream holds a slot."""
    with Lab(version, time_scale=0.1) as lab:
        user = user_of(version, "rate-limit-blocking")
        lab.later_stream("limited", {"inputs": {"seconds": 6}, "user": user})
        lab.wait_for(lambda: lab.server.runs_of(user) and lab.server.runs_of(user)[0].row_status)
        lab.replay("rate-limit-blocking")
        lab.replay("rate-limit-streaming")
        lab.replay("rate-limit-get-run", lab.server.runs_of(user)[0].id)
        return lab.exchanges


@covers(
    "rate-limit-blocking", "rate-limit-streaming", "rate-limit-one-single-stream",
    "rate-limit-streams-not-counted", versions=NEW,
)  # fmt: skip
def limit_on_1_14(version: str) -> dict[str, Exchange]:
    """The app's limit: streams do not count, but each counts itself twice."""
    with Lab(version, limit=1) as lab:
        lab.replay("rate-limit-one-single-stream")
        exchanges = dict(lab.exchanges)
    with Lab(version, limit=2, time_scale=0.1) as lab:
        for number in range(3):
            lab.later_stream("ratelimited", {"inputs": {"seconds": 6}, "user": f"open{number}"})
        lab.wait_for(lambda: len(lab.server.active_runs()) == 3)
        lab.replay("rate-limit-streams-not-counted")
        for number in range(2):
            lab.later_post("ratelimited", {"inputs": {"seconds": 6}, "user": f"blocking{number}"})
        lab.wait_for(lambda: sum(run.response_mode == "blocking" for run in lab.server.active_runs()) == 2)
        lab.replay("rate-limit-blocking")
        lab.replay("rate-limit-streaming")
        return exchanges | lab.exchanges


@covers("app-max-time-stream", "app-max-time-blocking", "app-max-time-get", "app-max-time-get-final")
def app_limit(version: str) -> dict[str, Exchange]:
    """Whoever listens is told that the run was stopped; it goes on."""
    limit = 6 if version in NEW else 8
    with Lab(version, time_scale=0.05, app_max_execution_time=limit) as lab:
        blocking = lab.later("app-max-time-blocking")
        stream = lab.replay("app-max-time-stream")
        blocking.result()
        if version in NEW:
            run_id = stream.events()[0]["workflow_run_id"]
            lab.replay("app-max-time-get", run_id)
            lab.wait_for_status(user_of(version, "app-max-time-stream"), "succeeded")
            lab.replay("app-max-time-get-final", run_id)
        return lab.exchanges


@covers("wf-max-time-stream", "wf-max-time-blocking", "wf-max-time-get-final")
def workflow_limit(version: str) -> dict[str, Exchange]:
    """A node outlives the workflow's limit: the run fails when the node ends."""
    limit = 6 if version in NEW else 8
    with Lab(version, time_scale=0.02, workflow_max_execution_time=limit) as lab:
        blocking = lab.later("wf-max-time-blocking")
        stream = lab.replay("wf-max-time-stream")
        blocking.result()
        if version in NEW:
            lab.replay("wf-max-time-get-final", stream.events()[0]["workflow_run_id"])
        return lab.exchanges


@covers("events-running-live", "events-running-snapshot", "events-finished")
def events_of_running_run(version: str) -> dict[str, Exchange]:
    """The events route while a run goes on, and afterwards."""
    with Lab(version, time_scale=0.1) as lab:
        user = load(version, "events-running-live")["request"]["query"]["user"]
        lab.later_stream("slow_multi", {"inputs": {"seconds": 4}, "user": user})
        lab.wait_for(lambda: lab.server.runs_of(user) and lab.server.runs_of(user)[0].row_status)
        run_id = lab.server.runs_of(user)[0].id
        time.sleep(0.05)
        live = lab.later("events-running-live", run_id)
        lab.replay("events-running-snapshot", run_id)
        live.result()
        lab.replay("events-finished", run_id)
        return lab.exchanges


@covers("events-blocking-run-running")
def events_of_blocking_run(version: str) -> dict[str, Exchange]:
    """The events route of a blocking run never tells its end."""
    with Lab(version, time_scale=0.02) as lab:
        user = load(version, "events-blocking-run-running")["request"]["query"]["user"]
        lab.later_post("slow", {"inputs": {"seconds": 6}, "user": user})
        lab.wait_for(lambda: lab.server.runs_of(user) and lab.server.runs_of(user)[0].row_status)
        time.sleep(0.03)
        lab.replay_as_recorded("events-blocking-run-running", lab.server.runs_of(user)[0].id)
        return lab.exchanges


_FORM = (
    "human-form-get", "human-form-post-bad-action", "human-form-post-missing-input", "human-form-post",
    "human-form-post-again",
)  # fmt: skip


@covers(
    *_FORM, "human-stream", "human-get-paused", "human-logs-paused", "human-get-final",
    "events-paused-snapshot", "events-paused-live", "events-other-user", "events-no-user", "events-resume",
    "events-task-id", "events-bad-uuid",
)  # fmt: skip
def human_input(version: str) -> dict[str, Exchange]:
    """A run that pauses, is looked at from all sides, and resumes."""
    with Lab(version, time_scale=0.05) as lab:
        stream = lab.replay("human-stream")
        run_id, task_id = stream.events()[0]["workflow_run_id"], stream.events()[0]["task_id"]
        token = stream.events()[-1]["data"]["reasons"][0]["form_token"]

        def ask_form(name: str) -> None:
            recorded = load(version, name)["request"]["path"].rsplit("/", 1)[1]
            lab.replay(name, change=lambda request: request.update(path=request["path"].replace(recorded, token)))

        for name in ("human-get-paused", "events-paused-snapshot", "events-other-user", "events-no-user"):
            lab.replay(name, run_id)
        lab.replay("human-logs-paused")
        lab.replay("events-paused-live", run_id, patience=0.3)
        for name in _FORM[:3]:
            ask_form(name)
        resumed = lab.later("events-resume", run_id)
        lab.wait_for(lambda: len(lab.exchanges.get("events-resume", Exchange()).events()) == 7)
        ask_form("human-form-post")
        resumed.result()
        lab.replay("human-get-final", run_id)
        ask_form("human-form-post-again")
        lab.replay("events-task-id", task_id)
        lab.replay("events-bad-uuid")
        return lab.exchanges


@covers("human-blocking", "stop-paused-call", "stop-paused-get")
def human_input_blocking(version: str) -> dict[str, Exchange]:
    """A blocking run that pauses; a stop has no effect on it."""
    with Lab(version, time_scale=0.05) as lab:
        run = lab.replay("human-blocking").json()
        lab.replay("stop-paused-call", run["task_id"])
        time.sleep(0.1)
        lab.replay("stop-paused-get", run["workflow_run_id"])
        return lab.exchanges


_FILE_RUNS = (
    "file-run", "file-run-other-user", "file-run-other-user-streaming", "file-run-unknown-id",
    "file-run-type-mismatch", "file-run-toplevel-files", "file-run-remote",
)  # fmt: skip


@covers(
    *_FILE_RUNS, "file-upload", "file-upload-no-user", "file-upload-no-file", "file-upload-too-big",
    "file-get-run",
)  # fmt: skip
def files(version: str) -> dict[str, Exchange]:
    """Uploads, and runs with files."""
    with Lab(version, time_scale=0.02, remote_files={"http://127.0.0.1:8090/file.txt": b"hello there"}) as lab:
        file_id = lab.replay("file-upload", change=_with_multipart).json()["id"]
        for name in ("file-upload-no-user", "file-upload-no-file"):
            lab.replay(name, change=_with_multipart)
        lab.replay("file-upload-too-big", change=_with_big_file)

        def with_file(request: dict[str, Any]) -> None:
            for value in (*request["json"]["inputs"].values(), request["json"].get("files")):
                for item in value if isinstance(value, list) else [value]:
                    if isinstance(item, dict) and "upload_file_id" in item:
                        item["upload_file_id"] = file_id

        for name in set(_FILE_RUNS) & set(names(version)):
            known = name not in ("file-run-unknown-id", "file-run-remote")
            patience = 0.3 if name.endswith("streaming") else None
            lab.replay(name, change=with_file if known else None, patience=patience)
        if version in OLD:
            lab.replay("file-get-run", lab.exchanges["file-run"].json()["workflow_run_id"])
        return lab.exchanges


def _with_multipart(request: dict[str, Any]) -> None:
    """Give a body that was rebuilt with LF the line ends it had on the wire."""
    request["body"] = request["body"].replace("\r\n", "\n").replace("\n", "\r\n")


def _with_big_file(request: dict[str, Any]) -> None:
    boundary = request["headers"]["Content-Type"].partition("boundary=")[2]
    content = "x" * (16 * 1024 * 1024)
    request["body"] = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="big.txt"\r\n'
        f"Content-Type: text/plain\r\n\r\n{content}\r\n--{boundary}--\r\n"
    )
