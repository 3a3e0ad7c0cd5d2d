"""Syncs whose answers are lost, and that are killed: no document twice, none missing, nothing of others touched."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_dify.exceptions import DifyServerError
from airflow_provider_dify.hooks.knowledge import DifyKnowledgeHook
from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.server import DifyServer
from tests.knowledge.support import DATASET, RecordStore, Sync, mirrors, write

FOREIGN = "by hand.md"


def names(server: DifyServer) -> list[str]:
    return [each.name for each in server.documents(DATASET)]


def agrees(server: DifyServer, folder: Path) -> None:
    """Check that the knowledge base is the folder, and what others put there."""
    assert mirrors(server, folder)
    own = [each for each in server.documents(DATASET) if each.metadata.get("airflow_sync")]
    assert len(names(server)) == len(own) + 1
    (foreign,) = [each for each in server.documents(DATASET) if each.name == FOREIGN]
    assert foreign.uploads == 1


@pytest.fixture
def folder(server: DifyServer, tmp_path: Path) -> Path:
    hook = DifyKnowledgeHook()
    hook.create_document_by_text(server.datasets[DATASET], FOREIGN, "mine", indexing_technique="economy")
    write(tmp_path / "in", {f"{n % 3}/{n}.md": f"content {n}" for n in range(40)})
    return tmp_path / "in"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch, naps: Any) -> None:
    monkeypatch.setattr("airflow_provider_dify.rules.knowledge_uploads.FIRST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr("airflow_provider_dify.rules.knowledge_uploads.LONGEST_PAUSE_SECONDS", 0.1)


def change(folder: Path) -> None:
    """Change, remove and move some files."""
    write(folder, {"0/0.md": "changed", "1/1.md": "changed", "new.md": "new"})
    (folder / "2" / "2.md").unlink()
    (folder / "0" / "3.md").rename(folder / "moved.md")


LOST = [
    pytest.param(on, kind, id=f"{on} {kind}")
    for on in ("document_upload", "document_metadata", "document_delete", "document_list")
    for kind in ("accept_then_reset", "accept_then_status", "reset_before")
]


@pytest.mark.parametrize(("on", "kind"), LOST)
def test_lost_answers_make_no_doubles(server: DifyServer, folder: Path, on: str, kind: str) -> None:
    sync = Sync(server, str(folder))
    for turn in range(2):
        status = 502 if kind.endswith("status") else None
        for after in (0, 2, 5):
            server.inject(Fault(on=on, kind=kind, status=status, after=after, times=1))
        sync.run()
        agrees(server, folder)
        server.clear_faults()
        record = RecordStore(server)
        sync.run()
        assert record.writes() == {}
        if turn == 0:
            change(folder)


def test_a_changed_document_is_sent_again_and_a_new_one_looked_for(server: DifyServer, folder: Path) -> None:
    sync = Sync(server, str(folder), max_active_uploads=1)
    sync.run()
    write(folder, {"0/0.md": "changed"})
    server.inject(Fault(on="document_upload", kind="accept_then_reset"))
    record = RecordStore(server)
    sync.run()
    assert record.writes() == {"upload": 2, "tag": 1}
    write(folder, {"new.md": "new"})
    server.inject(Fault(on="document_upload", kind="accept_then_reset"))
    record = RecordStore(server)
    sync.run()
    assert record.writes() == {"upload": 1, "tag": 1}
    agrees(server, folder)


def test_a_rate_limit_and_an_outage_are_waited_for(server: DifyServer, folder: Path) -> None:
    server.inject(Fault(on="document_upload", kind="too_many_requests", status=429, times=3))
    server.inject(Fault(on="document_upload", kind="status", status=503, times=4, after=3))
    assert Sync(server, str(folder)).run()["counts"]["created"] == 40
    agrees(server, folder)


def test_an_outage_beyond_the_deadline_fails_and_the_next_try_goes_on(server: DifyServer, folder: Path) -> None:
    sync = Sync(server, str(folder), timeout=4)
    server.inject(Fault(on="document_upload", kind="status", status=503, times=None, after=10))
    with pytest.raises(DifyServerError, match="503"):
        sync.run()
    server.clear_faults()
    before = len(names(server)) - 1
    assert 0 < before < 40
    counts = sync.run(timeout=60)["counts"]
    assert counts["unchanged"] + counts["created"] == 40
    agrees(server, folder)


def test_a_document_that_is_there_twice_is_deleted_once(server: DifyServer, folder: Path) -> None:
    """As where two uploads of a new document arrive together."""
    sync = Sync(server, str(folder))
    sync.run()
    hook, dataset = DifyKnowledgeHook(), server.datasets[DATASET]
    first = next(each for each in server.documents(DATASET) if each.name.startswith("0 - 0"))
    hook.change_document_status(dataset, "disable", [first.id])
    hook.create_document_by_text(dataset, first.name, "content 0", indexing_technique="economy")
    hook.change_document_status(dataset, "enable", [first.id])
    assert names(server).count(first.name) == 2
    record = RecordStore(server)
    sync.run()
    assert record.writes() == {"delete": 1}
    agrees(server, folder)


def test_metadata_that_dify_did_not_set_though_it_answered_so_is_set_again(
    server: DifyServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = '{"result": "success"}'
    server.inject(Fault(on="document_metadata", kind="body", status=200, body=body, content_type="application/json"))
    sync = Sync(server, str(folder))
    sync.run()
    agrees(server, folder)
    record = RecordStore(server)
    sync.run()
    assert record.writes() == {}


# --- Killed


def _child(sync: Sync) -> None:
    with suppress(Exception):
        sync.run()
    os._exit(0)


def run_and_kill(server: DifyServer, sync: Sync, requests: int) -> bool:
    """Run a try in a process, and kill that after so many requests; tell whether it was killed."""
    before = len(server.requests)
    process = multiprocessing.get_context("fork").Process(target=_child, args=(sync,))
    process.start()
    end = time.monotonic() + 120
    while process.is_alive() and time.monotonic() < end:
        if len(server.requests) - before >= requests and process.pid is not None:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            return True
        time.sleep(0.001)
    process.join()
    return False


def shuffle(folder: Path, jitter: random.Random, turn: int) -> None:
    """Change ten files, remove two, move two, and add two."""
    files = sorted(path for path in folder.rglob("*.md"))
    jitter.shuffle(files)
    for path in files[:10]:
        path.write_text(f"changed in turn {turn}")
    for path in files[10:12]:
        path.unlink()
    for path in files[12:14]:
        path.rename(folder / f"moved {turn} {path.name}")
    write(folder, {f"new {turn} {n}.md": f"new {turn} {n}" for n in range(2)})


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_any_request(server: DifyServer, folder: Path, seed: int) -> None:
    """Worker and triggerer, which are one process here: while uploading, tagging, deleting and waiting."""
    jitter = random.Random(seed)
    sync = Sync(server, str(folder), deferrable=True, poll_interval=0.02, max_poll_interval=0.05, max_deletions=1.0)
    killed = 0
    for turn in range(8):
        server.inject(Fault(on="document_upload", kind="slow_indexing", seconds=0.2, times=3))
        killed += run_and_kill(server, sync, jitter.randint(2, 20))
        server.clear_faults()
        assert FOREIGN in names(server)
        shuffle(folder, jitter, turn)
    assert killed > 3
    sync.run()
    agrees(server, folder)
    record = RecordStore(server)
    sync.run()
    assert record.writes() == {}
