"""The knowledge bases of one server: documents, and their way through the indexing queue.

No task works in the background: where a document stands follows from the time since a worker has taken it.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from airflow_provider_dify.testing.apps import TENANT_ID
from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.multipart import Content

_NAMESPACE = uuid.UUID("5d1f7c3e-0f0f-4c5b-9c57-0d1f7e57d1f8")
ACCOUNT_ID = str(uuid.uuid5(_NAMESPACE, "account"))
DATASET_KEY = "dataset-" + hashlib.sha256(b"knowledge").hexdigest()[:24]
"""The key of the knowledge API: one for all knowledge bases of the workspace."""

INDEXED_TYPES = frozenset(
    {
        "txt", "markdown", "md", "mdx", "pdf", "html", "htm", "xlsx", "xls", "vtt", "properties", "doc", "docx", "csv",
        "eml", "msg", "pptx", "ppt", "xml", "epub",
    }
)  # fmt: skip
PHASES = (("waiting", 0.2), ("parsing", 0.2), ("splitting", 0.2), ("indexing", 0.2))
"""States on the way to the end, and the seconds that a small document is in each, before ``time_scale``."""
COUNTING_SECONDS = 0.1
"""For so long after the end the segments are not counted as completed."""

BROKEN_PDF = "Failed to load document (PDFium: Data format error)."
_TEXT_BYTES = 1024 * 1024
_STOP_WORDS = frozenset({"are", "is", "only", "now", "about", "the", "and", "extra"})


@dataclass(slots=True)
class Segment:
    """One piece of a document."""

    content: str
    position: int
    keywords: list[str]
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    node_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    at: float = field(default_factory=time.time)


@dataclass(slots=True)
class StoredUpload:
    """The file behind a document."""

    name: str
    size: int
    extension: str
    mime_type: str
    sha256: str
    text: str
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    at: float = field(default_factory=time.time)

    @classmethod
    def of(cls, name: str, content: Content, mime_type: str, extension: str | None = None) -> StoredUpload:
        """Return the file of an upload; of a large one no text is kept."""
        digest, head = hashlib.sha256(), b""
        for chunk in content.chunks():
            digest.update(chunk)
            if len(head) < _TEXT_BYTES:
                head += chunk
        kind = PurePosixPath(name).suffix.lstrip(".").lower() if extension is None else extension
        text = head.decode("utf-8", "replace") if content.size <= _TEXT_BYTES else ""
        return cls(name, content.size, kind, mime_type, digest.hexdigest(), text)


@dataclass(slots=True)
class KnowledgeDocument:
    """One document.

    :param taken_at: when a worker has taken it; None while it waits for one.
    :param stays_in_queue: it is never taken.
    :param pace: factor on the time that it takes.
    :param fails_with: why it will not be indexed.
    """

    dataset_id: str
    name: str
    position: int
    upload: StoredUpload
    batch: str
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    rule_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    rule: Mapping[str, Any] = field(default_factory=dict)
    created_from: str = "api"
    created_at: float = field(default_factory=time.time)
    updated_at: float = field(default_factory=time.time)
    doc_form: str = "text_model"
    doc_language: str = "English"
    enabled: bool = True
    archived: bool = False
    disabled_at: float | None = None
    metadata: dict[str, Any] | None = None
    uploads: int = 1
    taken_at: float | None = None
    stays_in_queue: bool = False
    pace: float = 1.0
    fails_with: str | None = None
    state: str = "waiting"
    error: str | None = None
    tokens: int | None = None
    word_count: int | None = None
    latency: float | None = None
    times: dict[str, float | None] = field(default_factory=dict)
    segments: list[Segment] = field(default_factory=list)
    counted: bool = False

    def advance(self, now: float, scale: float) -> None:
        """Bring it to where it stands at a moment."""
        if self.taken_at is None or self.state in ("completed", "error", "paused"):
            if self.state == "completed" and not self.counted and self.times.get("completed") is not None:
                self.counted = now >= (self.times["completed"] or 0.0) + COUNTING_SECONDS * scale * self.pace
            return
        moment = self.taken_at
        for name, seconds in PHASES:
            if now < moment:
                return
            self._enter(name, moment)
            moment += seconds * scale * self.pace
            if name == "parsing" and now >= moment and self._failure is not None:
                self.state, self.error, self.updated_at = "error", self._failure, moment
                return
        if now >= moment:
            self.state = "completed"
            self.times["completed"] = self.updated_at = moment
            self.tokens, self.latency = 0, moment - self.taken_at
            self.counted = now >= moment + COUNTING_SECONDS * scale * self.pace

    @property
    def _failure(self) -> str | None:
        if self.fails_with is not None:
            return self.fails_with
        if self.upload.extension == "pdf" and not self.upload.text.startswith("%PDF"):
            return BROKEN_PDF
        return None

    def _enter(self, name: str, moment: float) -> None:
        self.state = name
        if name == "parsing":
            self.times["processing"] = moment
        elif name == "splitting":
            self.times |= {"parsing": moment, "cleaning": moment, "splitting": moment}
            self.segments = []
        elif name == "indexing" and not self.segments:
            self.times["completed"] = None
            text = self.upload.text.strip()
            self.segments = [Segment(text, 1, keywords_of(text))] if text else []
            self.word_count = len(text)

    def put_back(self, upload: StoredUpload, batch: str | None, now: float) -> None:
        """Let it be indexed again, with another file; times and counts stay until they are overwritten."""
        self.upload = upload
        self.batch = batch or self.batch
        self.rule_id = str(uuid.uuid4())
        self.state, self.error, self.counted = "waiting", None, False
        self.stays_in_queue, self.pace, self.fails_with, self.taken_at = False, 1.0, None, None
        self.updated_at, self.uploads = now, self.uploads + 1

    @property
    def completed_segments(self) -> int:
        """Segments that are counted as completed."""
        return len(self.segments) if self.counted else 0

    @property
    def display_status(self) -> str:
        """What the list of documents filters by."""
        if self.archived:
            return "archived"
        if self.state == "completed":
            return "available" if self.enabled else "disabled"
        return {"waiting": "queuing", "error": "error", "paused": "paused"}.get(self.state, "indexing")


@dataclass(slots=True)
class MetadataFieldRow:
    """A metadata field of a knowledge base."""

    name: str
    type: str
    id: str = field(default_factory=lambda: str(uuid.uuid4()))


@dataclass(slots=True)
class KnowledgeBase:
    """One knowledge base."""

    name: str
    id: str
    indexing_technique: str | None = "economy"
    permission: str = "only_me"
    created_at: float = field(default_factory=time.time)
    documents: dict[str, KnowledgeDocument] = field(default_factory=dict)
    fields: list[MetadataFieldRow] = field(default_factory=list)
    latest_rule_id: str = ""


class KnowledgeBases:
    """The knowledge bases of a server.

    :param names: those there are from the start; their ids follow from their names.
    :param time_scale: factor on every duration.
    :param plugin_daemon: whether Dify's plugin daemon runs; without it datasets can be neither listed nor read.
    """

    def __init__(self, names: tuple[str, ...], time_scale: float, plugin_daemon: bool) -> None:
        self.bases: dict[str, KnowledgeBase] = {}
        self.plugin_daemon = plugin_daemon
        self.indexing = True
        self._time_scale = time_scale
        self._batches = 0
        for name in names:
            base = KnowledgeBase(name, str(uuid.uuid5(_NAMESPACE, name)))
            self.bases[base.id] = base

    def create(self, name: str, technique: str | None, permission: str) -> KnowledgeBase:
        """Make an empty knowledge base."""
        base = KnowledgeBase(name, str(uuid.uuid4()), technique, permission)
        self.bases[base.id] = base
        return base

    def add_field(self, base: KnowledgeBase, name: str, kind: str) -> MetadataFieldRow:
        """Make a metadata field."""
        base.fields.append(MetadataFieldRow(name, kind))
        return base.fields[-1]

    def named(self, name: str) -> KnowledgeBase | None:
        """Return the knowledge base of a name."""
        return next((base for base in self.bases.values() if base.name == name), None)

    def documents(self, base: KnowledgeBase) -> list[KnowledgeDocument]:
        """Return its documents as they are now, newest first."""
        now = time.time()
        for document in base.documents.values():
            document.advance(now, self._time_scale)
        return list(reversed(base.documents.values()))

    def put(
        self,
        base: KnowledgeBase,
        upload: StoredUpload,
        *,
        rule: Mapping[str, Any] | None,
        doc_form: str,
        doc_language: str,
        fault: Fault | None,
    ) -> KnowledgeDocument:
        """Make a document, or replace the enabled one of the file's name."""
        found = next((each for each in self.documents(base) if each.name == upload.name and each.enabled), None)
        batch = self.new_batch()
        if found is None:
            position = max((each.position for each in base.documents.values()), default=0) + 1
            found = KnowledgeDocument(base.id, upload.name, position, upload, batch)
            base.documents[found.id] = found
        else:
            found.put_back(upload, batch, time.time())
        if rule or not base.latest_rule_id:
            base.latest_rule_id = str(uuid.uuid4())
        found.rule_id = base.latest_rule_id
        found.rule, found.doc_form, found.doc_language, found.created_from = rule or {}, doc_form, doc_language, "api"
        self.enqueue(found, fault)
        return found

    def enqueue(self, document: KnowledgeDocument, fault: Fault | None = None) -> None:
        """Put a document into the queue."""
        if fault is not None:
            document.stays_in_queue = fault.kind == "stuck_in_queue"
            document.fails_with = fault.message or "Parsing failed." if fault.kind == "parse_error" else None
            if fault.kind == "slow_indexing":
                total = sum(seconds for _, seconds in PHASES)
                document.pace = (fault.seconds or 0.0) / (total * self._time_scale)
        if self.indexing and not document.stays_in_queue:
            document.taken_at = time.time()

    def stop_indexing(self) -> None:
        """Let no worker take documents from the queue; those at work stay where they are."""
        self.indexing = False
        for document in self._all():
            document.taken_at = None

    def start_indexing(self) -> None:
        """Let workers take documents again, also those that stay in the queue through a fault."""
        self.indexing = True
        for document in self._all():
            document.stays_in_queue = False
            if document.taken_at is None and document.state not in ("completed", "error", "paused"):
                document.taken_at = time.time()

    def _all(self) -> Iterator[KnowledgeDocument]:
        for base in self.bases.values():
            yield from self.documents(base)

    def new_batch(self) -> str:
        """Return the name of a batch: the time, and six digits."""
        self._batches += 1
        return time.strftime("%Y%m%d%H%M%S", time.gmtime()) + f"{self._batches % 1_000_000:06}"


def keywords_of(text: str) -> list[str]:
    """Return the words of a text, each once, without the commonest."""
    words = ("".join(char for char in word if char.isalnum()) for word in text.split())
    return list(dict.fromkeys(word for word in words if len(word) > 2 and word.lower() not in _STOP_WORDS))


__all__ = ["ACCOUNT_ID", "DATASET_KEY", "TENANT_ID", "KnowledgeBase", "KnowledgeBases", "KnowledgeDocument"]
