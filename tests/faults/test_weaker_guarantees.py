"""
Where exactly once cannot be given: what happens instead.

A lost answer, a dead worker and a deadline, each with the task's retry: for an explicit ``user``, the ``workflow-runs``
contract, ``durable=False`` and Dify 1.9.1. A second run is one beside the first, which may still be at work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from airflow_provider_dify.exceptions import DifyError, DifyRunTimeoutError, DifySubmissionUnknownError
from airflow_provider_dify.runtime.task_run import Execution
from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.server import DifyServer
from airflow_provider_dify.testing.workflows import Input, Workflow
from tests.faults.tries import Killed, Task, connect, death, lookups, modes, stops, stores, submissions

INPUTS = {"text": "hello"}
ECHO = Workflow("echo", inputs=[Input("text")], duration=0.3)
LONG = Workflow("long", inputs=[Input("text")], duration=60.0)
LOST = Fault("submit", "accept_then_reset")

Start = Callable[..., tuple[DifyServer, Task]]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Return a function that gives a server and a task of one of the situations."""
    monkeypatch.setattr("airflow_provider_dify.rules.earlier_tries.QUEUE_PATIENCE_SECONDS", 0.5)
    with ExitStack() as stack:

        def begin(situation: str, app: str = "echo", **parameters: Any) -> tuple[DifyServer, Task]:
            options: dict[str, Any] = {}
            if situation == "explicit user":
                parameters["user"] = "alice"
            elif situation == "durable=False":
                parameters["durable"] = False
            elif situation == "workflow-runs":
                options = {"api_contract": "workflow-runs"}
                parameters["workflow_id"] = app
            else:
                options = {"emulate": situation}
            server = stack.enter_context(DifyServer([ECHO, LONG], **options))
            connect(monkeypatch, server, app)
            return server, Task(**{"inputs": INPUTS, **parameters})

        yield begin


def statuses(server: DifyServer) -> list[str]:
    return [run.status for run in server.runs]


unfindable = pytest.mark.parametrize("situation", ["explicit user", "workflow-runs"])


# --- The run cannot be reported from others, or not be looked for: an explicit user, the workflow-runs contract


@unfindable
@modes
@stores
def test_unfindable_a_lost_answer_fails_and_the_retry_is_a_second_run(
    start: Start, situation: str, deferrable: bool, store: bool
) -> None:
    server, lost = start(situation, store=store, deferrable=deferrable)
    server.inject(LOST)
    with pytest.raises(DifySubmissionUnknownError, match="A retry may start a second run"):
        lost.run()
    assert (len(submissions(server)), len(server.runs)) == (1, 1)
    assert lost.retry() == INPUTS
    assert lookups(server) == []
    assert len(server.runs) == 2


@unfindable
@modes
@stores
def test_unfindable_killed_before_the_run_id_is_a_second_run(
    start: Start, situation: str, deferrable: bool, store: bool
) -> None:
    server, killed = start(situation, store=store, deferrable=deferrable)
    with death("between POST and id"):
        killed.run()
    assert killed.retry() == INPUTS
    assert lookups(server) == []
    assert len(server.runs) == 2


@unfindable
@modes
@stores
def test_an_unfindable_run_is_reattached_only_with_the_store(
    start: Start, situation: str, deferrable: bool, store: bool
) -> None:
    server, killed = start(situation, store=store, deferrable=deferrable)
    with death("between id and wait"):
        killed.run()
    assert killed.retry() == INPUTS
    assert len(server.runs) == (1 if store else 2)


@modes
@stores
def test_explicit_user_the_deadline_stops_the_run_for_a_new_one(start: Start, deferrable: bool, store: bool) -> None:
    server, late = start("explicit user", "long", store=store, deferrable=deferrable, timeout=2.0)
    with pytest.raises(DifyRunTimeoutError, match=r"A retry of the task starts a new run\.$"):
        late.run()
    assert len(stops(server)) == 1
    with pytest.raises(DifyRunTimeoutError):
        late.retry()
    assert len(server.runs) == 2


@modes
@stores
def test_workflow_runs_the_retry_reattaches_only_with_the_store(start: Start, deferrable: bool, store: bool) -> None:
    """The contract has no stop."""
    server, late = start("workflow-runs", "long", store=store, deferrable=deferrable, timeout=2.0)
    expected = "reattaches to it" if store else "starts a second run beside it"
    with pytest.raises(DifyRunTimeoutError, match=expected):
        late.run()
    with pytest.raises(DifyRunTimeoutError):
        late.retry()
    assert statuses(server) == ["running"] * (1 if store else 2)


