"""Which outputs are files, from where they may be fetched, and the names under which they are saved."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urljoin, urlsplit

from airflow_provider_dify.api.checks import guarded, plain_text
from airflow_provider_dify.api.values import excerpt, shape_of
from airflow_provider_dify.exceptions import DifyFileRefusedError, DifyInvalidInputError
from airflow_provider_dify.rules.settings import MAX_OUTPUT_FILES, MAX_OUTPUT_FILES_BYTES

FILE_IDENTITY = "__dify__file__"
MAX_REDIRECTS = 3

MAX_NAME_BYTES = 150
"""Longest name in bytes of UTF-8: file systems take 255, and a name gets additions."""
_MAX_EXTENSION_CHARS = 20
# Not possible, or with a meaning of its own, in a file system, a shell's pattern or a URI.
_UNSAFE = re.compile(r'[<>:"|?*#%\\/]')
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Address:
    """Where a file is fetched.

    :param url: The whole URL. It may be signed: whoever has it may read the file.
    :param is_own: Whether it is of the connection's own server, to which a gateway's headers may go.
    """

    url: str
    is_own: bool

    @property
    def origin(self) -> str:
        """Scheme, host and port, for a message."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What of the URL must not be reported: the long values of its query, without which nobody reads the file."""
        query = urlsplit(self.url).query
        values = [value for _, value in parse_qsl(query)]
        # As they stand in the URL too, which is how a client logs them.
        values += [pair.partition("=")[2] for pair in query.split("&")]
        return tuple(sorted({value for value in values if len(value) > 20}))


def files_in(outputs: Any) -> dict[str, dict[str, Any]]:
    """Return the file objects in a run's outputs, at whatever depth, by the place where each stands.

    The order is that of the outputs. The objects are those of the outputs themselves.
    """
    found: dict[str, dict[str, Any]] = {}
    # No recursion: a server decides how deep the outputs are.
    todo: list[tuple[str, Any]] = [("outputs", outputs)]
    while todo:
        place, value = todo.pop()
        if isinstance(value, dict):
            if value.get("dify_model_identity") == FILE_IDENTITY:
                found[place] = value
                continue
            todo += reversed([(f"{place}[{excerpt(str(key), 60)!r}]", item) for key, item in value.items()])
        elif isinstance(value, list):
            todo += reversed([(f"{place}[{index}]", item) for index, item in enumerate(value)])
    return found


def declared_size(file: Mapping[str, Any]) -> int | None:
    """Return the size in bytes that a file object tells; None where it tells none."""
    size = file.get("size")
    return size if isinstance(size, int) and not isinstance(size, bool) and size >= 0 else None


def too_large(size: int | None, limit: int) -> DifyFileRefusedError:
    """Return the error for a file that has more bytes than are fetched of one.

    :param size: Its bytes; None where only the limit is known to be passed.
    :param limit: Bytes of one file at most.
    """
    shown = "more" if size is None else f"{size:,} bytes"
    return DifyFileRefusedError(f"it has {shown}, and max_file_bytes allows {limit:,} bytes.")


def too_large_together(limit: int) -> DifyFileRefusedError:
    """Return the error for files of one run that have more bytes together than are saved."""
    return DifyFileRefusedError(
        f"the files among the outputs have more than {limit:,} bytes together, which is the most that is saved of one "
        "run. Raise max_file_bytes, which is the limit of all files together too where it is more, or leave "
        "output_files_to out and fetch the files that you need with DifyHook.download_file."
    )


def check_number_of_files(number: int) -> None:
    """Let nobody save more files of one run than the limit.

    :raises DifyFileRefusedError: There are more.
    """
    if number > MAX_OUTPUT_FILES:
        raise DifyFileRefusedError(
            f"there are {number:,} files among the outputs, and at most {MAX_OUTPUT_FILES:,} are saved of one run. Let "
            "the workflow put them into an archive, or leave output_files_to out and fetch the files that you need "
            "with DifyHook.download_file."
        )


