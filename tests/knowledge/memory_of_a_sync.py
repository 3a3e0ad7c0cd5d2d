"""Sync a folder in a process of its own, and print how many MiB it has taken beyond what a small sync takes.

Usage: python -m tests.knowledge.memory_of_a_sync FOLDER_OF_ONE_FILE FOLDER DATASET_ID CONNECTION
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from airflow_provider_dify.operators.knowledge import DifyKnowledgeSyncOperator
from tests.faults.tries import TaskInstance
from tests.memory import Growth


def sync(source: str, dataset_id: str, task_id: str) -> dict[str, Any]:
    operator = DifyKnowledgeSyncOperator(
        task_id=task_id, source=source, dataset_id=dataset_id, indexing_technique="economy", deferrable=False,
        poll_interval=0.2, timeout=600, fail_on_document_error=False, max_file_bytes=None,
    )  # fmt: skip
    context: Any = {"ti": TaskInstance(task_id=task_id)}
    manifest: dict[str, Any] = operator.execute(context)
    return manifest


def main() -> None:
    small, large, dataset_id, os.environ["AIRFLOW_CONN_DIFY_KNOWLEDGE"] = sys.argv[1:]
    sync(small, dataset_id, "small")
    growth = Growth()
    manifest = sync(large, dataset_id, "large")
    print(json.dumps({"grown": growth.mib(), "counts": manifest["counts"]}))


if __name__ == "__main__":
    main()
