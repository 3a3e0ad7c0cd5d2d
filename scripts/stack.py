"""Start Airflow and a local Dify server to be used in a browser, and end them: ``make up`` and ``make down``.

Airflow's processes are those of ``airflow standalone``, started one by one: standalone also starts log servers, which
listen on all interfaces and have no setting for that. Everything here listens on loopback, keeps its state in one
folder, and lives in process groups of its own, which are what ``down`` ends.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
USER = PASSWORD = "admin"
START_SECONDS = 300.0
STOP_SECONDS = 20.0
AIRFLOW_PORT = 8080
DIFY_PORT = 5001


class StackError(Exception):
    """What went wrong, for the person who has typed the command."""


@dataclass
class State:
    """What has been started, as it is kept in the folder.

    :param version: Version of Airflow.
    :param address: Airflow's user interface.
    :param dify: Base URL of the Dify server.
    :param connections: Ids of the Airflow connections that lead to it.
    :param groups: Process groups by name: the leader's pid, and when it was born as the system tells it, since a pid
        is used again.
    """

    version: str
    address: str
    dify: str = ""
    connections: list[str] = field(default_factory=list)
    groups: dict[str, tuple[int, str]] = field(default_factory=dict)


class Stack:
    """The processes of one folder.

    :param folder: Where state, logs and the home of each Airflow version are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "state.json"

    def state(self) -> State | None:
        """Return what was started and has not been ended by ``down``."""
        try:
            return State(**json.loads(self._file.read_text()))
        except FileNotFoundError:
            return None

    def save(self, state: State) -> None:
        self._file.write_text(json.dumps(asdict(state), indent=2))

    def dead(self, state: State) -> list[str]:
        """Return the names of the processes that have ended by themselves."""
        return [name for name, (pid, birth) in state.groups.items() if born(pid) != birth]

    def start(self, state: State, name: str, command: list[str], environment: dict[str, str]) -> None:
        with self.log(name).open("ab") as log:
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self.folder,
            )
        state.groups[name] = (process.pid, born(process.pid))
        self.save(state)

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def said(self, name: str) -> str:
        return self.log(name).read_text(errors="replace")

    def wait(self, what: str, state: State, condition: Callable[[], bool]) -> None:
        """Wait for a condition, and no longer than the processes live."""
        end = time.monotonic() + START_SECONDS
        while not condition():
            if ended := self.dead(state):
                raise StackError(f"{', '.join(ended)} ended at once:\n{tail(self.said(ended[0]))}")
            if time.monotonic() > end:
                logs = "\n".join(f"{name}:\n{tail(self.said(name))}" for name in state.groups)
                raise StackError(f"{what} took more than {START_SECONDS:g} s.\n{logs}")
            time.sleep(0.3)

    def end(self, state: State) -> None:
        """End the process groups, and none but them; the last ones started go first."""
        ours = [pid for name, (pid, birth) in reversed(state.groups.items()) if born(pid) in (birth, "")]
        for number, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, STOP_SECONDS)):
            for pid in ours:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, number)
            until = time.monotonic() + seconds
            while any(group_lives(pid) for pid in ours) and time.monotonic() < until:
                time.sleep(0.1)
        self._file.unlink(missing_ok=True)


def born(pid: int) -> str:
    """Return when a process was started; empty where there is none, or only its corpse."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    stat = Path(f"/proc/{pid}/stat")
    if stat.parent.parent.joinpath("self").exists():
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            return "" if fields[0] == "Z" else fields[19]
        return ""
    return subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()


def group_lives(pid: int) -> bool:
    born(pid)
    try:
        os.killpg(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def tail(text: str, lines: int = 30) -> str:
    return "\n".join(text.splitlines()[-lines:])


def free_port(wanted: int = 0) -> int:
    """Return a port on which nothing listens: the wanted one where that is so, else any."""
    try:
        with socket.create_server(("127.0.0.1", wanted)) as listener:
            port: int = listener.getsockname()[1]
    except OSError:
        return free_port()
    return port


def port_of(address: str) -> int:
    """Return the port of a base URL; without a port in its own field Airflow 3.3.2 does not test a connection."""
    parts = urlsplit(address)
    return parts.port or (80 if parts.scheme == "http" else 443)


def answer(url: str) -> bytes:
    """Return what an address on this machine answers; empty as long as it does not."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=30) as response:
            content: bytes = response.read()
            return content
    except OSError:
        return b""