def bytes_together(sizes: Iterable[int | None], max_file_bytes: int) -> int:
    """Return the bytes that the files of one run may have together.

    :param sizes: The sizes that the file objects tell.
    :param max_file_bytes: Largest single file.
    :raises DifyFileRefusedError: They tell more than that already.
    """
    limit = max(MAX_OUTPUT_FILES_BYTES, max_file_bytes)
    if sum(size or 0 for size in sizes) > limit:
        raise too_large_together(limit)
    return limit


def address_of(url: Any, base_url: str, allowed_hosts: Collection[str] = ()) -> Address:
    """Return from where a file is fetched.

    :param url: What the file object, or a redirect, tells. A relative one counts from the server's root.
    :param base_url: The connection's base URL.
    :param allowed_hosts: Further hosts that may be asked, as ``host`` for the usual ports or ``host:port``.
    :raises DifyFileRefusedError: It is no http(s) URL, or one of another host.
    """
    if not isinstance(url, str) or not url:
        raise DifyFileRefusedError(f"the file's URL should be a text, got {shape_of(url)}.")
    if not url.isprintable() or "\\" in url or " " in url:
        # What one library reads as part of a path another takes for the end of a host.
        raise DifyFileRefusedError("the file's URL has white space, a backslash or a control character in it.")
    own = urlsplit(base_url)
    try:
        whole = urljoin(f"{own.scheme}://{own.netloc}/", url)
        parts = urlsplit(whole)
        place = _place_of(parts)
    except ValueError:
        raise DifyFileRefusedError("the file's URL cannot be read.") from None
    if parts.scheme not in _DEFAULT_PORTS:
        raise DifyFileRefusedError(
            f"the file's URL has the scheme {excerpt(parts.scheme, 20)!r}: only http and https are fetched."
        )
    if not parts.hostname or "@" in parts.netloc or not parts.netloc.isascii():
        raise DifyFileRefusedError("the file's URL names no host, or user info with it.")
    if (parts.scheme, *place) == (own.scheme, *_place_of(own)):
        return Address(whole, is_own=True)
    host, port = place
    named = f"[{host}]" if ":" in host else host
    wanted = {f"{named}:{port}"} | ({named} if port == _DEFAULT_PORTS[parts.scheme] else set())
    if not wanted & {each.lower() for each in allowed_hosts}:
        raise DifyFileRefusedError(
            f"it is at {named}:{port} ({parts.scheme}), which is not the connection's server. If files are really "
            f'served there, allow it: allowed_file_hosts=["{min(wanted, key=len)}"].'
        )
    return Address(whole, is_own=False)


def _place_of(parts: SplitResult) -> tuple[str, int]:
    return (parts.hostname or "").lower(), parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)


def check_hosts(value: Any, field_name: str = "allowed_file_hosts") -> tuple[str, ...]:
    """Return the hosts that a DAG allows.

    :raises DifyInvalidInputError: It is no list of texts such as ``files.example.com`` or ``files.example.com:8443``.
    """
    with guarded(value, field_name):
        if not issubclass(type(value), (list, tuple, set, frozenset)):
            raise DifyInvalidInputError(f"{field_name} must be a list of hosts, got {shape_of(value)}.")
        hosts = []
        for each in value:
            host = plain_text(each)
            if not host or not host.isprintable() or any(char in host for char in "/@\\*? "):
                raise DifyInvalidInputError(
                    f"{field_name} must hold hosts such as 'files.example.com' or 'files.example.com:8443', without "
                    f"scheme, path or pattern; one is {shape_of(each)}."
                )
            hosts.append(host)
        return tuple(hosts)


def file_object(file: Any) -> Mapping[str, Any]:
    """Return the description of a file to fetch."""
    with guarded(file, "file"):
        text = plain_text(file)
        if text is not None:
            return {"url": text}
        if isinstance(file, Mapping):
            return dict(file)
    raise DifyInvalidInputError(f"file must be a file object out of a run's outputs, or its URL, got {shape_of(file)}.")


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
