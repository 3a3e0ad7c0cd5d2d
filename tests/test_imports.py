"""What importing costs: DAG files are parsed again and again, each time in a new process."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

import airflow_provider_dify

PACKAGE = Path(airflow_provider_dify.__file__).parent
HEAVY = ("requests", "aiohttp", "tenacity", "airflow_provider_dify.testing", "airflow_provider_dify.hooks.dify")
SOCKETS = ("socket", "ssl", "asyncio", "http.client", "urllib.request", "urllib3", "requests", "aiohttp", "httpx")
# What every DAG file imports.
DAG_FILE = """
try:
    import airflow.sdk
except ImportError:
    import airflow.models
"""


def imported_by(code: str, *, after: str = DAG_FILE) -> set[str]:
    """Return the modules that a new process imports for the code, beyond what it has imported before."""
    program = f"import json, sys\n{after}\nbefore = set(sys.modules)\n{code}\n"
    program += "print(json.dumps(sorted(set(sys.modules) - before)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    modules: list[str] = json.loads(done.stdout.splitlines()[-1])
    return set(modules)


def of(modules: Iterable[str], *packages: str) -> list[str]:
    """Return the modules that are one of the packages or within one."""
    return sorted(name for name in modules if any(name == each or name.startswith(f"{each}.") for each in packages))


def test_parsing_a_dag_file_imports_no_http_client() -> None:
    # An operator of Airflow's own: the first one of a process makes Airflow 3.0 import aiohttp.
    modules = imported_by(
        "from airflow_provider_dify.operators.workflow import DifyRunWorkflowOperator\n"
        "from airflow_provider_dify.sensors.workflow import DifyWorkflowRunSensor\n"
        "DifyRunWorkflowOperator(task_id='a', inputs={}, deferrable=True)\n"
        "DifyWorkflowRunSensor(task_id='b', workflow_run_id='x')",
        after=f"{DAG_FILE}\nfrom airflow.providers.common.compat.sdk import BaseOperator\nBaseOperator(task_id='c')",
    )
    assert "airflow_provider_dify.operators.workflow" in modules
    assert of(modules, *HEAVY) == []


def test_the_modules_of_operator_and_sensor_are_cheap() -> None:
    modules = imported_by("import airflow_provider_dify.operators.workflow, airflow_provider_dify.sensors.workflow")
    assert of(modules, *HEAVY, "asyncio", "airflow_provider_dify.connection", "airflow_provider_dify.triggers") == []


def test_the_control_imports_them() -> None:
    modules = imported_by("import airflow_provider_dify.hooks.dify, airflow_provider_dify.client.aiohttp_transport")
    assert {"aiohttp", "airflow_provider_dify.hooks.dify"} <= modules


def imports_of(path: Path, *, top: bool = False) -> set[str]:
    """Return the modules that a file imports anywhere, or only those that importing it needs at once."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in tree.body if top else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            # What is imported may be a module itself: from http import client.
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize(
    "path", sorted([*(PACKAGE / "api").glob("*.py"), *(PACKAGE / "rules").glob("*.py")]), ids=lambda path: path.stem
)
def test_api_and_rules_import_neither_airflow_nor_sockets(path: Path) -> None:
    assert of(imports_of(path), "airflow", *SOCKETS) == []


@pytest.mark.parametrize("name", ["get_provider_info", "connection_fields", "connection_form", "names", "__init__"])
def test_what_airflow_reads_while_it_is_imported_imports_no_airflow(name: str) -> None:
    assert of(imports_of(PACKAGE / f"{name}.py", top=True), "airflow") == []


def test_provider_info_is_reported_without_airflow() -> None:
    modules = imported_by(
        "from airflow_provider_dify.get_provider_info import get_provider_info; get_provider_info()", after=""
    )
    assert "airflow_provider_dify.connection_fields" in modules
    assert of(modules, "airflow", "flask_appbuilder", "wtforms", *SOCKETS) == []


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("__init__.py")), ids=lambda path: path.parent.name)
def test_init_files_hold_a_docstring_or_the_version(path: Path) -> None:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign):
            assert path.parent == PACKAGE
            assert ast.unparse(node) == f"__version__ = {airflow_provider_dify.__version__!r}"
        else:
            assert isinstance(node, ast.Expr)
            assert isinstance(node.value, ast.Constant)
