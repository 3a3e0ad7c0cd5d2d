"""An object store for tests: in memory, known to Airflow, and as faulty as asked."""

from __future__ import annotations

import uuid
from typing import Any

from fsspec.implementations.memory import MemoryFileSystem


class FaultyStore(MemoryFileSystem):
    """A store whose reads and writes fail in the middle where reported so."""

    cachable = False
    protocol = "memory"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # The plain one keeps all objects of a process in one dict.
        self.store = {}
        self.pseudo_dirs = [""]
        self.fail_reading_after: int | None = None
        self.fail_writing_after: int | None = None
        self.fail_moving = False
        self.fail_info: Exception | None = None

    def info(self, path: str, **options: Any) -> Any:
        if self.fail_info is not None:
            raise self.fail_info
        return super().info(path, **options)

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        stream = super()._open(path, mode, **options)
        after = self.fail_reading_after if mode == "rb" else self.fail_writing_after
        return stream if after is None else FailingStream(stream, after)

    def mv(self, *args: Any, **options: Any) -> None:
        if self.fail_moving:
            raise OSError(5, "the store is gone")
        super().mv(*args, **options)


class FailingStream:
    """A file that fails after some bytes."""

    def __init__(self, stream: Any, after: int) -> None:
        self._stream = stream
        self._left = after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def read(self, size: int = -1) -> bytes:
        if self._left <= 0:
            raise OSError(5, "the store is gone")
        chunk: bytes = self._stream.read(size)
        self._left -= len(chunk)
        return chunk

    def write(self, chunk: bytes) -> int:
        self._left -= len(chunk)
        if self._left < 0:
            raise OSError(5, "the store is gone")
        return int(self._stream.write(chunk))


def attached(**options: Any) -> tuple[FaultyStore, str]:
    """Give a new store to Airflow, and return it with the URI of a folder in it."""
    try:
        from airflow.sdk.io import attach
    except ImportError:
        from airflow.io.store import attach

    # A connection id of its own, since Airflow keeps what was attached for the life of the process.
    name = f"store-{uuid.uuid4().hex[:8]}"
    store = FaultyStore(**options)
    attach(protocol="memory", conn_id=name, fs=store)
    return store, f"memory://{name}@/bucket"
