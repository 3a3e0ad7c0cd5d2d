"""What OpenLineage is reported of a task: facets that fit their schemas, and files as data sets."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from referencing import Registry, Resource

import airflow_provider_dify
from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.server import DifyServer
from airflow_provider_dify.testing.workflows import OutputFile, Workflow
from tests.faults.tries import Task, connect, death, modes
from tests.hooks.support import KEY, Start

SCHEMAS = Path(airflow_provider_dify.__file__).parent / "schemas"
BASE = "https://openlineage.io/spec/2-0-2/OpenLineage.json"
# What the specification asks of every facet. The rest of it is the client's own classes.
FACETS = {
    "$id": BASE,
    "$defs": {
        kind: {
            "type": "object",
            "properties": {"_producer": {"type": "string", "format": "uri"}, "_schemaURL": {"type": "string"}},
            "required": ["_producer", "_schemaURL"],
        }
        for kind in ("RunFacet", "JobFacet")
    },
}


def schema_of(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))
    return content


def check_facet(facet: dict[str, Any], name: str) -> None:
    """Hold a facet against the schema that it names itself, in which nothing may be that the schema does not tell."""
    schema = schema_of(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert facet["_schemaURL"] == f"{schema['$id']}#/$defs/{name}"
    assert facet["_producer"] == f"urn:airflow-provider-dify:{airflow_provider_dify.__version__}"
    registry: Registry[Any] = Registry().with_resources(
        [
            (schema["$id"], Resource.from_contents(schema)),
            (BASE, Resource.from_contents({"$schema": schema["$schema"], **FACETS})),
        ]
    )
    validator = jsonschema.Draft202012Validator(
        {"$ref": facet["_schemaURL"]},
        registry=registry,
        format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER,
    )
    validator.validate(facet)
    reported = schema["$defs"][name]["allOf"][1]["properties"]
    assert set(facet) - set(reported) <= {"_producer", "_schemaURL", "_deleted"}


def event_of(lineage: Any) -> dict[str, Any]:
    """Return a lineage as the client writes it down, after the client's own checks."""
    from openlineage.client.event_v2 import Job, Run, RunEvent, RunState
    from openlineage.client.serde import Serde

    event = RunEvent(
        eventType=RunState.COMPLETE,
        eventTime=datetime.now(timezone.utc).isoformat(),
        run=Run(str(uuid.uuid4()), facets=lineage.run_facets),
        job=Job("namespace", "dag.task", facets=lineage.job_facets),
        inputs=lineage.inputs,
        outputs=lineage.outputs,
        producer="https://example.com/producer",
    )
    content: dict[str, Any] = json.loads(Serde.to_json(event))
    return content


def reported(task: Task, ended: str = "complete") -> dict[str, Any]:
    """Return what OpenLineage would write down of a task that has ended, its facets checked."""
    event = event_of(getattr(task.operator, f"get_openlineage_facets_on_{ended}")(task.ti))
    check_facet(event["job"]["facets"]["dify_workflow"], "DifyWorkflowJobFacet")
    if "dify_workflow" in event["run"]["facets"]:
        check_facet(event["run"]["facets"]["dify_workflow"], "DifyWorkflowRunFacet")
    assert KEY not in json.dumps(event)
    return event


@modes
@pytest.mark.parametrize("version", ["1.9.1", "1.11.2", "1.14.2"])
def test_a_run_that_succeeded(dify: Start, deferrable: bool, version: str) -> None:
    server = dify("summarize", emulate=version)
    task = Task(store=False, deferrable=deferrable, inputs={"text": "Words. More."})
    task.run()
    event = reported(task)
    facet = event["run"]["facets"]["dify_workflow"]
    (run,) = server.runs
    app = server.app("summarize")
    assert (facet["workflowRunId"], facet["status"]) == (run.id, "succeeded")
    assert (facet["appId"], facet["workflowId"]) == (app.app_id, app.workflow_id)
    assert (facet["server"], facet["serverVersion"]) == (f"{server.base_url}/v1", version)
    assert facet["url"].endswith(f"/app/{app.app_id}/logs")
    assert facet["totalTokens"] == 128
    assert facet["totalSteps"] == (0 if version == "1.9.1" else 5)
    assert facet["elapsedTime"] >= 0
    assert facet["createdAt"] <= facet["finishedAt"]
    query = event["run"]["facets"]["externalQuery"]
    assert (query["externalQueryId"], query["source"]) == (run.id, f"{server.base_url}/v1")
    assert (
        event["job"]["facets"]["dify_workflow"] | {"connectionId": "dify_default", "responseMode": "streaming"}
        == (event["job"]["facets"]["dify_workflow"])
    )
    # The listener adds the parent, and two would contradict each other.
    assert set(event["run"]["facets"]) == {"dify_workflow", "externalQuery"}


@modes
def test_a_run_that_failed(dify: Start, deferrable: bool) -> None:
    server = dify("failing")
    task = Task(store=False, deferrable=deferrable)
    with pytest.raises(Exception, match="failed"):
        task.run()
    facet = reported(task, "failure")["run"]["facets"]["dify_workflow"]
    assert (facet["workflowRunId"], facet["status"]) == (server.runs[0].id, "failed")
    assert facet["error"]


@modes
def test_a_run_that_was_waited_for_in_vain(dify: Start, deferrable: bool) -> None:
    server = dify("slow")
    task = Task(store=False, deferrable=deferrable, inputs={"seconds": 6000}, timeout=1.5)
    with pytest.raises(Exception, match="deadline"):
        task.run()
    facet = reported(task, "failure")["run"]["facets"]["dify_workflow"]
    assert facet["workflowRunId"] == server.runs[0].id
    assert "status" not in facet


