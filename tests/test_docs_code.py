"""Every code block of README and documentation is what it says: it parses, and its Python passes the type checker.

Blocks that make a DAG are also executed, by ``tests/test_docs.py``.
"""

from __future__ import annotations

import ast
import builtins
import configparser
import importlib
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from mypy import api as mypy

from tests.integration.airflow_dags import is_airflow_2

pytestmark = pytest.mark.any_airflow

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LANGUAGES = {"python", "console", "json", "yaml", "ini", "text", "mermaid"}
# What a block that shows a part of a file takes for granted.
GIVEN = {
    "DifyRunWorkflowOperator": "from airflow_provider_dify.operators.workflow import DifyRunWorkflowOperator",
    "task": "from airflow.providers.common.compat.sdk import task",
    "documents": "documents: Any = None",
    "start": "start: Any = None",
    "use": "use: Any = None",
}


def blocks() -> list[tuple[str, str, str]]:
    """Return page, language and text of each block."""
    found = []
    for page in PAGES:
        name = re.sub(r"\W", "_", str(page.relative_to(ROOT).with_suffix("")))
        found += [(f"{name}_{index}", *block) for index, block in enumerate(FENCE.findall(page.read_text("utf-8")))]
    return found


@pytest.mark.parametrize(("place", "language", "code"), blocks(), ids=[place for place, *_ in blocks()])
def test_a_block_is_what_it_says(place: str, language: str, code: str) -> None:
    assert language in LANGUAGES, "name the language of the block"
    if language == "python":
        assert unknown_names(code) <= set(GIVEN), "import what the block uses"
    elif language == "json":
        json.loads(code)
    elif language == "yaml":
        assert yaml.safe_load(code) is not None
    elif language == "ini":
        configparser.ConfigParser(interpolation=None).read_string(code)
    elif language == "console":
        assert shlex.split(code.replace("\\\n", " "), comments=True)


def unknown_names(code: str) -> set[str]:
    tree = ast.parse(code)
    known = set(dir(builtins)) | {"__file__"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            known.add(node.id)
        elif isinstance(node, ast.arg):
            known.add(node.arg)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            known.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            known |= {(each.asname or each.name).partition(".")[0] for each in node.names}
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - known


@pytest.mark.skipif(is_airflow_2(), reason="the pages show what Airflow 3 has")
@pytest.mark.processes
@pytest.mark.timeout(900)
def test_the_python_of_the_pages_passes_the_type_checker(tmp_path: Path) -> None:
    for place, language, code in blocks():
        if language == "python":
            given = "\n".join(GIVEN[name] for name in sorted(unknown_names(code)))
            (tmp_path / f"{place}.py").write_text(f"from typing import Any\n{given}\n{code}", encoding="utf-8")
    options = ["--follow-imports=silent", "--ignore-missing-imports", "--config-file=", f"--cache-dir={tmp_path / 'c'}"]
    # Examples are short: names are used again, and a statement may be there to be looked at.
    options += ["--disable-error-code=no-redef", "--disable-error-code=import-untyped"]
    out, err, _ = mypy.run([*options, str(tmp_path)])
    assert err == ""
    assert [line for line in out.splitlines() if ": error:" in line and not is_there(line)] == []


def is_there(error: str) -> bool:
    """Tell whether an error is of a name that ``airflow.sdk`` has, and that its stub leaves out."""
    missing = re.search(r'Module "airflow\.sdk" has no attribute "(\w+)"', error)
    return missing is not None and hasattr(importlib.import_module("airflow.sdk"), missing[1])
