"""The files that a run gets: named by a DAG author in one of many ways, held against what the app allows."""

from __future__ import annotations

import mimetypes
import operator
import os
import posixpath
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_dify.api.input_form import FILE_INPUTS, FileRules, InputForm
from airflow_provider_dify.api.upload_names import is_mime_type
from airflow_provider_dify.api.values import shape_of
from airflow_provider_dify.exceptions import DifyInvalidInputError
from airflow_provider_dify.rules.output_files import FILE_IDENTITY
from airflow_provider_dify.rules.settings import check_choice
from airflow_provider_dify.rules.uploads import (
    FILE_TYPES,
    FileToUpload,
    RunFile,
    described_file,
    is_explicit_upload,
    is_path_object,
    kind_of,
    scheme_of,
    source_of,
    to_upload,
    type_for,
    url_name,
)

# What some servers take for a document, and others for a custom file.
_MAYBE_DOCUMENTS = {"eml", "msg", "ppt", "pptx", "xml", "epub", "json", "yaml", "yml"}
_METHODS = ("remote_url", "local_file")
_LOCAL_SCHEMES = (None, "file", "local")


@dataclass(frozen=True)
class UploadPolicy:
    """From where a task uploads files.

    :param server: The connection's base URL; None where nothing can be uploaded.
    :param limits: Lists of folders and prefixes of URIs: a file to upload must be below one of each list. Without any
        list a DAG author may name every file. A mere text in ``inputs`` is a file only where there are lists: whether
        an input is a file is reported by the server, and a text that somebody else has written may look like a path.
    """

    server: str | None = ""
    limits: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def of(cls, server: str | None, *limits: tuple[str, ...] | None) -> UploadPolicy:
        """Return the policy for the limits that are set: those of the connection and of the task."""
        return cls(server, tuple(limit for limit in limits if limit is not None))

    def admits(self, source: Any) -> bool:
        """Tell whether a file is below the roots, with links and ``..`` resolved."""
        place = _canonical(source)
        return bool(self.limits) and all(
            any(_is_below(place, _canonical(root)) for root in limit) for limit in self.limits
        )


ANY_UPLOAD = UploadPolicy()


def _is_below(place: str, root: str) -> bool:
    return place == root or place.startswith(root.rstrip("/") + "/")


def _canonical(source: Any) -> str:
    """Return a path or URI in a form that can be compared: without links, ``..`` and the name of a connection."""
    text = str(source)
    if scheme_of(text) in _LOCAL_SCHEMES:
        path = text.partition("://")[2].partition("/")[2] if scheme_of(text) else text
        return os.path.realpath(os.path.expanduser("/" + path if scheme_of(text) else path))
    scheme, _, rest = text.partition("://")
    bucket, _, key = rest.partition("/")
    return f"{scheme.lower()}://{bucket.rpartition('@')[2]}{posixpath.normpath('/' + key)}".rstrip("/")


def is_output_file(value: Any) -> bool:
    """Tell whether a value is a file object out of a run's outputs."""
    return isinstance(value, Mapping) and value.get("dify_model_identity") == FILE_IDENTITY


def from_output(value: Mapping[str, Any], place: str, policy: UploadPolicy) -> dict[str, Any] | FileToUpload:
    """Return a file object out of an earlier run's outputs as a file that the next run may have.

    A file that the earlier task has saved is uploaded from there if that is below the policy's roots: the object comes
    from a server, which could name any file. One of the connection's own server is fetched and
    uploaded; one of another host is a URL, which Dify fetches itself.

    :param value: The file object.
    :param place: Where it stands, for messages.
    :param policy: From where the task uploads files.
    :raises DifyInvalidInputError: The object tells no place to get the file from.
    """
    kind = value.get("type") if value.get("type") in FILE_TYPES else "custom"
    saved, url = value.get("saved_to"), value.get("url") or value.get("remote_url")
    texts = {key: text for key in ("filename", "mime_type") if isinstance(text := value.get(key), str) and text.strip()}
    if not is_mime_type(texts.get("mime_type", "")):
        # A server has reported it: what cannot stand in a header is none.
        texts.pop("mime_type", None)
    server = policy.server
    if server is not None and isinstance(saved, str) and saved and policy.admits(saved):
        return described_file(
            source_of(saved, f"{place}['saved_to']", bare=True), place, (),
            name=texts.get("filename"), mime_type=texts.get("mime_type"), kind=kind,
        )  # fmt: skip
    if not isinstance(url, str) or not url:
        raise DifyInvalidInputError(
            f"{place} is a file of an earlier run without a URL. Let that run's task save it (output_files_to), and "
            "pass {'path': …} with the 'saved_to' of the object that it returns."
        )
    foreign = is_url(url) and (server is None or urlsplit(url).netloc.lower() != urlsplit(server).netloc.lower())
    if foreign:
        return {"type": kind, "transfer_method": "remote_url", "url": url}
    if server is None:
        raise DifyInvalidInputError(
            f"{place} is a file of an earlier run, whose URL names no host. Save it with DifyHook.download_file and "
            "upload it with DifyHook.upload_file."
        )
    file = RunFile(dict(value, url=url))
    return described_file(file, place, (), name=file.name, mime_type=texts.get("mime_type"), kind=kind)


