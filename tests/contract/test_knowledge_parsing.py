"""Every recording of a real server's knowledge API, read by ``api`` with the outcome that is written down here."""

from __future__ import annotations

import json
import re
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_dify.api import knowledge_operations as operations
from airflow_provider_dify.api.errors import Answer
from airflow_provider_dify.api.knowledge import IndexingState, MetadataField
from airflow_provider_dify.api.operations import Call, Operation, Upload, read_json
from airflow_provider_dify.exceptions import DifyError, DifyInvalidInputError

RECORDINGS = Path(__file__).parent / "recordings" / "1.16.1-knowledge"
NAMES = sorted(path.stem for path in RECORDINGS.glob("*.json"))

# What is to come out of each recording:
#   dataset, document, field, fields     a value that has the recorded ids and names
#   uploaded S                           an upload: the document in state S, and its batch
#   page N                               a page of N documents
#   indexing S                           the indexing status of one document
#   accepted, deleted                    an answer that carries nothing
#   E STATUS CODE                        an HTTP answer, as the exception E
#   JSON                                 of a route for which there is no operation: read as it is
EXPECTED: dict[str, str] = {
    "dataset-app-key": "DifyAuthenticationError 401 unauthorized",
    "dataset-create": "dataset",
    "dataset-create-high-quality": "DifyProviderError 400 invalid_param",
    "dataset-create-name-41": "DifyInvalidInputError 400 invalid_param",
    "dataset-create-no-name": "DifyInvalidInputError 400 invalid_param",
    "dataset-create-no-technique": "dataset",
    "dataset-create-same-name": "DifyResponseError 409 dataset_name_duplicate",
    "dataset-get": "DifyProviderError 400 invalid_param",
    "dataset-get-bad-uuid": "DifyNotFoundError 404 None",
    "dataset-get-unknown": "DifyNotFoundError 404 not_found",
    "dataset-key-missing": "DifyAuthenticationError 401 unauthorized",
    "dataset-key-wrong": "DifyAuthenticationError 401 unauthorized",
    "dataset-list": "DifyProviderError 400 invalid_param",
    "dataset-tags": "JSON",
    "document-alias-indexing-status-completed": "indexing completed",
    "document-alias-indexing-status-indexing": "indexing completed",
    "document-broken-get": "document",
    "document-busy-create": "uploaded waiting",
    "document-create-bad-form": "DifyInvalidInputError 400 invalid_param",
    "document-create-by-file": "uploaded waiting",
    "document-create-by-file-empty": "uploaded waiting",
    "document-create-by-file-no-file": "DifyInvalidInputError 400 no_file_uploaded",
    "document-create-by-file-no-rule": "uploaded waiting",
    "document-create-by-file-pdf-broken": "uploaded waiting",
    "document-create-by-file-too-big": "DifyInvalidInputError 413 file_too_large",
    "document-create-by-file-unsupported": "DifyInvalidInputError 400 invalid_param",
    "document-create-by-text": "uploaded waiting",
    "document-create-no-rule": "uploaded waiting",
    "document-create-no-technique": "DifyInvalidInputError 400 invalid_param",
    "document-create-no-text": "DifyInvalidInputError 400 invalid_param",
    "document-create-other-technique": "uploaded waiting",
    "document-create-same-name": "uploaded waiting",
    "document-create-text-empty": "uploaded waiting",
    "document-create-underscore": "uploaded waiting",
    "document-create-unknown-dataset": "DifyNotFoundError 404 not_found",
    "document-delete": "deleted",
    "document-delete-again": "DifyNotFoundError 404 not_found",
    "document-delete-archived": "DifyPermissionError 403 archived_document_immutable",
    "document-delete-while-indexing": "deleted",
    "document-empty-indexing-status-completed": "indexing completed",
    "document-file-indexing-status-completed": "indexing completed",
    "document-file-indexing-status-indexing": "indexing completed",
    "document-get": "document",
    "document-get-archived": "document",
    "document-get-deleted": "DifyNotFoundError 404 not_found",
    "document-get-metadata-only": "document",
    "document-get-right-after-update": "document",
    "document-get-unknown": "DifyNotFoundError 404 not_found",
    "document-list": "page 6",
    "document-list-after-metadata": "page 1",
    "document-list-keyword": "page 1",
    "document-list-limit-200": "page 6",
    "document-list-status-available": "page 2",
    "document-list-status-error": "page 1",
    "document-list-status-unknown": "page 6",
    "document-same-name-indexing-status-completed": "indexing completed",
    "document-same-name-indexing-status-indexing": "indexing completed",
    "document-same-name-indexing-status-splitting": "indexing splitting",
    "document-segments": "JSON",
    "document-segments-after-update": "JSON",
    "document-status-archive": "accepted",
    "document-status-disable": "accepted",
    "document-status-disable-again": "accepted",
    "document-status-un_archive": "accepted",
    "document-status-unknown": "DifyInvalidInputError 400 invalid_action",
    "document-status-unknown-document": "accepted",
    "document-text-indexing-status-completed": "indexing completed",
    "document-text-indexing-status-indexing": "indexing indexing",
    "document-text-indexing-status-splitting": "indexing indexing",
    "document-text-indexing-status-waiting": "indexing waiting",
    "document-update-archived": "DifyInvalidInputError 400 invalid_param",
    "document-update-by-text": "uploaded waiting",
    "document-update-disabled": "DifyInvalidInputError 400 invalid_param",
    "document-update-indexing-status-completed": "indexing completed",
    "document-update-text-no-name": "DifyInvalidInputError 400 invalid_param",
    "document-update-unknown": "DifyNotFoundError 404 not_found",
    "indexing-status-unknown-batch": "DifyNotFoundError 404 not_found",
    "indexing-status-waiting-no-worker": "indexing waiting",
    "metadata-create": "field",
    "metadata-create-again": "DifyInvalidInputError 400 invalid_param",
    "metadata-list": "fields",
    "metadata-set": "accepted",
    "metadata-set-unknown-document": "DifyNotFoundError 404 not_found",
    "retrieve-keyword": "JSON",
    "retrieve-metadata-filter": "JSON",
    "retrieve-no-model": "DifyInvalidInputError 400 invalid_param",
    "segment-add": "JSON",
}
FIELD = MetadataField("ed0b70b5-9142-49dc-a081-9662f0c56fcb", "source_id")
NO_OPERATION = "Asking"
_RULE = {"mode": "automatic"}


