"""Uploads the documents of a sync side by side, and tags them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass
from mimetypes import guess_type
from threading import Event
from typing import Any, BinaryIO, cast

from airflow_provider_dify.api import knowledge_operations as operations
from airflow_provider_dify.api.knowledge import Document, MetadataField, UploadedDocument
from airflow_provider_dify.api.operations import Upload as FilePart
from airflow_provider_dify.client.deadlines import is_too_late
from airflow_provider_dify.exceptions import DifyError, DifyInvalidInputError, DifyNotFoundError
from airflow_provider_dify.rules.knowledge_names import FIELDS, content_tag, mark_of, settings_digest
from airflow_provider_dify.rules.knowledge_sync import SourceDocument, Upload, metadata_for
from airflow_provider_dify.rules.knowledge_uploads import (
    MAX_ATTEMPTS,
    Follows,
    follows_failure,
    made_by_lost_upload,
    pause_before_next,
    reason_of_refusal,
    too_large,
)
from airflow_provider_dify.rules.uploads import UNKNOWN_MIME_TYPE
from airflow_provider_dify.runtime.knowledge_source import HashingStream, Piece

DOCUMENTS_A_CALL = 20
"""Documents whose metadata is set in one request. Until then their names tell that they are this sync's."""


@dataclass(frozen=True)
class Uploaded:
    """What became of one upload.

    :param document: The document; None where it was refused.
    :param content: Tag of the content that was sent.
    :param reason: Why it was refused.
    """

    upload: Upload
    document: Document | None = None
    content: str = ""
    reason: str = ""


