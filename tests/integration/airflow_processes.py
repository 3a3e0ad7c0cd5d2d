"""Airflow's own processes, each in a process group of its own: to be waited for, killed and restarted by tests."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar

import airflow

from tests.conftest import EXAMPLES

LIMIT = 180.0
T = TypeVar("T")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def wait_for(what: str, condition: Callable[[], T], limit: float = LIMIT) -> T:
    """Return the condition's first value that is true."""
    end = time.monotonic() + limit
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {limit:g} s")
        time.sleep(0.2)
    return value


class Airflow:
    """
    Scheduler, triggerer and what else this version of Airflow needs, with SQLite, in a home of their own.

    The processes that ``airflow standalone`` would start, without its log servers, which listen on all interfaces.
    """

    def __init__(self, home: Path, connection: dict[str, Any], dags: Path = EXAMPLES) -> None:
        self.home = home
        self._database = home / "airflow.db"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        port = free_port()
        self._environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "AIRFLOW_HOME": str(home),
            "AIRFLOW_CONN_DIFY_DEFAULT": json.dumps(connection),
            "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(port),
            "AIRFLOW__API__SECRET_KEY": "a key of the tests alone",
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API_AUTH__JWT_SECRET": "a secret of the tests alone, of 64 and more bytes, as HS512 wants it",
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
            "AIRFLOW__CORE__EXECUTOR": "SequentialExecutor" if airflow.__version__ < "3" else "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "2",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self._database}",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
        }

    def __enter__(self) -> Airflow:
        self.command("db", "migrate")
        names = ["scheduler", "triggerer"]
        if airflow.__version__ >= "3":
            names = ["api-server", *names, "dag-processor"]
        try:
            for name in names:
                self.start(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self._processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def start(self, name: str) -> None:
        options = ["--skip-serve-logs"] if name in ("scheduler", "triggerer") else []
        with (self.home / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", "airflow", name, *options],
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def check(self) -> None:
        """Fail at once where a process has ended by itself."""
        ended = [name for name, process in self._processes.items() if process.poll() is not None]
        assert ended == [], self.logs()

    def kill(self, name: str) -> None:
        """Kill a process and all that it has started, as the kernel does when memory runs out."""
        process = self._processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def command(self, *arguments: str, check: bool = True) -> bool:
        """Run an ``airflow`` command, and return whether it succeeded."""
        done = subprocess.run(
            [sys.executable, "-m", "airflow", *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"airflow {' '.join(arguments)}:\n{done.stdout}\n{done.stderr}")
        return done.returncode == 0

    def trigger(self, dag_id: str, conf: dict[str, Any]) -> None:
        """Start a run of a DAG as soon as it has been parsed."""
        wait_for(f"DAG {dag_id}", lambda: self.rows("SELECT 1 FROM serialized_dag WHERE dag_id = ?", dag_id))
        self.command("dags", "unpause", dag_id)
        self.command("dags", "trigger", dag_id, "--conf", json.dumps(conf))

    def rows(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        try:
            with closing(sqlite3.connect(f"file:{self._database}?mode=ro", uri=True, timeout=5)) as connection:
                return connection.execute(query, arguments).fetchall()
        except sqlite3.OperationalError:
            return []

    def task_state(self, dag_id: str, task_id: str) -> str | None:
        self.check()
        found = self.rows("SELECT state FROM task_instance WHERE dag_id = ? AND task_id = ?", dag_id, task_id)
        return found[0][0] if found else None

    def dag_state(self, dag_id: str) -> str | None:
        self.check()
        found = self.rows("SELECT state FROM dag_run WHERE dag_id = ?", dag_id)
        return found[0][0] if found else None

    def stored(self) -> dict[Path, bytes]:
        """Return everything that the processes have written: database, logs, what they printed."""
        return {path: path.read_bytes() for path in self.home.rglob("*") if path.is_file()}

    def logs(self) -> str:
        texts = [path.read_text(errors="replace")[-4000:] for path in sorted(self.home.glob("*.log"))]
        return "\n".join(texts)
