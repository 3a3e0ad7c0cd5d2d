"""Checks a run's inputs as the versions do, with their messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_dify.testing.files import FileStore, InvalidFileError
from airflow_provider_dify.testing.runs import EndUser
from airflow_provider_dify.testing.versions import Version
from airflow_provider_dify.testing.workflows import Input, Workflow

_TRUE = {"true", "1", "yes", "on"}
_FALSE = {"false", "0", "no", "off"}


class RefusedInputs(ValueError):
    """Inputs that the server refuses with a 400 `invalid_param`; the text is its message."""


class CrashingInputs(Exception):
    """Inputs on which a real server crashes with a 500; the text is what its log says."""


async def check_inputs(
    workflow: Workflow, sent: Mapping[str, Any], version: Version, files: FileStore, end_user: EndUser
) -> dict[str, Any]:
    """Return the inputs that the run will see: declared ones only, coerced, defaults put in.

    :raises RefusedInputs: for what the server refuses.
    :raises CrashingInputs: for what makes that version crash.
    """
    return {item.name: await _check(item, sent.get(item.name), version, files, end_user) for item in workflow.inputs}


async def _check(item: Input, value: Any, version: Version, files: FileStore, end_user: EndUser) -> Any:
    if value is None:
        if item.required:
            raise RefusedInputs(f"{item.name} is required in input form")
        return item.default
    if item.type in ("text-input", "paragraph", "select") and not isinstance(value, str):
        raise RefusedInputs(f"(type '{item.type}') {item.name} in input form must be a string")
    if item.type == "select" and value not in (item.options or ()):
        options = list(item.options or ())
        raise RefusedInputs(f"{item.name} in input form must be one of the following: {options}")
    if item.type in ("text-input", "paragraph") and item.max_length and len(value) > item.max_length:
        raise RefusedInputs(f"{item.name} in input form must be less than {item.max_length} characters")
    if item.type == "number":
        return _number(item, value)
    if item.type == "checkbox":
        return _flag(item, value, version)
    if item.type == "json_object" and not isinstance(value, Mapping):
        raise RefusedInputs(f"{item.name} in input form must be a dict")
    if item.type in ("file", "file-list"):
        return await _files(item, value, version, files, end_user)
    return value


def _number(item: Input, value: Any) -> Any:
    if isinstance(value, str):
        if not value.strip():
            return None
        try:
            return float(value) if "." in value else int(value)
        except ValueError:
            raise RefusedInputs(f"{item.name} in input form must be a valid number") from None
    if not isinstance(value, (int, float)):
        raise CrashingInputs(f"expected value type int, float or str, got {type(value)}, value: {value}")
    return value


def _flag(item: Input, value: Any, version: Version) -> Any:
    if isinstance(value, str) and value.strip().lower() in _TRUE | _FALSE:
        return value.strip().lower() in _TRUE
    if isinstance(value, (bool, int)) and value in (0, 1):
        return bool(value)
    if not version.strict_checkboxes:
        return value
    raise RefusedInputs(f"{item.name} in input form must be a valid boolean value")


async def _files(item: Input, value: Any, version: Version, files: FileStore, end_user: EndUser) -> Any:
    if item.type == "file":
        if not isinstance(value, Mapping):
            raise RefusedInputs(f"{item.name} in input form must be a file")
        wanted = [value]
    else:
        if not isinstance(value, list) or not all(isinstance(part, Mapping) for part in value):
            raise RefusedInputs(f"{item.name} in input form must be a list of files")
        if item.max_length and len(value) > item.max_length:
            raise RefusedInputs(f"{item.name} in input form must be less than {item.max_length} files")
        wanted = value
    try:
        found = [await files.resolve(part, version, end_user, item.allowed_file_types) for part in wanted]
    except InvalidFileError as error:
        raise RefusedInputs(str(error)) from error
    return found[0] if item.type == "file" else found
