"""Let a batch check a file of rows in a process of its own, and print its error and what it has taken.

Usage: python -m tests.operators.memory_of_a_batch FILE_OF_ONE_ROW FILE RESULTS CONNECTION
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from airflow_provider_dify.exceptions import DifyError
from airflow_provider_dify.operators.batch import DifyRunWorkflowBatchOperator
from tests.faults.tries import TaskInstance
from tests.memory import Growth


def check(source: str, results: str, task_id: str) -> str | None:
    operator = DifyRunWorkflowBatchOperator(
        task_id=task_id, requests=source, key="id", inputs={"data": "data", "number": "number"}, result_path=results,
        validate_only=True, deferrable=False,
    )  # fmt: skip
    context: Any = {"ti": TaskInstance(task_id=task_id)}
    try:
        operator.execute(context)
    except DifyError as error:
        return str(error)
    return None


def main() -> None:
    small, large, results, os.environ["AIRFLOW_CONN_DIFY_DEFAULT"] = sys.argv[1:]
    check(small, results, "small")
    growth, began = Growth(), time.monotonic()
    error = check(large, results, "large")
    took = time.monotonic() - began
    print(json.dumps({"grown": growth.mib(), "error": error, "seconds": took}))


if __name__ == "__main__":
    main()
