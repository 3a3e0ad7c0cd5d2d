"""Reads multipart form bodies."""

from __future__ import annotations

from dataclasses import dataclass
from email.message import Message


@dataclass(frozen=True, slots=True)
class FilePart:
    """One file of a form."""

    name: str
    content: bytes
    mime_type: str | None


def parse_form(body: bytes, content_type: str) -> tuple[dict[str, str], dict[str, FilePart]]:
    """Return the text fields and the files of a multipart body, by field name; of two the first is taken.

    A body of another kind has neither.
    """
    header = Message()
    header["Content-Type"] = content_type
    boundary = header.get_boundary()
    fields: dict[str, str] = {}
    files: dict[str, FilePart] = {}
    if header.get_content_type() != "multipart/form-data" or not boundary:
        return fields, files
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary.encode())[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        described = Message()
        for line in head.decode("utf-8", "replace").split("\r\n"):
            key, separator, value = line.partition(":")
            if separator:
                described[key.strip()] = value.strip()
        name = _parameter(described, "name")
        filename = _parameter(described, "filename")
        if filename:
            mime_type = described["Content-Type"]
            files.setdefault(name, FilePart(filename, content, str(mime_type) if mime_type else None))
        else:
            fields.setdefault(name, content.decode("utf-8", "replace"))
    return fields, files


def _parameter(message: Message, name: str) -> str:
    value = message.get_param(name, "", header="content-disposition")
    return value[2] if isinstance(value, tuple) else str(value or "")
