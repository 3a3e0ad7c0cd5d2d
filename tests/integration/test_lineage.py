"""What Airflow's OpenLineage provider writes down of a DAG run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.hooks.support import Start
from tests.operators.test_lineage import check_facet

# In a process of its own: Airflow decides while it is imported whether it has listeners.
PROGRAM = """
import os
import sys
import tests.conftest
os.environ.update(AIRFLOW_CONN_DIFY_DEFAULT=sys.argv[2], AIRFLOW__OPENLINEAGE__TRANSPORT=sys.argv[3])
from tests.integration.airflow_dags import example, run, set_deferrable
dag = example("dify_quickstart")
set_deferrable(dag, sys.argv[1] == "deferred")
dag.get_task("summarize").files = ["https://files.example.com/a.pdf?sign=s3cret"]
# A failed try would wait for the next, which is not of interest here.
dag.get_task("summarize").retries = 0
ended = run(dag).state
print()
print("ended:", ended)
"""


def events_of(folder: Path, mode: str) -> tuple[str, list[dict[str, Any]]]:
    """Run the quickstart and return its state, and the events of its Dify task in their order."""
    transport = {"type": "file", "log_file_path": str(folder / "event"), "append": False}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, mode, os.environ["AIRFLOW_CONN_DIFY_DEFAULT"], json.dumps(transport)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    events = [json.loads(path.read_text(encoding="utf-8")) for path in folder.iterdir()]
    of_task = [event for event in events if event["job"]["name"] == "dify_quickstart.summarize"]
    assert of_task, done.stdout + done.stderr
    (state,) = re.findall(r"^ended: (\w+)$", done.stdout, re.MULTILINE)
    return state, sorted(of_task, key=lambda event: str(event["eventTime"]))


@pytest.mark.processes
@pytest.mark.parametrize(("app", "mode"), [("echo", "deferred"), ("failing", "on the worker")])
def test_the_events_of_a_task(dify: Start, tmp_path: Path, app: str, mode: str) -> None:
    server = dify(app)
    state, events = events_of(tmp_path, mode)
    (run,) = server.runs
    assert state == ("success" if app == "echo" else "failed")
    first, last = events[0], events[-1]
    assert first["eventType"] == "START"
    assert last["eventType"] == ("COMPLETE" if app == "echo" else "FAIL")
    for event in (first, last):
        check_facet(event["job"]["facets"]["dify_workflow"], "DifyWorkflowJobFacet")
        assert [(each["namespace"], each["name"]) for each in event["inputs"]] == [
            ("https://files.example.com", "/a.pdf")
        ]
        # The one that the listener adds: the DAG run.
        assert event["run"]["facets"]["parent"]["job"]["name"] == "dify_quickstart"
        assert "s3cret" not in json.dumps([event["inputs"], event["outputs"]])
    facet = last["run"]["facets"]["dify_workflow"]
    check_facet(facet, "DifyWorkflowRunFacet")
    assert (facet["workflowRunId"], facet["status"]) == (run.id, run.status)
    # Airflow's redactor takes the name for that of a secret.
    assert isinstance(facet["totalTokens"], int)
    assert last["run"]["facets"]["externalQuery"]["externalQueryId"] == run.id
    if app == "failing":
        assert str(run.error) in facet["error"]
        assert run.id in last["run"]["facets"]["errorMessage"]["message"]
    assert server.api_key(app) not in json.dumps(events)
