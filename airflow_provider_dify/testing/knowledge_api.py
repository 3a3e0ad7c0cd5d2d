"""The routes of Dify's knowledge API."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from airflow_provider_dify.testing.errors import ApiError, invalid_param, unauthorized
from airflow_provider_dify.testing.faults import INDEXING_FAULTS
from airflow_provider_dify.testing.files import is_uuid
from airflow_provider_dify.testing.knowledge import (
    DATASET_KEY,
    INDEXED_TYPES,
    KnowledgeBase,
    KnowledgeDocument,
    Segment,
    StoredUpload,
    keywords_of,
)
from airflow_provider_dify.testing.knowledge_bodies import (
    dataset_body,
    document_body,
    field_body,
    row_body,
    segment_body,
    status_body,
)
from airflow_provider_dify.testing.multipart import Content, read_form
from airflow_provider_dify.testing.service import Service, json_response, parse_json
from airflow_provider_dify.testing.validation import refusal
from airflow_provider_dify.testing.versions import MEBIBYTE

_DATASET = "/v1/datasets/{dataset_id}"
_DOCUMENT = _DATASET + "/documents/{document_id}"
_MAX_PAGE_ROWS = 100
_NAME_CHARS = 40
_ACTIONS = ("enable", "disable", "archive", "un_archive")
_SHOWN = ("queuing", "indexing", "paused", "error", "available", "disabled", "archived")
_PLUGIN_DAEMON = "Failed to request plugin daemon, url: plugin/{}/management/models"


class KnowledgeApi:
    """Answers the knowledge API's requests as Dify 1.16.1 does."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._bases = service.knowledge

    def routes(self) -> list[tuple[str, str, Any, str]]:
        """Return method, path, handler and fault point of every route."""
        return [
            ("GET", "/v1/datasets", self.list_datasets, "datasets"),
            ("POST", "/v1/datasets", self.create_dataset, "datasets"),
            ("GET", "/v1/datasets/tags", self.tags, "any"),
            ("GET", _DATASET, self.get_dataset, "datasets"),
            ("POST", _DATASET + "/document/create-by-text", self.create_by_text, "document_upload"),
            ("POST", _DATASET + "/document/create_by_text", self.create_by_text, "document_upload"),
            ("POST", _DATASET + "/document/create-by-file", self.create_by_file, "document_upload"),
            ("POST", _DATASET + "/document/create_by_file", self.create_by_file, "document_upload"),
            ("GET", _DATASET + "/documents", self.list_documents, "document_list"),
            ("POST", _DATASET + "/documents/metadata", self.set_metadata, "document_metadata"),
            ("PATCH", _DATASET + "/documents/status/{action}", self.change_status, "document_status"),
            ("GET", _DATASET + "/documents/{batch}/indexing-status", self.indexing_status, "indexing_status"),
            ("POST", _DOCUMENT + "/update-by-text", self.update_by_text, "document_upload"),
            ("GET", _DOCUMENT + "/segments", self.list_segments, "any"),
            ("POST", _DOCUMENT + "/segments", self.add_segments, "any"),
            ("GET", _DOCUMENT, self.get_document, "any"),
            ("DELETE", _DOCUMENT, self.delete_document, "document_delete"),
            ("GET", _DATASET + "/metadata", self.list_metadata, "any"),
            ("POST", _DATASET + "/metadata", self.create_metadata, "any"),
            ("POST", _DATASET + "/retrieve", self.retrieve, "any"),
        ]

    def _authenticate(self, request: web.Request) -> None:
        _, _, key = request.headers.get("Authorization", "").strip().partition(" ")
        if not key:
            raise unauthorized("Authorization header must be provided and start with 'Bearer'")
        if key.strip() != DATASET_KEY:
            raise unauthorized("Access token is invalid")

    def _base(self, request: web.Request, others: str = "") -> KnowledgeBase:
        """Return the knowledge base of a request.

        :param others: routes that the message suggests, as Dify does for POST.
        """
        self._authenticate(request)
        dataset_id = request.match_info["dataset_id"]
        if not is_uuid(dataset_id):
            raise web.HTTPNotFound
        base = self._bases.bases.get(dataset_id)
        if base is None:
            raise ApiError(404, "not_found", f"Dataset not found.{_suggesting(request, others)}")
        return base

    def _document(self, request: web.Request, base: KnowledgeBase, message: str) -> KnowledgeDocument:
        self._bases.documents(base)
        document = base.documents.get(request.match_info["document_id"])
        if document is None:
            raise ApiError(404, "not_found", message)
        return document

    def _require_plugins(self) -> None:
        if not self._bases.plugin_daemon:
            raise invalid_param(_PLUGIN_DAEMON.format("62a28857-5746-4410-8302-1b463fa0a694"))

    def _refuse(self, model: str, field: str, text: str, kind: str, value: Any) -> ApiError:
        return refusal(field, text, kind, value, model, self._service.version)

    async def list_datasets(self, request: web.Request) -> web.Response:
        """List the knowledge bases."""
        self._authenticate(request)
        self._require_plugins()
        keyword = request.query.get("keyword", "").lower()
        found = [base for base in self._bases.bases.values() if keyword in base.name.lower()]
        rows, page = _paged(request, found)
        return json_response({"data": [self._dataset_row(base) for base in rows], **page})

    def _dataset_row(self, base: KnowledgeBase) -> dict[str, Any]:
        return dataset_body(base, self._bases.documents(base))

    async def get_dataset(self, request: web.Request) -> web.Response:
        """Show one knowledge base."""
        base = self._base(request)
        self._require_plugins()
        return json_response(self._dataset_row(base))

    async def create_dataset(self, request: web.Request) -> web.Response:
        """Make an empty knowledge base."""
        self._authenticate(request)
        body = await _json_object(request)
        name = body.get("name")
        if name is None:
            raise self._refuse("DatasetCreatePayload", "name", "Field required", "missing", body)
        if len(name) > _NAME_CHARS:
            text = f"String should have at most {_NAME_CHARS} characters"
            raise self._refuse("DatasetCreatePayload", "name", text, "string_too_long", name)
        if self._bases.named(name):
            message = "The dataset name already exists. Please modify your dataset name."
            raise ApiError(409, "dataset_name_duplicate", message)
        technique = body.get("indexing_technique")
        if technique == "high_quality":
            self._require_plugins()
        base = self._bases.create(name, technique, body.get("permission") or "only_me")
        return json_response(self._dataset_row(base))

    async def tags(self, request: web.Request) -> web.Response:
        """List the tags: there are none."""
        self._authenticate(request)
        return json_response([])

    async def create_by_text(self, request: web.Request) -> web.Response:
        """Make or replace a document of a text."""
        base = self._base(request, "document/create-by-text document/create_by_text document/create-by-file")
        body = await _json_object(request)
        if "text" not in body:
            raise self._refuse("DocumentTextCreatePayload", "text", "Field required", "missing", body)
        if body.get("doc_form") not in (None, "text_model", "qa_model", "hierarchical_model"):
            text = "Value error, Invalid doc_form."
            raise self._refuse("DocumentTextCreatePayload", "doc_form", text, "value_error", body["doc_form"])
        upload = StoredUpload.of(str(body.get("name"))[:200], Content(body["text"].encode()), "text/plain", "txt")
        return self._put(base, upload, body)

    async def create_by_file(self, request: web.Request) -> web.Response:
        """Make or replace a document of a file."""
        base = self._base(request, "document/create-by-file document/create-by-text document/create_by_file")
        fields, files = await read_form(request)
        part = files.get("file")
        if part is None:
            raise ApiError(400, "no_file_uploaded", "Please upload your file.")
        if "/" in part.name or "\\" in part.name:
            raise invalid_param("Filename contains invalid characters")
        upload = StoredUpload.of(_cut(part.name), part.content, part.mime_type or "application/octet-stream")
        if upload.extension not in INDEXED_TYPES:
            raise invalid_param("")
        if upload.size > self._service.upload_limit * MEBIBYTE:
            raise ApiError(413, "file_too_large")
        return self._put(base, upload, json.loads(fields.get("data") or "{}"))

    def _put(self, base: KnowledgeBase, upload: StoredUpload, body: Mapping[str, Any]) -> web.Response:
        technique = body.get("indexing_technique")
        if technique is None:
            whole = {**body, "data_source": _data_source(upload)}
            raise self._refuse("KnowledgeConfig", "indexing_technique", "Field required", "missing", whole)
        base.indexing_technique = base.indexing_technique or technique
        document = self._bases.put(
            base,
            upload,
            rule=body.get("process_rule"),
            doc_form=body.get("doc_form") or "text_model",
            doc_language=body.get("doc_language") or "English",
            fault=self._service.faults.take("document_upload", None, INDEXING_FAULTS),
        )
        return json_response({"document": row_body(document, base), "batch": document.batch})

    async def update_by_text(self, request: web.Request) -> web.Response:
        """Replace name and text of a document."""
        base = self._base(request)
        body = await _json_object(request)
        if body.get("text") is not None and not body.get("name"):
            text = "Value error, name is required when text is provided"
            raise self._refuse("DocumentTextUpdate", "", text, "value_error", body)
        document = self._document(request, base, "Document not found")
        if document.display_status != "available":
            raise invalid_param("Document is not available")
        upload = StoredUpload.of(str(body["name"])[:200], Content(body["text"].encode()), "text/plain", "txt")
        document.put_back(upload, None, time.time())
        document.name, document.created_from = upload.name, "web"
        self._bases.enqueue(document, self._service.faults.take("document_upload", None, INDEXING_FAULTS))
        return json_response({"document": row_body(document, base), "batch": document.batch})

    async def list_documents(self, request: web.Request) -> web.Response:
        """List documents, newest first. A status that is none is no filter."""
        base = self._base(request)
        keyword, status = request.query.get("keyword", "").lower(), request.query.get("status")
        found = [document for document in self._bases.documents(base) if keyword in document.name.lower()]
        if status in _SHOWN:
            found = [document for document in found if document.display_status == status]
        rows, page = _paged(request, found)
        return json_response({"data": [row_body(document, base) for document in rows], **page})

    async def get_document(self, request: web.Request) -> web.Response:
        """Show one document."""
        base = self._base(request)
        document = self._document(request, base, "Document not found.")
        return json_response(document_body(document, base, request.query.get("metadata")))

    async def delete_document(self, request: web.Request) -> web.Response:
        """Delete one document."""
        base = self._base(request)
        document = self._document(request, base, "Document Not Exists.")
        if document.archived:
            raise ApiError(403, "archived_document_immutable", "The archived document is not editable.")
        del base.documents[document.id]
        return web.Response(status=204, headers={"Content-Type": "application/json"})

    async def change_status(self, request: web.Request) -> web.Response:
        """Enable, disable, archive or un-archive documents; unknown ids are passed over."""
        base = self._base(request)
        action = request.match_info["action"]
        if action not in _ACTIONS:
            raise ApiError(400, "invalid_action", f"Invalid action: {action}. Must be one of {list(_ACTIONS)}")
        body = await _json_object(request)
        self._bases.documents(base)
        for document_id in body.get("document_ids") or ():
            document = base.documents.get(document_id)
            if document is None:
                continue
            if action in ("enable", "disable"):
                document.enabled = action == "enable"
                document.disabled_at = None if document.enabled else time.time()
            else:
                document.archived = action == "archive"
            document.updated_at = time.time()
        return json_response({"result": "success"})

    async def indexing_status(self, request: web.Request) -> web.Response:
        """Show how far the documents of a batch are."""
        base = self._base(request)
        batch = request.match_info["batch"]
        found = [document for document in self._bases.documents(base) if document.batch == batch]
        if not found:
            raise ApiError(404, "not_found", "Documents not found.")
        return json_response({"data": [status_body(document) for document in found]})

    async def list_segments(self, request: web.Request) -> web.Response:
        """List the segments of a document."""
        base = self._base(request)
        document = self._document(request, base, "Document not found.")
        rows, page = _paged(request, document.segments)
        data = [segment_body(segment, document) for segment in rows]
        return json_response({"data": data, "doc_form": document.doc_form, **page})

    async def add_segments(self, request: web.Request) -> web.Response:
        """Add segments to a document."""
        base = self._base(request)
        document = self._document(request, base, "Document not found.")
        body = await _json_object(request)
        added = []
        for each in body.get("segments") or ():
            keywords = each.get("keywords") or keywords_of(each["content"])
            added.append(Segment(each["content"], len(document.segments) + 1, keywords))
            document.segments.append(added[-1])
        return json_response(
            {"data": [segment_body(segment, document) for segment in added], "doc_form": document.doc_form}
        )

    async def list_metadata(self, request: web.Request) -> web.Response:
        """List the metadata fields of a knowledge base."""
        base = self._base(request)
        rows = [
            {
                **field_body(each),
                "count": sum(each.name in (document.metadata or {}) for document in base.documents.values()),
            }
            for each in base.fields
        ]
        return json_response({"doc_metadata": rows, "built_in_field_enabled": False})

    async def create_metadata(self, request: web.Request) -> web.Response:
        """Make a metadata field."""
        base = self._base(request)
        body = await _json_object(request)
        if any(each.name == body.get("name") for each in base.fields):
            raise invalid_param("Metadata name already exists.")
        return json_response(field_body(self._bases.add_field(base, body["name"], body["type"])), 201)

    async def set_metadata(self, request: web.Request) -> web.Response:
        """Set the metadata of documents; what is left out is dropped."""
        base = self._base(request)
        body = await _json_object(request)
        for operation in body.get("operation_data") or ():
            document = base.documents.get(operation["document_id"])
            if document is None:
                raise ApiError(404, "not_found", f"Document not found.{_suggesting(request, 'documents/metadata')}")
            document.metadata = {each["name"]: each.get("value") for each in operation["metadata_list"]}
            document.updated_at = time.time()
        return json_response({"result": "success"})

    async def retrieve(self, request: web.Request) -> web.Response:
        """Search: nothing is ever found, since there is no index."""
        self._base(request)
        body = await _json_object(request)
        if not body.get("retrieval_model"):
            raise invalid_param("Vector store must be specified.")
        return json_response({"query": {"content": body.get("query")}, "records": []})


