"""The manifest of a sync: how many documents ended how, and which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_dify.api.values import excerpt
from airflow_provider_dify.rules.knowledge_sync import Outcome, Plan, Upload

MOST_LISTED = 500
"""Documents that a manifest names in each group: XCom is no place for tens of thousands."""

_TEXT_CHARS = 400
_LISTED = tuple(outcome for outcome in Outcome if outcome is not Outcome.UNCHANGED)


@dataclass
class Manifest:
    """What a sync has done.

    :param dataset_id: The knowledge base.
    :param sync_id: Which sync.
    :param dry_run: Whether nothing was written, and this is what would be.
    """

    dataset_id: str | None
    sync_id: str
    dry_run: bool = False
    counts: dict[str, int] = field(default_factory=lambda: {str(outcome): 0 for outcome in Outcome})
    documents: dict[str, list[dict[str, Any]]] = field(
        default_factory=lambda: {str(outcome): [] for outcome in _LISTED}
    )

    def add(
        self, outcome: Outcome, source: str, name: str, document_id: str | None = None, reason: str | None = None
    ) -> None:
        """Count a document, and name it unless it is one of many or unchanged."""
        self.counts[str(outcome)] += 1
        if outcome is Outcome.UNCHANGED or len(self.documents[str(outcome)]) >= MOST_LISTED:
            return
        row = {"source": source[:_TEXT_CHARS], "name": name, "document_id": document_id}
        if reason:
            row["reason"] = excerpt(reason, _TEXT_CHARS)
        self.documents[str(outcome)].append(row)

    def fail(self, document_id: str, reason: str, former: Mapping[str, tuple[str, str]]) -> None:
        """Count a document as failed that was counted as something else, since it could not be indexed.

        :param former: Source and name by document.
        """
        for outcome in (Outcome.CREATED, Outcome.UPDATED, Outcome.RENAMED):
            rows = self.documents[str(outcome)]
            row = next((each for each in rows if each["document_id"] == document_id), None)
            if row is not None:
                rows.remove(row)
                self.counts[str(outcome)] -= 1
                self.add(Outcome.FAILED, row["source"], row["name"], document_id, reason)
                return
        # One of many that were not listed, or one that was unchanged and was waited for.
        for outcome in (Outcome.CREATED, Outcome.UPDATED, Outcome.RENAMED, Outcome.UNCHANGED):
            if self.counts[str(outcome)] > len(self.documents.get(str(outcome), ())):
                self.counts[str(outcome)] -= 1
                break
        source, name = former.get(document_id, ("", ""))
        self.add(Outcome.FAILED, source, name, document_id, reason)

    def as_dict(self) -> dict[str, Any]:
        """Return it as XCom carries it."""
        listed = {name: rows for name, rows in self.documents.items() if rows}
        omitted = {
            name: self.counts[name] - len(rows)
            for name, rows in self.documents.items()
            if self.counts[name] > len(rows)
        }
        return {
            "dataset_id": self.dataset_id,
            "sync_id": self.sync_id,
            "dry_run": self.dry_run,
            "counts": dict(self.counts),
            "documents": listed,
            "documents_not_listed": omitted,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Manifest:
        """Return the manifest that ``as_dict`` gave, out of a trigger's event."""
        manifest = cls(value["dataset_id"], value["sync_id"], value["dry_run"])
        manifest.counts.update(value["counts"])
        manifest.documents.update({name: list(rows) for name, rows in value["documents"].items()})
        return manifest


def planned(plan: Plan, dataset_id: str | None, sync_id: str) -> Manifest:
    """Return the manifest of a dry run: what would be written."""
    manifest = Manifest(dataset_id, sync_id, dry_run=True)
    for note in plan.notes:
        manifest.add(note.outcome, note.source, note.name, note.document.id if note.document else None, note.reason)
    for upload in plan.uploads:
        manifest.add(upload.outcome, upload.item.source, upload.name, document_id_of(upload))
    for tag in plan.tags:
        manifest.add(Outcome.UPDATED, tag.item.source, tag.document.name, tag.document.id, "its metadata")
    for delete in plan.deletes:
        manifest.add(Outcome.DELETED, delete.source, delete.document.name, delete.document.id, delete.reason)
    return manifest


def document_id_of(upload: Upload) -> str | None:
    """Return the document that an upload replaces; None for a new one."""
    return None if upload.document is None else upload.document.id


def summary(manifest: Manifest) -> str:
    """Return a line for the log."""
    counted = ", ".join(f"{count} {name}" for name, count in manifest.counts.items() if count) or "nothing to do"
    return f"{'Would be (dry run)' if manifest.dry_run else 'Synced'}: {counted}."


def failed_documents(manifest: Manifest, most: int = 5) -> str:
    """Return the first failures as sentences, for an error's message."""
    rows: Iterable[dict[str, Any]] = manifest.documents[str(Outcome.FAILED)][:most]
    return "; ".join(f"{row['source'] or row['name']}: {row.get('reason', 'no reason given')}" for row in rows)
