"""Airflow's own worker and triggerer send the metrics of docs/production.md to a StatsD server, by name and tags."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from airflow_provider_dify.runtime.metrics import METRICS, POLL_REQUESTS, TIMER
from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.server import DifyServer
from airflow_provider_dify.testing.workflows import Input, Step, Workflow
from tests.integration.airflow_processes import Airflow, wait_for

DAGS = Path(__file__).parent / "deferring_dags"
ENDS = {"answer_lost": "success", "waited_for": "failed"}
SECONDS = Input("seconds", "number")
WORKFLOWS = (
    Workflow("costly", inputs=[SECONDS], steps=[Step("wait", seconds="{seconds}", tokens=120)], outputs={"text": "x"}),
    Workflow("broken", inputs=[SECONDS], steps=[Step("wait", seconds="{seconds}", error="out of paper")], outputs={}),
)
# With InfluxDB's tags, as docs/production.md says: airflow.dify.tokens,conn_id=dify_default:120|c
LINE = re.compile(r"airflow\.(dify\.[a-z.]+),([^:]+):([0-9.]+)\|(c|ms)(?:\|.*)?")


@dataclass(frozen=True)
class Sample:
    """One value that has arrived.

    :param sender: The port that it came from, which is another for each process.
    """

    name: str
    tags: dict[str, str]
    value: float
    kind: str
    sender: int


@dataclass
class StatsdServer:
    """What has arrived at a UDP socket on loopback."""

    port: int = 0
    samples: list[Sample] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[StatsdServer]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
            receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**20)
            receiver.bind(("127.0.0.1", 0))
            self.port = receiver.getsockname()[1]
            thread = threading.Thread(target=self._receive, args=(receiver,))
            thread.start()
            try:
                yield self
            finally:
                # An empty datagram ends the thread.
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                    sender.sendto(b"", ("127.0.0.1", self.port))
                thread.join()

    def _receive(self, receiver: socket.socket) -> None:
        while True:
            content, (_, sender) = receiver.recvfrom(65536)
            if not content:
                return
            for line in content.decode().splitlines():
                if found := LINE.fullmatch(line):
                    name, tags, value, kind = found.groups()
                    pairs = dict(pair.split("=", 1) for pair in tags.split(","))
                    self.samples.append(Sample(name, pairs, float(value), kind, sender))
                elif "dify." in line.partition(",")[0]:
                    self.others.append(line)

    def of(self, name: str, conn_id: str) -> list[Sample]:
        return [each for each in self.samples if each.name == name and each.tags["conn_id"] == conn_id]

    def sum(self, name: str, conn_id: str) -> float:
        return sum(each.value for each in self.of(name, conn_id))


@pytest.mark.processes
@pytest.mark.timeout(600)
def test_a_statsd_server_receives_each_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEFERRING_ERRORS", str(tmp_path / "errors"))
    statsd = StatsdServer()
    with statsd.running(), DifyServer(WORKFLOWS) as server:
        server.inject(Fault("submit", "cut", after_events=0, user="airflow/answer_lost/run/run-of-answer_lost/0/1"))
        connections = {
            f"dify_{dag}": {"conn_type": "dify", "host": server.base_url, "password": server.api_key(app)}
            for dag, app in (("answer_lost", "costly"), ("waited_for", "broken"))
        }
        settings = {
            "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "METRICS__STATSD_ON": "True",
            "METRICS__STATSD_HOST": "127.0.0.1",
            "METRICS__STATSD_PORT": str(statsd.port),
            "METRICS__STATSD_INFLUXDB_ENABLED": "True",
        }
        with Airflow(tmp_path, {}, DAGS, connections=connections, web=True, settings=settings) as airflow:
            wait_for("the API", airflow.rest.answers)
            query = "SELECT 1 FROM serialized_dag WHERE dag_id = ?"
            for dag in ENDS:
                wait_for(f"DAG {dag}", lambda dag=dag: airflow.rows(query, dag))
                airflow.rest.trigger(dag, f"run-of-{dag}")
            for dag, end in ENDS.items():
                wait_for(f"the end of {dag}", lambda dag=dag: airflow.dag_state(dag) in ("success", "failed"))
                assert airflow.dag_state(dag) == end, airflow.logs()
        runs = server.runs
        polls = [each for each in server.requests if each.method == "GET" and "/workflows/" in each.path]
    assert statsd.others == []
    for metric in METRICS:
        arrived = [each for each in statsd.samples if each.name == metric.name]
        assert arrived, metric.name
        assert {each.kind for each in arrived} == {"ms" if metric.kind == TIMER else "c"}, metric.name
        assert {frozenset(each.tags) for each in arrived} == {frozenset({"conn_id", *metric.tags})}, metric.name
    lost, waited = "dify_answer_lost", "dify_waited_for"
    counted = {
        (conn, name): statsd.sum(f"dify.{name}", conn)
        for conn in (lost, waited)
        for name in ("runs.started", "runs.succeeded", "runs.failed", "submission.unknown", "tokens")
    }
    assert {key: value for key, value in counted.items() if value} == {
        (lost, "runs.started"): 1,
        (lost, "runs.succeeded"): 1,
        (lost, "submission.unknown"): 1,
        (lost, "tokens"): 120,
        (waited, "runs.started"): 1,
        (waited, "runs.failed"): 1,
    }
    for conn, status in ((lost, "succeeded"), (waited, "failed")):
        (duration,) = statsd.of("dify.run.duration", conn)
        assert duration.tags["status"] == status
        assert duration.value >= 8000
    assert statsd.sum(POLL_REQUESTS.name, lost) + statsd.sum(POLL_REQUESTS.name, waited) == len(polls)
    # A worker's process does not poll a run that it has deferred: the triggerer does.
    workers = {each.sender for each in statsd.samples if each.name != POLL_REQUESTS.name}
    assert {each.sender for each in statsd.samples} - workers
    assert len(runs) == 2
