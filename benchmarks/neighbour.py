"""
What others on the same server feel of the waiting: a foreign GET /info on a Dify with ten connections.

    python -m benchmarks.neighbour

The local server runs in a process of its own, the triggers that wait for its runs in another one, and this one asks
for GET /info, over a new connection each time: first while nothing waits, then while all triggers do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import requests

from benchmarks.servers import serving

PAUSE = 0.1


def probe(url: str, key: str, seconds: float) -> list[float]:
    """Return the seconds that each foreign request took."""
    took, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        requests.get(f"{url}/v1/info", headers={"Authorization": f"Bearer {key}"}, timeout=60).raise_for_status()
        took.append(time.monotonic() - began)
        time.sleep(PAUSE)
    return took


def line(state: str, took: list[float]) -> str:
    parts = statistics.quantiles(took, n=20)
    return (
        f"| {state} | {len(took)} | {1000 * statistics.median(took):.0f} ms "
        f"| {1000 * parts[-1]:.0f} ms | {1000 * max(took):.0f} ms |"
    )


def start_runs(count: int) -> list[str]:
    """Start runs, as workers would, and return their ids."""
    from airflow_provider_dify.hooks.dify import DifyHook

    def start(number: int) -> str:
        hook = DifyHook()
        try:
            return hook.create_workflow_run({}, user=f"neighbour-{number}").workflow_run_id
        finally:
            hook.close()

    with ThreadPoolExecutor(4) as executor:
        return list(executor.map(start, range(count)))


async def wait_for_all(run_ids: list[str]) -> None:
    """Wait for runs in this process, and say when all triggers have taken a look."""
    from airflow_provider_dify.triggers.workflow import DifyWorkflowRunTrigger

    async def wait(run_id: str) -> None:
        async for event in DifyWorkflowRunTrigger(run_id, "dify_default", time.time() + 3600, since=time.time()).run():
            raise AssertionError(event.payload)

    tasks = [asyncio.create_task(wait(run_id)) for run_id in run_ids]
    await asyncio.sleep(10)
    print("waiting", flush=True)
    await asyncio.gather(*tasks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000, help="waiting runs (%(default)s)")
    parser.add_argument("--connections", type=int, default=10, help="of the server (%(default)s)")
    parser.add_argument("--seconds", type=float, default=60, help="of each measurement (%(default)g)")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        asyncio.run(wait_for_all(json.load(sys.stdin)))
        return
    with (
        tempfile.TemporaryDirectory(prefix="dify-provider-bench-") as home,
        serving("benchmarks.servers", f"--connections={options.connections}") as [url, key],
    ):
        os.environ["AIRFLOW_HOME"] = home
        os.environ["AIRFLOW_CONN_DIFY_DEFAULT"] = json.dumps({"conn_type": "dify", "host": url, "password": key})
        print("| | requests | median | p95 | worst |\n|---|---|---|---|---|")
        print(line("nothing waits", probe(url, key, options.seconds)), flush=True)
        run_ids = start_runs(options.runs)
        here = [sys.executable, "-m", "benchmarks.neighbour", "--here"]
        with subprocess.Popen(here, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as waiting:
            try:
                assert waiting.stdin is not None
                assert waiting.stdout is not None
                waiting.stdin.write(json.dumps(run_ids))
                waiting.stdin.close()
                assert "waiting\n" in waiting.stdout, "the triggers have ended"
                print(line(f"{options.runs:,} runs are waited for", probe(url, key, options.seconds)), flush=True)
                assert waiting.poll() is None, "the triggers have ended"
            finally:
                waiting.terminate()


if __name__ == "__main__":
    main()
