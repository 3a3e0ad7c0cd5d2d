"""Type checkers know the parameters of the decorator and of the function that it decorates."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mypy import api as mypy

from tests.integration.airflow_dags import is_airflow_2

pytestmark = [
    pytest.mark.any_airflow,
    pytest.mark.skipif(is_airflow_2(), reason="Airflow 2 has no airflow.sdk, whose types the DAG uses"),
]

SAMPLE = Path(__file__).parent / "typed_dag.py"
ERROR = re.compile(r".*:(\d+): error: .*\[([a-z-]+)\]$")


def expected() -> dict[int, str]:
    lines = SAMPLE.read_text(encoding="utf-8").splitlines()
    return {number: codes for number, line in enumerate(lines, 1) if (codes := line.partition("# error: ")[2])}


@pytest.mark.processes
def test_pyright_accepts_what_is_right_and_refuses_what_is_wrong(tmp_path: Path) -> None:
    """The same lines as mypy; pyright has other words for what is wrong with them."""
    settings = {"include": [str(SAMPLE)], "typeCheckingMode": "standard", "pythonVersion": "3.11"}
    # A bare subscript is a statement that pyright itself warns of.
    settings |= {
        "reportUnusedExpression": "none",
        "venvPath": str(Path(sys.prefix).parent),
        "venv": Path(sys.prefix).name,
    }
    project = tmp_path / "pyrightconfig.json"
    project.write_text(json.dumps(settings), encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-m", "basedpyright", "--outputjson", "--project", str(project)],
        capture_output=True,
        text=True,
        check=False,
        cwd=SAMPLE.parents[2],
    )
    found = json.loads(ran.stdout)["generalDiagnostics"]
    errors = {each["range"]["start"]["line"] + 1 for each in found if each["severity"] == "error"}
    assert errors == set(expected()), found


@pytest.mark.processes
def test_mypy_accepts_what_is_right_and_refuses_what_is_wrong(tmp_path: Path) -> None:
    lines = SAMPLE.read_text(encoding="utf-8").splitlines()
    expected = {
        (number, code)
        for number, line in enumerate(lines, 1)
        for code in line.partition("# error: ")[2].split(", ")
        if code
    }
    out, err, _ = mypy.run(
        ["--strict", "--follow-imports=silent", "--config-file=", f"--cache-dir={tmp_path}", str(SAMPLE)]
    )
    assert err == ""
    found = {(int(match[1]), match[2]) for match in map(ERROR.match, out.splitlines()) if match}
    assert found == expected, out
    assert len(expected) > 5
