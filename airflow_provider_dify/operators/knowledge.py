"""The operator that keeps a knowledge base in step with a folder or with rows: its parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator, conf

from airflow_provider_dify.api.checks import check_number
from airflow_provider_dify.links.dify import DifyDatasetLink
from airflow_provider_dify.names import DEFAULT_KNOWLEDGE_CONN_NAME
from airflow_provider_dify.rules.knowledge_sync import DELETE_CHOICES, MAX_DELETIONS, check_max_deletions
from airflow_provider_dify.rules.settings import (
    DEFER_AFTER_SECONDS,
    PollSchedule,
    bytes_of,
    check_bool,
    check_choice,
    seconds_or_zero,
)
from airflow_provider_dify.runtime.error_report import reports_errors

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_dify.hooks.knowledge import DifyKnowledgeHook
    from airflow_provider_dify.runtime.knowledge_sync import KnowledgeSync

TIMEOUT_SECONDS = 3600.0
POLL_SECONDS = 2.0
MAX_POLL_SECONDS = 15.0
MAX_FILE_BYTES = 15 * 1024 * 1024
"""What a Dify server takes by default (``UPLOAD_FILE_SIZE_LIMIT``)."""
MAX_ACTIVE_UPLOADS = 4
_MOST_ACTIVE_UPLOADS = 64


class DifyKnowledgeSyncOperator(BaseOperator):
    """Mirror a folder, or the rows of an upstream task, into a Dify knowledge base.

    What is new or has changed is uploaded, what is gone is deleted, and the task succeeds when everything is indexed. A
    second sync of an unchanged source writes nothing. Only documents that this sync has made are ever replaced or
    deleted. A try that is killed is repeated without doubles: the documents' names and metadata tell what is done.

    :param source: A folder as a local path, the URI of an object store, or a path object; or a list of rows, for
        example an upstream task's output. A row is a path, or a mapping with ``file`` (a path or URI) or ``text``, and
        optionally ``key`` (which document it is; needed with ``text``), ``name`` and ``metadata``. Templated.
    :param pattern: Which files of the folder: a pattern such as ``*.md`` or ``reports/**/*.pdf``, or a list of them.
        One without a slash fits file names in all folders below. Names that begin with a dot fit none. Templated.
    :param dataset_id: The knowledge base. Templated.
    :param dataset_name: The knowledge base by its name, instead of ``dataset_id``. Templated.
    :param create_dataset: Whether a knowledge base of that name is created where there is none.
    :param indexing_technique: ``high_quality`` (by embeddings) or ``economy`` (by keywords); by default the one that
        the knowledge base has. Another one uploads everything again.
    :param process_rule: How texts are split, as Dify's API takes it; by default Dify's own. Another one uploads
        everything again. Templated.
    :param doc_form: ``text_model``, ``qa_model`` or ``hierarchical_model``; by default Dify's own.
    :param doc_language: For ``qa_model``: the language of questions and answers.
    :param metadata: Values for all documents, by the names of their fields, which are created where they are missing.
        Texts and numbers. Rows may have more. Templated.
    :param sync_id: Which sync it is: documents of others are left alone. By default DAG id and task id; give one, and
        keep it, where these may change. Templated.
    :param delete: ``tracked`` deletes documents that this sync made and the source no longer has; ``never`` deletes
        nothing.
    :param max_deletions: How many documents may be lost in one sync: a share of those that it has made (0.1; one at
        least), or a whole number. More fail the task before anything is written. What was only moved is not counted.
    :param max_active_uploads: Documents that are read, and uploaded, at a time. A stock Dify has ten connections.
    :param max_file_bytes: Larger files are not sent, and fail; None for no limit. By default 15 MiB, as Dify's own.
    :param fail_on_document_error: Whether the task fails, after all other documents, where some could not be uploaded
        or indexed.
    :param report_only: Whether it is a dry run: nothing is written, and the manifest says what would be.
    :param dify_conn_id: The Airflow connection, with a key of the knowledge API (``dataset-…``). Templated.
    :param deferrable: Whether to wait for the indexing in the triggerer. The default is ``[operators]
        default_deferrable``.
    :param defer_after: Seconds, or a timedelta, for which a deferrable task waits on its worker first.
    :param poll_interval: Seconds to the second question for the indexing; the distance doubles from there.
    :param max_poll_interval: Seconds between two questions at most.
    :param timeout: Seconds, or a timedelta, from the start of the try until everything must be indexed.

    The return value is the manifest: ``dataset_id``, ``sync_id``, ``counts`` by outcome (``created``, ``updated``,
    ``renamed``, ``unchanged``, ``deleted``, ``kept``, ``skipped``, ``failed``), and up to 500 ``documents`` of each but
    ``unchanged``. XCom: ``dify_dataset_url`` for the link, and ``dify_sync_manifest`` where documents have failed.
    """

    template_fields: Sequence[str] = (
        "source",
        "pattern",
        "dataset_id",
        "dataset_name",
        "process_rule",
        "metadata",
        "sync_id",
        "dify_conn_id",
    )
    template_fields_renderers = {"process_rule": "json", "metadata": "json"}  # noqa: RUF012
    operator_extra_links = (DifyDatasetLink(),)
    ui_color = "#e8efff"

    def __init__(
        self,
        *,
        source: Any,
        pattern: str | Sequence[str] = "**",
        dataset_id: str | None = None,
        dataset_name: str | None = None,
        create_dataset: bool = False,
        indexing_technique: str | None = None,
        process_rule: Mapping[str, Any] | None = None,
        doc_form: str | None = None,
        doc_language: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        sync_id: str | None = None,
        delete: str = "tracked",
        max_deletions: float | int = MAX_DELETIONS,
        max_active_uploads: int = MAX_ACTIVE_UPLOADS,
        max_file_bytes: int | None = MAX_FILE_BYTES,
        fail_on_document_error: bool = True,
        report_only: bool = False,
        dify_conn_id: str = DEFAULT_KNOWLEDGE_CONN_NAME,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        defer_after: float | timedelta = DEFER_AFTER_SECONDS,
        poll_interval: float = POLL_SECONDS,
        max_poll_interval: float | None = MAX_POLL_SECONDS,
        timeout: float | timedelta = TIMEOUT_SECONDS,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.pattern = pattern
        self.dataset_id = dataset_id
        self.dataset_name = dataset_name
        self.create_dataset = check_bool(create_dataset, "create_dataset")
        self.indexing_technique = indexing_technique
        self.process_rule = process_rule
        self.doc_form = doc_form
        self.doc_language = doc_language
        self.metadata = metadata
        self.sync_id = sync_id
        self.delete = check_choice(delete, "delete", DELETE_CHOICES)
        self.max_deletions = check_max_deletions(max_deletions)
        self.max_active_uploads = check_number(max_active_uploads, "max_active_uploads", 1, _MOST_ACTIVE_UPLOADS)
        self.max_file_bytes = None if max_file_bytes is None else bytes_of(max_file_bytes, "max_file_bytes")
        self.fail_on_document_error = check_bool(fail_on_document_error, "fail_on_document_error")
        self.report_only = check_bool(report_only, "report_only")
        self.dify_conn_id = dify_conn_id
        self.deferrable = check_bool(deferrable, "deferrable")
        self.defer_after = seconds_or_zero(defer_after, "defer_after")
        schedule = PollSchedule.checked(poll_interval, max_poll_interval)
        self.poll_interval = schedule.first
        self.max_poll_interval = schedule.longest
        self.timeout = schedule.checked_timeout(timeout, "timeout")
        self._sync: KnowledgeSync | None = None
        self._returned: Any = None

    @cached_property
    def hook(self) -> DifyKnowledgeHook:
        """The hook of the task's connection."""
        # Importing it takes longer than parsing a whole DAG file, and parsing needs no HTTP client.
        from airflow_provider_dify.hooks.knowledge import DifyKnowledgeHook

        return DifyKnowledgeHook(self.dify_conn_id)

    def _begun(self, context: Context) -> KnowledgeSync:
        from airflow_provider_dify.runtime.knowledge_sync import KnowledgeSync

        self._sync = KnowledgeSync(self, context)
        return self._sync

    @reports_errors
    def execute(self, context: Context) -> dict[str, Any]:
        """Sync the knowledge base.

        :return: The manifest.
        :raises DifyEmptySourceError: The source has nothing; nothing was written.
        :raises DifyTooManyDeletionsError: More would be lost than allowed; nothing was written.
        :raises DifyIndexingError: Some documents could not be uploaded or indexed; all others are.
        :raises DifyIndexingTimeoutError: Some were not indexed in time.
        :raises DifyError: Dify refused, or could not be reached. What was written stays.
        """
        self._returned = manifest = self._begun(context).begin()
        return manifest

    @reports_errors
    def execute_complete(self, context: Context, event: Any) -> dict[str, Any]:
        """Go on with the task when the trigger has fired.

        :param event: The trigger's event.
        :return: The manifest.
        :raises DifyError: As a task that waits by itself.
        """
        self._returned = manifest = self._begun(context).resume(event)
        return manifest

    def on_kill(self) -> None:
        """Send nothing more. What was uploaded stays, and the next try finds it."""
        if self._sync is not None:
            self._sync.stop()

    @property
    def known_dataset_id(self) -> str | None:
        """The knowledge base, as soon as it is known."""
        return self.dataset_id or (None if self._sync is None else self._sync.dataset_id)

    def get_openlineage_facets_on_start(self) -> OperatorLineage[Any, Any]:
        """Return what is read and what is written; called by Airflow's OpenLineage provider."""
        from airflow_provider_dify.runtime.lineage import sync_lineage

        return sync_lineage(self)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """Return what was read and written; called by Airflow's OpenLineage provider.

        :param task_instance: The task instance, of which nothing is needed.
        """
        return self.get_openlineage_facets_on_start()
