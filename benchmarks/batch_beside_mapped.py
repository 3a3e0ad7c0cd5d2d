"""
The same rows as one batch and as mapped tasks, with Airflow's own processes and PostgreSQL.

    python -m benchmarks.batch_beside_mapped --rows 1000 --active 16

Counts the runs on the local server, the CPU of all of Airflow's processes, and the rows in Airflow's database.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg2

from benchmarks.batch import rows, runs_of
from benchmarks.deferring import DAGS, RUN_ID, SETTINGS
from benchmarks.servers import serving
from tests.integration.airflow_processes import Airflow, processes_of, wait_for
from tests.integration.postgres import Postgres

SETTLE = 20.0


@dataclass(frozen=True)
class Cost:
    """What rows took: seconds of CPU of Airflow's processes, rows in its database, seconds from start to end."""

    cpu: float
    stored: int
    seconds: float


def cpu_of(sessions: set[int]) -> float:
    """Return CPU seconds of processes, and of those that they have started and that have ended."""
    ticks = 0
    for path in processes_of(sessions):
        with suppress(FileNotFoundError, ProcessLookupError):
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def stored(url: str) -> int:
    """Return the rows of all tables of a database."""
    with closing(psycopg2.connect(url.replace("postgresql+psycopg2", "postgresql"))) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        names = [name for (name,) in cursor.fetchall()]
        total = 0
        for name in names:
            cursor.execute(f'SELECT count(*) FROM "{name}"')
            total += cursor.fetchone()[0]
        return total


def measure(dag_id: str, options: argparse.Namespace) -> tuple[str, Cost]:
    """Run one of the DAGs with an Airflow and a server of its own; return its row of the table and what it took."""
    shape = [f"--seconds={options.seconds}", f"--slots={options.slots}"]
    with (
        serving("benchmarks.batch", "--serve", *shape) as [url, key],
        tempfile.TemporaryDirectory(prefix="dify-provider-bench-") as folder,
        Postgres() as postgres,
    ):
        home = Path(folder)
        source = home / "rows.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in rows(options.rows)))
        os.environ |= {
            "BENCH_RUNS": str(options.rows),
            "BENCH_ACTIVE": str(options.active),
            "BENCH_ROWS_FILE": str(source),
            "BENCH_RESULTS": str(home / "results"),
            "PYTHONPATH": os.getcwd(),
        }
        dify = {"conn_type": "dify", "host": url, "password": key}
        settings = {**SETTINGS, "CORE__MAX_MAP_LENGTH": "100000"}
        with Airflow(home, dify, DAGS, database=postgres.url, parallelism=options.active, settings=settings) as airflow:
            wait_for("the API", airflow.rest.answers, options.limit)
            query = "SELECT 1 FROM serialized_dag WHERE dag_id = ?"
            wait_for("the DAG", lambda: airflow.rows(query, dag_id), options.limit)
            time.sleep(SETTLE)
            cpu, before = cpu_of(airflow.sessions), stored(postgres.url)
            began = time.monotonic()
            airflow.rest.trigger(dag_id, RUN_ID)
            wait_for("the end", lambda: airflow.dag_state(dag_id) in ("success", "failed"), options.limit)
            cost = Cost(cpu_of(airflow.sessions) - cpu, stored(postgres.url) - before, time.monotonic() - began)
            state, had = airflow.dag_state(dag_id), runs_of(url, key)
    line = f"| {dag_id} | {state} | {had:,} | {cost.cpu:.0f} s | {cost.stored:,} | {cost.seconds:.0f} s |"
    return line, cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000, help="of each (%(default)s)")
    parser.add_argument("--seconds", type=float, default=0.5, help="that each run takes (%(default)g)")
    parser.add_argument("--slots", type=int, default=12, help="runs that the server executes at a time (%(default)s)")
    parser.add_argument("--active", type=int, default=16, help="runs at a time (%(default)s)")
    parser.add_argument("--limit", type=float, default=7200, help="seconds for each step (%(default)g)")
    options = parser.parse_args()
    print(
        f"{options.rows:,} rows\n\n| as | ended | runs on the server | CPU of Airflow | rows in Airflow's database "
        "| wall time |\n|---|---|---|---|---|---|",
        flush=True,
    )
    costs = []
    for dag_id in ("batched", "mapped"):
        line, cost = measure(dag_id, options)
        print(line, flush=True)
        costs.append(cost)
    batched, mapped = costs
    print(
        f"| batched, of mapped | | | 1/{mapped.cpu / batched.cpu:.0f} | 1/{mapped.stored / batched.stored:.0f} "
        f"| 1/{mapped.seconds / batched.seconds:.1f} |"
    )


if __name__ == "__main__":
    main()
