"""Names that a server gives to files, and the ones that they get here."""

from __future__ import annotations

import time
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dify.rules.output_files import MAX_NAME_BYTES, _split, distinct_names, safe_name

NAMES: list[tuple[Any, str]] = [
    ("report.pdf", "report.pdf"),
    ("Zażółć gęślą.pdf", "Zażółć gęślą.pdf"),
    ("../../etc/passwd", "passwd"),
    ("/etc/passwd", "passwd"),
    ("C:\\Windows\\win.ini", "win.ini"),
    ("..", "file"),
    (".", "file"),
    ("", "file"),
    ("a/", "file"),
    (None, "file"),
    (7, "file"),
    ("a\0b.txt", "a_b.txt"),
    ("a\nb\x1b[31m.txt", "a_b_[31m.txt"),
    ("fdp.\u202eexe", "fdp._exe"),
    (".bashrc", "bashrc"),
    ("a. ", "a"),
    ("a.tar.gz", "a.tar.gz"),
    ("s3:bucket?x=1#y%2e.csv", "s3_bucket_x=1_y_2e.csv"),
    ("..%2f..%2fx", "_2f._2fx"),
    ("\ud800.txt", "_.txt"),
]


@pytest.mark.parametrize(("name", "expected"), NAMES, ids=[repr(name)[:40] for name, _ in NAMES])
def test_a_name_becomes_safe(name: Any, expected: str) -> None:
    assert safe_name(name) == expected


@pytest.mark.parametrize("name", ["x" * 10_000 + ".pdf", "ż" * 10_000 + ".pdf", "../" * 5000 + "a.pdf"])
def test_a_long_name_keeps_its_extension(name: str) -> None:
    safe = safe_name(name)
    assert safe.endswith(".pdf")
    assert len(safe.encode()) <= MAX_NAME_BYTES


def test_the_same_names_get_numbers() -> None:
    names = ["a.txt", "A.txt", "a-2.txt", "a.txt", "x/a.txt", None, ""]
    assert distinct_names(names) == ["a.txt", "A-2.txt", "a-2-2.txt", "a-3.txt", "a-4.txt", "file", "file-2"]
    assert distinct_names(names) == distinct_names(names)


NASTY = st.text(st.sampled_from("./\\\0:~ab \n%\u202e\ud800żX"), max_size=30) | st.text(max_size=400) | st.none()


@given(NASTY)
def test_any_name_is_one_file_in_its_folder(name: Any) -> None:
    safe = safe_name(name)
    assert safe not in ("", ".", "..")
    assert PurePosixPath(safe).parts == (safe,)
    assert PureWindowsPath(safe).parts == (safe,)
    assert safe.isprintable()
    assert len(safe.encode("utf-8")) <= MAX_NAME_BYTES
    assert safe_name(safe) == safe


@given(st.lists(NASTY, max_size=12))
def test_no_two_names_are_the_same_file(names: list[Any]) -> None:
    found = distinct_names(names)
    assert len({name.casefold() for name in found}) == len(names)
    assert all(PurePosixPath(name).parts == (name,) for name in found)


def numbered(names: list[Any]) -> list[str]:
    """Return the names that ``distinct_names`` promises, in the slowest way."""
    found: list[str] = []
    for safe in map(safe_name, names):
        stem, extension = _split(safe)
        candidates = [safe, *(f"{stem}-{number}{extension}" for number in range(2, len(names) + 2))]
        taken = {each.casefold() for each in found}
        found.append(next(each for each in candidates if each.casefold() not in taken))
    return found


@given(
    st.lists(st.sampled_from(["a.b", "A.B", "a-2.b", "a-3.b", "a-2-2.b", "a", "a-2", "a.", "ß.b", "ss.b", ""]) | NASTY)
)
def test_names_get_the_lowest_number_that_is_free(names: list[Any]) -> None:
    assert distinct_names(names) == numbered(names)


@pytest.mark.parametrize("name", ["a.csv", "x" * 2000 + ".csv", "ż" * 2000])
def test_the_time_for_names_grows_with_their_number(name: str) -> None:
    before = time.process_time()
    found = distinct_names([name] * 20_000)
    # Each name tried for each: a minute and more.
    assert time.process_time() - before < 15
    assert len(set(found)) == 20_000
