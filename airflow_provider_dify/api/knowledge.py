"""Knowledge bases, documents and their indexing as values, read out of the answers of Dify's knowledge API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from airflow_provider_dify.api.values import id_or_none, int_or_none, number_or_none, shape_of, text_or_none
from airflow_provider_dify.exceptions import DifyResponseError

BUILT_IN_METADATA = "built-in"
"""The id of the metadata that Dify keeps itself, in the list of a document's metadata."""


class IndexingState(str, Enum):
    """Where a document stands on its way to being searchable.

    ``UNKNOWN`` stands for a word that this version does not know: such a document is waited for like one that is being
    indexed, since nothing says that it has ended.
    """

    WAITING = "waiting"
    PARSING = "parsing"
    CLEANING = "cleaning"
    SPLITTING = "splitting"
    INDEXING = "indexing"
    COMPLETED = "completed"
    ERROR = "error"
    PAUSED = "paused"
    UNKNOWN = "unknown"

    def __str__(self) -> str:
        """Return the state as Dify writes it."""
        return self.value

    @property
    def has_ended(self) -> bool:
        """Whether nothing more happens to the document by itself."""
        return self in (IndexingState.COMPLETED, IndexingState.ERROR)

    @classmethod
    def of(cls, value: Any) -> IndexingState:
        """Return the state that a server names."""
        try:
            return cls(value)
        except ValueError:
            return cls.UNKNOWN


@dataclass(frozen=True)
class Dataset:
    """One knowledge base.

    :param id: Its id, a UUID.
    :param name: Its name; unique in the workspace.
    :param indexing_technique: ``economy`` or ``high_quality``; None before the first document of a knowledge base that
        was created without one.
    :param document_count: Documents in it, as the server counts them; None where it does not say.
    """

    id: str
    name: str
    indexing_technique: str | None = None
    document_count: int | None = None


@dataclass(frozen=True)
class DatasetPage:
    """One page of the list of knowledge bases."""

    datasets: tuple[Dataset, ...]
    has_more: bool = False
    total: int | None = None


@dataclass(frozen=True)
class MetadataField:
    """A field that documents of a knowledge base may have a value for.

    :param type: ``string``, ``number`` or ``time``.
    """

    id: str
    name: str
    type: str = "string"


@dataclass(frozen=True)
class Document:
    """One document of a knowledge base.

    :param id: Its id, a UUID; stays the same when its content is replaced.
    :param name: Its name, by which a new upload finds it.
    :param state: Where it stands on its way to being searchable.
    :param enabled: Whether it is searched. A disabled one is not found by its name.
    :param archived: Whether it was archived: then it can be neither changed nor deleted.
    :param error: Why it could not be indexed.
    :param file_id: Of the file that was uploaded last: another one after each upload. None where the answer does not
        say.
    :param size: Bytes of the uploaded file; None where the answer does not say.
    :param created_at: Unix seconds.
    :param metadata: The values that people and programs gave it, by the names of their fields.
    :param metadata_ids: The ids of these fields.
    """

    id: str
    name: str
    state: IndexingState = IndexingState.UNKNOWN
    enabled: bool = True
    archived: bool = False
    error: str | None = None
    file_id: str | None = None
    size: int | None = None
    created_at: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    metadata_ids: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DocumentPage:
    """One page of a knowledge base's documents, newest first.

    :param total: Documents that fit the filters, on all pages; None where the server does not say.
    """

    documents: tuple[Document, ...]
    has_more: bool = False
    page: int = 1
    total: int | None = None


@dataclass(frozen=True)
class UploadedDocument:
    """What an upload brought.

    :param document: The document, new or replaced.
    :param batch: By which its indexing is asked for. Each upload has one of its own; one of an earlier upload of the
        same document is unknown afterwards.
    """

    document: Document
    batch: str


@dataclass(frozen=True)
class IndexingStatus:
    """How far the indexing of one document is.

    :param completed_segments: Segments that can be found.
    :param total_segments: Segments in all; 0 before the document is split.
    """

    document_id: str
    state: IndexingState
    error: str | None = None
    completed_segments: int = 0
    total_segments: int = 0


def parse_dataset(payload: Any, what: str = "The knowledge base") -> Dataset:
    """Read one knowledge base.

    :raises DifyResponseError: It is no object with an id.
    """
    row = _object(payload, what)
    return Dataset(
        id=_id(row, what),
        name=text_or_none(row.get("name")) or "",
        indexing_technique=text_or_none(row.get("indexing_technique")),
        document_count=int_or_none(row.get("document_count")),
    )


def parse_dataset_page(payload: Any) -> DatasetPage:
    """Read a page of the list of knowledge bases; rows without an id are left out.

    :raises DifyResponseError: It is no page.
    """
    page = _object(payload, "The list of knowledge bases")
    rows = _rows(page.get("data"), "The list of knowledge bases")
    return DatasetPage(
        datasets=tuple(parse_dataset(row) for row in rows if id_or_none(row.get("id"))),
        has_more=page.get("has_more") is True,
        total=int_or_none(page.get("total")),
    )


