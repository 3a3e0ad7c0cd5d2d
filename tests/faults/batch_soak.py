"""
Batches while workers, triggerers and Dify are killed at random and their folder fails, with PostgreSQL.

    python -m tests.faults.batch_soak --rows 1000 --seconds 240 --seed 7

One batch runs on a worker, one in the triggerer, over the same rows. It ends with status 0 where both tasks have
succeeded, every row has one line in the results of its batch, no row has two runs that succeeded, none was submitted
while an earlier run of it was alive, and a row that is named as unknown has no run.

Each kind of fault comes once before any comes again; the processes of Airflow that are killed are those that the
batches run in.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import airflow

from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.runs import RunRecord
from airflow_provider_dify.testing.server import DifyServer
from airflow_provider_dify.testing.workflows import Input, Step, Workflow
from tests.faults.counting import overlapping, succeeded
from tests.faults.injecting import Injector
from tests.faults.soak import RUN_ID
from tests.faults.test_real_faults import LIMIT, SETTINGS
from tests.integration.airflow_processes import Airflow, wait_for
from tests.integration.airflow_tables import TASK_INSTANCE
from tests.integration.postgres import Postgres

DAGS = Path(__file__).parent / "batch_dags"
BATCHES = ("batch_worker", "batch_deferred")
TRIGGERERS = ("triggerer", "triggerer.2")
SLOTS = 16
AWAY = (2.0, 8.0)
SHORT = Workflow("short", inputs=[Input("text")], steps=[Step("work", seconds=2.0)], outputs={"text": "{text}"})


class FaultInjector(Injector):
    """Kills what the batches run in, and lets Dify and their folder fail."""

    def __init__(self, processes: Airflow, dify: DifyServer, results: Path, choices: random.Random) -> None:
        self._airflow, self._dify, self._results = processes, dify, results
        kinds = (
            self.kill_worker,
            self.kill_worker,
            self.kill_triggerer,
            self.kill_triggerer,
            self.shut_down_dify,
            self.be_away_behind_gateway,
            self.be_away,
            self.lose_answers,
            self.limit_rate,
            self.lose_folder,
        )
        super().__init__(choices, kinds)

    def kill_worker(self) -> bool:
        return self._airflow.kill_a_task(self._choices)

    def kill_triggerer(self) -> bool:
        name = self._choices.choice(TRIGGERERS)
        self._airflow.kill(name)
        self._airflow.start(name)
        return True

    def shut_down_dify(self) -> bool:
        """Let Dify's workers end as in an upgrade, which stops what they run."""
        self._dify.shut_down_workers()
        time.sleep(self._choices.uniform(0.5, 3.0))
        self._dify.start_workers()
        return True

    def be_away_behind_gateway(self) -> bool:
        return self._away("502-html")

    def be_away(self) -> bool:
        return self._away("refuse")

    def _away(self, mode: str) -> bool:
        self._dify.down(mode)
        time.sleep(self._choices.uniform(*AWAY))
        self._dify.up()
        return True

    def lose_answers(self) -> bool:
        self._dify.inject(Fault("submit", "accept_then_reset", times=3))
        self._dify.inject(Fault("submit", "stall", seconds=10, times=3))
        self._dify.inject(Fault("submit", "cut", after_events=0, times=3))
        return True

    def limit_rate(self) -> bool:
        self._dify.inject(Fault("submit", "too_many_requests", times=10))
        self._dify.inject(Fault("submit", "too_many_requests", status=429, times=5, headers={"Retry-After": "1"}))
        return True

    def lose_folder(self) -> bool:
        """Put something else where the results are for a while, so that nothing is read or written there."""
        aside = self._results.with_suffix(".aside")
        self._results.rename(aside)
        self._results.write_text("")
        time.sleep(self._choices.uniform(1.0, 4.0))
        self._results.unlink()
        aside.rename(self._results)
        return True


def runs_by_row(dify: DifyServer, dag_id: str) -> dict[str, list[RunRecord]]:
    """Return the runs of a batch on the server, by the text of their row."""
    by_row: dict[str, list[RunRecord]] = defaultdict(list)
    for run in dify.runs:
        if f"/{dag_id}/" in run.user:
            by_row[str(run.inputs["text"])].append(run)
    return by_row


def lines_of(results: Path, dag_id: str) -> list[dict[str, Any]]:
    """Return the lines of the results of a batch."""
    parts = sorted((results / dag_id).rglob("part-*.jsonl"))
    return [json.loads(line) for part in parts for line in part.read_text().splitlines()]


