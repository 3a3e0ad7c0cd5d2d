"""Airflow's own processes, each in a process group of its own: to be waited for, killed and restarted by tests."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar

from tests.conftest import EXAMPLES
from tests.integration.airflow_dags import is_airflow_2
from tests.integration.airflow_database import copy_empty_database
from tests.integration.airflow_rest import PASSWORD, USER, Rest
from tests.integration.airflow_tables import TASK_INSTANCE
from tests.integration.ports import free_port

LIMIT = 180.0
T = TypeVar("T")


def wait_for(what: str, condition: Callable[[], T], limit: float = LIMIT) -> T:
    """Return the condition's first value that is true."""
    end = time.monotonic() + limit
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {limit:g} s")
        time.sleep(0.2)
    return value


def processes_of(sessions: Collection[int]) -> list[Path]:
    """Return where ``/proc`` tells of the processes of some sessions, as far as they still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            state, _, _, session, *_ = (path / "stat").read_text().rpartition(")")[2].split()
            if int(session) in sessions and state != "Z":
                found.append(path)
    return found


class Airflow:
    """
    Scheduler, triggerer and what else this version of Airflow needs, in a home of their own.

    The processes that ``airflow standalone`` would start, without its log servers, which listen on all interfaces.
    What is not lines here is as Airflow has it by default, above all the pace of the scheduler: with another, tests do
    not see what goes wrong for users (apache/airflow 71580 needs a scheduler that takes 5 s between its rounds).

    :param home: An empty folder.
    :param connection: The connection ``dify_default``.
    :param connections: Further connections, by id.
    :param dags: The folder with the DAGs.
    :param database: The address of a database; SQLite in the home where left out.
    :param parallelism: Tasks that run at once; Airflow's default where left out. Airflow 2 with SQLite runs one.
    :param web: Whether Airflow 2 gets its webserver, and with it the REST API, which 3 always has.
    :param settings: Further settings, as environment variables without ``AIRFLOW__``.
    """

    def __init__(
        self,
        home: Path,
        connection: dict[str, Any],
        dags: Path = EXAMPLES,
        *,
        database: str | None = None,
        parallelism: int | None = None,
        web: bool = False,
        connections: dict[str, dict[str, Any]] | None = None,
        settings: dict[str, str] | None = None,
    ) -> None:
        self.home = home
        # SQLite lets one process write at a time; the others give up after 5 s, which a busy machine may take.
        self._default_database = f"sqlite:///{home / 'airflow.db'}?timeout=60"
        self._database = database or self._default_database
        self._web = web
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.sessions: set[int] = set()
        self._port = free_port()
        self.rest = Rest(f"http://127.0.0.1:{self._port}")
        self._environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "AIRFLOW_HOME": str(home),
            "AIRFLOW_CONN_DIFY_DEFAULT": json.dumps(connection),
            "AIRFLOW__API__AUTH_BACKENDS": "airflow.api.auth.backend.basic_auth",
            "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{self._port}",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self._port),
            "AIRFLOW__API__SECRET_KEY": "a key of the tests alone",
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API_AUTH__JWT_SECRET": "a secret of the tests alone, of 64 and more bytes, as HS512 wants it",
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{self._port}/execution/",
            "AIRFLOW__CORE__EXECUTOR": "SequentialExecutor" if is_airflow_2() and database is None else "LocalExecutor",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self._database,
            # Airflow 2 ends a webserver that is not up after 120 s, which a busy machine may need.
            "AIRFLOW__WEBSERVER__WEB_SERVER_MASTER_TIMEOUT": "600",
            "AIRFLOW__WEBSERVER__WEB_SERVER_WORKER_TIMEOUT": "600",
            **({} if parallelism is None else {"AIRFLOW__CORE__PARALLELISM": str(parallelism)}),
            **{f"AIRFLOW_CONN_{name.upper()}": json.dumps(value) for name, value in (connections or {}).items()},
            **{f"AIRFLOW__{name}": value for name, value in (settings or {}).items()},
        }
        if self._database == self._default_database:
            # A request of a task may have to wait as long as SQLite does.
            self._environment["AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT"] = "90"

    def __enter__(self) -> Airflow:
        if self._database == self._default_database:
            copy_empty_database(self.home / "airflow.db")
        else:
            self.command("db", "migrate")
        names = ["scheduler", "triggerer"]
        if not is_airflow_2():
            names = ["api-server", *names, "dag-processor"]
        elif self._web:
            person = ("--role=Admin", "--firstname=a", "--lastname=b", "--email=a@example.org")
            self.command("users", "create", f"--username={USER}", f"--password={PASSWORD}", *person)
            names.append("webserver")
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
        # The processes that Airflow 2's scheduler starts leave its group, and would outlive it for ever.
        for path in processes_of(self.sessions):
            with suppress(ProcessLookupError):
                os.kill(int(path.name), signal.SIGKILL)

    def start(self, name: str) -> None:
        """
        Start a process; what follows a dot in its name tells it from others of its kind.

        The kind ``celery`` is one of Celery's workers, which has the whole name as its host's.
        """
        kind, _, _ = name.partition(".")
        options = ["--skip-serve-logs"] if kind in ("scheduler", "triggerer") else []
        if kind == "celery":
            options = ["worker", "--skip-serve-logs", f"--celery-hostname={name}"]
        if kind == "webserver":
            options = ["--hostname=127.0.0.1", f"--port={self._port}", "--workers=1"]
        with (self.home / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", "airflow", kind, *options],
                env=self._environment,
                # Else Python would find the packages of this repository before those of PYTHONPATH.
                cwd=self.home,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.sessions.add(self._processes[name].pid)

    def signal(self, name: str, number: int) -> None:
        """Send a signal to a process and all that it has started."""
        os.killpg(self._processes[name].pid, number)

    def ended(self) -> list[str]:
        """Return the processes that have ended by themselves."""
        return [name for name, process in self._processes.items() if process.poll() is not None]

    def check(self) -> None:
        """Fail at once where a process has ended by itself."""
        assert self.ended() == [], self.logs()

    def kill(self, name: str) -> None:
        """Kill a process and all that it has started, as the kernel does when memory runs out."""
        process = self._processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def kill_alone(self, name: str) -> None:
        """Kill a process and leave what it has started."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def kill_session(self, name: str) -> None:
        """Kill a process and all that it has started, tasks of Airflow 2 too, which leave its group."""
        session = self._processes[name].pid
        self.kill(name)
        while left := processes_of({session}):
            for path in left:
                with suppress(ProcessLookupError):
                    os.kill(int(path.name), signal.SIGKILL)

    def kill_a_task(self, choices: random.Random) -> bool:
        """Kill the process of a running task, if there is one.

        Its pid comes from the database, where it stays after the process has ended and another program has got it: only
        a process that these ones have started is killed.
        """
        query = f"SELECT pid FROM {TASK_INSTANCE} WHERE state = 'running' AND pid IS NOT NULL ORDER BY map_index"
        own = {int(path.name) for path in processes_of(self.sessions)}
        pids = [pid for (pid,) in self.rows(query) if pid in own]
        if not pids:
            return False
        with suppress(ProcessLookupError):
            os.kill(choices.choice(pids), signal.SIGKILL)
        return True

    def command(self, *arguments: str, check: bool = True) -> bool:
        """Run an ``airflow`` command, and return whether it succeeded."""
        done = subprocess.run(
            [sys.executable, "-m", "airflow", *arguments],
            env=self._environment,
            cwd=self.home,
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
        """Ask the database; question marks stand for the arguments."""
        if self._database.startswith("postgresql"):
            return self._postgres_rows(query, arguments)
        try:
            path = self.home / "airflow.db"
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as connection:
                return connection.execute(query, arguments).fetchall()
        except sqlite3.OperationalError:
            return []

    def _postgres_rows(self, query: str, arguments: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        import psycopg2

        address = self._database.replace("postgresql+psycopg2", "postgresql")
        with closing(psycopg2.connect(address)) as connection, connection.cursor() as cursor:
            cursor.execute(query.replace("%", "%%").replace("?", "%s"), arguments)
            return list(cursor.fetchall())

    def task_state(self, dag_id: str, task_id: str) -> str | None:
        self.check()
        found = self.rows(f"SELECT state FROM {TASK_INSTANCE} WHERE dag_id = ? AND task_id = ?", dag_id, task_id)
        return found[0][0] if found else None

    def dag_state(self, dag_id: str) -> str | None:
        self.check()
        found = self.rows("SELECT state FROM dag_run WHERE dag_id = ?", dag_id)
        return found[0][0] if found else None

    def stored(self) -> dict[Path, bytes]:
        """Return everything that the processes have written: database, logs, what they printed."""
        return {path: path.read_bytes() for path in self.home.rglob("*") if path.is_file()}

    def logs(self, about: str = "") -> str:
        """Return the last lines of the processes, after those of the tasks of DAG runs that a text names."""
        runs = [path for path in self.home.glob("logs/dag_id=*/run_id=*") if path.name.partition("=")[2] in about]
        paths = [path for run in runs for path in sorted(run.rglob("*.log*"))] + sorted(self.home.glob("*.log"))
        return "\n".join(f"{path.name}:\n{path.read_text(errors='replace')[-4000:]}" for path in paths)

    def has_begun_trigger(self, run_id: str, attempt: int) -> bool:
        """Tell whether the trigger of a try has begun to run, which is some time after a triggerer was given it."""
        return any(self.home.glob(f"logs/dag_id=*/run_id={run_id}/**/attempt={attempt}.log.trigger.*"))
