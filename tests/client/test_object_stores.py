"""Which local files are uploaded: regular ones that may be read, by the same rules however a file is named."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_dify.client.object_stores import Source, local_path
from airflow_provider_dify.client.store_writing import Target
from airflow_provider_dify.exceptions import DifyInvalidInputError
from airflow_provider_dify.hooks.dify import DifyHook
from tests.hooks.support import Face, Start, fails

pytestmark = pytest.mark.timeout(60)


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "x.txt")
    return folder / "x.txt"


def bound_socket(folder: Path) -> Path:
    # Paths of sockets are short.
    path = Path(tempfile.mkdtemp(prefix="s")) / "x.txt"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    return path


def dangling(folder: Path) -> Path:
    (folder / "x.txt").symlink_to(folder / "gone.txt")
    return folder / "x.txt"


def loop(folder: Path) -> Path:
    (folder / "x.txt").symlink_to(folder / "x.txt")
    return folder / "x.txt"


def link_to_fifo(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    (folder / "x.txt").symlink_to(folder / "pipe")
    return folder / "x.txt"


def link_to(target: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "x.txt").symlink_to(target)
        return folder / "x.txt"

    return make


def below_a_file(folder: Path) -> Path:
    (folder / "a").touch()
    return folder / "a" / "x.txt"


UNFIT: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "FIFO": (fifo, "is no regular file but a named pipe", "Copy its content to a file"),
    "link to a FIFO": (link_to_fifo, "is no regular file but a named pipe", "Copy its content to a file"),
    "socket": (bound_socket, "is no regular file but a socket", "Copy its content to a file"),
    "device": (lambda folder: Path("/dev/zero"), "is no regular file but a device", "Copy its content to a file"),
    "link to a device": (link_to("/dev/zero"), "is no regular file but a device", "Copy its content to a file"),
    "link to a folder": (link_to("/"), "cannot be read: Is a directory", "Name a file in that folder"),
    "folder": (lambda folder: folder, "cannot be read: Is a directory", "Name a file in that folder"),
    "dangling link": (dangling, "cannot be read: No such file", "Correct the path"),
    "loop of links": (loop, "cannot be read: Too many levels of symbolic links", "Correct the path"),
    "nothing": (lambda folder: folder / "x.txt", "cannot be read: No such file", "Correct the path"),
    "below a file": (below_a_file, "cannot be read: Not a directory", "Correct the path"),
    "long name": (lambda folder: folder / ("x" * 300), "cannot be read: File name too long", "Correct the path"),
    "half a surrogate pair": (lambda folder: folder / "\ud800.txt", "no file has such a name", "Correct the path"),
}


def storage_path(path: Path) -> Any:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    return ObjectStoragePath(f"file://{path}")


class BytesPath(os.PathLike[bytes]):
    def __init__(self, path: Path) -> None:
        self._path = os.fsencode(path)

    def __fspath__(self) -> bytes:
        return self._path


WAYS: dict[str, Callable[[Path], Any]] = {
    "path": str,
    "file URI": lambda path: f"file://{path}",
    "local URI": lambda path: f"local://{path}",
    "URI with a connection": lambda path: f"file://some@{path}",
    "URI with localhost": lambda path: f"FILE://localhost{path}",
    "path object": lambda path: path,
    "path object of bytes": BytesPath,
    "object-storage path": storage_path,
}


def named(way: str, path: Path) -> Any:
    try:
        return WAYS[way](path)
    except UnicodeEncodeError:
        pytest.skip("no such path object")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", UNFIT)
def test_what_is_no_file_to_send_is_refused(dify: Start, face: Face, tmp_path: Path, kind: str, way: str) -> None:
    make, reason, remedy = UNFIT[kind]
    path = make(tmp_path)
    server = dify("echo")
    error = fails(DifyInvalidInputError, face, "upload_file", named(way, path), user="me")
    assert str(error).startswith("file: '")
    for text in (repr(str(path))[1:], reason, "Nothing was submitted", remedy):
        assert text in str(error)
    assert server.requests == []


@pytest.mark.parametrize("way", WAYS)
def test_a_file_is_sent_however_it_is_named(dify: Start, face: Face, tmp_path: Path, way: str) -> None:
    dify("echo")
    # As a file's name all of this is possible, and no query.
    for name in ("a.txt", "a?.txt", "a#b.txt", "a%20b.txt", "ż.txt"):
        (tmp_path / name).write_text(name, encoding="utf-8")
        (tmp_path / "link.txt").unlink(missing_ok=True)
        (tmp_path / "link.txt").symlink_to(name)
        for path in (tmp_path / name, tmp_path / "link.txt"):
            assert face("upload_file", WAYS[way](path), user="me").size == len(name.encode())


@contextmanager
def unprivileged() -> Iterator[None]:
    """Be a user for whom permissions count."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("way", WAYS)
