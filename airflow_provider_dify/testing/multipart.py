"""Reads multipart form bodies while they arrive."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from typing import IO

from aiohttp import BodyPartReader, hdrs, web

_IN_MEMORY = 1024 * 1024
_CHUNK = 64 * 1024


class Content:
    """The content of one file: in memory as long as it is small, else in a temporary file that ends with it."""

    def __init__(self, content: bytes = b"") -> None:
        self._memory = bytearray(content)
        self._file: IO[bytes] | None = None
        self.size = len(content)

    def append(self, chunk: bytes) -> None:
        """Add to its end."""
        self.size += len(chunk)
        if self._file is None and self.size > _IN_MEMORY:
            self._file = tempfile.TemporaryFile(prefix="local-dify-")  # noqa: SIM115
            self._file.write(self._memory)
            self._memory.clear()
        if self._file is None:
            self._memory += chunk
        else:
            self._file.write(chunk)

    def chunks(self) -> Iterator[bytes]:
        """Yield it from its start; several may read at a time."""
        if self._file is None:
            yield bytes(self._memory)
            return
        at = 0
        while at < self.size:
            self._file.seek(at)
            chunk = self._file.read(_CHUNK)
            at += len(chunk)
            yield chunk

    def __bytes__(self) -> bytes:
        """Return it as a whole."""
        return b"".join(self.chunks())


@dataclass(frozen=True, slots=True)
class FilePart:
    """One file of a form."""

    name: str
    content: Content
    mime_type: str | None


async def read_form(request: web.Request) -> tuple[dict[str, str], dict[str, FilePart]]:
    """Return the text fields and the files of a multipart body, by field name; of two the first is taken.

    A body of another kind has neither, and what is no part of a broken one is left out.
    """
    fields: dict[str, str] = {}
    files: dict[str, FilePart] = {}
    header = Message()
    header["Content-Type"] = request.headers.get("Content-Type", "")
    if header.get_content_type() != "multipart/form-data" or not header.get_boundary():
        return fields, files
    try:
        reader = await request.multipart()
        while (part := await reader.next()) is not None:
            if not isinstance(part, BodyPartReader):
                continue
            content = Content()
            while chunk := await part.read_chunk(_CHUNK):
                content.append(chunk)
            name = part.name or ""
            if part.filename:
                files.setdefault(name, FilePart(part.filename, content, part.headers.get(hdrs.CONTENT_TYPE)))
            else:
                fields.setdefault(name, bytes(content).decode("utf-8", "replace"))
    except ValueError:
        # No boundary where one should be, or the end came in the middle of a part.
        pass
    return fields, files
