"""The body of a request as a readable that knows whether anything of it was ever sent."""

from __future__ import annotations

import io
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from airflow_provider_dify.api.operations import Call, Upload
from airflow_provider_dify.exceptions import DifyFileError

CHUNK_BYTES = 64 * 1024


class Readable(Protocol):
    """What a body is read from."""

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes, and nothing at the end."""


class Body:
    """A request's body, read from its start by either HTTP client.

    Both clients send the head of a request and then read its body. As long as ``begun`` is False no server
    can have got a whole request, which makes sending it again safe even for a submission. ``handed_over`` says
    more where each chunk is sent before the next is read: as long as it is False the last one never left.

    :param parts: Readables, sent one after the other.
    :param size: Their length in bytes.
    :param content_type: The body's type.
    :param before_send: Called once the connection stands and before anything of the body leaves; an exception
        prevents the request.
    :param on_piece: Called whenever a piece of it is about to leave.
    """

    def __init__(
        self,
        parts: list[Readable],
        size: int,
        content_type: str,
        before_send: Callable[[], None] | None = None,
        on_piece: Callable[[], None] | None = None,
    ) -> None:
        self._parts = parts
        self._size = size
        self._before_send = before_send
        self._on_piece = on_piece
        self.content_type = content_type
        self.begun = False
        self.handed_over = False

    def __len__(self) -> int:
        """Return the length in bytes, for the Content-Length header."""
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        """Yield the body in chunks."""
        while chunk := self.read(CHUNK_BYTES):
            yield chunk

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, at most ``size`` of them where it is positive, and nothing at the end."""
        if not self.begun and self._before_send is not None:
            self._before_send()
        self.begun = True
        while self._parts:
            chunk = self._parts[0].read(size)
            if chunk:
                if self._on_piece is not None:
                    self._on_piece()
                return chunk
            self._parts.pop(0)
        self.handed_over = True
        return b""


def body_of(
    call: Call, before_send: Callable[[], None] | None = None, on_piece: Callable[[], None] | None = None
) -> Body | None:
    """Return a fresh body for a call, or None for a call without one.

    :param before_send: As in ``Body``.
    :param on_piece: As in ``Body``; only for the body of an upload, which may take long.
    """
    if call.upload is not None:
        return _multipart(call.upload, call.fields, on_piece)
    content = call.body
    return None if content is None else Body([io.BytesIO(content)], len(content), "application/json", before_send)


def _multipart(upload: Upload, fields: Mapping[str, str], on_piece: Callable[[], None] | None) -> Body:
    boundary = uuid.uuid4().hex
    head = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    )
    head += (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{_quoted(upload.name)}"\r\n'
        f"Content-Type: {upload.mime_type}\r\n\r\n"
    ).encode()
    tail = f"\r\n--{boundary}--\r\n".encode()
    return Body(
        [io.BytesIO(head), _Measured(upload), io.BytesIO(tail)],
        len(head) + upload.size + len(tail),
        f"multipart/form-data; boundary={boundary}",
        on_piece=on_piece,
    )


class _Measured:
    """The content of an upload, which must be as long as it was when it was measured.

    The length is reported in the request's head: a file that has become shorter would leave the server waiting for the
    rest, and of one that grows a beginning would be sent for the whole. Either breaks the request off.
    """

    def __init__(self, upload: Upload) -> None:
        self._upload = upload
        self._left = upload.size
        self._at_start = True

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes.

        :raises DifyFileError: The file cannot be read any more, or its length has changed.
        """
        wanted = self._left if size < 0 else min(size, self._left)
        try:
            if self._at_start:
                self._upload.stream.seek(self._upload.start)
                self._at_start = False
            chunk = self._upload.stream.read(wanted or 1)
        except Exception as error:
            # Whatever an object store's client raises; by the HTTP client it would be taken for its own failure.
            raise DifyFileError(
                f"{self._upload.name!r} could not be read to its end ({type(error).__name__}: {error}), so it was not "
                "uploaded. A retry of the task may succeed."
            ) from error
        if (wanted > 0) is not bool(chunk):
            change = "shorter" if wanted else "longer"
            raise DifyFileError(
                f"{self._upload.name!r} became {change} than {self._upload.size:,} bytes while it was read, so it was "
                "not uploaded: something still writes it. A retry of the task may succeed."
            )
        self._left -= len(chunk) if wanted else 0
        return chunk


def _quoted(name: str) -> str:
    # As browsers escape a file name in a form, and control characters too: a line break would end the part's header.
    return re.sub(r'[\x00-\x1f\x7f"]', lambda match: f"%{ord(match[0]):02X}", name)
