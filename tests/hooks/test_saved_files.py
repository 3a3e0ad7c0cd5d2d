"""What is saved is whole and private, replaces a file and nothing else, and after a failure nothing of it is left."""

from __future__ import annotations

import os
import resource
import signal
import socket
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_dify.client.store_writing import FileGroup, Target, writing
from airflow_provider_dify.exceptions import DifyFileError, DifyFileRefusedError
from airflow_provider_dify.hooks.dify import DifyHook
from tests.hooks.support import Connect, http, serving
from tests.operators.storing import attached

CONTENT = b"x" * 300_000


@pytest.fixture
def url(connect: Connect) -> Iterator[str]:
    """Give the URL of a file of the connection's server."""
    with serving() as serve:
        connect(serve(http(200, CONTENT)).url)
        yield "/files/a"


def everything_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


WAYS = {"path": str, "URI": lambda path: f"file://{path}", "path object": lambda path: path}
ways = pytest.mark.parametrize("way", WAYS)


@ways
def test_files_and_new_folders_are_private(url: str, tmp_path: Path, way: str) -> None:
    folder = tmp_path / "there"
    folder.mkdir()
    folder.chmod(0o755)
    target = folder / "a" / "b" / "x?.txt"
    with umask(0o022):
        saved = DifyHook().download_file(url, WAYS[way](target))
    assert (saved.uri, saved.size, target.read_bytes()) == (f"file://{target}", len(CONTENT), CONTENT)
    assert [mode_of(each) for each in (folder, folder / "a", folder / "a" / "b")] == [0o755, 0o700, 0o700]
    assert mode_of(target) == 0o600
    assert everything_in(tmp_path) == {"there", "there/a", "there/a/b", "there/a/b/x?.txt"}


@ways
def test_a_file_that_is_replaced_keeps_its_mode(url: str, tmp_path: Path, way: str) -> None:
    target = tmp_path / "x.txt"
    target.write_text("old", encoding="utf-8")
    target.chmod(0o644)
    DifyHook().download_file(url, WAYS[way](target))
    assert target.read_bytes() == CONTENT
    assert mode_of(target) == 0o644
    assert everything_in(tmp_path) == {"x.txt"}


@ways
def test_a_folder_at_the_place_is_an_error_and_stays_as_it_is(url: str, tmp_path: Path, way: str) -> None:
    target = tmp_path / "x.txt"
    target.mkdir()
    (target / "inside").touch()
    before = everything_in(tmp_path)
    with pytest.raises(DifyFileError, match=r"x.txt' could not be written: a folder is at that place. Remove it, or"):
        DifyHook().download_file(url, WAYS[way](target))
    assert everything_in(tmp_path) == before


@ways
def test_a_link_to_a_folder_is_an_error_too(url: str, tmp_path: Path, way: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "x.txt").symlink_to("folder")
    with pytest.raises(DifyFileError, match="a folder is at that place"):
        DifyHook().download_file(url, WAYS[way](tmp_path / "x.txt"))
    assert everything_in(tmp_path) == {"folder", "x.txt"}
    assert (tmp_path / "x.txt").is_symlink()


@ways
@pytest.mark.parametrize("leads_to", ["file", "nothing"])
def test_a_link_is_replaced_and_not_what_it_leads_to(url: str, tmp_path: Path, way: str, leads_to: str) -> None:
    (tmp_path / "file").write_text("old", encoding="utf-8")
    (tmp_path / "x.txt").symlink_to(leads_to)
    DifyHook().download_file(url, WAYS[way](tmp_path / "x.txt"))
    assert (tmp_path / "file").read_text(encoding="utf-8") == "old"
    assert not (tmp_path / "x.txt").is_symlink()
    assert (tmp_path / "x.txt").read_bytes() == CONTENT
    assert mode_of(tmp_path / "x.txt") == 0o600
    assert everything_in(tmp_path) == {"file", "x.txt"}


@ways
def test_what_is_no_regular_file_is_not_replaced(url: str, tmp_path: Path, way: str) -> None:
    os.mkfifo(tmp_path / "x.txt")
    (tmp_path / "device").symlink_to("/dev/null")
    for name, what in (("x.txt", "a named pipe"), ("device", "a device")):
        with pytest.raises(DifyFileError, match=f"{what} is at that place"):
            DifyHook().download_file(url, WAYS[way](tmp_path / name))
    assert stat.S_ISFIFO((tmp_path / "x.txt").stat().st_mode)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert everything_in(tmp_path) == {"x.txt", "device"}