def check_known(item: Any, place: str, *, opaque_ids: bool = False) -> dict[str, Any]:
    """Return a file in Dify's own form, as it is sent: the one check for ``files`` and for file-typed inputs.

    :param item: The mapping.
    :param place: Where it stands, for messages.
    :param opaque_ids: Whether an upload id may be any string (the ``workflow-runs`` contract) and not only a UUID.
    :raises DifyInvalidInputError: The server would refuse it, late, or with an error that names nothing.
    """
    file = dict(item)
    check_choice(file.get("type"), f"{place}['type']", FILE_TYPES)
    method = check_choice(file.get("transfer_method"), f"{place}['transfer_method']", _METHODS)
    if method == "remote_url":
        url = file.get("url")
        if not isinstance(url, str) or not is_url(url):
            hint = " Dify's name of the key is 'url'." if url is None and file.get("remote_url") else ""
            raise DifyInvalidInputError(f"{place}['url'] must be an http or https URL, got {shape_of(url)}.{hint}")
    elif not opaque_ids:
        file["upload_file_id"] = _upload_id(file.get("upload_file_id"), f"{place}['upload_file_id']")
    elif not isinstance(file.get("upload_file_id"), str) or not file["upload_file_id"].strip():
        raise DifyInvalidInputError(
            f"{place}['upload_file_id'] must be a non-empty string, got {shape_of(file.get('upload_file_id'))}."
        )
    return file


def _upload_id(value: Any, place: str) -> str:
    try:
        return str(uuid.UUID(value))
    except (ValueError, TypeError, AttributeError):
        raise DifyInvalidInputError(
            f"{place} must be the id (UUID) that an upload returned, got {shape_of(value)}."
        ) from None


