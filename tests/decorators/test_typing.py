"""Type checkers know the parameters of the decorator and of the function that it decorates."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mypy import api as mypy

SAMPLE = Path(__file__).parent / "typed_dag.py"
ERROR = re.compile(r".*:(\d+): error: .*\[([a-z-]+)\]$")


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
