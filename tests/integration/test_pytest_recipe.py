"""The recipe of ``docs/testing.md`` works as it stands there, from nothing to green tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent.parent / "docs" / "testing.md"
FILE = re.compile(r"`((?:dags|tests)/\w+\.py)`[^`]*```python\n(.*?)```", re.DOTALL)


@pytest.mark.processes
@pytest.mark.timeout(600)
def test_the_recipe_works(tmp_path: Path) -> None:
    files = dict(FILE.findall(PAGE.read_text(encoding="utf-8")))
    assert list(files) == ["dags/summarize.py", "tests/conftest.py", "tests/test_summarize.py"]
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    # What a user's shell has, and nothing that these tests have set for themselves.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AIRFLOW", "PYTEST", "DIFY", "_AIRFLOW"))
    }
    environment |= {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
    # The home that Airflow takes where nothing says another.
    assert not (tmp_path / "airflow").exists()
