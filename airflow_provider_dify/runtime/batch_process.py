"""What a process needs to run a batch, put together the same way on a worker and in a triggerer."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from airflow_provider_dify.api.input_form import InputForm
from airflow_provider_dify.client.batch_source import RowFile
from airflow_provider_dify.client.batch_store import BatchStore
from airflow_provider_dify.client.store_writing import destination_target
from airflow_provider_dify.exceptions import DifyError, DifyInvalidInputError
from airflow_provider_dify.names import WORKFLOW_RUNS
from airflow_provider_dify.rules.batch_outcome import RowSelection
from airflow_provider_dify.rules.batch_pacing import Outage
from airflow_provider_dify.rules.batch_protocol import ReadResults
from airflow_provider_dify.rules.batch_rows import RowRules, key_digest
from airflow_provider_dify.rules.batch_settings import BatchSettings
from airflow_provider_dify.rules.input_files import UploadPolicy
from airflow_provider_dify.rules.outages import is_outage, no_server_error
from airflow_provider_dify.runtime.batch_client import BatchClient
from airflow_provider_dify.runtime.batch_engine import BatchEngine
from airflow_provider_dify.runtime.metrics import Metrics
from airflow_provider_dify.runtime.task_protocols import TaskHook


@dataclass(frozen=True)
class Prepared:
    """Files of a batch, their stores connected.

    :param only: The rows to run; None for all.
    """

    file: RowFile
    store: BatchStore
    only: RowSelection | None = None


def prepare(settings: BatchSettings) -> Prepared:
    """Connect the stores of a batch; to be called where Airflow's connections may be asked for.

    :raises DifyError: A file or folder is missing, or a store could not be asked.
    """
    store = batch_store(settings.location, settings)
    only: RowSelection | None = None
    if settings.only is not None:
        only = selected(earlier_store(settings.earlier), settings.only)
    return Prepared(RowFile(settings.source), store, only)


def batch_store(result_path: Any, settings: BatchSettings) -> BatchStore:
    """Return the folder of a batch."""
    return BatchStore(
        destination_target(result_path, "result_path"),
        settings.identity.folder,
        settings.identity.generation_folder,
        result_format=settings.result_format,
    )


def earlier_store(location: str | None) -> BatchStore:
    """Return the folder of an earlier batch.

    :raises DifyInvalidInputError: There is none.
    """
    if location is None:
        raise DifyInvalidInputError("only has no earlier batch to take rows from: give its manifest.")
    return BatchStore(destination_target(location, "manifest"))


def selected(store: BatchStore, only: tuple[str, ...]) -> RowSelection:
    """Return the rows that ended in certain ways in an earlier batch."""
    _, lines = store.perform(ReadResults())
    return RowSelection.of(((key_digest(line.key), line.status) for line in lines), only)


def upload_policy(client: Any, roots: tuple[str, ...] | None) -> UploadPolicy:
    """Return from where the files of rows are uploaded.

    :param client: The connection.
    """
    server = None if client.api_contract == WORKFLOW_RUNS else client.base_url
    return UploadPolicy.of(server, client.allowed_upload_roots, roots)


async def _form(client: BatchClient, settings: BatchSettings, logger: Any) -> InputForm | None:
    """Return the app's input form, by which rows are read; None where the server shows none.

    A server that is away is waited for: without the form rows would be read otherwise than before.

    :raises DifyError: It was away until the deadline.
    """
    outage = Outage()
    while True:
        try:
            return await client.form()
        except DifyError as error:
            if not is_outage(error):
                return None
            if time.time() >= settings.end_time:
                raise no_server_error(error) from error
        if outage.began(time.time(), random.random()):
            logger.info("No Dify server answers: nothing is submitted until one does.")
        await asyncio.sleep(max(outage.next_at - time.time(), 0.0))


async def run_batch(
    hook: TaskHook,
    settings: BatchSettings,
    prepared: Prepared,
    metrics: Metrics,
    logger: Any,
    on_begin: Callable[[BatchEngine], None],
) -> dict[str, Any]:
    """Run a batch to its end, and return its manifest.

    :param on_begin: Takes the engine, by which a kill stops the runs.
    :raises DifyError: See ``BatchEngine.run``.
    """
    client = BatchClient(hook, metrics)
    try:
        await client.connect()
        rules = RowRules(
            key=settings.key,
            columns=settings.columns,
            form=None if settings.workflow_id is not None else await _form(client, settings, logger),
            policy=upload_policy(client.connection, settings.allowed_upload_roots),
            blanks_are_missing=prepared.file.format == "csv",
        )
        engine = BatchEngine(
            client, prepared.store, prepared.file, rules, settings, metrics, only=prepared.only, logger=logger
        )
        on_begin(engine)
        return await engine.run()
    finally:
        await client.close()
