"""A PostgreSQL server of the tests' own: on loopback, on a free port, gone with the test."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from tests.integration.ports import free_port

ROOT = 0


def program(name: str) -> str:
    """Return the path of one of PostgreSQL's server programs, which distributions keep out of PATH."""
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    found = shutil.which(name) or (str(installed[-1]) if installed else None)
    assert found is not None, f"{name} is not installed: the Debian package postgresql has it"
    return found


class Postgres:
    """
    A server with a fresh database cluster.

    It refuses to run as root; for root the user ``postgres``, which its package creates, takes its place.
    """

    def __init__(self) -> None:
        self._port = free_port()
        self._user = "postgres" if os.geteuid() == ROOT else None
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address for SQLAlchemy."""
        return f"postgresql+psycopg2://airflow@127.0.0.1:{self._port}/postgres"

    def __enter__(self) -> Postgres:
        self._home = tempfile.TemporaryDirectory(prefix="dify-provider-postgres-")
        self._data = Path(self._home.name) / "data"
        self._log = Path(self._home.name) / "postgres.log"
        if self._user is not None:
            shutil.chown(self._home.name, self._user, self._user)
        self._run("initdb", "--username=airflow", "--auth=trust", "--no-sync", "-D", str(self._data))
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self._port),
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": "300",
        }
        arguments = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with self._log.open("wb") as log:
            self._server = subprocess.Popen(
                [program("postgres"), "-D", str(self._data), *arguments],
                cwd=self._home.name,
                stdout=log,
                stderr=log,
                user=self._user,
                group=self._user,
                start_new_session=True,
            )
        try:
            self._run("pg_isready", "--host=127.0.0.1", f"--port={self._port}", "--timeout=60", tries=60)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._server is not None:
            # The fast shutdown, which does not wait for clients.
            self._server.send_signal(signal.SIGINT)
            self._server.wait(60)
        self._home.cleanup()

    def _run(self, name: str, *arguments: str, tries: int = 1) -> None:
        done = None
        for _ in range(tries):
            done = subprocess.run(
                [program(name), *arguments],
                cwd=self._home.name,
                capture_output=True,
                text=True,
                user=self._user,
                group=self._user,
                check=False,
            )
            if done.returncode == 0:
                return
            if self._server is not None:
                try:
                    self._server.wait(1)
                except subprocess.TimeoutExpired:
                    continue
                break
        log = self._log.read_text(errors="replace") if self._log.exists() else ""
        raise AssertionError(f"{name} failed:\n{done and done.stdout}\n{done and done.stderr}\n{log}")
