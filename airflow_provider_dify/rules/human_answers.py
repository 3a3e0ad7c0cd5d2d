"""The answer to a human-input form: held against the form before it is sent, and its files in Dify's terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_dify.api.checks import check_type, guarded, plain_text, preview
from airflow_provider_dify.api.human_input import HumanInputField, HumanInputForm
from airflow_provider_dify.api.input_form import FileRules
from airflow_provider_dify.api.runs import UploadedFile
from airflow_provider_dify.api.values import shape_of
from airflow_provider_dify.exceptions import DifyInvalidInputError
from airflow_provider_dify.rules.inputs import check_files_or_paths, check_inputs
from airflow_provider_dify.rules.uploads import UNKNOWN_MIME_TYPE, type_for

_SHOWN_OPTIONS = 20
_SHOWN_NAMES = 20


def fit_answer(form: HumanInputForm | None, action: Any, inputs: Any) -> dict[str, Any]:
    """Return the inputs of an answer as Dify takes them.

    What only the server can know is left to it: whether a file can be fetched or is of the right type, and the options
    of a ``select`` that come out of a variable.

    :param form: The form; None where it is not known, and then nothing is held against it.
    :param action: What the answer decides.
    :param inputs: A value for each field. A file is what ``upload_file`` returns, an upload id, a URL, or a mapping in
        Dify's form; the latter ways but the mapping need the form.
    :raises DifyInvalidInputError: One error for all that does not fit.
    """
    if form is not None:
        check_type(form, "form", HumanInputForm, "pass what get_human_input_form returns")
    known = inputs
    with guarded(inputs, "inputs"):
        if isinstance(inputs, Mapping):
            fields = {field.name: field for field in form.fields} if form is not None else {}
            known = {name: _with_uploads(value, fields.get(name)) for name, value in inputs.items()}
    values = check_inputs(known)
    if form is None:
        return values
    faults = _faults_of_action(form, action)
    names = {field.name for field in form.fields}
    unknown = [name for name in values if name not in names]
    faults += [f"Input {preview(name)} is not a field of the form." for name in unknown[:_SHOWN_NAMES]]
    if len(unknown) > _SHOWN_NAMES:
        faults.append(f"And {len(unknown) - _SHOWN_NAMES} more are none.")
    for field in form.fields:
        if field.name not in values:
            faults.append(f"Input {field.name!r} ({field.type or 'value'}) is required but was not given.")
            continue
        try:
            values[field.name] = _validated(field, values[field.name])
        except DifyInvalidInputError as error:
            faults.append(error.message)
    if faults:
        raise DifyInvalidInputError(
            "The answer does not fit the human-input form, so nothing was sent and the run still waits. "
            + " ".join(faults)
        )
    return values


def _faults_of_action(form: HumanInputForm, action: Any) -> list[str]:
    ids = [each.id for each in form.actions]
    text = plain_text(action)
    if text in ids:
        return []
    shown = preview(text) if text is not None else shape_of(action)
    return [f"The action {shown} is none of the form's: {', '.join(map(repr, ids)) or 'it has none'}."]


def _with_uploads(value: Any, field: HumanInputField | None) -> Any:
    types = field.allowed_file_types if field is not None else ()
    if isinstance(value, UploadedFile):
        kind = type_for(value.name or "", value.mime_type or UNKNOWN_MIME_TYPE, types)
        return {"type": kind, "transfer_method": "local_file", "upload_file_id": value.upload_file_id}
    if isinstance(value, (list, tuple)):
        return [_with_uploads(item, field) for item in value]
    return value


def _validated(field: HumanInputField, value: Any) -> Any:
    place = f"Input {field.name!r}"
    if field.type == "select":
        if not isinstance(value, str):
            raise DifyInvalidInputError(f"{place} must be one of the options, as a string, got {shape_of(value)}.")
        if field.options and value not in field.options:
            shown = ", ".join(map(repr, field.options[:_SHOWN_OPTIONS]))
            more = ", …" if len(field.options) > _SHOWN_OPTIONS else ""
            raise DifyInvalidInputError(f"{place} is none of the options: {shown}{more}.")
    elif field.type == "file":
        if isinstance(value, (list, tuple)):
            raise DifyInvalidInputError(f"{place} must be one file, got {shape_of(value)}.")
        return _file(value, place, field)
    elif field.type == "file-list":
        if not isinstance(value, (list, tuple)):
            raise DifyInvalidInputError(f"{place} must be a list of files, got {shape_of(value)}.")
        if field.number_limits is not None and len(value) > field.number_limits:
            raise DifyInvalidInputError(f"{place} has {len(value)} files, and the form takes {field.number_limits}.")
        return [_file(item, f"{place}[{index}]", field) for index, item in enumerate(value)]
    return value


def _file(value: Any, place: str, field: HumanInputField) -> dict[str, Any]:
    try:
        (file,) = check_files_or_paths([value], FileRules(types=field.allowed_file_types))
    except DifyInvalidInputError as error:
        raise DifyInvalidInputError(error.message.replace("files[0]", place)) from error
    if not isinstance(file, dict):
        raise DifyInvalidInputError(f"{place} is a file that Dify does not have yet: pass what upload_file returns.")
    methods, method = field.allowed_file_upload_methods, file["transfer_method"]
    if methods and method not in methods:
        raise DifyInvalidInputError(f"{place} has the transfer_method {method}; the form takes {', '.join(methods)}.")
    types = field.allowed_file_types
    if types and file["type"] not in types:
        raise DifyInvalidInputError(f"{place} is of the type {file['type']}; the form takes {', '.join(types)}.")
    return file
