"""
Mapped deferrable tasks with CeleryExecutor, while its processes and its broker are killed at random.

    python -m tests.faults.celery --tasks 200 --seconds 240 --seed 7

Redis, PostgreSQL, an API server, two schedulers, two triggerers, two Celery workers of four slots each, and the local
Dify server. It ends with status 0 where every task has succeeded with the outputs of its own run, and no task has two
runs that count. Each kind of fault must have happened, and the broker must have delivered messages twice.

Tasks whose submission is in doubt are cleared, as ``tests.faults.soak`` does it, and named at the end.

With ``--not-durable`` the operator submits again whatever became of a try before, and it ends with status 0 only where
duplicates were counted: faults that lead to none without durability would show nothing of it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import airflow

from airflow_provider_dify.testing.server import DifyServer
from airflow_provider_dify.testing.workflows import Input, Step, Workflow
from tests.faults.counting import faults_of, tally
from tests.faults.injecting import Injector
from tests.faults.soak import RUN_ID, clear_doubtful, last_log
from tests.integration.airflow_processes import Airflow, wait_for
from tests.integration.airflow_tables import TASK_INSTANCE, XCOM
from tests.integration.postgres import Postgres
from tests.integration.redis_broker import RedisBroker

DAGS = Path(__file__).parent / "celery_dags"
DAG_ID = "celery_runs"
LIMIT = 300.0
WORKERS = ("celery.1", "celery.2")
SCHEDULERS = ("scheduler", "scheduler.2")
TRIGGERERS = ("triggerer", "triggerer.2")
BROKER_AWAY = (1.0, 5.0)
NUMBERED = Workflow(
    "numbered",
    inputs=[Input("number", "number"), Input("seconds", "number")],
    steps=[Step("wait", seconds="{seconds}")],
    outputs={"number": "{number}"},
)
SETTINGS = {
    "CELERY__WORKER_CONCURRENCY": "4",
    # Shorter than a task's time on a worker, and looked at every 2 s instead of every 100 s: the broker delivers
    # messages a second time whose first delivery is still at work.
    "CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT": "5",
    "CELERY_BROKER_TRANSPORT_OPTIONS__UNACKED_RESTORE_INTERVAL": "2",
    "CELERY_BROKER_TRANSPORT_OPTIONS__UNACKED_RESTORE_THROTTLE": "1",
    "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
    "CORE__EXECUTOR": "CeleryExecutor",
    # 300 s by default: tasks of a killed worker would be retried only after the run of faults.
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "25",
    "SCHEDULER__SCHEDULER_ZOMBIE_TASK_THRESHOLD": "25",
    # 600 s by default: a message that was lost between scheduler and broker would hold its task up for that long.
    "SCHEDULER__TASK_QUEUED_TIMEOUT": "60",
    "SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "15",
    # 2 by default, after which the task fails for good. On a busy machine many wait that long for one of eight slots.
    "SCHEDULER__NUM_STUCK_IN_QUEUED_RETRIES": "1000",
    # 300 s by default: after that, a scheduler takes over the tasks of another that was killed.
    "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "15",
}


class FaultInjector(Injector):
    """Kills processes of Airflow, and restarts the broker."""

    def __init__(self, airflow: Airflow, broker: RedisBroker, choices: random.Random) -> None:
        self._airflow, self._broker = airflow, broker
        kinds = (
            self.kill_worker,
            self.kill_main_process_of_worker,
            self.kill_task,
            self.kill_triggerer,
            self.kill_scheduler,
            self.restart_broker,
        )
        super().__init__(choices, kinds)

    def kill_worker(self) -> bool:
        name = self._choices.choice(WORKERS)
        self._airflow.kill_session(name)
        self._airflow.start(name)
        return True

    def kill_main_process_of_worker(self) -> bool:
        """Leave the tasks of a worker alone: they go on while the broker delivers their messages to others."""
        name = self._choices.choice(WORKERS)
        self._airflow.kill_alone(name)
        self._airflow.start(name)
        return True

    def kill_task(self) -> bool:
        return self._airflow.kill_a_task(self._choices)

    def kill_triggerer(self) -> bool:
        return self._kill(self._choices.choice(TRIGGERERS))

    def kill_scheduler(self) -> bool:
        return self._kill(self._choices.choice(SCHEDULERS))

    def _kill(self, name: str) -> bool:
        self._airflow.kill(name)
        self._airflow.start(name)
        return True

    def restart_broker(self) -> bool:
        self._broker.kill()
        time.sleep(self._choices.uniform(*BROKER_AWAY))
        self._broker.start()
        return True


def prove(tasks: int, seconds: float, seed: int, home: Path, *, durable: bool) -> list[str]:
    """Run the tasks, print a table, and return what is wrong at the end."""
    kind = "" if durable else ", not durable"
    print(f"Airflow {airflow.__version__}, {tasks} tasks{kind}, {seconds:g} s of faults, seed {seed}", flush=True)
    os.environ |= {"CELERY_TASKS": str(tasks), "CELERY_DURABLE": str(durable)}
    with DifyServer([NUMBERED], worker_slots=None) as dify, Postgres() as postgres, RedisBroker() as broker:
        connection = {"conn_type": "dify", "host": dify.base_url, "password": dify.api_key("numbered")}
        settings = {
            **SETTINGS,
            "CELERY__BROKER_URL": broker.url,
            "CELERY__RESULT_BACKEND": f"db+{postgres.url}",
        }
        with Airflow(home, connection, DAGS, database=postgres.url, web=True, settings=settings) as processes:
            for name in (*SCHEDULERS[1:], *TRIGGERERS[1:], *WORKERS):
                processes.start(name)
            wait_for("the API", processes.rest.answers, LIMIT)
            query = "SELECT 1 FROM serialized_dag WHERE dag_id = ?"
            wait_for("the DAG", lambda: processes.rows(query, DAG_ID), LIMIT)
            processes.rest.trigger(DAG_ID, RUN_ID)
            wait_for("the first runs", lambda: dify.runs, LIMIT)
            began = time.monotonic()
            injector = FaultInjector(processes, broker, random.Random(seed))
            restarted: Counter[str] = Counter()
            cleared: list[str] = []

            def is_over() -> bool:
                # A worker that starts while the broker is away gives up; whatever runs it starts it again.
                for name in processes.ended():
                    restarted[name] += 1
                    processes.start(name)
                cleared.extend(clear_doubtful(processes, dify))
                return bool(processes.rows("SELECT 1 FROM dag_run WHERE state IN ('success', 'failed')"))

            while time.monotonic() < began + seconds and not is_over():
                injector.inject()
                injector.pause()
            print(f"  no more faults after {time.monotonic() - began:.0f} s", flush=True)
            with suppress(AssertionError):
                wait_for("the end", is_over, LIMIT + 3 * tasks)
            took = time.monotonic() - began
            states = dict(processes.rows(f"SELECT map_index, state FROM {TASK_INSTANCE} WHERE run_id = ?", RUN_ID))
            tries = sum(number for (number,) in processes.rows(f"SELECT try_number FROM {TASK_INSTANCE}"))
            own = own_outputs(processes, dify)
            twice = delivered_twice(home)
            # Nothing is left to save: their own end takes each up to 10 s.
            for name in (*WORKERS, *SCHEDULERS, *TRIGGERERS):
                processes.kill_session(name)
        counted = tally(dify, tasks)
        ends = Counter(run.status for run in dify.runs)
        wrong = faults_of(dify, tasks)
    failed = [index for index in range(tasks) if states.get(index) != "success"]
    wrong += [f"task {index} is {states.get(index)}:\n{last_log(home, DAG_ID, index)}" for index in failed]
    wrong += [f"task {index} has not the outputs of its run" for index in range(tasks) if index not in own]
    wrong += [f"{name} did not happen" for name, count in injector.counts.items() if not count]
    if not twice:
        wrong.append("no message was delivered twice")
    table = {
        "tasks, succeeded": f"{tasks}, {tasks - len(failed)}",
        "tries": tries,
        "runs on Dify": f"{sum(ends.values())} {dict(ends)}",
        "duplicates": counted.duplicates,
        "lost": counted.lost,
        "with the outputs of their own run": len(own),
        "to clear": f"{len(cleared)} {cleared or ''}",
        "faults": f"{injector.counts.total()} {dict(injector.counts)}",
        "messages delivered more than once": twice,
        "ended by themselves, started again": dict(restarted) or 0,
        "seconds": f"{took:.0f}",
    }
    print("\n".join(f"| {name} | {value} |" for name, value in table.items()), flush=True)
    if not durable:
        return [] if counted.duplicates else ["no duplicate was counted, though nothing prevented any"]
    return wrong


def own_outputs(processes: Airflow, dify: DifyServer) -> set[int]:
    """Return the tasks that returned the outputs of the run whose id they have, and which was started for them."""
    query = f"SELECT map_index, key, value FROM {XCOM} WHERE run_id = ?"
    found: dict[tuple[int, str], Any] = {}
    for index, key, value in processes.rows(query, RUN_ID):
        found[index, key] = decoded(value)
    runs = {run.id: run for run in dify.runs}
    return {
        index
        for (index, key), value in found.items()
        if key == "return_value"
        and (run := runs.get(found.get((index, "workflow_run_id"), ""))) is not None
        and run.inputs["number"] == index
        and value == run.outputs
    }


def decoded(value: Any) -> Any:
    """Return an XCom's value, which Airflow 2 keeps as bytes and Airflow 3 as JSON, or JSON in JSON."""
    with suppress(ValueError, TypeError):
        return json.loads(bytes(value) if isinstance(value, memoryview) else value)
    return value