class Uploader:
    """Uploads and tags the documents of one sync.

    :param hook: The hook of the connection.
    :param dataset_id: The knowledge base.
    :param sync_id: Which sync.
    :param settings: The settings of indexing.
    :param pieces: The source's pieces, by their sources.
    :param at_a_time: Uploads side by side.
    """

    def __init__(
        self,
        hook: Any,
        dataset_id: str,
        sync_id: str,
        settings: Mapping[str, Any],
        pieces: Mapping[str, Piece],
        at_a_time: int,
    ) -> None:
        self._hook = hook
        self._dataset_id = dataset_id
        self._sync_id = sync_id
        self._settings = dict(settings)
        self._digest = settings_digest(settings)
        self._pieces = pieces
        self._at_a_time = at_a_time
        self._stop = Event()
        self._refused_size: int | None = None
        self._fields: dict[str, MetadataField] = {}

    def stop(self) -> None:
        """Send nothing more."""
        self._stop.set()

    def upload(self, uploads: Sequence[Upload]) -> Iterator[Uploaded]:
        """Upload documents, and yield what became of each once it is tagged, or refused.

        :raises DifyError: Nothing more can be uploaded. What was uploaded before it is tagged.
        """
        # The transport is made here, and not by several threads at once.
        self._hook.get_conn()
        todo = iter(uploads)
        untagged: list[Uploaded] = []
        pool = ThreadPoolExecutor(self._at_a_time, thread_name_prefix="dify-upload")
        running: set[Future[Uploaded]] = set()
        failure: DifyError | None = None
        try:
            while True:
                while failure is None and len(running) < self._at_a_time and (each := next(todo, None)) is not None:
                    running.add(pool.submit(copy_context().run, self._upload_one, each))
                if not running:
                    break
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    try:
                        result = future.result()
                    except DifyError as error:
                        failure = failure or error
                        self.stop()
                        continue
                    if result.document is None:
                        yield result
                    else:
                        untagged.append(result)
                if len(untagged) >= DOCUMENTS_A_CALL:
                    yield from self._tagged(untagged)
                    untagged = []
            try:
                yield from self._tagged(untagged)
            except DifyError:
                # Their names tell the next try that they are this sync's.
                if failure is None:
                    raise
        finally:
            # Also when the task is killed meanwhile: nobody waits for the others then.
            self.stop()
            pool.shutdown(wait=False, cancel_futures=True)
        if failure is not None:
            raise failure

    def _tagged(self, uploaded: Sequence[Uploaded]) -> Sequence[Uploaded]:
        self.tag([(each.upload.item, each.content, each.document) for each in uploaded if each.document is not None])
        return uploaded

    def tag(self, documents: Sequence[tuple[SourceDocument, str, Document]]) -> None:
        """Set the metadata of documents: what they are made of, and what the author gives them.

        :param documents: Items with the tag of the content that their documents have.
        """
        for start in range(0, len(documents), DOCUMENTS_A_CALL):
            values = {
                document.id: self._values(metadata_for(item, self._sync_id, content, document))
                for item, content, document in documents[start : start + DOCUMENTS_A_CALL]
            }
            try:
                self._hook.call(operations.set_metadata(self._dataset_id, values))
            except DifyNotFoundError:
                # Somebody has deleted one of them meanwhile; the answer does not name it.
                for document_id, each in values.items():
                    self._tag_one(document_id, each)

    def _tag_one(self, document_id: str, values: Sequence[tuple[MetadataField, Any]]) -> None:
        try:
            self._hook.call(operations.set_metadata(self._dataset_id, {document_id: values}))
        except DifyNotFoundError as error:
            self._hook.log.warning("Document %s was deleted by somebody meanwhile: %s", document_id, error.message)

    def _values(self, metadata: Mapping[str, Any]) -> list[tuple[MetadataField, Any]]:
        return [(self._field(name, value), value) for name, value in metadata.items()]

    def _field(self, name: str, value: Any) -> MetadataField:
        """Return the metadata field of a name; make it where there is none."""
        if not self._fields:
            self._read_fields()
        if name not in self._fields:
            kind = "string" if name in FIELDS or isinstance(value, str) else "number"
            try:
                self._fields[name] = self._hook.create_metadata_field(self._dataset_id, name, kind)
            except DifyInvalidInputError:
                # Another task has made it at the same moment.
                self._read_fields()
                if name not in self._fields:
                    raise
        return self._fields[name]

    def _read_fields(self) -> None:
        self._fields = {each.name: each for each in self._hook.list_metadata_fields(self._dataset_id)}

    def _upload_one(self, upload: Upload) -> Uploaded:
        """Upload a document, again after errors that may pass.

        :raises DifyError: Nothing more can be uploaded, or there is no time left.
        """
        size = upload.item.size
        if size is not None and self._refused_size is not None and size >= self._refused_size:
            return Uploaded(upload, reason=too_large(None))
        content = str(upload.item.content)
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                sent, content = self._send(upload)
                return Uploaded(upload, sent.document, content)
            except DifyError as error:
                follows = follows_failure(error)
                if follows is Follows.REFUSED:
                    self._remember_size(error, size)
                    return Uploaded(upload, reason=reason_of_refusal(error, upload.item.title))
                if follows is Follows.STOP or attempt == MAX_ATTEMPTS or is_too_late() or self._stop.is_set():
                    raise
                found = self._after_pause(upload, attempt, error, polls=follows is Follows.UNKNOWN)
                if found is not None:
                    return Uploaded(upload, found, content)
        raise AssertionError("the last attempt returns or raises")

    def _after_pause(self, upload: Upload, attempt: int, error: DifyError, *, polls: bool) -> Document | None:
        """Wait, and return the document that an upload has made whose answer was lost; None to send it again.

        :raises DifyError: The sync was stopped, or there is no time left.
        """
        while True:
            self._stop.wait(pause_before_next(attempt, error, random.random()))
            if self._stop.is_set() or is_too_late():
                raise error
            if not polls or upload.document is not None:
                return None
            try:
                mark = mark_of(self._sync_id, upload.item.source)
                page = self._hook.call(operations.list_documents(self._dataset_id, keyword=mark), retry=False)
            except DifyError as failure:
                if follows_failure(failure) is Follows.STOP:
                    raise
                # Before nobody has looked, nothing is sent again.
                attempt += 1
                continue
            return made_by_lost_upload(page.documents, upload.name)

    def _send(self, upload: Upload) -> tuple[UploadedDocument, str]:
        piece = self._pieces[upload.item.source]
        if piece.text is not None:
            made = operations.create_document_by_text(self._dataset_id, upload.name, piece.text, **self._settings)
            return self._hook.call(made, retry=False), str(upload.item.content)
        assert piece.open is not None
        with piece.open() as stream:
            hashing = HashingStream(stream)
            name = upload.name
            part = FilePart(cast(BinaryIO, hashing), name, guess_type(name)[0] or UNKNOWN_MIME_TYPE)
            made = operations.create_document_by_file(self._dataset_id, part, **self._settings)
            sent = self._hook.call(made, retry=False)
        # The file may have changed since the plan was made.
        return sent, content_tag(hashing.digest(), self._digest)

    def _remember_size(self, error: DifyError, size: int | None) -> None:
        if error.status_code == 413 and size is not None:
            self._refused_size = size if self._refused_size is None else min(size, self._refused_size)
