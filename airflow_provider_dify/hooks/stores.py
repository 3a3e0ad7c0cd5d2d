"""Files in local folders and in the object stores that Airflow knows: opened, measured and written."""

from __future__ import annotations

import errno
import io
import os
import stat
import threading
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, BinaryIO, Protocol

from airflow_provider_dify.api.downloads import too_large_together
from airflow_provider_dify.api.uploads import scheme_of, shown
from airflow_provider_dify.api.values import shape_of
from airflow_provider_dify.exceptions import DifyError, DifyFileError, DifyInvalidInputError

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


class Writable(Protocol):
    """What a file is written through."""

    def write(self, chunk: bytes, /) -> int:
        """Write a chunk, and raise ``DifyFileError`` where that fails."""


def local_path(source: Any) -> str | None:
    """Return the path of a file of this machine, however it is named; None for one of another store.

    :param source: A path or URI as text, or an ``ObjectStoragePath``.
    :raises DifyInvalidInputError: A ``file://`` URI names a host.
    """
    if not isinstance(source, str):
        from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]

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
            f"{place} must be a path, the URI of an object, a path object or a binary file that is open, and is "
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
        """Open it, after a look at its place."""
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
