"""Every example DAG, run by Airflow against the local Dify server, waiting in both ways."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_dify.testing.server import DifyServer
from tests.conftest import EXAMPLES
from tests.hooks.support import Start
from tests.integration.airflow_dags import example, run, set_deferrable

DAG_IDS = sorted(path.stem for path in Path(EXAMPLES).glob("*.py"))
KEPT = re.compile(r"The run manual__\S+")
EXPECTED: dict[str, dict[str, Any]] = {
    "dify_quickstart": {
        "report": "summary: Airflow runs the workflow and waits for it without a worker slot., word_count: 18",
        "summarize": {"summary": "Airflow runs the workflow and waits for it without a worker slot.", "word_count": 18},
    },
    "dify_deferrable": {"keep": KEPT},
    "dify_run_then_sensor": {
        "use": "A long report is being summarized. (42)",
        "wait": {"summary": "A long report is being summarized.", "word_count": 11},
    },
    "dify_mapped": {"collect": [f"Document {number} says something." for number in (1, 2, 3)]},
    "dify_taskflow": {
        "join": " ".join(f"Report {number}: Sales went up." for number in (1, 2, 3)),
        "summarize_all": {"summary": "Report 1: Sales went up.", "word_count": 15},
        "report": "15 words",
    },
    "dify_documents": {"write": re.compile(r"(file://)?/.*/summaries\.jsonl")},
    "dify_files": {"use": "The document has 9 bytes."},
    "dify_streaming": {"report": "Words come one by one."},
}
RUNS = {"dify_documents": 3, "dify_mapped": 3, "dify_taskflow": 4}
APPS = {"dify_files": "review"}
SKIPPED = {"dify_deferrable": {"drop"}}


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Give the examples with files a folder of their own."""
    monkeypatch.setenv("DIFY_EXAMPLE_STORE", tmp_path.as_uri())
    return tmp_path


@pytest.mark.parametrize("dag_id", DAG_IDS)
def test_an_example_retries(dag_id: str) -> None:
    """A worker that dies, or a scheduler that fails a task for its own reasons, is no reason to fail a pipeline."""
    assert all(each.retries == 2 for each in example(dag_id).tasks)


def check(dag_id: str, server: DifyServer, *, deferrable: bool | None = None) -> None:
    dag = example(dag_id)
    if deferrable is not None:
        set_deferrable(dag, deferrable)
    outcome = run(dag)
    assert outcome.state == "success", outcome
    wrong = {
        task_id: state
        for (task_id, _), state in outcome.states.items()
        if state != ("skipped" if task_id in SKIPPED.get(dag_id, ()) else "success")
    }
    assert wrong == {}
    for task_id, value in EXPECTED[dag_id].items():
        returned = outcome.xcom(task_id)
        assert value.fullmatch(returned) if isinstance(value, re.Pattern) else returned == value
    assert len(server.runs) == RUNS.get(dag_id, 1)
    assert {each.status for each in server.runs} == {"succeeded"}
    assert server.active_runs() == []


@pytest.mark.processes
@pytest.mark.parametrize("deferrable", [True, False], ids=["deferred", "on the worker"])
@pytest.mark.parametrize("dag_id", DAG_IDS)
def test_an_example_works(dify: Start, dag_id: str, deferrable: bool) -> None:
    check(dag_id, dify(APPS.get(dag_id, "summarize")), deferrable=deferrable)


@pytest.mark.processes
@pytest.mark.parametrize("version", ["1.9.1", "1.11.2"])
@pytest.mark.parametrize("dag_id", DAG_IDS)
def test_an_example_works_with_older_servers(dify: Start, dag_id: str, version: str) -> None:
    check(dag_id, dify(APPS.get(dag_id, "summarize"), emulate=version))


@pytest.mark.xdist_group("dags")
def test_the_quickstart_takes_the_inputs_of_the_dag_run(dify: Start) -> None:
    server = dify("echo")
    outcome = run(example("dify_quickstart"), {"inputs": {"text": 'quotes " and { braces } %'}})
    assert outcome.xcom("summarize") == {"text": 'quotes " and { braces } %'}
    assert outcome.xcom("summarize", "workflow_run_id") == server.runs[0].id
    assert outcome.xcom("summarize", "task_id") == server.runs[0].task_id


@pytest.mark.xdist_group("dags")
def test_documents_become_lines_of_json(dify: Start, store: Path) -> None:
    check("dify_documents", dify("summarize"))
    rows = [json.loads(line) for line in (store / "summaries.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows == [{"summary": f"Document {number} says something.", "word_count": 8} for number in (1, 2, 3)]


@pytest.mark.xdist_group("dags")
def test_a_file_goes_in_and_another_comes_out(dify: Start, store: Path) -> None:
    server = dify("review")
    check("dify_files", server)
    saved = {path.name: path.read_text(encoding="utf-8") for path in store.glob(f"reports/{server.runs[0].id}/*")}
    assert saved.keys() == {"contract.txt", "report.md"}
    assert saved["contract.txt"] == "We agree."
    assert saved["report.md"].startswith("# Contract of manual__")
