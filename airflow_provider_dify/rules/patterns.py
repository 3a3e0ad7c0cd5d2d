"""Which files of a folder a pattern means."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from airflow_provider_dify.api.checks import plain_text
from airflow_provider_dify.api.values import shape_of
from airflow_provider_dify.exceptions import DifyInvalidInputError


def check_patterns(value: Any) -> tuple[str, ...]:
    """Return patterns as a tuple: one as a text, or several as a list.

    :raises DifyInvalidInputError: It is neither, or one is empty.
    """
    texts = [value] if isinstance(value, str) else value
    if isinstance(texts, (list, tuple)) and texts:
        found = [plain_text(each) for each in texts]
        if all(each and each.strip() for each in found):
            return tuple(str(each) for each in found)
    raise DifyInvalidInputError(
        f"pattern must be a text such as '*.md', or a list of such texts, and is {shape_of(value)}."
    )


def matcher(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Return what tells whether a path, relative to the folder, fits one of the patterns.

    ``*`` and ``?`` stand for anything but a slash, ``**`` for any folders. A pattern without a slash fits the names of
    files in all folders. Names that begin with a dot, and what is in such folders, fit none.
    """
    compiled = [re.compile(_expression(pattern)) for pattern in patterns]

    def fits(path: str) -> bool:
        if any(part.startswith(".") for part in path.split("/")):
            return False
        return any(each.fullmatch(path) for each in compiled)

    return fits


def _expression(pattern: str) -> str:
    if "/" not in pattern:
        pattern = f"**/{pattern}"
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern.lstrip("/"))
    known = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(known.get(part, re.escape(part)) for part in parts)
