"""
A soak: mapped runs while workers, triggerer, scheduler and Dify are killed at random, with PostgreSQL.

    python -m tests.faults.soak --runs 200 --seconds 300 --seed 7
    python -m tests.faults.soak --runs 100 --seconds 180 --seed 7 --upgrades

With ``--upgrades`` nothing is killed but Dify, as its upgrades do: its API is away behind a gateway or altogether, for
20 s each, and its workers are shut down, which stops their runs. No task fails then, and nothing is to be cleared. Its
tasks have ``on_orphaned_intent="resubmit"``: an API that goes away between the check of the server and the submission
leaves the submission in doubt, which no check can rule out.

It ends with status 0 where every task has succeeded, each with one run that succeeded, no run was started while an
earlier one of its task was alive, and none is left.

A worker that is killed between the note of its submission and the last byte of it leaves a submission in doubt, which
no retry sends again. Once a retry has looked for the run in vain and failed, the soak does as its error says: it clears
the task. It does so only where the server's books show that no run was lost thereby, and prints how many these were.
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

from airflow_provider_dify.testing.server import DifyServer
from tests.faults.counting import faults_of
from tests.faults.test_real_faults import DAGS, LIMIT, SETTINGS
from tests.integration.airflow_processes import Airflow, wait_for
from tests.integration.airflow_tables import TASK_INSTANCE, TASK_STATE_STORE
from tests.integration.postgres import Postgres

# Not a gateway's 502: it leaves the fate of a submission unknown, which no retry sends again and nothing here clears.
OUTAGES = ("refuse", "500")
AWAY_SECONDS = 20.0
RUN_ID = "soak"


class FaultInjector:
    """Injects one fault after the other, and says which."""

    def __init__(self, airflow: Airflow, dify: DifyServer, rng: random.Random, *, upgrades: bool) -> None:
        self._upgrades = upgrades
        self._airflow = airflow
        self._dify = dify
        self._random = rng
        self.faults: dict[str, int] = defaultdict(int)

    def inject(self) -> None:
        kinds = [self.kill_worker] * 4 + [self.kill_triggerer, self.kill_scheduler, self.outage, self.lose_runs]
        if self._upgrades:
            kinds = [self.restart_behind_gateway, self.restart_alone, self.shut_workers_down, self.shut_workers_down]
        kind = self._random.choice(kinds)
        if kind():
            self.faults[kind.__name__] += 1
            print(f"  {kind.__name__}", flush=True)

    def kill_worker(self) -> bool:
        return self._airflow.kill_a_task(self._random)

    def kill_triggerer(self) -> bool:
        return self._restart("triggerer")

    def kill_scheduler(self) -> bool:
        return self._restart("scheduler")

    def _restart(self, name: str) -> bool:
        self._airflow.kill(name)
        self._airflow.start(name)
        return True

    def outage(self) -> bool:
        self._dify.down(self._random.choice(OUTAGES))
        time.sleep(self._random.uniform(1, 8))
        self._dify.up()
        return True

    def restart_behind_gateway(self) -> bool:
        """Let a gateway say 502 while Dify's API restarts."""
        return self._be_away("502-html")

    def restart_alone(self) -> bool:
        return self._be_away("refuse")

    def _be_away(self, kind: str) -> bool:
        self._dify.down(kind)
        time.sleep(AWAY_SECONDS)
        self._dify.up()
        return True

    def shut_workers_down(self) -> bool:
        """Let Dify's workers end as in an upgrade: what runs is stopped, and what comes while they end."""
        self._dify.shut_down_workers()
        time.sleep(self._random.uniform(0.5, 3))
        self._dify.start_workers()
        return True

    def lose_runs(self) -> bool:
        """Restart Dify with its workers: what runs then is left ``running`` for ever."""
        self._dify.restart()
        return True


