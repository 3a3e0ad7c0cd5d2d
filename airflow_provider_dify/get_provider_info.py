"""What Airflow discovers of this provider."""

from __future__ import annotations

from typing import Any

from airflow_provider_dify import __version__
from airflow_provider_dify.form import conn_fields, ui_field_behaviour
from airflow_provider_dify.names import CONN_TYPE, HOOK_NAME

_PACKAGE = "airflow_provider_dify"


def get_provider_info() -> dict[str, Any]:
    """Return the provider's connection type with its form, its hook, its link and its TaskFlow decorator."""
    return {
        "package-name": "airflow-provider-dify",
        "name": "Dify",
        "description": "Run `Dify <https://dify.ai>`__ workflows from Airflow, asynchronously and exactly once.",
        "versions": [__version__],
        "integrations": [{"integration-name": "Dify", "external-doc-url": "https://docs.dify.ai", "tags": ["ai"]}],
        "hooks": [{"integration-name": "Dify", "python-modules": [f"{_PACKAGE}.hooks.dify"]}],
        "operators": [{"integration-name": "Dify", "python-modules": [f"{_PACKAGE}.operators.workflow"]}],
        "sensors": [{"integration-name": "Dify", "python-modules": [f"{_PACKAGE}.sensors.workflow"]}],
        "triggers": [{"integration-name": "Dify", "python-modules": [f"{_PACKAGE}.triggers.workflow"]}],
        "task-decorators": [
            {"name": "dify_workflow", "class-name": f"{_PACKAGE}.decorators.workflow.dify_workflow_task"}
        ],
        "connection-types": [
            {
                "hook-class-name": f"{_PACKAGE}.hooks.dify.DifyHook",
                "hook-name": HOOK_NAME,
                "connection-type": CONN_TYPE,
                "conn-fields": conn_fields(),
                "ui-field-behaviour": ui_field_behaviour(),
            }
        ],
        "extra-links": [f"{_PACKAGE}.links.dify.DifyRunLink"],
    }
