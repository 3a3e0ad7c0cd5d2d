"""What a sync of a knowledge base writes: the plan, out of a listing of the source and one of the documents.

Everything that is decided here is decided again in every try, out of what Dify shows: a try that was killed leaves
documents, and the next one finds them by their names and metadata.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from airflow_provider_dify.api.checks import plain_int, preview
from airflow_provider_dify.api.knowledge import Document, IndexingState
from airflow_provider_dify.api.values import shape_of
from airflow_provider_dify.exceptions import (
    DifyEmptySourceError,
    DifyInvalidInputError,
    DifyTooManyDeletionsError,
)
from airflow_provider_dify.rules.knowledge_names import (
    FIELDS,
    HASH_FIELD,
    SOURCE_FIELD,
    SYNC_FIELD,
    UPLOAD_FIELD,
    document_name,
    is_marked,
    tags,
)

DELETE_CHOICES = ("tracked", "never")
MAX_DELETIONS = 0.1
_SHOWN = 5


class Outcome(str, Enum):
    """What became of a document; the groups of the manifest."""

    CREATED = "created"
    UPDATED = "updated"
    RENAMED = "renamed"
    UNCHANGED = "unchanged"
    DELETED = "deleted"
    KEPT = "kept"
    SKIPPED = "skipped"
    FAILED = "failed"

    def __str__(self) -> str:
        """Return the group's name."""
        return self.value


@dataclass(frozen=True)
class SourceDocument:
    """One thing that is to be a document.

    :param source: Which one it is, the same from sync to sync: the URI of a file, or the key of a row.
    :param title: What people know it by: the path in its folder, or the title of a row.
    :param content: Tag of its content and of the settings, from ``content_tag``; None where it has a problem.
    :param size: Bytes; None where they are not known.
    :param metadata: Values for the document, by the names of their fields.
    :param problem: Why it cannot be a document, as a sentence.
    """

    source: str
    title: str
    content: str | None = None
    size: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True)
class Upload:
    """Upload a source: a new document, or in place of one that is there and enabled.

    :param name: The document's name: its present one, where there is one.
    :param document: The document that is replaced; None for a new one.
    :param outcome: What it is, when it has succeeded.
    """

    item: SourceDocument
    name: str
    outcome: Outcome
    document: Document | None = None


@dataclass(frozen=True)
class Tag:
    """Set the metadata of a document whose content needs no upload."""

    item: SourceDocument
    document: Document


@dataclass(frozen=True)
class Delete:
    """Delete a document that this sync has made.

    :param reason: Why, for the manifest.
    :param moved_to: The source that has the same content now: the document goes when that one is indexed.
    """

    document: Document
    source: str
    reason: str
    moved_to: str | None = None


@dataclass(frozen=True)
class Note:
    """Nothing is written for a source or a document, and why.

    :param reason: A sentence; empty for what is as it should be.
    :param document: The document, where there is one.
    """

    source: str
    name: str
    outcome: Outcome
    reason: str = ""
    document: Document | None = None


@dataclass(frozen=True)
class Plan:
    """What a sync writes, and nothing else.

    :param pending: Documents that need no upload and are not indexed yet: they are waited for.
    """

    uploads: tuple[Upload, ...] = ()
    tags: tuple[Tag, ...] = ()
    deletes: tuple[Delete, ...] = ()
    notes: tuple[Note, ...] = ()
    pending: tuple[Document, ...] = ()

    @property
    def writes(self) -> int:
        """How many documents are written."""
        return len(self.uploads) + len(self.tags) + len(self.deletes)


def plan_sync(
    items: Sequence[SourceDocument],
    documents: Iterable[Document],
    *,
    sync_id: str,
    delete: str = "tracked",
    max_deletions: float | int = MAX_DELETIONS,
) -> Plan:
    """Decide what to write.

    Only documents that carry this sync's mark in their metadata, or the name that only this sync gives, are ever
    replaced or deleted.

    :param items: The whole source.
    :param documents: All documents of the knowledge base.
    :param sync_id: Which sync it is: others keep their documents.
    :param delete: ``tracked`` deletes what this sync made and the source no longer has, ``never`` deletes nothing.
    :param max_deletions: How many documents may be lost: a share of those that are tracked, or a number.
    :raises DifyEmptySourceError: The source has nothing.
    :raises DifyTooManyDeletionsError: More would be lost than allowed.
    :raises DifyInvalidInputError: Two items are of the same source.
    """
    check_source(items)
    known: dict[str, list[Document]] = defaultdict(list)
    untagged: dict[str, list[Document]] = defaultdict(list)
    names: dict[str, list[str]] = defaultdict(list)
    for document in documents:
        if document.enabled and not document.archived:
            names[document.name].append(document.id)
        if document.metadata.get(SYNC_FIELD) == sync_id and isinstance(document.metadata.get(SOURCE_FIELD), str):
            known[document.metadata[SOURCE_FIELD]].append(document)
        elif not document.metadata.get(SYNC_FIELD):
            untagged[document.name].append(document)
    tracked = sum(map(len, known.values()))
    planner = _Planner(sync_id, names)
    sources = {item.source for item in items}
    gone = {source: found for source, found in known.items() if source not in sources}
    movable = _movable(gone) if delete == "tracked" else {}
    for item in items:
        name = document_name(sync_id, item.source, item.title)
        found = known.get(item.source, []) + untagged.get(name, [])
        planner.take(item, name, found, movable)
    planner.remove(gone, {item.content: item.source for item in items if item.content}, delete)
    wanted = {document_name(sync_id, item.source, item.title) for item in items}
    if delete == "tracked":
        planner.clear({name: found for name, found in untagged.items() if name not in wanted})
    plan = planner.plan()
    check_deletions(plan, tracked, max_deletions)
    return plan


