"""OpenLineage facets and data sets of a task; imported only when OpenLineage asks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import attr
from airflow.providers.openlineage.extractors import OperatorLineage
from openlineage.client.event_v2 import Dataset, InputDataset, OutputDataset
from openlineage.client.facet_v2 import JobFacet, RunFacet, external_query_run

from airflow_provider_dify import __version__
from airflow_provider_dify.rules.lineage import input_datasets, output_datasets, run_properties
from airflow_provider_dify.runtime.run_link import run_url

if TYPE_CHECKING:
    from airflow_provider_dify.runtime.task_protocols import RunWorkflowTask

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
