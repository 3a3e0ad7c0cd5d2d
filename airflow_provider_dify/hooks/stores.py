"""Files in local folders and in the object stores that Airflow knows: opened, measured and written."""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, BinaryIO, Protocol

from airflow_provider_dify.api.uploads import shown
from airflow_provider_dify.exceptions import DifyError, DifyFileError, DifyInvalidInputError

# In these a folder is part of an object's name, and making one could make a bucket.
_BUCKETS = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "r2"})
_ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)


class Writable(Protocol):
    """What a file is written through."""

    def write(self, chunk: bytes, /) -> int:
        """Write a chunk, and raise ``DifyFileError`` where that fails."""


class Source:
    """A file to read: by a local path, by the URI of an object, or by an ``ObjectStoragePath``.

    Made where Airflow's connections may be asked for; ``open`` may then be called in a thread.

    :param source: The path or URI as text, or the path object.
    :raises DifyInvalidInputError: It is no regular file, does not exist, or there is no such store.
    :raises DifyFileError: The store could not be asked.
    """

    def __init__(self, source: Any) -> None:
        self._source = source
        with reading(source):
            self._path = storage_path(source) if not isinstance(source, str) or "://" in source else None
            self.size = self._measured()
        """Bytes; None where the store does not tell."""

    def _measured(self) -> int | None:
        if self._path is None:
            found = os.stat(self._source)
            if stat.S_ISDIR(found.st_mode):
                raise IsADirectoryError(21, "Is a directory")
            if not stat.S_ISREG(found.st_mode):
                raise DifyInvalidInputError(
                    f"{shown(self._source)!r} is no regular file, and so has no end to be sent."
                )
            return found.st_size
        info = self._path.fs.info(self._path.path)
        if info.get("type") == "directory":
            raise IsADirectoryError(21, "Is a directory")
        size = info.get("size")
        return size if isinstance(size, int) else None

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Give the file, open for reading."""
        with reading(self._source):
            stream: Any = open(self._source, "rb") if self._path is None else self._path.open("rb")  # noqa: SIM115
        try:
            yield stream
        finally:
            with suppress(Exception):
                stream.close()


@contextmanager
def reading(source: Any) -> Iterator[None]:
    """Turn whatever an operating system or a store's client raises into an error that names the file."""
    try:
        yield
    except DifyError:
        raise
    except _ABSENT as error:
        raise DifyInvalidInputError(
            f"The file {shown(source)!r} cannot be read: {error.strerror or type(error).__name__}. Nothing was "
            "submitted."
        ) from error
    except Exception as error:
        raise DifyFileError(
            f"The file {shown(source)!r} could not be opened ({type(error).__name__}: {shown(error)}). Nothing was "
            "submitted; a retry of the task may succeed."
        ) from error


def storage_path(source: Any) -> Any:
    """Return a path of Airflow's object storage, its store connected.

    :param source: A URI or local path as text, or such a path itself.
    :raises DifyInvalidInputError: Airflow knows no store of that scheme.
    """
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    if isinstance(source, str) and "://" not in source:
        source = "file://" + os.path.abspath(os.path.expanduser(source))
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


class Target:
    """A folder of a local disk or of an object store, to write files into.

    :param folder: A local path or a URI as text, or an ``ObjectStoragePath``.
    :raises DifyInvalidInputError: Airflow knows no such store.
    """

    def __init__(self, folder: Any) -> None:
        try:
            self._folder = storage_path(folder)
        except DifyError:
            raise
        except Exception as error:
            raise _failed(folder, error) from error

    def joined(self, *parts: str) -> Any:
        """Return the path of a file in the folder.

        :param parts: Names of folders and of the file, which must be safe.
        """
        return self._folder.joinpath(*parts)

    def writing(self, *parts: str) -> AbstractContextManager[tuple[Writable, str]]:
        """Give a file in the folder to write, and its URI; see ``writing``."""
        return writing(self.joined(*parts))


@contextmanager
def writing(path: Any) -> Iterator[tuple[Writable, str]]:
    """Give a file to write and its URI.

    It is written beside its place under a name of its own and moved there when it is whole, so that nobody ever reads
    half a file under its name. On an exception nothing is left behind.

    :param path: An ``ObjectStoragePath``.
    :raises DifyFileError: The store failed.
    """
    part = path.parent / f".{path.name[:100]}.{uuid.uuid4().hex}.part"
    fs: Any = path.fs
    try:
        if _has_folders(fs):
            fs.makedirs(path.parent.path, exist_ok=True)
        stream = fs.open(part.path, "wb")
    except Exception as error:
        raise _failed(path, error) from error
    try:
        yield _Guarded(stream, path), _uri_of(path)
        try:
            stream.close()
            fs.mv(part.path, path.path)
        except Exception as error:
            raise _failed(path, error) from error
    except BaseException:
        with suppress(Exception):
            stream.close()
        with suppress(Exception):
            fs.rm_file(part.path)
        raise


def _failed(path: Any, error: Exception) -> DifyFileError:
    return DifyFileError(f"{shown(path)!r} could not be written ({type(error).__name__}: {shown(error)}).")


def _uri_of(path: Any) -> str:
    text = str(path)
    # Airflow shows a local path without its scheme where it was made from one.
    return text if "://" in text else f"file://{text}"


class _Guarded:
    """A file that is written, whose store's own exceptions become ours."""

    def __init__(self, stream: Any, path: Any) -> None:
        self._stream = stream
        self._path = path

    def write(self, chunk: bytes) -> int:
        """Write a chunk.

        :raises DifyFileError: The store failed.
        """
        try:
            return int(self._stream.write(chunk))
        except Exception as error:
            raise _failed(self._path, error) from error


def _has_folders(fs: Any) -> bool:
    """Tell whether a folder must be there before a file is written into it, as on a disk, and not only a bucket."""
    protocol = fs.protocol
    return not _BUCKETS.intersection((protocol,) if isinstance(protocol, str) else protocol)