@cache
def load(name: str) -> dict[str, Any]:
    recording: dict[str, Any] = json.loads((RECORDINGS / f"{name}.json").read_text(encoding="utf-8"))
    return recording


def answer_of(name: str) -> Answer:
    response = load(name)["response"]
    body = json.dumps(response["json"]).encode() if "json" in response else response["text"].encode()
    return Answer(response["status"], response["headers"], body)


def reported(name: str) -> Any:
    return load(name)["response"]["json"]


def operation_of(name: str) -> Operation[Any]:
    """Return the operation whose request was recorded, or one that reads JSON where there is none."""
    request = load(name)["request"]
    path, method = request["path"].removeprefix("/v1"), request["method"]
    made = _made(method, path, request)
    if made is None:
        call = Call(method, path, NO_OPERATION)
        return Operation(call, lambda answer: read_json(answer, call.what))
    assert (made.call.method, made.call.path) == (method, path.replace("create_by_text", "create-by-text"))
    return made


def _made(method: str, path: str, request: dict[str, Any]) -> Operation[Any] | None:
    parts, query, body = path.strip("/").split("/"), request["query"], request.get("json") or {}
    dataset = parts[1] if len(parts) > 1 else ""
    if path == "/datasets":
        if method == "GET":
            return operations.list_datasets(keyword=query.get("keyword"))
        name = body.get("name", "x")[:40]
        return operations.create_dataset(name, indexing_technique=body.get("indexing_technique"))
    if parts[-1] == "indexing-status":
        return operations.indexing_status(dataset, parts[3])
    if parts[-1] == "metadata" and parts[-2] == "documents":
        document = body["operation_data"][0]["document_id"]
        return operations.set_metadata(dataset, {document: [(FIELD, "s-1")]})
    if parts[-1] == "metadata":
        return (
            operations.list_metadata(dataset) if method == "GET" else operations.create_metadata(dataset, "source_id")
        )
    if parts[-1] in ("create-by-text", "create_by_text"):
        return operations.create_document_by_text(
            dataset, body["name"], body.get("text", ""), indexing_technique="economy", process_rule=_RULE
        )
    if parts[-1] == "create-by-file":
        upload = Upload(BytesIO(b"x"), "x.txt", "text/plain")
        return operations.create_document_by_file(dataset, upload, indexing_technique="economy", process_rule=_RULE)
    if parts[-1] == "update-by-text":
        return operations.update_document_by_text(dataset, parts[3], body.get("name", "x"), body["text"])
    if method == "PATCH":
        action = parts[-1]
        return None if action == "nope" else operations.change_status(dataset, action, body["document_ids"])
    if method == "DELETE":
        return operations.delete_document(dataset, parts[3])
    if parts[-1] == "documents":
        status = query.get("status")
        return operations.list_documents(dataset, status=None if status == "nope" else status)
    if len(parts) == 4 and parts[2] == "documents":
        return operations.get_document(dataset, parts[3], metadata=query.get("metadata"))
    if len(parts) == 2 and dataset not in ("tags", "abc"):
        return operations.get_dataset(dataset)
    return None


