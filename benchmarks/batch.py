"""
A batch of many short runs, on a worker and in a triggerer: its share of the server's capacity, its memory and its CPU.

    python -m benchmarks.batch --rows 10000 --slots 12 --active 16
    python -m benchmarks.batch --rows 50000 --seconds 0 --slots 64 --active 64 --format parquet --modes worker

Against the local server in a process of its own, which runs so many at a time; the batch in another one, without
Airflow's scheduler. Counts the runs on the server, and the rows of the results, whose outputs must be the row's own
values with their types.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.servers import serving

MIB = 1024
FOUND = "found.json"


def serve(options: argparse.Namespace) -> None:
    """Serve one workflow until the process is ended."""
    from airflow_provider_dify.testing.server import DifyServer
    from airflow_provider_dify.testing.workflows import Input, Step, Workflow

    workflow = Workflow(
        "short",
        inputs=[Input("text"), Input("data", type="json_object", required=False)],
        steps=[Step("work", seconds=options.seconds, tokens=3)],
        outputs=lambda inputs: {"data": inputs.get("data")},
    )
    with DifyServer([workflow], connections=None, worker_slots=options.slots) as server:
        print(server.base_url, server.api_key("short"), flush=True)
        signal.pause()


def resident(kind: str = "VmRSS") -> int:
    """Return the memory of this process in KiB; not ``ru_maxrss``, which begins with that of the parent."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(kind))


class Memory:
    """The memory of this process, once a second."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self._ended = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self._ended.wait(1.0):
            self.seen.append(resident())

    def end(self) -> None:
        self._ended.set()


def rows(number: int) -> Iterator[dict[str, Any]]:
    return (
        {"id": f"row-{index}", "text": f"text {index}", "data": {"n": index, "halves": [index / 2, None]}}
        for index in range(number)
    )


def write(path: Path, number: int) -> None:
    """Write the rows down, in the format of the file's name."""
    if path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(list(rows(number))), path, row_group_size=1000)
        return
    with path.open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows(number))


def results_of(folder: str) -> Iterator[dict[str, Any]]:
    """Return the rows of the results."""
    for part in sorted(Path(folder.removeprefix("file://")).glob("part-*")):
        if part.suffix == ".parquet":
            from pyarrow import parquet

            yield from parquet.read_table(part).to_pylist()
        else:
            yield from map(json.loads, part.read_text().splitlines())


def measure(options: argparse.Namespace) -> None:
    """Run one batch in this process, and write down what it took."""
    from airflow.providers.common.compat.sdk import TaskDeferred

    from airflow_provider_dify.operators.batch import DifyRunWorkflowBatchOperator
    from tests.faults.tries import Task, TaskInstance

    # Only now, since the tests' configuration removes what the environment says of connections.
    os.environ["AIRFLOW_CONN_DIFY_DEFAULT"] = options.connection
    logging.disable(logging.INFO)
    folder = Path(options.folder)
    source = folder / f"rows.{options.format}"
    # In a process of its own, whose memory is none of the batch's.
    writing = multiprocessing.get_context("spawn").Process(target=write, args=(source, options.rows))
    writing.start()
    writing.join()

    def operator() -> DifyRunWorkflowBatchOperator:
        return DifyRunWorkflowBatchOperator(
            task_id="batch",
            requests=str(source),
            result_path=str(folder / "results"),
            key="id",
            inputs={"text": "text", "data": "data"},
            result_format=options.format,
            max_active_runs=options.active,
            deferrable=options.deferrable,
        )

    # What the process needs before it does anything belongs to none of the rows.
    import airflow_provider_dify.client.aiohttp_transport
    import airflow_provider_dify.runtime.batch_task
    import airflow_provider_dify.triggers.batch  # noqa: F401

    base, memory = resident(), Memory()
    began, used = time.monotonic(), time.process_time()
    context: Any = {"ti": TaskInstance()}
    trigger: Any = None
    try:
        manifest = operator().execute(context)
    except TaskDeferred as deferred:
        trigger = deferred.trigger
    if trigger is not None:
        manifest = operator().execute_complete(context, asyncio.run(Task.fire(trigger)))
    memory.end()
    seconds, cpu, peak = time.monotonic() - began, time.process_time() - used, resident("VmHWM")
    lines: Counter[str] = Counter()
    for row in results_of(manifest["results"]):
        lines[row["key"]] += 1
        number = row["position"]
        assert row["outputs"] == {"data": {"n": number, "halves": [number / 2, None]}}, row
    (folder / FOUND).write_text(
        json.dumps(
            {
                "seconds": seconds,
                "cpu": cpu,
                "base": base / MIB,
                "peak": peak / MIB,
                "last": memory.seen[-1] / MIB if memory.seen else base / MIB,
                "counts": manifest["counts"],
                "lines": len(lines),
                "twice": sum(number > 1 for number in lines.values()),
            }
        )
    )


def runs_of(url: str, key: str) -> int:
    """Return how many runs the server has had."""
    import requests

    answer = requests.get(f"{url}/v1/workflows/logs?limit=1", headers={"Authorization": f"Bearer {key}"}, timeout=60)
    return int(answer.json()["total"])


def one(options: argparse.Namespace, number: int, *, deferrable: bool) -> str:
    """Measure one batch against a server of its own, and return the row of the table."""
    shape = [
        f"--seconds={options.seconds}",
        f"--slots={options.slots}",
        f"--active={options.active}",
        f"--format={options.format}",
    ]
    with (
        serving("benchmarks.batch", "--serve", *shape) as [url, key],
        tempfile.TemporaryDirectory(prefix="dify-batch-") as folder,
    ):
        connection = json.dumps({"conn_type": "dify", "host": url, "password": key})
        arguments = [
            *shape,
            f"--rows={number}",
            f"--folder={folder}",
            f"--connection={connection}",
            *(["--deferrable"] if deferrable else []),
        ]
        # Its output is the task's log.
        command = [sys.executable, "-m", "benchmarks.batch", "--measure", *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found = json.loads((Path(folder) / FOUND).read_text())
        had = runs_of(url, key)
    best = number * options.seconds / options.slots
    return (
        f"| {'triggerer' if deferrable else 'worker'} | {number:,} | {had:,} "
        f"| {found['lines']:,} ({found['twice']} twice)"
        f" | {found['seconds']:.0f} s | {best / found['seconds']:.0%} | {found['cpu']:.0f} s"
        f" | {found['peak'] - found['base']:.0f} MiB | {found['last'] - found['base']:.0f} MiB |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000, help="of the large batch; the small one has a tenth")
    parser.add_argument("--seconds", type=float, default=0.5, help="that each run takes (%(default)g)")
    parser.add_argument("--slots", type=int, default=12, help="runs that the server executes at a time (%(default)s)")
    parser.add_argument("--active", type=int, default=16, help="max_active_runs (%(default)s)")
    parser.add_argument("--format", default="jsonl", choices=("jsonl", "parquet"), help="of rows and results")
    parser.add_argument("--modes", default="worker,triggerer", help="where the batch runs (%(default)s)")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--deferrable", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--connection", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options)
        return
    if options.measure:
        measure(options)
        return
    print(
        "| on the | rows | runs on the server | lines of results | wall time | of the server's capacity | CPU "
        "| peak memory above base | memory at the end above base |\n|---|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    for mode in options.modes.split(","):
        for number in (options.rows // 10, options.rows):
            print(one(options, number, deferrable=mode == "triggerer"), flush=True)


if __name__ == "__main__":
    main()