def up(folder: Path, port: int, examples: list[Path], mine: list[Path]) -> None:
    """Start everything, with folders of examples and of the author's DAGs; where it is up, add the author's folder."""
    import airflow

    stack = Stack(folder)
    version = airflow.__version__
    if (state := stack.state()) is not None:
        ended = stack.dead(state)
        if not ended and state.version != version:
            raise StackError(f"Airflow {state.version} is up at {state.address}: `make down` ends it.")
        if not ended:
            if mine:
                gathered(folder / "dags", [*examples, *mine])
            print(f"It is up already, now with the DAGs in {mine[0]}." if mine else "It is up already.")
            tell(state)
            return
        print(f"Ended by itself: {', '.join(ended)}. Starting again.")
        stack.end(state)
    home = folder / f"airflow-{version}"
    home.mkdir(parents=True, exist_ok=True)
    port = port or free_port(AIRFLOW_PORT)
    state = State(version, f"http://127.0.0.1:{port}")
    began = time.monotonic()
    try:
        bring_up(stack, state, home, port, gathered(folder / "dags", [*examples, *mine]))
    except BaseException:
        stack.end(state)
        raise
    print(f"Up after {time.monotonic() - began:.0f} s; `make down` ends it.")
    tell(state)


def gathered(folder: Path, sources: list[Path]) -> Path:
    """Return a folder in which the folders of DAGs stand beside each other, as links: Airflow follows them.

    Links that are right already stay, since Airflow may read the folder at any moment.
    """
    folder.mkdir(exist_ok=True)
    wanted = {f"{number}-{source.name}": source for number, source in enumerate(sources)}
    for link in folder.iterdir():
        if link.resolve() != wanted.get(link.name):
            link.unlink()
    for name, source in wanted.items():
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(source, target_is_directory=True)
    return folder


def bring_up(stack: Stack, state: State, home: Path, port: int, dags: Path) -> None:
    environment = settings(home, port, dags)
    python = sys.executable
    key = os.environ.get("DIFY_API_KEY", "").strip()
    keys = {"dify_default": key, "dify_knowledge": os.environ.get("DIFY_KNOWLEDGE_KEY", "").strip()}
    state.dify = os.environ.get("DIFY_BASE_URL", "").strip()
    if bool(key) != bool(state.dify):
        raise StackError("Give both DIFY_BASE_URL and DIFY_API_KEY, or neither.")
    if not key:
        from airflow_provider_dify.testing.server import DifyServer
        from airflow_provider_dify.testing.workflows import builtin_workflows

        server = DifyServer()
        keys = {"dify_default": server.api_key("summarize"), "dify_knowledge": server.dataset_key}
        keys |= {f"dify_{each.name}": server.api_key(each.name) for each in builtin_workflows()}
        dify_port = free_port(DIFY_PORT)
        state.dify = f"http://127.0.0.1:{dify_port}"
        command = [python, "-m", "airflow_provider_dify.testing", f"--port={dify_port}"]
        stack.start(state, "dify", command, environment)
    print(f"Starting Airflow {state.version} …", flush=True)
    command_line(environment, "db", "migrate")
    connection = home / "connections.json"
    connection.touch(mode=0o600)
    fields = {"conn_type": "dify", "host": state.dify, "port": port_of(state.dify)}
    state.connections = [name for name, each in keys.items() if each]
    connection.write_text(json.dumps({name: {**fields, "password": keys[name]} for name in state.connections}))
    try:
        command_line(environment, "connections", "import", "--overwrite", str(connection))
    finally:
        connection.unlink()
    airflow2 = state.version.startswith("2.")
    if airflow2:
        person = ("--role=Admin", "--firstname=Ada", "--lastname=Admin", "--email=admin@example.org")
        command_line(environment, "users", "create", f"--username={USER}", f"--password={PASSWORD}", *person)
    serving = ["webserver", "--hostname=127.0.0.1", f"--port={port}", "--workers=1"] if airflow2 else ["api-server"]
    commands = [serving, ["scheduler", "--skip-serve-logs"], ["triggerer", "--skip-serve-logs"]]
    for command in commands if airflow2 else [*commands, ["dag-processor"]]:
        stack.start(state, command[0], [python, "-m", "airflow", *command], environment)
    page = "/health" if airflow2 else "/api/v2/monitor/health"
    stack.wait("Airflow", state, lambda: is_healthy(answer(f"{state.address}{page}")))
    # The author's own folder may hold files without DAGs.
    wanted = len(list(dags.glob("0-*/*.py")))
    stack.wait("Reading the DAGs", state, lambda: dags_read(home) >= wanted)
    if state.groups.get("dify"):
        stack.wait("Dify", state, lambda: bool(answer(f"{state.dify}/health")))


