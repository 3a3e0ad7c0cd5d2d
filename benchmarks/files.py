"""
What a large file costs a task, measured with the local server in a process of its own: the figures in docs/files.md.

    python -m benchmarks.files [--mebibytes 1024]

One run sends a file to a workflow that gives it back, and saves it. The memory is that of the task's own process
above what it has after a run with a small file, sampled every 10 ms.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import tests.conftest  # noqa: F401  An Airflow home of its own, before Airflow is imported.
from airflow_provider_dify.testing.server import DifyServer
from airflow_provider_dify.testing.workflows import Input, Workflow
from tests.faults.tries import Task

MEBIBYTE = 1024 * 1024
ALLOWED_MEBIBYTES = 150
CHUNK = os.urandom(MEBIBYTE)


class Memory(threading.Thread):
    """Notes the largest resident set of this process."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.ended = threading.Event()
        self.most = resident()

    def run(self) -> None:
        while not self.ended.wait(0.01):
            self.most = max(self.most, resident())


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def serve(mebibytes: int) -> None:
    """Be the server: say where it is, and serve until the input ends."""
    workflow = Workflow("files", inputs=[Input("file", type="file")], outputs={"file": "{file}"})
    with DifyServer([workflow], time_scale=0.01, upload_limit=mebibytes + 1) as server:
        print(json.dumps({"host": server.base_url, "password": server.api_key("files")}), flush=True)
        sys.stdin.read()


def digest_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(MEBIBYTE):
            digest.update(chunk)
    return digest.hexdigest()


class Clock:
    """Tells how long uploads and downloads take."""

    def __init__(self) -> None:
        from airflow_provider_dify.hooks.dify import DifyHook

        self.seconds: dict[str, float] = {}
        for name in ("upload_file", "download_file"):
            setattr(DifyHook, name, self._timed(name, getattr(DifyHook, name)))

    def _timed(self, name: str, method: Any) -> Any:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.monotonic()
            try:
                return method(*args, **kwargs)
            finally:
                self.seconds[name] = time.monotonic() - began

        return timed


def one_run(source: str, folder: Path) -> Path:
    task = Task(store=False, deferrable=False, inputs={"file": source}, output_files_to=str(folder), timeout=900)
    return Path(task.run()["file"]["saved_to"].removeprefix("file://"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mebibytes", type=int, default=1024)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.mebibytes)
        return
    command = [sys.executable, "-m", "benchmarks.files", "--serve", "--mebibytes", str(arguments.mebibytes)]
    with (
        tempfile.TemporaryDirectory() as place,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server,
    ):
        assert server.stdout is not None
        assert server.stdin is not None
        connection = json.loads(server.stdout.readline())
        os.environ["AIRFLOW_CONN_DIFY_DEFAULT"] = json.dumps({"conn_type": "dify", **connection})
        clock, folder = Clock(), Path(place)
        small, large = folder / "small.txt", folder / "large.txt"
        small.write_bytes(b"x")
        with large.open("wb") as file:
            for _ in range(arguments.mebibytes):
                file.write(CHUNK)
        one_run(str(small), folder)
        print(f"{'source':20} {'upload':>10} {'download':>10} {'memory':>12}")
        over = False
        for name, source in (("local path", str(large)), ("object store (file)", large.as_uri())):
            base, memory = resident(), Memory()
            memory.start()
            saved = one_run(source, folder)
            memory.ended.set()
            memory.join()
            used = (memory.most - base) / MEBIBYTE
            over = over or used > ALLOWED_MEBIBYTES
            up, down = clock.seconds["upload_file"], clock.seconds["download_file"]
            print(f"{name:20} {up:>8.1f} s {down:>8.1f} s {used:>8.1f} MiB", flush=True)
            assert digest_of(saved) == digest_of(large), "what came back is another file"
            saved.unlink()
        server.stdin.close()
    if over:
        sys.exit(f"More than {ALLOWED_MEBIBYTES} MiB above the base.")


if __name__ == "__main__":
    main()
