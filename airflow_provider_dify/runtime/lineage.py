"""OpenLineage facets and data sets of a task; imported only when OpenLineage asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

import attr
from airflow.providers.openlineage.extractors import OperatorLineage
from openlineage.client.event_v2 import Dataset, InputDataset, OutputDataset
from openlineage.client.facet_v2 import JobFacet, RunFacet, external_query_run

from airflow_provider_dify import __version__
from airflow_provider_dify.api.checks import plain_text
from airflow_provider_dify.exceptions import DifyError
from airflow_provider_dify.rules.lineage import dataset_of, input_datasets, output_datasets, run_properties
from airflow_provider_dify.rules.uploads import is_path_object
from airflow_provider_dify.runtime.run_link import run_url

if TYPE_CHECKING:
    from airflow_provider_dify.runtime.task_protocols import RunWorkflowTask


MOST_INPUTS = 100
"""Files of rows that are named: a folder is one data set, whatever is in it."""
FACET = "dify_workflow"
# The schemas are the package's own files airflow_provider_dify/schemas/NAME.json. Their version changes with them.
SCHEMA_VERSION = "1-0-0"
PRODUCER = f"urn:airflow-provider-dify:{__version__}"


def _schema(name: str) -> str:
    return f"urn:airflow-provider-dify:schemas:{SCHEMA_VERSION}:{name}.json#/$defs/{name}"


@attr.define
class DifyWorkflowRunFacet(RunFacet):
    """The run of the workflow that a task has run; see the schema of the same name."""

    workflowRunId: str
    server: str | None = None
    appId: str | None = None
    url: str | None = None
    workflowId: str | None = None
    status: str | None = None
    error: str | None = None
    elapsedTime: float | None = None
    totalTokens: int | None = None
    totalSteps: int | None = None
    createdAt: str | None = None
    finishedAt: str | None = None
    serverVersion: str | None = None

    # Airflow would take a number of tokens for a secret.
    _additional_skip_redact: ClassVar[list[str]] = ["workflowRunId", "totalTokens"]

    @staticmethod
    def _get_schema() -> str:
        return _schema("DifyWorkflowRunFacet")


@attr.define
class DifyWorkflowJobFacet(JobFacet):
    """Which workflow a task runs; see the schema of the same name."""

    connectionId: str
    responseMode: str
    workflowId: str | None = None

    @staticmethod
    def _get_schema() -> str:
        return _schema("DifyWorkflowJobFacet")


def lineage_before(task: RunWorkflowTask) -> OperatorLineage[Dataset, Any]:
    """Return what is known before the run: what goes in.

    :param task: The operator, with its templates rendered.
    """
    return OperatorLineage(inputs=_inputs(task), job_facets=_job_facets(task))


def lineage_after(task: RunWorkflowTask, returned: Any) -> OperatorLineage[Dataset, Any]:
    """Return what is known once the task has ended, in whatever way.

    :param task: The operator, as it ended; after a deferral the one that was resumed.
    :param returned: What the task returned; None for one that failed.
    """
    lineage = lineage_before(task)
    known = task.known_run
    if known is None:
        return lineage
    connection = task.hook.connection
    properties = run_properties(known.workflow_run_id, known.run, known.app_id)
    if "error" in properties:
        properties["error"] = task.hook.redact(properties["error"])
    lineage.run_facets[FACET] = DifyWorkflowRunFacet(
        server=connection.base_url,
        url=run_url(connection.console_url, properties.get("appId")),
        producer=PRODUCER,
        **properties,
    )
    lineage.run_facets["externalQuery"] = external_query_run.ExternalQueryRunFacet(
        externalQueryId=known.workflow_run_id, source=connection.base_url, producer=PRODUCER
    )
    outputs = known.run.outputs if known.run is not None else None
    lineage.outputs = [OutputDataset(namespace, name) for namespace, name in output_datasets(outputs, returned)]
    return lineage


def _inputs(task: RunWorkflowTask) -> list[Dataset]:
    return [InputDataset(namespace, name) for namespace, name in input_datasets(task.inputs, task.files)]


def _job_facets(task: RunWorkflowTask) -> dict[str, Any]:
    facet = DifyWorkflowJobFacet(
        connectionId=task.dify_conn_id,
        responseMode=task.response_mode,
        workflowId=task.workflow_id,
        producer=PRODUCER,
    )
    return {FACET: facet}


def batch_lineage(task: Any, returned: Any) -> OperatorLineage[Any, Any]:
    """Return the file of rows and, once the batch has ended, the folder of its results.

    :param task: The operator, with its templates rendered.
    :param returned: What the task returned; None before its end, and for one that failed.
    """
    given = task.requests
    path = str(given) if is_path_object(given) else plain_text(given)
    is_file = path is not None and path.strip() != "" and not path.lstrip().startswith("[")
    source = dataset_of(path) if is_file and path is not None else None
    results = returned.get("results") if isinstance(returned, Mapping) else None
    target = dataset_of(results) if isinstance(results, str) else None
    return OperatorLineage(
        inputs=[] if source is None else [InputDataset(*source)],
        outputs=[] if target is None else [OutputDataset(*target)],
    )


def sync_lineage(task: Any) -> OperatorLineage[Dataset, Any]:
    """Return the folder or files that are read, and the knowledge base that is written.

    :param task: The operator, with its templates rendered.
    """
    found = [dataset_of(str(each)) for each in _locations(task.source)]
    inputs: list[Dataset] = [InputDataset(namespace, name) for namespace, name in dict.fromkeys(filter(None, found))]
    dataset_id = task.known_dataset_id
    if dataset_id is None:
        return OperatorLineage(inputs=inputs)
    try:
        host = urlsplit(task.hook.connection.base_url).netloc
    except DifyError:
        return OperatorLineage(inputs=inputs)
    outputs: list[Dataset] = [OutputDataset(f"dify://{host}", f"datasets/{dataset_id}")]
    return OperatorLineage(inputs=inputs, outputs=outputs)


def _locations(source: Any) -> list[Any]:
    if plain_text(source) is not None or is_path_object(source):
        return [source]
    rows = source if isinstance(source, (list, tuple)) else []
    files = [row.get("file") if isinstance(row, Mapping) else row for row in rows]
    return [each for each in files if plain_text(each) is not None or is_path_object(each)][:MOST_INPUTS]
