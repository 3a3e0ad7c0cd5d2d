"""What a request sends, and what is read of an answer: bodies in pieces, of a limited size.

The body of a request knows whether anything of it was ever sent; that of an answer is decompressed in small steps,
whatever versions the HTTP clients have.
"""

from __future__ import annotations

import io
import re
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from airflow_provider_dify.api.operations import Call, Upload
from airflow_provider_dify.api.values import excerpt
from airflow_provider_dify.exceptions import DifyFileError

CHUNK_BYTES = 64 * 1024
MAX_ANSWER_BYTES = 32 * 1024 * 1024
"""Size of an answer's body, decompressed, beyond which it is given up; a stream's lines have a limit of their own."""
TOO_LARGE = "answer_too_large"
"""Code of the error for an answer that is larger than whoever asked reads."""
PIECE_BYTES = 16 * 1024
"""What one step decompresses at most."""
_STEP_BYTES = 4 * 1024
# More than twice of what they hold no compressed data take, but for their beginning.
_SURPLUS_BYTES = 1024 * 1024
_GZIP = frozenset({"gzip", "x-gzip"})
_DEFLATE = "deflate"
# Names that web servers and object stores also send for bodies that are not compressed.
_PLAIN = frozenset({"", "identity", "none", "binary", "utf-8", "aws-chunked"})


@dataclass(frozen=True)
class Size:
    """How large an answer may be.

    :param most_bytes: Bytes of its body, decompressed.
    :param most_containers: Objects and lists in it; None for any number.
    """

    most_bytes: int = MAX_ANSWER_BYTES
    most_containers: int | None = None


TRIGGERER_SIZE = Size(2 * 1024 * 1024, 20_000)
"""What a triggerer reads: while JSON is decoded all other triggers stand still. A worker reads what is larger."""


class BodyDecoder:
    """Takes a body as it arrives, and gives it decompressed piece by piece.

    No request asks for compression, but some gateways compress all the same. The HTTP clients do not decompress it:
    their older versions do so at once with all that has arrived, and a kilobyte can stand for gigabytes. Here a step
    costs no more than ``PIECE_BYTES`` of memory, and the limits of whoever reads count what comes out.

    Only gzip and deflate are read, and not one within the other. Python's standard library has no Brotli, and each
    further coding is a further way to attack.

    :param label: The answer's header Content-Encoding.
    """

    def __init__(self, label: str) -> None:
        codings = [name for each in label.split(",") if (name := each.strip().lower()) not in _PLAIN]
        known = not codings or (len(codings) == 1 and (codings[0] in _GZIP or codings[0] == _DEFLATE))
        self.refused = None if known else excerpt(label, 60)
        """The codings of a body that must not be read; None for all others."""
        self._coding = codings[0] if codings and known else None
        self._chunk = memoryview(b"")
        self._step = b""
        self._has_more = False
        self._taken = self._given = 0
        self._inflater: zlib._Decompress | None = None

    @property
    def is_hungry(self) -> bool:
        """Whether the next piece needs further bytes of the body."""
        return not (self._step or self._chunk or self._has_more)

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the body, once it ``is_hungry``."""
        self._chunk = memoryview(chunk)

    def take(self) -> bytes:
        """Return the next piece; an empty one does not mean that the body has ended.

        :raises ValueError: The body is damaged, or goes on while it holds next to nothing.
        """
        if self._coding is None:
            piece, self._chunk = bytes(self._chunk), memoryview(b"")
            return piece
        if not self._step:
            # Little at a time, since what a step leaves of it is copied.
            self._step, self._chunk = bytes(self._chunk[:_STEP_BYTES]), self._chunk[_STEP_BYTES:]
        self._taken += len(self._step)
        if self._inflater is None:
            self._inflater = zlib.decompressobj(self._window_bits())
        try:
            piece = self._inflater.decompress(self._step, PIECE_BYTES)
        except zlib.error:
            raise ValueError(f"its {self._coding} data are damaged") from None
        # With all input taken, the rest of a full piece is still in the inflater.
        self._step, self._has_more = self._inflater.unconsumed_tail, len(piece) == PIECE_BYTES
        if self._inflater.eof:
            # A gzip body may have several members, one after the other.
            self._step, self._has_more = self._inflater.unused_data, False
            self._inflater = None
        self._taken -= len(self._step)
        self._given += len(piece)
        if self._taken > 2 * self._given + _SURPLUS_BYTES:
            raise ValueError(f"its {self._coding} data hold next to nothing")
        return piece

    def check_end(self) -> None:
        """Check that the body ended where its compression does.

        :raises ValueError: It was cut.
        """
        if self._inflater is not None:
            raise ValueError(f"its {self._coding} data end too early")

    def _window_bits(self) -> int:
        if self._coding in _GZIP:
            return 16 + zlib.MAX_WBITS
        # Some servers send deflate without its zlib header, whose first byte ends in 8.
        return zlib.MAX_WBITS if self._step[0] & 0x0F == 8 else -zlib.MAX_WBITS


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
        on_piece: Callable[[], object] | None = None,
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
    call: Call, before_send: Callable[[], None] | None = None, on_piece: Callable[[], object] | None = None
) -> Body | None:
    """Return a fresh body for a call, or None for a call without one.

    :param before_send: As in ``Body``.
    :param on_piece: As in ``Body``; only for the body of an upload, which may take long.
    """
    if call.upload is not None:
        return _multipart(call.upload, call.fields, on_piece)
    content = call.body
    return None if content is None else Body([io.BytesIO(content)], len(content), "application/json", before_send)


def _multipart(upload: Upload, fields: Mapping[str, str], on_piece: Callable[[], object] | None) -> Body:
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
