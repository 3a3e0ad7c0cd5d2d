"""A file to upload, opened: by its path, by the URI of an object, or as an open file."""

from __future__ import annotations

import mimetypes
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, BinaryIO

from airflow_provider_dify.api.checks import guarded, plain_text
from airflow_provider_dify.api.operations import Upload
from airflow_provider_dify.api.upload_names import check_mime_type, check_name
from airflow_provider_dify.api.values import shape_of
from airflow_provider_dify.client.object_stores import Source, check_stream, reading
from airflow_provider_dify.exceptions import DifyInvalidInputError
from airflow_provider_dify.rules.uploads import UNKNOWN_MIME_TYPE, described_file, is_path_object, path_of


@contextmanager
def opened_upload(file: Any, name: str | None, mime_type: str | None) -> Iterator[Upload]:
    """Give an upload out of a path, the URI of an object or an open file; a file that was open stays open."""
    with guarded(name, "name"):
        name = check_name(name, "name") if name else None
    with guarded(mime_type, "mime_type"):
        mime_type = check_mime_type(mime_type, "mime_type") if mime_type else None
    with ExitStack() as stack:
        if plain_text(file) is not None or is_path_object(file):
            with guarded(file, "file"):
                found = described_file(path_of(file, "file"), "file", (), name=name, mime_type=mime_type)
            name = found.name
            stream = stack.enter_context(Source(found.source, "file").open())
        else:
            stream = _binary_file(file)
        if not name:
            raise DifyInvalidInputError("name is missing: an open file needs the name that Dify is to keep.")
        with reading(name, "file"):
            upload = Upload(stream, name, mime_type or mimetypes.guess_type(name)[0] or UNKNOWN_MIME_TYPE)
        yield upload


def _binary_file(file: Any) -> BinaryIO:
    """Return an open file that can be sent."""
    with guarded(file, "file"):
        check_stream(file, "file")
        if all(callable(getattr(file, name, None)) for name in ("read", "seek", "tell")) and file.read(0) == b"":
            return file  # type: ignore[no-any-return]
    raise DifyInvalidInputError(
        "file must be a path, the URI of an object, an ObjectStoragePath, or a seekable file that is open in binary "
        f"mode (open(path, 'rb')), got {shape_of(file)}."
    )
