"""
A thousand runs of the operator at once: mapped deferrable tasks with Airflow's own processes and PostgreSQL.

    python -m benchmarks.mapped --runs 1000 --triggerers 2

Against the local server, whose workflow gives its input back after some minutes. Counts the runs on the server, and
the tasks that returned the outputs of their own run; measures the triggerers while all tasks are deferred.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import requests

from benchmarks.triggerer import DAGS, REST, RUN_ID, SETTINGS, STEADY, all_deferred, count, process_group
from tests.integration.airflow_processes import Airflow, wait_for
from tests.integration.postgres import Postgres


def serve(seconds: float) -> None:
    """Be the server, print address and key, and serve until this process is ended."""
    from airflow_provider_dify.testing.server import DifyServer
    from airflow_provider_dify.testing.workflows import Input, Step, Workflow

    steps = [*(Step(f"step{number}", seconds=0.1) for number in range(5)), Step("long", seconds=seconds)]
    back = Workflow("back", inputs=[Input("number", "number")], steps=steps, outputs={"number": "{number}"})
    with DifyServer([back], worker_slots=100_000) as server:
        print(server.base_url, server.api_key("back"), flush=True)
        signal.pause()


def runs_of(url: str, key: str) -> int:
    """Return how many runs the server has had."""
    answer = requests.get(f"{url}/v1/workflows/logs?limit=1", headers={"Authorization": f"Bearer {key}"}, timeout=60)
    return int(answer.json()["total"])


def own_outputs(airflow: Airflow) -> int:
    """Return how many tasks have returned the outputs of their own run."""
    query = "SELECT map_index, value FROM xcom WHERE run_id = ? AND key = 'return_value'"
    told = dict(airflow.rows(query, RUN_ID))
    values = {index: json.loads(value) if isinstance(value, str) else value for index, value in told.items()}
    return sum(value["number"] == index for index, value in values.items())


def shares_of(airflow: Airflow) -> list[int]:
    """Return how many triggers each triggerer runs, as soon as none is left without one."""
    rows = airflow.rows("SELECT triggerer_id, count(*) FROM trigger GROUP BY triggerer_id ORDER BY triggerer_id")
    return [] if None in dict(rows) else [number for _, number in rows]


def measure(url: str, key: str, runs: int, triggerers: int, parallelism: int, limit: float) -> str:
    os.environ |= {"BENCH_RUNS": str(runs), "PYTHONPATH": os.getcwd()}
    dify = {"conn_type": "dify", "host": url, "password": key}
    settings = SETTINGS | {"CORE__MAX_MAP_LENGTH": "10000"}
    with (
        tempfile.TemporaryDirectory(prefix="dify-provider-bench-") as home,
        Postgres() as postgres,
        Airflow(Path(home), dify, DAGS, database=postgres.url, parallelism=parallelism, settings=settings) as airflow,
    ):
        names = ["triggerer", *(f"triggerer.{number}" for number in range(2, triggerers + 1))]
        for name in names[1:]:
            airflow.start(name)
        wait_for("the API", airflow.rest.answers, limit)
        wait_for("the DAG", lambda: airflow.rows("SELECT 1 FROM serialized_dag WHERE dag_id = ?", "running"), limit)
        leaders = [airflow._processes[name].pid for name in names]
        time.sleep(10)
        idle = [process_group(leader) for leader in leaders]
        time.sleep(REST)
        at_rest = sum(process_group(leader)[0] for leader in leaders) - sum(cpu for cpu, _ in idle)
        began = time.time()
        airflow.rest.trigger("running", RUN_ID)
        wait_for("all deferred", lambda: all_deferred(airflow, runs), limit)
        deferred = time.time() - began
        shares = wait_for("their triggers", lambda: shares_of(airflow), limit)
        time.sleep(10)
        first, moment = sum(process_group(leader)[0] for leader in leaders), time.time()
        time.sleep(STEADY)
        told = [process_group(leader) for leader in leaders]
        assert all_deferred(airflow, runs), "runs have ended while it was measured; give --seconds more"
        spent, seconds = sum(cpu for cpu, _ in told) - first, time.time() - moment
        wait_for("the end", lambda: airflow.dag_state("running") in ("success", "failed"), limit)
        took, right, own, had = time.time() - began, count(airflow, "success"), own_outputs(airflow), runs_of(url, key)
    waiting = spent - at_rest * seconds / REST
    memory = sum(mib for _, mib in told) - sum(mib for _, mib in idle)
    return (
        f"| {runs:,} | {triggerers} ({', '.join(str(share) for share in shares)}) | {had:,} | {right:,} "
        f"| {own:,} | {deferred:.0f} s | {took:.0f} s | {100 * spent / seconds:.1f} % "
        f"| {1000 * waiting / (runs * seconds / 60):.1f} ms | {memory * 1024 / runs:.0f} KiB |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000, help="mapped tasks (%(default)s)")
    parser.add_argument("--triggerers", type=int, default=2, help="triggerers (%(default)s)")
    parser.add_argument("--seconds", type=float, default=900, help="that each run takes (%(default)g)")
    parser.add_argument("--parallelism", type=int, default=6, help="tasks on workers at once (%(default)s)")
    parser.add_argument("--limit", type=float, default=7200, help="seconds for each step (%(default)g)")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.seconds)
        return
    command = [sys.executable, "-m", "benchmarks.mapped", "--serve", f"--seconds={options.seconds}"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url, key = server.stdout.readline().split()
        print(
            "| tasks | triggerers (runs of each) | runs on the server | succeeded | with their own outputs "
            "| all deferred after | all ended after | CPU of a core, all triggerers | CPU per run-minute, beyond rest "
            "| memory per run |\n|---|---|---|---|---|---|---|---|---|---|",
            flush=True,
        )
        print(measure(url, key, options.runs, options.triggerers, options.parallelism, options.limit), flush=True)
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
