"""Paths and objects on their way through Airflow: templates, XCom, serialized DAGs."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, ObjectStoragePath, task

from airflow_provider_dify.operators.workflow import DifyRunWorkflowOperator
from airflow_provider_dify.testing.workflows import Input, OutputFile, Workflow
from tests.hooks.support import Start
from tests.integration.airflow_dags import run

# One process: the database that a DAG needs takes each of them seconds to set up.
pytestmark = pytest.mark.xdist_group("dags")

WORKFLOW = Workflow(
    "files",
    inputs=[Input("doc", type="file"), Input("docs", type="file-list", max_length=4, required=False)],
    outputs=lambda scope: {
        "names": [scope["doc"]["filename"], *(each["filename"] for each in scope["docs"] or [])],
        "files": [each["filename"] for each in scope["sys"]["files"]],
        "report": OutputFile("../report.md", b"# Report"),
        "text": "x" * 100,
    },
)


@pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "deferred"])
def test_paths_of_every_kind(dify: Start, tmp_path: Path, deferrable: bool) -> None:
    server = dify("files", workflows=[WORKFLOW])
    for name in ("a.txt", "b.txt", "c.txt", "d.txt", "manual.txt"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    folder = ObjectStoragePath(tmp_path.as_uri())
    with DAG("files_in_dags", start_date=datetime(2026, 1, 1), schedule=None) as dag:

        @task
        def made() -> Any:
            return ObjectStoragePath(tmp_path.as_uri()) / "a.txt"

        review = DifyRunWorkflowOperator(
            task_id="review",
            inputs={"doc": made(), "docs": [tmp_path / "b.txt", folder / "c.txt"]},
            files=[str(tmp_path / "d.txt"), tmp_path.as_uri() + "/{{ dag_run.run_id.split('__')[0] }}.txt"],
            output_files_to=folder / "{{ dag_run.run_id.split('__')[0] }}",
            outputs_to=str(tmp_path / "large-{{ dag_run.run_id.split('__')[0] }}"),
            max_xcom_bytes=10,
            deferrable=deferrable,
        )

        @task
        def use(returned: dict[str, Any]) -> dict[str, Any]:
            from airflow_provider_dify.operators.outputs import load_outputs

            return dict(load_outputs(returned))

        use(review.output)
    outcome = run(dag)
    assert outcome.state == "success", outcome
    run_id = server.runs[0].id
    outputs = outcome.xcom("use")
    assert outputs["names"] == ["a.txt", "b.txt", "c.txt"]
    assert outputs["files"] == ["d.txt", "manual.txt"]
    assert outputs["report"]["saved_to"] == f"{tmp_path.as_uri()}/manual/{run_id}/report.md"
    assert (tmp_path / "manual" / run_id / "report.md").read_bytes() == b"# Report"
    aside = outcome.xcom("review")
    assert aside["dify_outputs_saved_to"] == f"{tmp_path.as_uri()}/large-manual/{run_id}.json"
    assert len(server.runs) == 1