def is_url(text: str) -> bool:
    """Tell whether a text is an http(s) URL with a host."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def with_uploads(
    inputs: Mapping[str, Any], form: InputForm | None, policy: UploadPolicy = ANY_UPLOAD
) -> dict[str, Any]:
    """Return inputs in which every file to upload is a ``FileToUpload``.

    In a file-typed input every way of naming a file counts; elsewhere, and where the form is not known, only a path
    object or a mapping with ``path`` and ``transfer_method`` ``local_file``, at the top or as an item of a list.

    :param inputs: The inputs as JSON has them.
    :param form: The app's form; None where it is not known.
    :param policy: From where the task uploads files.
    :raises DifyInvalidInputError: A value names a file in a way that is not possible, or of a type that the form does
        not allow.
    """
    return {name: _with_uploads(name, value, form, policy) for name, value in inputs.items()}


def _with_uploads(name: str, value: Any, form: InputForm | None, policy: UploadPolicy) -> Any:
    place = f"inputs[{name!r}]"
    field = form.fields.get(name) if form is not None else None
    if field is not None and field.type == "file":
        return _file_or(value, place, field.files, policy)
    if field is not None and field.type == "file-list" and isinstance(value, list):
        return [_file_or(item, f"{place}[{index}]", field.files, policy) for index, item in enumerate(value)]
    if field is not None and field.type not in FILE_INPUTS:
        return value
    if isinstance(value, (list, tuple)):
        items = [
            _within(to_upload(item, f"{place}[{index}]"), f"{place}[{index}]", policy)
            if is_explicit_upload(item)
            else item
            for index, item in enumerate(value)
        ]
        return items if any(map(operator.is_not, items, value)) else value
    return _within(to_upload(value, place), place, policy) if is_explicit_upload(value) else value


def _within(file: FileToUpload | None, place: str, policy: UploadPolicy) -> FileToUpload | None:
    """Let a file pass that is below the roots, where there are any."""
    if file is not None and policy.limits and not policy.admits(file.source):
        roots = _listing([root for limit in policy.limits for root in limit]) or "none"
        raise DifyInvalidInputError(
            f"{place} names the file {file.shown!r}, which is not below one of allowed_upload_roots "
            f"({roots}). Move the file, or add its folder to them."
        )
    return file


def _file_or(value: Any, place: str, rules: FileRules, policy: UploadPolicy) -> Any:
    """Return a file of a file-typed input: one to upload, or what Dify itself takes; anything else as it is."""
    if isinstance(value, str) and not value.strip():
        return value
    if not isinstance(value, (str, Mapping)) and not is_path_object(value):
        return value
    file = checked_file(value, place, rules, policy)
    if isinstance(value, str) and isinstance(file, FileToUpload) and not policy.limits:
        raise DifyInvalidInputError(
            f"{place} is a text, and the app's form declares the input as a file. A text that looks like a path is "
            'only uploaded below allowed_upload_roots. Pass {"path": …} or a path object, or name its folder there.'
        )
    return file


def checked_file(
    value: Any, place: str, rules: FileRules, policy: UploadPolicy = ANY_UPLOAD, *, opaque_ids: bool = False
) -> dict[str, Any] | FileToUpload:
    """Return a file that a DAG author has named: one to upload, or one in Dify's form.

    :param value: A text, a mapping, or a path object.
    :param place: Where it stands, for messages.
    :param rules: What files the app allows there.
    :param policy: From where the task uploads files.
    :param opaque_ids: As for ``check_known``.
    :raises DifyInvalidInputError: It names no file, or one of a type that the app does not allow.
    """
    file: dict[str, Any] | FileToUpload | None
    if is_output_file(value):
        file = from_output(value, place, policy)
    else:
        file = _within(to_upload(value, place, rules.types), place, policy)
    if file is None:
        file = (
            known_to_dify(value.strip(), rules.types)
            if isinstance(value, str)
            else check_known(value, place, opaque_ids=opaque_ids)
        )
    problem = _problem(file, rules)
    if problem:
        raise DifyInvalidInputError(f"{place} {problem}")
    return file


def _problem(file: dict[str, Any] | FileToUpload, rules: FileRules) -> str | None:
    """Return why every server would refuse a file, and the remedy; None where one might take it."""
    if isinstance(file, FileToUpload):
        kind, method, name, mime_type = file.type, "local_file", file.name, file.mime_type
    else:
        kind, method = str(file["type"]), str(file["transfer_method"])
        # Of a URL the server learns the MIME type when it asks, and of an upload it knows the name.
        name, mime_type = url_name(file["url"]) if method == "remote_url" else "", ""
    if rules.methods and method not in rules.methods and kind != "image":
        return (
            f"has the transfer_method {method!r}, and the app allows {_listing(rules.methods)} there: name the file "
            "that way, or change the app's setting."
        )
    extension = _extension(name)
    if kind == "custom":
        allowed = {each.lower().lstrip(".") for each in rules.extensions}
        if name and (extension or mime_type) and "custom" in rules.types and allowed and extension not in allowed:
            return (
                f"is a custom file with the extension {'.' + extension!r}, and the app allows "
                f"{_listing(sorted('.' + each for each in allowed))}: add the extension to the app's setting, or give "
                "the file another 'name'."
            )
        return None
    if rules.types and kind not in rules.types:
        return f"is of the type {kind!r}, and the form allows {_listing(rules.types)}."
    possible = _detected(extension, mime_type)
    if possible and kind not in possible and (mime_type or extension):
        what = " or ".join(map(repr, sorted(possible)))
        marks = f"its extension {'.' + extension!r}" if extension else "its name without extension"
        marks += f" and MIME type {mime_type!r}" if mime_type else ""
        remedy = (
            "give it a 'name' with an extension of that type, a 'mime_type' such as 'text/plain' for a document"
            if isinstance(file, FileToUpload)
            else "pass a mapping with the right 'type'"
        )
        allows = f" The app allows {_listing(rules.types)} there." if rules.types else ""
        return (
            f"would be refused as {kind!r}: Dify takes it for {what} by {marks}.{allows} Remedy: {remedy}, or let the "
            "app allow other file types ('custom', with that extension) and set the 'type' to 'custom'."
        )
    return None


def _listing(words: Collection[str]) -> str:
    return ", ".join(map(repr, words))


def _detected(extension: str, mime_type: str) -> set[str]:
    """Return what servers may take a file for; empty where only they can know."""
    kind = kind_of(f"x.{extension}" if extension else "x", mime_type or None)
    if extension in _MAYBE_DOCUMENTS:
        return {"document", "custom", kind}
    if not mime_type and kind == "custom":
        # The MIME type that a URL is served with decides, and nobody here knows it.
        return set()
    return {kind}


def known_to_dify(text: str, file_types: Collection[str] = ()) -> dict[str, Any]:
    """Return the mapping of a URL or an upload id (UUID) that was given as a text."""
    if scheme_of(text):
        name = url_name(text)
        mime_type = mimetypes.guess_type(name)[0] or "text/html"
        kind = type_for(name, mime_type, file_types)
        if file_types and kind not in file_types and not _detected(_extension(name), ""):
            # A name that tells nothing: the app takes one type there, or the author says which.
            kind = next(iter(file_types))
        return {"type": kind, "transfer_method": "remote_url", "url": text}
    kind = "document" if not file_types or "document" in file_types else next(iter(file_types))
    return {"type": kind, "transfer_method": "local_file", "upload_file_id": str(uuid.UUID(text))}


def _extension(name: str) -> str:
    return PurePosixPath(name).suffix.lstrip(".").lower()
