"""What ``make up`` starts, in a folder of its own, and ended after the test."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.integration.ports import free_port

STACK = Path(__file__).resolve().parent.parent.parent / "scripts" / "stack.py"
LIMIT = 600.0


@dataclass(frozen=True)
class MadeUp:
    """
    Airflow and a Dify server that are up.

    :param address: Airflow's user interface.
    :param dify: Base URL of the Dify server.
    :param home: Airflow's home.
    :param scheduler_log: What the scheduler has printed.
    """

    address: str
    dify: str
    home: Path
    scheduler_log: Path


@contextmanager
def made_up(folder: Path, *options: str, **environment: str) -> Iterator[MadeUp]:
    """
    Run ``make up``, and ``make down`` at the end; ``KEEP_LOGS`` names a folder into which all is copied then.

    :param folder: For state, logs and database.
    :param options: More of the command's options.
    :param environment: Environment variables for Airflow's processes; no other Dify server is used than they name.
    """
    none = {"DIFY_BASE_URL": "", "DIFY_API_KEY": "", "DIFY_KNOWLEDGE_KEY": ""}
    command = [sys.executable, str(STACK), "up", f"--folder={folder}", f"--port={free_port()}", *options]
    try:
        started = subprocess.run(
            command,
            env={**os.environ, **none, **environment},
            timeout=LIMIT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert started.returncode == 0, started.stdout
        state = json.loads((folder / "state.json").read_text())
        home = folder / f"airflow-{state['version']}"
        yield MadeUp(state["address"], state["dify"], home, folder / "scheduler.log")
    finally:
        subprocess.run([sys.executable, str(STACK), "down", f"--folder={folder}"], check=True, timeout=120)
        if kept := os.environ.get("KEEP_LOGS"):
            shutil.copytree(folder, kept, dirs_exist_ok=True)