def parse_document(payload: Any, what: str = "The document") -> Document:
    """Read one document, out of a list, an upload or the answer to GET.

    :raises DifyResponseError: It is no object with an id.
    """
    row = _object(payload, what)
    stored = _stored_file(row)
    named = [each for each in _metadata_items(row) if each.get("id") != BUILT_IN_METADATA]
    return Document(
        id=_id(row, what),
        name=text_or_none(row.get("name")) or "",
        state=IndexingState.of(row.get("indexing_status")),
        enabled=row.get("enabled") is not False,
        archived=row.get("archived") is True,
        error=text_or_none(row.get("error")),
        file_id=id_or_none(stored.get("id")),
        size=int_or_none(stored.get("size")),
        created_at=number_or_none(row.get("created_at")),
        metadata={each["name"]: each.get("value") for each in named},
        metadata_ids={each["name"]: each["id"] for each in named if id_or_none(each.get("id"))},
    )


def parse_document_page(payload: Any) -> DocumentPage:
    """Read a page of documents.

    :raises DifyResponseError: It is no page, or a row has no id: a document that is overlooked would be uploaded again.
    """
    page = _object(payload, "The list of documents")
    return DocumentPage(
        documents=tuple(parse_document(row) for row in _rows(page.get("data"), "The list of documents")),
        has_more=page.get("has_more") is True,
        page=int_or_none(page.get("page")) or 1,
        total=int_or_none(page.get("total")),
    )


def parse_uploaded(payload: Any) -> UploadedDocument:
    """Read the answer to an upload or an update.

    :raises DifyResponseError: It names no document or no batch.
    """
    answer = _object(payload, "The answer to the upload")
    batch = id_or_none(answer.get("batch"))
    if batch is None:
        raise DifyResponseError(
            f"The answer to the upload: batch must be a text and is {shape_of(answer.get('batch'))}."
        )
    return UploadedDocument(parse_document(answer.get("document"), "The uploaded document"), batch)


def parse_indexing_status(payload: Any) -> tuple[IndexingStatus, ...]:
    """Read how far the documents of a batch are.

    :raises DifyResponseError: It is no list of objects with ids.
    """
    answer = _object(payload, "The indexing status")
    return tuple(
        IndexingStatus(
            document_id=_id(row, "The indexing status"),
            state=IndexingState.of(row.get("indexing_status")),
            error=text_or_none(row.get("error")),
            completed_segments=int_or_none(row.get("completed_segments")) or 0,
            total_segments=int_or_none(row.get("total_segments")) or 0,
        )
        for row in _rows(answer.get("data"), "The indexing status")
    )


def parse_metadata_field(payload: Any) -> MetadataField:
    """Read one metadata field.

    :raises DifyResponseError: It has no id or no name.
    """
    row = _object(payload, "The metadata field")
    name = text_or_none(row.get("name"))
    if name is None:
        raise DifyResponseError(f"The metadata field: name must be a text and is {shape_of(row.get('name'))}.")
    return MetadataField(_id(row, "The metadata field"), name, text_or_none(row.get("type")) or "string")


def parse_metadata_fields(payload: Any) -> tuple[MetadataField, ...]:
    """Read the metadata fields of a knowledge base, without those that Dify keeps itself.

    :raises DifyResponseError: It is no list of fields.
    """
    answer = _object(payload, "The list of metadata fields")
    rows = _rows(answer.get("doc_metadata"), "The list of metadata fields")
    return tuple(parse_metadata_field(row) for row in rows if row.get("id") != BUILT_IN_METADATA)


def _object(payload: Any, what: str) -> dict[str, Any]:
    if not isinstance(payload, dict):
        raise DifyResponseError(f"{what}: the answer must be a JSON object and is {shape_of(payload)}.")
    return payload


def _rows(value: Any, what: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise DifyResponseError(f"{what}: the answer must hold a list of objects and holds {shape_of(value)}.")
    return value


def _id(row: Mapping[str, Any], what: str) -> str:
    found = id_or_none(row.get("id"))
    if found is None:
        raise DifyResponseError(
            f"{what}: id must be a text of at most 255 characters and is {shape_of(row.get('id'))}."
        )
    return found


def _metadata_items(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    items = row.get("doc_metadata")
    found = items if isinstance(items, list) else []
    return [each for each in found if isinstance(each, dict) and text_or_none(each.get("name"))]


def _stored_file(row: Mapping[str, Any]) -> Mapping[str, Any]:
    # A list and an upload have the file in one place, GET of a document in the other.
    for name in ("data_source_detail_dict", "data_source_info"):
        source = row.get(name)
        stored = source.get("upload_file") if isinstance(source, dict) else None
        if isinstance(stored, dict):
            return stored
    source = row.get("data_source_info")
    return {"id": source.get("upload_file_id")} if isinstance(source, dict) else {}
