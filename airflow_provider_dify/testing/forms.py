"""Checks the answer to a human-input form, with the messages of a real server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_dify.testing.errors import ApiError
from airflow_provider_dify.testing.files import FileStore, InvalidFileError
from airflow_provider_dify.testing.versions import Version
from airflow_provider_dify.testing.workflows import HumanInput


async def form_values(
    definition: HumanInput, action: str, inputs: Mapping[str, Any], version: Version, files: FileStore
) -> dict[str, Any]:
    """Return the values of the form's fields, files as the run sees them; undeclared names are dropped.

    A file may be anybody's, as on a real server.

    :raises ApiError: for an action that the form does not offer, a value that is missing or of a wrong kind.
    """
    if action not in definition.actions:
        raise _refused(f"Invalid action: {action}")
    missing = [name for name in definition.fields if name not in inputs]
    if missing:
        raise _refused(f"Missing required inputs: {', '.join(missing)}")
    values = {}
    for name in definition.fields:
        value, kind = inputs[name], definition.type_of(name)
        if kind == "select" and not isinstance(value, str):
            raise _refused(f"Invalid value for select input '{name}': expected string")
        if kind == "select" and value not in definition.options_of(name):
            raise _refused(f"Invalid value for select input '{name}': {value}")
        if kind == "file" and not isinstance(value, Mapping):
            raise _refused(f"Invalid value for file input '{name}': expected mapping")
        if kind == "file":
            try:
                value = await files.resolve(value, version, None, definition.file_types_of(name))
            except InvalidFileError as error:
                raise _refused(f"Invalid value for file input '{name}': {error}") from error
        values[name] = value
    return values


def _refused(message: str) -> ApiError:
    return ApiError(400, "invalid_form_data", message)
