"""
A thousand runs of the operator at once: mapped deferrable tasks with Airflow's own processes and PostgreSQL.

    python -m benchmarks.mapped --runs 1000 --triggerers 2

Against the local server, whose workflow gives its input back after some minutes. Counts the runs on the server, and
the tasks that returned the outputs of their own run; measures the triggerers while all tasks are deferred.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import requests

from benchmarks.deferring import COST, RUN_ID, deferred, ended
from benchmarks.servers import serving
from tests.integration.airflow_processes import Airflow, wait_for
from tests.integration.airflow_tables import XCOM


def runs_of(url: str, key: str) -> int:
    """Return how many runs the server has had."""
    answer = requests.get(f"{url}/v1/workflows/logs?limit=1", headers={"Authorization": f"Bearer {key}"}, timeout=60)
    return int(answer.json()["total"])


def own_outputs(airflow: Airflow) -> int:
    """Return how many tasks have returned the outputs of their own run."""
    query = f"SELECT map_index, value FROM {XCOM} WHERE run_id = ? AND key = 'return_value'"
    told = dict(airflow.rows(query, RUN_ID))
    values = {index: json.loads(value) if isinstance(value, str) else value for index, value in told.items()}
    return sum(value["number"] == index for index, value in values.items())


def shares_of(airflow: Airflow) -> list[int]:
    """Return how many triggers each triggerer runs, as soon as none is left without one."""
    rows = airflow.rows("SELECT triggerer_id, count(*) FROM trigger GROUP BY triggerer_id ORDER BY triggerer_id")
    return [] if None in dict(rows) else [number for _, number in rows]


def measure(url: str, key: str, *, limit: float, **how_many: Any) -> str:
    dify = {"conn_type": "dify", "host": url, "password": key}
    with deferred("running", dify, limit=limit, **how_many) as tasks:
        shares = wait_for("their triggers", lambda: shares_of(tasks.airflow), limit)
        cost = tasks.cost()
        right = ended(tasks.airflow, "running", limit)
        took, own, had = time.time() - tasks.began, own_outputs(tasks.airflow), runs_of(url, key)
    waits = ", ".join(str(share) for share in shares)
    return (
        f"| {how_many['runs']:,} | {how_many['triggerers']} ({waits}) | {had:,} | {right:,} | {own:,} "
        f"| {tasks.after:.0f} s | {took:.0f} s | {cost} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000, help="mapped tasks (%(default)s)")
    parser.add_argument("--triggerers", type=int, default=2, help="triggerers (%(default)s)")
    parser.add_argument("--seconds", type=float, default=900, help="that each run takes (%(default)g)")
    parser.add_argument("--parallelism", type=int, default=6, help="tasks on workers at once (%(default)s)")
    parser.add_argument("--limit", type=float, default=7200, help="seconds for each step (%(default)g)")
    options = parser.parse_args()
    print(
        "| tasks | triggerers (runs of each) | runs on the server | succeeded | with their own outputs "
        f"| all deferred after | all ended after | {COST} |\n|---|---|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    with serving("benchmarks.servers", f"--seconds={options.seconds}") as [url, key]:
        row = measure(
            *(url, key),
            limit=options.limit,
            runs=options.runs,
            triggerers=options.triggerers,
            parallelism=options.parallelism,
        )
        print(row, flush=True)


if __name__ == "__main__":
    main()
