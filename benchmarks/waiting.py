"""
What waiting costs a triggerer: this provider's trigger beside those of others, against one stub server.

    make bench
    make bench BENCH_ARGS="--runs 1000 --rounds 1 --providers dify http"

Each measurement is a process of its own with one event loop, as a triggerer has one, in which so many triggers wait.
They start within a second, wait, and then their runs end one after the other. Prints the tables of docs/performance.md.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
import urllib.request
from importlib.metadata import version
from typing import Any

from benchmarks.servers import serving

INTERVAL = 5
PROVIDERS = ("dify", "databricks", "dbt-cloud", "http")
NOTHING = "nothing"
OPERATORS = {
    "dify": "airflow_provider_dify.operators.workflow",
    "databricks": "airflow.providers.databricks.operators.databricks",
    "dbt-cloud": "airflow.providers.dbt.cloud.operators.dbt",
    "http": "airflow.providers.http.operators.http",
}
# Seconds: for all to start and find their rhythm, of waiting that is measured, and over which the runs then end.
SETTLE, STEADY, ENDING = 8.0, 20.0, 20.0
TICK = 0.1


def trigger_of(provider: str, index: int) -> Any:
    if provider == "dify":
        from airflow_provider_dify.triggers.workflow import DifyWorkflowRunTrigger
        from benchmarks.stub import dify_id

        return DifyWorkflowRunTrigger(dify_id(index), "dify_default", time.time() + 3600, since=time.time())
    if provider == "databricks":
        from airflow.providers.databricks.triggers.databricks import DatabricksExecutionTrigger

        return DatabricksExecutionTrigger(index, "databricks_default", polling_period_seconds=INTERVAL)
    if provider == "dbt-cloud":
        from benchmarks.dbt_without_tls import DbtTrigger

        return DbtTrigger("dbt_cloud_default", index, time.time() + 3600, INTERVAL, 1)
    if provider == NOTHING:
        from benchmarks.nothing import NothingTrigger

        return NothingTrigger(index)
    from airflow.providers.http.triggers.http import HttpSensorTrigger

    return HttpSensorTrigger(f"http/{index}", "http_default", poke_interval=INTERVAL)


def connections(port: int) -> dict[str, str]:
    host = "127.0.0.1"
    told = {
        "dify_default": {"conn_type": "dify", "host": f"http://{host}:{port}", "password": "app-benchmark"},
        "databricks_default": {"conn_type": "databricks", "host": f"{host}:{port}", "schema": "http", "password": "x"},
        "dbt_cloud_default": {"conn_type": "dbt_cloud", "host": f"{host}:{port}", "login": "1", "password": "x"},
        "http_default": {"conn_type": "http", "host": host, "port": port, "schema": "http"},
    }
    return {f"AIRFLOW_CONN_{name.upper()}": json.dumps(content) for name, content in told.items()}


def control(port: int, path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/control/{path}", data=data, timeout=60) as answer:
        return json.load(answer)


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Lag:
    """How late the event loop is, and how much of that its own process has computed meanwhile."""

    def __init__(self) -> None:
        self.worst = self.worst_own = 0.0
        self.last = (0.0, 0.0)

    def start(self) -> None:
        self.last = time.perf_counter(), time.process_time()
        asyncio.get_running_loop().call_later(TICK, self._tick)

    def _tick(self) -> None:
        now, computed = time.perf_counter(), time.process_time()
        late = now - self.last[0] - TICK
        self.worst = max(self.worst, late)
        self.worst_own = max(self.worst_own, min(late, computed - self.last[1]))
        self.start()


async def wait_for_all(provider: str, count: int, port: int, ends: list[float], began: float) -> dict[str, Any]:
    late: list[float] = []

    async def one(index: int) -> None:
        async for _ in trigger_of(provider, index).run():
            late.append(time.time() - ends[index])

    lag = Lag()
    lag.start()
    tasks = []
    for index in range(count):
        tasks.append(asyncio.create_task(one(index)))
        if index % max(count // 20, 1) == 0:
            await asyncio.sleep(0.05)
    await asyncio.sleep(max(began + SETTLE - time.time(), 0))
    first, computed, moment = await asyncio.to_thread(control, port, "stats"), time.process_time(), time.time()
    await asyncio.sleep(STEADY)
    spent, seconds = time.process_time() - computed, time.time() - moment
    second = await asyncio.to_thread(control, port, "stats")
    waiting = resident()
    await asyncio.gather(*tasks)
    last = await asyncio.to_thread(control, port, "stats")
    run_minutes = count * seconds / 60
    return {
        "cpu_ms": 1000 * spent / run_minutes,
        "requests": (second["requests"] - first["requests"]) / run_minutes,
        "all_requests": last["requests"] / count,
        "connections": last["connections"] / count,
        "median": statistics.median(late),
        "p95": statistics.quantiles(late, n=20)[-1] if len(late) > 1 else late[0],
        "lag": 1000 * lag.worst,
        "own_lag": 1000 * lag.worst_own,
        "resident": waiting,
        "minutes": (time.time() - began) / 60,
    }


def measure_here(provider: str, count: int, port: int) -> None:
    """Take one measurement in this process, and print it."""
    import logging

    import airflow.sdk  # noqa: F401  Its own settings would replace these.
    import structlog

    logging.disable(logging.WARNING)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    control(port, "runs", [0.0])
    # What is loaded once, whatever waits, is no cost of a waiting run.
    asyncio.run(_warm_up(provider))
    gc.collect()
    # A full collection goes over all of Airflow's modules, which takes 100 ms whoever caused it.
    gc.freeze()
    before = resident()
    began = time.time()
    ending = began + SETTLE + STEADY + 3 + count / 2000
    chance = random.Random(7)
    ends = [ending + chance.random() * ENDING for _ in range(count)]
    control(port, "runs", ends)
    told = asyncio.run(wait_for_all(provider, count, port, ends, began))
    told["kb"] = (told.pop("resident") - before) / count / 1024
    print(json.dumps(told))


async def _warm_up(provider: str) -> None:
    async for _ in trigger_of(provider, 0).run():
        pass


def measured(provider: str, count: int, port: int) -> dict[str, Any]:
    """Take one measurement in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.waiting", "--here", provider, str(count), str(port)]
    environment = os.environ | connections(port) | {"AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    if done.returncode:
        raise SystemExit(done.stderr[-4000:])
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def import_cost(module: str, rounds: int = 5) -> tuple[float, int, float]:
    """Return milliseconds, modules and MiB of an import, beyond what every DAG file imports."""
    program = f"""
import sys, time
import airflow.sdk
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * {os.sysconf("SC_PAGE_SIZE")} / 2**20
modules, memory, began = len(sys.modules), resident(), time.process_time()
import {module}
print(1000 * (time.process_time() - began), len(sys.modules) - modules, resident() - memory)
"""
    told = []
    for _ in range(rounds):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
        told.append([float(number) for number in done.stdout.splitlines()[-1].split()])
    cpu, modules, memory = (statistics.median(column) for column in zip(*told, strict=True))
    return cpu, int(modules), memory


def median_of(rounds: list[dict[str, Any]]) -> dict[str, float]:
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}


