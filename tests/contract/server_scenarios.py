"""One scenario per group of recordings: the same steps, against the local server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from typing import Any

from airflow_provider_dify.testing.faults import Fault
from tests.contract.server_compare import RELEASE, VERSIONS, Exchange, load, names
from tests.contract.server_lab import Lab

Scenario = Callable[[str], dict[str, Exchange]]

OLD = ("1.9.1", "1.11.2")
NEW = ("1.14.2", "1.16.1")
NEWEST = ("1.16.1",)

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
    "auth-bad-key-streaming", "auth-dataset-key", "auth-empty-key", "body-empty", "checkbox-word-blocking",
    "checkbox-yes", "code-sandbox-down-blocking", "file-run-string", "file-upload-json", "health",
    "human-form-unknown", "input-undeclared", "inputs-list", "inputs-null", "logs-before-iso", "logs-page-0",
    "logs-user-unknown", "meta", "multi-end-blocking", "null-required-blocking", "number-empty-string",
    "number-text-blocking", "object-list-blocking", "path-openapi-v1", "path-openapi-v1-apps",
    "path-openapi-v1-health", "path-openapi-v1-version", "root", "select-empty", "site", "stop-no-body",
    "text-not-string-blocking", "trace-bad", "trace-session", "trace-session-too-long", "user-300-chars-streaming",
    "user-empty", "checkbox-list", "checkbox-word", "parameters-chatflow", "parameters-human-select",
)  # fmt: skip


@covers(*_SINGLE, versions=(*VERSIONS, RELEASE))
@covers("run-blocking-echo", "file-run-no-type", versions=(RELEASE,))
@covers("rate-limit-get-run", versions=NEWEST)
def single_requests(version: str) -> dict[str, Exchange]:
    """Requests that need no other before them."""
    with Lab(version) as lab:
        others = {RELEASE: ("run-blocking-echo", "file-run-no-type"), "1.16.1": ("rate-limit-get-run",)}
        for name in {*_SINGLE, *others.get(version, ())} & set(names(version)):
            lab.replay(name)
        return lab.exchanges


_REFUSED = (
    "missing-required-streaming", "bad-graph-streaming", "plugin-daemon-down-streaming", "null-required-streaming",
    "number-list-streaming", "number-text-streaming", "object-json-string-streaming", "object-list-streaming",
    "select-bad-option-streaming", "text-not-string-streaming", "text-too-long-streaming",
    "file-run-string-streaming",
)  # fmt: skip
_TRACES = ("get", "get-later", "logs", "logs-after", "events", "stop")


@covers(*_REFUSED, *(f"{name}-{trace}" for name in _REFUSED for trace in _TRACES), versions=(RELEASE,))
@covers("bad-graph-logs", *_REFUSED, *(f"{name}-{trace}" for name in _REFUSED for trace in _TRACES))
def refused_in_the_stream(version: str) -> dict[str, Exchange]:
    """Errors that 1.14.2 and later tell in the stream or not at all, and that no row is found of them."""
    with Lab(version, time_scale=0.003, connections=None) as lab:
        for name in set(_REFUSED) & set(names(version)):
            left = load(version, name).get("closed_by") == "client"
            stream = lab.replay(name, patience=0.15 if left else None)
            for trace in _TRACES:
                if f"{name}-{trace}" in names(version):
                    run_id = stream.events()[-1].get("workflow_run_id") if version in NEWEST else None
                    lab.replay(f"{name}-{trace}", run_id)
        if "bad-graph-logs" in names(version):
            lab.replay("bad-graph-logs")
        return lab.exchanges


@covers("refused-streams-starve-server", versions=(RELEASE,))
def starved_by_refusals(version: str) -> dict[str, Exchange]:
    """Each refused stream keeps its connection slot until the idle limit, though its client has left."""
    with Lab(version, time_scale=0.004) as lab:
        refused = load(version, "missing-required-streaming")["request"]["json"]
        for _ in range(10):
            lab.leave("echo", refused)
        lab.wait_for(lambda: lab.server.busy_connections == 10)
        lab.ask_in_vain("refused-streams-starve-server", 0.5)
        lab.wait_for(lambda: lab.server.busy_connections == 0)
        assert lab.post("echo", {"inputs": {"text": "x"}, "user": "later"}).ok
        return lab.exchanges


@covers("run-by-id-blocking", "run-by-id-draft", "run-by-id-older-version", "run-by-id-other-app")
def run_by_id(version: str) -> dict[str, Exchange]:
    """Runs of a named version of the workflow."""
    with Lab(version) as lab:
        echo = lab.server.app("echo")
        lab.replay("run-by-id-blocking", echo.workflow_id)
        if "run-by-id-draft" in names(version):
            lab.replay("run-by-id-draft", echo.draft_workflow_id)
        lab.replay("run-by-id-other-app", lab.server.app("slow").workflow_id)
        if version == "1.14.2":
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
            if version in NEWEST and row == "get-run-partial-succeeded":
                for number in range(load(version, "logs-partial-row")["response"]["json"]["total"] - 1):
                    lab.post("partial_default", {"inputs": {}, "user": f"older-{number}"})
            run_id = lab.replay(run).json()["workflow_run_id"]
            lab.replay(row, run_id)
            if version in NEWEST and row == "get-run-partial-succeeded":
                lab.replay("logs-partial-row")
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
    "run-streaming-iteration", "checkbox-word-streaming",
)  # fmt: skip


@covers(*_STREAMS, versions=(*VERSIONS, RELEASE))
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
    with Lab(version, time_scale=0.2) as lab:
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
    return {"1.11.2": "stuck", "1.16.1": "aborted"}.get(version, wanted)


@covers("stop-stream", "stop-call", "stop-get-final", "stop-missing-user", "stop-get-right-after")
def stop_by_owner(version: str) -> dict[str, Exchange]:
    """Stop a run whose stream is open, first without the user it takes."""
    with Lab(version, time_scale=0.2, stop_outcome=_stop_outcome(version, "stopped")) as lab:

        def stop(exchange: Exchange) -> bool:
            if exchange.events()[-1:] and exchange.events()[-1]["event"] == "workflow_finished":
                for name in {"stop-get-right-after", "stop-get-final"} & set(names(version)):
                    lab.replay(name, exchange.events()[0]["workflow_run_id"])
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
            with Lab(version, time_scale=0.5, stop_outcome=_stop_outcome(version, outcome)) as lab:
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


@covers("stop-multi-node-stream", "stop-multi-node-get-final", "stop-multi-node-call")
def stop_in_second_node(version: str) -> dict[str, Exchange]:
    """Stop during the second of three nodes."""
    with Lab(version, time_scale=0.5, stop_outcome=_stop_outcome(version, "stopped")) as lab:

        def stop(exchange: Exchange) -> bool:
            if len(exchange.events()) == 8:
                lab.replay("stop-multi-node-call", exchange.events()[0]["task_id"])
            return False

        reader = stop if version in NEWEST else _stops(lab, "slow_multi", 8)
        stream = lab.replay("stop-multi-node-stream", reader=reader)
        lab.replay("stop-multi-node-get-final", stream.events()[0]["workflow_run_id"])
        return lab.exchanges


@covers(
    "stop-other-user-call", "stop-other-user-get-final", "stop-other-user-stream", "stop-other-app-key-stream",
    "stop-other-app-key-call", "stop-other-app-key-get-final",
)  # fmt: skip
def stop_by_others(version: str) -> dict[str, Exchange]:
    """Stop by another user, and with another app's key."""
    with Lab(version, time_scale=0.5, stop_outcome=_stop_outcome(version, "stopped")) as lab:
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


