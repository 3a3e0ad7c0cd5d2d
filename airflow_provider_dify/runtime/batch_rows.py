"""The rows that a batch still has to submit, read ahead in a thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

from airflow_provider_dify.client.batch_source import RowFile
from airflow_provider_dify.exceptions import DifyError, DifyInvalidInputError
from airflow_provider_dify.rules.batch_rows import BatchRow, RowRules
from airflow_provider_dify.runtime.batch_threads import in_thread

CHUNK_ROWS = 50
"""Rows that are read ahead: memory holds no more of them."""


class RowQueue:
    """Gives the rows of a file that are wanted, one after the other.

    :param file: The file.
    :param rules: How rows are read.
    :param unique: Whether keys are held against those before, since nobody has checked that they are unique.
    """

    def __init__(self, file: RowFile, rules: RowRules, *, unique: bool) -> None:
        self._file = file
        self._rules = rules
        self._seen: set[int] | None = set() if unique and rules.key is not None else None
        self._rows: Iterator[Any] = iter(())
        self._found_rows: Iterator[BatchRow | tuple[int, DifyError]] = iter(())
        self._wanted: Callable[[int], bool] = lambda digest: True
        self._buffer: deque[BatchRow | tuple[int, DifyError]] = deque()
        self.ended = True

    def begin(self, wanted: Callable[[int], bool]) -> None:
        """Read the file from its first row.

        :param wanted: Tells by the digest of its key whether a row is wanted; called in a thread.
        """
        self.close()
        self._rows = self._file.rows()
        self._found_rows = self._found()
        self._wanted = wanted
        self._buffer.clear()
        self.ended = False

    async def next(self) -> BatchRow | tuple[int, DifyError] | None:
        """Return the next row that is wanted, or the position of one that cannot be read and why; None at the end.

        :raises DifyError: The file cannot be read, or two rows have one key.
        """
        if not self._buffer and not self.ended:
            self._buffer.extend(await in_thread(self._read))
            self.ended = not self._buffer
        return self._buffer.popleft() if self._buffer else None

    def _read(self) -> list[BatchRow | tuple[int, DifyError]]:
        return list(islice(self._found_rows, CHUNK_ROWS))

    def _found(self) -> Iterator[BatchRow | tuple[int, DifyError]]:
        for position, values in enumerate(self._rows):
            try:
                row = self._rules.row(position, values)
            except DifyInvalidInputError as error:
                yield position, error
                continue
            if self._seen is not None:
                self._check_unique(row)
            if self._wanted(row.digest):
                yield row
        # From here on every further pass has seen each key.
        self._seen = None

    def _check_unique(self, row: BatchRow) -> None:
        assert self._seen is not None
        if row.digest in self._seen:
            raise DifyInvalidInputError(
                f"Row {row.position} has the key of an earlier row, {row.key!r}: two rows would count as one, so the "
                "batch ends. Make the keys unique, or leave out key."
            )
        self._seen.add(row.digest)

    def close(self) -> None:
        """Close the file."""
        close = getattr(self._rows, "close", None)
        if close is not None:
            # A thread may be in the middle of it, where the batch was cancelled.
            with suppress(ValueError):
                close()
