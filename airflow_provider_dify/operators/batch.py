"""The operator that runs a Dify workflow over many rows: its parameters. What they do is in ``runtime/batch_task``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import BaseOperator, conf

from airflow_provider_dify.api.checks import check_number
from airflow_provider_dify.links.dify import DifyRunLink
from airflow_provider_dify.names import DEFAULT_CONN_NAME
from airflow_provider_dify.rules.batch_outcome import check_max_failures, check_only
from airflow_provider_dify.rules.batch_settings import (
    BATCH_TIMEOUT_SECONDS,
    MAX_ACTIVE_RUNS,
    MAX_ACTIVE_RUNS_LIMIT,
    ROWS_PER_PART,
    RUN_TIMEOUT_SECONDS,
)
from airflow_provider_dify.rules.settings import (
    MAX_INTERVAL_SECONDS,
    SUBMIT_TIMEOUT_SECONDS,
    check_bool,
    check_choice,
    check_roots,
    seconds_of,
)
from airflow_provider_dify.runtime.error_report import reports_errors

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_dify.hooks.dify import DifyHook
    from airflow_provider_dify.runtime.batch_task import BatchTask

RESULT_FORMATS = ("jsonl", "parquet")


class DifyRunWorkflowBatchOperator(BaseOperator):
    """Run a Dify workflow for each row of a table, each row once, in one task.

    Rows are submitted with limited concurrency, and their results are written to a folder as they come. Whoever is
    killed or restarted in the middle, the next process goes on by what stands in that folder and in Dify's log: a
    submission that may have been accepted is never sent a second time. A retry goes on too, and submits rows again that
    had failed; a clear starts a new batch.

    Every row gets a ``user`` of its own in Dify, by which its run is found. The worker and, with ``deferrable=True``,
    the triggerer must reach ``result_path`` and a file of rows.

    :param requests: The rows: a list of mappings, the output of an upstream task, or the path or URI of a ``.jsonl``,
        ``.csv`` or ``.parquet`` file in a folder or any object store that Airflow knows, which is read as a stream.
        Rows that are in no file are written to the batch's folder first. Templated.
    :param result_path: Folder of the batch: an object store's URI, a local path or an ``ObjectStoragePath``. Each task
        instance and each clear has a folder of its own below it. It must be the same on every try. Templated.
    :param key: The field that identifies a row, a text or a whole number that no other row has. Left out, a row is
        identified by its position.
    :param inputs: For each input of the workflow the column that feeds it. Left out, each row is the inputs, without
        its key. Templated.
    :param workflow_id: A published version to run, instead of the current one; required by the ``workflow-runs``
        contract. Templated.
    :param dify_conn_id: The Airflow connection. Templated.
    :param max_active_runs: Runs of the batch that are submitted and have not ended, at most. A server that has no room
        for them lowers it by itself.
    :param run_timeout: Seconds, or a timedelta, from the submission of a row to the end of its run; 600. A run that its
        submission did not name is searched for as long.
    :param timeout: Seconds, or a timedelta, for the whole batch in this try; 24 hours. An earlier
        ``execution_timeout`` counts instead.
    :param submit_timeout: Seconds to wait for the id of a run. A row whose run is not named in time is found by the
        pages of the log, which are read anyway.
    :param max_poll_interval: Seconds between polls at most; shorter runs are polled more often.
    :param max_failures: Rows that may fail before nothing more is submitted and the task fails: a number, or a share
        of the rows that have ended, such as 0.05, judged from 20 rows on.
    :param max_tokens: Tokens of all runs after which nothing more is submitted and the task fails without a retry. Runs
        that are active then are waited for, so that the total may be higher.
    :param fail_on_partial_error: Whether the task fails when the batch has ended and rows failed or are unknown.
    :param retries_per_request: How often a row whose run failed is submitted again within a try.
    :param on_orphaned_intent: A row that may have reached Dify, and whose run was not found in time: ``fail`` ends the
        row as unknown, ``resubmit`` submits it once more, at the risk of paying for two runs.
    :param validate_inputs: Whether all rows are held against the app's input form before the first one is submitted.
    :param validate_only: Whether to check the rows, estimate the requests, and return without submitting anything.
    :param only: Statuses of an earlier batch, such as ``["failed", "unknown"]``: only its rows that ended so are run.
        ``not_run`` stands for rows without a result.
    :param manifest: The earlier batch: what its task returned, or the URI of its folder. Left out, it is the one before
        this task was cleared. Templated.
    :param result_format: ``jsonl``, or ``parquet``, which needs the extra ``parquet`` of this package.
    :param rows_per_part: Rows of one file of results at most.
    :param deferrable: Whether the triggerer submits and collects. The default is ``[operators] default_deferrable``.
    :param cancel_on_kill: Whether the active runs are stopped when the task is killed, marked or cleared.
    :param cancel_on_timeout: Whether a run is stopped when its time-out passes, and all active ones when that of the
        batch does.
    :param allowed_upload_roots: Folders and prefixes of URIs below which every file to upload must be, besides those of
        the connection. With them a text in a file-typed input may be a path or URI, as columns of files have it.

    :return: The manifest: ``location``, ``results`` (the folder of the files of results), ``parts``, ``rows``,
        ``counts`` by status, ``tokens``, ``seconds``, ``app``, ``generation``.
    """

    template_fields: Sequence[str] = (
        "requests",
        "result_path",
        "inputs",
        "workflow_id",
        "dify_conn_id",
        "manifest",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"requests": "json", "inputs": "json", "manifest": "json"}
    operator_extra_links = (DifyRunLink(),)
    ui_color = "#e8efff"

    def __init__(
        self,
        *,
        requests: Iterable[Mapping[str, Any]] | str | None = None,
        result_path: Any = None,
        key: str | None = None,
        inputs: Mapping[str, str] | str | None = None,
        workflow_id: str | None = None,
        dify_conn_id: str = DEFAULT_CONN_NAME,
        max_active_runs: int = MAX_ACTIVE_RUNS,
        run_timeout: float | timedelta = RUN_TIMEOUT_SECONDS,
        timeout: float | timedelta = BATCH_TIMEOUT_SECONDS,
        submit_timeout: float = SUBMIT_TIMEOUT_SECONDS,
        max_poll_interval: float = MAX_INTERVAL_SECONDS,
        max_failures: int | float | None = None,
        max_tokens: int | None = None,
        fail_on_partial_error: bool = True,
        retries_per_request: int = 0,
        on_orphaned_intent: str = "fail",
        validate_inputs: bool = True,
        validate_only: bool = False,
        only: Sequence[str] | None = None,
        manifest: Mapping[str, Any] | str | None = None,
        result_format: str = "jsonl",
        rows_per_part: int = ROWS_PER_PART,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        cancel_on_kill: bool = True,
        cancel_on_timeout: bool = True,
        allowed_upload_roots: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.requests = requests
        self.result_path = result_path
        self.key = key
        self.inputs = inputs
        self.workflow_id = workflow_id
        self.dify_conn_id = dify_conn_id
        self.max_active_runs = check_number(max_active_runs, "max_active_runs", 1, MAX_ACTIVE_RUNS_LIMIT)
        self.run_timeout = seconds_of(run_timeout, "run_timeout")
        self.timeout = seconds_of(timeout, "timeout")
        self.submit_timeout = seconds_of(submit_timeout, "submit_timeout")
        self.max_poll_interval = seconds_of(max_poll_interval, "max_poll_interval")
        self.max_failures = check_max_failures(max_failures)
        self.max_tokens = None if max_tokens is None else check_number(max_tokens, "max_tokens", 0)
        self.fail_on_partial_error = check_bool(fail_on_partial_error, "fail_on_partial_error")
        self.retries_per_request = check_number(retries_per_request, "retries_per_request", 0)
        self.on_orphaned_intent = check_choice(on_orphaned_intent, "on_orphaned_intent", ("fail", "resubmit"))
        self.validate_inputs = check_bool(validate_inputs, "validate_inputs")
        self.validate_only = check_bool(validate_only, "validate_only")
        self.only = check_only(only)
        self.manifest = manifest
        self.result_format = check_choice(result_format, "result_format", RESULT_FORMATS)
        self.rows_per_part = check_number(rows_per_part, "rows_per_part", 1)
        self.deferrable = check_bool(deferrable, "deferrable")
        self.cancel_on_kill = check_bool(cancel_on_kill, "cancel_on_kill")
        self.cancel_on_timeout = check_bool(cancel_on_timeout, "cancel_on_timeout")
        self.allowed_upload_roots = check_roots(allowed_upload_roots)
        self._batch: BatchTask | None = None
        self._returned: Any = None

    @cached_property
    def hook(self) -> DifyHook:
        """The hook of the operator's connection."""
        # Importing it takes longer than parsing a whole DAG file, and parsing needs no HTTP client.
        from airflow_provider_dify.hooks.dify import DifyHook

        return DifyHook(self.dify_conn_id)

    def rows(self) -> Any:
        """Return what ``requests`` is; called once, before the rows are written down or read."""
        return self.requests

    def _begun(self, context: Context) -> BatchTask:
        # Airflow parses DAG files again and again: only a task that runs pays for what running needs.
        from airflow_provider_dify.runtime.batch_task import BatchTask

        self._batch = BatchTask(self, context)
        return self._batch

    @reports_errors
    def execute(self, context: Context) -> Any:
        """Run the batch, go on with that of an earlier try, or defer.

        :return: The manifest; with ``validate_only`` the number of rows and of requests.
        :raises DifyBatchRowsError: Rows are wrong; nothing was submitted.
        :raises DifyBatchError: Rows have no outputs.
        :raises DifyError: The batch could not begin, or not go on.
        """
        self._returned = self._begun(context).begin()
        return self._returned

    @reports_errors
    def execute_complete(self, context: Context, event: Any) -> Any:
        """Go on when the batch has ended in the triggerer.

        :param event: The trigger's event.
        :return: The manifest.
        :raises DifyError: As a batch that runs on a worker.
        """
        self._returned = self._begun(context).resume(event)
        return self._returned

    def on_kill(self) -> None:
        """Stop the active runs when the task is killed on a worker."""
        if self._batch is not None:
            self._batch.killed()

    def get_openlineage_facets_on_start(self) -> OperatorLineage[Any, Any]:
        """Return the file of rows; called by Airflow's OpenLineage provider."""
        from airflow_provider_dify.runtime.lineage import batch_lineage

        return batch_lineage(self, None)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """Return the file of rows and the folder of results; called by Airflow's OpenLineage provider.

        :param task_instance: The task instance, of which nothing is needed.
        """
        from airflow_provider_dify.runtime.lineage import batch_lineage

        return batch_lineage(self, self._returned)

    def get_openlineage_facets_on_failure(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """Return what is known of a batch that failed; called by Airflow's OpenLineage provider."""
        return self.get_openlineage_facets_on_complete(task_instance)
