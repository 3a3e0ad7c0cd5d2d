"""Files written to local folders and object stores: whole, or not at all."""

from __future__ import annotations

import os
import stat
import threading
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Protocol

from airflow_provider_dify.client.object_stores import _BUCKETS, _KINDS, PRIVATE_FILE, PRIVATE_FOLDER, _resolved
from airflow_provider_dify.exceptions import DifyError, DifyFileError
from airflow_provider_dify.rules.output_files import too_large_together
from airflow_provider_dify.rules.uploads import check_destination, shown


class Writable(Protocol):
    """What a file is written through."""

    def write(self, chunk: bytes, /) -> int:
        """Write a chunk, and raise ``DifyFileError`` where that fails."""


class FileGroup:
    """Files that are written side by side: they share a limit, and are given up together.

    :param limit: Bytes that they may have together.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._left = limit
        self._ended = False
        self._parts: set[_Part] = set()
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        """Count bytes before they are written.

        :raises DifyFileRefusedError: There are too many.
        """
        with self._lock:
            self._left -= size
            left = self._left
        if left < 0:
            raise too_large_together(self._limit)

    def give_back(self, size: int) -> None:
        """Count bytes no longer, since they were removed."""
        with self._lock:
            self._left += size

    def check(self) -> None:
        """Let nobody go on with files that were given up.

        :raises DifyFileError: The group was given up.
        """
        if self._ended:
            raise DifyFileError("the task has ended meanwhile.")

    def give_up(self) -> None:
        """End the writing of all files, at the next chunk of each."""
        self._ended = True

    def remove_parts(self) -> None:
        """Remove what is not whole, also of writers that hang."""
        with self._lock:
            parts = list(self._parts)
        for part in parts:
            part.remove()

    def add(self, part: _Part) -> None:
        """Remember a file that is about to be written."""
        with self._lock:
            self._parts.add(part)

    def discard(self, part: _Part) -> None:
        """Forget a file that is whole or removed."""
        with self._lock:
            self._parts.discard(part)


class Target:
    """A file to write, or a folder of a local disk or of an object store to write files into.

    :param place: A local path or a URI as text, a path object, or an ``ObjectStoragePath``.
    :raises DifyInvalidInputError: Airflow knows no such store.
    """

    def __init__(self, place: Any) -> None:
        try:
            # An object-storage path of some versions is one of the system's too.
            is_system_path = isinstance(place, os.PathLike) and not hasattr(type(place), "fs")
            path = _resolved(os.fsdecode(place) if is_system_path else place)
            self.path = os.path.abspath(path) if isinstance(path, str) else path
        except DifyError:
            raise
        except Exception as error:
            raise _failed(place, error) from error
        """The path as text where it is local, else an ``ObjectStoragePath``."""

    def joined(self, *parts: str) -> Any:
        """Return the path of a file in the folder.

        :param parts: Names of folders and of the file, which must be safe.
        """
        return os.path.join(self.path, *parts) if isinstance(self.path, str) else self.path.joinpath(*parts)

    def writing(self, *parts: str) -> AbstractContextManager[tuple[Writable, str]]:
        """Give a file in the folder to write, and its URI; see ``writing``."""
        return writing(self.joined(*parts))


@contextmanager
def writing(path: Any, group: FileGroup | None = None) -> Iterator[tuple[Writable, str]]:
    """Give a file to write and its URI.

    It is written beside its place under a name of its own and moved there when it is whole, so that nobody ever reads
    half a file under its name. On an exception nothing is left behind. A folder at its place, or a link to one, is an
    error; another link is replaced, and what it leads to stays as it is.

    :param path: A local path as text, or an ``ObjectStoragePath``.
    :param group: Files that it is written with.
    :raises DifyFileError: The store failed, or something at the file's place is not to be replaced.
    """
    part = _LocalPart(path) if isinstance(path, str) else _StoredPart(path)
    sink = _Guarded(part, group)
    if group is not None:
        group.add(part)
    try:
        if group is not None:
            group.check()
        with _as_ours(path):
            part.create()
        yield sink, part.uri
        if group is not None:
            group.check()
        with _as_ours(path):
            part.move()
    except BaseException:
        part.remove()
        if group is not None:
            group.give_back(sink.written)
        raise
    finally:
        if group is not None:
            group.discard(part)


class _Part:
    """A file that is written beside its place until it is whole."""

    def __init__(self, path: Any, uri: str) -> None:
        self.path = path
        self.uri = uri
        self.name = f".dify-{uuid.uuid4().hex}.part"
        self.stream: Any = None

    def create(self) -> None:
        """Open it, after a check of its place."""
        raise NotImplementedError

    def move(self) -> None:
        """Close it and move it to its place."""
        raise NotImplementedError

    def remove(self) -> None:
        """Close and remove it, whatever state it is in."""
        with suppress(Exception):
            if self.stream is not None:
                self.stream.close()
        with suppress(Exception):
            self._unlink()

    def _unlink(self) -> None:
        raise NotImplementedError


class _LocalPart(_Part):
    """A part of a local file: private, unless it replaces a file."""

    def __init__(self, path: str) -> None:
        super().__init__(path, f"file://{path}")
        self._folder = os.path.dirname(path)
        self._part = os.path.join(self._folder, self.name)

    def create(self) -> None:
        self._mode_of_target()
        _make_folders(self._folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self.stream = os.fdopen(os.open(self._part, flags, PRIVATE_FILE), "wb")

    def move(self) -> None:
        mode = self._mode_of_target()
        if mode is not None:
            os.fchmod(self.stream.fileno(), mode)
        self.stream.close()
        # Refuses a folder, where a move would lead into it.
        os.replace(self._part, self.path)

    def _unlink(self) -> None:
        os.unlink(self._part)

    def _mode_of_target(self) -> int | None:
        """Return the mode of the file that is to be replaced; None where there is none."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(found.st_mode):
            raise _taken(self.path, _KINDS.get(stat.S_IFMT(found.st_mode), "something that is no regular file"))
        if os.path.islink(self.path):
            return None
        # Who may not write a file is not to replace it either, though a folder's permissions may allow that.
        os.close(os.open(self.path, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK))
        return stat.S_IMODE(found.st_mode) & 0o777


