"""Uploads the files of a run right before its submission, under its own user."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING

from airflow_provider_dify.api.uploads import FileToUpload
from airflow_provider_dify.exceptions import DifyInvalidInputError
from airflow_provider_dify.hooks.stores import Source

if TYPE_CHECKING:
    from airflow_provider_dify.hooks.dify import DifyHook

PARALLEL_UPLOADS = 4
"""Uploads at a time of one task: a stock Dify has ten connections for everybody (API facts, section 12.1)."""

log = logging.getLogger(__name__)

Key = tuple[str, str, str]


def upload_all(
    hook: DifyHook, files: Sequence[FileToUpload], *, user: str, limits: Mapping[str, int]
) -> dict[Key, str]:
    """Upload files and return their upload ids by their keys; a file that is named twice is uploaded once.

    :param hook: The hook of the app's connection.
    :param files: The files.
    :param user: The ``user`` of the run that will use them: from Dify 1.14 on no other run may.
    :param limits: Bytes that the server takes at most, by kind.
    :raises DifyInvalidInputError: A file does not exist or is larger than the server takes; nothing was uploaded.
    :raises DifyFileError: A file could not be read to its end, or a store failed.
    :raises DifyError: An upload failed. What was uploaded before it stays with Dify, unused.
    """
    wanted = {file.key: file for file in files}
    # Airflow's connections are asked for here, and not in the threads.
    sources = {key: Source(file.source) for key, file in wanted.items()}
    _check_sizes(wanted, sources, limits)

    def upload(key: Key) -> str:
        file = wanted[key]
        with sources[key].open() as stream:
            uploaded = hook.upload_file(stream, user=user, name=file.name, mime_type=file.mime_type)
        return uploaded.upload_file_id

    hook.get_conn()
    pool = ThreadPoolExecutor(PARALLEL_UPLOADS, thread_name_prefix="dify-upload")
    try:
        pending = {pool.submit(upload, key): key for key in wanted}
        ids: dict[Key, str] = {}
        for done in as_completed(pending):
            key = pending[done]
            ids[key] = done.result()
            size = sources[key].size
            log.info("Uploaded %s%s as %s.", wanted[key].shown, "" if size is None else f" ({size:,} bytes)", ids[key])
    finally:
        # Also when the task is killed meanwhile: nobody waits for the others then.
        pool.shutdown(wait=False, cancel_futures=True)
    return ids


def _check_sizes(wanted: Mapping[Key, FileToUpload], sources: Mapping[Key, Source], limits: Mapping[str, int]) -> None:
    too_large = [
        f"{file.shown!r} has {size:,} bytes, and the server takes {limit:,} of such a file."
        for key, file in wanted.items()
        if (size := sources[key].size) is not None and size > (limit := file.limit(limits))
    ]
    if too_large:
        raise DifyInvalidInputError(
            " ".join(too_large) + " Nothing was uploaded and nothing submitted. Raise the server's upload limit "
            "(UPLOAD_FILE_SIZE_LIMIT and its like), or let the workflow fetch the file from a URL."
        )
