"""Uploaded and remote files, as runs see them."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import mimetypes
import secrets
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote, urlsplit

from airflow_provider_dify.testing.apps import TENANT_ID
from airflow_provider_dify.testing.multipart import Content
from airflow_provider_dify.testing.runs import EndUser
from airflow_provider_dify.testing.versions import Version
from airflow_provider_dify.testing.workflows import OutputFile

_TYPES = {
    "image": {"jpg", "jpeg", "png", "webp", "gif", "svg"},
    "video": {"mp4", "mov", "mpeg", "webm"},
    "audio": {"mp3", "m4a", "wav", "amr", "mpga"},
    "document": {
        "txt", "md", "markdown", "mdx", "pdf", "html", "htm", "xlsx", "xls", "vtt", "properties", "doc",
        "docx", "csv", "eml", "msg", "ppt", "pptx", "xml", "epub", "json", "yaml", "yml",
    },
}  # fmt: skip
_UNREACHABLE_AFTER = 3.5

URL_SECONDS = 300.0
"""Seconds for which a signed URL is good, unless a server is set up otherwise."""


class InvalidFileError(ValueError):
    """A file that a run may not have; the text is the server's message."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One upload, or one file that a workflow has made.

    :param made: Whether a workflow has made it: Dify keeps those apart, as files of tools.
    """

    id: str
    name: str
    content: Content
    mime_type: str
    owner: EndUser
    created_at: float
    source_url: str
    made: bool = False

    @property
    def extension(self) -> str:
        """The name's extension, without the dot."""
        return PurePosixPath(self.name).suffix.lstrip(".").lower()