def soak(runs: int, seconds: float, seed: int, home: Path, *, upgrades: bool) -> list[str]:
    """Run the soak and return what is wrong at its end."""
    kind = "upgrades of Dify" if upgrades else "faults"
    print(f"{runs} runs, {seconds:g} s of {kind}, seed {seed}", flush=True)
    os.environ["SOAK_RUNS"] = str(runs)
    if upgrades:
        # With no less time than by default: no outage is longer than that.
        os.environ |= {"SOAK_ORPHANS": "resubmit", "SOAK_TIMEOUT": "300"}
    version = "1.16.1" if upgrades else "1.14.2"
    with DifyServer(emulate=version, connections=40, worker_slots=16) as dify, Postgres() as postgres:
        connection: dict[str, Any] = {
            "conn_type": "dify",
            "host": dify.base_url,
            "password": dify.api_key("slow"),
            "extra": {"connect_timeout": 5, "read_timeout": 10},
        }
        # Where nothing of Airflow's is killed, a worker that a busy machine keeps waiting must not count as dead.
        settings = {"CORE__DAGS_ARE_PAUSED_AT_CREATION": "False"} if upgrades else SETTINGS
        with Airflow(
            home, connection, DAGS, database=postgres.url, parallelism=8, web=True, settings=settings
        ) as airflow:
            wait_for("the API", airflow.rest.answers, LIMIT)
            query = "SELECT 1 FROM serialized_dag WHERE dag_id IN ('soak_worker', 'soak_deferred')"
            wait_for("the DAGs", lambda: len(airflow.rows(query)) == 2, LIMIT)
            for mode in ("worker", "deferred"):
                airflow.rest.trigger(f"soak_{mode}", RUN_ID)
            wait_for("the first runs", lambda: dify.runs, LIMIT)
            injector = FaultInjector(airflow, dify, random.Random(seed), upgrades=upgrades)
            end = time.monotonic() + seconds
            while time.monotonic() < end and not has_ended(airflow):
                injector.inject()
                time.sleep(injector._random.uniform(2, 10))
            print("  no more faults", flush=True)
            cleared: list[str] = []

            def is_over() -> bool:
                if not upgrades:
                    cleared.extend(clear_doubtful(airflow, dify))
                return has_ended(airflow)

            with suppress(AssertionError):
                wait_for("the end", is_over, LIMIT + 3 * runs)
            states = airflow.rows(f"SELECT map_index, state, dag_id FROM {TASK_INSTANCE} WHERE run_id = ?", RUN_ID)
            wrong = [f"{dag} {index} is {state}" for index, state, dag in states if state != "success"]
            wrong += [last_log(home, dag, index) for index, state, dag in states if state != "success"]
            tries = sum(number for (number,) in airflow.rows(f"SELECT try_number FROM {TASK_INSTANCE}"))
            if upgrades:
                print("\n".join(failures(home)) or "no try has failed", flush=True)
            if len(states) != runs:
                wrong.append(f"{len(states)} task instances instead of {runs}")
        wrong += faults_of(dify, runs)
        ends = Counter(run.status for run in dify.runs)
        print(f"{runs} tasks, {tries} tries, {len(dify.runs)} Dify runs {dict(ends)}; faults {dict(injector.faults)}")
        print(f"{len(cleared)} submissions in doubt that never reached Dify, whose tasks were cleared: {cleared}")
    return wrong


def clear_doubtful(airflow: Airflow, dify: DifyServer) -> list[str]:
    """Clear the tasks of which nobody knows whether they have submitted, once a retry has failed for that.

    :return: Their markers. Airflow 2, which has its notes elsewhere, cannot clear one of several mapped tasks.
    """
    if not airflow.rows("SELECT 1 FROM information_schema.tables WHERE table_name = 'task_state_store'"):
        return []
    query = f"""
        SELECT s.value, dag_id, map_index, ti.try_number FROM {TASK_STATE_STORE}
        JOIN {TASK_INSTANCE} USING (dag_id, run_id, task_id, map_index) WHERE ti.state IN ('up_for_retry', 'failed')
    """
    cleared = []
    for value, dag_id, map_index, number in airflow.rows(query):
        note = json.loads(value)
        sent = any(run.user == note["marker"] for run in dify.runs)
        if note["workflow_run_id"] is None and note["number"] < number and not sent:
            airflow.rest.clear(dag_id, RUN_ID, "run", map_index)
            cleared.append(note["marker"])
    return cleared


def last_log(home: Path, dag_id: str, map_index: int) -> str:
    """Return the end of a task's last log."""
    logs = sorted(
        home.glob(f"logs/dag_id={dag_id}/*/*/map_index={map_index}/*.log"), key=lambda log: log.stat().st_mtime
    )
    return logs[-1].read_text(errors="replace")[-2000:] if logs else "no log"


def failures(home: Path) -> list[str]:
    """Return what ended each try that failed, in a line each."""
    found = []
    for log in sorted(home.glob("logs/dag_id=soak_*/*/*/*/*.log")):
        errors = [line for line in log.read_text(errors="replace").splitlines() if "exc_value" in line]
        if errors:
            value = errors[-1].partition('"exc_value":')[2][:400]
            found.append(f"  {log.parent.parent.parent.parent.name} {log.parent.name} {log.stem}: {value}")
    return found


def has_ended(airflow: Airflow) -> bool:
    ended = airflow.rows("SELECT 1 FROM dag_run WHERE run_id = ? AND state IN ('success', 'failed')", RUN_ID)
    return len(ended) == 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="mapped tasks, half of them deferrable (%(default)s)")
    parser.add_argument("--seconds", type=float, default=300, help="for how long faults are injected (%(default)g)")
    parser.add_argument("--seed", type=int, default=None, help="of the faults; printed (random)")
    parser.add_argument("--upgrades", action="store_true", help="upgrade Dify, and kill nothing of Airflow's")
    options = parser.parse_args()
    seed = random.randrange(10**6) if options.seed is None else options.seed
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dify-provider-soak-") as home:
        wrong = soak(options.runs, options.seconds, seed, Path(home), upgrades=options.upgrades)
        if wrong:
            for log in sorted(Path(home).glob("*.log")):
                print(log.read_text(errors="replace")[-3000:])
    print("\n".join(wrong) or f"every task succeeded, each with one run that did ({time.monotonic() - began:.0f} s)")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
