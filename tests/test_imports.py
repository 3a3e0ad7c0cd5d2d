"""What importing costs: DAG files are parsed again and again, each time in a new process."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import airflow_provider_dify

PACKAGE = Path(airflow_provider_dify.__file__).parent
HEAVY = ("requests", "aiohttp", "tenacity", "airflow_provider_dify.testing", "airflow_provider_dify.hooks.dify")
BASE = """
import json, sys
from airflow.providers.common.compat import sdk
sdk.BaseOperator, sdk.BaseSensorOperator, sdk.BaseOperatorLink, sdk.XCom, sdk.conf
before = set(sys.modules)
"""


def imported_by(code: str) -> set[str]:
    """Return the modules that a new process imports for the code, beyond what every DAG file imports."""
    program = f"{BASE}{code}\nprint(json.dumps(sorted(set(sys.modules) - before)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_parsing_a_dag_file_imports_no_http_client() -> None:
    modules = imported_by(
        "from airflow_provider_dify.operators.workflow import DifyRunWorkflowOperator\n"
        "from airflow_provider_dify.sensors.workflow import DifyWorkflowRunSensor\n"
        "DifyRunWorkflowOperator(task_id='a', inputs={}, deferrable=True)\n"
        "DifyWorkflowRunSensor(task_id='b', workflow_run_id='x')"
    )
    assert "airflow_provider_dify.operators.workflow" in modules
    assert [name for name in modules if name.startswith(HEAVY)] == []


def test_the_control_imports_them() -> None:
    modules = imported_by("import airflow_provider_dify.hooks.dify, airflow_provider_dify.hooks.http_async")
    assert "airflow_provider_dify.hooks.http_async" in modules


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("path", sorted((PACKAGE / "api").glob("*.py")), ids=lambda path: path.stem)
def test_the_rules_know_neither_airflow_nor_sockets(path: Path) -> None:
    foreign = ("airflow.", "requests", "aiohttp", "urllib3", "socket", "asyncio", "airflow_provider_dify.hooks")
    assert [name for name in imports_of(path) if name == "airflow" or name.startswith(foreign)] == []


@pytest.mark.parametrize("name", ["get_provider_info", "fields", "form", "names", "__init__"])
def test_what_airflow_reads_while_it_is_imported_imports_no_airflow(name: str) -> None:
    tree = ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
    top = [each for each in tree.body if isinstance(each, (ast.Import, ast.ImportFrom))]
    modules = {each.module or "" if isinstance(each, ast.ImportFrom) else each.names[0].name for each in top}
    assert [module for module in modules if module == "airflow" or module.startswith("airflow.")] == []


def test_init_files_are_empty() -> None:
    for path in PACKAGE.rglob("__init__.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        assert all(isinstance(node, (ast.Expr, ast.Assign)) for node in body), path