class FileStore:
    """The files of one server. Nothing is ever fetched from anywhere.

    :param remote_files: contents of the URLs that exist for this server; every other one is unreachable.
        None: every URL is taken as reachable, of unknown size.
    :param time_scale: factor on the time that an unreachable URL takes.
    :param url_seconds: how long a signed URL is good.
    """

    def __init__(
        self, remote_files: Mapping[str, bytes] | None, time_scale: float, url_seconds: float = URL_SECONDS
    ) -> None:
        self._remote_files = remote_files
        self._time_scale = time_scale
        self._url_seconds = url_seconds
        self._secret = secrets.token_bytes(32)
        self._files: dict[str, StoredFile] = {}
        self.base_url = ""

    def add(
        self, name: str, content: Content | bytes, mime_type: str | None, owner: EndUser, *, made: bool = False
    ) -> StoredFile:
        """Keep an upload, or what a workflow has made."""
        file_id = str(uuid.uuid4())
        stored = StoredFile(
            id=file_id,
            name=name,
            content=Content(content) if isinstance(content, bytes) else content,
            mime_type=mime_type or mimetypes.guess_type(name)[0] or "application/octet-stream",
            owner=owner,
            created_at=time.time(),
            source_url="" if made else self._signed_url(file_id),
            made=made,
        )
        self._files[file_id] = stored
        return stored

    def placed(self, outputs: Any, version: Version, owner: EndUser) -> Any:
        """Return outputs in which the files that a workflow has made are kept and described as Dify does."""
        if isinstance(outputs, OutputFile):
            return self._made(outputs, version, owner)
        if isinstance(outputs, Mapping):
            return {key: self.placed(value, version, owner) for key, value in outputs.items()}
        if isinstance(outputs, (list, tuple)):
            return [self.placed(value, version, owner) for value in outputs]
        return outputs

    def _made(self, file: OutputFile, version: Version, owner: EndUser) -> dict[str, Any]:
        stored = self.add(file.name, file.content, file.mime_type, owner, made=True)
        described = _described(
            {"type": file.type or _detected(stored.extension), "transfer_method": "tool_file"},
            stored.name,
            stored.mime_type,
            stored.content.size if file.size is None else file.size,
        )
        described |= {"related_id": stored.id, "url": file.url or self._signed_url(stored.id)}
        if version.file_references:
            return described | {"remote_url": None, "reference": _reference(stored.id)}
        return described | {"remote_url": "", "tenant_id": TENANT_ID}

    def renewed(self, value: Any) -> Any:
        """Return inputs or outputs with new signatures, as each answer to GET run has them."""
        if isinstance(value, Mapping):
            renewed = {key: self.renewed(item) for key, item in value.items()}
            own = str(value.get("url")).startswith(f"{self.base_url}/files/")
            if value.get("dify_model_identity") == "__dify__file__" and own and value.get("related_id") in self._files:
                renewed["url"] = self._signed_url(str(value["related_id"]))
            return renewed
        if isinstance(value, list):
            return [self.renewed(item) for item in value]
        return value

    def admits(self, file_id: str, query: Mapping[str, str]) -> bool:
        """Tell whether a signature is this server's own and still good."""
        try:
            timestamp = int(query.get("timestamp", ""))
        except ValueError:
            return False
        own = self._signature(file_id, timestamp, query.get("nonce", ""))
        return query.get("sign") == own and time.time() - timestamp <= self._url_seconds

    def get(self, file_id: str) -> StoredFile | None:
        """Return an upload, None for an unknown id."""
        return self._files.get(file_id)

    async def resolve(
        self, value: Mapping[str, Any], version: Version, end_user: EndUser | None, allowed: Sequence[str]
    ) -> dict[str, Any]:
        """Return the file object that a run sees for an input value.

        :param end_user: whose upload it must be where the version minds; None: anybody's.

        :raises InvalidFileError: for an unknown upload, one of another user where the version minds, a wrong
            type, an unreachable URL.
        """
        method = value.get("transfer_method")
        if not value.get("type") and method != "remote_url":
            raise InvalidFileError("Invalid file type: None")
        if method == "local_file":
            return self._local(value, version, end_user, allowed)
        if method == "remote_url":
            return await self._remote(value, version, allowed)
        raise InvalidFileError(f"{method!r} is not a valid FileTransferMethod")

    def _local(
        self, value: Mapping[str, Any], version: Version, end_user: EndUser | None, allowed: Sequence[str]
    ) -> dict[str, Any]:
        file_id = str(value.get("upload_file_id") or "")
        if file_id and not is_uuid(file_id):
            raise InvalidFileError("Invalid upload file id format")
        stored = self._files.get(file_id)
        if stored is None or not (version.foreign_files or end_user in (None, stored.owner)):
            raise InvalidFileError("Invalid upload file")
        _check_type(str(value["type"]), stored.extension, allowed)
        common = _described(value, stored.name, stored.mime_type, stored.content.size)
        common |= {"related_id": stored.id, "url": self._signed_url(stored.id)}
        if version.file_references:
            return common | {"remote_url": "", "reference": _reference(stored.id)}
        return common | {"tenant_id": TENANT_ID, "remote_url": stored.source_url}

    async def _remote(self, value: Mapping[str, Any], version: Version, allowed: Sequence[str]) -> dict[str, Any]:
        url = str(value.get("url") or "")
        if not url:
            raise InvalidFileError("Invalid file url")
        size = -1
        if self._remote_files is not None:
            if url not in self._remote_files:
                await asyncio.sleep(_UNREACHABLE_AFTER * self._time_scale)
                raise InvalidFileError(f"Reached maximum retries (3) for URL {url}")
            size = len(self._remote_files[url])
        name = PurePosixPath(urlsplit(url).path).name
        if not value.get("type"):
            raise InvalidFileError(f"File validation failed for file: {name}")
        _check_type(str(value["type"]), PurePosixPath(name).suffix.lstrip("."), allowed)
        mime_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
        common = _described(value, name, mime_type, size)
        common |= {"remote_url": url, "related_id": None, "url": url}
        return common | ({"reference": None} if version.file_references else {"tenant_id": TENANT_ID})

    def _signed_url(self, file_id: str) -> str:
        timestamp, nonce = int(time.time()), secrets.token_hex(16)
        sign = quote(self._signature(file_id, timestamp, nonce))
        stored = self._files.get(file_id)
        place = f"{file_id}/file-preview"
        if stored is not None and stored.made:
            place = f"tools/{file_id}.{stored.extension or 'bin'}"
        return f"{self.base_url}/files/{place}?timestamp={timestamp}&nonce={nonce}&sign={sign}"

    def _signature(self, file_id: str, timestamp: int, nonce: str) -> str:
        digest = hmac.digest(self._secret, f"{file_id}|{timestamp}|{nonce}".encode(), "sha256")
        return base64.urlsafe_b64encode(digest).decode()


def is_uuid(text: str) -> bool:
    """Whether a text is a UUID, as Dify's database understands it."""
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


def _described(value: Mapping[str, Any], name: str, mime_type: str, size: int) -> dict[str, Any]:
    return {
        "dify_model_identity": "__dify__file__",
        "id": None,
        "type": value["type"],
        "transfer_method": value["transfer_method"],
        "filename": name,
        "extension": PurePosixPath(name).suffix,
        "mime_type": mime_type,
        "size": size,
    }


def _reference(file_id: str) -> str:
    record = json.dumps({"record_id": file_id}, separators=(",", ":")).encode()
    return "dify-file-ref:" + base64.urlsafe_b64encode(record).decode()


def _check_type(wanted: str, extension: str, allowed: Sequence[str]) -> None:
    detected = _detected(extension)
    if wanted not in (detected, "custom"):
        raise InvalidFileError("Detected file type does not match the specified type. Please verify the file.")
    if wanted not in allowed:
        raise InvalidFileError(f"File validation failed for file: type {wanted} is not allowed")


def _detected(extension: str) -> str:
    return next((kind for kind, extensions in _TYPES.items() if extension.lower() in extensions), "custom")
