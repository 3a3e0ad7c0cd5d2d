"""Answers of the knowledge API, key for key as real servers give them."""

from __future__ import annotations

import hashlib
from typing import Any

from airflow_provider_dify.testing.knowledge import (
    ACCOUNT_ID,
    KnowledgeBase,
    KnowledgeDocument,
    MetadataFieldRow,
    Segment,
)

_AUTHOR = "admin"
_AUTOMATIC = {
    "pre_processing_rules": [
        {"id": "remove_extra_spaces", "enabled": True},
        {"id": "remove_urls_emails", "enabled": False},
    ],
    "segmentation": {"delimiter": "\n", "max_tokens": 500, "chunk_overlap": 50},
}
_RETRIEVAL = {
    "search_method": "semantic_search",
    "reranking_enable": False,
    "reranking_mode": None,
    "reranking_model": {"reranking_provider_name": "", "reranking_model_name": ""},
    "weights": None,
    "top_k": 2,
    "score_threshold_enabled": False,
    "score_threshold": None,
}


def dataset_body(base: KnowledgeBase, documents: list[KnowledgeDocument]) -> dict[str, Any]:
    """Return a knowledge base."""
    at = int(base.created_at)
    return {
        "id": base.id,
        "name": base.name,
        "description": "",
        "provider": "vendor",
        "permission": base.permission,
        "data_source_type": "upload_file" if documents else None,
        "indexing_technique": base.indexing_technique,
        "app_count": 0,
        "document_count": len(documents),
        "word_count": sum(document.word_count or 0 for document in documents),
        "created_by": ACCOUNT_ID,
        "author_name": _AUTHOR,
        "created_at": at,
        "updated_by": ACCOUNT_ID,
        "updated_at": at,
        "embedding_model": None,
        "embedding_model_provider": None,
        "embedding_available": None,
        "retrieval_model_dict": _RETRIEVAL,
        "summary_index_setting": {
            "enable": None,
            "model_name": None,
            "model_provider_name": None,
            "summary_prompt": None,
        },
        "tags": [],
        "doc_form": "text_model" if documents else None,
        "external_knowledge_info": {
            "external_knowledge_id": None,
            "external_knowledge_api_id": None,
            "external_knowledge_api_name": None,
            "external_knowledge_api_endpoint": None,
        },
        "external_retrieval_model": {"top_k": 2, "score_threshold": 0.0, "score_threshold_enabled": None},
        "doc_metadata": [field_body(each) for each in base.fields],
        "built_in_field_enabled": False,
        "pipeline_id": None,
        "runtime_mode": "general",
        "chunk_structure": None,
        "icon_info": {"icon_type": None, "icon": None, "icon_background": None, "icon_url": None},
        "is_published": False,
        "total_documents": len(documents),
        "total_available_documents": sum(document.display_status == "available" for document in documents),
        "enable_api": True,
        "is_multimodal": False,
        "maintainer": ACCOUNT_ID,
    }


def field_body(each: MetadataFieldRow) -> dict[str, Any]:
    """Return a metadata field."""
    return {"id": each.id, "type": each.type, "name": each.name}


def row_body(document: KnowledgeDocument, base: KnowledgeBase) -> dict[str, Any]:
    """Return a document as lists and uploads show it."""
    return {
        "id": document.id,
        "position": document.position,
        "data_source_type": "upload_file",
        "data_source_info": {"upload_file_id": document.upload.id},
        "data_source_detail_dict": {"upload_file": _file_body(document)},
        "dataset_process_rule_id": document.rule_id,
        "name": document.name,
        "created_from": document.created_from,
        "created_by": ACCOUNT_ID,
        "created_at": int(document.created_at),
        "tokens": document.tokens,
        "indexing_status": document.state,
        "error": document.error,
        **_standing(document),
        "display_status": document.display_status,
        "word_count": document.word_count,
        "hit_count": 0,
        "doc_form": document.doc_form,
        "doc_metadata": metadata_body(document, base),
        "summary_index_status": None,
        "need_summary": False,
    }