def test_a_task_without_a_run_tells_which_workflow_it_would_have_run(dify: Start) -> None:
    dify("summarize")
    task = Task(store=False, deferrable=False, inputs={})
    with pytest.raises(Exception, match="text"):
        task.run()
    event = reported(task, "failure")
    assert event["run"].get("facets", {}) == {}
    assert event["job"]["facets"]["dify_workflow"]["connectionId"] == "dify_default"


def test_a_run_that_is_not_waited_for(dify: Start) -> None:
    server = dify("echo")
    task = Task(store=False, deferrable=False, wait_for_termination=False)
    task.run()
    facet = reported(task)["run"]["facets"]["dify_workflow"]
    assert facet["workflowRunId"] == server.runs[0].id
    assert facet["appId"] == server.app("echo").app_id
    assert "status" not in facet


def test_a_run_that_was_reattached(monkeypatch: pytest.MonkeyPatch) -> None:
    with DifyServer(time_scale=0.01) as server:
        connect(monkeypatch, server, "echo")
        task = Task(store=True, deferrable=False, inputs={"text": "x"})
        with death("between id and wait"):
            task.run()
        task.retry()
        assert reported(task)["run"]["facets"]["dify_workflow"]["workflowRunId"] == server.runs[0].id
        assert len(server.runs) == 1


def test_files_are_data_sets(dify: Start) -> None:
    dify("echo")
    files = ["https://files.example.com/a.pdf?sign=s3cret"]
    task = Task(store=False, deferrable=False, inputs={"text": "x"}, files=files)
    for event in (event_of(task.operator.get_openlineage_facets_on_start()), (task.run(), reported(task))[1]):
        assert [(each["namespace"], each["name"]) for each in event["inputs"]] == [
            ("https://files.example.com", "/a.pdf")
        ]
        assert "s3cret" not in json.dumps(event)


@modes
def test_saved_files_and_outputs_are_data_sets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, deferrable: bool
) -> None:
    workflow = Workflow("report", outputs={"report": OutputFile("report.txt", b"words"), "rest": "x" * 300})
    with DifyServer([workflow], time_scale=0.01) as server:
        connect(monkeypatch, server, "report")
        task = Task(
            store=False,
            deferrable=deferrable,
            output_files_to=str(tmp_path / "files"),
            outputs_to=str(tmp_path / "outputs"),
            max_xcom_bytes=100,
        )
        task.run()
        (run,) = server.runs
    written = sorted(str(path) for path in tmp_path.rglob("*") if path.is_file())
    assert len(written) == 2
    assert sorted((each["namespace"], each["name"]) for each in reported(task)["outputs"]) == [
        ("file", name) for name in written
    ]
    assert all(run.id in name for name in written)


def test_an_error_text_that_repeats_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    key = DifyServer([Workflow("leaky")]).api_key("leaky")
    with DifyServer([Workflow("leaky", failure=f"cannot use {key} here")], time_scale=0.01) as server:
        connect(monkeypatch, server, "leaky")
        task = Task(store=False, deferrable=False)
        with pytest.raises(Exception, match="failed"):
            task.run()
    facet = reported(task, "failure")["run"]["facets"]["dify_workflow"]
    assert facet["error"].startswith("cannot use ")
    assert key not in facet["error"]


def test_a_run_that_was_rate_limited_first(dify: Start) -> None:
    server = dify("echo")
    server.inject(Fault("submit", "too_many_requests", headers={"Retry-After": "0"}, status=429))
    task = Task(store=False, deferrable=True)
    task.run()
    assert reported(task)["run"]["facets"]["dify_workflow"]["workflowRunId"] == server.runs[0].id


@pytest.mark.parametrize("name", ["DifyWorkflowRunFacet", "DifyWorkflowJobFacet"])
def test_facets_and_schemas_tell_the_same(name: str) -> None:
    import attr

    from airflow_provider_dify.runtime import lineage

    fields = {each.name for each in attr.fields(getattr(lineage, name)) if not each.name.startswith("_")}
    assert fields == set(schema_of(name)["$defs"][name]["allOf"][1]["properties"])


WITHOUT = """
import sys
import tests.conftest
import airflow.providers.common.compat.sdk as sdk
sdk.BaseOperator, sdk.conf
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "openlineage" or name.startswith("airflow.providers.openlineage"):
            tried.append(name)
            raise ModuleNotFoundError(name)
tried = []
# Airflow itself has asked the installed provider what it is.
for name in [name for name in sys.modules if "openlineage" in name]:
    del sys.modules[name]
sys.meta_path.insert(0, Absent())
import pytest
from airflow_provider_dify.testing.server import DifyServer
from tests.faults.tries import Task, connect
with pytest.MonkeyPatch.context() as patch, DifyServer(time_scale=0.01) as server:
    connect(patch, server, "echo")
    task = Task(store=False, deferrable=True, inputs={"text": "x"})
    assert task.run() == {"text": "x"}
print([*tried, *(name for name in sys.modules if "openlineage" in name)])
with pytest.raises(ImportError):
    task.operator.get_openlineage_facets_on_complete(task.ti)
print(len(tried) > 0)
"""


def test_nothing_of_it_is_imported_where_it_is_absent() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    # The second line is the control: the search for it would have been noticed.
    assert done.stdout.splitlines()[-2:] == ["[]", "True"]
