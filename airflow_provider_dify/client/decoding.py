"""The body of an answer, decompressed in small pieces, whatever versions the HTTP clients have."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

from airflow_provider_dify.api.values import excerpt

PIECE_BYTES = 16 * 1024
"""What one step decompresses at most."""
_STEP_BYTES = 4 * 1024
# More than twice of what they hold no compressed data take, but for their beginning.
_BARREN_BYTES = 1024 * 1024
_GZIP = frozenset({"gzip", "x-gzip"})
_DEFLATE = "deflate"
# Names that web servers and object stores also send for bodies that are not compressed.
_PLAIN = frozenset({"", "identity", "none", "binary", "utf-8", "aws-chunked"})


class BodyDecoder:
    """Takes a body as it arrives, and gives it decompressed piece by piece.

    No request asks for compression, but some gateways compress all the same. The HTTP clients do not decompress it:
    their older versions do so at once with all that has arrived, and a kilobyte can stand for gigabytes. Here a step
    costs no more than ``PIECE_BYTES`` of memory, and the limits of whoever reads count what comes out.

    Only gzip and deflate are read, and not one within the other. Python's standard library has no Brotli, and each
    further coding is a further way to attack.

    :param headers: Headers of the answer, with names in lower case.
    """

    def __init__(self, headers: Mapping[str, str]) -> None:
        label = headers.get("content-encoding", "")
        names = (name.strip().lower() for name in label.split(","))
        codings = [name for name in names if name not in _PLAIN]
        known = len(codings) < 2 and all(name in _GZIP or name == _DEFLATE for name in codings)
        self.refused = None if known else excerpt(label, 60)
        """The codings of a body that must not be read; None for all others."""
        self._coding = codings[0] if codings and known else None
        self._chunk = memoryview(b"")
        self._step = b""
        self._has_more = False
        self._taken = self._given = 0
        self._inflater: zlib._Decompress | None = None

    @property
    def is_compressed(self) -> bool:
        """Whether pieces are computed, and do not only pass through."""
        return self._coding is not None

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
        if self._taken > 2 * self._given + _BARREN_BYTES:
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
