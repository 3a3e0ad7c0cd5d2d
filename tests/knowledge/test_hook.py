"""The hook for knowledge bases: what it shares with the hook for apps, and what is its own."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_dify.api import knowledge_operations as operations
from airflow_provider_dify.exceptions import (
    DifyConfigurationError,
    DifyInvalidInputError,
    DifyNotFoundError,
    DifyPermissionError,
    DifyResponseError,
    DifyServerError,
    DifyTransportError,
)
from airflow_provider_dify.hooks.dify import DifyHook
from airflow_provider_dify.hooks.knowledge import DifyKnowledgeHook
from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.server import DifyServer
from tests.knowledge.support import DATASET, RecordStore, connect


@pytest.fixture
def hook(server: DifyServer) -> DifyKnowledgeHook:
    return DifyKnowledgeHook()


@pytest.fixture
def dataset(server: DifyServer) -> str:
    return server.datasets[DATASET]


def test_documents_from_upload_to_deletion(hook: DifyKnowledgeHook, dataset: str, tmp_path: Path) -> None:
    (tmp_path / "note.md").write_text("Pears are green.")
    by_file = hook.create_document_by_file(dataset, tmp_path / "note.md", indexing_technique="economy")
    by_text = hook.create_document_by_text(dataset, "fruit", "Apples.", indexing_technique="economy")
    stream = io.BytesIO(b"Plums.")
    by_stream = hook.create_document_by_file(dataset, stream, name="plum.txt", indexing_technique="economy")
    names = [document.name for document in hook.list_documents(dataset)]
    assert names == ["plum.txt", "fruit", "note.md"]
    assert [document.id for document in hook.list_documents(dataset, keyword="FRU")] == [by_text.document.id]
    (status,) = hook.get_indexing_status(dataset, by_file.batch)
    assert status.document_id == by_file.document.id
    hook.change_document_status(dataset, "archive", [by_stream.document.id])
    assert hook.get_document(dataset, by_stream.document.id).archived
    with pytest.raises(DifyPermissionError, match="archive"):
        hook.delete_document(dataset, by_stream.document.id)
    hook.delete_document(dataset, by_text.document.id)
    with pytest.raises(DifyNotFoundError):
        hook.delete_document(dataset, by_text.document.id)


def test_metadata(hook: DifyKnowledgeHook, dataset: str) -> None:
    document = hook.create_document_by_text(dataset, "a", "x", indexing_technique="economy").document
    team, level = hook.create_metadata_field(dataset, "team"), hook.create_metadata_field(dataset, "level", "number")
    with pytest.raises(DifyInvalidInputError, match="already exists"):
        hook.create_metadata_field(dataset, "team")
    assert hook.list_metadata_fields(dataset) == (team, level)
    hook.set_document_metadata(dataset, {document.id: [(team, "docs"), (level, 3)]})
    assert hook.get_document(dataset, document.id).metadata == {"team": "docs", "level": 3}
    hook.set_document_metadata(dataset, {document.id: [(team, "other")]})
    assert hook.get_document(dataset, document.id).metadata == {"team": "other"}


def test_knowledge_bases(hook: DifyKnowledgeHook, server: DifyServer) -> None:
    for number in range(105):
        hook.create_dataset(f"kb {number}", indexing_technique="economy")
    assert len(list(hook.list_datasets("kb"))) == 105
    assert hook.find_dataset("kb 10").id == server.datasets["kb 10"]  # type: ignore[union-attr]
    assert hook.find_dataset("kb") is None
    with pytest.raises(DifyResponseError, match="already exists") as caught:
        hook.create_dataset("kb 1")
    assert caught.value.code == "dataset_name_duplicate"


def test_the_event_loop_has_the_same_operations(hook: DifyKnowledgeHook, dataset: str) -> None:
    async def upload() -> Any:
        try:
            made = operations.create_document_by_text(dataset, "a", "x", indexing_technique="economy")
            return await hook.acall(made)
        finally:
            await hook.aclose()

    assert asyncio.run(upload()).document.name == "a"


def test_an_upload_is_not_repeated_by_itself(hook: DifyKnowledgeHook, server: DifyServer, dataset: str) -> None:
    server.inject(Fault(on="document_upload", kind="accept_then_reset"))
    record = RecordStore(server)
    with pytest.raises(DifyTransportError):
        hook.create_document_by_text(dataset, "a", "x", indexing_technique="economy")
    assert record.counts() == {"upload": 1}


def test_reads_are_repeated(hook: DifyKnowledgeHook, server: DifyServer, dataset: str, naps: Any) -> None:
    server.inject(Fault(on="document_list", kind="status", status=503, times=2))
    assert list(hook.list_documents(dataset)) == []
    server.inject(Fault(on="document_list", kind="status", status=503, times=None))
    with pytest.raises(DifyServerError):
        list(hook.list_documents(dataset))


def test_the_key_stands_in_no_error(hook: DifyKnowledgeHook, server: DifyServer, dataset: str) -> None:
    echo = f'{{"code": "invalid_param", "message": "key {server.dataset_key}", "status": 400}}'
    server.inject(Fault(on="document_list", kind="body", status=400, body=echo, content_type="application/json"))
    with pytest.raises(DifyInvalidInputError, match=r"key \*\*\*") as caught:
        list(hook.list_documents(dataset))
    assert server.dataset_key not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "x" * 201}, "at most 200 characters"),
        ({"name": "a/b"}, "no / and no"),
        ({"name": ""}, "name must be"),
        ({"text": 5}, "text must be"),
        ({"indexing_technique": None}, "indexing_technique must be one of"),
        ({"process_rule": {"a": {1}}}, "process_rule cannot be written"),
    ],
)
def test_mistakes_are_reported_before_anything_is_sent(
    hook: DifyKnowledgeHook, server: DifyServer, dataset: str, arguments: dict[str, Any], message: str
) -> None:
    record = RecordStore(server)
    with pytest.raises(DifyInvalidInputError, match=message):
        hook.create_document_by_text(
            dataset, **{"name": "a", "text": "x", "indexing_technique": "economy", **arguments}
        )
    assert record.counts() == {}


# --- The Test button


def pressed(monkeypatch: pytest.MonkeyPatch, server: DifyServer, key: str) -> list[tuple[bool, str]]:
    """Press it with each hook over a connection with that key."""
    connect(monkeypatch, server, key=key)
    return [DifyHook("dify_knowledge").test_connection(), DifyKnowledgeHook().test_connection()]


def test_a_key_of_the_knowledge_api_is_distinguished_from_that_of_an_app(
    server: DifyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_app_hook, by_knowledge_hook = pressed(monkeypatch, server, server.dataset_key)
    assert by_app_hook == by_knowledge_hook
    assert by_app_hook[0]
    assert by_app_hook[1].startswith(
        "Connected to the 1 knowledge base of a workspace. The key is one of the knowledge"
    )
    assert "runs no workflow" in by_app_hook[1]
    by_app_hook, by_knowledge_hook = pressed(monkeypatch, server, server.api_key("echo"))
    assert by_app_hook[0]
    assert "workflow app" in by_app_hook[1]
    assert not by_knowledge_hook[0]
    assert "key of an app (app-…), which opens no knowledge base" in by_knowledge_hook[1]


def test_a_key_that_is_refused(server: DifyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for ok, message in pressed(monkeypatch, server, "dataset-wrong"):
        assert not ok
        assert message.startswith("The API key is refused.")
        assert "dataset-…" in message


@pytest.mark.dify_server(plugin_daemon=False)
def test_a_server_without_plugin_daemon(server: DifyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for ok, message in pressed(monkeypatch, server, server.dataset_key):
        assert ok
        assert "name them by dataset_id" in message


def test_an_app_hook_runs_nothing_with_a_key_of_the_knowledge_api(
    server: DifyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(monkeypatch, server)
    with pytest.raises(DifyConfigurationError, match="key of a knowledge base"):
        DifyHook("dify_knowledge").get_info()
