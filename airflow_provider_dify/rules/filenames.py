"""Names for files that a server names: safe in every folder and store, and always the same ones."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

MAX_NAME_BYTES = 150
"""Longest name in bytes of UTF-8: file systems take 255, and a name gets additions."""

_MAX_EXTENSION_CHARS = 20
# Not possible, or with a meaning of its own, in a file system, a shell's pattern or a URI.
_UNSAFE = re.compile(r'[<>:"|?*#%\\/]')


def safe_name(name: Any, fallback: str = "file") -> str:
    """Return a name that is one file in one folder, whatever a server calls it.

    Only what follows the last slash or backslash counts. Control characters, marks that turn the direction of writing
    and characters with a meaning of their own are replaced, dots and blanks at the ends are removed, and a
    name that is too long is cut before its extension.

    :param name: Anything; what is no text has no name.
    :param fallback: Stands in where nothing is left.
    """
    text = re.split(r"[/\\]", name)[-1] if isinstance(name, str) else ""
    # Of a name of many megabytes the ends are enough.
    text = text if len(text) <= 1000 else text[:500] + text[-500:]
    text = unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode("utf-8"))
    text = "".join(char if char.isprintable() else "_" for char in text)
    text = _UNSAFE.sub("_", text).strip(". ") or fallback
    stem, extension = _split(text)
    room = MAX_NAME_BYTES - len(extension.encode("utf-8"))
    stem = stem.encode("utf-8")[:room].decode("utf-8", "ignore")
    return stem.rstrip(". ") + extension if stem.rstrip(". ") else fallback + extension


def distinct_names(names: Iterable[Any]) -> list[str]:
    """Return a safe name for each, no two of which are the same file, not even where case does not count.

    The first of several keeps its name, the others get a number: the same names in the same order always give the
    same result. The time grows with the number of names, also where all are the same.
    """
    found: list[str] = []
    taken: set[str] = set()
    # No number is tried twice: what is taken stays taken.
    numbers: dict[tuple[str, str], int] = {}
    for name in names:
        safe = candidate = safe_name(name)
        stem, extension = _split(safe)
        family = (stem.casefold(), extension.casefold())
        number = numbers.get(family, 1)
        while candidate.casefold() in taken:
            number += 1
            candidate = f"{stem}-{number}{extension}"
        numbers[family] = number
        taken.add(candidate.casefold())
        found.append(candidate)
    return found


def _split(name: str) -> tuple[str, str]:
    path = PurePosixPath(name)
    extension = path.suffix if len(path.suffix) <= _MAX_EXTENSION_CHARS else ""
    return name.removesuffix(extension) if extension else name, extension
