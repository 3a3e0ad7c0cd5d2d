"""Dify cannot be reached or takes no run, and then it does: what certainly was not accepted is simply sent again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from airflow_provider_dify.exceptions import DifyRateLimitError, DifyTransportError
from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.server import DifyServer
from airflow_provider_dify.testing.workflows import Input, Workflow
from tests.faults.tcp_proxy import TcpProxy
from tests.faults.tries import Task, connect, lookups, modes, stores, submissions
from tests.hooks.test_hook_transports import Authority

pytestmark = pytest.mark.usefixtures("naps")

INPUTS = {"text": "hello"}
ECHO = Workflow("echo", inputs=[Input("text")], duration=0.05)


@pytest.fixture
def server() -> Iterator[DifyServer]:
    with DifyServer([ECHO], time_scale=0.1) as server:
        yield server


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    if shutil.which("openssl") is None:
        pytest.skip("certificates are made with the openssl command")
    return Authority(tmp_path_factory.mktemp("tls"))


def check_healthy_retry(server: DifyServer, refused: Task, monkeypatch: pytest.MonkeyPatch, sent: int = 1) -> None:
    """Let the retry run: it submits at once where the store tells that there is nothing, and else has to look."""
    assert refused.store is None or refused.store.values == {}
    monkeypatch.setattr("airflow_provider_dify.rules.earlier_tries.QUEUE_PATIENCE_SECONDS", 0.3)
    before = len(lookups(server))
    assert refused.retry() == INPUTS
    assert [run.status for run in server.runs] == ["succeeded"]
    assert len(submissions(server)) == sent
    assert server.active_runs() == []
    assert (len(lookups(server)) == before) is (refused.store is not None)


@modes
@stores
def test_a_refused_connection(
    server: DifyServer, monkeypatch: pytest.MonkeyPatch, deferrable: bool, store: bool
) -> None:
    connect(monkeypatch, server, "echo")
    refused = Task(store=store, deferrable=deferrable, inputs=INPUTS, timeout=1)
    server.down("refuse")
    with pytest.raises(DifyTransportError, match=r"No Dify server answered before the deadline, and nothing was sub"):
        refused.run()
    server.up()
    check_healthy_retry(server, refused, monkeypatch)


@modes
@stores
def test_a_name_that_is_not_found(
    server: DifyServer, monkeypatch: pytest.MonkeyPatch, deferrable: bool, store: bool
) -> None:
    connect(monkeypatch, server, "echo", "http://dify.invalid")
    lost = Task(store=store, deferrable=deferrable, inputs=INPUTS)
    with pytest.raises(DifyTransportError, match=r"dify\.invalid.*Nothing was sent"):
        lost.run()
    connect(monkeypatch, server, "echo")
    check_healthy_retry(server, lost, monkeypatch)


@modes
@stores
def test_a_certificate_that_is_not_trusted(
    server: DifyServer, authority: Authority, monkeypatch: pytest.MonkeyPatch, deferrable: bool, store: bool
) -> None:
    with TcpProxy(server.port, tls=authority.server_side()) as proxy:
        connect(monkeypatch, server, "echo", proxy.url)
        distrusting = Task(store=store, deferrable=deferrable, inputs=INPUTS)
        with pytest.raises(DifyTransportError, match=r"is not trusted.*Nothing was sent"):
            distrusting.run()
        assert (proxy.submissions, server.requests) == (0, [])
        connect(monkeypatch, server, "echo", proxy.url, verify=authority.bundle)
        check_healthy_retry(server, distrusting, monkeypatch)
        assert proxy.submissions == 1


def rate_limit(status: int, headers: dict[str, str], times: int = 1) -> Fault:
    return Fault("submit", "too_many_requests", status=status, headers=headers, times=times)


LIMITS: dict[str, dict[str, Any]] = {
    "429": {"status": 429, "headers": {}},
    "429 with Retry-After": {"status": 429, "headers": {"Retry-After": "1"}},
    "too many requests": {"status": 400, "headers": {}},
}
limits = pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS)


@limits
@modes
@stores
def test_a_rate_limit_that_fails_the_task(
    server: DifyServer, monkeypatch: pytest.MonkeyPatch, deferrable: bool, store: bool, limit: dict[str, Any]
) -> None:
    connect(monkeypatch, server, "echo")
    server.inject(rate_limit(**limit))
    limited = Task(store=store, deferrable=deferrable, inputs=INPUTS, on_rate_limit="fail")
    with pytest.raises(DifyRateLimitError, match="nothing was started"):
        limited.run()
    assert (len(submissions(server)), lookups(server)) == (1, [])
    check_healthy_retry(server, limited, monkeypatch, sent=2)


@limits
@modes
def test_a_rate_limit_that_the_task_waits_out(
    server: DifyServer, monkeypatch: pytest.MonkeyPatch, deferrable: bool, limit: dict[str, Any]
) -> None:
    """After Retry-After at the earliest, else after an interval that grows."""
    monkeypatch.setattr("airflow_provider_dify.rules.submission.RATE_LIMIT_FIRST_SECONDS", 0.1)
    connect(monkeypatch, server, "echo")
    server.inject(rate_limit(**limit, times=2))
    limited = Task(store=True, deferrable=deferrable, inputs=INPUTS)
    assert limited.run() == INPUTS
    assert len(server.runs) == 1
    assert lookups(server) == []
    first, second, third = submissions(server)
    if limit["headers"]:
        assert second - first >= 1.0
        assert third - second >= 1.0
    else:
        assert second - first >= 0.09
        assert third - second >= 0.18
    assert limited.store is not None
    assert limited.store.is_settled


@modes
def test_a_rate_limit_beyond_the_deadline_leaves_no_run_and_is_named(
    server: DifyServer, monkeypatch: pytest.MonkeyPatch, deferrable: bool
) -> None:
    connect(monkeypatch, server, "echo")
    server.inject(rate_limit(429, {"Retry-After": "60"}, times=1))
    limited = Task(store=True, deferrable=deferrable, inputs=INPUTS, timeout=2)
    with pytest.raises(DifyRateLimitError):
        limited.run()
    assert server.runs == []
    check_healthy_retry(server, limited, monkeypatch, sent=2)