def test_a_file_that_may_not_be_read_is_noticed_before_anything_is_sent(way: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "x.txt"
        path.write_text("x", encoding="utf-8")
        os.chmod(name, 0o755)
        path.chmod(0)
        value = WAYS[way](path)
        if isinstance(value, os.PathLike) and not hasattr(type(value), "fs"):
            value = os.fsdecode(value)
        with (
            unprivileged(),
            pytest.raises(
                DifyInvalidInputError,
                match=r"^files\[1\]: '.*x.txt' cannot be read: Permission denied. .* Let the user of the worker read",
            ),
        ):
            Source(value, "files[1]")


def test_a_file_that_becomes_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("x", encoding="utf-8")
    source = Source(str(path), "files[0]")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DifyInvalidInputError, match=r"files\[0\]: .* named pipe"), source.open():
        pass


def test_a_file_of_another_host_is_none_of_this_machine(dify: Start, face: Face) -> None:
    server = dify("echo")
    error = fails(DifyInvalidInputError, face, "upload_file", "file://etc/hostname", user="me")
    assert "names the host 'etc', and a local file has none: write file:///" in str(error)
    assert server.requests == []


def test_a_colon_and_slashes_within_a_path_make_no_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a:").mkdir()
    (tmp_path / "a:" / "x.txt").write_text("xyz", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert Source("./a://x.txt").size == 3
    assert local_path("./a://x.txt") == "./a://x.txt"
    assert Target("./a://x.txt").path == f"{tmp_path}/a:/x.txt"


# --- Files that are open already


class Named(Face):
    """Calls with the argument ``name``, which a face has itself."""

    def __init__(self, face: Face) -> None:
        super().__init__(face.mode)

    def __call__(self, operation: str, file: Any) -> Any:  # type: ignore[override]
        async def call() -> Any:
            async with DifyHook() as hook:
                return await getattr(hook, f"a{operation}")(file, user="me", name="a.txt")

        if self.mode == "async":
            return asyncio.run(call())
        with DifyHook() as hook:
            return getattr(hook, operation)(file, user="me", name="a.txt")


def test_an_open_file_without_an_end_is_refused(dify: Start, face: Face, tmp_path: Path) -> None:
    server = dify("echo")
    reading, writing = os.pipe()
    os.mkfifo(tmp_path / "pipe")
    with (
        open("/dev/zero", "rb") as device,
        os.fdopen(reading, "rb") as pipe,
        os.fdopen(writing, "wb"),
        os.fdopen(os.open(tmp_path / "pipe", os.O_RDWR | os.O_NONBLOCK), "rb", buffering=0) as named_pipe,
        socket.socket() as unconnected,
        os.fdopen(os.dup(unconnected.fileno()), "rb") as stream,
    ):
        for file, kind in (
            (device, "a device"),
            (pipe, "a named pipe"),
            (named_pipe, "a named pipe"),
            (stream, "a so"),
        ):
            error = fails(DifyInvalidInputError, Named(face), "upload_file", file)
            assert f"is no regular file but {kind}" in str(error)
    assert server.requests == []


def test_what_cannot_be_read_as_bytes_is_refused(dify: Start, face: Face, tmp_path: Path) -> None:
    server = dify("echo")
    path = tmp_path / "a.txt"
    path.write_text("x", encoding="utf-8")
    with path.open("rb") as closed:
        pass
    with path.open(encoding="utf-8") as text, path.open("ab") as written:
        for file, reason in (
            (closed, "a.txt' is closed. Nothing was sent. Pass its path"),
            (text, "a.txt' is not open for reading bytes. Nothing was sent. Open it with mode 'rb'"),
            (written, "a.txt' is not open for reading bytes"),
            (io.StringIO("x"), "the open file' is not open for reading bytes"),
            (b"/data/a.txt", "file must be a path, the URI of an object, a path object or a binary file that is open"),
            (7, "got int"),
            (None, "got null"),
        ):
            error = fails(DifyInvalidInputError, Named(face), "upload_file", file)
            assert reason in str(error)
    assert server.requests == []


def test_open_files_of_every_kind_are_sent_from_where_they_stand(dify: Start, face: Face, tmp_path: Path) -> None:
    dify("echo")
    path = tmp_path / "a.txt"
    path.write_bytes(b"12345")
    with path.open("rb") as file, tempfile.TemporaryFile() as temporary, tempfile.SpooledTemporaryFile() as spooled:
        temporary.write(b"12345")
        spooled.write(b"12345")
        for each in (file, temporary, spooled, io.BytesIO(b"12345")):
            each.seek(2)
            assert Named(face)("upload_file", each).size == 3
