"""Files in local folders and in the object stores that Airflow knows: opened, measured and written."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

from airflow_provider_dify.api.values import shape_of
from airflow_provider_dify.exceptions import DifyError, DifyFileError, DifyInvalidInputError
from airflow_provider_dify.rules.uploads import scheme_of, shown

PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700

# In these a folder is part of an object's name, and making one could make a bucket.
_BUCKETS = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "r2"})
_LOCAL_SCHEMES = ("file", "local")
# What is wrong with a path, and not with the disk or the store.
_WRONG_PATH = frozenset(
    {errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG}
)
_ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def local_path(source: Any) -> str | None:
    """Return the path of a file of this machine, however it is named; None for one of another store.

    :param source: A path or URI as text, or an ``ObjectStoragePath``.
    :raises DifyInvalidInputError: A ``file://`` URI names a host.
    """
    if not isinstance(source, str):
        from fsspec.implementations.local import LocalFileSystem

        return str(source.path) if isinstance(source.fs, LocalFileSystem) else None
    scheme = scheme_of(source)
    if scheme is None:
        return os.path.expanduser(source)
    if scheme not in _LOCAL_SCHEMES:
        return None
    # Taken as it is: a file's name may have a ? or a #, which are no query there.
    host, _, path = source.strip().partition("://")[2].partition("/")
    if host.rpartition("@")[2] not in ("", "localhost"):
        raise DifyInvalidInputError(
            f"{shown(source)!r} names the host {host!r}, and a local file has none: write {scheme}:/// and the "
            "absolute path."
        )
    return "/" + path.lstrip("/")


def storage_path(source: Any) -> Any:
    """Return a path of Airflow's object storage, its store connected.

    :param source: A URI as text, or such a path itself.
    :raises DifyInvalidInputError: Airflow knows no store of that scheme.
    """
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    try:
        path = ObjectStoragePath(source) if isinstance(source, str) else source
        # Connects, which asks Airflow for the store's connection where one is named.
        path.fs  # noqa: B018
    except (ValueError, ImportError) as error:
        raise DifyInvalidInputError(
            f"{shown(source)!r} cannot be used: {shown(error)}. Install the Airflow provider of that store, or "
            "correct the address."
        ) from error
    return path


def _resolved(source: Any) -> Any:
    """Return the path of a local file as text, and that of an object as an ``ObjectStoragePath``."""
    if not isinstance(source, str):
        source = storage_path(source)
    path = local_path(source)
    return storage_path(source) if path is None else path


# --- Reading


class Source:
    """A file to read: by a local path, by the URI of an object, or by an ``ObjectStoragePath``.

    Made where Airflow's connections may be asked for; ``open`` may then be called in a thread. A local file is held
    to the same rules however it is named: a regular file, which may be read.

    :param source: The path or URI as text, or the path object.
    :param place: The field that names it, for messages.
    :raises DifyInvalidInputError: It is no regular file, does not exist, may not be read, or there is no such store.
    :raises DifyFileError: The store could not be asked.
    """

    def __init__(self, source: Any, place: str = "file") -> None:
        self._source = source
        self._place = place
        with reading(source, place):
            self._path = _resolved(source)
            self.size = self._measured()
        """Bytes; None where the store does not tell."""

    def _measured(self) -> int | None:
        if isinstance(self._path, str):
            with open_regular(self._path, self._place, shown(self._source)) as stream:
                return os.fstat(stream.fileno()).st_size
        info = self._path.fs.info(self._path.path)
        if info.get("type") == "directory":
            raise IsADirectoryError(errno.EISDIR, "Is a directory")
        if info.get("type") == "other":
            raise _irregular(self._place, shown(self._source), None)
        size = info.get("size")
        return size if isinstance(size, int) else None

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Give the file, open for reading."""
        with reading(self._source, self._place):
            stream: Any = (
                open_regular(self._path, self._place, shown(self._source))
                if isinstance(self._path, str)
                else self._path.open("rb")
            )
        try:
            yield stream
        finally:
            with suppress(Exception):
                stream.close()


