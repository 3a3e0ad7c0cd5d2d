"""Run batches in a process of its own, and print by how much its memory grows with rows that hold much.

Usage: python -m tests.operators.memory_of_rows FEW_ROWS MANY_ROWS RESULTS CONNECTION
"""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any

from airflow_provider_dify.operators.batch import DifyRunWorkflowBatchOperator
from tests.faults.tries import TaskInstance
from tests.memory import Growth


def run(source: str, results: str, task_id: str) -> dict[str, Any]:
    operator = DifyRunWorkflowBatchOperator(
        task_id=task_id,
        requests=source,
        key="id",
        result_path=results,
        inputs={"text": "text"},
        max_active_runs=8,
        deferrable=False,
    )
    context: Any = {"ti": TaskInstance(task_id=task_id)}
    manifest: dict[str, Any] = operator.execute(context)
    return manifest


def main() -> None:
    few, many, results, os.environ["AIRFLOW_CONN_DIFY_DEFAULT"] = sys.argv[1:]
    logging.disable(logging.INFO)
    run(few, results, "few")
    growth = Growth()
    manifest = run(many, results, "many")
    print(json.dumps({"grown": growth.mib(), "counts": manifest["counts"]}))


if __name__ == "__main__":
    main()