HEADER = """\
| runs | trigger of | CPU per run-minute | requests per run-minute | requests per run in all | connections per run \
| memory per run | latency, median | p95 | worst lag | of it computed |
|---|---|---|---|---|---|---|---|---|---|---|"""


def line(count: int, provider: str, told: dict[str, float]) -> str:
    return (
        f"| {count:,} | {provider} | {told['cpu_ms']:.2f} ms | {told['requests']:.2f} | {told['all_requests']:.2f} "
        f"| {told['connections']:.3f} | {told['kb']:.1f} KiB | {told['median']:.2f} s | {told['p95']:.2f} s "
        f"| {told['lag']:.0f} ms | {told['own_lag']:.0f} ms |"
    )


def machine() -> str:
    names = [("airflow-provider-dify", "airflow-provider-dify"), ("Airflow", "apache-airflow")]
    names += [(name, f"apache-airflow-providers-{name}") for name in PROVIDERS[1:]]
    versions = ", ".join(f"{name} {version(package)}" for name, package in [*names, ("aiohttp", "aiohttp")])
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores, {system}; {versions}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="+", default=[100, 1000, 5000], help="waiting runs (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements, of which the median is told (%(default)s)")
    parser.add_argument("--providers", nargs="+", default=list(PROVIDERS), choices=PROVIDERS)
    parser.add_argument("--skip-imports", action="store_true", help="leave the import cost out")
    parser.add_argument("--here", nargs=3, metavar=("PROVIDER", "RUNS", "PORT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        measure_here(options.here[0], int(options.here[1]), int(options.here[2]))
        return
    print(machine(), "\n")
    with serving("benchmarks.stub") as [port]:
        print(HEADER, flush=True)
        for count in options.runs:
            rounds: dict[str, list[dict[str, Any]]] = {provider: [] for provider in options.providers}
            # Side by side: what else the machine does in a round concerns all of them.
            for _ in range(options.rounds):
                for provider in options.providers:
                    rounds[provider].append(measured(provider, count, int(port)))
            for provider, taken in rounds.items():
                print(line(count, provider, median_of(taken)), flush=True)
    if not options.skip_imports:
        print("\n| operator module of | CPU | modules | memory |\n|---|---|---|---|")
        for provider in options.providers:
            try:
                cpu, modules, memory = import_cost(OPERATORS[provider])
            except subprocess.CalledProcessError as error:
                # databricks, without its SQL connector.
                print(f"| {provider} | {error.stderr.splitlines()[-1]} | | |", flush=True)
                continue
            print(f"| {provider} | {cpu:.0f} ms | {modules} | {memory:.1f} MiB |", flush=True)


if __name__ == "__main__":
    main()
