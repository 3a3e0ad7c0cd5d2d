"""Every example DAG, run by Airflow against the local Dify server, waiting in both ways."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from airflow_provider_dify.testing.server import DifyServer
from tests.conftest import EXAMPLES
from tests.hooks.support import Connect, Start
from tests.integration.airflow_dags import example, run, set_deferrable

DAG_IDS = sorted(path.stem for path in Path(EXAMPLES).glob("*.py"))
# What asks people needs one, and a server that knows forms.
ALONE = [dag_id for dag_id in DAG_IDS if dag_id != "dify_human_input"]
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
    "dify_knowledge": {"report": "3 created"},
    "dify_streaming": {"report": "Words come one by one."},
    "dify_batch": {"report": "5 of 5 tickets were summarized"},
    "dify_batch_sharded": {"total": 6},
    "dify_batch_documents": {"count": 3},
}
# What Dify itself says of the knowledge base; this example runs no workflow.
KNOWLEDGE = "dify_knowledge"
RUNS = {
    KNOWLEDGE: 0,
    "dify_documents": 3,
    "dify_mapped": 3,
    "dify_taskflow": 4,
    "dify_batch": 5,
    "dify_batch_sharded": 6,
    "dify_batch_documents": 3,
}
ON_EVERY_AIRFLOW = {
    "dify_quickstart",
    "dify_deferrable",
    "dify_run_then_sensor",
    "dify_taskflow",
    "dify_batch",
    KNOWLEDGE,
}
APPS = {"dify_files": "review", "dify_batch_documents": "review"}
SKIPPED = {"dify_deferrable": {"drop"}}


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Give the examples with files a folder of their own."""
    monkeypatch.setenv("DIFY_EXAMPLE_STORE", tmp_path.as_uri())
    # The connection of the example with files, which ``check`` fills in: it is removed after the test.
    monkeypatch.setenv("AIRFLOW_CONN_DIFY_REVIEW", "{}")
    return tmp_path


@pytest.mark.parametrize("dag_id", DAG_IDS)
def test_an_example_retries(dag_id: str) -> None:
    """A worker that dies, or a scheduler that fails a task for its own reasons, is no reason to fail a pipeline."""
    assert all(each.retries == 2 for each in example(dag_id).tasks)


@pytest.fixture
def dify(dify: Start, connect: Connect) -> Start:
    """Let a second connection open the server's knowledge bases."""

    def start(*args: Any, **options: Any) -> DifyServer:
        server = dify(*args, **options)
        connect(server.base_url, server.dataset_key, "dify_knowledge")
        return server

    return start


def check(dag_id: str, server: DifyServer, *, deferrable: bool | None = None) -> None:
    dag = example(dag_id)
    os.environ["AIRFLOW_CONN_DIFY_REVIEW"] = os.environ["AIRFLOW_CONN_DIFY_DEFAULT"]
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
    assert {each.status for each in server.runs} <= {"succeeded"}
    if dag_id == KNOWLEDGE:
        assert [each.state for each in server.documents("handbook")] == ["completed"] * 3
    assert server.active_runs() == []


def marked(dag_id: str) -> Any:
    """Return the parameter of an example, which runs on every Airflow only where it shows what others do not."""
    return pytest.param(dag_id, marks=() if dag_id in ON_EVERY_AIRFLOW else pytest.mark.any_airflow)


@pytest.mark.processes
@pytest.mark.parametrize(
    "deferrable",
    [pytest.param(True, id="deferred"), pytest.param(False, id="on the worker", marks=pytest.mark.any_airflow)],
)
@pytest.mark.parametrize("dag_id", map(marked, ALONE))
def test_an_example_works(dify: Start, dag_id: str, deferrable: bool) -> None:
    check(dag_id, dify(APPS.get(dag_id, "summarize")), deferrable=deferrable)


@pytest.mark.processes
@pytest.mark.any_airflow
@pytest.mark.parametrize("version", ["1.9.1", "1.11.2"])
@pytest.mark.parametrize("dag_id", sorted(ON_EVERY_AIRFLOW - {KNOWLEDGE}))
def test_an_example_works_with_older_servers(dify: Start, dag_id: str, version: str) -> None:
    check(dag_id, dify(APPS.get(dag_id, "summarize"), emulate=version))


@pytest.mark.processes
@pytest.mark.parametrize("deferrable", [True, False], ids=["deferred", "on the worker"])
def test_what_asks_people_is_answered_in_dify(dify: Start, connect: Connect, deferrable: bool) -> None:
    server = dify("approval")
    connect(server.base_url, server.api_key("approval"), conn_id="dify_approval")

    def answer() -> None:
        while not (forms := server.forms.open()):
            time.sleep(0.1)
        server.forms.answer(forms[0].id, "approve", {"tone": "formal", "comment": "go"})

    editor = Thread(target=answer, daemon=True)
    editor.start()
    dag = example("dify_human_input")
    set_deferrable(dag, deferrable)
    outcome = run(dag)
    assert outcome.state == "success", outcome
    assert outcome.xcom("report") == "approve, formal: go"
    assert [each.status for each in server.runs] == ["succeeded"]


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