async def _json_object(request: web.Request) -> dict[str, Any]:
    body = parse_json(request.headers.get("Content-Type", ""), await request.read())
    if not isinstance(body, dict):
        raise invalid_param("The body must be a JSON object.")
    return body


def _paged(request: web.Request, rows: list[Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return the rows of the asked page, at most 100, and what the answer says of it."""
    page, limit = int(request.query.get("page", 1)), int(request.query.get("limit", 20))
    size = min(limit, _MAX_PAGE_ROWS)
    start = (page - 1) * size
    more = len(rows) > start + size
    return rows[start : start + size], {"has_more": more, "limit": limit, "total": len(rows), "page": page}


def _suggesting(request: web.Request, routes: str) -> str:
    if not routes:
        return ""
    known = " or ".join(f"/v1/datasets/<uuid:dataset_id>/{route}" for route in routes.split())
    return f" You have requested this URI [{request.path}] but did you mean {known} ?"


def _cut(name: str) -> str:
    """Return a name as Dify keeps it: a long one is cut at its first dot, and after 200 characters."""
    if len(name) <= 200:
        return name
    return f"{name.split('.')[0][:200]}.{name.rpartition('.')[2].lower()}"


def _data_source(upload: StoredUpload) -> dict[str, Any]:
    files = {"file_ids": [upload.id]}
    return {"type": "upload_file", "info_list": {"data_source_type": "upload_file", "file_info_list": files}}
