"""What a sync of a knowledge base does: new, changed, unchanged, gone, moved; and what it leaves alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_dify.exceptions import (
    DifyAuthenticationError,
    DifyConfigurationError,
    DifyEmptySourceError,
    DifyFileError,
    DifyIndexingError,
    DifyIndexingTimeoutError,
    DifyInvalidInputError,
    DifyNotFoundError,
    DifyTooManyDeletionsError,
    DifyTriggerEventError,
)
from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.server import DifyServer
from tests.knowledge.support import DATASET, RecordStore, Sync, connect, mirrors, write
from tests.operators.storing import attached

waiting = pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "deferred"])


@waiting
def test_a_folder_is_mirrored(server: DifyServer, tmp_path: Path, deferrable: bool) -> None:
    write(tmp_path, {"a.md": "one", "sub/b.txt": "two", ".hidden/c.md": "x", ".DS_Store": "x"})
    (tmp_path / ".DS_Store").unlink()
    (tmp_path / ".hidden" / "c.md").unlink()
    server.inject(Fault(on="document_upload", kind="slow_indexing", seconds=0.5))
    sync = Sync(server, str(tmp_path), deferrable=deferrable)
    manifest = sync.run()
    assert mirrors(server, tmp_path)
    assert manifest["counts"] == {
        "created": 2, "updated": 0, "renamed": 0, "unchanged": 0, "deleted": 0, "kept": 0, "skipped": 0, "failed": 0,
    }  # fmt: skip
    assert sorted(row["name"].partition(" [")[0] for row in manifest["documents"]["created"]) == ["a", "sub - b"]
    assert all(each.state == "completed" for each in server.documents(DATASET))
    assert bool(sync.deferrals) is deferrable


def test_hidden_files_are_no_documents(server: DifyServer, tmp_path: Path) -> None:
    write(tmp_path, {"a.md": "one", ".git/b.md": "x", ".c.md": "x"})
    assert Sync(server, str(tmp_path)).run()["counts"]["created"] == 1


def test_a_second_sync_writes_nothing(server: DifyServer, tmp_path: Path) -> None:
    write(tmp_path, {f"{n}.md": str(n) for n in range(5)})
    sync = Sync(server, str(tmp_path))
    sync.run()
    record = RecordStore(server)
    assert sync.run()["counts"]["unchanged"] == 5
    assert record.counts() == {"list": 1}


@waiting
def test_changes_are_followed(server: DifyServer, tmp_path: Path, deferrable: bool) -> None:
    write(tmp_path, {f"{n}.md": str(n) for n in range(10)})
    sync = Sync(server, str(tmp_path), deferrable=deferrable)
    sync.run()
    write(tmp_path, {"1.md": "changed", "new.md": "new"})
    (tmp_path / "2.md").unlink()
    (tmp_path / "3.md").rename(tmp_path / "moved.md")
    record = RecordStore(server)
    counts = sync.run()["counts"]
    assert {name: count for name, count in counts.items() if count} == {
        "created": 1, "updated": 1, "renamed": 1, "unchanged": 7, "deleted": 1,
    }  # fmt: skip
    assert mirrors(server, tmp_path)
    assert record.writes() == {"upload": 3, "delete": 2, "tag": 1}


def test_rows_of_an_upstream_task(server: DifyServer, tmp_path: Path) -> None:
    write(tmp_path, {"file.md": "of a file"})
    rows: list[Any] = [
        {"key": "faq/1", "name": "What is it?", "text": "An answer.", "metadata": {"level": 3}},
        {"key": "faq/2", "text": "Another."},
        {"file": str(tmp_path / "file.md"), "metadata": {"team": "other"}},
    ]
    sync = Sync(server, rows, metadata={"team": "docs"})
    sync.run()
    found = {each.metadata["airflow_source"]: each for each in server.documents(DATASET)}
    assert found["faq/1"].name.startswith("What is it [")
    assert (found["faq/1"].metadata["team"], found["faq/1"].metadata["level"]) == ("docs", 3)
    assert found[f"file://{tmp_path}/file.md"].metadata["team"] == "other"
    record = RecordStore(server)
    assert sync.run(source=[*rows[:2]], max_deletions=1)["counts"]["deleted"] == 1
    assert record.writes() == {"delete": 1}


def test_a_knowledge_base_is_found_by_name_and_created_if_asked_for(server: DifyServer, tmp_path: Path) -> None:
    write(tmp_path, {"a.md": "one"})
    with pytest.raises(DifyInvalidInputError, match=r"no knowledge base named 'new'.*create_dataset"):
        Sync(server, str(tmp_path), dataset_name="new").run()
    assert Sync(server, str(tmp_path), dataset_name="new", create_dataset=True, report_only=True).run()["dry_run"]
    assert "new" not in server.datasets
    manifest = Sync(server, str(tmp_path), dataset_name="new", create_dataset=True).run()
    assert manifest["dataset_id"] == server.datasets["new"]
    Sync(server, str(tmp_path), dataset_name="new", create_dataset=True).run()
    assert len(server.documents("new")) == 1


def test_a_dry_run_only_reports(server: DifyServer, tmp_path: Path) -> None:
    write(tmp_path, {"a.md": "one", "b.md": "two"})
    sync = Sync(server, str(tmp_path))
    sync.run()
    write(tmp_path, {"a.md": "changed", "c.md": "new"})
    (tmp_path / "b.md").unlink()
    record = RecordStore(server)
    manifest = sync.run(report_only=True)
    assert record.writes() == {}
    counts = {name: count for name, count in manifest["counts"].items() if count}
    assert (manifest["dry_run"], counts) == (True, {"created": 1, "updated": 1, "deleted": 1})


# --- What is left alone


def test_documents_of_others_stay(server: DifyServer, tmp_path: Path) -> None:
    write(tmp_path, {"a.md": "one", "b.md": "two"})
    url = f"{server.api_url}/datasets/{server.datasets[DATASET]}/document/create-by-text"
    headers = {"Authorization": f"Bearer {server.dataset_key}"}
    body = {"name": "a.md", "text": "by hand", "indexing_technique": "economy"}
    requests.post(url, json=body, headers=headers, timeout=10)
    other = Sync(server, [{"key": "x", "text": "other"}], sync_id="other")
    other.run()
    sync = Sync(server, str(tmp_path))
    sync.run()
    (tmp_path / "a.md").unlink()
    sync.run()
    assert sorted(each.name.partition(" [")[0] for each in server.documents(DATASET)) == ["a.md", "b", "x"]
    assert [each.uploads for each in server.documents(DATASET)] == [1, 1, 1]


@pytest.mark.parametrize("make", ["empty", "missing"])
def test_a_source_without_anything_deletes_nothing(server: DifyServer, tmp_path: Path, make: str) -> None:
    write(tmp_path / "in", {"a.md": "one"})
    sync = Sync(server, str(tmp_path / "in"))
    sync.run()
    (tmp_path / "in" / "a.md").unlink()
    if make == "missing":
        (tmp_path / "in").rmdir()
    record = RecordStore(server)
    with pytest.raises((DifyEmptySourceError, DifyInvalidInputError), match=r"nothing deleted|no folder"):
        sync.run()
    assert record.counts() == {}
    assert len(server.documents(DATASET)) == 1


def test_a_folder_that_cannot_be_listed_to_its_end_deletes_nothing(
    server: DifyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, folder = attached()
    store.pipe({"/bucket/kb/a.md": b"one", "/bucket/kb/sub/b.md": b"two"})
    sync = Sync(server, f"{folder}/kb")
    assert sync.run()["counts"]["created"] == 2
    sources = sorted(each.metadata["airflow_source"] for each in server.documents(DATASET))
    assert sources == ["memory:///bucket/kb/a.md", "memory:///bucket/kb/sub/b.md"]
    listed = store.ls

    def ls(path: str, detail: bool = True, **options: Any) -> Any:
        if path.endswith("sub"):
            raise OSError("connection lost")
        return listed(path, detail=detail, **options)

    monkeypatch.setattr(store, "ls", ls)
    record = RecordStore(server)
    with pytest.raises(DifyFileError, match=r"could not be listed to its end.*connection lost"):
        sync.run()
    assert record.counts() == {}


def test_too_many_deletions_fail_before_the_first_write(server: DifyServer, tmp_path: Path) -> None:
    write(tmp_path, {f"{n}.md": str(n) for n in range(30)})
    sync = Sync(server, str(tmp_path))
    sync.run()
    for n in range(4):
        (tmp_path / f"{n}.md").unlink()
    write(tmp_path, {"new.md": "new"})
    record = RecordStore(server)
    with pytest.raises(DifyTooManyDeletionsError, match=r"4 of 30 documents.*allows 3"):
        sync.run()
    assert record.writes() == {}
    assert sync.run(max_deletions=4)["counts"]["deleted"] == 4


def test_a_disabled_document_is_skipped_with_a_line(server: DifyServer, tmp_path: Path) -> None:
    write(tmp_path, {"a.md": "one", "b.md": "two"})
    sync = Sync(server, str(tmp_path))
    sync.run()
    document = next(each for each in server.documents(DATASET) if each.name.startswith("a ["))
    sync.operator().hook.change_document_status(server.datasets[DATASET], "disable", [document.id])
    write(tmp_path, {"a.md": "changed", "b.md": "changed"})
    manifest = sync.run()
    assert (manifest["counts"]["skipped"], manifest["counts"]["updated"]) == (1, 1)
    assert "disabled in Dify" in manifest["documents"]["skipped"][0]["reason"]
    assert len(server.documents(DATASET)) == 2


# --- Documents that fail


@waiting
def test_each_document_that_fails_has_a_line(server: DifyServer, tmp_path: Path, deferrable: bool) -> None:
    """Too large, unsupported, broken, a name of 300 characters, the same names in several folders."""
    big = 15 * 1024 * 1024
    write(tmp_path, {"ok.md": "fine", "a.exe": "x", "broken.pdf": "no pdf", "x/same.md": "1", "y/same.md": "2"})
    for name, size in (("exact.txt", big), ("big.txt", big + 1)):
        with open(tmp_path / name, "wb") as file:
            file.truncate(size)
    write(tmp_path, {f"{'d' * 150}/{'n' * 150}.md": "long"})
    sync = Sync(server, str(tmp_path), deferrable=deferrable)
    with pytest.raises(DifyIndexingError, match="3 documents are not in the knowledge base") as caught:
        sync.run()
    manifest = sync.ti.xcoms["dify_sync_manifest"]
    failed = {Path(row["source"]).name: row["reason"] for row in manifest["documents"]["failed"]}
    assert "larger than max_file_bytes (15,728,640 bytes)" in failed["big.txt"]
    assert "files of the type .exe" in failed["a.exe"]
    assert "Failed to load document (PDFium" in failed["broken.pdf"]
    assert manifest["counts"]["created"] == 5
    done = [each for each in server.documents(DATASET) if each.state == "completed"]
    assert sorted(each.name.partition(" [")[0][:20] for each in done) == [
        "d" * 20, "exact", "ok", "x - same", "y - same",
    ]  # fmt: skip
    assert max(len(each.name) for each in done) == 200
    assert all(text in str(caught.value) for text in ("a.exe", "retry"))
    record = RecordStore(server)
    assert sync.run(fail_on_document_error=False)["counts"]["failed"] == 3
    # Once more the one that was refused, and the one that could not be indexed.
    assert record.writes() == {"upload": 2, "tag": 1}


def test_what_the_server_finds_too_large_is_sent_once(server: DifyServer, tmp_path: Path) -> None:
    for number in range(5):
        with open(tmp_path / f"{number}.txt", "wb") as file:
            file.truncate(15 * 1024 * 1024 + 1 + number)
    write(tmp_path, {"ok.md": "x"})
    record = RecordStore(server)
    sync = Sync(server, str(tmp_path), max_file_bytes=None, max_active_uploads=1, fail_on_document_error=False)
    assert sync.run()["counts"]["failed"] == 5
    assert record.counts()["upload"] == 2


def test_a_parse_error_of_dify_fails_that_document_alone(server: DifyServer, tmp_path: Path) -> None:
    write(tmp_path, {"a.md": "one", "b.md": "two"})
    server.inject(Fault(on="document_upload", kind="parse_error", message="malware found"))
    sync = Sync(server, str(tmp_path))
    with pytest.raises(DifyIndexingError, match=r"1 documents.*malware found"):
        sync.run()
    assert sync.run()["counts"] == {**dict.fromkeys(sync.ti.xcoms["dify_sync_manifest"]["counts"], 0), "updated": 1,
                                    "unchanged": 1}  # fmt: skip


def test_a_moved_document_stays_until_its_successor_is_indexed(server: DifyServer, tmp_path: Path) -> None:
    write(tmp_path, {"a.md": "one", "b.md": "two"})
    sync = Sync(server, str(tmp_path))
    sync.run()
    (tmp_path / "a.md").rename(tmp_path / "c.md")
    server.inject(Fault(on="document_upload", kind="parse_error"))
    with pytest.raises(DifyIndexingError):
        sync.run()
    assert len([each for each in server.documents(DATASET) if each.state == "completed"]) == 2
    sync.run()
    assert mirrors(server, tmp_path)


# --- Waiting


@waiting
def test_a_queue_without_worker_is_named(server: DifyServer, tmp_path: Path, deferrable: bool) -> None:
    write(tmp_path, {"a.md": "one"})
    server.stop_indexing()
    sync = Sync(server, str(tmp_path), deferrable=deferrable, timeout=0.6)
    with pytest.raises(DifyIndexingTimeoutError, match=r"1 documents were not indexed.*priority_dataset"):
        sync.run()
    server.start_indexing()
    record = RecordStore(server)
    assert sync.run(timeout=30)["counts"]["unchanged"] == 1
    assert record.writes() == {}


def test_many_triggers_of_one_knowledge_base_share_their_pages(server: DifyServer, tmp_path: Path) -> None:
    import asyncio

    from airflow_provider_dify.triggers.knowledge import DifyIndexingTrigger

    write(tmp_path, {"a.md": "one"})
    server.inject(Fault(on="document_upload", kind="slow_indexing", seconds=1.5))
    sync = Sync(server, str(tmp_path), deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        sync.operator().execute({"ti": sync.ti})
    arguments = deferred.value.trigger.serialize()[1]

    async def fire() -> None:
        async def one() -> None:
            trigger = DifyIndexingTrigger(**{**arguments, "poll_interval": 0.2, "max_poll_interval": 0.2})
            async for _ in trigger.run():
                return

        await asyncio.gather(*(one() for _ in range(50)))

    record = RecordStore(server)
    asyncio.run(fire())
    assert record.counts()["list"] < 12


def test_an_event_of_another_version_says_so(server: DifyServer, tmp_path: Path) -> None:
    with pytest.raises(DifyTriggerEventError, match="clear"):
        Sync(server, str(tmp_path)).operator().execute_complete({"ti": Sync(server, "").ti}, {"status": "x"})


# --- Mistakes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset_name": "x"}, "Either dataset_id or dataset_name"),
        ({"dataset_id": "abc"}, "dataset_id must be a UUID"),
        ({"indexing_technique": "cheap"}, "indexing_technique must be one of"),
        ({"pattern": []}, "pattern must be"),
        ({"metadata": {"airflow_sync": "x"}}, "kept by the sync itself"),
        ({"metadata": {"tags": ["a"]}}, "must be a text or a number"),
        ({"process_rule": "automatic"}, "process_rule must be a mapping"),
        ({"source": [{"text": "x"}]}, "no 'key'"),
        ({"source": [{"txt": "x"}]}, "unknown name 'txt'"),
        ({"source": [{"key": "a", "text": "x"}, {"key": "a", "text": "y"}]}, "'a' twice"),
        ({"source": 5}, "source must be a folder"),
        ({"source": {"a": 1}}, "source must be a folder"),
    ],
)
def test_a_mistake_is_reported_before_anything_is_written(
    server: DifyServer, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    write(tmp_path, {"a.md": "one"})
    sync = Sync(server, str(tmp_path))
    with pytest.raises(DifyInvalidInputError, match=message):
        sync.run(**changes)
    assert RecordStore(server).writes() == {}
    assert server.documents(DATASET) == []


def test_the_technique_of_the_knowledge_base_is_taken(server: DifyServer, tmp_path: Path) -> None:
    write(tmp_path, {"a.md": "one"})
    assert Sync(server, str(tmp_path), indexing_technique=None).run()["counts"]["created"] == 1


def test_other_settings_of_indexing_upload_again(server: DifyServer, tmp_path: Path) -> None:
    write(tmp_path, {"a.md": "one"})
    sync = Sync(server, str(tmp_path))
    sync.run()
    assert sync.run(process_rule={"mode": "automatic"})["counts"]["updated"] == 1
    assert sync.run()["counts"]["unchanged"] == 1


def test_other_metadata_is_set_without_an_upload(server: DifyServer, tmp_path: Path) -> None:
    write(tmp_path, {"a.md": "one"})
    sync = Sync(server, str(tmp_path))
    sync.run()
    record = RecordStore(server)
    sync.run(metadata={"team": "docs"})
    assert record.writes() == {"field": 1, "tag": 1}
    assert server.documents(DATASET)[0].metadata["team"] == "docs"


@pytest.mark.parametrize(
    ("key", "kind", "message"),
    [
        ("app-1", DifyConfigurationError, r"key of an app \(app-…\).*\n.*dataset-…"),
        ("dataset-wrong", DifyAuthenticationError, "knowledge API"),
    ],
)
def test_a_key_that_opens_nothing(
    server: DifyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, kind: Any, message: str
) -> None:
    write(tmp_path, {"a.md": "one"})
    connect(monkeypatch, server, key=key)
    with pytest.raises(kind, match=message):
        Sync(server, str(tmp_path)).run()


def test_a_knowledge_base_that_is_not_there(server: DifyServer, tmp_path: Path) -> None:
    write(tmp_path, {"a.md": "one"})
    with pytest.raises(DifyNotFoundError, match="dataset_id"):
        Sync(server, str(tmp_path)).run(dataset_id="00000000-0000-0000-0000-000000000000")


@pytest.mark.dify_server(plugin_daemon=False)
def test_a_server_without_plugin_daemon_takes_ids_and_no_names(server: DifyServer, tmp_path: Path) -> None:
    write(tmp_path, {"a.md": "one"})
    with pytest.raises(Exception, match=r"plugin daemon.*dataset_id"):
        Sync(server, str(tmp_path), dataset_name=DATASET).run()
    assert Sync(server, str(tmp_path)).run()["counts"]["created"] == 1


def test_the_link_leads_to_the_documents(server: DifyServer, tmp_path: Path) -> None:
    write(tmp_path, {"a.md": "one"})
    sync = Sync(server, str(tmp_path))
    sync.run()
    assert sync.ti.xcoms["dify_dataset_url"] == f"{server.base_url}/datasets/{server.datasets[DATASET]}/documents"
