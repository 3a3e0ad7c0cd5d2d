"""Many tasks at once, and servers that go away while tasks wait: as many runs as tasks, each ended, none left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from airflow_provider_dify.exceptions import DifyRunTimeoutError
from airflow_provider_dify.rules import recovery as transitions
from airflow_provider_dify.rules.submission import rate_limit_wait
from airflow_provider_dify.testing.server import DifyServer
from tests.faults.tries import Task, connect
from tests.integration.airflow_dags import is_airflow_2

modes = pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "deferred"])


def mapped(count: int, deferrable: bool, **parameters: Any) -> list[Task]:
    tasks = [Task(store=False, deferrable=deferrable, **parameters) for _ in range(count)]
    for index, task in enumerate(tasks):
        task.ti.map_index = index
    return tasks


def run_all(tasks: list[Task]) -> list[Any]:
    if is_airflow_2():
        # It imports these in the first task of a process; two threads that do so at once wait for each other.
        import airflow.decorators  # noqa: F401
        from airflow.models import import_all_models

        import_all_models()
    with ThreadPoolExecutor(len(tasks)) as pool:
        return list(pool.map(Task.run, tasks))


def check_exactly_once(server: DifyServer, count: int) -> None:
    assert len(server.runs) == count
    assert len({run.user for run in server.runs}) == count
    assert {run.status for run in server.runs} == {"succeeded"}
    assert server.active_runs() == []


@modes
def test_forty_at_once_on_a_stock_server(monkeypatch: pytest.MonkeyPatch, deferrable: bool) -> None:
    """Ten connections and four worker slots: most never learn their run's id from the stream."""
    with DifyServer(connections=10, worker_slots=4) as server:
        connect(monkeypatch, server, "slow")
        tasks = mapped(40, deferrable, inputs={"seconds": 1}, submit_timeout=1, timeout=240, max_poll_interval=2)
        assert run_all(tasks) == [{"body": "slept 1 s"}] * 40
        check_exactly_once(server, 40)


@modes
def test_thirty_at_once_on_an_app_that_admits_three(monkeypatch: pytest.MonkeyPatch, deferrable: bool) -> None:
    """Those that are refused wait their turn; a tenth of the time, so that the test is short."""

    def sooner(*arguments: Any) -> float:
        return rate_limit_wait(*arguments) / 10

    monkeypatch.setattr(transitions, "rate_limit_wait", sooner)
    with DifyServer(connections=10, worker_slots=None) as server:
        connect(monkeypatch, server, "limited")
        tasks = mapped(30, deferrable, inputs={"seconds": 0.2}, submit_timeout=2, timeout=240, max_poll_interval=1)
        assert run_all(tasks) == [{"body": "slept 0.2 s"}] * 30
        check_exactly_once(server, 30)


def during_the_wait(server: DifyServer, action: Callable[[], None]) -> threading.Thread:
    """Do something once the only run is running."""

    def act() -> None:
        limit = time.monotonic() + 30
        while not server.active_runs() and time.monotonic() < limit:
            time.sleep(0.02)
        time.sleep(0.5)
        action()

    thread = threading.Thread(target=act)
    thread.start()
    return thread


@modes
@pytest.mark.parametrize("outage", ["refuse", "500", "502-html"])
def test_an_outage_during_the_wait_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, deferrable: bool, outage: str
) -> None:
    def vanish() -> None:
        server.down(outage)
        time.sleep(4)
        server.up()

    with DifyServer() as server:
        connect(monkeypatch, server, "slow")
        thread = during_the_wait(server, vanish)
        (task,) = mapped(1, deferrable, inputs={"seconds": 3}, timeout=60, max_poll_interval=1)
        assert task.run() == {"body": "slept 3 s"}
        thread.join()
        check_exactly_once(server, 1)


@modes
def test_a_run_that_a_restart_left_running_for_ever_ends_at_the_deadline(
    monkeypatch: pytest.MonkeyPatch, deferrable: bool
) -> None:
    with DifyServer() as server:
        connect(monkeypatch, server, "slow")
        thread = during_the_wait(server, server.restart)
        (task,) = mapped(1, deferrable, inputs={"seconds": 600}, timeout=5)
        with pytest.raises(DifyRunTimeoutError):
            task.run()
        thread.join()
        assert [(run.status, run.row_status) for run in server.runs] == [("lost", "running")]