def delivered_twice(home: Path) -> int:
    """Return how many messages the workers have received more than once."""
    received: Counter[str] = Counter()
    for name in WORKERS:
        log = (home / f"{name}.log").read_text(errors="replace")
        received.update(re.findall(r"Task execute_\w+\[([0-9a-f-]+)\] received", log))
    return sum(count > 1 for count in received.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=200, help="mapped deferrable tasks (%(default)s)")
    parser.add_argument("--seconds", type=float, default=240, help="how long faults are injected (%(default)g)")
    parser.add_argument("--seed", type=int, default=None, help="of the faults; printed (random)")
    parser.add_argument("--not-durable", action="store_true", help="turn the operator's durability off")
    options = parser.parse_args()
    seed = random.randrange(10**6) if options.seed is None else options.seed
    with tempfile.TemporaryDirectory(prefix="dify-provider-celery-") as home:
        wrong = prove(options.tasks, options.seconds, seed, Path(home), durable=not options.not_durable)
        if wrong:
            for log in sorted(Path(home).glob("*.log")):
                print(f"{log.name}:\n{log.read_text(errors='replace')[-3000:]}")
    right = (
        "duplicates were counted" if options.not_durable else "every task succeeded, each with the outputs of one run"
    )
    print("\n".join(wrong) or right)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
