"""Files that a run is to have and that Dify does not have yet: how they are named, distinguished and described."""

from __future__ import annotations

import mimetypes
import os
import re
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_dify.api.checks import check_text, guarded, plain_text, preview
from airflow_provider_dify.api.input_form import STOCK_LIMITS
from airflow_provider_dify.api.upload_names import check_mime_type, check_name
from airflow_provider_dify.api.values import shape_of
from airflow_provider_dify.exceptions import DifyInvalidInputError
from airflow_provider_dify.rules.output_files import declared_size
from airflow_provider_dify.rules.settings import check_choice

FILE_TYPES = ("document", "image", "audio", "video", "custom")
UPLOAD_KEYS = ("path", "type", "mime_type", "name", "transfer_method")
UNKNOWN_MIME_TYPE = "application/octet-stream"
_MAX_SHOWN_CHARS = 400

# What Dify takes for what by the extension alone; everything else is a custom file to it.
_EXTENSIONS = {
    "image": {"jpg", "jpeg", "png", "webp", "gif", "svg"},
    "video": {"mp4", "mov", "mpeg", "webm"},
    "audio": {"mp3", "m4a", "wav", "amr", "mpga"},
    "document": {
        *("txt", "md", "markdown", "mdx", "pdf", "html", "htm", "xlsx", "xls", "vtt", "properties", "csv"),
        *("doc", "docx", "eml", "msg", "ppt", "pptx", "xml", "epub"),
    },
}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(//)?")
_PASSWORD = re.compile(r"(?<=//)([^/@]*?):[^/@]*@")


@dataclass(frozen=True)
class RunFile:
    """A file that an earlier run has put out, which is fetched from the server before it is uploaded for the next run.

    A server may be unable to fetch its own signed URL from inside, and no run may use the upload of another user.

    :param described: The file object out of that run's outputs.
    """

    described: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The file's name."""
        name = self.described.get("filename")
        return name if isinstance(name, str) and name else url_name(str(self.described["url"]))

    @property
    def size(self) -> int | None:
        """Bytes, where the object tells."""
        return declared_size(self.described)

    def __str__(self) -> str:
        # Without the query, whose signature lets everybody read the file.
        return str(self.described["url"]).partition("?")[0]


@dataclass(frozen=True)
class FileToUpload:
    """A file of a run that is to be uploaded first.

    :param source: A local path or the URI of an object as text, an ``ObjectStoragePath``, or a ``RunFile``.
    :param name: File name that Dify is to keep; its extension decides what Dify takes it for.
    :param mime_type: The file's MIME type.
    :param type: Dify's type of the file, such as ``document``.
    :param place: The field that names it, for messages.
    """

    source: Any
    name: str
    mime_type: str
    type: str
    place: str = field(default="file", compare=False)

    @property
    def shown(self) -> str:
        """Where it is, for a message."""
        return shown(self.source)

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes one upload do for several places."""
        return (str(self.source), self.name, self.mime_type)

    def described(self, upload_file_id: str) -> dict[str, Any]:
        """Return the file as Dify wants it named once it is uploaded."""
        return {"type": self.type, "transfer_method": "local_file", "upload_file_id": upload_file_id}

    def limit(self, limits: Mapping[str, int]) -> int:
        """Return the bytes that a server takes for it at most; what is no image, video or audio is a document."""
        kind = kind_of(self.name, None)
        return limits.get(kind if kind in limits else "document", STOCK_LIMITS["document"])


def shown(source: Any) -> str:
    """Return a path or URI for a message, without a password that stands in it, in a bounded and printable form."""
    try:
        text = str(source)
    except Exception:
        # A path object of somebody's, or an error of a store's client.
        text = shape_of(source)
    text = _PASSWORD.sub(r"\1:***@", text)
    text = "".join(char if char.isprintable() else "\ufffd" for char in text[:_MAX_SHOWN_CHARS])
    return text if len(text) < _MAX_SHOWN_CHARS else text[:-1] + "…"


def is_path_object(value: Any) -> bool:
    """Tell whether a value is a path by its type: of ``pathlib``, or of Airflow's object storage."""
    # Asked of the type, since the property of an object-storage path would connect to the store.
    kind = type(value)
    return issubclass(kind, os.PathLike) or (hasattr(kind, "fs") and hasattr(kind, "protocol"))


def check_destination(value: Any, field_name: str, *, required: bool = False) -> Any:
    """Return what names a place to write to: a text or a path object; None, or an empty text, for none.

    :param required: Whether there must be a place.
    :raises DifyInvalidInputError: It is something else, or a text that no place is named by.
    """
    if value is None and not required:
        return None
    with guarded(value, field_name):
        if issubclass(type(value), os.PathLike) and not hasattr(type(value), "fs"):
            value = os.fsdecode(value)
        text = plain_text(value)
        if not text:
            if (required or text is None) and not is_path_object(value):
                raise DifyInvalidInputError(
                    f"{field_name} must be a local path, the URI of an object store, or an ObjectStoragePath, got "
                    f"{shape_of(value)}."
                )
            return value if text is None else text
        check_text(text, field_name)
        if "\0" in text:
            raise DifyInvalidInputError(f"{field_name} has a NUL character in it, which no path has: remove it.")
        return text


def is_explicit_upload(value: Any) -> bool:
    """Tell whether a value names a file to upload whatever the type of its input is."""
    if is_path_object(value):
        return True
    return isinstance(value, Mapping) and value.get("transfer_method") == "local_file" and "path" in value


def to_upload(value: Any, place: str, file_types: Collection[str] = ()) -> FileToUpload | None:
    """Read a value that may name a file to upload.

    A text is taken for what it looks like: with ``scheme://`` for an object's URI, with a ``/``, or with ``~`` at
    its beginning, for a local path. URLs (``http://``, ``https://``) and UUIDs are no files to upload.

    :param value: A text, a path object, or a mapping with the key ``path`` and, to override what follows from the
        name, ``type``, ``mime_type`` and ``name``.
    :param place: Where the value stands, for messages.
    :param file_types: What the app allows there; empty for anything.
    :return: The file, or None for a URL, an upload id, or a mapping without ``path``.
    :raises DifyInvalidInputError: The value names a file in a way that is not possible, or could mean two things.
    """
    if isinstance(value, Mapping):
        return _from_mapping(value, place, file_types) if "path" in value else None
    if isinstance(value, str) and _is_url_or_id(value, place):
        return None
    return described_file(source_of(value, place), place, file_types)


def _from_mapping(value: Mapping[str, Any], place: str, file_types: Collection[str]) -> FileToUpload:
    unknown = [key for key in value if key not in UPLOAD_KEYS]
    if unknown:
        raise DifyInvalidInputError(
            f"{place} names a file to upload and has the key {preview(unknown[0])}: possible are "
            f"{', '.join(UPLOAD_KEYS)}."
        )
    if value.get("transfer_method", "local_file") != "local_file":
        raise DifyInvalidInputError(f"{place} has a 'path', and so its transfer_method can only be 'local_file'.")
    for key, check in (("mime_type", check_mime_type), ("name", check_name)):
        text = value.get(key)
        if text is not None and (not isinstance(text, str) or not text.strip() or not text.isprintable()):
            raise DifyInvalidInputError(f"{place}[{key!r}] must be a non-empty text on one line, got {shape_of(text)}.")
        if text is not None:
            check(text, f"{place}[{key!r}]")
    if value.get("type") is not None:
        check_choice(value["type"], f"{place}['type']", FILE_TYPES)
    return described_file(
        path_of(value["path"], f"{place}['path']"), place, file_types,
        name=value.get("name"), mime_type=value.get("mime_type"), kind=value.get("type"),
    )  # fmt: skip


def path_of(value: Any, place: str) -> Any:
    """Return a path or URI that can be opened, where nothing else can stand.

    :raises DifyInvalidInputError: It is none, or the URL of a web server.
    """
    if isinstance(value, str) and scheme_of(value) in ("http", "https"):
        raise DifyInvalidInputError(
            f"{place} is a URL, which Dify fetches itself: pass it as a text, or as 'url' with "
            "transfer_method 'remote_url'."
        )
    return source_of(value, place, bare=True)


def described_file(
    source: Any,
    place: str,
    file_types: Collection[str],
    *,
    name: str | None = None,
    mime_type: str | None = None,
    kind: str | None = None,
) -> FileToUpload:
    """Return a file to upload, with what follows from its name where nothing else is reported."""
    name = name or _name_of(source)
    if not name:
        raise DifyInvalidInputError(f"{place} names a folder and no file: {shown(source)!r}.")
    name = check_name(name, f"the file name of {place}")
    mime_type = mime_type or mimetypes.guess_type(name)[0] or UNKNOWN_MIME_TYPE
    return FileToUpload(source, name, mime_type, kind or type_for(name, mime_type, file_types), place)


def _is_url_or_id(text: str, place: str) -> bool:
    text = text.strip()
    try:
        uuid.UUID(text)
    except ValueError:
        return scheme_of(text) in ("http", "https")
    return True


def scheme_of(text: str) -> str | None:
    """Return the scheme of a URI, in small letters; None for any other text."""
    match = _SCHEME.match(text.strip())
    return match[1].lower() if match and match[2] else None


def source_of(value: Any, place: str, *, bare: bool = False) -> Any:
    """Return a path or URI that can be opened.

    :param bare: Whether a name alone is a path, since nothing else can stand there.
    """
    if is_path_object(value):
        if not isinstance(value, os.PathLike) or hasattr(type(value), "fs"):
            _possible(str(value), place)
            return value
        value = os.fspath(value)
        if isinstance(value, bytes):
            value = os.fsdecode(value)
        return _possible(value, place)
    text = (plain_text(value) or "").strip()
    if not text:
        raise DifyInvalidInputError(f"{place} must be a path or the URI of an object, got {shape_of(value)}.")
    _possible(text, place)
    if scheme_of(text):
        return text
    match = _SCHEME.match(text)
    if match and not bare:
        raise DifyInvalidInputError(
            f"{place} begins with {match[0]!r}, and is neither a path nor a URI: write {match[1]}://… for an object, "
            "or ./ before the name of a local file."
        )
    if "/" in text or bare or text.startswith("~"):
        return os.path.expanduser(text)
    raise DifyInvalidInputError(
        f"{place} is a string of {len(text)} characters that is neither an http(s) URL nor an upload id (UUID), and "
        "as a name alone it could be a file in any folder. Write an absolute path, ./ before the name for the "
        "folder that the worker runs in, or the URI of an object such as s3://bucket/key."
    )


def _possible(path: str, place: str) -> str:
    """Return a path that an operating system can be asked for."""
    if "\0" in path:
        raise DifyInvalidInputError(f"{place} has a NUL character in it, which no path has.")
    try:
        # Not as UTF-8: a name of other bytes has its own form, in which a local file is found.
        os.fsencode(path)
    except UnicodeEncodeError:
        raise DifyInvalidInputError(
            f"{place}: {path!r} cannot be read: no file has such a name (a lone surrogate is no valid Unicode text). "
            "Nothing was submitted. Correct the path."
        ) from None
    return path


def _name_of(source: Any) -> str:
    if not isinstance(source, str):
        return str(source.name)
    # An object's key is taken as it is: in it a blank is a blank and a question mark no query.
    _, slash, key = source.partition("://")[2].partition("/") if scheme_of(source) else ("", "/", source)
    return PurePosixPath(key).name if slash and not key.endswith("/") else ""


def kind_of(name: str, mime_type: str | None) -> str:
    """Return what Dify takes a file for, by its extension and, where that tells nothing, by its MIME type."""
    extension = PurePosixPath(name).suffix.lstrip(".").lower()
    for kind, extensions in _EXTENSIONS.items():
        if extension in extensions:
            return kind
    for kind in ("image", "video", "audio"):
        if kind in (mime_type or ""):
            return kind
    return "document" if "text" in (mime_type or "") or "pdf" in (mime_type or "") else "custom"


def type_for(name: str, mime_type: str, file_types: Collection[str]) -> str:
    """Return Dify's type of a file: what follows from the name, or what the app takes in its place."""
    kind = kind_of(name, mime_type)
    if not file_types or kind in file_types:
        return kind
    # An app that lists extensions of its own takes its files as custom ones.
    if "custom" in file_types:
        return "custom"
    # Which extensions are those of a document differs by server.
    return "document" if kind == "custom" and "document" in file_types else kind


def url_name(url: str) -> str:
    """Return the name of a file that a URL ends in; empty where it ends in none."""
    return PurePosixPath(urlsplit(url).path).name