class _StoredPart(_Part):
    """A part of an object in a store."""

    def __init__(self, path: Any) -> None:
        super().__init__(path, str(path))
        self._fs: Any = path.fs
        self._part = (path.parent / self.name).path

    def create(self) -> None:
        self._check_target()
        if _has_folders(self._fs):
            self._fs.makedirs(self.path.parent.path, exist_ok=True)
        self.stream = self._fs.open(self._part, "wb")

    def move(self) -> None:
        self.stream.close()
        # A move to a folder leads into it.
        self._check_target()
        self._fs.mv(self._part, self.path.path)

    def _unlink(self) -> None:
        self._fs.rm_file(self._part)

    def _check_target(self) -> None:
        if self._fs.isdir(self.path.path):
            raise _taken(self.path, "a folder")


class _Guarded:
    """A file that is written, whose store's own exceptions become ours."""

    def __init__(self, part: _Part, group: FileGroup | None) -> None:
        self._part = part
        self._group = group
        self.written = 0

    def write(self, chunk: bytes) -> int:
        """Write a chunk.

        :raises DifyFileError: The store failed, or the file's group has its limit behind it or was given up.
        """
        if self._group is not None:
            self._group.check()
            self.written += len(chunk)
            self._group.take(len(chunk))
        with _as_ours(self._part.path):
            return int(self._part.stream.write(chunk))


@contextmanager
def _as_ours(path: Any) -> Iterator[None]:
    """Turn whatever an operating system or a store's client raises into an error that names the file."""
    try:
        yield
    except DifyError:
        raise
    except Exception as error:
        raise _failed(path, error) from error


def _failed(path: Any, error: Exception) -> DifyFileError:
    return DifyFileError(f"{shown(path)!r} could not be written ({type(error).__name__}: {shown(error)}).")


def _taken(path: Any, what: str) -> DifyFileError:
    return DifyFileError(
        f"{shown(path)!r} could not be written: {what} is at that place. Remove it, or save the file elsewhere."
    )


def _make_folders(folder: str) -> None:
    """Make a local folder and those above it that are missing, all of them private."""
    missing = []
    while not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for each in reversed(missing):
        # Another thread may have made it meanwhile.
        with suppress(FileExistsError):
            os.mkdir(each, PRIVATE_FOLDER)


def _has_folders(fs: Any) -> bool:
    """Tell whether a folder must be there before a file is written into it, as on a disk, and not only a bucket."""
    protocol = fs.protocol
    return not _BUCKETS.intersection((protocol,) if isinstance(protocol, str) else protocol)


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
