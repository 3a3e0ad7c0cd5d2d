"""What a run has put out, on its way to where the next task reads it: files are saved, large outputs are offloaded."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_dify.api.values import excerpt
from airflow_provider_dify.exceptions import DifyError, DifyFileExpiredError, DifyOutputsError
from airflow_provider_dify.names import OUTPUTS_SAVED_TO, SAVED_TO
from airflow_provider_dify.rules.outcome import SENSOR_SAVES
from airflow_provider_dify.rules.output_files import (
    bytes_together,
    check_number_of_files,
    declared_size,
    distinct_names,
    files_in,
    safe_name,
    too_large,
)
from airflow_provider_dify.rules.settings import MAX_FILE_BYTES, MAX_XCOM_BYTES
from airflow_provider_dify.rules.uploads import check_destination
from airflow_provider_dify.rules.xcom import unfit_for_xcom

if TYPE_CHECKING:
    from airflow_provider_dify.client.store_writing import FileGroup
    from airflow_provider_dify.runtime.task_protocols import SavingTask, TaskHook

PARALLEL_DOWNLOADS = 4
"""Files that one task fetches at a time: a stock Dify has ten connections for everybody (dify-behaviour.md, section
12.1)."""

GIVE_UP_SECONDS = 2.0
"""Time for downloads to end by themselves when the task ends without them; their part files are removed then."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Destination:
    """Where outputs go besides XCom, and within which limits.

    :param files_to: Folder for the files of a run, as a local path, a URI or an ``ObjectStoragePath``; None to leave
        them with Dify.
    :param allowed_hosts: Hosts besides the server that files may be fetched from.
    :param max_file_bytes: Largest file that is fetched.
    :param outputs_to: Folder for outputs that are too large for XCom, or that it cannot carry; None for none.
    :param max_xcom_bytes: Largest outputs that go through XCom, as JSON in bytes.
    """

    files_to: Any = None
    allowed_hosts: Sequence[str] = ()
    max_file_bytes: int = MAX_FILE_BYTES
    outputs_to: Any = None
    max_xcom_bytes: int = MAX_XCOM_BYTES

    @classmethod
    def of(cls, task: SavingTask) -> Destination:
        """Return what the parameters of an operator or sensor say."""
        return cls(
            files_to=check_destination(task.output_files_to, "output_files_to"),
            allowed_hosts=task.allowed_file_hosts,
            max_file_bytes=task.max_file_bytes,
            outputs_to=check_destination(task.outputs_to, "outputs_to"),
            max_xcom_bytes=task.max_xcom_bytes,
        )


def deliver(
    outputs: dict[str, Any], *, workflow_run_id: str, hook: TaskHook, to: Destination, on_retry: str
) -> dict[str, Any]:
    """Save the files of a run that has succeeded, and return what goes through XCom.

    Names follow from the run's id and from the outputs alone: whoever does it again overwrites the same files.

    :param outputs: The run's outputs; those of its files that are saved get the key ``saved_to``.
    :param workflow_run_id: The run.
    :param hook: The hook of the run's connection.
    :param to: Where things go.
    :param on_retry: What a retry of the task does, for the message of an error.
    :return: The outputs; or, where they were offloaded, ``{"dify_outputs_saved_to", "size_bytes", "workflow_run_id"}``.
    :raises DifyFileError: Something could not be fetched or saved. The run keeps its outputs.
    :raises DifyOutputsError: XCom cannot carry the outputs, and there is no folder for them.
    """
    try:
        if to.files_to:
            _save_files(outputs, workflow_run_id, hook, to)
        return _offload(outputs, workflow_run_id, to)
    except DifyError as error:
        error.reword(
            problem=f"Dify run {workflow_run_id} has succeeded, but its outputs were not "
            f"{'handed over' if isinstance(error, DifyOutputsError) else 'saved'}: {error.problem}",
            on_retry=SENSOR_SAVES if isinstance(error, DifyOutputsError) else on_retry,
        )
        error.workflow_run_id = workflow_run_id
        raise