def of_kind(*kinds: str) -> list[str]:
    return [name for name in NAMES if EXPECTED.get(name, "").startswith(kinds)]


def test_every_recording_has_an_expected_outcome_and_none_is_stale() -> None:
    assert len(NAMES) == 87
    assert sorted(EXPECTED) == NAMES


def test_every_kind_of_outcome_is_tested() -> None:
    kinds = ("dataset", "document", "uploaded", "page", "indexing", "field", "accepted", "deleted", "Dify", "JSON")
    assert of_kind(*kinds) == NAMES


@pytest.mark.parametrize("name", of_kind("Dify"))
def test_errors(name: str) -> None:
    kind, status, code = EXPECTED[name].split()
    with pytest.raises(DifyError) as caught:
        operation_of(name).read(answer_of(name))
    error = caught.value
    assert (type(error).__name__, error.status_code, error.code) == (
        kind,
        int(status),
        None if code == "None" else code,
    )
    text = "404 Not Found" if error.code is None else re.sub(r"\s+", " ", reported(name)["message"] or "no message")
    assert text[:100].rstrip(". ") in str(error)
    if operation_of(name).call.what != NO_OPERATION:
        # No advice about apps and workflows: this is about knowledge bases.
        assert not re.search("workflow|app's|start node", str(error))


@pytest.mark.parametrize("name", of_kind("dataset"))
def test_datasets(name: str) -> None:
    dataset, row = operation_of(name).read(answer_of(name)), reported(name)
    assert (dataset.id, dataset.name, dataset.indexing_technique) == (row["id"], row["name"], row["indexing_technique"])
    assert dataset.document_count == row["document_count"] == 0


def _agrees(document: Any, row: dict[str, Any]) -> None:
    assert document.id == row["id"]
    own = [each for each in row.get("doc_metadata") or [] if each["id"] != "built-in"]
    assert document.metadata == {each["name"]: each["value"] for each in own}
    assert document.metadata_ids == {each["name"]: each["id"] for each in own}
    if "name" not in row:
        return
    assert (document.name, str(document.state)) == (row["name"], row["indexing_status"])
    assert (document.enabled, document.archived, document.error) == (row["enabled"], row["archived"], row["error"])
    assert document.created_at == row["created_at"]
    stored = (row.get("data_source_detail_dict") or row["data_source_info"])["upload_file"]
    assert (document.size, document.file_id) == (stored["size"], stored["id"])


@pytest.mark.parametrize("name", of_kind("document"))
def test_documents(name: str) -> None:
    _agrees(operation_of(name).read(answer_of(name)), reported(name))


