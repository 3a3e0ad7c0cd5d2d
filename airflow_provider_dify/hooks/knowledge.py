"""The hook for knowledge bases: one Airflow connection with a key of Dify's knowledge API."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from airflow.providers.common.compat.sdk import BaseHook

from airflow_provider_dify.api import knowledge_operations as operations
from airflow_provider_dify.api.knowledge import (
    Dataset,
    Document,
    IndexingStatus,
    MetadataField,
    UploadedDocument,
)
from airflow_provider_dify.client.opened_upload import opened_upload
from airflow_provider_dify.exceptions import DifyError
from airflow_provider_dify.names import CONN_TYPE, DEFAULT_KNOWLEDGE_CONN_NAME, HOOK_NAME
from airflow_provider_dify.rules.connection_test import test_knowledge
from airflow_provider_dify.rules.diagnosis import without_connection
from airflow_provider_dify.rules.exchanges import one
from airflow_provider_dify.runtime.loop_client import LoopClient
from airflow_provider_dify.runtime.worker_client import WorkerClient

if TYPE_CHECKING:
    from typing_extensions import Self

    from airflow_provider_dify.api.operations import Operation
    from airflow_provider_dify.client.requests_transport import SyncTransport
    from airflow_provider_dify.connection import DifyConnection

T = TypeVar("T")


class DifyKnowledgeHook(BaseHook):
    """Read and write Dify's knowledge bases over an Airflow connection of the type ``dify``.

    The connection's password is a key of the knowledge API (``dataset-…``), which opens all knowledge bases of a
    workspace; the key of an app does not. An event loop uses ``acall`` with the operations of
    ``api.knowledge_operations``. Errors are ``DifyError`` and below, and never contain the key.

    :param dify_conn_id: The Airflow connection.
    """

    conn_name_attr = "dify_conn_id"
    default_conn_name = DEFAULT_KNOWLEDGE_CONN_NAME
    conn_type = CONN_TYPE
    hook_name = HOOK_NAME

    def __init__(self, dify_conn_id: str = DEFAULT_KNOWLEDGE_CONN_NAME, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dify_conn_id = dify_conn_id
        self._worker = WorkerClient(dify_conn_id, for_knowledge=True)
        self._loop = LoopClient(dify_conn_id, for_knowledge=True)

    @property
    def connection(self) -> DifyConnection:
        """The checked connection, read once for each hook.

        :raises DifyConfigurationError: It does not exist, a field is wrong, or its key is that of an app.
        """
        return self._worker.connection

    async def aconnection(self) -> DifyConnection:
        """Return the checked connection; see ``connection``."""
        return await self._loop.connection()

    def get_conn(self) -> SyncTransport:
        """Return the transport that the worker's operations use."""
        return self._worker.get_conn()

    def redact(self, text: str) -> str:
        """Return a text of the server without the connection's secrets."""
        return self._worker.redact(text)

    def close(self) -> None:
        """Close the worker's pooled connections, of this process."""
        self._worker.close()

    async def aclose(self) -> None:
        """Close the pooled connections of the event loop that runs."""
        await self._loop.close()

    def __enter__(self) -> Self:
        """Return the hook; leaving the block closes the worker's pooled connections."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close the worker's pooled connections."""
        self.close()

    def call(self, operation: Operation[T], *, timeout: float | None = None, retry: bool = True) -> T:
        """Send an operation and return what it answers.

        :param operation: One of ``api.knowledge_operations``.
        :param timeout: Seconds for the exchange; by default the connection's time-outs together. An upload may take
            this long for each piece.
        :param retry: Whether network errors and 5xx are tried again where that is safe.
        :raises DifyError: Dify refused, or could not be reached.
        """
        return self._worker.run_exchange(one(operation, timeout=timeout, retry=retry))

    async def acall(self, operation: Operation[T], *, timeout: float | None = None, retry: bool = True) -> T:
        """Send an operation and return what it answers; see ``call``."""
        return await self._loop.run_exchange(one(operation, timeout=timeout, retry=retry))

    def test_connection(self) -> tuple[bool, str]:
        """Tell whether the connection opens knowledge bases, and what to do where it does not."""
        try:
            connection = self.connection
            ok, message = self._worker.run_exchange(test_knowledge(connection.base_url))
        except DifyError as error:
            return False, without_connection(error.message, self.dify_conn_id)
        return ok, connection.redact(message)

    # --- Knowledge bases

    def list_datasets(self, keyword: str | None = None) -> Iterator[Dataset]:
        """Yield the knowledge bases of the workspace, page by page.

        :param keyword: Part of the name.
        :raises DifyProviderError: The server's plugin daemon does not run.
        """
        number = 1
        while True:
            page = self.call(operations.list_datasets(keyword=keyword, page=number))
            yield from page.datasets
            if not (page.has_more and page.datasets):
                return
            number += 1

    def find_dataset(self, name: str) -> Dataset | None:
        """Return the knowledge base of a name; None where there is none."""
        name = operations.check_dataset_name(name, "name")
        return next((each for each in self.list_datasets(name) if each.name == name), None)

    def get_dataset(self, dataset_id: str) -> Dataset:
        """Return a knowledge base.

        :raises DifyNotFoundError: There is none of that id.
        """
        return self.call(operations.get_dataset(dataset_id))

    def create_dataset(
        self, name: str, *, indexing_technique: str | None = None, permission: str | None = None
    ) -> Dataset:
        """Create an empty knowledge base.

        :param name: 1 to 40 characters.
        :param indexing_technique: ``economy`` or ``high_quality``, which needs a default embedding model.
        :param permission: ``only_me``, ``all_team_members`` or ``partial_members``.
        :raises DifyResponseError: The name is taken (code ``dataset_name_duplicate``).
        """
        made = operations.create_dataset(name, indexing_technique=indexing_technique, permission=permission)
        return self.call(made)

    # --- Documents

    def create_document_by_text(
        self,
        dataset_id: str,
        name: str,
        text: str,
        *,
        indexing_technique: str,
        process_rule: Mapping[str, Any] | None = None,
        doc_form: str | None = None,
        doc_language: str | None = None,
    ) -> UploadedDocument:
        """Make a document of a text, or replace the enabled document of that name.

        :param indexing_technique: ``economy`` or ``high_quality``; Dify asks for it each time.
        :param process_rule: How the text is split, for example ``{"mode": "automatic"}``.
        :return: The document, and the batch by which its indexing is asked for.
        """
        return self.call(
            operations.create_document_by_text(
                dataset_id,
                name,
                text,
                indexing_technique=indexing_technique,
                process_rule=process_rule,
                doc_form=doc_form,
                doc_language=doc_language,
            )
        )

    def create_document_by_file(
        self,
        dataset_id: str,
        file: str | os.PathLike[str] | BinaryIO,
        *,
        indexing_technique: str,
        name: str | None = None,
        mime_type: str | None = None,
        process_rule: Mapping[str, Any] | None = None,
        doc_form: str | None = None,
        doc_language: str | None = None,
    ) -> UploadedDocument:
        """Make a document of a file, or replace the enabled document of that name; it is read while it is sent.

        :param file: A local path, the URI of an object, an ``ObjectStoragePath``, or a seekable binary file.
        :param name: The document's name, whose extension tells Dify the type; by default the file's.
        :raises DifyInvalidInputError: Dify does not take files of this type or size.
        :raises DifyFileError: It could not be read to its end, or changed its length meanwhile.
        """
        with opened_upload(file, name, mime_type) as upload:
            return self.call(
                operations.create_document_by_file(
                    dataset_id,
                    upload,
                    indexing_technique=indexing_technique,
                    process_rule=process_rule,
                    doc_form=doc_form,
                    doc_language=doc_language,
                )
            )

    def update_document_by_text(
        self, dataset_id: str, document_id: str, name: str, text: str, *, process_rule: Mapping[str, Any] | None = None
    ) -> UploadedDocument:
        """Replace name and text of a document that is enabled and not archived."""
        return self.call(
            operations.update_document_by_text(dataset_id, document_id, name, text, process_rule=process_rule)
        )

    def list_documents(
        self, dataset_id: str, *, keyword: str | None = None, status: str | None = None
    ) -> Iterator[Document]:
        """Yield the documents of a knowledge base, newest first, 100 for each request.

        :param keyword: Part of the name.
        :param status: ``queuing``, ``indexing``, ``paused``, ``error``, ``available``, ``disabled`` or ``archived``.
        """
        number = 1
        while True:
            page = self.call(operations.list_documents(dataset_id, keyword=keyword, status=status, page=number))
            yield from page.documents
            if not (page.has_more and page.documents):
                return
            number += 1

    def get_document(self, dataset_id: str, document_id: str) -> Document:
        """Return a document.

        :raises DifyNotFoundError: There is none of that id.
        """
        return self.call(operations.get_document(dataset_id, document_id))

    def get_indexing_status(self, dataset_id: str, batch: str) -> tuple[IndexingStatus, ...]:
        """Return how far the documents of an upload are.

        :param batch: From the answer to the upload.
        :raises DifyNotFoundError: The document was deleted, or uploaded again, which gives it another batch.
        """
        return self.call(operations.indexing_status(dataset_id, batch))

    def change_document_status(self, dataset_id: str, action: str, document_ids: Sequence[str]) -> None:
        """Enable, disable, archive or un-archive documents; ids that Dify does not know are passed over.

        :param action: ``enable``, ``disable``, ``archive`` or ``un_archive``.
        """
        self.call(operations.change_status(dataset_id, action, document_ids))

    def delete_document(self, dataset_id: str, document_id: str) -> None:
        """Delete a document.

        :raises DifyNotFoundError: There is none of that id.
        :raises DifyPermissionError: It is archived.
        """
        self.call(operations.delete_document(dataset_id, document_id))

    # --- Metadata

    def list_metadata_fields(self, dataset_id: str) -> tuple[MetadataField, ...]:
        """Return the metadata fields of a knowledge base, without those that Dify keeps itself."""
        return self.call(operations.list_metadata(dataset_id))

    def create_metadata_field(self, dataset_id: str, name: str, kind: str = "string") -> MetadataField:
        """Create a metadata field.

        :param kind: ``string``, ``number`` or ``time``.
        :raises DifyInvalidInputError: There is one of that name.
        """
        return self.call(operations.create_metadata(dataset_id, name, kind))

    def set_document_metadata(self, dataset_id: str, values: Mapping[str, Sequence[tuple[MetadataField, Any]]]) -> None:
        """Set the metadata of documents. What a document has besides is dropped by Dify.

        :param values: For each document id all fields and values that it is to have.
        """
        self.call(operations.set_metadata(dataset_id, values))
