"""Large files of rows: checked whole before the first run, and run, in bounded memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_dify.testing.server import DifyServer
from airflow_provider_dify.testing.workflows import Input, Step, Workflow
from tests.faults.tries import connect
from tests.operators.batches import PATIENT

pytestmark = [pytest.mark.processes, pytest.mark.any_airflow, pytest.mark.timeout(900)]

ROWS = 50_000
MAX_MIB = 100
TYPED = Workflow("typed", inputs=[Input("data", type="json_object"), Input("number", type="number")])


def row(number: int, *, wrong: bool) -> dict[str, Any]:
    return {"id": f"row-{number}", "data": {"of": [number, None]}, "number": "many" if wrong else number}


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(each)}\n" for each in rows), encoding="utf-8")


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow
    from pyarrow import parquet

    columns = {name: [str(each[name]) if name == "number" else each[name] for each in rows] for name in rows[0]}
    parquet.write_table(pyarrow.table(columns), path, row_group_size=1000)


@pytest.mark.parametrize("write", [write_jsonl, write_parquet], ids=["jsonl", "parquet"])
def test_one_row_in_a_hundred_is_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, write: Any) -> None:
    suffix = write.__name__.removeprefix("write_")
    small, large = tmp_path / f"small.{suffix}", tmp_path / f"large.{suffix}"
    write(small, [row(0, wrong=False)])
    write(large, [row(number, wrong=number % 100 == 99) for number in range(ROWS)])
    with DifyServer([TYPED]) as server:
        connect(monkeypatch, server, "typed")
        command = [sys.executable, "-m", "tests.operators.memory_of_a_batch", str(small), str(large)]
        arguments = [str(tmp_path / "results"), os.environ["AIRFLOW_CONN_DIFY_DEFAULT"]]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert not server.runs
    found = json.loads(done.stdout.splitlines()[-1])
    assert "500 of 50,000 rows" in found["error"]
    assert "row-99" in found["error"]
    assert "number" in found["error"]
    assert found["grown"] < MAX_MIB


def test_memory_does_not_grow_with_what_the_rows_hold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = "x" * 100 * 1024
    few, many = tmp_path / "few.jsonl", tmp_path / "many.jsonl"
    write_jsonl(few, [{"id": f"row-{number}", "text": text} for number in range(100)])
    write_jsonl(many, [{"id": f"row-{number}", "text": text} for number in range(800)])
    silent = Workflow("silent", inputs=[Input("text", type="paragraph")], steps=[Step("none")], outputs={"is": "done"})
    with DifyServer([silent], connections=None, worker_slots=8) as server:
        connect(monkeypatch, server, "silent", **PATIENT)
        command = [sys.executable, "-m", "tests.operators.memory_of_rows", str(few), str(many)]
        arguments = [str(tmp_path / "results"), os.environ["AIRFLOW_CONN_DIFY_DEFAULT"]]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["counts"]["succeeded"] == 800
    # The texts are 80 MiB.
    assert found["grown"] < 40