@covers(
    "stop-stream", "stop-call", "stop-get-right-after", "stop-get-final", "stop-detached-stream", "stop-detached-call",
    "stop-detached-get-final", "stop-stuck-get", versions=(RELEASE,),
)  # fmt: skip
def stop_on_release(version: str) -> dict[str, Exchange]:
    """However a run is stopped, its row says `running` permanently."""
    with Lab(version, time_scale=0.3) as lab:

        def stop(exchange: Exchange) -> bool:
            if len(exchange.events()) == 4 and "stop-call" not in lab.exchanges:
                lab.replay("stop-call", exchange.events()[0]["task_id"])
            return False

        run_id = lab.replay("stop-stream", reader=stop).events()[0]["workflow_run_id"]
        lab.replay("stop-get-right-after", run_id)
        detached = lab.replay("stop-detached-stream", reader=first_event).events()[0]
        lab.replay("stop-detached-call", detached["task_id"])
        other, task_id = _begin_like(lab, "stop-stuck-get", "slow_multi")
        lab.post("slow_multi", {"user": "z"}, path=f"/workflows/tasks/{task_id}/stop")
        for each in (detached["workflow_run_id"], other):
            lab.wait_for(partial(_has_stopped, lab, each))
        lab.wait_for(lambda: lab.server.busy_connections == 0)
        lab.replay("stop-get-final", run_id)
        lab.replay("stop-detached-get-final", detached["workflow_run_id"])
        lab.replay("stop-stuck-get", other)
        return lab.exchanges


