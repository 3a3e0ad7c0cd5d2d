"""Which operations an API contract has."""

from __future__ import annotations

from airflow_provider_dify.api.operations import ApiContract
from airflow_provider_dify.api.service_api import ServiceApi
from airflow_provider_dify.api.workflow_runs_api import WorkflowRunsApi
from airflow_provider_dify.names import WORKFLOW_RUNS


def contract(name: str) -> ApiContract:
    """Return the operations of the contract of this name (``service-api`` or ``workflow-runs``)."""
    return WorkflowRunsApi() if name == WORKFLOW_RUNS else ServiceApi()
