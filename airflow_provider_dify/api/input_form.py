"""An app's input form: what a run's inputs must be, found out before anything is submitted.

The rules are those of Dify's own check (dify-behaviour.md, section 2.1), version by version where versions differ.
Where it is not known whether a server takes a value, it is let through: the server then decides.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_dify.api.checks import preview
from airflow_provider_dify.api.server_versions import Server
from airflow_provider_dify.api.values import as_text, int_or_none, shape_of
from airflow_provider_dify.exceptions import DifyInvalidInputError, DifyResponseError

TEXT_TYPES = ("text-input", "paragraph")
FILE_INPUTS = ("file", "file-list")

_NATIVE = (
    " If it comes from a template of a DAG with render_template_as_native_obj=True, which reads a text as Python, "
    "`| tojson` keeps the text."
)
_MAX_PROBLEMS = 40
_MAX_NAME_CHARS = 200
_MEBIBYTE = 1024 * 1024
_LIMIT_NAMES = {
    "image": "image_file_size_limit",
    "video": "video_file_size_limit",
    "audio": "audio_file_size_limit",
    "document": "file_size_limit",
}
STOCK_LIMITS: Mapping[str, int] = {
    "image": 10 * _MEBIBYTE,
    "video": 100 * _MEBIBYTE,
    "audio": 50 * _MEBIBYTE,
    "document": 15 * _MEBIBYTE,
}
"""Bytes that a server takes for an upload of each kind unless its owner has set other limits."""


@dataclass(frozen=True)
class FileRules:
    """What files an app allows in one place; what is empty allows anything.

    :param types: Dify's types, for example ``document``.
    :param extensions: Extensions of ``custom`` files.
    :param methods: How a file may get there: ``local_file`` (an upload), ``remote_url``.
    :param number: How many files there may be at most; None for no limit.
    """

    types: tuple[str, ...] = ()
    extensions: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    number: int | None = None

    @classmethod
    def parse(cls, described: Any) -> FileRules:
        """Read them out of a form's field, or out of ``file_upload``, which counts where it is switched on."""
        if not isinstance(described, Mapping) or described.get("enabled") is False:
            return cls()
        number = int_or_none(described.get("number_limits"))
        return cls(
            types=_texts(described.get("allowed_file_types")),
            extensions=_texts(described.get("allowed_file_extensions")),
            methods=_texts(described.get("allowed_file_upload_methods")),
            number=number if number and number > 0 else None,
        )


@dataclass(frozen=True)
class FormField:
    """One variable of the form.

    :param name: The input's name.
    :param type: Dify's name of the type, for example ``text-input`` or ``file-list``.
    :param required: Whether a run is refused without it.
    :param max_length: Longest text in characters, or most files of a file-list; None for no limit.
    :param options: What a ``select`` may be.
    :param files: What a file may be.
    """

    name: str
    type: str
    required: bool = False
    max_length: int | None = None
    options: tuple[Any, ...] = ()
    files: FileRules = FileRules()