def _has_stopped(lab: Lab, run_id: str) -> bool:
    return next(run for run in lab.server.runs if run.id == run_id).status == "stopped"


def _begin_like(lab: Lab, case: str, app: str) -> tuple[str, str]:
    """Begin the run that a recorded GET tells of; the client of 1.14.2's other-app-key case leaves it."""
    stream = f"{case}-stream"
    if stream in names(lab.version) and load(lab.version, stream)["closed_by"] == "client":
        event = lab.replay(stream, reader=first_event).events()[0]
        return event["workflow_run_id"], event["task_id"]
    if stream in names(lab.version):
        lab.later(stream)
        lab.wait_for(lambda: len(lab.exchanges.get(stream, Exchange()).events()) >= 4)
        event = lab.exchanges[stream].events()[0]
        return event["workflow_run_id"], event["task_id"]
    row = case if case.endswith("-get") else f"{case}-get-final"
    body = load(lab.version, row)["response"]["json"]
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
    with Lab(version, time_scale=0.5, stop_outcome=_stop_outcome(version, "stopped")) as lab:
        event = lab.replay("stop-detached-stream", reader=first_event).events()[0]
        lab.replay("stop-detached-call", event["task_id"])
        lab.wait_for(partial(_has_stopped, lab, event["workflow_run_id"]))
        lab.wait_for(lambda: lab.server.busy_connections == 0)
        lab.replay("stop-detached-get-final", event["workflow_run_id"])
        return lab.exchanges


@covers("stop-after-finish", "stop-after-finish-get", "stop-with-run-id", "stop-with-run-id-get")
def stop_without_effect(version: str) -> dict[str, Exchange]:
    """Stop what has ended, and stop with an id that names no task."""
    with Lab(version, time_scale=0.3) as lab:
        app = load(version, "stop-after-finish")["app"]
        user = user_of(version, "stop-after-finish")
        inputs = {"text": "x"} if app == "echo" else {"seconds": 1 if version in NEWEST else 0}
        run = lab.post(app, {"inputs": inputs, "user": user}).json()
        lab.replay("stop-after-finish", run["task_id"])
        if version != "1.14.2":
            lab.replay("stop-after-finish-get", run["workflow_run_id"])
        if version in NEWEST:
            user = user_of(version, "stop-with-run-id")
            lab.later_stream("slow_multi", {"inputs": {"seconds": 1}, "user": user})
            lab.wait_for(lambda: lab.server.active_runs() and lab.server.active_runs()[0].row_status)
            other = lab.server.active_runs()[0].id
            lab.replay("stop-with-run-id", other)
            lab.wait_for_status(user, "succeeded")
            lab.replay("stop-with-run-id-get", other)
            return lab.exchanges
        lab.replay("stop-with-run-id", run["workflow_run_id"])
        return lab.exchanges


@covers("stop-blocking-run", "stop-blocking-run-get-final", "stop-blocking-run-call")
def stop_blocking_run(version: str) -> dict[str, Exchange]:
    """Stop a blocking run from outside."""
    with Lab(version, time_scale=0.5, stop_outcome=_stop_outcome(version, "stopped")) as lab:
        user = user_of(version, "stop-blocking-run")
        call = lab.later("stop-blocking-run")
        lab.wait_for(lambda: lab.server.runs_of(user))
        run = lab.server.runs_of(user)[0]
        if version in NEWEST:
            lab.replay("stop-blocking-run-call", run.id)
            call.result()
            return lab.exchanges
        lab.post("slow2", {"user": user}, path=f"/workflows/tasks/{run.task_id}/stop")
        call.result()
        lab.replay("stop-blocking-run-get-final", run.id)
        return lab.exchanges