@unfindable
@modes
def test_unfindable_refused_submission_is_sent_again_by_the_retry(
    start: Start, situation: str, deferrable: bool
) -> None:
    """What certainly was not accepted needs no marker."""
    server, limited = start(situation, store=True, deferrable=deferrable, on_rate_limit="fail")
    server.inject(Fault("submit", "too_many_requests"))
    with pytest.raises(DifyError, match="nothing was started"):
        limited.run()
    assert limited.retry() == INPUTS
    assert len(server.runs) == 1


# --- durable=False


@modes
@stores
def test_durable_false_lost_answer_is_found_again_in_the_same_try(start: Start, deferrable: bool, store: bool) -> None:
    server, lost = start("durable=False", store=store, deferrable=deferrable)
    server.inject(LOST)
    assert lost.run() == INPUTS
    assert len(server.runs) == 1


@modes
@stores
def test_durable_false_a_lost_answer_fails_and_the_retry_is_a_second_run(
    start: Start, deferrable: bool, store: bool
) -> None:
    server, lost = start("durable=False", store=store, deferrable=deferrable, timeout=1)
    server.inject(Fault("submit", "queue_delay", seconds=1.5))
    with pytest.raises(DifySubmissionUnknownError, match="submits again, which may start a second run"):
        lost.run()
    lost.parameters["timeout"] = 20
    assert lost.retry() == INPUTS
    assert len(server.runs) == 2


@pytest.mark.parametrize("moment", ["between POST and id", "between id and wait"])
@modes
@stores
def test_durable_false_killed_worker_has_a_second_run_started(
    start: Start, moment: str, deferrable: bool, store: bool
) -> None:
    server, killed = start("durable=False", store=store, deferrable=deferrable)
    with death(moment):
        killed.run()
    assert killed.retry() == INPUTS
    assert lookups(server) == []
    assert len(server.runs) == 2


# --- Dify 1.9.1: a run whose stream is closed is never listed and stays running for ever


@modes
@stores
def test_1_9_1_a_lost_answer_fails_and_only_storeless_retries_submit(
    start: Start, deferrable: bool, store: bool
) -> None:
    server, lost = start("1.9.1", store=store, deferrable=deferrable)
    server.inject(LOST)
    with pytest.raises(DifySubmissionUnknownError, match=r"1\.9\.1 never lists a run whose stream was closed"):
        lost.run()
    assert len(lookups(server)) == 1
    if store:
        with pytest.raises(DifySubmissionUnknownError, match="does not submit; a clear submits again"):
            lost.retry()
        assert len(server.runs) == 1
        assert lost.clear() == INPUTS
    else:
        assert lost.retry() == INPUTS
    assert len(server.runs) == 2
    assert [run.row_status for run in server.runs] == ["running", "succeeded"]


@modes
@stores
def test_1_9_1_blocking_lost_answer_is_found_when_the_run_has_ended(
    start: Start, deferrable: bool, store: bool
) -> None:
    server, lost = start("1.9.1", store=store, deferrable=deferrable, response_mode="blocking")
    server.inject(LOST)
    assert lost.run() == INPUTS
    assert statuses(server) == ["succeeded"]


@modes
@stores
def test_1_9_1_killed_before_the_run_id_is_searched_for_once(start: Start, deferrable: bool, store: bool) -> None:
    server, killed = start("1.9.1", store=store, deferrable=deferrable)
    with death("between POST and id"):
        killed.run()
    if store:
        with pytest.raises(DifySubmissionUnknownError, match="does not submit"):
            killed.retry()
        assert len(server.runs) == 1
    else:
        assert killed.retry() == INPUTS
        assert len(server.runs) == 2


@modes
def test_1_9_1_killed_after_the_run_id_waits_in_vain_with_the_store(start: Start, deferrable: bool) -> None:
    """The run is known, and shown as running for ever: the retry takes it up, and the one after it starts anew."""
    server, killed = start("1.9.1", store=True, deferrable=deferrable)
    die_while_reading(killed)
    killed.parameters["timeout"] = 1
    with pytest.raises(DifyRunTimeoutError, match="A retry of the task starts a new run"):
        killed.retry()
    assert len(server.runs) == 1
    killed.parameters["timeout"] = 20
    assert killed.retry() == INPUTS
    assert [run.row_status for run in server.runs] == ["running", "succeeded"]


@modes
def test_1_9_1_killed_after_the_run_id_is_a_second_run_without_the_store(start: Start, deferrable: bool) -> None:
    server, killed = start("1.9.1", store=False, deferrable=deferrable)
    die_while_reading(killed)
    assert killed.retry() == INPUTS
    assert [run.row_status for run in server.runs] == ["running", "succeeded"]


def die_while_reading(task: Task) -> None:
    """Let the worker die while it reads the stream, which it does to the end there: the run's id is reported."""
    announce = Execution._announce

    def announce_and_die(*arguments: Any, **named: Any) -> None:
        announce(*arguments, **named)
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Execution, "_announce", announce_and_die)
        with pytest.raises(Killed):
            task.run()
