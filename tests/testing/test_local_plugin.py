"""The pytest plugin, used as somebody's test suite would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGIN = "airflow_provider_dify.testing.plugin"


def run_tests(tmp_path: Path, content: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a test file with nothing but the plugin."""
    (tmp_path / "test_it.py").write_text(content, encoding="utf-8")
    environment = {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PATH": ""}
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            PLUGIN,
            "-p",
            "no:cacheprovider",
            "--strict-markers",
            *options,
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


HEAD = """
import pytest, requests
from airflow_provider_dify.testing.workflows import Workflow

def info(server, app="echo"):
    headers = {"Authorization": "Bearer " + server.api_key(app)}
    return requests.get(server.api_url + "/info", headers=headers, timeout=5)
"""


def test_gives_a_server_to_each_test(tmp_path: Path) -> None:
    """A fresh one, fast, with the built-in workflows; with the marker's options; ended afterwards."""
    result = run_tests(
        tmp_path,
        HEAD
        + """
seen = []

def test_default(dify_server):
    assert info(dify_server).headers["X-Version"] == "1.16.1"
    assert dify_server.time_scale == 0.01
    seen.append(dify_server)

def test_is_fresh_and_the_other_has_ended(dify_server):
    assert dify_server.requests == []
    with pytest.raises(requests.ConnectionError):
        info(seen[0])

@pytest.mark.dify_server(emulate="1.11.2", time_scale=1.0)
def test_marked(dify_server):
    assert info(dify_server).headers["X-Version"] == "1.11.2"
    assert dify_server.time_scale == 1.0

def test_factory(dify_server_factory):
    servers = [dify_server_factory(emulate=version) for version in ("1.9.1", "1.14.2")]
    assert [info(server).headers["X-Version"] for server in servers] == ["1.9.1", "1.14.2"]
""",
    )
    assert "4 passed" in result.stdout, result.stdout + result.stderr


def test_takes_other_workflows(tmp_path: Path) -> None:
    """From an overridden fixture, or from the marker."""
    result = run_tests(
        tmp_path,
        HEAD
        + """
@pytest.fixture
def dify_workflows():
    return [Workflow("mine")]

def test_overridden(dify_server):
    assert info(dify_server, "mine").json()["name"] == "mine"

@pytest.mark.dify_server(workflows=[Workflow("marked")])
def test_marked(dify_server):
    assert info(dify_server, "marked").json()["name"] == "marked"
""",
    )
    assert "2 passed" in result.stdout, result.stdout + result.stderr


def test_refuses_a_marker_that_cannot_be(tmp_path: Path) -> None:
    """Positional arguments, unknown options."""
    result = run_tests(
        tmp_path,
        HEAD
        + """
@pytest.mark.dify_server("1.11.2")
def test_positional(dify_server): ...

@pytest.mark.dify_server(version="1.11.2")
def test_unknown(dify_server): ...
""",
    )
    assert "2 errors" in result.stdout
    assert "takes keyword arguments only" in result.stdout
    assert "unexpected keyword argument 'version'" in result.stdout


def test_costs_nothing_when_unused(tmp_path: Path) -> None:
    """Neither aiohttp nor Airflow is imported by the plugin; Airflow not by the server either."""
    result = run_tests(
        tmp_path,
        """
import sys

def test_unused():
    assert "aiohttp" not in sys.modules
    assert "airflow" not in sys.modules

def test_used(dify_server):
    assert "aiohttp" in sys.modules
    assert "airflow" not in sys.modules
    assert "yaml" not in sys.modules
""",
    )
    assert "2 passed" in result.stdout, result.stdout + result.stderr


def test_documents_its_fixtures_and_marker(tmp_path: Path) -> None:
    """`pytest --fixtures` and `--markers` tell of them."""
    fixtures = run_tests(tmp_path, "", "--fixtures").stdout
    for name in ("dify_server ", "dify_server_factory ", "dify_workflows "):
        assert name in fixtures
    assert "@pytest.mark.dify_server(**options)" in run_tests(tmp_path, "", "--markers").stdout


def test_leaves_no_thread(dify_server_threads: set[str]) -> None:
    """The servers of other tests have ended."""
    assert "local-dify-server" not in dify_server_threads


@pytest.fixture
def dify_server_threads() -> set[str]:
    """Return the names of the threads that live."""
    import threading

    return {thread.name for thread in threading.enumerate()}
