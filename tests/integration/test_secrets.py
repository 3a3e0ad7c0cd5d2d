"""The API key and a gateway's headers appear in nothing that Airflow stores, logs or prints."""

from __future__ import annotations

from typing import Any

import airflow
import pytest

from airflow_provider_dify.testing.faults import Fault
from tests.conftest import HOME
from tests.hooks.support import Connect, Start
from tests.integration.airflow_dags import example, run, set_deferrable

TOKEN = "gateway-t0ken-that-nobody-may-see"
CASES: dict[str, tuple[str, dict[str, Any], Fault | None]] = {
    "succeeds": ("echo", {"text": "x"}, None),
    "fails": ("failing", {"text": "x"}, None),
    "is refused": ("summarize", {}, None),
    "meets a wrong key": ("echo", {}, Fault("submit", "status", status=401, code="unauthorized", message="no")),
    "breaks": ("echo", {}, Fault("submit", "status", status=502)),
}


@pytest.mark.parametrize("deferrable", [True, False], ids=["deferred", "on the worker"])
@pytest.mark.processes
@pytest.mark.parametrize("case", CASES)
def test_no_secret_is_stored_or_printed(
    dify: Start,
    connect: Connect,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    case: str,
    deferrable: bool,
) -> None:
    app, inputs, fault = CASES[case]
    server = dify(app)
    key = server.api_key(app)
    connect(server.base_url, key, extra={"headers": {"X-Gateway-Token": TOKEN}})
    if fault:
        server.inject(fault)
    dag = example("dify_quickstart")
    set_deferrable(dag, deferrable)
    dag.get_task("summarize").timeout = 20.0
    # dag.test() waits five minutes before each retry.
    dag.get_task("summarize").retries = 0
    outcome = run(dag, {"inputs": inputs})
    # Airflow 2 writes to the stream that it found when it was imported, which is not this test's.
    printed = "".join([*capfd.readouterr(), caplog.text])
    if airflow.__version__.startswith("3.0."):
        # Its dag.test() prints what it is asked to mask, of every connection.
        printed = "\n".join(line for line in printed.splitlines() if "msg=MaskSecret(" not in line)
    assert server.requests[0].headers["X-Gateway-Token"] == TOKEN
    assert outcome.run_id in printed
    stored = {path: path.read_bytes() for path in HOME.rglob("*") if path.is_file()}
    assert any(outcome.run_id.encode() in content for content in stored.values())
    for secret in (key, TOKEN):
        assert secret not in printed
        assert [path for path, content in stored.items() if secret.encode() in content] == []
