"""
How many runs at once a Dify takes, measured with the local server: the figures behind docs/sizing.md.

    python -m benchmarks.sizing

Each line starts the same number of runs through the deferrable operator, with a limit on how many of them are under
way at once, as an Airflow pool that includes deferred tasks sets it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import requests

import tests.conftest  # noqa: F401  An Airflow home of its own, before Airflow is imported.
from airflow_provider_dify.testing.server import DifyServer
from tests.faults.tries import Task

SERVERS = ((10, 4), (10, 10), (40, 16))
POOLS = (4, 8, 16, 40)


class Probe(threading.Thread):
    """A foreign client that asks for GET /info again and again, and notes how long each answer took."""

    def __init__(self, server: DifyServer) -> None:
        super().__init__(daemon=True)
        self._url, self._key = f"{server.base_url}/v1/info", server.api_key("slow")
        self.ended = threading.Event()
        self.seconds: list[float] = []

    def run(self) -> None:
        while not self.ended.wait(0.25):
            began = time.monotonic()
            with suppress(requests.RequestException):
                requests.get(self._url, headers={"Authorization": f"Bearer {self._key}"}, timeout=60)
            self.seconds.append(time.monotonic() - began)


def measure(connections: int, slots: int, pool: int, runs: int, seconds: float) -> str:
    with DifyServer(emulate="1.14.2", connections=connections, worker_slots=slots) as server:
        os.environ["AIRFLOW_CONN_DIFY_DEFAULT"] = (
            f'{{"conn_type": "dify", "host": "{server.base_url}", "password": "{server.api_key("slow")}"}}'
        )
        tasks = [
            Task(
                store=False,
                deferrable=True,
                inputs={"seconds": seconds},
                submit_timeout=10,
                timeout=900,
                poll_interval=1,
                max_poll_interval=5,
            )
            for _ in range(runs)
        ]
        for index, task in enumerate(tasks):
            task.ti.map_index = index
        probe = Probe(server)
        probe.start()
        began = time.monotonic()
        with ThreadPoolExecutor(pool) as executor:
            list(executor.map(Task.run, tasks))
        spent = time.monotonic() - began
        probe.ended.set()
        probe.join()
        assert len(server.runs) == runs
        told = sum("task_id" in task.ti.xcoms for task in tasks)
        foreign = statistics.quantiles(probe.seconds, n=20)[-1]
    ideal = runs * seconds / slots
    return (
        f"| {connections} | {slots} | {pool} | {spent:.0f} s | {ideal / spent:.0%} "
        f"| {told / runs:.0%} | {foreign:.2f} s |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40, help="runs of each line (%(default)s)")
    parser.add_argument("--seconds", type=float, default=4, help="what each run takes (%(default)g)")
    options = parser.parse_args()
    print(
        "| connections | worker slots | pool | all done after | of the ideal | ids told by the stream | GET /info p95 |"
    )
    print("|---|---|---|---|---|---|---|")
    for connections, slots in SERVERS:
        for pool in POOLS:
            print(measure(connections, slots, pool, options.runs, options.seconds), flush=True)


if __name__ == "__main__":
    main()
