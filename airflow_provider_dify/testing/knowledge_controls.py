"""What a test reads and does about the knowledge bases of a local server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from airflow_provider_dify.testing.knowledge import DATASET_KEY, KnowledgeBase
from airflow_provider_dify.testing.service import Service

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class DocumentRecord:
    """One document of a knowledge base, as it is now.

    :param state: `waiting`, `parsing`, `splitting`, `indexing`, `completed` or `error`.
    :param sha256: digest of the content that was uploaded last.
    :param metadata: its own metadata, by the names of the fields.
    :param uploads: how often it was uploaded; 1 for one that was never replaced.
    """

    id: str
    name: str
    state: str
    size: int
    sha256: str
    metadata: dict[str, Any]
    enabled: bool
    archived: bool
    uploads: int
    batch: str


class KnowledgeControls:
    """The part of a server that is about knowledge bases."""

    _service: Service
    _call: Callable[[Callable[[], Any]], Any]

    @property
    def dataset_key(self) -> str:
        """The key of the knowledge API, the same in every process."""
        return DATASET_KEY

    @property
    def datasets(self) -> dict[str, str]:
        """The ids of the knowledge bases, by their names."""
        bases = self._service.knowledge.bases
        found: dict[str, str] = self._call(lambda: {base.name: base.id for base in bases.values()})
        return found

    def documents(self, dataset: str) -> list[DocumentRecord]:
        """Return the documents of a knowledge base, oldest first.

        :param dataset: its name.
        :raises KeyError: if there is none of that name.
        """

        def read() -> list[DocumentRecord]:
            knowledge = self._service.knowledge
            return [
                DocumentRecord(
                    each.id, each.name, each.state, each.upload.size, each.upload.sha256, dict(each.metadata or {}),
                    each.enabled, each.archived, each.uploads, each.batch,
                )
                for each in reversed(knowledge.documents(self._dataset(dataset)))
            ]  # fmt: skip

        found: list[DocumentRecord] = self._call(read)
        return found

    def _dataset(self, name: str) -> KnowledgeBase:
        base = self._service.knowledge.named(name)
        if base is None:
            known = ", ".join(each.name for each in self._service.knowledge.bases.values())
            raise KeyError(f"no knowledge base {name!r}; there are {known}")
        return base

    def stop_indexing(self) -> None:
        """Let no worker listen to the queue of documents: they stay `waiting`."""
        self._call(self._service.knowledge.stop_indexing)

    def start_indexing(self) -> None:
        """Let workers take documents from the queue again."""
        self._call(self._service.knowledge.start_indexing)
