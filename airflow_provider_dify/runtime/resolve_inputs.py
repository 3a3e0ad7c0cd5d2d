"""What happens between the decision to submit a run and its submission: inputs are checked, files are uploaded."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_dify.api.checks import guarded, plain_text
from airflow_provider_dify.api.input_form import InputForm
from airflow_provider_dify.api.tracing import Trace, check_trace_id
from airflow_provider_dify.client.deadlines import ending_by
from airflow_provider_dify.client.store_writing import destination_target
from airflow_provider_dify.exceptions import DifyInvalidInputError
from airflow_provider_dify.names import WORKFLOW_RUNS
from airflow_provider_dify.rules.input_files import UploadPolicy, with_uploads
from airflow_provider_dify.rules.inputs import check_files_or_paths, check_inputs, check_query
from airflow_provider_dify.rules.plain_values import as_list, plain
from airflow_provider_dify.rules.polling import Deadline
from airflow_provider_dify.rules.uploads import FileToUpload, check_destination

if TYPE_CHECKING:
    from airflow_provider_dify.runtime.input_form_cache import KnownForm
    from airflow_provider_dify.runtime.task_protocols import RunWorkflowTask, SavingTask, TaskHook

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """What a run gets besides the task's inputs as they are, small enough to be kept while the task is deferred.

    :param inputs: Inputs that are sent otherwise than the task has them: those that name files, or that the app's form
        reads otherwise.
    :param files: The run's files in Dify's form.
    """

    inputs: dict[str, Any]
    files: list[dict[str, Any]]


@dataclass(frozen=True)
class ResolvedInputs:
    """What a run is to get, with the files that are not uploaded yet in the places where their mappings will stand."""

    inputs: Mapping[str, Any]
    files: Sequence[dict[str, Any] | FileToUpload]

    @property
    def to_upload(self) -> list[FileToUpload]:
        """The files to upload."""
        values = list(self.files)
        for value in self.inputs.values():
            values += value if isinstance(value, list) else [value]
        return [each for each in values if isinstance(each, FileToUpload)]

    def with_ids(self, ids: Mapping[tuple[str, str, str], str], given: Mapping[str, Any]) -> Prepared:
        """Return what is sent.

        :param ids: The upload ids by the keys of the files.
        :param given: The inputs as the task has them.
        """

        def sent(value: Any) -> Any:
            if isinstance(value, list):
                return [sent(item) for item in value]
            return value.described(ids[value.key]) if isinstance(value, FileToUpload) else value

        changed = {name: sent(value) for name, value in self.inputs.items() if value is not given[name]}
        return Prepared(changed, [sent(file) for file in self.files])


def resolved_inputs(task: RunWorkflowTask) -> dict[str, Any]:
    """Return the task's inputs as JSON has them, and let the task keep them.

    A sequence of mapped tasks' results asks Airflow for each item: once is enough for all checks and the submission.

    :raises DifyInvalidInputError: They are no inputs.
    """
    task.inputs = given = check_inputs(task.inputs, paths=True)
    if task.files is not None:
        with guarded(task.files, "files"):
            files = as_list(task.files)
        if files is not task.files:
            # Airflow goes through all of what a templated field is given.
            task.files = files
    return given


def check_destinations(task: SavingTask) -> dict[str, Any]:
    """Return the folders that a task names to write to, and let the task keep them as they are meant.

    :raises DifyInvalidInputError: One of them is no place.
    """
    places = {}
    for name in ("output_files_to", "outputs_to"):
        places[name] = check_destination(getattr(task, name), name)
        setattr(task, name, places[name])
    return places


def check_parameters(task: RunWorkflowTask, hook: TaskHook) -> dict[str, Any]:
    """Let a task pass whose templated parameters can be sent, before anything is; files are not read yet.

    :return: The inputs.
    :raises DifyInvalidInputError: One is of another type, or cannot be sent; the message names it.
    """
    check_destinations(task)
    inputs = resolved_inputs(task)
    policy = _policy(task, hook)
    check_files_or_paths(task.files, policy=policy, opaque_ids=policy.server is None)
    # Nothing is sent: an operation is made, and with it all that the API contract asks of its arguments.
    hook.api.run(
        inputs={},
        user="user",
        response_mode=task.response_mode,
        files=None,
        query=check_query(task.query),
        workflow_id=task.workflow_id,
        trace=Trace(check_trace_id(task.trace_id)),
    )
    return inputs


def _policy(task: RunWorkflowTask, hook: TaskHook) -> UploadPolicy:
    connection = hook.connection
    server = None if connection.api_contract == WORKFLOW_RUNS else connection.base_url
    return UploadPolicy.of(server, connection.allowed_upload_roots, task.allowed_upload_roots)


def prepare(task: RunWorkflowTask, hook: TaskHook, given: Mapping[str, Any], *, user: str) -> Prepared:
    """Check what the task passes in, upload its files, and return what is sent of them.

    :param task: The operator, with its templates rendered.
    :param hook: The hook of the app's connection.
    :param given: The task's inputs, as ``resolved_inputs`` returns them.
    :param user: The run's ``user``.
    :raises DifyInvalidInputError: Something does not fit; the message names every input that is wrong. Nothing was
        uploaded.
    :raises DifyError: An upload failed. There is no run.
    """
    for name, place in check_destinations(task).items():
        if place is not None and plain_text(place) != "":
            # A store that Airflow does not know would only be noticed when the run has been paid for.
            destination_target(place, name)
    # The uploads that follow take as long as they take.
    with ending_by(Deadline(time.time() + task.timeout)):
        known = hook.known_form() if _has_known_form(task) else None
        resolved, form = _held_against_form(task, hook, given, known)
    uploads = resolved.to_upload
    if not uploads:
        return resolved.with_ids({}, given)
    if hook.connection.api_contract == WORKFLOW_RUNS:
        raise DifyInvalidInputError(
            f"{uploads[0].shown!r} cannot be uploaded: the workflow-runs contract has no upload.",
            advice="Pass a URL that the gateway's workflow can fetch, or set the connection's API contract "
            "(api_contract) to service-api.",
            where="field API contract",
        )
    # A task without files does not pay for what uploads them.
    from airflow_provider_dify.runtime.upload import upload_all

    limits = form or hook.known_form().form or InputForm()
    ids = upload_all(hook, uploads, user=user, limits=limits.limits, allowed_hosts=task.allowed_file_hosts)
    return resolved.with_ids(ids, given)


def _has_known_form(task: RunWorkflowTask) -> bool:
    """Return whether the task's inputs are to be held against the app's form, which is that of its current version."""
    if task.validate_inputs and task.workflow_id is not None:
        log.info("Inputs are not checked here, since workflow_id names a version whose input form may be another one.")
    return task.validate_inputs and task.workflow_id is None


def _held_against_form(
    task: RunWorkflowTask, hook: TaskHook, given: Mapping[str, Any], known: KnownForm | None
) -> tuple[ResolvedInputs, InputForm | None]:
    """Return what the task passes in, held against the app's form where there is one.

    A form that this process has known for a while may be out of date: before inputs are refused it is asked for again.
    """
    if known is None:
        return _resolved_files(task, hook, given, None), None
    if known.form is None:
        log.info("Inputs are not checked here, since the app's input form cannot be read: %s", known.reason)
        return _resolved_files(task, hook, given, None), None
    try:
        return _validated(task, hook, given, known.form), known.form
    except DifyInvalidInputError:
        newer = None if known.is_new else hook.known_form(fresh=True).form
        if newer is None:
            raise
        return _validated(task, hook, given, newer), newer


def _validated(task: RunWorkflowTask, hook: TaskHook, given: Mapping[str, Any], form: InputForm) -> ResolvedInputs:
    resolved = _resolved_files(task, hook, given, form)

    def drafted(value: Any) -> Any:
        if isinstance(value, list):
            return [drafted(item) for item in value]
        return value.described("") if isinstance(value, FileToUpload) else value

    form.check({name: drafted(value) for name, value in resolved.inputs.items()})
    return resolved


def _resolved_files(
    task: RunWorkflowTask, hook: TaskHook, given: Mapping[str, Any], form: InputForm | None
) -> ResolvedInputs:
    policy, rules = _policy(task, hook), form.files if form is not None else None
    files = check_files_or_paths(task.files, rules, policy, opaque_ids=policy.server is None)
    read = form.read(given) if form is not None else given
    for name, value in read.items():
        if value is not given[name]:
            plain(value, f"inputs[{name!r}]", paths=True)
    return ResolvedInputs(with_uploads(read, form, policy), files)
