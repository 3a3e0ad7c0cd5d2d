"""What a DAG author passes in, checked before anything is sent."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

from airflow_provider_dify.api.checks import check_text, guarded, plain_text, preview
from airflow_provider_dify.api.input_form import FileRules
from airflow_provider_dify.api.operations import USER_MAX_CHARS
from airflow_provider_dify.api.values import as_text, shape_of
from airflow_provider_dify.exceptions import DifyInvalidInputError
from airflow_provider_dify.rules.input_files import (
    ANY_UPLOAD,
    UploadPolicy,
    check_known,
    checked_file,
    from_output,
    is_output_file,
    is_url,
    known_to_dify,
)
from airflow_provider_dify.rules.plain_values import as_list, is_list, plain
from airflow_provider_dify.rules.uploads import FileToUpload, is_path_object, scheme_of

_NATIVE = "Render it with `| tojson`, or set render_template_as_native_obj=True on the DAG."


def check_inputs(value: Any, *, paths: bool = False) -> dict[str, Any]:
    """Return the workflow's inputs as a dict that JSON can carry.

    :param value: A mapping of input names to values, None for no inputs, or a JSON object as a string (what
        a rendered template turns into).
    :param paths: Whether path objects pass, which stand for files that are uploaded before the inputs are sent.
    :raises DifyInvalidInputError: It is no mapping, a name is no string, or a value is not JSON-serialisable.
    """
    with guarded(value, "inputs"):
        if isinstance(value, str):
            value = _from_template(value, "inputs", "object")
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            hint = " For one run per item, expand the task over inputs." if is_list(value) else ""
            raise DifyInvalidInputError(
                f"inputs must be a mapping, got {shape_of(value)}.",
                advice=f'Pass names and values such as {{"text": "hi"}}.{hint}',
                where="inputs",
            )
        inputs: dict[str, Any] = plain(value, "inputs", paths=paths)
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
    if value is None:
        return None
    with guarded(value, "files"):
        return [_file(item, f"files[{index}]", opaque_ids) for index, item in enumerate(_listed(value))] or None


def check_files_or_paths(
    value: Any, rules: FileRules | None = None, policy: UploadPolicy = ANY_UPLOAD, *, opaque_ids: bool = False
) -> list[dict[str, Any] | FileToUpload]:
    """Return the workflow's files, those among them that are to be uploaded first as ``FileToUpload``.

    :param value: As for ``check_files``, and besides: local paths, URIs of objects, path objects, mappings with
        ``path`` (see ``to_upload``), and file objects out of an earlier run's outputs.
    :param rules: What files the app allows; None for any.
    :param policy: From where files are uploaded.
    :param opaque_ids: As for ``check_files``.
    :raises DifyInvalidInputError: An item is something else, the app does not allow it, or there are too many.
    """
    if value is None:
        return []
    with guarded(value, "files"):
        return _files_or_paths(value, rules or FileRules(), policy, opaque_ids)


def _files_or_paths(
    value: Any, rules: FileRules, policy: UploadPolicy, opaque_ids: bool
) -> list[dict[str, Any] | FileToUpload]:
    files: list[dict[str, Any] | FileToUpload] = []
    for index, item in enumerate(_listed(value)):
        place = f"files[{index}]"
        if not isinstance(item, (str, Mapping)) and not is_path_object(item):
            raise DifyInvalidInputError(f"{place} must be a URL, an upload id or a mapping, got {shape_of(item)}.")
        named = plain(item, place, paths=True)
        files.append(checked_file(named, place, rules, policy, opaque_ids=opaque_ids))
    if rules.number is not None and len(files) > rules.number:
        raise DifyInvalidInputError(
            f"files has {len(files)} files, and the app allows {rules.number}.",
            advice="Pass fewer, or raise the number in the app's file upload setting.",
            where="files",
        )
    return files


def check_user(value: Any) -> str:
    """Return the ``user`` of a submission, a number as the text that a native template has made it of.

    :raises DifyInvalidInputError: It is no string, empty, longer than the 255 characters that Dify's database holds (it
        answers longer ones with an internal error; dify-behaviour.md, section 2), or has a character that it cannot
        hold.
    """
    text = _text(value, "user")
    if text is None or not text.strip():
        raise DifyInvalidInputError(f"user must be a non-empty string, got {shape_of(value)}.")
    if len(text) > USER_MAX_CHARS:
        raise DifyInvalidInputError(
            f"user must have at most {USER_MAX_CHARS} characters and has {len(text)}: shorten it."
        )
    if "\0" in text:
        raise DifyInvalidInputError(f"user is {preview(text)}, and Dify's database holds no NUL character: remove it.")
    check_text(text, "user")
    return text


def _text(value: Any, field_name: str) -> str | None:
    """Return a text, a number as the text that a native template has made it of; None for anything else."""
    with guarded(value, field_name):
        return plain_text(as_text(value))


def check_query(value: Any) -> str | None:
    """Return the text of a conversational workflow, a number as the text that a native template has made it of.

    :raises DifyInvalidInputError: It is no string, or one that cannot be sent.
    """
    if value is None:
        return None
    text = _text(value, "query")
    if text is None:
        raise DifyInvalidInputError(f"query must be a string, got {shape_of(value)}.")
    check_text(text, "query")
    return text


def _from_template(value: str, field_name: str, kind: str) -> Any:
    if not value.strip():
        return None if kind == "list" else _refuse_text(value, field_name, kind)
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return _refuse_text(value, field_name, kind)


def _refuse_text(value: str, field_name: str, kind: str) -> Any:
    text = value.strip()
    if kind == "list" and not text.startswith(("[", "{", "<")):
        scheme = scheme_of(text)
        what = "URL" if scheme in ("http", "https") else "URI" if scheme else "upload id" if _is_uuid(text) else "path"
        if scheme or what == "upload id" or len(text.splitlines()) == 1:
            raise _not_in_a_list(what)
    named = (
        ' A text goes under the name of an input: {"name": "…"}.' if kind == "object" and text[:1] not in "[{" else ""
    )
    raise DifyInvalidInputError(
        f"{field_name} is a string of {len(value)} characters that is not a JSON {kind}. A template that renders a "
        "Python value renders its repr, which is not valid JSON.",
        advice=f"{_NATIVE}{named}",
        where=field_name,
    )


def _listed(value: Any) -> list[Any]:
    value = as_list(_from_template(value, "files", "list") if isinstance(value, str) else value)
    if value is None:
        return []
    if isinstance(value, Mapping) or is_path_object(value):
        raise _not_in_a_list("mapping" if isinstance(value, Mapping) else "path")
    if not isinstance(value, list):
        raise DifyInvalidInputError(f"files must be a list of files, got {shape_of(value)}.")
    return value


def _not_in_a_list(kind: str) -> DifyInvalidInputError:
    return DifyInvalidInputError(
        f"files must be a list, got one {kind}.", advice="Put it into a list: files=[…].", where="files"
    )


def _file(item: Any, place: str, opaque_ids: bool) -> dict[str, Any]:
    """Return a file in Dify's form, where nothing can be uploaded first."""
    if isinstance(item, str):
        text = item.strip()
        if not is_url(text) and not _is_uuid(text):
            raise DifyInvalidInputError(
                f"{place} is a string of {len(text)} characters that is neither an http(s) URL nor an upload id "
                "(UUID).",
                advice="Upload local files first with DifyHook.upload_file under the same user and pass the id it "
                "returns; the operator does that itself.",
                where=place,
            )
        return known_to_dify(text)
    if not isinstance(item, Mapping):
        raise DifyInvalidInputError(f"{place} must be a URL, an upload id or a mapping, got {shape_of(item)}.")
    file = plain(item, place)
    if is_output_file(file):
        known = from_output(file, place, UploadPolicy(server=None))
        assert isinstance(known, dict)
        return known
    return check_known(file, place, opaque_ids=opaque_ids)


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True
