"""The folder of a batch, in a local folder or an object store: owners, windows, results and the manifest."""

from __future__ import annotations

import io
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from airflow_provider_dify.client.batch_source import pyarrow_parquet
from airflow_provider_dify.client.object_stores import Source
from airflow_provider_dify.client.store_writing import Target, writing
from airflow_provider_dify.exceptions import DifyError, DifyFileError
from airflow_provider_dify.rules.batch_protocol import (
    CheckOwner,
    Claim,
    ListParts,
    ReadResults,
    ReadWindows,
    RemovePart,
    RemoveWindows,
    RewritePart,
    Step,
    WritePart,
    WriteWindow,
)
from airflow_provider_dify.rules.batch_records import (
    Owner,
    ResultLine,
    Window,
    generation_folder,
    generation_of,
    is_window,
    newest_owner,
    parts_in_order,
)
from airflow_provider_dify.rules.batch_rows import key_digest
from airflow_provider_dify.rules.uploads import shown

OWNERS, WINDOWS, RESULTS = "owners", "windows", "results"
MANIFEST = "manifest.json"
INPUT = "input.jsonl"
CHECKED = "checked.json"
_READ_COLUMNS = ["key", "position", "status", "attempts", "tokens", "seconds", "try", "final"]


class BatchStore:
    """The folder of one generation of a batch.

    Every method reads or writes through the store, and may be called in a thread. Files are written whole or not at
    all, and no two owners write files of the same name.

    :param root: The result path.
    :param folder: Names of the folders below it: that of all generations, and that of this one.
    :param result_format: ``jsonl`` or ``parquet``.
    """

    def __init__(self, root: Target, *folder: str, result_format: str = "jsonl") -> None:
        self._root = root
        self._folder = folder
        self.result_format = result_format
        self._owner = Owner()

    @property
    def location(self) -> str:
        """URI of the folder of this generation."""
        path = self._root.joined(*self._folder)
        return f"file://{path}" if isinstance(path, str) else str(path)

    def uri(self, *names: str) -> str:
        """Return the URI of a file or folder of this generation."""
        return "/".join((self.location.rstrip("/"), *names))

    def path(self, *names: str) -> Any:
        """Return the path of a file of this generation: a text where it is local, else an ``ObjectStoragePath``."""
        return self._root.joined(*self._folder, *names)

    def perform(self, step: Step) -> Any:
        """Do what a flow of ``rules.batch_protocol`` asks for.

        :raises DifyFileError: The store failed.
        """
        with _store_errors(self.location):
            if isinstance(step, Claim):
                return self._claim()
            if isinstance(step, CheckOwner):
                return newest_owner(self._names(OWNERS)) == self._owner
            if isinstance(step, ReadWindows):
                return self._windows()
            if isinstance(step, ReadResults):
                names = self.parts()
                return names, self._result_lines(names)
            if isinstance(step, ListParts):
                return self.parts()
            if isinstance(step, WriteWindow):
                return self._write_json(step.window.as_json(), WINDOWS, step.window.name)
            if isinstance(step, RemoveWindows):
                return self._remove(WINDOWS, step.names)
            if isinstance(step, WritePart):
                return self._write_part(step.name, step.lines)
            if isinstance(step, RemovePart):
                return self._remove(RESULTS, [step.name])
            assert isinstance(step, RewritePart)
            return self._rewrite_part(step.name, step.superseded)

    def _claim(self) -> Owner:
        token = secrets.token_hex(8)
        while True:
            self._owner = Owner(newest_owner(self._names(OWNERS)).epoch + 1, token)
            self._write_json({"pid": os.getpid()}, OWNERS, self._owner.name)
            if newest_owner(self._names(OWNERS)) == self._owner:
                return self._owner

    def _windows(self) -> list[Window]:
        found = []
        for name in sorted(filter(is_window, self._names(WINDOWS))):
            content = self.read_json(WINDOWS, name)
            # The process before removes windows whose results it has written.
            if content is not None:
                found.append(Window.read(name, content))
        return found

    def parts(self) -> list[str]:
        """Return the names of the files of results, oldest first."""
        return parts_in_order(self._names(RESULTS))

    def _result_lines(self, names: Sequence[str]) -> Iterator[ResultLine]:
        for name in names:
            with _store_errors(self.location):
                for line in self.read_part(name, _READ_COLUMNS):
                    yield ResultLine.read(line, name)

    def read_part(self, name: str, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """Iterate over the lines of a file of results.

        :param columns: Columns to read; all where left out.
        """
        with Source(self.path(RESULTS, name), "result_path").open() as stream:
            if name.endswith(".parquet"):
                for batch in pyarrow_parquet().ParquetFile(stream).iter_batches(columns=columns):
                    yield from batch.to_pylist()
                return
            for line in stream:
                if line.strip():
                    yield json.loads(line)

    def _write_part(self, name: str, lines: Iterable[Mapping[str, Any]]) -> None:
        rows = list(lines)
        content = _parquet(rows) if name.endswith(".parquet") else _json_lines(rows)
        with writing(self.path(RESULTS, name)) as (sink, _):
            sink.write(content)

    def _rewrite_part(self, name: str, superseded: Mapping[int, int]) -> None:
        kept = [line for line in self.read_part(name) if line["attempts"] > superseded.get(key_digest(line["key"]), -1)]
        if kept:
            self._write_part(name, kept)
        else:
            self._remove(RESULTS, [name])

    # --- What is beside the protocol

    def earlier_generation(self, generation: int) -> BatchStore | None:
        """Return the newest generation before this one; None where there is none."""
        with _store_errors(self.location):
            names = self._list(self._root.joined(*self._folder[:-1]))
        numbers = [number for name in names if (number := generation_of(name)) is not None and number < generation]
        if not numbers:
            return None
        newest = generation_folder(max(numbers))
        return BatchStore(self._root, *self._folder[:-1], newest, result_format=self.result_format)

    def read_json(self, *names: str) -> Any:
        """Return what is in a file; None where there is none.

        :raises DifyFileError: The store failed, or the file is no JSON.
        """
        path = self.path(*names)
        with _store_errors(self.location):
            try:
                if isinstance(path, str):
                    with open(path, "rb") as stream:
                        content = stream.read()
                else:
                    # Not from a cache: another process may have written it.
                    content = path.fs.cat_file(path.path)
            except FileNotFoundError:
                return None
            return json.loads(content)

    def write_json(self, content: Any, *names: str) -> None:
        """Write a file.

        :raises DifyFileError: The store failed.
        """
        with _store_errors(self.location):
            self._write_json(content, *names)

    def write_input(self, rows: Iterable[Mapping[str, Any]]) -> int:
        """Write the rows of a batch that are in no file, so that every process and try has the same ones.

        :return: How many there are.
        """
        number = 0
        with writing(self.path(INPUT)) as (sink, _):
            for row in rows:
                sink.write(json.dumps(row, separators=(",", ":")).encode("ascii") + b"\n")
                number += 1
        return number

    def _write_json(self, content: Any, *names: str) -> None:
        with writing(self.path(*names)) as (sink, _):
            sink.write(json.dumps(content).encode("ascii"))

    def _names(self, folder: str) -> list[str]:
        return self._list(self.path(folder))

    @staticmethod
    def _list(path: Any) -> list[str]:
        try:
            if isinstance(path, str):
                return os.listdir(path)
            path.fs.invalidate_cache()
            return [str(each).rstrip("/").rpartition("/")[2] for each in path.fs.ls(path.path, detail=False)]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _remove(self, folder: str, names: Iterable[str]) -> None:
        names = list(names)
        paths = [self.path(folder, name) for name in names]
        if len(paths) > 1 and not isinstance(paths[0], str):
            # Stores remove many objects with one request.
            with suppress(FileNotFoundError):
                paths[0].fs.rm([path.path for path in paths])
                return
        for name in names:
            path = self.path(folder, name)
            with suppress(FileNotFoundError):
                if isinstance(path, str):
                    os.unlink(path)
                else:
                    path.fs.rm_file(path.path)


def _json_lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(json.dumps(row, separators=(",", ":")).encode("ascii") + b"\n" for row in rows)


def _parquet(rows: list[Mapping[str, Any]]) -> bytes:
    """Return rows as a Parquet file.

    Outputs keep their types where all rows of the file have the same ones. Outputs that Arrow has no type for are in
    the column ``outputs_json``.
    """
    parquet = pyarrow_parquet()
    import pyarrow

    texts = pyarrow.string()
    # Keys of both kinds stand as what they are only where all are of one.
    key = pyarrow.int64() if all(isinstance(row["key"], int) for row in rows) else texts
    fixed = {
        "key": key,
        "position": pyarrow.int64(),
        "status": texts,
        "workflow_run_id": texts,
        "error": texts,
        "error_type": texts,
        "tokens": pyarrow.int64(),
        "seconds": pyarrow.float64(),
        "attempts": pyarrow.int64(),
        "try": pyarrow.int64(),
        "final": pyarrow.bool_(),
    }
    columns = {
        name: pyarrow.array([str(row[name]) if name == "key" and key == texts else row[name] for row in rows], kind)
        for name, kind in fixed.items()
    }
    outputs = [row["outputs"] for row in rows]
    typed, rest = _typed(pyarrow, outputs)
    columns["outputs"] = typed
    columns["outputs_json"] = pyarrow.array(rest, texts)
    sink = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), sink)
    return sink.getvalue()