def check_source(items: Sequence[SourceDocument]) -> None:
    """Let no source pass that has nothing, or the same thing twice.

    :raises DifyEmptySourceError: It is empty: that is far more often a mistake than meant.
    :raises DifyInvalidInputError: Two items are of the same source.
    """
    if not items:
        raise DifyEmptySourceError(
            "The source has no documents, so nothing was uploaded and nothing deleted. Check the folder, the pattern "
            "and the task that fills it. To empty a knowledge base, delete its documents in Dify."
        )
    seen: set[str] = set()
    for item in items:
        if item.source in seen:
            raise DifyInvalidInputError(
                f"The source has {preview(item.source)} twice. Nothing was written. Give each row a 'key' of its own."
            )
        seen.add(item.source)


def check_max_deletions(value: Any) -> float | int:
    """Return a limit of deletions: a share from 0.0 to 1.0, or a whole number.

    :raises DifyInvalidInputError: It is neither.
    """
    number = plain_int(value)
    if number is not None and number >= 0:
        return number
    if type(value) is float and 0.0 <= value <= 1.0:
        return value
    raise DifyInvalidInputError(
        "max_deletions must be a share of the tracked documents from 0.0 to 1.0, or a whole number of them, and is "
        f"{preview(value) if isinstance(value, (int, float)) else shape_of(value)}."
    )


def allowed_deletions(tracked: int, max_deletions: float | int) -> int:
    """Return how many documents may be lost in one sync.

    A share allows one at least, unless it is zero: of few documents, a tenth would be none.

    :param tracked: Documents that this sync has made.
    """
    if isinstance(max_deletions, int):
        return max_deletions
    return 0 if max_deletions == 0 else max(1, math.floor(tracked * max_deletions + 1e-9))


def check_deletions(plan: Plan, tracked: int, max_deletions: float | int) -> None:
    """Let no plan pass that loses more than allowed. What is moved, or there twice, is not lost.

    :raises DifyTooManyDeletionsError: It does; nothing was written.
    """
    lost = [each for each in plan.deletes if each.reason == GONE]
    allowed = allowed_deletions(tracked, max_deletions)
    if len(lost) > allowed:
        names = ", ".join(preview(each.source, 120) for each in lost[:_SHOWN])
        raise DifyTooManyDeletionsError(
            f"{len(lost)} of {tracked} documents are gone from the source, and max_deletions allows {allowed} "
            f"deletions. Nothing was written. They are: {names}{', …' if len(lost) > _SHOWN else ''}. If the source is "
            "right, raise max_deletions for this run; otherwise mend the source, the pattern or the path."
        )


GONE = "gone from the source"
MOVED = "moved in the source"
TWICE = "there twice"
LEFT = "left by an upload that was interrupted"


