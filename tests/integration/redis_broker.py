"""A Redis server of the tests' own: on loopback, on a free port, gone with the test."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import redis

from tests.integration.airflow_processes import wait_for
from tests.integration.ports import free_port


class RedisBroker:
    """
    A broker for Celery that can be killed and started again, with its queues.

    It writes its append-only file before it answers, so that a killed process loses nothing it has confirmed.
    """

    def __init__(self) -> None:
        self._port = free_port()
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address for Celery."""
        return f"redis://127.0.0.1:{self._port}/0"

    def __enter__(self) -> RedisBroker:
        program = shutil.which("redis-server")
        assert program is not None, "redis-server is not installed: the Debian package redis-server has it"
        self._program = program
        self._folder = tempfile.TemporaryDirectory(prefix="dify-provider-redis-")
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._folder.cleanup()

    def start(self) -> None:
        """Start the server and wait until it answers, which is after it has read what it wrote before."""
        options = {
            "bind": "127.0.0.1",
            "port": str(self._port),
            "dir": self._folder.name,
            "appendonly": "yes",
            "save": "",
        }
        arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
        with (Path(self._folder.name) / "redis.log").open("ab") as log:
            self._server = subprocess.Popen([self._program, *arguments], stdout=log, stderr=log, start_new_session=True)
        wait_for("Redis", self._answers, 60)

    def kill(self) -> None:
        """Kill the server, as the kernel does when memory runs out."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            self._server = None

    def _answers(self) -> bool:
        assert self._server is not None
        assert self._server.poll() is None, (Path(self._folder.name) / "redis.log").read_text(errors="replace")
        try:
            with redis.Redis(port=self._port) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False
