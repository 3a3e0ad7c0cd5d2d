"""What counts duplicate and lost runs among faults sees them: an operator without its durability leaves both kinds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from airflow_provider_dify.testing.server import DifyServer
from tests.faults.counting import Tally, faults_of, tally
from tests.faults.tries import Task, connect, death

# Of more than the second that a stop may take Dify: a run that ends within it counts as ended.
SLOW = {"seconds": 200}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[DifyServer]:
    with DifyServer(time_scale=0.01) as server:
        connect(monkeypatch, server, "slow")
        yield server


def killed_and_retried(*, durable: bool) -> None:
    task = Task(store=True, deferrable=False, durable=durable, inputs=SLOW)
    with death("between id and wait"):
        task.run()
    task.retry()


def test_one_run_for_each_task_is_right(server: DifyServer) -> None:
    killed_and_retried(durable=True)
    assert tally(server, 1) == Tally(duplicates=0, lost=0)
    assert faults_of(server, 1) == []


def test_a_second_run_beside_the_first_is_a_duplicate(server: DifyServer) -> None:
    killed_and_retried(durable=False)
    assert len(server.runs) == 2
    assert tally(server, 1) == Tally(duplicates=1, lost=0)
    assert any("was started while" in fault for fault in faults_of(server, 1))


def test_a_task_without_a_run_that_succeeded_is_lost(server: DifyServer) -> None:
    task = Task(store=True, deferrable=False, inputs={"seconds": 6000}, timeout=0.5)
    with pytest.raises(Exception, match="running"):
        task.run()
    assert tally(server, 1) == Tally(duplicates=0, lost=1)
    assert faults_of(server, 1)


def test_a_task_that_never_submitted_is_lost(server: DifyServer) -> None:
    killed_and_retried(durable=True)
    assert tally(server, 2) == Tally(duplicates=0, lost=1)
    assert faults_of(server, 2) == ["runs of 1 tasks instead of 2"]