def faults_of(dify: DifyServer, results: Path, dag_id: str, rows: int) -> tuple[list[str], Counter[str]]:
    """Return what is wrong with a batch, and how many of its rows have which status."""
    wrong = []
    lines = lines_of(results, dag_id)
    seen = Counter(line["key"] for line in lines)
    wrong += [f"{dag_id}: row-{number} has {seen[f'row-{number}']} lines" for number in range(rows)
              if seen[f"row-{number}"] != 1]  # fmt: skip
    by_row = runs_by_row(dify, dag_id)
    for line in lines:
        runs = by_row.get(line["key"].replace("row-", "text "), [])
        reported = f"{dag_id}: {line['key']} is {line['status']}, its runs are {[run.status for run in runs]}"
        is_right = {
            "succeeded": len(succeeded(runs)) == 1 and line["workflow_run_id"] == succeeded(runs)[0].id,
            "unknown": not runs,
        }.get(line["status"], False)
        if not is_right or len(succeeded(runs)) > 1 or overlapping(runs):
            wrong.append(reported)
        if line["status"] == "succeeded" and line["outputs"] != {"text": line["key"].replace("row-", "text ")}:
            wrong.append(f"{dag_id}: {line['key']} has the outputs {line['outputs']}")
    return wrong, Counter(line["status"] for line in lines)


def soak(rows: int, seconds: float, seed: int, home: Path) -> list[str]:
    """Run the batches, print a table, and return what is wrong at the end."""
    print(f"Airflow {airflow.__version__}, two batches of {rows:,} rows, {seconds:g} s, seed {seed}", flush=True)
    results, source = home / "results", home / "rows.jsonl"
    results.mkdir()
    source.write_text("".join(f'{{"id": "row-{number}", "text": "text {number}"}}\n' for number in range(rows)))
    os.environ |= {"BATCH_ROWS_FILE": str(source), "BATCH_RESULTS": str(results)}
    with DifyServer([SHORT], emulate="1.16.1", connections=60, worker_slots=SLOTS) as dify, Postgres() as postgres:
        connection = {"conn_type": "dify", "host": dify.base_url, "password": dify.api_key("short")}
        with Airflow(
            home, connection, DAGS, database=postgres.url, parallelism=8, web=True, settings=SETTINGS
        ) as processes:
            processes.start(TRIGGERERS[1])
            wait_for("the API", processes.rest.answers, LIMIT)
            query = "SELECT dag_id FROM serialized_dag"
            wait_for("the DAGs", lambda: {dag_id for (dag_id,) in processes.rows(query)} >= set(BATCHES), LIMIT)
            for dag_id in BATCHES:
                processes.rest.trigger(dag_id, RUN_ID)
            wait_for("runs of both", lambda: all(runs_by_row(dify, dag_id) for dag_id in BATCHES), LIMIT)
            began = time.monotonic()
            injector = FaultInjector(processes, dify, results, random.Random(seed))

            def is_over() -> bool:
                ended = processes.rows("SELECT 1 FROM dag_run WHERE state IN ('success', 'failed')")
                return len(ended) == len(BATCHES)

            while not is_over() and (time.monotonic() < began + seconds or not injector.did_all()):
                injector.inject()
                injector.pause()
            dify.clear_faults()
            print(f"  no more faults after {time.monotonic() - began:.0f} s", flush=True)
            with suppress(AssertionError):
                wait_for("the end", is_over, LIMIT + rows)
            took = time.monotonic() - began
            states = dict(processes.rows("SELECT dag_id, state FROM dag_run"))
            tries = dict(processes.rows(f"SELECT dag_id, try_number FROM {TASK_INSTANCE}"))
        wrong = [f"{dag_id} is {states.get(dag_id)}" for dag_id in BATCHES if states.get(dag_id) != "success"]
        wrong += [f"{name} did not happen" for name, count in injector.counts.items() if not count]
        for dag_id in BATCHES:
            found, statuses = faults_of(dify, results, dag_id, rows)
            by_row = runs_by_row(dify, dag_id)
            twice = sum(len(succeeded(runs)) > 1 for runs in by_row.values())
            ends = Counter(run.status for runs in by_row.values() for run in runs)
            print(
                f"| {dag_id} | {states.get(dag_id)} | {tries.get(dag_id)} tries | rows {dict(statuses)} "
                f"| runs on Dify {dict(ends)} | {twice} duplicates |",
                flush=True,
            )
            wrong += found
            for line in lines_of(results, dag_id):
                if line["status"] == "unknown":
                    print(f"|   {line['key']} | {line['error']} |", flush=True)
    print(f"| faults | {injector.counts.total()} {dict(injector.counts)} |\n| seconds | {took:.0f} |", flush=True)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000, help="of each of the two batches (%(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=240, help="how long faults are injected at least (%(default)g)"
    )
    parser.add_argument("--seed", type=int, default=None, help="of the faults; printed (random)")
    options = parser.parse_args()
    seed = random.randrange(10**6) if options.seed is None else options.seed
    with tempfile.TemporaryDirectory(prefix="dify-provider-batches-") as home:
        wrong = soak(options.rows, options.seconds, seed, Path(home))
        if wrong:
            for log in sorted(Path(home).glob("*.log")):
                print(f"{log.name}:\n{log.read_text(errors='replace')[-3000:]}")
    print("\n".join(wrong[:40]) or "both batches succeeded, each row with one result and no run too many")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
