"""The connection of a submission breaks at a chosen byte: one run exists, or nobody can tell and nothing is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from airflow_provider_dify.exceptions import DifySubmissionUnknownError
from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.server import DifyServer
from airflow_provider_dify.testing.workflows import Input, Workflow
from tests.faults.tcp_proxy import ANSWER, KINDS, POINTS, REQUEST, Cut, TcpProxy
from tests.faults.tries import Task, connect, modes, stores, submissions

INPUTS = {"text": "hello"}
ECHO = Workflow("echo", inputs=[Input("text")], duration=0.1)
kinds = pytest.mark.parametrize("kind", KINDS)

Behind = Callable[..., tuple[DifyServer, TcpProxy]]


@pytest.fixture
def behind(monkeypatch: pytest.MonkeyPatch) -> Iterator[Behind]:
    """Return a function that starts a server behind a proxy, which the default connection names."""
    with ExitStack() as stack:

        def start(cut: Cut | None = None, **options: Any) -> tuple[DifyServer, TcpProxy]:
            server = stack.enter_context(DifyServer([ECHO], time_scale=0.1, **options))
            proxy = stack.enter_context(TcpProxy(server.port, cut))
            connect(monkeypatch, server, "echo", proxy.url)
            return server, proxy

        yield start


def task(*, store: bool, deferrable: bool, **parameters: Any) -> Task:
    return Task(store=store, deferrable=deferrable, **{"inputs": INPUTS, "submit_timeout": 0.3, **parameters})


def check_one_run(server: DifyServer, proxy: TcpProxy, cut: Task) -> None:
    assert (proxy.cuts, proxy.submissions, len(submissions(server))) == (1, 1, 1)
    assert [run.status for run in server.runs] == ["succeeded"]
    assert server.active_runs() == []
    assert cut.ti.xcoms["workflow_run_id"] == server.runs[0].id
    assert cut.store is None or cut.store.is_settled


@kinds
@pytest.mark.parametrize("point", [point for point in POINTS if point != REQUEST])
@modes
@stores
def test_a_submission_that_arrived_is_one_run_wherever_its_answer_breaks(
    behind: Behind, kind: str, point: str, deferrable: bool, store: bool
) -> None:
    server, proxy = behind(Cut(kind, point))
    cut = task(store=store, deferrable=deferrable)
    assert cut.run() == INPUTS
    check_one_run(server, proxy, cut)


@kinds
@modes
@stores
def test_a_submission_that_never_arrived_counts_as_a_queued_one(
    behind: Behind, kind: str, deferrable: bool, store: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first try ends at its deadline. Whether a retry submits depends on what it can know of the first."""
    server, proxy = behind(Cut(kind, REQUEST))
    cut = task(store=store, deferrable=deferrable, timeout=1)
    with pytest.raises(DifySubmissionUnknownError, match="was not sent a second time") as caught:
        cut.run()
    marker = "airflow/dag/task/manual__2026-01-01T00:00:00+00:00/2/1"
    assert repr(marker) in str(caught.value)
    assert ("does not submit" if store else "submits again where it finds none") in str(caught.value)
    assert (proxy.cuts, proxy.submissions, server.runs) == (1, 1, [])
    if store:
        # It is known that the first try has submitted: as long as nobody clears the task nothing is sent again.
        with pytest.raises(DifySubmissionUnknownError, match="a clear submits again") as caught:
            cut.retry()
        assert repr(marker) in str(caught.value)
        assert (proxy.submissions, server.runs) == (1, [])
        assert cut.clear() == INPUTS
    else:
        monkeypatch.setattr("airflow_provider_dify.rules.earlier_tries.QUEUE_PATIENCE_SECONDS", 0.5)
        assert cut.retry() == INPUTS
    assert (proxy.submissions, len(server.runs)) == (2, 1)
    assert server.active_runs() == []


@pytest.mark.parametrize("kind", ["reset", "half-close"])
@modes
@stores
def test_a_blocking_call_that_is_cut_is_found_again(behind: Behind, kind: str, deferrable: bool, store: bool) -> None:
    server, proxy = behind(Cut(kind, ANSWER))
    cut = task(store=store, deferrable=deferrable, response_mode="blocking")
    assert cut.run() == INPUTS
    check_one_run(server, proxy, cut)


@modes
@stores
def test_a_silent_blocking_call_gives_its_outputs_at_the_deadline(
    behind: Behind, deferrable: bool, store: bool
) -> None:
    """Silence is what a blocking call looks like until its run has ended: nothing else is to be seen before."""
    server, proxy = behind(Cut("stall", ANSWER))
    cut = task(store=store, deferrable=deferrable, response_mode="blocking", timeout=1)
    assert cut.run() == INPUTS
    check_one_run(server, proxy, cut)


@pytest.mark.parametrize("status", [502, 503, 504])
@modes
@stores
def test_a_blocking_call_that_dies_at_a_gateway_is_one_run(
    behind: Behind, status: int, deferrable: bool, store: bool
) -> None:
    server, proxy = behind()
    server.inject(Fault("submit", "accept_then_status", status=status))
    lost = task(store=store, deferrable=deferrable, response_mode="blocking")
    assert lost.run() == INPUTS
    assert (proxy.submissions, len(server.runs)) == (1, 1)
    assert server.active_runs() == []


@kinds
@modes
def test_a_blocking_call_that_never_arrived_is_not_sent_again(behind: Behind, kind: str, deferrable: bool) -> None:
    server, proxy = behind(Cut(kind, REQUEST))
    with pytest.raises(DifySubmissionUnknownError, match="was not sent a second time"):
        task(store=True, deferrable=deferrable, response_mode="blocking", timeout=1).run()
    assert (proxy.submissions, server.runs) == (1, [])


@kinds
def test_the_proxy_cuts_only_the_submission_that_it_is_to_cut(behind: Behind, kind: str) -> None:
    server, proxy = behind(Cut(kind, ANSWER, submission=2))
    for number in (1, 2, 3):
        each = task(store=True, deferrable=False)
        each.ti.map_index = number
        assert each.run() == INPUTS
        assert proxy.cuts == min(number - 1, 1)
    assert (proxy.submissions, len(server.runs)) == (3, 3)
    assert proxy.connections > 3
