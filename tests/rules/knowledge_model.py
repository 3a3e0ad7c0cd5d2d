"""A knowledge base in memory, which takes what a plan writes as Dify does: the model of the property tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count

from airflow_provider_dify.api.knowledge import Document, IndexingState
from airflow_provider_dify.rules.knowledge_sync import MOVED, TWICE, Delete, Plan, SourceDocument, Upload, metadata_for


@dataclass
class Row:
    """One document with the content that was uploaded last."""

    document: Document
    content: str | None


class KnowledgeBase:
    """Documents by their ids. A name finds the enabled document that has it, and what is archived is left alone."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self._ids = count(1)

    @property
    def documents(self) -> list[Document]:
        return [row.document for row in self.rows.values()]

    def upload(self, name: str, content: str | None, state: IndexingState = IndexingState.COMPLETED) -> Document:
        """Replace the enabled document of that name, or make one."""
        found = next((row for row in self.rows.values() if row.document.name == name and row.document.enabled), None)
        if found is None:
            number = next(self._ids)
            found = Row(Document(f"d{number}", name, created_at=float(number)), None)
            self.rows[found.document.id] = found
        found.content = content
        found.document = replace(found.document, state=state, file_id=f"u{next(self._ids)}")
        return found.document

    def tag(self, document_id: str, metadata: dict[str, object]) -> None:
        row = self.rows[document_id]
        row.document = replace(row.document, metadata=metadata)

    def delete(self, document_id: str) -> None:
        assert not self.rows[document_id].document.archived
        del self.rows[document_id]

    def put(self, document: Document, content: str | None) -> None:
        """Let there be a document, whoever made it."""
        self.rows[document.id] = Row(document, content)


def steps(plan: Plan, base: KnowledgeBase, sync_id: str) -> Iterator[None]:
    """Do what a plan says, one request after the other, in the order of the sync; stop at any of them."""
    for delete in plan.deletes:
        if delete.reason == TWICE:
            yield from _deleted(base, delete)
    for upload in plan.uploads:
        yield from _uploaded(base, upload, sync_id)
    for tag in plan.tags:
        item = tag.item
        base.tag(tag.document.id, metadata_for(item, sync_id, str(item.content), tag.document))
        yield
    for delete in plan.deletes:
        if delete.reason not in (TWICE, MOVED):
            yield from _deleted(base, delete)
    for delete in plan.deletes:
        if delete.reason == MOVED:
            yield from _deleted(base, delete)


def _deleted(base: KnowledgeBase, delete: Delete) -> Iterator[None]:
    base.delete(delete.document.id)
    yield


def _uploaded(base: KnowledgeBase, upload: Upload, sync_id: str) -> Iterator[None]:
    document = base.upload(upload.name, upload.item.content)
    yield
    base.tag(document.id, metadata_for(upload.item, sync_id, str(upload.item.content), document))
    yield


def item(source: str, content: str | None = "c", **fields: object) -> SourceDocument:
    """Return a file of the source."""
    return SourceDocument(source, source.rpartition("/")[2], content, **fields)  # type: ignore[arg-type]
