"""Run the quickstart DAG for real and show what happens: against a local Dify server, or a given one."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DAG_ID = "dify_quickstart"
# What the task logs of its run: lines of its own, and the facts below the first one.
SAID = re.compile(r"(Dify run [0-9a-f-]{36}.*?|  (?:server|app|user|link|deadline): .*?)(?: \[airflow| loc=|$)")
TEXT = "Airflow runs the workflow and waits for it without a worker slot. Everything else is up to you."


def main() -> int:
    began = time.monotonic()
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dify-demo-")))
        try:
            address, key, inputs = target(stack)
        except ValueError as error:
            say(str(error))
            return 2
        say(f"Dify:     {address}")
        say(f"DAG:      {DAG_ID} (deferrable)")
        say(f"Inputs:   {json.dumps(inputs, ensure_ascii=False)}")
        configure(home, address, key)
        log = home / "airflow.log"
        try:
            with quiet(log), watched(home / "airflow.db", log):
                outputs = run(home, inputs)
        except BaseException:
            print(log.read_text(errors="replace").replace(key, "***"), file=sys.stderr)
            raise
        if outputs is None:
            print(log.read_text(errors="replace").replace(key, "***"), file=sys.stderr)
            errors = re.findall(r"exceptions\.(Dify\w+Error: .+)", log.read_text(errors="replace"))
            say("The DAG run failed; its log is above.")
            if errors:
                say(errors[-1].replace(key, "***"))
            return 1
        say(f"Outputs:  {json.dumps(outputs, ensure_ascii=False)}")
        say(f"Done in {time.monotonic() - began:.0f} s.")
    return 0


def say(text: str) -> None:
    OUT.write(text + "\n")
    OUT.flush()


OUT = os.fdopen(os.dup(1), "w", encoding="utf-8")


def target(stack: ExitStack) -> tuple[str, str, dict[str, Any]]:
    """Return address, API key and inputs: those of the caller, or of a server that is started here."""
    address = os.environ.get("DIFY_BASE_URL", "").strip()
    key = os.environ.get("DIFY_API_KEY", "").strip()
    text = os.environ.get("DIFY_INPUTS", "").strip()
    try:
        inputs = json.loads(text) if text else None
    except ValueError:
        raise ValueError(
            f'DIFY_INPUTS is no JSON ({len(text)} characters): give an object such as {{"text": "hi"}}.'
        ) from None
    if inputs is not None and not isinstance(inputs, dict):
        raise ValueError("DIFY_INPUTS must be a JSON object of the workflow's inputs.")
    if bool(address) != bool(key):
        raise ValueError(f"{'DIFY_API_KEY' if address else 'DIFY_BASE_URL'} is missing: give both, or neither.")
    if address:
        return address, key, inputs or {}
    from airflow_provider_dify.testing.server import DifyServer

    server = stack.enter_context(DifyServer())
    return server.base_url, server.api_key("summarize"), inputs or {"text": TEXT}


def configure(home: Path, address: str, key: str) -> None:
    """Give Airflow a home of its own; this must come before its first import."""
    os.environ.update(
        AIRFLOW_HOME=str(home),
        AIRFLOW__CORE__DAGS_FOLDER=str(ROOT / "example_dags"),
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS="False",
        AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{home / 'airflow.db'}?timeout=60",
        AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT="90",
        AIRFLOW_CONN_DIFY_DEFAULT=json.dumps({"conn_type": "dify", "host": address, "password": key}),
    )


def run(home: Path, inputs: dict[str, Any]) -> dict[str, Any] | None:
    """Run the DAG as ``dag.test()`` does, and return the outputs that its first task returned."""
    from airflow.utils.db import initdb

    initdb()
    import airflow
    from airflow.utils.session import create_session

    folder = str(ROOT / "example_dags")
    if airflow.__version__ < "3":
        from airflow.models import DagBag, XCom

        dag = DagBag(folder, include_examples=False).get_dag(DAG_ID)
    else:
        from airflow.models.xcom import XComModel as XCom

        dag = stored_dag(folder)
    dag_run = dag.test(run_conf={"inputs": inputs})
    if str(dag_run.state) != "success":
        return None
    with create_session() as session:
        row = session.query(XCom.value).filter_by(dag_id=DAG_ID, task_id="summarize", key="return_value").one()
    return row[0] if isinstance(row[0], dict) else json.loads(row[0])


def stored_dag(folder: str) -> Any:
    """Return the DAG after storing it, without which Airflow 3.1 and later cannot test it."""
    from airflow.models.dagbundle import DagBundleModel
    from airflow.utils.session import create_session

    try:
        from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
    except ImportError:
        from airflow.models.dagbag import DagBag, sync_bag_to_db

    bag = DagBag(folder)
    with create_session() as session:
        session.merge(DagBundleModel(name="demo"))
    sync_bag_to_db(bag, "demo", None)
    return bag.dags[DAG_ID]


@contextmanager
def quiet(log: Path) -> Iterator[None]:
    """Send everything that Airflow prints to a file, also what it has opened before."""
    sys.stdout.flush()
    saved = os.dup(1), os.dup(2)
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for copy, number in zip(saved, (1, 2), strict=True):
                os.dup2(copy, number)
                os.close(copy)


@contextmanager
def watched(database: Path, log: Path) -> Iterator[None]:
    """Say each change of a task's state, and what the tasks log about Dify, as it happens."""
    stop = threading.Event()
    thread = threading.Thread(target=watch, args=(database, log, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def watch(database: Path, log: Path, stop: threading.Event) -> None:
    states: dict[str, str] = {}
    seen = 0
    last = False
    while not last:
        last = stop.wait(0.05)
        # First the states: a task logs only what it does in the state that it has reached.
        for task_id, state in task_states(database):
            if state and states.get(task_id) != state:
                states[task_id] = state
                say(f"State:    {task_id} is {state}")
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        for line in lines[seen:]:
            match = SAID.search(line)
            if match and match[1] not in states:
                states[match[1]] = ""
                say(f"Log:      {match[1].rstrip()}")
        seen = len(lines)


def task_states(database: Path) -> list[tuple[str, str]]:
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=0.2)) as connection:
            query = "SELECT task_id, state FROM task_instance ORDER BY COALESCE(start_date, '9999'), task_id DESC"
            return connection.execute(query).fetchall()
    except sqlite3.OperationalError:
        return []


if __name__ == "__main__":
    sys.exit(main())