@pytest.mark.parametrize("name", of_kind("uploaded"))
def test_uploads(name: str) -> None:
    uploaded = operation_of(name).read(answer_of(name))
    assert uploaded.batch == reported(name)["batch"]
    assert str(uploaded.document.state) == EXPECTED[name].split()[1]
    _agrees(uploaded.document, reported(name)["document"])


@pytest.mark.parametrize("name", of_kind("page"))
def test_pages_of_documents(name: str) -> None:
    page, row = operation_of(name).read(answer_of(name)), reported(name)
    assert len(page.documents) == len(row["data"]) == int(EXPECTED[name].split()[1])
    for document, each in zip(page.documents, row["data"], strict=True):
        _agrees(document, each)
    assert (page.has_more, page.page, page.total) == (row["has_more"], row["page"], row["total"])


@pytest.mark.parametrize("name", of_kind("indexing"))
def test_indexing_status(name: str) -> None:
    (status,) = operation_of(name).read(answer_of(name))
    (row,) = reported(name)["data"]
    assert str(status.state) == EXPECTED[name].split()[1] == row["indexing_status"]
    assert status.state.has_ended == (row["completed_at"] is not None and row["indexing_status"] == "completed")
    assert (status.document_id, status.error) == (row["id"], row["error"])
    assert (status.completed_segments, status.total_segments) == (row["completed_segments"], row["total_segments"])


@pytest.mark.parametrize("name", of_kind("field"))
def test_metadata_fields(name: str) -> None:
    found = operation_of(name).read(answer_of(name))
    rows = reported(name)["doc_metadata"] if name == "metadata-list" else [reported(name)]
    fields = found if name == "metadata-list" else (found,)
    assert [(each.id, each.name, each.type) for each in fields] == [(r["id"], r["name"], r["type"]) for r in rows]


@pytest.mark.parametrize("name", of_kind("accepted", "deleted"))
def test_answers_without_content(name: str) -> None:
    assert operation_of(name).read(answer_of(name)) is None


@pytest.mark.parametrize("name", of_kind("JSON"))
def test_other_answers(name: str) -> None:
    assert operation_of(name).read(answer_of(name)) == reported(name)


def _same_body(name: str, made: Operation[Any]) -> None:
    assert made.call.json == load(name)["request"]["json"]


def test_requests_are_the_recorded_ones() -> None:
    """What is sent is what the real server was sent: by text, by file, metadata, status."""
    text = load("document-create-by-text")["request"]["json"]
    dataset = load("document-create-by-text")["request"]["path"].split("/")[3]
    made = operations.create_document_by_text(
        dataset, text["name"], text["text"], indexing_technique="economy", process_rule=_RULE
    )
    _same_body("document-create-by-text", made)
    _same_body("metadata-set", operation_of("metadata-set"))
    _same_body("metadata-create", operation_of("metadata-create"))
    _same_body("document-status-archive", operation_of("document-status-archive"))
    assert (
        '"data"\r\n\r\n' + operation_of("document-create-by-file").call.fields["data"]
        in (load("document-create-by-file")["request"]["body"])
    )


def test_a_state_that_is_not_known_is_none_that_has_ended() -> None:
    assert IndexingState.of("embedding") is IndexingState.UNKNOWN
    assert not IndexingState.of(None).has_ended


@pytest.mark.parametrize(
    "payload", [None, [], {"data": {}}, {"data": [1]}, {"data": [{"id": 5}]}, {"data": [{"name": "x"}]}]
)
def test_what_is_no_page_is_refused(payload: Any) -> None:
    """A row that is overlooked would be a document that is uploaded a second time."""
    answer = Answer(200, {"content-type": "application/json"}, json.dumps(payload).encode())
    with pytest.raises(DifyError, match=r"list of documents|document: id"):
        operations.list_documents(load("dataset-create")["response"]["json"]["id"]).read(answer)


@pytest.mark.parametrize("wrong", ["abc", "", None, 5, "76d7b6f6-269c-44f0-a04e-adc7ce49da2"])
def test_an_id_that_is_none_is_refused_before_it_is_sent(wrong: Any) -> None:
    with pytest.raises(DifyInvalidInputError, match="dataset_id"):
        operations.get_dataset(wrong)
