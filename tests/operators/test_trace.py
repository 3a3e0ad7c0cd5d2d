"""Task and workflow are one trace: the task's trace goes with the submission, and with nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest

from airflow_provider_dify.exceptions import DifyInvalidInputError
from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.server import DifyServer
from tests.faults.tries import Task, TaskInstance, modes
from tests.hooks.support import Connect, Face, Start
from tests.integration.airflow_dags import example, run

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"
CARRIED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class CarryingTaskInstance(TaskInstance):
    """A task instance of Airflow 3."""

    context_carrier: Any = None


@contextmanager
def span(trace_id: int = int(TRACE_ID, 16), span_id: int = 0xB7AD6B7169203331) -> Iterator[None]:
    """Let a span of OpenTelemetry be the current one."""
    trace = pytest.importorskip("opentelemetry.trace")
    context = trace.SpanContext(trace_id, span_id, is_remote=False, trace_flags=trace.TraceFlags(1))
    with trace.use_span(trace.NonRecordingSpan(context)):
        yield


def reported(server: DifyServer) -> tuple[str | None, str | None]:
    """Return the header and the key of the one submission, after a look at all other requests."""
    submissions = []
    for request in server.requests:
        names = {name.lower(): value for name, value in request.headers.items()}
        if request.method == "POST" and request.path.endswith("/run"):
            submissions.append((names.get("traceparent"), request.json.get("trace_id")))
        else:
            assert "traceparent" not in names
            assert "trace_id" not in request.query
    (submission,) = submissions
    return submission


CASES: dict[str, tuple[Any, Any, dict[str, Any], tuple[str | None, str | None]]] = {
    "no trace": (None, None, {}, (None, None)),
    "a span": (span, None, {}, (PARENT, TRACE_ID)),
    "a carrier": (None, {"traceparent": CARRIED}, {}, (CARRIED, CARRIED.split("-")[1])),
    "the span before the carrier": (span, {"traceparent": CARRIED}, {}, (PARENT, TRACE_ID)),
    "an invalid span": (lambda: span(0, 0), {"traceparent": CARRIED}, {}, (CARRIED, CARRIED.split("-")[1])),
    "a broken carrier": (None, {"traceparent": "00-nonsense"}, {}, (None, None)),
    "a carrier of another kind": (None, ["x"], {}, (None, None)),
    "an empty carrier": (None, {}, {}, (None, None)),
    "not wanted": (span, {"traceparent": CARRIED}, {"trace": False}, (None, None)),
    "an id of its own": (span, None, {"trace_id": "mine"}, (PARENT, "mine")),
    "an id of its own alone": (span, None, {"trace_id": "mine", "trace": False}, (None, "mine")),
}


@modes
@pytest.mark.parametrize("case", CASES)
def test_the_trace_goes_with_the_submission_alone(dify: Start, case: str, deferrable: bool) -> None:
    current, carrier, parameters, expected = CASES[case]
    server = dify("echo")
    task = Task(store=False, deferrable=deferrable, inputs={"text": "x"}, **parameters)
    task.ti = CarryingTaskInstance()
    task.ti.context_carrier = carrier
    with current() if current else nullcontext():
        assert task.run() == {"text": "x"}
    assert reported(server) == expected


def test_a_trace_that_cannot_be_read_breaks_nothing(dify: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(Mapping[str, Any]):
        def __getitem__(self, key: str) -> Any:
            raise RuntimeError("odd")

        __iter__ = __len__ = None  # type: ignore[assignment]

    server = dify("echo")
    task = Task(store=False, deferrable=False)
    task.ti = CarryingTaskInstance()
    task.ti.context_carrier = Odd()
    task.run()
    assert reported(server) == (None, None)


def test_a_submission_that_waits_its_turn_tells_it_again(dify: Start) -> None:
    server = dify("echo")
    server.inject(Fault("submit", "too_many_requests", headers={"Retry-After": "0"}, status=429))
    with span():
        Task(store=False, deferrable=True, on_rate_limit="wait").run()
    sent = [request for request in server.requests if request.path.endswith("/run")]
    assert [request.json["trace_id"] for request in sent] == [TRACE_ID, TRACE_ID]


@modes
def test_an_id_that_dify_would_drop_is_refused_before_a_run_exists(dify: Start, deferrable: bool) -> None:
    server = dify("echo")
    with pytest.raises(DifyInvalidInputError, match="trace_id must have 1 to 128 letters"):
        Task(store=False, deferrable=deferrable, trace_id="a b").run()
    assert server.requests == []


def test_the_gateway_contract_gets_the_header_alone(dify: Start) -> None:
    server = dify("echo", api_contract="workflow-runs")
    with span():
        Task(store=False, deferrable=False, workflow_id="echo").run()
    assert reported(server) == (PARENT, None)


@pytest.mark.parametrize("method", ["create_workflow_run", "stream"])
def test_a_script_names_its_own(dify: Start, face: Face, method: str) -> None:
    server = dify("echo")
    ask: Any = face.stream if method == "stream" else lambda *args, **kwargs: face(method, *args, **kwargs)
    ask({}, user="me", traceparent=PARENT)
    assert reported(server) == (PARENT, TRACE_ID)
    for wrong in ({"trace_id": "a b"}, {"traceparent": "x"}):
        with pytest.raises(DifyInvalidInputError, match=next(iter(wrong))):
            ask({}, user="me", **wrong)
    assert len(server.runs) == 1


def test_the_header_of_a_connection_gives_way(dify: Start, connect: Connect) -> None:
    server = dify("echo")
    connect(server.base_url, server.api_key("echo"), extra={"headers": {"traceparent": CARRIED}})
    with span():
        Task(store=False, deferrable=False).run()
    sent = {request.path: request.headers.get("traceparent") for request in server.requests}
    assert sent.pop("/v1/workflows/run") == PARENT
    assert set(sent.values()) == {CARRIED}


@pytest.mark.xdist_group("dags")
def test_a_task_in_a_dag_tells_its_span(dify: Start) -> None:
    server = dify("summarize")
    with span():
        assert run(example("dify_quickstart")).state == "success"
    header, key = reported(server)
    assert header is not None
    assert key == header.split("-")[1] == TRACE_ID