_LOGS = (
    "logs-no-filter", "logs-by-user", "logs-keyword-run-id", "logs-status-succeeded", "logs-after-iso",
    "logs-page-2", "logs-status-stopped", "logs-unknown-parameter",
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
            if older:
                make = _stopped_run if name == "logs-status-stopped" else _quick_run
                lab.copy_row(make(lab, recording["app"], filtered or "older"), older - 1)
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


def _stopped_run(lab: Lab, app: str, user: str) -> str:
    lab.later_stream(app, {"inputs": {"seconds": 60}, "user": user})
    lab.wait_for(lambda: lab.server.runs_of(user) and lab.server.runs_of(user)[-1].status == "running")
    run = lab.server.runs_of(user)[-1]
    lab.post(app, {"user": user}, path=f"/workflows/tasks/{run.task_id}/stop")
    lab.wait_for(partial(_has_stopped, lab, run.id))
    return run.id


def _run_again(lab: Lab, app: str, row: dict[str, Any]) -> str:
    user, status = row["created_by_end_user"]["session_id"], row["workflow_run"]["status"]
    if status == "succeeded":
        return _quick_run(lab, app, user)
    if status == "stopped":
        return _stopped_run(lab, app, user)
    assert status == "running", f"no recipe for a {status} row"
    lab.later_stream(app, {"inputs": {"seconds": 60}, "user": user})
    lab.wait_for(lambda: lab.server.runs_of(user) and lab.server.runs_of(user)[-1].status == "running")
    return lab.server.runs_of(user)[-1].id


@covers(
    "queued-stream", "queued-logs", "queued-blocking", "queued-logs-after", "queued-disconnected-stream",
    "queued-disconnected-logs-after", "queued-refused-stream",
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
        if version in NEWEST:
            lab.replay("queued-refused-stream")
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


@covers("worker-killed-stream", "worker-killed-stop", "worker-killed-get-after-stop", "worker-killed-get-later")
def worker_killed(version: str) -> dict[str, Exchange]:
    """The worker dies: silence, and a row that is running for ever."""
    with Lab(version, time_scale=0.2) as lab:

        def kill(exchange: Exchange) -> bool:
            if len(exchange.events()) == 4:
                lab.server.kill_workers()
            return False

        stream = lab.replay("worker-killed-stream", reader=kill, patience=0.8)
        lab.server.start_workers()
        lab.replay("worker-killed-stop", stream.events()[0]["task_id"])
        lab.replay("worker-killed-get-after-stop", stream.events()[0]["workflow_run_id"])
        if version in NEWEST:
            lab.replay("worker-killed-get-later", stream.events()[0]["workflow_run_id"])
        return lab.exchanges


_TERMINATED = (
    "worker-terminated-stream", "worker-terminated-get-right-after", "worker-terminated-get-after",
    "worker-terminated-get-final", "worker-terminated-logs-after", "worker-terminated-multi-stream",
    "worker-terminated-multi-get-after", "worker-terminated-multi-get-final", "worker-terminated-queued-stream",
    "worker-terminated-queued-logs-before", "worker-terminated-queued-logs-after",
)  # fmt: skip


@covers(*_TERMINATED)
def worker_terminated(version: str) -> dict[str, Exchange]:
    """The worker is asked to terminate: what it executes is stopped, and what it still takes."""
    with Lab(version, time_scale=0.2) as lab:
        streams = [lab.later(f"worker-terminated-{kind}stream") for kind in ("", "multi-")]
        for name in ("worker-terminated-stream", "worker-terminated-multi-stream"):
            lab.wait_for(partial(lambda name: len(lab.exchanges.get(name, Exchange()).events()) == 4, name))
        lab.server.shut_down_workers()
        one, multi = (stream.result().events()[0]["workflow_run_id"] for stream in streams)
        lab.replay("worker-terminated-get-right-after", one)
        lab.replay("worker-terminated-queued-stream")
        lab.replay("worker-terminated-queued-logs-before")
        for when in ("after", "final"):
            lab.replay(f"worker-terminated-get-{when}", one)
            lab.replay(f"worker-terminated-multi-get-{when}", multi)
            lab.server.start_workers()
        lab.replay("worker-terminated-logs-after")
        lab.replay("worker-terminated-queued-logs-after")
        return lab.exchanges


_BAD_GATEWAY = (
    "nginx-502-get-run", "nginx-502-info", "nginx-502-no-key", "nginx-502-run-blocking", "nginx-502-run-streaming",
    "nginx-502-stop", "nginx-unknown-path",
)  # fmt: skip


@covers(*_BAD_GATEWAY)
def bad_gateway(version: str) -> dict[str, Exchange]:
    """The proxy in front answers while the API is down."""
    with Lab(version) as lab:
        lab.server.down("502-html")
        for name in _BAD_GATEWAY:
            lab.replay(name)
        return lab.exchanges


@covers("api-killed-stream", "api-killed-get-stream-run", "api-killed-blocking", "api-killed-blocking-logs")
def api_killed(version: str) -> dict[str, Exchange]:
    """The API dies: the streaming run goes on in its worker, the blocking one is lost."""
    with Lab(version, time_scale=0.2) as lab:
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
    with Lab(version, limit=1, time_scale=0.1) as lab:
        lab.replay("rate-limit-one-single-stream")
        if version in NEWEST:
            lab.later_post("ratelimited", {"inputs": {"seconds": 6}, "user": "blocking"})
            lab.wait_for(lab.server.active_runs)
            lab.replay("rate-limit-blocking")
            lab.replay("rate-limit-streaming")
        exchanges = dict(lab.exchanges)
    with Lab(version, limit=2, time_scale=0.1) as lab:
        for number in range(3):
            lab.later_stream("ratelimited", {"inputs": {"seconds": 6}, "user": f"open{number}"})
        lab.wait_for(lambda: len(lab.server.active_runs()) == 3)
        lab.replay("rate-limit-streams-not-counted")
        if version in NEWEST:
            return exchanges | lab.exchanges
        for number in range(2):
            lab.later_post("ratelimited", {"inputs": {"seconds": 6}, "user": f"blocking{number}"})
        lab.wait_for(lambda: sum(run.response_mode == "blocking" for run in lab.server.active_runs()) == 2)
        lab.replay("rate-limit-blocking")
        lab.replay("rate-limit-streaming")
        return exchanges | lab.exchanges


@covers("app-max-time-stream", "app-max-time-blocking", "app-max-time-get", "app-max-time-get-final")
def app_limit(version: str) -> dict[str, Exchange]:
    """Whoever listens is reported that the run was stopped; it goes on."""
    limit = 6 if version in NEW else 8
    with Lab(version, time_scale=0.05, app_max_execution_time=limit) as lab:
        blocking = lab.later("app-max-time-blocking")
        stream = lab.replay("app-max-time-stream")
        blocking.result()
        if version in NEW:
            run_id = stream.events()[0]["workflow_run_id"]
            lab.replay("app-max-time-get", run_id)
            lab.wait_for_status(user_of(version, "app-max-time-stream"), "succeeded", "stopped")
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


@covers("events-running-live", "events-running-snapshot", versions=("1.14.2",))
@covers("events-finished")
def events_of_running_run(version: str) -> dict[str, Exchange]:
    """The events route while a run goes on, and afterwards."""
    with Lab(version, time_scale=0.1) as lab:
        user = load(version, "events-running-live")["request"]["query"]["user"]
        seconds = 4 if version == "1.14.2" else 3
        lab.later_stream("slow_multi", {"inputs": {"seconds": seconds}, "user": user})
        lab.wait_for(lambda: lab.server.runs_of(user) and lab.server.runs_of(user)[0].row_status)
        run_id = lab.server.runs_of(user)[0].id
        time.sleep(0.05)
        if version == "1.14.2":
            live = lab.later("events-running-live", run_id)
            lab.replay("events-running-snapshot", run_id)
            live.result()
        lab.wait_for_status(user, "succeeded")
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
    "events-task-id", "events-bad-uuid", versions=("1.14.2",),
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


@covers("human-blocking", versions=(RELEASE,))
@covers("human-blocking", "stop-paused-call", "stop-paused-get", versions=("1.14.2",))
def human_input_blocking(version: str) -> dict[str, Exchange]:
    """A blocking run that pauses; a stop has no effect on it."""
    with Lab(version, time_scale=0.05) as lab:
        run = lab.replay("human-blocking").json()
        if version == RELEASE:
            return lab.exchanges
        lab.replay("stop-paused-call", run["task_id"])
        time.sleep(0.1)
        lab.replay("stop-paused-get", run["workflow_run_id"])
        return lab.exchanges


def _ask_form(lab: Lab, name: str, token: str) -> Exchange:
    """Replay a request about a form, with the token of the form at hand."""
    recorded = load(lab.version, name)["request"]["path"].rsplit("/", 1)[1]
    return lab.replay(name, change=lambda request: request.update(path=request["path"].replace(recorded, token)))


_PAUSED = (
    "human-get-paused", "events-paused-snapshot", "events-other-user", "events-no-user", "events-other-app",
)  # fmt: skip


@covers(
    *_PAUSED, "human-stream", "human-logs-paused", "events-paused-live", "human-form-get", "human-form-get-other-app",
    "human-form-post-bad-action", "human-form-post-missing-input", "human-form-post-no-inputs",
    "human-form-post-no-user", "stop-paused-call", "stop-paused-get", "stop-paused-resume-events",
    "stop-paused-resume-form-post", "stop-paused-resume-get", "stop-paused-resume-get-final", "human-form-get-after",
    "human-form-post-again", "events-finished-resumed", "events-task-id", "events-bad-uuid", versions=NEWEST,
)  # fmt: skip
def human_input_stopped(version: str) -> dict[str, Exchange]:
    """A run that pauses and is stopped: the stop takes effect when its form is answered."""
    with Lab(version, time_scale=0.05) as lab:
        stream = lab.replay("human-stream")
        run_id, task_id = stream.events()[0]["workflow_run_id"], stream.events()[0]["task_id"]
        token = stream.events()[-1]["data"]["reasons"][0]["form_token"]
        for name in _PAUSED:
            lab.replay(name, run_id)
        lab.replay("human-logs-paused")
        lab.replay("events-paused-live", run_id, patience=1.5, reader=lambda exchange: len(exchange.blocks) == 3)
        for name in ("get", "get-other-app", "post-bad-action", "post-missing-input", "post-no-inputs", "post-no-user"):
            _ask_form(lab, f"human-form-{name}", token)
        lab.replay("stop-paused-call", task_id)
        lab.replay("stop-paused-get", run_id)
        resumed = lab.later("stop-paused-resume-events", run_id)
        lab.wait_for(lambda: len(lab.exchanges.get("stop-paused-resume-events", Exchange()).events()) == 7)
        _ask_form(lab, "stop-paused-resume-form-post", token)
        resumed.result()
        lab.replay("stop-paused-resume-get", run_id)
        lab.wait_for(partial(_has_stopped, lab, run_id))
        lab.replay("stop-paused-resume-get-final", run_id)
        _ask_form(lab, "human-form-get-after", token)
        _ask_form(lab, "human-form-post-again", token)
        lab.replay("events-finished-resumed", run_id)
        lab.replay("events-task-id", task_id)
        lab.replay("events-bad-uuid")
        return lab.exchanges


@covers("events-resume", "human-form-post", "human-get-final", versions=NEWEST)
def human_input_resumed(version: str) -> dict[str, Exchange]:
    """A run that pauses and resumes."""
    with Lab(version, time_scale=0.05) as lab:
        body = {"inputs": {"text": "doc1"}, "user": load(version, "events-resume")["request"]["query"]["user"]}
        run = lab.post("human_input", body).json()
        resumed = lab.later("events-resume", run["workflow_run_id"])
        lab.wait_for(lambda: len(lab.exchanges.get("events-resume", Exchange()).events()) == 7)
        _ask_form(lab, "human-form-post", run["data"]["reasons"][0]["form_token"])
        resumed.result()
        lab.replay("human-get-final", run["workflow_run_id"])
        return lab.exchanges


@covers(
    "human-blocking", "events-resume-no-snapshot", "human-blocking-form-post", "human-blocking-get-final",
    versions=NEWEST,
)  # fmt: skip
def human_input_rejected(version: str) -> dict[str, Exchange]:
    """A blocking run that pauses; a stream without a snapshot tells its end and stays open all the same."""
    with Lab(version, time_scale=0.02, human_end="end_rej") as lab:
        run = lab.replay("human-blocking").json()
        stream = lab.later(
            "events-resume-no-snapshot",
            run["workflow_run_id"],
            reader=lambda exchange: (
                len(exchange.blocks) > len(exchange.events()) + 3
                and exchange.events()[-1]["event"] == "workflow_finished"
            ),
        )
        lab.wait_for(lambda: lab.exchanges.get("events-resume-no-snapshot", Exchange()).blocks)
        _ask_form(lab, "human-blocking-form-post", run["data"]["reasons"][0]["form_token"])
        stream.result()
        lab.replay("human-blocking-get-final", run["workflow_run_id"])
        return lab.exchanges


# Groups of answers to one form each, in the order in which they were sent; the last of a group is accepted.
_FORM_ANSWERS: tuple[tuple[str, ...], ...] = (
    (
        "bad-option", "select-list", "file-list", "file-missing", "file-string", "file-unknown-id", "file-wrong-type",
        "comment-number",
    ),
    ("select-missing", "file-remote-unreachable", "undeclared"),
    ("other-user-file",),
    ("submitter-file",),
)  # fmt: skip


@covers(
    "human-select-upload", "human-select-stream", "human-select-form-get", "human-select-form-get-after",
    "human-select-events-finished", "human-select-undeclared-get-final",
    *(f"human-select-form-post-{answer}" for group in _FORM_ANSWERS for answer in group),
)  # fmt: skip
def human_select(version: str) -> dict[str, Exchange]:
    """Forms with a select and a file: what is refused leaves the form open."""
    with Lab(version, time_scale=0.02, remote_files={}) as lab:
        for number, group in enumerate(_FORM_ANSWERS):
            if number == 0:
                stream = lab.replay("human-select-stream")
                run_id = stream.events()[0]["workflow_run_id"]
                token = stream.events()[-1]["data"]["reasons"][0]["form_token"]
                file_id = lab.replay("human-select-upload", change=_with_multipart).json()["id"]
                _ask_form(lab, "human-select-form-get", token)
            else:
                run = lab.post("human_select", {"inputs": {"text": "doc3"}, "user": "hs1"}).json()
                run_id, token = run["workflow_run_id"], run["data"]["reasons"][0]["form_token"]
            for answer in group:
                _answer_form(lab, f"human-select-form-post-{answer}", token, file_id)
            lab.wait_for(partial(_has_succeeded, lab, run_id))
            if number == 0:
                lab.replay("human-select-events-finished", run_id)
            if "undeclared" in group:
                lab.replay("human-select-undeclared-get-final", run_id)
            if "other-user-file" in group:
                _ask_form(lab, "human-select-form-get-after", token)
        return lab.exchanges


@covers("human-select-events-resume", "human-select-form-post", "human-select-get-final")
def human_select_resumed(version: str) -> dict[str, Exchange]:
    """A form with a select and a file is answered, and the run resumes."""
    with Lab(version, time_scale=0.02) as lab:
        file_id = lab.replay("human-select-upload", change=_with_multipart).json()["id"]
        user = load(version, "human-select-events-resume")["request"]["query"]["user"]
        run = lab.post("human_select", {"inputs": {"text": "doc3"}, "user": user}).json()
        resumed = lab.later("human-select-events-resume", run["workflow_run_id"])
        lab.wait_for(lambda: len(lab.exchanges.get("human-select-events-resume", Exchange()).events()) == 7)
        _answer_form(lab, "human-select-form-post", run["data"]["reasons"][0]["form_token"], file_id)
        resumed.result()
        lab.replay("human-select-get-final", run["workflow_run_id"])
        return lab.exchanges


def _answer_form(lab: Lab, name: str, token: str, file_id: str) -> None:
    """Replay an answer to a form, with the token of the form and the id of the upload at hand."""

    def change(request: dict[str, Any]) -> None:
        request["path"] = f"/v1/form/human_input/{token}"
        for part in (request["json"]["inputs"].get("att"), *_listed(request["json"]["inputs"].get("att"))):
            known = isinstance(part, dict) and part.get("upload_file_id", "0000").strip("0-")
            if known and "upload_file_id" in part:
                part["upload_file_id"] = file_id

    lab.replay(name, change=change)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _has_succeeded(lab: Lab, run_id: str) -> bool:
    return next(run for run in lab.server.runs if run.id == run_id).status == "succeeded"


_FILE_RUNS = (
    "file-run", "file-run-other-user", "file-run-other-user-streaming", "file-run-unknown-id",
    "file-run-type-mismatch", "file-run-toplevel-files", "file-run-remote", "file-list-not-list", "file-list-run",
    "file-list-too-many", "file-run-bad-id", "file-run-bad-id-streaming", "file-run-bad-method",
    "file-run-bad-method-streaming", "file-run-no-type", "file-run-no-type-streaming", "file-run-remote-not-http",
    "file-run-remote-not-http-streaming", "file-run-remote-unreachable", "file-run-remote-unreachable-streaming",
    "file-run-toplevel-files-streaming", "file-run-type-mismatch-streaming", "file-run-unknown-id-streaming",
)  # fmt: skip
_UNKNOWN_FILES = ("unknown-id", "remote", "bad-id", "bad-method", "no-type")
_UPLOADS = (
    "file-upload-no-user", "file-upload-no-file", "file-upload-empty", "file-upload-exe", "file-upload-two",
    "file-upload-unicode",
)  # fmt: skip


@covers(
    *_FILE_RUNS, *_UPLOADS, "file-upload", "file-upload-too-big", "file-get-run", "file-preview",
    "file-output-blocking", "file-output-get", "file-run-other-user-streaming-get",
    "file-run-remote-unreachable-streaming-get",
)  # fmt: skip
def files(version: str) -> dict[str, Exchange]:
    """Uploads, and runs with files."""
    remote = b"hello nine" if version in NEWEST else b"hello there"
    with Lab(version, time_scale=0.02, remote_files={"http://127.0.0.1:8090/file.txt": remote}) as lab:
        file_id = lab.replay("file-upload", change=_with_multipart).json()["id"]
        for name in set(_UPLOADS) & set(names(version)):
            lab.replay(name, change=_with_multipart)
        lab.replay("file-upload-too-big", change=_with_big_file)

        def with_file(request: dict[str, Any]) -> None:
            for value in (*request["json"]["inputs"].values(), request["json"].get("files")):
                for item in value if isinstance(value, list) else [value]:
                    if isinstance(item, dict) and "upload_file_id" in item:
                        item["upload_file_id"] = file_id

        for name in set(_FILE_RUNS) & set(names(version)):
            known = not any(part in name for part in _UNKNOWN_FILES)
            patience = 0.3 if version == "1.14.2" and name.endswith("streaming") else None
            exchange = lab.replay(name, change=with_file if known else None, patience=patience)
            if f"{name}-get" in names(version):
                lab.replay(f"{name}-get", exchange.events()[0]["workflow_run_id"])
        if version in NEWEST:
            lab.replay("file-preview", file_id)
            lab.replay("file-output-get", lab.replay("file-output-blocking").json()["workflow_run_id"])
        if version in OLD:
            lab.replay("file-get-run", lab.exchanges["file-run"].json()["workflow_run_id"])
        return lab.exchanges


@covers(
    "file-upload", "file-upload-exe", "file-upload-two", "file-preview", "file-preview-after-run", "file-run",
    "file-run-other-user-streaming", "file-run-unknown-id-streaming", versions=(RELEASE,),
)  # fmt: skip
def files_on_release(version: str) -> dict[str, Exchange]:
    """Uploads, and runs with files, whose refusals a stream keeps to itself."""
    with Lab(version, time_scale=0.02) as lab:
        file_id = lab.replay("file-upload", change=_with_multipart).json()["id"]
        for name in ("file-upload-exe", "file-upload-two"):
            lab.replay(name, change=_with_multipart)

        def with_file(request: dict[str, Any]) -> None:
            request["json"]["inputs"]["doc"]["upload_file_id"] = file_id

        lab.replay("file-preview", file_id)
        lab.replay("file-run", change=with_file)
        lab.replay("file-preview-after-run", file_id)
        lab.replay("file-run-other-user-streaming", change=with_file, patience=0.3)
        lab.replay("file-run-unknown-id-streaming", patience=0.3)
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