def _typed(pyarrow: Any, outputs: list[Any]) -> tuple[Any, list[str | None]]:
    none: list[str | None] = [None] * len(outputs)
    if any(outputs):
        try:
            found = pyarrow.array([each or None for each in outputs])
            if not _has_empty_struct(pyarrow, found.type):
                return found, none
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, pyarrow.ArrowNotImplementedError, OverflowError):
            pass
    return pyarrow.nulls(len(outputs)), [None if each is None else json.dumps(each) for each in outputs]


def _has_empty_struct(pyarrow: Any, kind: Any) -> bool:
    """Tell whether a type has a place without fields, which Parquet cannot hold."""
    types = pyarrow.types
    if types.is_struct(kind):
        return kind.num_fields == 0 or any(_has_empty_struct(pyarrow, field.type) for field in kind)
    return bool(types.is_list(kind) and _has_empty_struct(pyarrow, kind.value_type))


@contextmanager
def _store_errors(location: str) -> Iterator[None]:
    """Turn whatever a store raises into an error that a retry may mend."""
    try:
        yield
    except DifyError:
        raise
    except GeneratorExit:
        raise
    except Exception as error:
        raise DifyFileError(
            f"The folder {shown(location)!r} of the batch could not be read or written ({type(error).__name__}: "
            f"{shown(str(error))}). What was submitted stays recorded there; a retry of the task goes on."
        ) from error