@dataclass(frozen=True)
class InputForm:
    """What ``GET /parameters`` reports about the inputs and files that a run may have.

    :param fields: The form's variables by name.
    :param is_complete: Whether every entry of the form could be read. Otherwise no name counts as undeclared.
    :param files: What the files of the run itself (``sys.files``) may be.
    :param limits: Largest upload in bytes for each of ``image``, ``video``, ``audio`` and ``document`` (all others).
    :param server_version: As the server tells it.
    """

    fields: Mapping[str, FormField] = field(default_factory=dict)
    is_complete: bool = True
    files: FileRules = FileRules()
    limits: Mapping[str, int] = field(default_factory=lambda: dict(STOCK_LIMITS))
    server_version: str | None = None

    @classmethod
    def parse(cls, payload: Mapping[str, Any], server_version: str | None = None) -> InputForm:
        """Read the answer of ``GET /parameters``.

        :raises DifyResponseError: It has no form.
        """
        entries = payload.get("user_input_form")
        if not isinstance(entries, list):
            raise DifyResponseError(
                f"The answer about the app's parameters should have a list user_input_form and has {shape_of(entries)}."
            )
        fields = [each for each in map(_field_of, entries) if each is not None]
        return cls(
            fields={each.name: each for each in fields},
            is_complete=len(fields) == len(entries),
            files=FileRules.parse(payload.get("file_upload")),
            limits=_limits(payload.get("system_parameters")),
            server_version=server_version,
        )

    def read(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return inputs with each value as what the form says that it is, where that is beyond doubt.

        A number or a truth value is the text that a native template has made it of, where the form says text. The
        JSON text of an object, a file or a list of files is read. Everything else stays as it is.

        :param inputs: The run's inputs as JSON has them.
        """
        return {
            name: _read(self.fields[name].type, value) if name in self.fields else value
            for name, value in inputs.items()
        }

    def problems(self, inputs: Mapping[str, Any]) -> list[str]:
        """Return a sentence for each input that the server would refuse, or drop without a word.

        :param inputs: The run's inputs as they would be sent.
        """
        found = [
            f"{preview(name)} is not declared in the form, and Dify would drop it silently.{self._hint(name)}"
            for name in inputs
            if self.is_complete and name not in self.fields
        ]
        for each in self.fields.values():
            problem = self._problem(each, inputs.get(each.name))
            if problem:
                found.append(f"{each.name!r} {problem}")
        return found

    def check(self, inputs: Mapping[str, Any]) -> None:
        """Let inputs pass that fit the form.

        :raises DifyInvalidInputError: They do not; the message names every one that is wrong.
        """
        problems = self.problems(inputs)
        if problems:
            more = f" And {len(problems) - _MAX_PROBLEMS} more." if len(problems) > _MAX_PROBLEMS else ""
            raise DifyInvalidInputError(
                "The inputs do not fit the app's input form, so nothing was submitted. "
                + " ".join(f"Input {problem}" for problem in problems[:_MAX_PROBLEMS])
                + more,
                advice="Correct the task's inputs, or set validate_inputs=False to leave the check to Dify.",
                where="inputs",
            )

    def _hint(self, name: str) -> str:
        # Comparing takes time with the product of the lengths, and no name of Dify's is long.
        close = difflib.get_close_matches(name[:_MAX_NAME_CHARS], self.fields, n=1)
        if close:
            return f" Did you mean {close[0]!r}?"
        return f" Declared are: {', '.join(map(repr, self.fields))}." if self.fields else " The form declares none."

    def _problem(self, each: FormField, value: Any) -> str | None:
        if value is None:
            return f"({each.type}) is required but was not given." if each.required else None
        if each.type in TEXT_TYPES:
            return _text_problem(each, value)
        if each.type == "select":
            return _select_problem(each, value)
        if each.type == "number":
            return _number_problem(value)
        if each.type == "json_object":
            return self._object_problem(value)
        if each.type in FILE_INPUTS:
            return _file_problem(each, value)
        # A checkbox takes anything: a text such as "yes" is understood, and whatever else is handed on.
        return None

    def _object_problem(self, value: Any) -> str | None:
        # What versions before 1.14 did with a text was not observed, and nothing is what all take for no object.
        if isinstance(value, Mapping) or not value or not Server(self.server_version).refuses_json_text:
            return None
        remedy = (
            " The string is not a JSON object: pass the object itself, or its JSON text."
            if isinstance(value, str)
            else ""
        )
        return f"must be an object (a mapping), got {shape_of(value)}.{remedy}"


def _field_of(entry: Any) -> FormField | None:
    """Read one entry, an object with the type as its only key; None for anything else."""
    if not isinstance(entry, Mapping) or len(entry) != 1:
        return None
    kind, described = next(iter(entry.items()))
    if not isinstance(kind, str) or not isinstance(described, Mapping):
        return None
    name = described.get("variable")
    if not isinstance(name, str) or not name:
        return None
    options = described.get("options")
    length = int_or_none(described.get("max_length"))
    return FormField(
        name=name,
        type=kind,
        required=described.get("required") is True,
        max_length=length if length and length > 0 else None,
        options=tuple(options) if isinstance(options, list) else (),
        files=FileRules.parse(described),
    )


def _read(kind: str, value: Any) -> Any:
    if kind in (*TEXT_TYPES, "select"):
        return as_text(value)
    wanted: type | None = {"json_object": dict, "file": dict, "file-list": list}.get(kind)
    if wanted is None or not isinstance(value, str) or not value.strip().startswith("{" if wanted is dict else "["):
        return value
    try:
        found = json.loads(value, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return value
    # A text never names a local file by a mapping in it: somebody else may have written it.
    if kind != "json_object" and any(map(_names_local_file, [found] if isinstance(found, dict) else found)):
        return value
    return found if isinstance(found, wanted) else value


def _names_local_file(value: Any) -> bool:
    return isinstance(value, dict) and not {"path", "saved_to"}.isdisjoint(value)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(each for each in value if isinstance(each, str)) if isinstance(value, list) else ()


def _limits(payload: Any) -> dict[str, int]:
    """Return the upload limits in bytes; a server tells them in MiB."""
    given = payload if isinstance(payload, Mapping) else {}
    limits = dict(STOCK_LIMITS)
    for kind, name in _LIMIT_NAMES.items():
        mebibytes = int_or_none(given.get(name))
        if mebibytes is not None and mebibytes > 0:
            limits[kind] = mebibytes * _MEBIBYTE
    return limits


def _text_problem(each: FormField, value: Any) -> str | None:
    if not isinstance(value, str):
        return f"must be a string, got {shape_of(value)}.{_NATIVE}"
    if each.max_length is not None and len(value) > each.max_length:
        return f"has {len(value):,} characters, and the form allows {each.max_length:,}."
    return None


def _select_problem(each: FormField, value: Any) -> str | None:
    if not isinstance(value, str):
        return f"must be one of the form's options, as a string, got {shape_of(value)}."
    if each.options and value not in each.options:
        return f"must be one of {', '.join(map(repr, each.options))}, got a {len(value)}-character string."
    return None


def _number_problem(value: Any) -> str | None:
    if isinstance(value, (int, float)):
        return None
    if not isinstance(value, str):
        return f"must be a number, got {shape_of(value)}."
    if value.strip():
        # A text with an exponent and without a point is no number to Dify.
        try:
            float(value) if "." in value else int(value)
        except ValueError:
            return f"must be a number, got a {len(value)}-character string."
    return None


def _file_problem(each: FormField, value: Any) -> str | None:
    if each.type == "file":
        if value == "" and not each.required:
            return None
        return _one_file_problem(each, value, "")
    if value == "" and not each.required:
        return None
    if not isinstance(value, (list, tuple)):
        return f"must be a list of files, got {shape_of(value)}: put it into a list."
    if each.max_length is not None and len(value) > each.max_length:
        return f"has {len(value)} files, and the form allows {each.max_length}."
    for index, item in enumerate(value):
        problem = _one_file_problem(each, item, f"[{index}] ")
        if problem:
            return problem
    return None


def _one_file_problem(each: FormField, value: Any, place: str) -> str | None:
    if not isinstance(value, Mapping):
        remedy = " Pass one of the files." if isinstance(value, list) and not place else ""
        return f"{place}must be a file, got {shape_of(value)}.{remedy}"
    kind = value.get("type")
    if not isinstance(kind, str) or not kind:
        return f"{place}has no 'type', such as 'document' or 'image'."
    if each.files.types and kind != "custom" and kind not in each.files.types:
        return f"{place}is of the type {kind!r}, and the form allows {', '.join(map(repr, each.files.types))}."
    return None
