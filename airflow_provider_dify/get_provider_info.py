"""What Airflow discovers of this provider."""

from __future__ import annotations

from typing import Any

from airflow_provider_dify import __version__
from airflow_provider_dify.connection_form import conn_fields, ui_field_behaviour
from airflow_provider_dify.names import CONN_TYPE, HOOK_NAME

_PACKAGE = "airflow_provider_dify"


def get_provider_info() -> dict[str, Any]:
    """Return the provider's connection type with its form, its hook, its link and its TaskFlow decorators."""
    return {
        "package-name": "airflow-provider-dify",
        "name": "Dify",
        "description": "Run `Dify <https://dify.ai>`__ workflows from Airflow, asynchronously and exactly once.",
        "versions": [__version__],
        "integrations": [{"integration-name": "Dify", "external-doc-url": "https://docs.dify.ai", "tags": ["ai"]}],
        "hooks": _modules("hooks.dify", "hooks.knowledge"),
        "operators": _modules("operators.workflow", "operators.batch", "operators.knowledge"),
        "sensors": _modules("sensors.workflow", "sensors.knowledge"),
        "triggers": _modules("triggers.workflow", "triggers.human_input", "triggers.batch", "triggers.knowledge"),
        # Known to Airflow 3.4 and later; earlier ones ignore it.
        "retry-policies": _modules("policies.retry"),
        "task-decorators": [
            {"name": "dify_workflow", "class-name": f"{_PACKAGE}.decorators.workflow.dify_workflow_task"},
            {"name": "dify_workflow_batch", "class-name": f"{_PACKAGE}.decorators.batch.dify_workflow_batch_task"},
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
        "extra-links": [f"{_PACKAGE}.links.dify.DifyRunLink", f"{_PACKAGE}.links.dify.DifyDatasetLink"],
    }


def _modules(*names: str) -> list[dict[str, Any]]:
    return [{"integration-name": "Dify", "python-modules": [f"{_PACKAGE}.{name}" for name in names]}]