def open_regular(path: str, place: str, name: str) -> BinaryIO:
    """Open a local file, and nothing that waits for a writer or has no end.

    :param path: Its path.
    :param place: The field that names it, for messages.
    :param name: What the field says, for messages.
    :raises DifyInvalidInputError: It is no regular file, or no system could have a file of that name.
    :raises OSError: It cannot be read.
    """
    try:
        # Before it is opened, since that alone is an action on some devices; and after, since it may have changed.
        _check_regular(os.stat(path), place, name)
        # A pipe that has come meanwhile must not be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except ValueError as error:
        raise DifyInvalidInputError(
            f"{place}: {name!r} cannot be read: no file has such a name ({error}). Nothing was submitted. Correct the "
            "path."
        ) from error
    try:
        _check_regular(os.fstat(descriptor), place, name)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def check_stream(stream: Any, place: str) -> None:
    """Let nothing be sent that is no open binary file, or that has no end.

    :param stream: What the caller has passed.
    :param place: The field, for messages.
    :raises DifyInvalidInputError: It cannot be sent.
    """
    if not all(callable(getattr(stream, name, None)) for name in ("read", "seek", "tell")):
        raise DifyInvalidInputError(
            f"{place} must be a path, the URI of an object, a path object or a binary file that is open, got "
            f"{shape_of(stream)}."
        )
    name = str(getattr(stream, "name", "the open file"))
    if getattr(stream, "closed", False):
        raise DifyInvalidInputError(f"{place}: {name!r} is closed. Nothing was sent. Pass its path, or open it again.")
    if isinstance(stream, io.TextIOBase) or not _says(stream, "readable"):
        raise DifyInvalidInputError(
            f"{place}: {name!r} is not open for reading bytes. Nothing was sent. Open it with mode 'rb'."
        )
    # What is no file of the system has no number.
    with suppress(AttributeError, OSError, ValueError):
        _check_regular(os.fstat(stream.fileno()), place, name)
    if not _says(stream, "seekable"):
        raise DifyInvalidInputError(
            f"{place}: {name!r} cannot be read twice, and so not measured. Nothing was sent. Read it into a file or a "
            "BytesIO first."
        )


def _says(stream: Any, question: str) -> bool:
    asked = getattr(stream, question, None)
    return bool(asked()) if callable(asked) else True


def _check_regular(found: os.stat_result, place: str, name: str) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "Is a directory")
    if not stat.S_ISREG(found.st_mode):
        raise _irregular(place, name, _KINDS.get(stat.S_IFMT(found.st_mode)))


def _irregular(place: str, name: str, kind: str | None) -> DifyInvalidInputError:
    return DifyInvalidInputError(
        f"{place}: {name!r} is no regular file{f' but {kind}' if kind else ''}, and so has no end to be sent. Nothing "
        "was submitted. Copy its content to a file, and name that."
    )


@contextmanager
def reading(source: Any, place: str) -> Iterator[None]:
    """Turn whatever an operating system or a store's client raises into an error that names the file.

    :param source: The path, URI or path object.
    :param place: The field that names it.
    """
    try:
        yield
    except DifyError:
        raise
    except Exception as error:
        if isinstance(error, _ABSENT) or (isinstance(error, OSError) and error.errno in _WRONG_PATH):
            raise DifyInvalidInputError(
                f"{place}: {shown(source)!r} cannot be read: {error.strerror or type(error).__name__}. Nothing was "
                f"submitted. {_remedy(error)}"
            ) from error
        raise DifyFileError(
            f"{place}: {shown(source)!r} could not be opened ({type(error).__name__}: {shown(error)}). Nothing was "
            "submitted; a retry of the task may succeed."
        ) from error


def _remedy(error: OSError) -> str:
    if isinstance(error, IsADirectoryError):
        return "Name a file in that folder."
    if isinstance(error, PermissionError):
        return "Let the user of the worker read the file and enter its folders."
    return "Correct the path: the worker must see the file, and where it is a link, what it leads to."


# --- Writing
