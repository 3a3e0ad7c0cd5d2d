"""The files of a folder, on a local disk or in an object store that Airflow knows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from airflow_provider_dify.client.object_stores import local_path, storage_path
from airflow_provider_dify.exceptions import DifyError, DifyFileError, DifyInvalidInputError
from airflow_provider_dify.rules.uploads import shown

MAX_DEPTH = 64
_MISSING = (FileNotFoundError, NotADirectoryError)


@dataclass(frozen=True)
class FileEntry:
    """One file of a folder.

    :param path: Relative to the folder, with slashes.
    :param uri: Where it is, as a URI; what identifies it.
    :param source: What ``Source`` opens.
    :param size: Bytes; None where the store does not tell.
    """

    path: str
    uri: str
    source: Any
    size: int | None


def list_folder(folder: Any, fits: Callable[[str], bool], place: str = "source") -> list[FileEntry]:
    """Return the files of a folder and those below it, by their paths.

    What cannot be listed is an error as a whole: a part of a listing would look as if the rest were gone.

    :param folder: A local path or a URI as text, or a path object.
    :param fits: Tells whether a relative path is wanted.
    :param place: The parameter that names it, for messages.
    :raises DifyInvalidInputError: There is no such folder, or no such store.
    :raises DifyFileError: It could not be listed to its end.
    """
    try:
        local = _local(folder)
        entries = _local_files(local, fits) if local is not None else _stored_files(storage_path(folder), fits)
        return sorted(entries, key=lambda entry: entry.path)
    except DifyError:
        raise
    except _MISSING as error:
        raise DifyInvalidInputError(
            f"{place}: {shown(folder)!r} is no folder that the worker sees. Nothing was written. Correct the path, or "
            "let what fills it run first."
        ) from error
    except Exception as error:
        raise DifyFileError(
            f"{place}: {shown(folder)!r} could not be listed to its end ({type(error).__name__}: {shown(error)}), so "
            "nothing was written: what is missing from a listing must not look as if it were gone. A retry of the task "
            "may succeed."
        ) from error


def _local(folder: Any) -> str | None:
    if isinstance(folder, os.PathLike) and not hasattr(type(folder), "fs"):
        folder = os.fspath(folder)
    path = local_path(folder)
    return None if path is None else os.path.abspath(path)


def _local_files(folder: str, fits: Callable[[str], bool], prefix: str = "", depth: int = 0) -> Iterator[FileEntry]:
    with os.scandir(os.path.join(folder, prefix)) as found:
        for entry in found:
            path = f"{prefix}{entry.name}"
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                # Links to folders can lead in a circle.
                if not entry.is_symlink() and depth < MAX_DEPTH:
                    yield from _local_files(folder, fits, f"{path}/", depth + 1)
            elif entry.is_file() and fits(path):
                whole = os.path.join(folder, path)
                yield FileEntry(path, f"file://{whole}", whole, entry.stat().st_size)


def _stored_files(folder: Any, fits: Callable[[str], bool]) -> Iterator[FileEntry]:
    fs, base = folder.fs, folder.path.rstrip("/")
    yield from _below(fs, folder, base, base, fits, 0)


def _below(fs: Any, folder: Any, base: str, place: str, fits: Callable[[str], bool], depth: int) -> Iterator[FileEntry]:
    for info in fs.ls(place, detail=True):
        name = str(info["name"]).rstrip("/")
        # A store may list the folder itself, as an empty object.
        if not name.lstrip("/").startswith(f"{base.lstrip('/')}/"):
            continue
        path = name.lstrip("/")[len(base.lstrip("/")) + 1 :]
        if path.rpartition("/")[2].startswith("."):
            continue
        if info.get("type") == "directory":
            if depth < MAX_DEPTH and name != place:
                yield from _below(fs, folder, base, name, fits, depth + 1)
        elif fits(path):
            size = info.get("size")
            # Without the name of the Airflow connection, which is no part of what the file is.
            uri = str(fs.unstrip_protocol(name))
            yield FileEntry(path, uri, folder.joinpath(*path.split("/")), size if isinstance(size, int) else None)
