"""The rows of a batch: what identifies one, which inputs it gives a run, and what is wrong with it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_dify.api.checks import check_text, plain_int, plain_text, preview
from airflow_provider_dify.api.input_form import TEXT_TYPES, InputForm
from airflow_provider_dify.api.values import shape_of
from airflow_provider_dify.exceptions import DifyBatchRowsError, DifyError, DifyInvalidInputError
from airflow_provider_dify.rules.input_files import ANY_UPLOAD, UploadPolicy, with_uploads
from airflow_provider_dify.rules.inputs import check_inputs
from airflow_provider_dify.rules.uploads import FileToUpload

MAX_FAULTS = 20
"""Faults that one error names; the error also names the number of all."""

MAX_KEY_CHARS = 1000
_FAULT_CHARS = 300


@dataclass(frozen=True, slots=True)
class BatchRow:
    """One row of the input.

    :param position: Its place in the input, from 0.
    :param key: What identifies it: the value of the key's field, or its position.
    :param values: Its fields.
    """

    position: int
    key: str | int
    values: Mapping[str, Any]

    @property
    def digest(self) -> int:
        """The key as a number of 64 bits, so that many keys can be kept in memory."""
        return key_digest(self.key)


@dataclass(frozen=True, slots=True)
class UnreadableRow:
    """What stands in the place of a row that its file does not give.

    :param problem: What is wrong with it.
    """

    problem: str


def key_digest(key: str | int) -> int:
    """Return a key as a number of 64 bits. Of a million keys, two have the same with a probability of 3 in 10**8.

    A number and its text are the same key, since not every format of rows tells them apart.
    """
    return int.from_bytes(hashlib.blake2b(str(key).encode("utf-8"), digest_size=8).digest(), "big")


@dataclass(frozen=True)
class RowRules:
    """How rows are read.

    :param key: The field that identifies a row; None for its position.
    :param columns: For each input the column that feeds it; None where the row is the inputs.
    :param form: The app's input form; None where it could not be read.
    :param policy: From where files are uploaded.
    :param blanks_are_missing: Whether an empty text stands for no value, as in CSV, where the form wants no text.
    """

    key: str | None = None
    columns: Mapping[str, str] | None = None
    form: InputForm | None = None
    policy: UploadPolicy = ANY_UPLOAD
    blanks_are_missing: bool = False

    def row(self, position: int, values: Any) -> BatchRow:
        """Return a row with its key.

        :raises DifyInvalidInputError: It is no mapping, or has no usable key.
        """
        if isinstance(values, UnreadableRow):
            raise DifyInvalidInputError(values.problem)
        if not isinstance(values, Mapping):
            raise DifyInvalidInputError(f"must be a mapping of fields to values and is {shape_of(values)}.")
        return BatchRow(position, position if self.key is None else _key(values, self.key), values)

    def inputs(self, row: BatchRow) -> dict[str, Any]:
        """Return the inputs of a row's run; a file to upload stands in them as a ``FileToUpload``.

        :raises DifyInvalidInputError: A column is missing, JSON cannot carry a value, or a file is not allowed.
        """
        given = check_inputs(self._chosen(row.values), paths=True)
        read = self.form.read(given) if self.form is not None else given
        if self.blanks_are_missing and self.form is not None:
            read = {name: value for name, value in read.items() if value != "" or self._takes_blank(name)}
        return with_uploads(read, self.form, self.policy)

    def check(self, row: BatchRow) -> tuple[list[str], int]:
        """Return what is wrong with the inputs of a row, a sentence for each field, and how many files they name."""
        try:
            inputs = self.inputs(row)
        except DifyError as error:
            return [error.message], 0
        drafts = {name: _drafted(value) for name, value in inputs.items()}
        return self.form.problems(drafts) if self.form else [], len(files_in_inputs(inputs))

    def _chosen(self, values: Mapping[str, Any]) -> dict[str, Any]:
        if self.columns is None:
            declared = self.form is not None and self.key in self.form.fields
            # The key is there for the batch, unless the workflow has an input of that name.
            return {name: value for name, value in values.items() if name != self.key or declared}
        missing = [
            f"the input {name!r} takes the column {column!r}"
            for name, column in self.columns.items()
            if column not in values
        ]
        if missing:
            raise DifyInvalidInputError(f"{' and '.join(missing)}, which the row does not have.")
        return {name: values[column] for name, column in self.columns.items()}

    def _takes_blank(self, name: str) -> bool:
        described = self.form.fields.get(name) if self.form is not None else None
        return described is not None and described.type in TEXT_TYPES


@dataclass
class RowCheck:
    """Checks all rows of a batch before the first run.

    :param rules: How rows are read.
    """

    rules: RowRules
    rows: int = 0
    wrong_rows: int = 0
    files: int = 0
    _faults: list[str] = field(default_factory=list)
    _keys: set[int] = field(default_factory=set)

    def take(self, values: Any) -> None:
        """Check the next row."""
        position = self.rows
        self.rows += 1
        try:
            row = self.rules.row(position, values)
        except DifyError as error:
            self._fault(position, None, [error.message])
            return
        problems, files = self.rules.check(row)
        self.files += files
        if self.rules.key is not None:
            digest = row.digest
            if digest in self._keys:
                problems.insert(0, f"the key {preview(row.key)} is that of an earlier row: keys must be unique.")
            self._keys.add(digest)
        if problems:
            self._fault(position, row.key if self.rules.key is not None else None, problems)

    def _fault(self, position: int, key: str | int | None, problems: list[str]) -> None:
        self.wrong_rows += 1
        where = f"row {position}" + ("" if key is None else f" (key {preview(key)})")
        for problem in problems[: MAX_FAULTS - len(self._faults)]:
            text = problem if len(problem) <= _FAULT_CHARS else problem[: _FAULT_CHARS - 1] + "…"
            self._faults.append(f"{where}: {text}")

    @property
    def faults(self) -> tuple[str, ...]:
        """The first faults, each with row and field."""
        return tuple(self._faults)

    def finish(self) -> None:
        """Let a batch pass whose rows are all right.

        :raises DifyInvalidInputError: Some are not, or there is none at all.
        """
        if not self._faults:
            return
        raise DifyBatchRowsError(self.rows, self.wrong_rows, self.faults)


def _key(values: Mapping[str, Any], name: str) -> str | int:
    if name not in values:
        raise DifyInvalidInputError(f"has no field {name!r}, which is the key.")
    value = values[name]
    number = plain_int(value)
    if number is not None:
        return number
    text = plain_text(value)
    if text is None or not text.strip():
        raise DifyInvalidInputError(
            f"its key {name!r} must be a non-empty text or a whole number and is {shape_of(value)}."
        )
    check_text(text, f"its key {name!r}")
    if len(text) > MAX_KEY_CHARS:
        raise DifyInvalidInputError(f"its key {name!r} has {len(text)} characters, and may have {MAX_KEY_CHARS}.")
    return text


def _drafted(value: Any) -> Any:
    """Return a value as the form's check takes it, before any file is uploaded."""
    if isinstance(value, list):
        return [_drafted(item) for item in value]
    return value.described("") if isinstance(value, FileToUpload) else value


def files_in_inputs(inputs: Mapping[str, Any]) -> list[FileToUpload]:
    """Return the files that are to be uploaded before the inputs can be sent."""
    values = (each for value in inputs.values() for each in (value if isinstance(value, list) else [value]))
    return [value for value in values if isinstance(value, FileToUpload)]


def with_upload_ids(inputs: Mapping[str, Any], ids: Mapping[tuple[str, str, str], str]) -> dict[str, Any]:
    """Return inputs as they are sent.

    :param ids: The upload ids by the keys of the files.
    """

    def sent(value: Any) -> Any:
        if isinstance(value, list):
            return [sent(item) for item in value]
        return value.described(ids[value.key]) if isinstance(value, FileToUpload) else value

    return {name: sent(value) for name, value in inputs.items()}
