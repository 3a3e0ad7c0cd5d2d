"""What a DAG author passes in, checked before anything is sent."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_dify.api.calls import USER_MAX_CHARS, check_id
from airflow_provider_dify.api.settings import check_choice
from airflow_provider_dify.api.uploads import FILE_TYPES, FileToUpload, is_path_object, known_to_dify, to_upload
from airflow_provider_dify.api.values import shape_of
from airflow_provider_dify.exceptions import DifyInvalidInputError

_NATIVE = "Render it with `| tojson`, or set render_template_as_native_obj=True on the DAG."


def check_inputs(value: Any, *, paths: bool = False) -> dict[str, Any]:
    """Return the workflow's inputs as a dict that JSON can carry.

    :param value: A mapping of input names to values, None for no inputs, or a JSON object as a string (what
        a rendered template turns into).
    :param paths: Whether path objects pass, which stand for files that are uploaded before the inputs are sent.
    :raises DifyInvalidInputError: It is no mapping, a name is no string, or a value is not JSON-serialisable.
    """
    value = _from_template(value, "inputs", "object")
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise DifyInvalidInputError(f'inputs must be a mapping such as {{"text": "hi"}} and is {shape_of(value)}.')
    inputs = dict(value)
    _check_json(inputs, "inputs", paths=paths)
    return inputs


def check_files(value: Any, *, opaque_ids: bool = False) -> list[dict[str, Any]] | None:
    """Return the workflow's files in Dify's form.

    :param value: None, or a list (or a JSON list as a string) of: a remote ``http(s)://`` URL, an upload id
        (UUID), or a mapping ``{"type", "transfer_method": "remote_url", "url"}`` or
        ``{"type", "transfer_method": "local_file", "upload_file_id"}``. The type of a bare URL comes from its
        extension, that of a bare upload id is ``document``.
    :param opaque_ids: Whether an upload id may be any string (the ``workflow-runs`` contract) and not only a
        UUID. A bare string is then a URL, never an id.
    :raises DifyInvalidInputError: An item is something else.
    """
    return [_file(item, f"files[{index}]", opaque_ids) for index, item in enumerate(_listed(value))] or None


def check_files_or_paths(
    value: Any, *, file_types: tuple[str, ...] = (), opaque_ids: bool = False
) -> list[dict[str, Any] | FileToUpload]:
    """Return the workflow's files, those among them that are to be uploaded first as ``FileToUpload``.

    :param value: As for ``check_files``, and besides: local paths, URIs of objects, path objects, and mappings with
        ``path``; see ``to_upload``.
    :param file_types: What files the app allows; empty for any.
    :param opaque_ids: As for ``check_files``.
    :raises DifyInvalidInputError: An item is something else.
    """
    files: list[dict[str, Any] | FileToUpload] = []
    for index, item in enumerate(_listed(value)):
        place = f"files[{index}]"
        may_be_new = isinstance(item, (str, Mapping)) or is_path_object(item)
        file = to_upload(item, place, file_types) if may_be_new else None
        files.append(_file(item, place, opaque_ids, file_types) if file is None else file)
    return files


def check_user(value: Any) -> str:
    """Return the ``user`` of a submission.

    :raises DifyInvalidInputError: It is no string, empty, or longer than the 255 characters that Dify's
        database holds (it answers longer ones with an internal error; API facts, section 2).
    """
    if not isinstance(value, str) or not value.strip():
        raise DifyInvalidInputError(f"user must be a non-empty string and is {shape_of(value)}.")
    if len(value) > USER_MAX_CHARS:
        raise DifyInvalidInputError(
            f"user must have at most {USER_MAX_CHARS} characters and has {len(value)}: shorten it."
        )
    _check_text(value, "user")
    return value


def check_query(value: Any) -> str | None:
    """Return the text of a conversational workflow.

    :raises DifyInvalidInputError: It is no string.
    """
    if value is None or isinstance(value, str):
        return value
    raise DifyInvalidInputError(f"query must be a string and is {shape_of(value)}.")


def _from_template(value: Any, field_name: str, kind: str) -> Any:
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None if kind == "list" else _refuse_text(value, field_name, kind)
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return _refuse_text(value, field_name, kind)


def _refuse_text(value: str, field_name: str, kind: str) -> Any:
    if kind == "list" and urlsplit(value.strip()).scheme in ("http", "https"):
        raise DifyInvalidInputError(f"{field_name} must be a list and is one URL: put it into a list.")
    raise DifyInvalidInputError(
        f"{field_name} is a string of {len(value)} characters that is no JSON {kind}. "
        f"A template that renders a Python value leaves its repr, which is no JSON. {_NATIVE}"
    )


def _check_text(text: str, path: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise DifyInvalidInputError(f"{path} has a lone surrogate, which is no valid Unicode text.") from None


def _check_json(value: Any, path: str, depth: int = 0, *, paths: bool = False) -> None:
    if depth > 100:
        raise DifyInvalidInputError(f"{path} is nested deeper than 100 levels, or contains itself.")
    if value is None or isinstance(value, (bool, int)) or (paths and is_path_object(value)):
        return
    if isinstance(value, str):
        _check_text(value, path)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise DifyInvalidInputError(f"{path} is {value}, which JSON cannot carry: pass null or a string.")
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise DifyInvalidInputError(f"{path} has a key that is {shape_of(key)}: keys must be strings.")
            _check_text(key, path)
            _check_json(item, f"{path}[{key!r}]", depth + 1, paths=paths)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _check_json(item, f"{path}[{index}]", depth + 1, paths=paths)
    else:
        raise DifyInvalidInputError(
            f"{path} is {shape_of(value)}, which JSON cannot carry: convert it to a string, number, list or dict "
            "first (a datetime with .isoformat(), a table with .to_dict())."
        )


def _listed(value: Any) -> list[Any]:
    value = _from_template(value, "files", "list")
    if value is None:
        return []
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, (list, tuple)):
        raise DifyInvalidInputError(f"files must be a list of files and is {shape_of(value)}.")
    return list(value)


def _file(item: Any, path: str, opaque_ids: bool, file_types: tuple[str, ...] = ()) -> dict[str, Any]:
    if isinstance(item, str):
        return _file_from_text(item.strip(), path, file_types)
    if not isinstance(item, Mapping):
        raise DifyInvalidInputError(f"{path} must be a URL, an upload id or a mapping and is {shape_of(item)}.")
    file = dict(item)
    _check_json(file, path)
    check_choice(file.get("type"), f"{path}['type']", FILE_TYPES)
    method = check_choice(file.get("transfer_method"), f"{path}['transfer_method']", ("remote_url", "local_file"))
    if method == "remote_url":
        url = file.get("url")
        if not isinstance(url, str) or not _is_url(url):
            raise DifyInvalidInputError(f"{path}['url'] must be an http or https URL and is {shape_of(url)}.")
    elif opaque_ids:
        check_id(file.get("upload_file_id"), f"{path}['upload_file_id']")
    else:
        file["upload_file_id"] = _upload_id(file.get("upload_file_id"), f"{path}['upload_file_id']")
    return file


def _file_from_text(text: str, path: str, file_types: tuple[str, ...]) -> dict[str, Any]:
    if not _is_url(text):
        try:
            uuid.UUID(text)
        except ValueError:
            raise DifyInvalidInputError(
                f"{path} is a string of {len(text)} characters that is neither an http(s) URL nor an upload id (UUID). "
                "Upload local files first with DifyHook.upload_file under the same user and pass the id it returns; "
                "the operator does that itself."
            ) from None
    return known_to_dify(text, file_types)


def _upload_id(value: Any, path: str) -> str:
    try:
        return str(uuid.UUID(value))
    except (ValueError, TypeError, AttributeError):
        raise DifyInvalidInputError(
            f"{path} must be the id (UUID) that an upload returned and is {shape_of(value)}."
        ) from None


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)
