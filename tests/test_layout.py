"""How large modules and classes may get: what is larger has more than one subject."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import airflow_provider_dify

pytestmark = pytest.mark.any_airflow

PACKAGE = Path(airflow_provider_dify.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "testing" not in path.relative_to(PACKAGE).parts)
MAX_LINES = 450
MAX_METHODS = 30


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_has_one_subject(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            methods = [each for each in node.body if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef))]
            assert len(methods) <= MAX_METHODS, node.name
