"""Places that a DAG author names to write to, with errors that name the parameter."""

from __future__ import annotations

from typing import Any

from airflow_provider_dify.client.store_writing import Target
from airflow_provider_dify.exceptions import DifyError, DifyFileError
from airflow_provider_dify.rules.uploads import check_destination, shown


def destination_target(value: Any, field_name: str) -> Target:
    """Return a place to write to, its store connected.

    :param value: A local path, the URI of an object, or an ``ObjectStoragePath``.
    :param field_name: The parameter that it was passed as.
    :raises DifyInvalidInputError: It names no place, or Airflow knows no such store.
    :raises DifyFileError: The store could not be asked.
    """
    place = check_destination(value, field_name)
    try:
        return Target(place)
    except DifyError as error:
        error.reword(problem=f"{field_name}: {error.problem}")
        raise
    except Exception as error:
        raise DifyFileError(
            f"{field_name}: the store of {shown(place)!r} could not be asked ({type(error).__name__}). Check its "
            "Airflow connection; a retry of the task may succeed."
        ) from error
