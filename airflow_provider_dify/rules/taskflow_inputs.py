"""What a TaskFlow function returns: a workflow's inputs, or its inputs and files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_dify.api.values import shape_of
from airflow_provider_dify.exceptions import DifyInvalidInputError
from airflow_provider_dify.rules.plain_values import as_list, is_list
from airflow_provider_dify.rules.uploads import is_path_object


def inputs_and_files(returned: Any, function: str) -> tuple[dict[str, Any], list[Any] | None]:
    """Return the inputs and files that a TaskFlow function has returned; None for files that it does not name.

    Only the outer shape is checked here: names and values are checked where those of an operator are.

    :param returned: A mapping of inputs, a tuple of inputs and a list of files, or None for no inputs.
    :param function: The function's name, for the error message.
    :raises DifyInvalidInputError: It is something else. A string is not taken for JSON, as a rendered template would
        be: who has a mapping returns it.
    """
    if returned is None:
        return {}, None
    if isinstance(returned, Mapping):
        return dict(returned), None
    if isinstance(returned, tuple) and len(returned) == 2:
        inputs, files = returned
        if (inputs is None or isinstance(inputs, Mapping)) and (files is None or is_list(files)):
            return dict(inputs or {}), as_list(files)
        shape = f"a tuple of {shape_of(inputs)} and {shape_of(files)}"
    else:
        shape = shape_of(returned)
    raise DifyInvalidInputError(
        f"The function {function!r} must return the workflow's inputs as a mapping such as {{'text': 'hi'}}, inputs "
        f"and a list of files as a tuple of the two, or None for no inputs, and returned {shape}."
    )


def without_path_objects(value: Any) -> Any:
    """Return inputs or files as Airflow's database can keep them: a path object as the mapping that means the same."""
    if is_path_object(value):
        return {"path": str(value)}
    if isinstance(value, Mapping):
        # The one place where a path object stands in a mapping that names a file already.
        return {
            key: str(item) if key == "path" and is_path_object(item) else without_path_objects(item)
            for key, item in value.items()
        }
    return [without_path_objects(item) for item in value] if is_list(value) else value
