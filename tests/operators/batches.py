"""A batch task and its tries, played by hand, and what its folder holds."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from airflow_provider_dify.operators.batch import DifyRunWorkflowBatchOperator
from airflow_provider_dify.testing.server import DifyServer
from tests.faults.tries import Task

PATIENT = {"connect_timeout": 60, "read_timeout": 60}
"""Time-outs of a connection that a pause of a busy machine does not reach."""


class BatchTask(Task):
    """One task instance that runs a batch; ``parameters`` are those of the operator."""

    def __init__(self, folder: Path, *, deferrable: bool = False, **parameters: Any) -> None:
        self.folder = folder
        super().__init__(store=False, deferrable=deferrable, **parameters)
        for name in ("defer_after", "poll_interval"):
            del self.parameters[name]
        self.parameters = {"result_path": str(folder), "submit_timeout": 60, "run_timeout": 60, **self.parameters}
        self.parameters["timeout"] = parameters.get("timeout", 240)
        self.operator = self._operator()

    def _operator(self) -> Any:
        wanted = {
            name: value for name, value in self.parameters.items() if name not in ("defer_after", "poll_interval")
        }
        return DifyRunWorkflowBatchOperator(**wanted)


def results(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the lines of a batch's results, in the order of the rows."""
    folder = Path(manifest["results"].removeprefix("file://"))
    lines = [json.loads(line) for part in folder.glob("part-*.jsonl") for line in part.read_text().splitlines()]
    return sorted(lines, key=lambda line: line["position"])


def runs_of(server: DifyServer, name: str = "text") -> Counter[Any]:
    """Return how many runs the server has had for each value of an input."""
    return Counter(run.inputs.get(name) for run in server.runs)


def rows(number: int) -> list[dict[str, Any]]:
    return [{"id": f"row-{index}", "text": f"text {index}"} for index in range(number)]
