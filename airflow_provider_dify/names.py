"""Names that Airflow and DAG authors see, in one place and cheap to import."""

from __future__ import annotations

CONN_TYPE = "dify"
HOOK_NAME = "Dify"
DEFAULT_CONN_NAME = "dify_default"
DEFAULT_KNOWLEDGE_CONN_NAME = "dify_knowledge"

SERVICE_API = "service-api"
WORKFLOW_RUNS = "workflow-runs"
API_CONTRACTS = (SERVICE_API, WORKFLOW_RUNS)

RUN_ID_XCOM_KEY = "workflow_run_id"
TASK_ID_XCOM_KEY = "task_id"
URL_XCOM_KEY = "dify_run_url"
DATASET_URL_XCOM_KEY = "dify_dataset_url"
MANIFEST_XCOM_KEY = "dify_sync_manifest"

# Keys by which a task tells where it has saved a file of the outputs, and outputs that were too large for XCom.
SAVED_TO = "saved_to"
OUTPUTS_SAVED_TO = "dify_outputs_saved_to"
