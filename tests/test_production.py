"""The page about production against the code: connections from each backend, metrics, and manifests."""

from __future__ import annotations

import configparser
import ipaddress
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_provider_dify.runtime.metrics import METRICS
from airflow_provider_dify.testing.server import DifyServer
from tests.test_docs import FENCE, rows, text_of

PAGE = text_of("docs/production.md")
HOST, KEY = "https://dify.example.com", "app-key"
ASKED = """
from airflow_provider_dify.hooks.dify import DifyHook
with DifyHook("dify_default") as hook:
    print("app:", hook.get_info().name, "connections:", hook.connection.max_connections)
"""


def section(title: str) -> str:
    return re.split(r"^## ", PAGE, flags=re.MULTILINE)[
        [part.partition("\n")[0] for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)].index(title)
    ]


def blocks(title: str, language: str) -> list[str]:
    return [code for found, code in FENCE.findall(section(title)) if found == language]


@pytest.fixture(scope="module")
def server() -> Iterator[DifyServer]:
    with DifyServer() as server:
        yield server


def of_server(text: str, server: DifyServer) -> str:
    """Return a connection of the page with the server's address and key."""
    assert HOST in text
    assert KEY in text
    return text.replace(HOST, server.base_url).replace(KEY, server.api_key("echo"))


def asked(settings: dict[str, str], folder: Path) -> str:
    """Return what a process of that environment learns from the server of its connection."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_CONN_", "AIRFLOW__SEC"))}
    path = os.pathsep.join([str(folder), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", ASKED],
        env={**kept, "PYTHONPATH": path, **settings},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()[-1]


def backend(text: str, **kwargs: str) -> dict[str, str]:
    """Return the settings of a block of airflow.cfg as environment variables, with other paths."""
    parser = configparser.ConfigParser()
    parser.read_string(text)
    reported = dict(parser["secrets"])
    arguments = json.loads(reported["backend_kwargs"])
    assert set(arguments) == set(kwargs)
    return {"AIRFLOW__SECRETS__BACKEND": reported["backend"], "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps(kwargs)}


def test_a_connection_from_the_environment(server: DifyServer, tmp_path: Path) -> None:
    (code,) = blocks("Secrets backends", "console")
    export, assignment = shlex.split(of_server(code, server))
    assert export == "export"
    name, _, value = assignment.partition("=")
    assert asked({name: value}, tmp_path) == "app: echo connections: 4"


def test_a_connection_from_local_files(server: DifyServer, tmp_path: Path) -> None:
    (content,) = blocks("Secrets backends", "json")
    path = tmp_path / "connections.json"
    path.write_text(of_server(content, server))
    settings = backend(blocks("Secrets backends", "ini")[0], connections_file_path=str(path))
    assert asked(settings, tmp_path) == "app: echo connections: 2"


def test_a_connection_from_a_backend_of_ones_own(server: DifyServer, tmp_path: Path) -> None:
    (code,) = blocks("Secrets backends", "python")
    (tmp_path / "mounted_secrets.py").write_text(code)
    (content,) = blocks("Secrets backends", "json")
    connection = json.loads(of_server(content, server))["dify_default"]
    (tmp_path / "connection-dify_default").write_text(json.dumps(connection))
    settings = backend(blocks("Secrets backends", "ini")[1], folder=str(tmp_path))
    assert asked(settings, tmp_path) == "app: echo connections: 2"


def test_the_table_of_metrics_is_what_is_sent() -> None:
    reported = {row[0].strip("`"): (row[1], row[3]) for row in rows(section("Metrics"))[1:]}
    sent = {
        metric.name: (metric.kind, ", ".join(f"`{tag}`" for tag in ("conn_id", *metric.tags))) for metric in METRICS
    }
    assert reported == sent


def test_the_metrics_to_watch_are_there() -> None:
    known = {metric.name for metric in METRICS}
    assert set(re.findall(r"`(dify\.[a-z.]+)`", section("What to watch"))) <= known


def manifests() -> list[Any]:
    return [yaml.safe_load(code) for code in blocks("Kubernetes", "yaml")]


def test_the_manifests_fit_together() -> None:
    secret, values, policy = manifests()
    (reference,) = values["secret"]
    assert secret["kind"] == "Secret"
    assert reference["secretName"] == secret["metadata"]["name"]
    assert reference["envName"] == "AIRFLOW_CONN_DIFY_DEFAULT"
    connection = json.loads(secret["stringData"][reference["secretKey"]])
    assert (connection["conn_type"], connection["host"], connection["password"]) == ("dify", HOST, KEY)
    assert policy["kind"] == "NetworkPolicy"
    (selector,) = policy["spec"]["podSelector"]["matchExpressions"]
    assert set(selector["values"]) == {"worker", "triggerer"}
    (way,) = policy["spec"]["egress"]
    assert ipaddress.ip_network(way["to"][0]["ipBlock"]["cidr"]).num_addresses == 1
    assert values["triggerer"]["replicas"] >= 2


def test_the_connection_of_the_manifest_works(server: DifyServer, tmp_path: Path) -> None:
    secret, values, _ = manifests()
    value = of_server(secret["stringData"]["connection"], server)
    assert asked({values["secret"][0]["envName"]: value}, tmp_path) == "app: echo connections: 4"
