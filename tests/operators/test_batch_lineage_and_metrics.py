"""What OpenLineage and Airflow's metrics are reported of a batch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_dify.exceptions import DifyBatchError
from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.server import DifyServer
from airflow_provider_dify.testing.workflows import Input, Step, Workflow
from tests.faults.tries import connect, lookups, modes, requests_to
from tests.operators.batches import PATIENT, BatchTask, rows
from tests.operators.test_metrics import Sent, recorded, registries

ECHO = Workflow("echo", inputs=[Input("text")], steps=[Step("work", seconds=0.2, tokens=3)])
FAILING = Workflow("failing", inputs=[Input("text")], steps=[Step("work", error="no more")])
ROWS = 12


@pytest.fixture
def server() -> Iterator[DifyServer]:
    with DifyServer([ECHO, FAILING], emulate="1.16.1", connections=None, worker_slots=8) as server:
        yield server


@pytest.fixture
def batch(server: DifyServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., BatchTask]:
    def make(app: str = "echo", **parameters: Any) -> BatchTask:
        connect(monkeypatch, server, app, **PATIENT)
        return BatchTask(tmp_path / "results", **{"requests": rows(ROWS), "key": "id", **parameters})

    return make


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    monkeypatch.setenv("AIRFLOW__METRICS__STATSD_ON", "True")
    return recorded(monkeypatch)


@modes
def test_each_run_is_counted_where_the_batch_runs(
    server: DifyServer, batch: Callable[..., BatchTask], sent: Sent, deferrable: bool
) -> None:
    batch(deferrable=deferrable).run()
    assert sent.runs() == {"started": ROWS, "succeeded": ROWS}
    assert sent.counted("dify.tokens") == 3 * ROWS
    assert len(sent.of("dify.run.duration")) == ROWS
    polls = sum(len(requests_to(server, "GET", run.id)) for run in server.runs) + len(lookups(server))
    assert sent.counted("dify.poll.requests") == polls
    if len(registries()) > 1:
        assert sent.places("dify.runs.started") == ({"triggerer"} if deferrable else {"task"})


@modes
def test_a_lost_answer_is_counted_as_unknown_and_its_run_when_it_is_found(
    server: DifyServer, batch: Callable[..., BatchTask], sent: Sent, deferrable: bool
) -> None:
    server.inject(Fault("submit", "accept_then_reset", times=3))
    batch(deferrable=deferrable).run()
    assert sent.counted("dify.submission.unknown") == 3
    assert sent.runs() == {"started": ROWS, "succeeded": ROWS}


@modes
def test_runs_that_fail_are_counted_as_failed(batch: Callable[..., BatchTask], sent: Sent, deferrable: bool) -> None:
    with pytest.raises(DifyBatchError):
        batch("failing", deferrable=deferrable).run()
    assert sent.runs() == {"started": ROWS, "failed": ROWS}


@modes
def test_the_file_of_rows_and_the_folder_of_results_are_data_sets(
    batch: Callable[..., BatchTask], tmp_path: Path, deferrable: bool
) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(f"{json.dumps(row)}\n" for row in rows(ROWS)))
    task = batch(deferrable=deferrable, requests=str(source))
    started = task.operator.get_openlineage_facets_on_start()
    assert [(each.namespace, each.name) for each in started.inputs] == [("file", str(source))]
    assert started.outputs == []
    manifest = task.run()
    ended = task.operator.get_openlineage_facets_on_complete(task.ti)
    assert [(each.namespace, each.name) for each in ended.inputs] == [("file", str(source))]
    ((namespace, name),) = [(each.namespace, each.name) for each in ended.outputs]
    assert (namespace, f"file://{name}") == ("file", manifest["results"].rstrip("/"))


def test_rows_of_a_task_are_no_data_set(batch: Callable[..., BatchTask]) -> None:
    assert batch().operator.get_openlineage_facets_on_start().inputs == []
