"""Every operation on knowledge bases as a value: what to ask, and how to read the answer."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from airflow_provider_dify.api import knowledge
from airflow_provider_dify.api.checks import check_number, check_text, plain_text, preview
from airflow_provider_dify.api.knowledge import (
    Dataset,
    DatasetPage,
    Document,
    DocumentPage,
    IndexingStatus,
    MetadataField,
    UploadedDocument,
)
from airflow_provider_dify.api.operations import Call, Operation, Upload, check_id, read_json
from airflow_provider_dify.api.runs import parse_accepted
from airflow_provider_dify.api.values import shape_of
from airflow_provider_dify.exceptions import DifyInvalidInputError

PAGE_LIMIT = 100
"""Rows on a page at most; Dify answers with so many where more are asked for."""

DATASET_NAME_CHARS = 40
DOCUMENT_NAME_CHARS = 200
"""Longer names of documents are cut by Dify, and two that are cut alike would replace each other."""

TECHNIQUES = ("economy", "high_quality")
STATUS_ACTIONS = ("enable", "disable", "archive", "un_archive")
DISPLAY_STATUSES = ("queuing", "indexing", "paused", "error", "available", "disabled", "archived")
NAME_TAKEN = "dataset_name_duplicate"
ARCHIVED = "archived_document_immutable"

_FIRST_MAX_PAGE = 99_999
_KEY = (
    "Put a key of the knowledge API (dataset-…; in Dify: Knowledge, API Access) into the connection's password; the "
    "key of an app does not open knowledge bases."
)
_PLUGINS = (
    "Where the message names the plugin daemon, Dify wants to ask it for its embedding models: let it run, or pass "
    "dataset_id in place of a name. Otherwise correct the value that the message names."
)
_COMMON = {
    "unauthorized": _KEY,
    "forbidden": "The plan of the workspace, or the rights of the key's owner, do not allow this.",
    "not_found": "Check dataset_id and the document's id: both must be of the workspace of the connection's key.",
    "invalid_param": "Correct the value that the message names.",
    "": "Correct the value that the message names.",
}
_UPLOAD = {
    **_COMMON,
    "invalid_param": (
        "Correct the value that the message names. Without a message, Dify does not take files of this type: convert "
        "the file to one that it indexes, such as txt, md, html, pdf, docx, xlsx or csv."
    ),
    "unsupported_file_type": "Convert the file to a type that Dify indexes, such as txt, md, html, pdf, docx or csv.",
    "file_too_large": "Split the file, or raise UPLOAD_FILE_SIZE_LIMIT (15 MB by default) of the Dify server.",
    "no_file_uploaded": "The file has no name or no content that Dify could read.",
}
_DATASETS = {
    **_COMMON,
    "invalid_param": _PLUGINS,
    NAME_TAKEN: "Choose another name, or use the knowledge base that has this one.",
}
_CHANGE = {
    **_COMMON,
    ARCHIVED: "Take the document out of the archive in Dify first.",
    "invalid_action": "Use enable, disable, archive or un_archive.",
}


def list_datasets(*, keyword: str | None = None, page: int = 1, limit: int = PAGE_LIMIT) -> Operation[DatasetPage]:
    """Ask for a page of knowledge bases.

    :param keyword: Part of the name.
    """
    call = Call(
        "GET",
        "/datasets",
        "Listing the knowledge bases",
        query=_paged({"keyword": _optional(keyword, "keyword")}, page, limit),
        remedies=_DATASETS,
    )
    return Operation(call, lambda answer: knowledge.parse_dataset_page(read_json(answer, call.what)))


def get_dataset(dataset_id: str) -> Operation[Dataset]:
    """Ask for one knowledge base."""
    call = Call("GET", _dataset(dataset_id), "Reading the knowledge base", remedies=_DATASETS)
    return Operation(call, lambda answer: knowledge.parse_dataset(read_json(answer, call.what)))


def create_dataset(
    name: str, *, indexing_technique: str | None = None, permission: str | None = None
) -> Operation[Dataset]:
    """Create an empty knowledge base.

    It may be sent again: a second one of the same name is refused as ``dataset_name_duplicate``.

    :param name: 1 to 40 characters.
    :param indexing_technique: ``economy`` or ``high_quality``; the latter needs a default embedding model.
    :param permission: ``only_me``, ``all_team_members`` or ``partial_members``.
    """
    body = {"name": check_dataset_name(name, "name")}
    if indexing_technique is not None:
        body["indexing_technique"] = check_technique(indexing_technique)
    if permission is not None:
        body["permission"] = _required(permission, "permission")
    call = Call("POST", "/datasets", f"Creating the knowledge base {preview(name)}", json=body, remedies=_DATASETS)
    return Operation(call, lambda answer: knowledge.parse_dataset(read_json(answer, call.what)))


def create_document_by_text(
    dataset_id: str,
    name: str,
    text: str,
    *,
    indexing_technique: str,
    process_rule: Mapping[str, Any] | None = None,
    doc_form: str | None = None,
    doc_language: str | None = None,
) -> Operation[UploadedDocument]:
    """Make a document of a text, or replace the enabled document of that name.

    The call is not repeated by itself: two that arrive together make two documents.

    :param indexing_technique: Dify asks for it each time, also where the knowledge base has one.
    :param process_rule: How the text is split; Dify's default where it is left out.
    """
    body = {
        "name": check_document_name(name, "name"),
        "text": _any_text(text, "text"),
        **_indexing(indexing_technique, process_rule, doc_form, doc_language),
    }
    call = Call(
        "POST",
        f"{_dataset(dataset_id)}/document/create-by-text",
        f"Uploading the document {preview(name, 200)}",
        json=body,
        repeatable=False,
        remedies=_UPLOAD,
    )
    return Operation(call, lambda answer: knowledge.parse_uploaded(read_json(answer, call.what)))


def create_document_by_file(
    dataset_id: str,
    upload: Upload,
    *,
    indexing_technique: str,
    process_rule: Mapping[str, Any] | None = None,
    doc_form: str | None = None,
    doc_language: str | None = None,
) -> Operation[UploadedDocument]:
    """Make a document of a file, or replace the enabled document of the file's name.

    :param upload: The file; its name is the document's.
    """
    check_document_name(upload.name, "name")
    settings = _indexing(indexing_technique, process_rule, doc_form, doc_language)
    call = Call(
        "POST",
        f"{_dataset(dataset_id)}/document/create-by-file",
        f"Uploading the document {preview(upload.name, 200)}",
        fields={"data": json.dumps(settings, allow_nan=False)},
        upload=upload,
        repeatable=False,
        remedies=_UPLOAD,
    )
    return Operation(call, lambda answer: knowledge.parse_uploaded(read_json(answer, call.what)))


def update_document_by_text(
    dataset_id: str, document_id: str, name: str, text: str, *, process_rule: Mapping[str, Any] | None = None
) -> Operation[UploadedDocument]:
    """Replace name and content of a document that is enabled and not archived."""
    body: dict[str, Any] = {"name": check_document_name(name, "name"), "text": _any_text(text, "text")}
    if process_rule is not None:
        body["process_rule"] = check_process_rule(process_rule)
    call = Call(
        "POST",
        f"{_document(dataset_id, document_id)}/update-by-text",
        f"Updating the document {preview(name, 200)}",
        json=body,
        remedies={
            **_UPLOAD,
            "invalid_param": (
                "A document that is disabled or archived cannot be updated: enable it in Dify. Otherwise correct the "
                "value that the message names."
            ),
        },
    )
    return Operation(call, lambda answer: knowledge.parse_uploaded(read_json(answer, call.what)))


def list_documents(
    dataset_id: str,
    *,
    keyword: str | None = None,
    status: str | None = None,
    page: int = 1,
    limit: int = PAGE_LIMIT,
) -> Operation[DocumentPage]:
    """Ask for a page of documents.

    :param keyword: Part of the name.
    :param status: One of Dify's display statuses. It ignores words that it does not know, so these are refused here.
    """
    if status is not None and status not in DISPLAY_STATUSES:
        raise DifyInvalidInputError(
            f"status must be one of {', '.join(DISPLAY_STATUSES)} and is {preview(status)}: Dify would list all "
            "documents."
        )
    call = Call(
        "GET",
        f"{_dataset(dataset_id)}/documents",
        "Listing the documents",
        query=_paged({"keyword": _optional(keyword, "keyword"), "status": status}, page, limit),
        remedies=_COMMON,
    )
    return Operation(call, lambda answer: knowledge.parse_document_page(read_json(answer, call.what)))


def get_document(dataset_id: str, document_id: str, *, metadata: str | None = None) -> Operation[Document]:
    """Ask for one document.

    :param metadata: ``only`` or ``without`` the metadata; None for all.
    """
    query = {} if metadata is None else {"metadata": _required(metadata, "metadata")}
    call = Call("GET", _document(dataset_id, document_id), "Reading the document", query=query, remedies=_COMMON)
    return Operation(call, lambda answer: knowledge.parse_document(read_json(answer, call.what)))


def indexing_status(dataset_id: str, batch: str) -> Operation[tuple[IndexingStatus, ...]]:
    """Ask how far the documents of one upload are."""
    call = Call(
        "GET",
        f"{_dataset(dataset_id)}/documents/{quote(check_id(batch, 'batch'), safe='')}/indexing-status",
        f"Reading the indexing status of batch {batch}",
        remedies={
            **_COMMON,
            "not_found": (
                "Dify knows no such batch: its document was deleted, or uploaded again, which gives it another batch; "
                "or dataset_id is of another knowledge base."
            ),
        },
    )
    return Operation(call, lambda answer: knowledge.parse_indexing_status(read_json(answer, call.what)))


def change_status(dataset_id: str, action: str, document_ids: Sequence[str]) -> Operation[None]:
    """Enable, disable, archive or un-archive documents. Dify says success for ids that it does not know.

    :param action: ``enable``, ``disable``, ``archive`` or ``un_archive``.
    """
    if action not in STATUS_ACTIONS:
        raise DifyInvalidInputError(f"action must be one of {', '.join(STATUS_ACTIONS)} and is {preview(action)}.")
    call = Call(
        "PATCH",
        f"{_dataset(dataset_id)}/documents/status/{action}",
        f"Changing the status of {len(document_ids)} documents ({action})",
        json={"document_ids": [check_uuid(each, "document_ids") for each in document_ids]},
        remedies=_CHANGE,
    )
    return Operation(call, lambda answer: parse_accepted(read_json(answer, call.what)))


def delete_document(dataset_id: str, document_id: str) -> Operation[None]:
    """Delete a document, also one that is being indexed. One that is archived is refused."""
    call = Call("DELETE", _document(dataset_id, document_id), f"Deleting the document {document_id}", remedies=_CHANGE)
    return Operation(call, lambda answer: None)


def list_metadata(dataset_id: str) -> Operation[tuple[MetadataField, ...]]:
    """Ask for the metadata fields of a knowledge base."""
    call = Call("GET", f"{_dataset(dataset_id)}/metadata", "Listing the metadata fields", remedies=_COMMON)
    return Operation(call, lambda answer: knowledge.parse_metadata_fields(read_json(answer, call.what)))


def create_metadata(dataset_id: str, name: str, kind: str = "string") -> Operation[MetadataField]:
    """Create a metadata field; a second one of the same name is refused as ``invalid_param``."""
    call = Call(
        "POST",
        f"{_dataset(dataset_id)}/metadata",
        f"Creating the metadata field {preview(name)}",
        json={"type": _required(kind, "type"), "name": _required(name, "name")},
        remedies=_COMMON,
    )
    return Operation(call, lambda answer: knowledge.parse_metadata_field(read_json(answer, call.what)))


def set_metadata(dataset_id: str, values: Mapping[str, Sequence[tuple[MetadataField, Any]]]) -> Operation[None]:
    """Set the metadata of documents. What a document has besides is dropped by Dify.

    :param values: For each document its fields and their values: all that it is to have.
    """
    data = [
        {
            "document_id": check_uuid(document_id, "document_id"),
            "metadata_list": [{"id": each.id, "name": each.name, "value": value} for each, value in items],
        }
        for document_id, items in values.items()
    ]
    call = Call(
        "POST",
        f"{_dataset(dataset_id)}/documents/metadata",
        f"Setting the metadata of {len(data)} documents",
        json={"operation_data": data},
        remedies=_COMMON,
    )
    return Operation(call, lambda answer: parse_accepted(read_json(answer, call.what)))


def check_dataset_name(value: Any, field_name: str) -> str:
    """Return the name of a knowledge base.

    :raises DifyInvalidInputError: It is empty or longer than 40 characters.
    """
    text = _required(value, field_name)
    if len(text) > DATASET_NAME_CHARS:
        raise DifyInvalidInputError(
            f"{field_name} must be at most {DATASET_NAME_CHARS} characters and has {len(text)}. Nothing was sent: "
            "shorten it."
        )
    return text


def check_document_name(value: Any, field_name: str) -> str:
    """Return the name of a document.

    :raises DifyInvalidInputError: It is empty, has more than 200 characters, or a slash in it.
    """
    text = _required(value, field_name)
    if len(text) > DOCUMENT_NAME_CHARS:
        raise DifyInvalidInputError(
            f"{field_name} must be at most {DOCUMENT_NAME_CHARS} characters and has {len(text)}: Dify cuts longer "
            "names, and documents whose names are cut alike replace each other. Nothing was sent: shorten it."
        )
    if "/" in text or "\\" in text:
        raise DifyInvalidInputError(f"{field_name} must have no / and no \\ in it: Dify refuses {preview(text)}.")
    return text


def check_technique(value: Any) -> str:
    """Return an indexing technique.

    :raises DifyInvalidInputError: It is none.
    """
    text = plain_text(value)
    if text not in TECHNIQUES:
        raise DifyInvalidInputError(
            f"indexing_technique must be one of {', '.join(TECHNIQUES)} and is {preview(value)}."
        )
    return text


def check_process_rule(value: Any) -> dict[str, Any]:
    """Return a rule by which documents are split.

    :raises DifyInvalidInputError: It is no mapping that can be written as JSON.
    """
    if not isinstance(value, Mapping):
        raise DifyInvalidInputError(
            f"process_rule must be a mapping such as {{'mode': 'automatic'}} and is {shape_of(value)}."
        )
    try:
        return json.loads(json.dumps(dict(value), allow_nan=False))  # type: ignore[no-any-return]
    except (TypeError, ValueError, RecursionError) as error:
        raise DifyInvalidInputError(
            f"process_rule cannot be written as JSON ({type(error).__name__}): use texts, numbers, lists and mappings."
        ) from None


def _indexing(
    technique: str, process_rule: Mapping[str, Any] | None, doc_form: str | None, doc_language: str | None
) -> dict[str, Any]:
    settings: dict[str, Any] = {"indexing_technique": check_technique(technique)}
    if process_rule is not None:
        settings["process_rule"] = check_process_rule(process_rule)
    if doc_form is not None:
        settings["doc_form"] = _required(doc_form, "doc_form")
    if doc_language is not None:
        settings["doc_language"] = _required(doc_language, "doc_language")
    return settings


def check_uuid(value: Any, field_name: str) -> str:
    """Return the id of a knowledge base or a document in its usual form.

    :raises DifyInvalidInputError: It is no UUID; Dify would answer with a page that says nothing of ids.
    """
    text = check_id(value, field_name)
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise DifyInvalidInputError(
            f"{field_name} must be a UUID such as 76d7b6f6-269c-44f0-a04e-adc7ce49da2b, as in the address of the "
            f"knowledge base's page in Dify, and is a string of {len(text)} characters. Nothing was sent."
        ) from None


def _dataset(dataset_id: str) -> str:
    return f"/datasets/{check_uuid(dataset_id, 'dataset_id')}"


def _document(dataset_id: str, document_id: str) -> str:
    return f"{_dataset(dataset_id)}/documents/{check_uuid(document_id, 'document_id')}"


def _paged(filters: Mapping[str, str | None], page: int, limit: int) -> dict[str, str]:
    query = {name: value for name, value in filters.items() if value is not None}
    query["page"] = str(check_number(page, "page", 1, _FIRST_MAX_PAGE))
    query["limit"] = str(check_number(limit, "limit", 1, PAGE_LIMIT))
    return query


def _optional(value: Any, field_name: str) -> str | None:
    return None if value is None else _required(value, field_name)


def _required(value: Any, field_name: str) -> str:
    text = plain_text(value)
    if not text or not text.strip():
        raise DifyInvalidInputError(f"{field_name} must be a non-empty string and is {shape_of(value)}.")
    check_text(text, field_name)
    return text


def _any_text(value: Any, field_name: str) -> str:
    text = plain_text(value)
    if text is None:
        raise DifyInvalidInputError(f"{field_name} must be a string and is {shape_of(value)}.")
    check_text(text, field_name)
    return text
