"""The identity of an app: ids and API key, derived from its name and so the same in every process."""

from __future__ import annotations

import hashlib
import string
import uuid
from dataclasses import dataclass

from airflow_provider_dify.testing.workflows import Workflow

_NAMESPACE = uuid.UUID("5d1f7c3e-0f0f-4c5b-9c57-0d1f7e57d1f7")
_ALPHABET = string.ascii_letters + string.digits

TENANT_ID = str(uuid.uuid5(_NAMESPACE, "tenant"))
"""The workspace that all apps of the local server belong to."""

PUBLISHED_AT = "2026-01-01 00:00:00.000000"
"""When every workflow was published: the `version` of its runs in the logs."""


@dataclass(frozen=True, slots=True)
class App:
    """An app of the local server.

    :param workflow: what its runs do.
    :param app_id: the app's id; it appears only in `sys.app_id` and in the "too many requests" message.
    :param workflow_id: id of the published version, also the id in the routes of the `workflow-runs`
        contract.
    :param draft_workflow_id: id of the draft, which cannot be run.
    :param older_workflow_ids: ids of earlier published versions, oldest first.
    :param api_key: the key that selects the app.
    """

    workflow: Workflow
    app_id: str
    workflow_id: str
    draft_workflow_id: str
    older_workflow_ids: tuple[str, ...]
    api_key: str

    @property
    def name(self) -> str:
        """The app's name."""
        return self.workflow.name

    @property
    def mode(self) -> str:
        """The app's mode, as `/info` says it."""
        return self.workflow.mode


def make_app(workflow: Workflow) -> App:
    """Return the app of a workflow, with ids and key derived from its name."""

    def derived(kind: str) -> str:
        return str(uuid.uuid5(_NAMESPACE, f"{kind}:{workflow.name}"))

    digest = hashlib.sha256(f"key:{workflow.name}".encode()).digest()
    return App(
        workflow=workflow,
        app_id=derived("app"),
        workflow_id=derived("workflow"),
        draft_workflow_id=derived("draft"),
        older_workflow_ids=tuple(derived(f"version {n}") for n in range(workflow.older_versions)),
        api_key="app-" + "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in digest[:24]),
    )