class _Planner:
    """Collects the plan, one item after the other."""

    def __init__(self, sync_id: str, names: Mapping[str, Sequence[str]]) -> None:
        self._sync_id = sync_id
        self._names = names
        self._uploads: list[Upload] = []
        self._tags: list[Tag] = []
        self._deletes: list[Delete] = []
        self._notes: list[Note] = []
        self._pending: list[Document] = []

    def plan(self) -> Plan:
        return Plan(
            tuple(self._uploads), tuple(self._tags), tuple(self._deletes), tuple(self._notes), tuple(self._pending)
        )

    def take(
        self, item: SourceDocument, name: str, found: Sequence[Document], movable: Mapping[str, list[str]]
    ) -> None:
        if item.problem is not None or item.content is None:
            # What is there stays: that it cannot be read now does not mean that it is gone.
            self._note(item, name, Outcome.FAILED, item.problem or "it could not be read.", found)
            return
        kept = max(found, key=lambda document: self._worth(document, item), default=None)
        for other in found:
            if other is not kept and other.enabled and not other.archived:
                self._deletes.append(Delete(other, item.source, TWICE))
        if kept is not None and (kept.archived or not kept.enabled):
            self._resting(item, kept)
        elif kept is None or self._needs_upload(item, kept):
            self._upload(item, name, kept, {document.id for document in found}, movable)
        else:
            self._as_it_is(item, kept)

    def _needs_upload(self, item: SourceDocument, kept: Document) -> bool:
        # Of an upload of an earlier try that was not tagged nobody knows which content it had.
        return not self._is_tagged(kept) or not has_content(kept, item.content) or kept.state is IndexingState.ERROR

    def _upload(
        self,
        item: SourceDocument,
        name: str,
        kept: Document | None,
        own: Collection[str],
        movable: Mapping[str, list[str]],
    ) -> None:
        name = name if kept is None else kept.name
        if any(document_id not in own for document_id in self._names.get(name, ())):
            # Dify would replace whichever it finds first.
            reason = f"another document of the knowledge base is named {preview(name, 200)}: rename that one in Dify."
            self._notes.append(Note(item.source, name, Outcome.FAILED, reason, kept))
            return
        former = (movable.get(str(item.content)) or None) if kept is None else None
        if former is not None:
            former.pop()
        is_new = kept is None or not self._is_tagged(kept)
        outcome = Outcome.RENAMED if former is not None else Outcome.CREATED if is_new else Outcome.UPDATED
        self._uploads.append(Upload(item, name, outcome, kept))

    def _as_it_is(self, item: SourceDocument, kept: Document) -> None:
        if any(kept.metadata.get(name) != value for name, value in item.metadata.items()):
            self._tags.append(Tag(item, kept))
        else:
            self._notes.append(Note(item.source, kept.name, Outcome.UNCHANGED, "", kept))
        if not kept.state.has_ended:
            self._pending.append(kept)

    def _resting(self, item: SourceDocument, kept: Document) -> None:
        """Leave a document alone that somebody has taken out of the search in Dify: that is a decision."""
        if has_content(kept, item.content):
            self._notes.append(Note(item.source, kept.name, Outcome.UNCHANGED, "", kept))
            return
        state = "archived" if kept.archived else "disabled"
        reason = f"it has changed, and its document is {state} in Dify, where it cannot be replaced: enable it there."
        self._notes.append(Note(item.source, kept.name, Outcome.SKIPPED, reason, kept))

    def remove(self, gone: Mapping[str, Sequence[Document]], contents: Mapping[str, str], delete: str) -> None:
        for source, documents in gone.items():
            for document in documents:
                if document.archived:
                    reason = f"{GONE}, and archived in Dify, where it cannot be deleted."
                elif delete == "never":
                    reason = f'{GONE}, and delete is "never".'
                else:
                    target = contents.get(str(document.metadata.get(HASH_FIELD)))
                    reason = GONE if target is None else MOVED
                    self._deletes.append(Delete(document, source, reason, target))
                    continue
                self._notes.append(Note(source, document.name, Outcome.KEPT, reason, document))

    def clear(self, untagged: Mapping[str, Sequence[Document]]) -> None:
        """Delete what a try has uploaded that was killed before it could tag it, and whose source is gone since."""
        for name, documents in untagged.items():
            if is_marked(name, self._sync_id):
                rest = [each for each in documents if each.enabled and not each.archived]
                self._deletes += [Delete(each, "", LEFT) for each in rest]

    def _note(self, item: SourceDocument, name: str, outcome: Outcome, reason: str, found: Sequence[Document]) -> None:
        first = found[0] if found else None
        self._notes.append(Note(item.source, first.name if first else name, outcome, reason, first))

    def _is_tagged(self, document: Document) -> bool:
        return document.metadata.get(SYNC_FIELD) == self._sync_id

    def _worth(self, document: Document, item: SourceDocument) -> tuple[Any, ...]:
        """Return what tells which of several documents of one source stays."""
        return (
            document.enabled and not document.archived,
            self._is_tagged(document),
            has_content(document, item.content),
            document.state is IndexingState.COMPLETED,
            document.state is not IndexingState.ERROR,
            document.created_at or 0.0,
            document.id,
        )


def _movable(gone: Mapping[str, Sequence[Document]]) -> dict[str, list[str]]:
    """Return the sources that are gone, by the content that their documents have."""
    found: dict[str, list[str]] = defaultdict(list)
    for source, documents in gone.items():
        for document in documents:
            if not document.archived:
                found[str(document.metadata.get(HASH_FIELD))].append(source)
    return dict(found)


def has_content(document: Document, content: str | None) -> bool:
    """Tell whether a document has a content: it was tagged with it, and nothing was uploaded to it since."""
    upload = document.metadata.get(UPLOAD_FIELD)
    return document.metadata.get(HASH_FIELD) == content and (document.file_id is None or document.file_id == upload)


def metadata_for(item: SourceDocument, sync_id: str, content: str, document: Document) -> dict[str, Any]:
    """Return all metadata that a document is to have: Dify drops what is left out, so what others set is set again.

    :param content: Tag of the content that was uploaded.
    :param document: The document as the upload has shown it, or as it was last listed.
    """
    others = {name: value for name, value in document.metadata.items() if value is not None and name not in FIELDS}
    return {**others, **item.metadata, **tags(sync_id, item.source, content, document.file_id)}


def check_metadata_names(names: Iterable[str]) -> None:
    """Let no metadata pass that would overwrite the sync's own.

    :raises DifyInvalidInputError: A name is one of its fields.
    """
    for name in names:
        if name in FIELDS:
            raise DifyInvalidInputError(f"metadata: {name!r} is kept by the sync itself. Choose another name.")