def _save_files(outputs: dict[str, Any], run_id: str, hook: TaskHook, to: Destination) -> None:
    files = files_in(outputs)
    if not files:
        return
    from airflow_provider_dify.client.store_writing import FileGroup, Target

    sizes = {place: declared_size(file) for place, file in files.items()}
    check_number_of_files(len(files))
    for place, size in sizes.items():
        if size is not None and size > to.max_file_bytes:
            raise _named(too_large(size, to.max_file_bytes), place, files[place])
    group = FileGroup(bytes_together(sizes.values(), to.max_file_bytes))
    target = Target(to.files_to)
    names = dict(zip(files, distinct_names(file.get("filename") for file in files.values()), strict=True))
    folder = safe_name(run_id, "run")

    def save(place: str, file: Mapping[str, Any]) -> str | None:
        """Save a file and return its URI; None where the server does not give it."""
        try:
            return hook.download_file(
                file,
                target.joined(folder, names[place]),
                allowed_hosts=to.allowed_hosts,
                max_bytes=to.max_file_bytes,
                group=group,
            ).uri
        except DifyFileExpiredError as error:
            log.info("File %s of run %s: %s", place, run_id, error.message)
            return None
        except DifyError as error:
            raise _named(error, place, file) from error

    saved = _in_parallel(save, files, group)
    late = {place for place, uri in saved.items() if uri is None}
    if late:
        log.info("The run is read again, since each answer has new signatures.")
        newer = files_in(hook.get_workflow_run(run_id).outputs)
        again = _in_parallel(save, {place: newer.get(place, files[place]) for place in late}, group)
        for place, uri in again.items():
            if uri is None:
                raise _named(
                    DifyFileExpiredError("the server does not give it, also with a new signature: it was deleted."),
                    place,
                    files[place],
                )
        saved |= again
    for place, file in files.items():
        file[SAVED_TO] = saved[place]
        log.info("File %s was saved to %s.", place, saved[place])


def _in_parallel(save: Any, files: Mapping[str, Mapping[str, Any]], group: FileGroup) -> dict[str, Any]:
    pool = ThreadPoolExecutor(PARALLEL_DOWNLOADS, thread_name_prefix="dify-download")
    pending: dict[str, Future[Any]] = {}
    try:
        for place, file in files.items():
            pending[place] = pool.submit(save, place, file)
        return {place: done.result() for place, done in pending.items()}
    except BaseException:
        # Also when the task is killed meanwhile: its process may end at once, and its threads with it.
        group.give_up()
        pool.shutdown(wait=False, cancel_futures=True)
        wait([each for each in pending.values() if not each.cancelled()], GIVE_UP_SECONDS)
        group.remove_parts()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _named(error: DifyError, place: str, file: Mapping[str, Any]) -> DifyError:
    error.reword(problem=f"File {place} ({excerpt(str(file.get('filename')), 100)!r}): {error.problem}")
    return error


def _offload(outputs: dict[str, Any], run_id: str, to: Destination) -> dict[str, Any]:
    unfit = unfit_for_xcom(outputs)
    if unfit and not to.outputs_to:
        raise DifyOutputsError(
            f"{'; '.join(map(str, unfit))}. Airflow's XCom cannot carry that.",
            advice="Set outputs_to to a folder, where such outputs are saved as JSON and read by load_outputs, or "
            "change what the workflow puts out.",
            where="outputs_to",
        )
    content = json.dumps(outputs).encode("ascii")
    if len(content) <= to.max_xcom_bytes and not unfit:
        return outputs
    if not to.outputs_to:
        log.warning(
            "The outputs have %s bytes as JSON and go through XCom all the same, into Airflow's database unless an "
            "XCom backend keeps them elsewhere. Set outputs_to to an object store to pass on only where they are.",
            f"{len(content):,}",
        )
        return outputs
    from airflow_provider_dify.client.store_writing import Target

    with Target(to.outputs_to).writing(f"{safe_name(run_id, 'run')}.json") as (sink, uri):
        sink.write(content)
    log.info("The outputs (%s bytes as JSON) were saved to %s.", f"{len(content):,}", uri)
    if unfit:
        log.info("They do not go through XCom, which cannot carry that: %s.", "; ".join(map(str, unfit)))
    return {OUTPUTS_SAVED_TO: uri, "size_bytes": len(content), "workflow_run_id": run_id}


def load_outputs(returned: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the outputs of a task's run, wherever the task has put them.

    For the tasks that follow: with ``outputs_to`` a task returns its outputs, or where large ones were saved.

    :param returned: What the task has returned.
    :raises DifyFileError: What was saved cannot be read any more.
    """
    uri = returned.get(OUTPUTS_SAVED_TO)
    if uri is None:
        return returned
    from airflow_provider_dify.client.object_stores import Source, reading

    with Source(uri, OUTPUTS_SAVED_TO).open() as stream, reading(uri, OUTPUTS_SAVED_TO):
        outputs: dict[str, Any] = json.load(stream)
    return outputs
