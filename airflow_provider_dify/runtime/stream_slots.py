"""How many event streams this machine holds open to one server, over all its processes."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from contextlib import suppress
from types import TracebackType

STREAMS_PER_SERVER = 4
"""Event streams at a time to one server, for all tasks and triggers of a user on one machine.

A stock Dify has ten connections, and every request beyond them waits (dify-behaviour.md, section 12.1): the streams of
many tasks would starve the polls that decide.
"""


class StreamSlot:
    """The right to hold one event stream open: a file lock, which ends with its process at the latest."""

    def __init__(self, file: int) -> None:
        self._file: int | None = file

    @classmethod
    def take(cls, base_url: str, limit: int = STREAMS_PER_SERVER) -> StreamSlot | None:
        """Return a slot for a server, or None where all are taken. Never waits."""
        name = hashlib.sha256(base_url.encode("utf-8", "replace")).hexdigest()[:16]
        for number in range(limit):
            path = os.path.join(tempfile.gettempdir(), f"airflow-provider-dify-{os.getuid()}-{name}-{number}.lock")
            with suppress(OSError):
                file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    os.close(file)
                else:
                    return cls(file)
        return None

    def __enter__(self) -> StreamSlot:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back."""
        self.free()

    def free(self) -> None:
        """Give it back; may be called again."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)
