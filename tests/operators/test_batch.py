"""A batch runs each row once, whatever its rows come from, on a worker and deferred alike."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_dify.exceptions import (
    DifyBatchError,
    DifyBatchLimitError,
    DifyBatchRowsError,
    DifyRunTimeoutError,
    is_final,
)
from airflow_provider_dify.testing.server import DifyServer
from airflow_provider_dify.testing.workflows import Input, Step, Workflow, WorkflowError
from tests.faults.tries import connect, modes
from tests.operators.batches import PATIENT, BatchTask, results, rows, runs_of

ECHO = Workflow("echo", inputs=[Input("text")], steps=[Step("work", seconds=0.1, tokens=3)])
TYPED = Workflow(
    "typed",
    inputs=[Input("data", type="json_object"), Input("number", type="number")],
    outputs=lambda inputs: {name: inputs[name] for name in ("data", "number")},
)
FILED = Workflow("filed", inputs=[Input("document", type="file")], outputs={"done": "yes"})
FAILING = Workflow("failing", inputs=[Input("text")], failure="boom")
SLOW = Workflow("slow", inputs=[Input("text")], duration=30.0)
MOODS: dict[str, str] = {}
"""Texts for which a run of the app ``moody`` fails."""


def _mood(inputs: Any) -> dict[str, Any]:
    if inputs["text"] in MOODS:
        raise WorkflowError("a bad mood")
    return {"text": inputs["text"]}


MOODY = Workflow("moody", inputs=[Input("text")], steps=[Step("work", seconds=0.05)], outputs=_mood)
WORKFLOWS = [ECHO, TYPED, FILED, FAILING, SLOW, MOODY]


@pytest.fixture
def server() -> Iterator[DifyServer]:
    with DifyServer(WORKFLOWS, emulate="1.16.1", connections=None, worker_slots=8) as server:
        yield server


@pytest.fixture
def batch(server: DifyServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., BatchTask]:
    def make(app: str = "echo", **parameters: Any) -> BatchTask:
        connect(monkeypatch, server, app, **PATIENT)
        return BatchTask(tmp_path / "results", **parameters)

    return make


@modes
def test_each_row_has_one_run_and_one_result(
    server: DifyServer, batch: Callable[..., BatchTask], deferrable: bool
) -> None:
    manifest = batch(requests=rows(40), key="id", deferrable=deferrable).run()
    assert manifest["counts"] == {"succeeded": 40, "partial-succeeded": 0, "failed": 0, "unknown": 0, "not_run": 0}
    assert manifest["tokens"] == 120
    lines = results(manifest)
    assert [line["key"] for line in lines] == [f"row-{index}" for index in range(40)]
    assert [line["outputs"] for line in lines] == [{"text": f"text {index}"} for index in range(40)]
    assert set(runs_of(server).values()) == {1}
    assert len(server.runs) == 40


@modes
@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_rows_come_out_of_a_file(
    server: DifyServer, batch: Callable[..., BatchTask], tmp_path: Path, deferrable: bool, form: str
) -> None:
    path = tmp_path / f"rows.{form}"
    write(path, rows(12))
    manifest = batch(requests=path.as_uri(), key="id", deferrable=deferrable, rows_per_part=5).run()
    assert manifest["counts"]["succeeded"] == 12
    assert manifest["parts"] == 3
    assert [line["outputs"]["text"] for line in results(manifest)] == [f"text {index}" for index in range(12)]
    assert set(runs_of(server).values()) == {1}


def write(path: Path, content: list[dict[str, Any]]) -> None:
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(content), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(content[0]))
            writer.writeheader()
            writer.writerows(content)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in content))


def test_parquet_goes_in_and_comes_out_with_types(
    server: DifyServer, batch: Callable[..., BatchTask], tmp_path: Path
) -> None:
    import pyarrow.parquet

    path = tmp_path / "rows.parquet"
    given = [{"id": index, "data": {"n": index, "list": [1.5, 2.5]}, "number": index / 2} for index in range(8)]
    write(path, given)
    manifest = batch("typed", requests=str(path), key="id", result_format="parquet", rows_per_part=3).run()
    folder = Path(manifest["results"].removeprefix("file://"))
    table = pyarrow.parquet.read_table(folder).sort_by("position")
    assert table["key"].to_pylist() == list(range(8))
    assert table["outputs"].to_pylist() == [{"data": row["data"], "number": row["number"]} for row in given]
    assert table["tokens"].type == "int64"
    assert [run.inputs["data"] for run in sorted(server.runs, key=lambda run: run.inputs["number"])] == [
        row["data"] for row in given
    ]


def test_columns_feed_inputs_and_other_columns_stay_behind(server: DifyServer, batch: Callable[..., BatchTask]) -> None:
    given = [{"id": "a", "body": "x", "note": "private"}]
    manifest = batch(requests=given, key="id", inputs={"text": "body"}).run()
    assert results(manifest)[0]["outputs"] == {"text": "x"}
    assert server.runs[0].inputs == {"text": "x"}


def test_without_a_key_a_row_is_its_position(batch: Callable[..., BatchTask]) -> None:
    manifest = batch(requests=[{"text": "x"}, {"text": "x"}]).run()
    assert [line["key"] for line in results(manifest)] == [0, 1]


def test_files_named_by_uri_in_a_column_are_uploaded(
    server: DifyServer, batch: Callable[..., BatchTask], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    paths = [tmp_path / "in" / f"{name}.txt" for name in "abc"]
    for path in paths:
        path.write_text(path.stem)
    given = [{"id": path.stem, "document": path.as_uri()} for path in paths]
    manifest = batch("filed", requests=given, key="id", allowed_upload_roots=[str(tmp_path / "in")]).run()
    assert manifest["counts"]["succeeded"] == 3
    uploads = [each for each in server.requests if each.path.endswith("/files/upload")]
    assert len(uploads) == 3


@modes
def test_wrong_rows_are_named_in_one_error_before_the_first_run(
    server: DifyServer, batch: Callable[..., BatchTask], deferrable: bool
) -> None:
    given: list[Any] = [{"id": f"k{index}", "text": "fine"} for index in range(50)]
    for index in range(0, 50, 2):
        given[index] = {"id": f"k{index}", "text": index, "txet": "?"}
    given[7] = {"id": "k6", "text": "twice"}
    given[9] = "no row"
    given[11] = {"text": "no key"}
    with pytest.raises(DifyBatchRowsError) as caught:
        batch(requests=given, key="id", deferrable=deferrable).run()
    message = str(caught.value)
    assert message.startswith("28 of 50 rows are wrong, so nothing was submitted. The first faults")
    assert len(caught.value.faults) == 20
    assert "row 0 (key 'k0'): 'txet' is not declared in the form" in message
    assert "row 7 (key 'k6'): the key 'k6' is that of an earlier row" in message
    assert "row 9: must be a mapping" in message
    assert is_final(caught.value)
    assert not server.runs


def test_a_dry_run_checks_and_counts_and_submits_nothing(
    server: DifyServer, batch: Callable[..., BatchTask], tmp_path: Path
) -> None:
    task = batch(requests=rows(250), key="id", validate_only=True, result_path=None)
    assert task.run() == {
        "valid": True,
        "rows": 250,
        "requests": {"submissions": 250, "reads": 250, "uploads": 0, "log_pages": 3},
    }
    assert not server.runs
    assert not (tmp_path / "results").exists()
    with pytest.raises(DifyBatchRowsError):
        batch(requests=[{"id": 1}], key="id", validate_only=True).run()


@modes
def test_failed_rows_fail_the_task_and_are_submitted_again_by_a_retry(
    server: DifyServer, batch: Callable[..., BatchTask], deferrable: bool
) -> None:
    task = batch("moody", requests=[{"id": f"k{n}", "text": f"{n}"} for n in range(6)], key="id", deferrable=deferrable)
    MOODS.update({"2": "bad", "4": "bad"})
    try:
        with pytest.raises(DifyBatchError, match="2 rows failed") as caught:
            task.run()
        assert caught.value.manifest["counts"]["failed"] == 2
    finally:
        MOODS.clear()
    manifest = task.retry()
    assert manifest["counts"] == {"succeeded": 6, "partial-succeeded": 0, "failed": 0, "unknown": 0, "not_run": 0}
    lines = results(manifest)
    assert [line["attempts"] for line in lines] == [1, 1, 2, 1, 2, 1]
    assert runs_of(server) == {"0": 1, "1": 1, "2": 2, "3": 1, "4": 2, "5": 1}
    # A success that Airflow has lost is not repeated.
    assert task.retry() == manifest
    assert len(server.runs) == 8


def test_a_clear_starts_a_new_batch_and_only_runs_what_failed_before(
    server: DifyServer, batch: Callable[..., BatchTask]
) -> None:
    given = [{"id": f"k{n}", "text": f"{n}"} for n in range(6)]
    task = batch("moody", requests=given, key="id", fail_on_partial_error=False)
    MOODS["3"] = "bad"
    try:
        first = task.run()
    finally:
        MOODS.clear()
    assert first["counts"]["failed"] == 1
    task.parameters["only"] = ["failed", "unknown"]
    second = task.clear()
    assert second["counts"] == {"succeeded": 1, "partial-succeeded": 0, "failed": 0, "unknown": 0, "not_run": 0}
    assert second["location"] != first["location"]
    assert runs_of(server)["3"] == 2
    del task.parameters["only"]
    assert task.clear()["counts"]["succeeded"] == 6
    assert len(server.runs) == 13


def test_failed_runs_are_submitted_again_within_the_try(server: DifyServer, batch: Callable[..., BatchTask]) -> None:
    MOODS["1"] = "bad"
    try:
        with pytest.raises(DifyBatchError):
            batch("moody", requests=[{"text": "1"}], retries_per_request=1).run()
    finally:
        MOODS.clear()
    assert runs_of(server) == {"1": 2}


@modes
def test_too_many_failures_end_the_batch_early(
    server: DifyServer, batch: Callable[..., BatchTask], deferrable: bool
) -> None:
    task = batch("failing", requests=rows(60), inputs={"text": "text"}, max_failures=3, max_active_runs=2)
    with pytest.raises(DifyBatchError, match="max_failures is 3, and"):
        task.run()
    assert 4 <= len(server.runs) <= 8


def test_max_tokens_ends_the_batch_before_the_next_submission(
    server: DifyServer, batch: Callable[..., BatchTask]
) -> None:
    task = batch(requests=rows(60), key="id", max_tokens=30, max_active_runs=2)
    with pytest.raises(DifyBatchLimitError, match="max_tokens is 30"):
        task.run()
    assert 11 <= len(server.runs) <= 16
    task.parameters |= {"max_tokens": None, "only": ["not_run"]}
    assert task.clear()["counts"]["succeeded"] == 60 - len(server.runs) + task_runs(server)
    assert set(runs_of(server).values()) == {1}


def task_runs(server: DifyServer) -> int:
    """Return how many runs the second of two generations had."""
    generations = Counter(run.user.split("~")[1].split("/")[1] for run in server.runs)
    return generations[max(generations, key=int)]


def test_the_deadline_of_a_batch_stops_what_is_active(server: DifyServer, batch: Callable[..., BatchTask]) -> None:
    task = batch("slow", requests=rows(4), key="id", inputs={"text": "text"}, timeout=8, max_active_runs=2)
    with pytest.raises(DifyRunTimeoutError, match="The batch had not ended at the deadline"):
        task.run()
    assert len([each for each in server.requests if each.path.endswith("/stop")]) == 2


def test_a_run_that_takes_too_long_ends_its_row_alone(server: DifyServer, batch: Callable[..., BatchTask]) -> None:
    task = batch("slow", requests=rows(1), key="id", inputs={"text": "text"}, run_timeout=1)
    with pytest.raises(DifyBatchError) as caught:
        task.run()
    line = results(caught.value.manifest)[0]
    assert (line["status"], line["error_type"]) == ("failed", "DifyRunTimeoutError")
    assert "run_timeout (1 s)" in line["error"]


def test_a_generator_is_written_down_once(server: DifyServer, batch: Callable[..., BatchTask]) -> None:
    manifest = batch(requests=(row for row in rows(30)), key="id").run()
    assert manifest["counts"]["succeeded"] == 30
    assert manifest["source"] is None


def test_old_servers_that_need_their_streams_read_run_batches_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for version in ("1.9.1", "1.11.2", "1.14.2"):
        with DifyServer([ECHO], emulate=version, connections=None) as server:
            connect(monkeypatch, server, "echo", **PATIENT)
            manifest = BatchTask(tmp_path / version, requests=rows(10), key="id").run()
            assert manifest["counts"]["succeeded"] == 10
            assert set(runs_of(server).values()) == {1}


@modes
def test_the_other_contract_runs_batches_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, deferrable: bool) -> None:
    with DifyServer([ECHO], api_contract="workflow-runs", connections=None) as server:
        connect(monkeypatch, server, "echo", **PATIENT)
        workflow_id = server.app("echo").workflow_id
        task = BatchTask(tmp_path, requests=rows(6), key="id", workflow_id=workflow_id, deferrable=deferrable)
        assert task.run()["counts"]["succeeded"] == 6
        assert len(server.runs) == 6
