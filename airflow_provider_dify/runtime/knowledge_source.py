"""The source of a sync: the files of a folder, or rows with texts and files, each with the digest of its content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

from airflow_provider_dify.api.checks import check_text, guarded, plain_text, preview
from airflow_provider_dify.api.values import shape_of
from airflow_provider_dify.client.folders import FileEntry, list_folder
from airflow_provider_dify.client.object_stores import Source, open_regular, reading
from airflow_provider_dify.exceptions import DifyError, DifyInvalidInputError
from airflow_provider_dify.rules.input_files import ANY_UPLOAD, UploadPolicy
from airflow_provider_dify.rules.knowledge_names import content_tag
from airflow_provider_dify.rules.knowledge_sync import SourceDocument, check_metadata_names
from airflow_provider_dify.rules.knowledge_uploads import too_large
from airflow_provider_dify.rules.patterns import check_patterns, matcher
from airflow_provider_dify.rules.uploads import is_path_object, path_of, scheme_of, shown

CHUNK_BYTES = 1024 * 1024
BLOCK_BYTES = 4 * 1024 * 1024
"""What a store's file keeps in memory at a time; some keep 50 MB otherwise, for each file that is open."""

_ROW_KEYS = ("key", "text", "file", "name", "metadata")


@dataclass
class Piece:
    """One thing of the source, and how its content is read.

    :param text: Its text; None for a file.
    :param open: Gives the file, open for reading; None for a text.
    :param place: Where the file is; None for a text.
    """

    item: SourceDocument
    text: str | None = None
    open: Callable[[], Any] | None = None
    place: Any = None

    def digest(self) -> str:
        """Return the SHA-256 of its content."""
        found = hashlib.sha256()
        if self.text is not None:
            found.update(self.text.encode("utf-8"))
        elif self.open is not None:
            with self.open() as stream:
                while chunk := stream.read(CHUNK_BYTES):
                    found.update(chunk)
        return found.hexdigest()


@dataclass
class SourceSettings:
    """How a source is read, beside where it is.

    :param pattern: Which files of a folder.
    :param metadata: Values for all documents.
    :param max_file_bytes: Larger files are not read.
    :param policy: From where files may be uploaded.
    """

    pattern: tuple[str, ...] = ("**",)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    max_file_bytes: int | None = None
    policy: UploadPolicy = ANY_UPLOAD


class HashingStream:
    """A file that is being sent, and the digest of what was read since its start."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        chunk = self._stream.read(size)
        self._digest.update(chunk)
        return chunk

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to another place, from which the digest begins again."""
        self._digest = hashlib.sha256()
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """Return the place."""
        return self._stream.tell()

    def digest(self) -> str:
        """Return the digest, as hexadecimal digits."""
        return self._digest.hexdigest()


def find_pieces(source: Any, settings: SourceSettings) -> list[Piece]:
    """Return what a source has, without reading any content.

    :param source: A folder as a path, a URI or a path object; or rows: mappings with ``text`` or ``file``, or paths.
    :raises DifyInvalidInputError: There is no such folder, or a row is wrong; nothing was read.
    :raises DifyFileError: The folder could not be listed to its end.
    """
    check_metadata_names(settings.metadata)
    if (plain_text(source) is not None and str(source).strip()) or is_path_object(source):
        folder = str(source) if plain_text(source) is not None else source
        found = list_folder(folder, matcher(settings.pattern))
        return _admitted([_piece_of_file(entry, settings) for entry in found], settings.policy)
    if isinstance(source, Mapping) or not isinstance(source, Iterable) or isinstance(source, (str, bytes)):
        raise DifyInvalidInputError(
            f"source must be a folder, or a list of rows, and is {shape_of(source)}. Nothing was written."
        )
    with guarded(source, "source"):
        rows = list(source)
    pieces = [_piece_of_row(row, f"source[{number}]", settings) for number, row in enumerate(rows)]
    return _admitted(pieces, settings.policy)


def _admitted(pieces: list[Piece], policy: UploadPolicy) -> list[Piece]:
    """Let files pass that are below the connection's roots, with links resolved, where there are any."""
    for piece in pieces:
        if policy.limits and piece.place is not None and not policy.admits(piece.place):
            raise DifyInvalidInputError(
                f"source: the file {shown(piece.place)!r} is not below one of the connection's allowed_upload_roots. "
                "Nothing was written. Move the file, or add its folder to them."
            )
    return pieces


def read_pieces(pieces: Sequence[Piece], settings_digest: str, at_a_time: int) -> list[SourceDocument]:
    """Read all contents for their digests, and return the items; what cannot be read has a problem.

    :param settings_digest: From ``rules.knowledge_names.settings_digest``.
    :param at_a_time: Contents that are read side by side.
    """

    def read(piece: Piece) -> SourceDocument:
        if piece.item.problem is not None:
            return piece.item
        try:
            return replace(piece.item, content=content_tag(piece.digest(), settings_digest))
        except DifyError as error:
            return replace(piece.item, problem=error.message)
        except Exception as error:
            # Whatever an object store's client raises in the middle of a file.
            return replace(piece.item, problem=f"it could not be read ({type(error).__name__}: {shown(error)}).")

    with ThreadPoolExecutor(at_a_time, thread_name_prefix="dify-read") as pool:
        context = copy_context()
        items = list(pool.map(lambda piece: context.copy().run(read, piece), pieces))
    for piece, item in zip(pieces, items, strict=True):
        piece.item = item
    return items


