"""What a caller names as a file of a run's outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_dify.api.checks import guarded, plain_text
from airflow_provider_dify.api.values import shape_of
from airflow_provider_dify.exceptions import DifyInvalidInputError

if TYPE_CHECKING:
    pass


def file_object(file: Any) -> Mapping[str, Any]:
    """Return the description of a file to fetch."""
    with guarded(file, "file"):
        text = plain_text(file)
        if text is not None:
            return {"url": text}
        if isinstance(file, Mapping):
            return dict(file)
    raise DifyInvalidInputError(f"file must be a file object out of a run's outputs, or its URL, got {shape_of(file)}.")
