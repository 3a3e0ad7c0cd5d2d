"""
What several triggerers ask of one Dify server: the same waiting runs, shared by one, two and four event loops.

    python -m benchmarks.triggerers --runs 200 1000

Against the stub server; each event loop is a process of its own, as each triggerer is one. Counts the requests while
all runs are waited for.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time

from benchmarks.servers import serving
from benchmarks.waiting import SETTLE, STEADY, connections, control, trigger_of

LONG = 3600.0
TRIGGERERS = (1, 2, 4)


async def wait_for_share(first: int, count: int, step: int) -> None:
    """Wait in this process for every so many of the runs."""

    async def one(index: int) -> None:
        async for event in trigger_of("dify", index).run():
            raise AssertionError(event.payload)

    await asyncio.gather(*(one(index) for index in range(first, count, step)))


def requests_a_second(count: int, triggerers: int, port: int) -> float:
    """Return the requests a second of so many processes that wait for so many runs."""
    control(port, "runs", [time.time() + LONG] * count)
    environment = os.environ | connections(port) | {"AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    command = [sys.executable, "-m", "benchmarks.triggerers", "--here"]
    processes = [
        subprocess.Popen(
            [*command, str(first), str(count), str(triggerers)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for first in range(triggerers)
    ]
    try:
        asked = 0
        end = time.monotonic() + 120
        # Each has asked for its first page when the server has been asked for all of them.
        while asked < triggerers and time.monotonic() < end:
            time.sleep(0.5)
            asked = control(port, "stats")["requests"]
        time.sleep(SETTLE)
        before, began = control(port, "stats")["requests"], time.monotonic()
        time.sleep(STEADY)
        taken = (control(port, "stats")["requests"] - before) / (time.monotonic() - began)
        ended = [process.returncode for process in processes if process.poll() is not None]
        assert not ended, f"processes have ended: {ended}"
    finally:
        for process in processes:
            process.terminate()
            process.wait()
    return float(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="+", default=[200, 1000], help="waiting runs (%(default)s)")
    parser.add_argument("--here", type=int, nargs=3, metavar=("FIRST", "RUNS", "STEP"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        asyncio.run(wait_for_share(*options.here))
        return
    print("| runs | triggerers | requests a second | of those of one |\n|---|---|---|---|", flush=True)
    for count in options.runs:
        alone = 0.0
        for triggerers in TRIGGERERS:
            with serving("benchmarks.stub") as [port]:
                taken = requests_a_second(count, triggerers, int(port))
            alone = alone or taken
            print(f"| {count:,} | {triggerers} | {taken:.2f} | {taken / alone:.2f} |", flush=True)


if __name__ == "__main__":
    main()