def document_body(document: KnowledgeDocument, base: KnowledgeBase, metadata: str | None) -> dict[str, Any]:
    """Return a document as GET of one shows it.

    :param metadata: `only`, `without`, or None for everything.
    """
    described = {"doc_type": None, "doc_metadata": metadata_body(document, base) or None}
    if metadata == "only":
        return {"id": document.id, **described}
    rule = {"mode": document.rule.get("mode", "automatic"), "rules": document.rule.get("rules") or _AUTOMATIC}
    words = sum(len(segment.content) for segment in document.segments)
    completed = document.times.get("completed") if document.state != "error" else None
    return {
        "id": document.id,
        "position": document.position,
        "data_source_type": "upload_file",
        "data_source_info": {"upload_file": _file_body(document)},
        "dataset_process_rule_id": document.rule_id,
        "dataset_process_rule": rule,
        "document_process_rule": {"id": document.rule_id, "dataset_id": base.id, **rule},
        "name": document.name,
        "created_from": document.created_from,
        "created_by": ACCOUNT_ID,
        "created_at": int(document.created_at),
        "tokens": document.tokens,
        "indexing_status": document.state,
        "completed_at": None if completed is None else int(completed),
        "updated_at": int(document.updated_at),
        "indexing_latency": document.latency,
        "error": document.error,
        **_standing(document),
        **(described if metadata is None else {}),
        "segment_count": len(document.segments),
        "average_segment_length": words // len(document.segments) if document.segments else 0,
        "hit_count": 0,
        "display_status": document.display_status,
        "doc_form": document.doc_form,
        "doc_language": document.doc_language,
        "summary_index_status": None,
        "need_summary": False,
    }


def _standing(document: KnowledgeDocument) -> dict[str, Any]:
    return {
        "enabled": document.enabled,
        "disabled_at": None if document.disabled_at is None else int(document.disabled_at),
        "disabled_by": None if document.disabled_at is None else ACCOUNT_ID,
        "archived": document.archived,
    }


def _file_body(document: KnowledgeDocument) -> dict[str, Any]:
    upload = document.upload
    return {
        "id": upload.id,
        "name": upload.name,
        "size": upload.size,
        "extension": upload.extension,
        "mime_type": upload.mime_type,
        "created_by": ACCOUNT_ID,
        "created_at": upload.at,
    }


def metadata_body(document: KnowledgeDocument, base: KnowledgeBase) -> list[dict[str, Any]]:
    """Return the metadata of a document; Dify adds its own as soon as there is any."""
    if not document.metadata:
        return []
    own = [
        {"id": each.id, "name": each.name, "type": each.type, "value": document.metadata[each.name]}
        for each in base.fields
        if each.name in document.metadata
    ]
    built_in = (
        ("document_name", "string", document.name),
        ("uploader", "string", _AUTHOR),
        ("upload_date", "time", str(float(int(document.created_at)))),
        ("last_update_date", "time", str(document.updated_at)),
        ("source", "string", "file_upload"),
    )
    return own + [{"id": "built-in", "name": name, "type": kind, "value": value} for name, kind, value in built_in]


def status_body(document: KnowledgeDocument) -> dict[str, Any]:
    """Return how far the indexing of a document is."""
    times = {
        name: None if document.times.get(name) is None else int(document.times[name] or 0.0)
        for name in ("processing", "parsing", "cleaning", "splitting", "completed")
    }
    return {
        "id": document.id,
        "indexing_status": document.state,
        "processing_started_at": times["processing"],
        "parsing_completed_at": times["parsing"],
        "cleaning_completed_at": times["cleaning"],
        "splitting_completed_at": times["splitting"],
        "completed_at": times["completed"],
        "paused_at": None,
        "error": document.error,
        "error_code": None,
        "estimated_vector_space_mb": None,
        "vector_space_limit_mb": None,
        "stopped_at": None,
        "completed_segments": document.completed_segments,
        "total_segments": len(document.segments),
    }


def segment_body(segment: Segment, document: KnowledgeDocument) -> dict[str, Any]:
    """Return a segment."""
    at = int(segment.at)
    return {
        "id": segment.id,
        "position": segment.position,
        "document_id": document.id,
        "content": segment.content,
        "sign_content": segment.content,
        "answer": None,
        "word_count": len(segment.content),
        "tokens": 0,
        "keywords": segment.keywords,
        "index_node_id": segment.node_id,
        "index_node_hash": hashlib.sha256(segment.content.encode()).hexdigest(),
        "hit_count": 0,
        "enabled": True,
        "disabled_at": None,
        "disabled_by": None,
        "status": "completed",
        "created_by": ACCOUNT_ID,
        "created_at": at,
        "updated_at": at,
        "updated_by": None,
        "indexing_at": at,
        "completed_at": at,
        "error": None,
        "stopped_at": None,
        "child_chunks": [],
        "attachments": [],
        "summary": None,
    }
