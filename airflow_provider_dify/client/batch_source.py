"""The rows of a batch, read as a stream out of a file of JSON lines, CSV or Parquet in a folder or an object store."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, BinaryIO
from uuid import UUID

from airflow_provider_dify.client.object_stores import Source, reading
from airflow_provider_dify.exceptions import DifyConfigurationError, DifyInvalidInputError
from airflow_provider_dify.rules.batch_rows import UnreadableRow
from airflow_provider_dify.rules.uploads import shown

_SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
PARQUET_ROWS = 500
"""Rows of a Parquet file that are decoded at a time."""

_CSV_FIELD_BYTES = 64 * 1024 * 1024
_PREVIEW = 80


def format_of(path: str) -> str:
    """Return the format of a file of rows, by the end of its name.

    :raises DifyInvalidInputError: It is another one.
    """
    name = path.lower()
    for suffix, form in _SUFFIXES.items():
        if name.endswith(suffix):
            return form
    raise DifyInvalidInputError(
        f"requests: {shown(path)!r} is no file of rows by its name: it must end with {', '.join(_SUFFIXES)}."
    )


def pyarrow_parquet() -> Any:
    """Return pyarrow's module for Parquet.

    :raises DifyConfigurationError: It is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise DifyConfigurationError(
            "Parquet needs pyarrow, which is not installed where this task runs: install "
            "airflow-provider-dify[parquet] for workers and triggerers."
        ) from error
    return pyarrow.parquet


class RowFile:
    """A file of rows, which can be read again and again.

    Made where Airflow's connections may be asked for; ``rows`` may then be called in a thread.

    :param path: Its path, its URI, or an ``ObjectStoragePath``.
    :raises DifyInvalidInputError: There is no such file, or its format is not known.
    :raises DifyConfigurationError: pyarrow is missing.
    """

    def __init__(self, path: Any) -> None:
        self.name = str(path)
        self.format = format_of(self.name)
        if self.format == "parquet":
            pyarrow_parquet()
        self._source = Source(path, "requests")

    @property
    def size(self) -> int | None:
        """Bytes; None where the store does not tell."""
        return self._source.size

    def rows(self) -> Iterator[Any]:
        """Iterate over the rows from the first one: mappings, or ``UnreadableRow`` for what is none.

        :raises DifyError: The file could not be read to its end.
        """
        read = {"jsonl": _json_lines, "csv": _csv_rows, "parquet": _parquet_rows}[self.format]
        with self._source.open() as stream, self._errors():
            yield from read(stream)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            with reading(self.name, "requests"):
                yield
        except GeneratorExit:
            raise


def _json_lines(stream: BinaryIO) -> Iterator[Any]:
    for number, line in enumerate(stream):
        text = line.strip()
        if number == 0:
            text = text.removeprefix(b"\xef\xbb\xbf")
        if not text:
            continue
        try:
            yield json.loads(text)
        except (ValueError, RecursionError) as error:
            why = str(error)[:_PREVIEW] if isinstance(error, json.JSONDecodeError) else type(error).__name__
            yield UnreadableRow(f"is no JSON ({why}), in line {number + 1} of the file.")


def _csv_rows(stream: BinaryIO) -> Iterator[Any]:
    if csv.field_size_limit() < _CSV_FIELD_BYTES:
        csv.field_size_limit(_CSV_FIELD_BYTES)
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    try:
        reader = csv.DictReader(text)
        for row in reader:
            if None in row:
                yield UnreadableRow(f"has more values than the header has columns, in line {reader.line_num}.")
            else:
                yield {name: value for name, value in row.items() if value is not None}
    except (csv.Error, UnicodeDecodeError) as error:
        raise DifyInvalidInputError(
            f"requests: the file is no CSV in UTF-8 ({type(error).__name__}: {str(error)[:_PREVIEW]}). Nothing more of "
            "it can be read. Save it as CSV in UTF-8 with a header."
        ) from error
    finally:
        # The stream is the caller's.
        text.detach()


def _parquet_rows(stream: BinaryIO) -> Iterator[Any]:
    parquet = pyarrow_parquet()
    import pyarrow

    try:
        for batch in parquet.ParquetFile(stream).iter_batches(batch_size=PARQUET_ROWS):
            for row in batch.to_pylist():
                yield _as_json(row)
    except pyarrow.ArrowInvalid as error:
        raise DifyInvalidInputError(
            f"requests: the file is no Parquet ({str(error)[:_PREVIEW]}). Correct the path, or the file."
        ) from error


def _as_json(value: Any) -> Any:
    """Return a value of a Parquet file as JSON has it: what JSON has no type for as text."""
    if isinstance(value, dict):
        return {key: _as_json(item) for key, item in value.items()}
    if isinstance(value, list):
        # A map comes as pairs.
        return [_as_json(list(item) if isinstance(item, tuple) else item) for item in value]
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (Decimal, UUID)):
        return str(value)
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            # Left as it is: the check of the row names the field and the remedy.
            return value
    return value
