"""Many documents and large ones: a sync writes what has changed and nothing else, in bounded memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_dify.testing.server import DifyServer
from tests.knowledge.support import DATASET, RecordStore, Sync, connect, mirrors, write

pytestmark = [pytest.mark.processes, pytest.mark.any_airflow, pytest.mark.timeout(900)]

DOCUMENTS = 1000
MANY = 2000
PAGE = 100
MAX_MIB = 100


def named(counts: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def test_a_thousand_documents_cost_what_has_changed(server: DifyServer, tmp_path: Path) -> None:
    write(tmp_path, {f"{number % 7}/{number}.md": f"document {number}" for number in range(DOCUMENTS)})
    sync = Sync(server, str(tmp_path), timeout=600)
    assert named(sync.run()["counts"]) == {"created": DOCUMENTS}
    assert mirrors(server, tmp_path)

    record = RecordStore(server)
    assert named(sync.run()["counts"]) == {"unchanged": DOCUMENTS}
    assert record.counts().keys() == {"list"}
    assert record.counts()["list"] <= DOCUMENTS // PAGE

    paths = sorted(path for path in tmp_path.rglob("*.md"))
    for path in paths[:10]:
        path.write_text(f"{path.name} is changed")
    for path in paths[10:15]:
        path.unlink()
    for path in paths[15:18]:
        path.rename(path.with_name(f"moved-{path.name}"))
    record = RecordStore(server)
    changed = named(sync.run()["counts"])
    assert changed == {"updated": 10, "deleted": 5, "renamed": 3, "unchanged": DOCUMENTS - 18}
    assert mirrors(server, tmp_path)
    # Dify has no rename that keeps the content's mark: what has moved is uploaded under its new name.
    assert {kind: count for kind, count in record.writes().items() if kind != "tag"} == {"upload": 13, "delete": 8}


def grown(server: DifyServer, small: Path, large: Path) -> dict[str, Any]:
    """Return what a sync in a process of its own says of its memory and its documents."""
    write(small, {"one.md": "one"})
    command = [sys.executable, "-m", "tests.knowledge.memory_of_a_sync", str(small), str(large)]
    arguments = [server.datasets[DATASET], os.environ["AIRFLOW_CONN_DIFY_KNOWLEDGE"]]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_file_of_a_gibibyte_is_refused_in_little_memory(server: DifyServer, tmp_path: Path) -> None:
    write(tmp_path / "large", {"small.md": "small"})
    with (tmp_path / "large" / "huge.md").open("wb") as file:
        file.truncate(1024**3)
    found = grown(server, tmp_path / "small", tmp_path / "large")
    assert named(found["counts"]) == {"created": 1, "failed": 1}
    assert found["grown"] < MAX_MIB


def test_a_large_file_is_uploaded_in_little_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with DifyServer(upload_limit=400) as server:
        connect(monkeypatch, server)
        (tmp_path / "large").mkdir()
        with (tmp_path / "large" / "large.md").open("wb") as file:
            file.truncate(300 * 1024**2)
        found = grown(server, tmp_path / "small", tmp_path / "large")
    assert named(found["counts"]) == {"created": 1}
    assert found["grown"] < MAX_MIB


def test_memory_does_not_grow_with_the_number_of_documents(server: DifyServer, tmp_path: Path) -> None:
    """Ten thousand stay below the limit as well, and take minutes."""
    write(tmp_path / "large", {f"{number}.md": f"document {number}" for number in range(MANY)})
    found = grown(server, tmp_path / "small", tmp_path / "large")
    assert named(found["counts"]) == {"created": MANY}
    assert found["grown"] < MAX_MIB * MANY / 10_000
