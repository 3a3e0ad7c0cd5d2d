"""
What waiting costs a real triggerer: mapped deferred tasks with Airflow's own processes and PostgreSQL.

    python -m benchmarks.triggerer --runs 1000 --triggerers 1 2

The same DAG for each provider: its tasks defer at once to the provider's trigger and wait together for half a minute,
in which the triggerers are measured; then all runs end. Each task takes two processes of a worker, where time goes:
about a quarter of an hour for a thousand on two cores, and half of that with --only-wait.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.waiting import NOTHING, PROVIDERS, connections, control
from tests.integration.airflow_processes import Airflow, wait_for
from tests.integration.postgres import Postgres

DAGS = Path(__file__).parent / "dags"
RUN_ID = "bench"
REST, STEADY = 20.0, 30.0
SETTINGS = {
    "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
    "CORE__MAX_ACTIVE_TASKS_PER_DAG": "100000",
    "LOGGING__LOGGING_LEVEL": "INFO",
    "TRIGGERER__CAPACITY": "1000",
}


def process_group(leader: int) -> tuple[float, float]:
    """Return CPU seconds and resident MiB of a process and all that it has started."""
    ticks, pages = 0, 0
    for path in Path("/proc").iterdir():
        if not path.name.isdigit():
            continue
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) != leader:
                continue
            ticks += int(fields[11]) + int(fields[12])
            pages += int((path / "statm").read_text().split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def count(airflow: Airflow, state: str) -> int:
    airflow.check()
    rows = airflow.rows("SELECT count(*) FROM task_instance WHERE run_id = ? AND state = ?", RUN_ID, state)
    return int(rows[0][0])


def all_deferred(airflow: Airflow, runs: int) -> bool:
    assert not (failed := count(airflow, "failed")), f"{failed} tasks have failed:\n{airflow.logs()}"
    return count(airflow, "deferred") == runs


def measure(
    provider: str, runs: int, triggerers: int, parallelism: int, port: int, limit: float, *, to_the_end: bool
) -> str:
    os.environ |= connections(port) | {"BENCH_PROVIDER": provider, "BENCH_RUNS": str(runs), "PYTHONPATH": os.getcwd()}
    control(port, "runs", [time.time() + 86400] * runs)
    dify: dict[str, Any] = {"conn_type": "dify", "host": f"http://127.0.0.1:{port}", "password": "app-benchmark"}
    with tempfile.TemporaryDirectory(prefix="dify-provider-bench-") as home, Postgres() as postgres:
        settings = SETTINGS | {"CORE__MAX_MAP_LENGTH": "10000"}
        with Airflow(
            Path(home), dify, DAGS, database=postgres.url, parallelism=parallelism, settings=settings
        ) as airflow:
            names = ["triggerer", *(f"triggerer.{number}" for number in range(2, triggerers + 1))]
            for name in names[1:]:
                airflow.start(name)
            wait_for("the API", airflow.rest.answers, limit)
            wait_for("the DAG", lambda: airflow.rows("SELECT 1 FROM serialized_dag WHERE dag_id = ?", "waiting"), limit)
            leaders = [airflow._processes[name].pid for name in names]
            time.sleep(10)
            idle = sum(process_group(leader)[1] for leader in leaders)
            first, began = sum(process_group(leader)[0] for leader in leaders), time.time()
            time.sleep(REST)
            at_rest = (sum(process_group(leader)[0] for leader in leaders) - first) / (time.time() - began)
            airflow.rest.trigger("waiting", RUN_ID)
            wait_for("all deferred", lambda: all_deferred(airflow, runs), limit)
            time.sleep(10)
            first, began = sum(process_group(leader)[0] for leader in leaders), time.time()
            asked = control(port, "stats")["requests"]
            time.sleep(STEADY)
            told = [process_group(leader) for leader in leaders]
            spent, seconds = sum(cpu for cpu, _ in told) - first, time.time() - began
            asked = control(port, "stats")["requests"] - asked
            right = "not waited for"
            if to_the_end:
                control(port, "runs", [time.time()] * runs)
                wait_for("the end", lambda: count(airflow, "deferred") == 0, limit)
                wait_for("the tasks' end", lambda: airflow.dag_state("waiting") in ("success", "failed"), limit)
                right = f"{count(airflow, 'success'):,}"
    minutes = runs * seconds / 60
    waiting = spent - at_rest * seconds
    return (
        f"| {provider} | {runs:,} | {triggerers} | {right} | {100 * spent / seconds:.1f} % "
        f"| {1000 * waiting / minutes:.1f} ms | {(sum(mib for _, mib in told) - idle) * 1024 / runs:.0f} KiB "
        f"| {asked / minutes:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000, help="mapped tasks (%(default)s)")
    parser.add_argument("--triggerers", type=int, nargs="+", default=[1, 2], help="triggerers (%(default)s)")
    parser.add_argument("--parallelism", type=int, default=6, help="tasks on workers at once (%(default)s)")
    parser.add_argument("--limit", type=float, default=7200, help="seconds for each step (%(default)g)")
    choices = [*PROVIDERS, NOTHING]
    parser.add_argument("--providers", nargs="+", default=list(PROVIDERS), choices=choices, help="of %(choices)s")
    parser.add_argument("--only-wait", action="store_true", help="measure while they wait, and do not see them end")
    options = parser.parse_args()
    if NOTHING in options.providers and not options.only_wait:
        parser.error(f"{NOTHING} never ends: it goes with --only-wait")
    print(
        "| trigger of | tasks | triggerers | ended right | CPU of a core, all triggerers "
        "| CPU per run-minute, beyond rest | memory per run | requests per run-minute |"
    )
    print("|---|---|---|---|---|---|---|---|", flush=True)
    stub = subprocess.Popen([sys.executable, "-m", "benchmarks.stub"], stdout=subprocess.PIPE, text=True)
    try:
        assert stub.stdout is not None
        port = int(stub.stdout.readline())
        for triggerers in options.triggerers:
            for provider in options.providers:
                row = measure(
                    *(provider, options.runs, triggerers, options.parallelism, port, options.limit),
                    to_the_end=not options.only_wait,
                )
                print(row, flush=True)
    finally:
        stub.terminate()
        stub.wait()


if __name__ == "__main__":
    main()