def test_a_file_or_folder_that_may_not_be_written_stays_as_it_is() -> None:
    from tests.client.test_object_stores import unprivileged

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        (folder / "x.txt").write_text("old", encoding="utf-8")
        (folder / "x.txt").chmod(0o444)
        (folder / "closed").mkdir(mode=0o755)
        with unprivileged():
            for target in ("x.txt", "closed/y.txt", "closed/deep/y.txt", "x.txt/y.txt"):
                with (
                    pytest.raises(DifyFileError, match=f"{target}' could not be written"),
                    writing(Target(str(folder / target)).path) as (sink, _),
                ):
                    sink.write(b"new")
        assert (folder / "x.txt").read_text(encoding="utf-8") == "old"
        assert everything_in(folder) == {"x.txt", "closed"}


def test_a_folder_that_comes_meanwhile_is_not_written_into(tmp_path: Path) -> None:
    def write() -> None:
        with writing(str(tmp_path / "x.txt")) as (sink, _):
            sink.write(b"new")
            (tmp_path / "x.txt").mkdir()

    with pytest.raises(DifyFileError, match="a folder is at that place"):
        write()
    assert everything_in(tmp_path) == {"x.txt"}


def test_a_full_disk_leaves_nothing(url: str, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(CONTENT) // 2, before[1]))
    try:
        with pytest.raises(DifyFileError, match=r"x.txt' could not be written \(OSError: \[Errno 27\] File too large"):
            DifyHook().download_file(url, tmp_path / "x.txt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert everything_in(tmp_path) == set()


def test_a_disk_that_is_full_at_the_last_bytes_leaves_nothing(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        # So few that only closing the file writes them.
        with pytest.raises(DifyFileError, match="could not be written"), writing(str(tmp_path / "x")) as (sink, _):
            sink.write(b"x" * 20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert everything_in(tmp_path) == set()


def test_a_long_name_that_is_possible_is_saved(url: str, tmp_path: Path) -> None:
    target = tmp_path / ("ż" * 127)
    DifyHook().download_file(url, target)
    assert everything_in(tmp_path) == {target.name}


class Timeout(BaseException):
    """As Airflow's own time-out of a task: none of ``Exception``."""


@pytest.mark.parametrize("kind", [KeyboardInterrupt, Timeout, SystemExit])
def test_a_task_that_is_killed_while_a_file_comes_leaves_nothing(
    connect: Connect, tmp_path: Path, kind: type[BaseException]
) -> None:
    stalled = threading.Event()

    def answer(request: Any, connection: socket.socket) -> None:
        connection.sendall(http(200, CONTENT)[:200_000])
        stalled.wait(30)

    def struck(*_: object) -> None:
        raise kind

    def happen() -> None:
        while not any((tmp_path / each).stat().st_size for each in everything_in(tmp_path)):
            stalled.wait(0.01)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, struck)
    try:
        with serving() as serve:
            connect(serve(answer).url)
            threading.Thread(target=happen, daemon=True).start()
            with pytest.raises(kind):
                DifyHook().download_file("/files/a", tmp_path / "x.txt")
            stalled.set()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert everything_in(tmp_path) == set()


# --- Object stores


def test_a_folder_of_a_store_at_the_place_is_an_error_too(url: str) -> None:
    store, folder = attached()
    store.pipe("/bucket/x.txt/inside", b"old")
    with pytest.raises(DifyFileError, match=r"/bucket/x.txt' could not be written: a folder is at that place"):
        DifyHook().download_file(url, f"{folder}/x.txt")
    assert store.find("/bucket") == ["/bucket/x.txt/inside"]


def test_an_object_is_replaced(url: str) -> None:
    store, folder = attached()
    store.pipe("/bucket/x.txt", b"old")
    DifyHook().download_file(url, f"{folder}/x.txt")
    assert store.find("/bucket") == ["/bucket/x.txt"]
    assert store.cat("/bucket/x.txt") == CONTENT


# --- Files that are written together


def test_files_of_a_group_share_a_limit(tmp_path: Path) -> None:
    group = FileGroup(10)

    def write(name: str, *chunks: bytes) -> None:
        with writing(str(tmp_path / name), group) as (sink, _):
            for chunk in chunks:
                sink.write(chunk)

    write("a", b"123456")
    with pytest.raises(DifyFileRefusedError, match="more than 10 bytes together"):
        write("b", b"1234", b"5")
    # What was removed does not count.
    write("c", b"1234")
    assert everything_in(tmp_path) == {"a", "c"}


def test_a_group_that_is_given_up_writes_nothing_more(tmp_path: Path) -> None:
    group = FileGroup(100)

    def write() -> None:
        with writing(str(tmp_path / "a"), group) as (sink, _):
            sink.write(b"1")
            group.give_up()
            group.remove_parts()
            assert everything_in(tmp_path) == set()
            sink.write(b"2")

    with pytest.raises(DifyFileError, match="has ended"):
        write()
    with pytest.raises(DifyFileError, match="has ended"), writing(str(tmp_path / "b"), group):
        pass
    assert everything_in(tmp_path) == set()
