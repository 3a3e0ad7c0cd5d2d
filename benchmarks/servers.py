"""
Servers of the benchmarks, each in a process of its own.

    python -m benchmarks.servers --seconds 3600

is the local Dify server with one workflow, which gives its number back in the end; prints its address and a key.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def serving(module: str, *arguments: str) -> Iterator[list[str]]:
    """Run a server while the block runs, and give the words of the line that it prints when it is ready."""
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().split()
        finally:
            server.terminate()


def main() -> None:
    # Not for those who only start a server, and are themselves measured.
    from airflow_provider_dify.testing.server import DifyServer
    from airflow_provider_dify.testing.workflows import Input, Step, Workflow

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600, help="that each run takes (%(default)g)")
    parser.add_argument("--connections", type=int, help="of the server (as many as it takes)")
    options = parser.parse_args()
    # A server notices that a stream was closed when it has an event for it, and holds the connection until then.
    steps = [*(Step(f"step{number}", seconds=0.1) for number in range(5)), Step("long", seconds=options.seconds)]
    number = Input("number", "number", required=False)
    workflow = Workflow("long", inputs=[number], steps=steps, outputs={"number": "{number}"})
    with DifyServer([workflow], connections=options.connections, worker_slots=100_000) as server:
        print(server.base_url, server.api_key("long"), flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