def settings(home: Path, port: int, dags: Path) -> dict[str, str]:
    """Return the environment of Airflow's processes: the caller's, without settings of another Airflow."""
    address = f"http://127.0.0.1:{port}"
    airflow2 = sys.modules["airflow"].__version__.startswith("2.")
    own = {
        "API__AUTH_BACKENDS": "airflow.api.auth.backend.basic_auth,airflow.api.auth.backend.session",
        "API__BASE_URL": address,
        "API__HOST": "127.0.0.1",
        "API__PORT": str(port),
        "API__SECRET_KEY": secrets.token_hex(32),
        "API__WORKERS": "1",
        "API_AUTH__JWT_SECRET": secrets.token_hex(64),
        "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "CORE__DAGS_FOLDER": str(dags),
        "CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/",
        # Airflow 2 runs one task at a time with SQLite.
        "CORE__EXECUTOR": "SequentialExecutor" if airflow2 else "LocalExecutor",
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__PARALLELISM": "4",
        "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "CORE__TEST_CONNECTION": "Enabled",
        # A new file shows within 15 s: the folder is read every 10 s, and a file that has changed at once.
        "DAG_PROCESSOR__REFRESH_INTERVAL": "10",
        "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "5",
        "SCHEDULER__DAG_DIR_LIST_INTERVAL": "10",
        "SCHEDULER__MIN_FILE_PROCESS_INTERVAL": "5",
        "DATABASE__LOAD_DEFAULT_CONNECTIONS": "False",
        "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}?timeout=60",
        # A request of a task may have to wait as long as SQLite does.
        "WORKERS__EXECUTION_API_TIMEOUT": "90",
        "SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
        "USAGE_DATA_COLLECTION__ENABLED": "False",
        "WEBSERVER__BASE_URL": address,
        # Airflow 2 ends a webserver that is not up after 120 s, which a busy machine may need.
        "WEBSERVER__WEB_SERVER_MASTER_TIMEOUT": f"{START_SECONDS:.0f}",
        "WEBSERVER__WEB_SERVER_WORKER_TIMEOUT": f"{START_SECONDS:.0f}",
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    return kept | {"AIRFLOW_HOME": str(home), "PATH": path} | {f"AIRFLOW__{name}": own[name] for name in own}


def command_line(environment: dict[str, str], *arguments: str) -> None:
    command = [sys.executable, "-m", "airflow", *arguments]
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise StackError(f"airflow {arguments[0]} {arguments[1]} failed:\n{tail(done.stdout)}")


def is_healthy(health: bytes) -> bool:
    """Tell whether Airflow says that the parts which run a deferrable task are there."""
    with suppress(ValueError):
        parts = json.loads(health)
        return all(parts[part]["status"] == "healthy" for part in ("metadatabase", "scheduler", "triggerer"))
    return False


def dags_read(home: Path) -> int:
    try:
        with closing(sqlite3.connect(f"file:{home / 'airflow.db'}?mode=ro", uri=True, timeout=5)) as connection:
            count: int = connection.execute("SELECT COUNT(DISTINCT dag_id) FROM serialized_dag").fetchone()[0]
            return count
    except sqlite3.OperationalError:
        return 0


def tell(state: State) -> None:
    login = f"   (user {USER}, password {PASSWORD})" if state.version.startswith("2.") else "   (no login)"
    print(f"Airflow {state.version}:  {state.address}{login}")
    print(f"Dify:            {state.dify}")
    print(f"                 {state.dify}/console/forms   (what runs ask people)")
    print(f"Connections:     {', '.join(state.connections) or 'dify_default'}")
    print("Next:            open the first address, choose Dags, dify_quickstart, and press Trigger twice.")
    print("                 The run is green within seconds; the log of summarize names the Dify run.")


def down(folder: Path) -> None:
    stack = Stack(folder)
    state = stack.state()
    if state is None:
        print("Nothing is up.")
        return
    stack.end(state)
    print(f"Ended Airflow {state.version}: {', '.join(state.groups)}.")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("command", choices=("up", "down"))
    parser.add_argument("--folder", type=Path, default=ROOT / ".up", help="state, logs and database (%(default)s)")
    parser.add_argument("--port", type=int, default=0, help="of Airflow's user interface; 0 takes a free one")
    parser.add_argument("--dags", type=Path, help="folder of DAGs beside the examples; a new file in it shows in 15 s")
    parser.add_argument("--no-examples", action="store_true", help="without the example DAGs")
    options = parser.parse_args()
    folder = options.folder.resolve()
    try:
        if options.command == "up":
            examples = [] if options.no_examples else [ROOT / "example_dags"]
            mine = [options.dags.expanduser().resolve()] if options.dags else []
            if missing := [str(each) for each in mine if not each.is_dir()]:
                raise StackError(f"DAGS must be a folder: there is none at {missing[0]}.")
            up(folder, options.port, examples, mine)
        else:
            down(folder)
    except StackError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
