"""How the files of a run are named as lineage, and what a facet tells of the run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dify.api.runs import RunStatus, WorkflowRun
from airflow_provider_dify.rules.lineage import dataset_of, input_datasets, output_datasets, run_properties

RUN = "6b454183-889f-4bc9-8060-764be1cb16ea"
NAMES: list[tuple[str, tuple[str, str] | None]] = [
    ("https://files.example.com/a/b.pdf", ("https://files.example.com", "/a/b.pdf")),
    ("https://me:pw@files.example.com:8443/a.pdf?sign=x#p", ("https://files.example.com:8443", "/a.pdf")),
    ("HTTPS://Files.Example.com", ("https://files.example.com", "/")),
    ("http://[::1]:80/a", ("http://::1:80", "/a")),
    ("s3://bucket/a/b.csv", ("s3://bucket", "a/b.csv")),
    ("s3://aws_default@My-bucket/a b.csv", ("s3://My-bucket", "a b.csv")),
    ("s3a://bucket/a", ("s3://bucket", "a")),
    ("gcs://bucket/a", ("gs://bucket", "a")),
    ("gs://bucket", ("gs://bucket", "/")),
    ("abfss://box@acc.dfs.core.windows.net/a", ("abfss://box@acc.dfs.core.windows.net", "a")),
    ("abfs://conn@box/a", ("abfs://box", "a")),
    ("hdfs://name:8020/a", ("hdfs://name:8020", "a")),
    ("file:///data/a?.csv", ("file", "/data/a?.csv")),
    ("file://host/data/a.csv", ("file://host", "/data/a.csv")),
    ("/data/a.csv", ("file", "/data/a.csv")),
    ("/data/../a.csv", ("file", "/a.csv")),
    ("data/a.csv", ("file", os.path.join(os.getcwd(), "data/a.csv"))),
    ("~/a.csv", ("file", os.path.expanduser("~/a.csv"))),
    ("", None),
    ("https://", None),
    ("s3:///key", None),
    ("file://", None),
    ("https://a:b:c/", None),
    ("https://[x/", None),
]


@pytest.mark.parametrize(("location", "dataset"), NAMES, ids=[location for location, _ in NAMES])
def test_names(location: str, dataset: tuple[str, str] | None) -> None:
    assert dataset_of(location) == dataset


@given(st.text())
def test_any_text_has_a_name_or_none(location: str) -> None:
    dataset = dataset_of(location)
    assert dataset is None or all(dataset)


secrets = st.text("abcdefgh0123", min_size=8, max_size=12)


@given(st.sampled_from(["http", "https", "s3", "gs", "x"]), secrets, secrets, secrets)
def test_no_name_gives_access(scheme: str, user: str, password: str, signature: str) -> None:
    named = dataset_of(f"{scheme}://{user}:{password}@host.example/dir/file?sign=S")
    assert named is not None
    assert not any(secret in part for part in named for secret in (user, password))
    if scheme.startswith("http"):
        assert dataset_of(f"{scheme}://host.example/f?sign={signature}") == (f"{scheme}://host.example", "/f")


class ObjectPath:
    """What an object-storage path looks like from outside."""

    fs = protocol = "s3"

    def __str__(self) -> str:
        return "s3://aws@bucket/key"


REMOTE = {"type": "document", "transfer_method": "remote_url", "url": "https://a.example/x.pdf?sign=1"}
LOCAL = {"type": "document", "transfer_method": "local_file", "upload_file_id": RUN}
X = ("https://a.example", "/x.pdf")
INPUTS: list[tuple[Any, Any, list[tuple[str, str]]]] = [
    ({"doc": REMOTE}, None, [X]),
    ({"docs": [REMOTE, LOCAL, REMOTE]}, None, [X]),
    ({"doc": LOCAL, "n": 1, "x": None, "o": {"k": "v"}}, None, []),
    ({"text": "https://a.example/x.pdf"}, None, []),
    ({"text": "see s3://bucket/key"}, None, []),
    ({"text": "/etc/passwd is a file"}, None, []),
    ({"doc": "s3://bucket/key"}, None, [("s3://bucket", "key")]),
    ({"doc": ObjectPath()}, None, [("s3://bucket", "key")]),
    ({"doc": Path("/a/b.txt")}, [Path("/a/b.txt")], [("file", "/a/b.txt")]),
    ({"doc": {"path": "/a/b.txt", "type": "document"}}, None, [("file", "/a/b.txt")]),
    ({"doc": {"path": ObjectPath()}}, None, [("s3://bucket", "key")]),
    (None, ["https://a.example/x.pdf", RUN, REMOTE, LOCAL, "/a.txt"], [X, ("file", "/a.txt")]),
    ('{"doc": 1}', '["https://a.example/x.pdf"]', []),
    (["https://a.example/x.pdf"], None, []),
]


@pytest.mark.parametrize(("inputs", "files", "datasets"), INPUTS)
def test_what_goes_in(inputs: Any, files: Any, datasets: list[tuple[str, str]]) -> None:
    assert input_datasets(inputs, files) == datasets


OUTPUTS: list[tuple[tuple[Any, ...], list[tuple[str, str]]]] = [
    ((None,), []),
    (({"text": "s3://bucket/key"},), []),
    (({"file": {"url": "https://x.example/f?s=1", "saved_to": "s3://conn@bucket/a"}},), [("s3://bucket", "a")]),
    (({"files": [{"saved_to": "/out/a"}, {"saved_to": "file:///out/b"}]},), [("file", "/out/a"), ("file", "/out/b")]),
    (({"saved_to": "nowhere in particular"},), []),
    (({"saved_to": 7},), []),
    (
        ({"f": {"saved_to": "s3://b/f"}}, {"dify_outputs_saved_to": "s3://b/run.json", "size_bytes": 1}),
        [("s3://b", "f"), ("s3://b", "run.json")],
    ),
    (({"f": {"saved_to": "s3://b/f"}}, {"f": {"saved_to": "s3://b/f"}}), [("s3://b", "f")]),
    (("a run's id",), []),
]  # fmt: skip


@pytest.mark.parametrize(("values", "datasets"), OUTPUTS)
def test_what_comes_out(values: tuple[Any, ...], datasets: list[tuple[str, str]]) -> None:
    assert output_datasets(*values) == datasets


def test_outputs_that_contain_themselves() -> None:
    outputs: dict[str, Any] = {"saved_to": "s3://b/f"}
    outputs["again"] = outputs
    assert output_datasets(outputs) == [("s3://b", "f")]


def test_a_run_that_is_only_known_by_its_id() -> None:
    assert run_properties(RUN, None, None) == {"workflowRunId": RUN}
    assert run_properties(RUN, None, "app") == {"workflowRunId": RUN, "appId": "app"}


def test_a_run_that_has_ended() -> None:
    run = WorkflowRun(
        RUN,
        RunStatus.FAILED,
        error="broken",
        workflow_id="version",
        inputs={"sys.app_id": "app"},
        elapsed_time=1.5,
        total_tokens=0,
        total_steps=3,
        created_at=1795402015,
        finished_at=10**30,
    )
    assert run_properties(RUN, run, None) == {
        "workflowRunId": RUN,
        "appId": "app",
        "workflowId": "version",
        "status": "failed",
        "error": "broken",
        "elapsedTime": 1.5,
        "totalTokens": 0,
        "totalSteps": 3,
        "createdAt": "2026-11-23T02:46:55+00:00",
    }
