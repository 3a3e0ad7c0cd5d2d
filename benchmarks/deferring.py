"""Mapped tasks that wait in real triggerers, and what the triggerers take meanwhile."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.integration.airflow_processes import Airflow, processes_of, wait_for
from tests.integration.airflow_tables import TASK_INSTANCE
from tests.integration.postgres import Postgres

DAGS = Path(__file__).parent / "dags"
RUN_ID = "bench"
SETTLE, REST, STEADY = 10.0, 20.0, 30.0
SETTINGS = {
    "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
    "CORE__MAX_ACTIVE_TASKS_PER_DAG": "100000",
    "CORE__MAX_MAP_LENGTH": "10000",
    "LOGGING__LOGGING_LEVEL": "INFO",
    # Else the slots of workers stand empty until the scheduler's next round, which no provider can change.
    "SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
    "TRIGGERER__CAPACITY": "1000",
}
COST = "CPU of a core, all triggerers | CPU per run-minute, beyond rest | memory per run"


@dataclass(frozen=True)
class Taken:
    """What triggerers have taken up to a moment: seconds of CPU, and resident MiB."""

    moment: float
    cpu: float
    memory: float

    @classmethod
    def by(cls, leaders: list[int]) -> Taken:
        told = [session(leader) for leader in leaders]
        return cls(time.time(), sum(cpu for cpu, _ in told), sum(memory for _, memory in told))

    def share_since(self, before: Taken) -> float:
        """Return the share of a core."""
        return (self.cpu - before.cpu) / (self.moment - before.moment)


class Deferred:
    """
    Tasks of one DAG run, all of which are deferred.

    :param rest: What the triggerers had taken before and after they had nothing to do for a while.
    :param began: When the DAG run was triggered.
    """

    def __init__(self, airflow: Airflow, leaders: list[int], rest: tuple[Taken, Taken], began: float, runs: int):
        self.airflow, self.began, self.after = airflow, began, time.time() - began
        self._leaders, self._rest, self._runs = leaders, rest, runs
        self.minutes = 0.0

    def cost(self) -> str:
        """Measure for a while, and return the columns of ``COST``."""
        before = Taken.by(self._leaders)
        time.sleep(STEADY)
        after = Taken.by(self._leaders)
        assert all_deferred(self.airflow, self._runs), "runs have ended while it was measured"
        self.minutes = self._runs * (after.moment - before.moment) / 60
        share = after.share_since(before)
        beyond_rest = (share - self._rest[1].share_since(self._rest[0])) * 60 / self._runs
        memory = (after.memory - self._rest[0].memory) / self._runs
        return f"{100 * share:.1f} % | {1000 * beyond_rest:.1f} ms | {1024 * memory:.0f} KiB"


@contextmanager
def deferred(
    dag_id: str, dify: dict[str, Any], *, runs: int, triggerers: int, parallelism: int, limit: float
) -> Iterator[Deferred]:
    """Run a DAG with PostgreSQL until all its tasks are deferred; what is left of it ends with the block."""
    os.environ |= {"BENCH_RUNS": str(runs), "PYTHONPATH": os.getcwd()}
    with (
        tempfile.TemporaryDirectory(prefix="dify-provider-bench-") as home,
        Postgres() as postgres,
        Airflow(Path(home), dify, DAGS, database=postgres.url, parallelism=parallelism, settings=SETTINGS) as airflow,
    ):
        names = ["triggerer", *(f"triggerer.{number}" for number in range(2, triggerers + 1))]
        for name in names[1:]:
            airflow.start(name)
        wait_for("the API", airflow.rest.answers, limit)
        wait_for("the DAG", lambda: airflow.rows("SELECT 1 FROM serialized_dag WHERE dag_id = ?", dag_id), limit)
        leaders = [airflow._processes[name].pid for name in names]
        time.sleep(SETTLE)
        before = Taken.by(leaders)
        time.sleep(REST)
        rest = before, Taken.by(leaders)
        began = time.time()
        airflow.rest.trigger(dag_id, RUN_ID)
        wait_for("all deferred", lambda: all_deferred(airflow, runs), limit)
        tasks = Deferred(airflow, leaders, rest, began, runs)
        time.sleep(SETTLE)
        yield tasks


def session(leader: int) -> tuple[float, float]:
    """Return CPU seconds and resident MiB of a process and all that it has started."""
    ticks, pages = 0, 0
    for path in processes_of({leader}):
        with suppress(FileNotFoundError, ProcessLookupError):
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
            pages += int((path / "statm").read_text().split()[1])
    return ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def count(airflow: Airflow, state: str) -> int:
    airflow.check()
    rows = airflow.rows(f"SELECT count(*) FROM {TASK_INSTANCE} WHERE run_id = ? AND state = ?", RUN_ID, state)
    return int(rows[0][0])


def all_deferred(airflow: Airflow, runs: int) -> bool:
    assert not (failed := count(airflow, "failed")), f"{failed} tasks have failed:\n{airflow.logs()}"
    return count(airflow, "deferred") == runs


def ended(airflow: Airflow, dag_id: str, limit: float) -> int:
    """Wait for the end of the DAG run, and return how many of its tasks have succeeded."""
    wait_for("the end", lambda: airflow.dag_state(dag_id) in ("success", "failed"), limit)
    return count(airflow, "success")
