"""The names and marks by which a sync knows its documents again: in a knowledge base, and after a lost answer."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from airflow_provider_dify.api.knowledge_operations import DOCUMENT_NAME_CHARS

SYNC_FIELD = "airflow_sync"
SOURCE_FIELD = "airflow_source"
HASH_FIELD = "airflow_hash"
UPLOAD_FIELD = "airflow_upload"
FIELDS = (SYNC_FIELD, SOURCE_FIELD, HASH_FIELD, UPLOAD_FIELD)
"""The metadata fields by which documents tell which sync made them, of what, of which content, and by which upload.

The last one is Dify's id of the uploaded file: where a document has another one, its content was replaced since, by
somebody in Dify, or by a try that was killed before it could write down what it had uploaded.
"""

_MARK_DIGITS = 6
_SETTINGS_DIGITS = 8
_LONGEST_EXTENSION = 20
_SLASHES = re.compile(r"[\\/]+")
_NOT_IN_NAMES = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029:*?\"<>|]+")
_BLANKS = re.compile(r"\s+")


def mark_of(sync_id: str, source: str) -> str:
    """Return the mark of a document: the same in every try, and of no other source.

    :param sync_id: Which sync it is: the first half of the mark.
    :param source: What the document is made of: the URI of a file, or the key of a row.
    """
    return _digits([sync_id]) + _digits([sync_id, source])


def is_marked(name: str, sync_id: str) -> bool:
    """Tell whether a name is one that only this sync gives, to whatever source."""
    return re.search(rf" \[{_digits([sync_id])}[0-9a-f]{{{_MARK_DIGITS}}}\](\.\w+)?$", name) is not None


def _digits(words: list[str]) -> str:
    return hashlib.sha256(json.dumps(words).encode("ascii")).hexdigest()[:_MARK_DIGITS]


def document_name(sync_id: str, source: str, title: str) -> str:
    """Return the name of a document in Dify: readable, of at most 200 characters, and of no other source.

    The mark in it lets the next upload of the same source replace the document, whatever became of the answer to the
    last one, and keeps files of the same name in different folders apart. Dify takes the type of a file from the
    extension, which therefore stays.

    :param title: What people know it by: the path in its folder, or the title of a row.
    """
    path, dot, extension = title.rpartition(".")
    if not dot or not path or not extension.isalnum() or len(extension) > _LONGEST_EXTENSION:
        path, extension = title, ""
    end = f" [{mark_of(sync_id, source)}]" + (f".{extension}" if extension else "")
    words = _NOT_IN_NAMES.sub(" ", _SLASHES.sub(" - ", path.strip("/\\")))
    words = "".join(char if char.isprintable() and not "\ud800" <= char <= "\udfff" else "_" for char in words)
    # In bytes too, since a title may be of characters of four bytes each.
    words = _BLANKS.sub(" ", words).strip()[: DOCUMENT_NAME_CHARS - len(end)].strip()
    return f"{words or 'document'}{end}"


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Return a digest of the settings of indexing: with other settings a document is uploaded again."""
    text = json.dumps(settings, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:_SETTINGS_DIGITS]


def content_tag(digest: str, settings: str) -> str:
    """Return the value of the field that tells which content a document has, indexed with which settings.

    :param digest: Of the content, as hexadecimal digits.
    :param settings: From ``settings_digest``.
    """
    return f"{digest}-{settings}"


def tags(sync_id: str, source: str, content: str, upload: str | None) -> dict[str, str]:
    """Return the values by which a document is known to be this sync's.

    :param upload: Id of the uploaded file; None where it is not known.
    """
    found = {SYNC_FIELD: sync_id, SOURCE_FIELD: source, HASH_FIELD: content}
    return found if upload is None else {**found, UPLOAD_FIELD: upload}
