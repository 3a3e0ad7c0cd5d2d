"""The files that an answer names, as Dify's form takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_dify.api.input_form import FileRules, InputForm
from airflow_provider_dify.exceptions import DifyInvalidInputError
from airflow_provider_dify.rules.human_questions import FormAnswer
from airflow_provider_dify.rules.input_files import UploadPolicy, checked_file
from airflow_provider_dify.rules.uploads import FileToUpload
from airflow_provider_dify.runtime.upload import upload_all

if TYPE_CHECKING:
    from airflow_provider_dify.runtime.task_protocols import TaskHook


def with_files(task: Any, hook: TaskHook, answer: FormAnswer, *, user: str) -> dict[str, Any]:
    """Return the inputs of an answer in which every file is in Dify's form; files to upload are uploaded.

    A person may name any URL and any upload id, but a path or an object of a store only below the roots of the
    connection or the operator: the worker's files are not everybody's.

    :param task: The operator or sensor.
    :param hook: The hook of the app's connection.
    :param answer: The answer.
    :param user: Who uploads.
    :raises DifyInvalidInputError: A text names no file, or one that may not be uploaded.
    :raises DifyError: An upload failed.
    """
    connection = hook.connection
    policy = UploadPolicy.of(
        connection.base_url, connection.allowed_upload_roots, getattr(task, "allowed_upload_roots", None)
    )
    files: dict[str, list[dict[str, Any] | FileToUpload]] = {}
    fields = {field.name: field for field in answer.asked.form.fields}
    for name, value in answer.inputs.items():
        if fields[name].type in ("file", "file-list"):
            rules = FileRules(types=fields[name].allowed_file_types)
            names = value if isinstance(value, list) else [value]
            files[name] = [_named(text, name, rules, policy) for text in names]
    uploads = [file for group in files.values() for file in group if isinstance(file, FileToUpload)]
    ids = {}
    if uploads:
        limits = hook.known_form().form or InputForm()
        ids = upload_all(hook, uploads, user=user, limits=limits.limits)
    sent = {
        name: [file.described(ids[file.key]) if isinstance(file, FileToUpload) else file for file in group]
        for name, group in files.items()
    }
    return {
        name: (sent[name] if isinstance(value, list) else sent[name][0]) if name in sent else value
        for name, value in answer.inputs.items()
    }


def _named(text: str, name: str, rules: FileRules, policy: UploadPolicy) -> dict[str, Any] | FileToUpload:
    file = checked_file(text, f"Input {name!r}", rules, policy)
    if isinstance(file, FileToUpload) and not policy.limits:
        raise DifyInvalidInputError(
            f"Input {name!r} names a path or an object of a store, and this task uploads none: its "
            "allowed_upload_roots, or those of the connection, are not set. Give an http or https URL, or an upload id."
        )
    return file
