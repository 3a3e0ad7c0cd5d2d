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
import time
from typing import Any

from benchmarks.deferring import COST, deferred, ended
from benchmarks.servers import serving
from benchmarks.waiting import NOTHING, PROVIDERS, connections, control


def measure(provider: str, port: int, *, to_the_end: bool, limit: float, **how_many: Any) -> str:
    os.environ |= connections(port) | {"BENCH_PROVIDER": provider}
    runs = how_many["runs"]
    control(port, "runs", [time.time() + 86400] * runs)
    dify = {"conn_type": "dify", "host": f"http://127.0.0.1:{port}", "password": "app-benchmark"}
    with deferred("waiting", dify, limit=limit, **how_many) as tasks:
        asked = control(port, "stats")["requests"]
        cost = tasks.cost()
        asked = control(port, "stats")["requests"] - asked
        right = "not waited for"
        if to_the_end:
            control(port, "runs", [time.time()] * runs)
            right = f"{ended(tasks.airflow, 'waiting', limit):,}"
    return f"| {provider} | {runs:,} | {how_many['triggerers']} | {right} | {cost} | {asked / tasks.minutes:.2f} |"


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
    print(f"| trigger of | tasks | triggerers | ended right | {COST} | requests per run-minute |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    with serving("benchmarks.stub") as [port]:
        for triggerers in options.triggerers:
            for provider in options.providers:
                row = measure(
                    provider,
                    int(port),
                    to_the_end=not options.only_wait,
                    limit=options.limit,
                    runs=options.runs,
                    triggerers=triggerers,
                    parallelism=options.parallelism,
                )
                print(row, flush=True)


if __name__ == "__main__":
    main()