def _piece_of_file(entry: FileEntry, settings: SourceSettings) -> Piece:
    item = SourceDocument(entry.uri, entry.path, size=entry.size, metadata=_metadata(settings.metadata, "metadata"))
    return _limited(Piece(item, open=_opener(entry.source, entry.path), place=entry.source), settings)


def _limited(piece: Piece, settings: SourceSettings) -> Piece:
    size, limit = piece.item.size, settings.max_file_bytes
    if size is not None and limit is not None and size > limit:
        piece.item = replace(piece.item, problem=too_large(limit))
    return piece


def _opener(source: Any, title: str) -> Callable[[], Any]:
    place = f"source {preview(title, 200)}"

    @contextmanager
    def opened() -> Iterator[BinaryIO]:
        with reading(source, place):
            stream: Any = (
                open_regular(source, place, source)
                if isinstance(source, str)
                else source.fs.open(source.path, "rb", block_size=BLOCK_BYTES)
            )
        with stream:
            yield stream

    return opened


def _piece_of_row(row: Any, place: str, settings: SourceSettings) -> Piece:
    if plain_text(row) is not None or is_path_object(row):
        row = {"file": row}
    if not isinstance(row, Mapping):
        raise DifyInvalidInputError(
            f"{place} must be a mapping with 'text' or 'file', or a path, and is {shape_of(row)}. Nothing was written."
        )
    with guarded(row, place):
        unknown = [name for name in row if name not in _ROW_KEYS]
        if unknown:
            raise DifyInvalidInputError(
                f"{place} has the unknown name {preview(unknown[0])}: a row has {', '.join(_ROW_KEYS)}. Nothing was "
                "written. What describes a document goes into 'metadata'."
            )
        if (row.get("text") is None) is (row.get("file") is None):
            raise DifyInvalidInputError(f"{place} must have either 'text' or 'file'. Nothing was written.")
        metadata = {**settings.metadata, **_row_metadata(row.get("metadata"), place)}
        make = _piece_of_text if row.get("text") is not None else _piece_of_path
        return make(row, place, _metadata(metadata, f"{place}['metadata']"), settings)


def _row_metadata(value: Any, place: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise DifyInvalidInputError(f"{place}['metadata'] must be a mapping and is {shape_of(value)}.")
    check_metadata_names(value)
    return value


def _piece_of_text(row: Mapping[str, Any], place: str, metadata: dict[str, Any], settings: SourceSettings) -> Piece:
    text, key = plain_text(row["text"]), plain_text(row.get("key"))
    if text is None:
        raise DifyInvalidInputError(f"{place}['text'] must be a text and is {shape_of(row['text'])}.")
    if not key:
        raise DifyInvalidInputError(
            f"{place} has no 'key': a text needs one, the same in every sync, by which its document is known again, "
            f"and has {shape_of(row.get('key'))}. Nothing was written."
        )
    check_text(text, f"{place}['text']")
    check_text(key, f"{place}['key']")
    item = SourceDocument(key, plain_text(row.get("name")) or key, size=len(text), metadata=metadata)
    return Piece(item, text=text)


def _piece_of_path(row: Mapping[str, Any], place: str, metadata: dict[str, Any], settings: SourceSettings) -> Piece:
    path = path_of(row["file"], f"{place}['file']")
    uri = str(path) if scheme_of(str(path)) else f"file://{path}"
    key = plain_text(row.get("key")) or uri
    title = plain_text(row.get("name")) or uri.rstrip("/").rpartition("/")[2]
    item = SourceDocument(key, title, metadata=metadata)
    try:
        # Airflow's connections are asked for here, and not in the threads.
        file = Source(path, f"{place}['file']")
    except DifyError as error:
        return Piece(replace(item, problem=error.message), place=path)
    return _limited(Piece(replace(item, size=file.size), open=file.open, place=path), settings)


def _metadata(values: Mapping[str, Any], place: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if not isinstance(name, str) or not name.strip():
            raise DifyInvalidInputError(f"{place}: names must be non-empty texts; one is {shape_of(name)}.")
        if isinstance(value, bool) or not (value is None or isinstance(value, (str, int, float))):
            raise DifyInvalidInputError(
                f"{place}[{name!r}] must be a text or a number, as Dify keeps no others, and is {shape_of(value)}."
            )
        if value is not None:
            found[name] = value
    return found


def source_settings(
    pattern: Any, metadata: Any, max_file_bytes: int | None, roots: tuple[str, ...] | None
) -> SourceSettings:
    """Return checked settings.

    :param roots: The connection's ``allowed_upload_roots``.
    :raises DifyInvalidInputError: One is wrong.
    """
    if metadata is not None and not isinstance(metadata, Mapping):
        raise DifyInvalidInputError(f"metadata must be a mapping and is {shape_of(metadata)}.")
    policy = UploadPolicy.of("", roots)
    return SourceSettings(check_patterns(pattern), dict(metadata or {}), max_file_bytes, policy)
