"""Uploads the files of a run right before its submission, under its own user."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from airflow_provider_dify.client.object_stores import Source
from airflow_provider_dify.exceptions import DifyFileError, DifyFileExpiredError, DifyInvalidInputError
from airflow_provider_dify.rules.uploads import FileToUpload, RunFile

if TYPE_CHECKING:
    from airflow_provider_dify.runtime.task_protocols import TaskHook

PARALLEL_UPLOADS = 4
"""Uploads at a time of one task: a stock Dify has ten connections for everybody (dify-behaviour.md, section 12.1)."""

log = logging.getLogger(__name__)

Key = tuple[str, str, str]


def upload_all(
    hook: TaskHook,
    files: Sequence[FileToUpload],
    *,
    user: str,
    limits: Mapping[str, int],
    allowed_hosts: Collection[str] = (),
) -> dict[Key, str]:
    """Upload files and return their upload ids by their keys; a file that is named twice is uploaded once.

    :param hook: The hook of the app's connection.
    :param files: The files.
    :param user: The ``user`` of the run that will use them: from Dify 1.14 on no other run may.
    :param limits: Bytes that the server takes at most, by kind.
    :param allowed_hosts: Hosts besides the connection's server that files of earlier runs may be fetched from.
    :raises DifyInvalidInputError: A file does not exist or is larger than the server takes; nothing was uploaded.
    :raises DifyFileError: A file could not be read to its end, or a store failed.
    :raises DifyError: An upload failed. What was uploaded before it stays with Dify, unused.
    """
    wanted = {file.key: file for file in files}
    _check_sizes({key: (file, file.source.size) for key, file in wanted.items() if _is_remote(file)}, limits)
    with TemporaryDirectory(prefix="dify-") as folder:
        # Airflow's connections are asked for here, and not in the threads.
        sources = {
            key: _fetched(hook, file, os.path.join(folder, str(number)), limits, allowed_hosts)
            if _is_remote(file)
            else Source(file.source, file.place)
            for number, (key, file) in enumerate(wanted.items())
        }
        _check_sizes({key: (file, sources[key].size) for key, file in wanted.items()}, limits)
        return _uploaded(hook, wanted, sources, user)


def _is_remote(file: FileToUpload) -> bool:
    return isinstance(file.source, RunFile)


def _fetched(
    hook: TaskHook, file: FileToUpload, path: str, limits: Mapping[str, int], allowed_hosts: Collection[str]
) -> Source:
    """Fetch a file of an earlier run into a temporary one, and return that."""
    try:
        hook.download_file(file.source.described, path, allowed_hosts=allowed_hosts, max_bytes=file.limit(limits))
    except DifyFileExpiredError as error:
        raise DifyInvalidInputError(
            f"The file {file.name!r} of an earlier run cannot be fetched for this one: {error.problem} Nothing was "
            "submitted.",
            advice="Let the task of that run save it (output_files_to), and pass {\"path\": …} with the 'saved_to' of "
            "the object that it returns.",
            on_retry="A retry would fail the same way.",
        ) from error
    except DifyFileError as error:
        raise type(error)(
            f"The file {file.name!r} of an earlier run cannot be fetched for this one: {error.problem} Nothing was "
            "submitted.",
            advice=error.advice,
            on_retry=error.on_retry,
        ) from error
    return Source(path, file.place)


def _uploaded(
    hook: TaskHook, wanted: Mapping[Key, FileToUpload], sources: Mapping[Key, Source], user: str
) -> dict[Key, str]:
    """Upload files side by side, and return their upload ids."""

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


def _check_sizes(sizes: Mapping[Key, tuple[FileToUpload, int | None]], limits: Mapping[str, int]) -> None:
    too_large = [
        f"{file.shown!r} has {size:,} bytes, and the server takes {limit:,} of such a file."
        for file, size in sizes.values()
        if size is not None and size > (limit := file.limit(limits))
    ]
    if too_large:
        raise DifyInvalidInputError(
            " ".join(too_large) + " Nothing was uploaded and nothing submitted. Raise the server's upload limit "
            "(UPLOAD_FILE_SIZE_LIMIT and its like), or let the workflow fetch the file from a URL."
        )
