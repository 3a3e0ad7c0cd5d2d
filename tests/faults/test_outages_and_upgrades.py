"""A Dify that is away when a task wants to submit: nothing is sent, and the task goes on when Dify answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from airflow_provider_dify.exceptions import (
    DifyAuthenticationError,
    DifyError,
    DifyRateLimitError,
    DifyRunStoppedError,
    DifyTransportError,
)
from airflow_provider_dify.hooks.dify import DifyHook
from airflow_provider_dify.runtime.input_form_cache import forget_forms
from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.server import DifyServer
from airflow_provider_dify.testing.workflows import Input, Workflow
from tests.faults.tries import Killed, Task, connect, die, modes, requests_to, stores, submissions

INPUTS = {"text": "hello"}
outages = pytest.mark.parametrize("outage", ["502-html", "refuse"])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[DifyServer]:
    forget_forms()
    with DifyServer(
        [Workflow("echo", inputs=[Input("text")], duration=0.05, outputs={"text": "{text}"})], time_scale=1
    ) as server:
        connect(monkeypatch, server, "echo")
        yield server


@contextmanager
def away(server: DifyServer, outage: str, seconds: float) -> Iterator[None]:
    """Let the server be away when a block begins, and be back that many seconds later."""
    server.down(outage)
    back = threading.Timer(seconds, server.up)
    back.start()
    try:
        yield
    finally:
        back.join()


@modes
@stores
@outages
def test_nothing_is_submitted_into_an_outage(server: DifyServer, outage: str, deferrable: bool, store: bool) -> None:
    task = Task(store=store, deferrable=deferrable, inputs=INPUTS)
    with away(server, outage, 2.5):
        assert task.run() == INPUTS
    assert [run.status for run in server.runs] == ["succeeded"]
    assert len(submissions(server)) == 1


@modes
def test_a_task_that_reads_no_form_asks_whether_there_is_a_server(server: DifyServer, deferrable: bool) -> None:
    task = Task(store=True, deferrable=deferrable, inputs=INPUTS, validate_inputs=False)
    with away(server, "502-html", 2.0):
        assert task.run() == INPUTS
    assert len(submissions(server)) == 1
    assert requests_to(server, "GET", "/parameters") == []


def test_a_healthy_server_is_not_asked_twice(server: DifyServer) -> None:
    Task(store=True, deferrable=False, inputs=INPUTS).run()
    assert requests_to(server, "GET", "/info") == []


def test_a_deferrable_task_waits_on_its_worker_first(server: DifyServer) -> None:
    task = Task(store=True, deferrable=True, inputs=INPUTS, defer_after=10)
    with away(server, "502-html", 2.0):
        assert task.run() == INPUTS
    assert task.resumption[0] == "execute"


def test_a_short_silence_is_no_outage_where_the_server_answers_otherwise(server: DifyServer) -> None:
    server.inject(Fault("parameters", "status", status=502, body="<html>bad gateway</html>", times=None))
    assert Task(store=True, deferrable=False, inputs=INPUTS).run() == INPUTS


@modes
@stores
@outages
def test_an_outage_beyond_the_deadline_fails_the_try_and_the_retry_submits(
    server: DifyServer, outage: str, deferrable: bool, store: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_dify.rules.earlier_tries.QUEUE_PATIENCE_SECONDS", 0.3)
    task = Task(store=store, deferrable=deferrable, inputs=INPUTS, timeout=1.5)
    server.down(outage)
    began = time.monotonic()
    with pytest.raises(DifyError, match=r"No Dify server answered before the deadline, and nothing was submitted"):
        task.run()
    assert 1 < time.monotonic() - began < 10
    server.up()
    assert submissions(server) == []
    assert task.retry() == INPUTS
    assert len(submissions(server)) == 1


@modes
@stores
def test_a_retry_that_reattaches_waits_for_the_server_as_well(
    server: DifyServer, deferrable: bool, store: bool
) -> None:
    task = Task(store=store, deferrable=deferrable, inputs=INPUTS)
    assert task.run() == INPUTS
    with away(server, "502-html", 2.0):
        assert task.retry() == INPUTS
    assert len(submissions(server)) == 1


@modes
def test_a_mistake_in_the_connection_is_no_outage(
    server: DifyServer, monkeypatch: pytest.MonkeyPatch, deferrable: bool
) -> None:
    connect(monkeypatch, server, "echo", host="http://dify.invalid")
    began = time.monotonic()
    with pytest.raises(DifyTransportError):
        Task(store=True, deferrable=deferrable, inputs=INPUTS).run()
    assert time.monotonic() - began < 15
    connect(monkeypatch, server, "echo")
    server.inject(Fault("any", "status", status=401, code="unauthorized", times=None))
    with pytest.raises(DifyAuthenticationError):
        Task(store=True, deferrable=deferrable, inputs=INPUTS).run()


@modes
@stores
def test_an_orphaned_intent_is_sent_again_only_where_the_author_says_so(
    server: DifyServer, deferrable: bool, store: bool
) -> None:
    server.inject(Fault("submit", "status", status=502, body="<html>bad gateway</html>"))
    task = Task(store=store, deferrable=deferrable, inputs=INPUTS, timeout=1)
    with pytest.raises(DifyError, match="It was not sent a second time"):
        task.run()
    assert len(submissions(server)) == 1
    server.inject(Fault("submit", "status", status=502, body="<html>bad gateway</html>"))
    task = Task(store=store, deferrable=deferrable, inputs=INPUTS, timeout=1, on_orphaned_intent="resubmit")
    assert task.run() == INPUTS
    assert len(submissions(server)) == 3
    assert len(server.runs) == 1
    # Once in each try: a server that loses every submission is not sent one after the other.
    server.inject(Fault("submit", "status", status=502, body="<html>bad gateway</html>", times=None))
    task = Task(store=store, deferrable=deferrable, inputs=INPUTS, timeout=1, on_orphaned_intent="resubmit")
    task.ti.run_id = "another"
    with pytest.raises(DifyError, match="Dify shows no run"):
        task.run()
    assert len(submissions(server)) == 5


# --- The server's own shutdown


@pytest.fixture
def newest(monkeypatch: pytest.MonkeyPatch) -> Iterator[DifyServer]:
    forget_forms()
    for name in ("_RESUBMISSION_FIRST_SECONDS", "_RESUBMISSION_LONGEST_SECONDS"):
        monkeypatch.setattr(f"airflow_provider_dify.rules.outages.{name}", 0.3)
    workflow = Workflow("slow", inputs=[Input("text")], duration=0.6, outputs={"text": "{text}"})
    with DifyServer([workflow], emulate="1.16.1") as server:
        connect(monkeypatch, server, "slow")
        yield server


@contextmanager
def shutting_down(server: DifyServer, times: int) -> Iterator[None]:
    """Shut the workers down under each of the next runs."""
    over = threading.Event()

    def shut_down() -> None:
        for number in range(1, times + 1):
            while len([run for run in server.runs if run.status != "queued"]) < number:
                if over.wait(0.01):
                    return
            server.shut_down_workers()
            while server.active_runs():
                if over.wait(0.01):
                    return
            server.start_workers()

    thread = threading.Thread(target=shut_down)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@modes
@stores
def test_a_run_stopped_by_a_shutdown_is_submitted_again_in_the_try(
    newest: DifyServer, deferrable: bool, store: bool
) -> None:
    task = Task(store=store, deferrable=deferrable, inputs=INPUTS)
    with shutting_down(newest, 2):
        assert task.run() == INPUTS
    assert [run.status for run in newest.runs] == ["stopped", "stopped", "succeeded"]
    assert task.ti.xcoms["workflow_run_id"] == newest.runs[-1].id
    assert task.retry() == INPUTS
    assert len(newest.runs) == 3


@modes
def test_a_refusal_after_a_shutdown_names_the_run_whose_marker_it_shares(newest: DifyServer, deferrable: bool) -> None:
    """``DifyRetryPolicy`` reschedules no error that names a run: the same try would submit under that marker again."""
    newest.inject(Fault("submit", "too_many_requests", after=1))
    task = Task(store=True, deferrable=deferrable, inputs=INPUTS, on_rate_limit="fail")
    with shutting_down(newest, 1), pytest.raises(DifyRateLimitError) as raised:
        task.run()
    assert [run.status for run in newest.runs] == ["stopped"]
    assert raised.value.workflow_run_id == newest.runs[0].id


@modes
@stores
def test_a_queued_run_after_a_shutdown_is_not_taken_for_the_stopped_one(
    newest: DifyServer, deferrable: bool, store: bool
) -> None:
    task = Task(store=store, deferrable=deferrable, inputs=INPUTS)
    newest.inject(Fault("submit", "queue_delay", seconds=1.5, after=1))
    with shutting_down(newest, 1):
        assert task.run() == INPUTS
    assert [run.status for run in newest.runs] == ["stopped", "succeeded"]


@modes
def test_the_sixth_shutdown_fails_the_task(newest: DifyServer, deferrable: bool) -> None:
    newest.shut_down_workers()
    with pytest.raises(DifyRunStoppedError, match="the worker is shutting down"):
        Task(store=True, deferrable=deferrable, inputs=INPUTS).run()
    assert [run.status for run in newest.runs] == ["stopped"] * 6


@modes
@stores
def test_killed_while_it_waits_to_submit_again_is_no_second_run(
    newest: DifyServer, deferrable: bool, store: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_dify.rules.earlier_tries.QUEUE_PATIENCE_SECONDS", 0.3)
    task = Task(store=store, deferrable=deferrable, inputs=INPUTS)
    with shutting_down(newest, 1), monkeypatch.context() as patch:
        patch.setattr("airflow_provider_dify.runtime.task_run.Execution._await_turn", die)
        with pytest.raises(Killed):
            task.run()
    assert task.retry() == INPUTS
    assert [run.status for run in newest.runs] == ["stopped", "succeeded"]


def test_a_stop_of_a_person_is_the_end(newest: DifyServer) -> None:
    def stop() -> None:
        while not newest.active_runs():
            time.sleep(0.01)
        DifyHook().stop_workflow_run(newest.runs[0].task_id)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(DifyRunStoppedError, match="User requested stop"):
        Task(store=True, deferrable=False, inputs=INPUTS).run()
    thread.join()
    assert len(newest.runs) == 1
