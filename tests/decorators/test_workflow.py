"""``@task.dify_workflow``: a function's return value is what the run gets, once in each try."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_dify.decorators.workflow import dify_workflow_task
from airflow_provider_dify.exceptions import DifyInvalidInputError
from airflow_provider_dify.operators.workflow import DifyRunWorkflowOperator
from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.server import DifyServer
from airflow_provider_dify.testing.workflows import Input, Workflow
from tests.faults.tries import DEATHS, Task, connect, death, modes
from tests.hooks.support import Start
from tests.integration.airflow_dags import run

UPLOAD = "6b454183-889f-4bc9-8060-764be1cb16ea"


class DecoratedTask(Task):
    """The tries of a task that a decorated function makes; each call returns something else."""

    def __init__(self, function: Callable[..., Any] | None = None, *, store: bool, deferrable: bool, **parameters: Any):
        self.calls = 0
        self._function = function or self._next
        super().__init__(store=store, deferrable=deferrable, **parameters)

    def _next(self) -> dict[str, Any]:
        return {"text": f"call {self.calls}"}

    def _operator(self) -> DifyRunWorkflowOperator:
        def called() -> Any:
            self.calls += 1
            return self._function()

        with DAG(dag_id="dag", schedule=None, start_date=datetime(2026, 1, 1)):
            made: Any = dify_workflow_task(**self.parameters)(called)()
        operator = made.operator
        assert isinstance(operator, DifyRunWorkflowOperator)
        return operator


@modes
def test_the_function_is_called_once_in_a_try(dify: Start, deferrable: bool) -> None:
    server = dify("echo")
    task = DecoratedTask(store=True, deferrable=deferrable)
    assert task.run() == {"text": "call 1"}
    assert (task.calls, len(server.runs)) == (1, 1)


@modes
def test_a_submission_that_waits_its_turn_sends_what_was_returned_first(
    monkeypatch: pytest.MonkeyPatch, deferrable: bool
) -> None:
    with DifyServer(time_scale=0.01) as server:
        connect(monkeypatch, server, "echo")
        server.inject(Fault("submit", "too_many_requests", headers={"Retry-After": "0"}, status=429, times=2))
        monkeypatch.setattr("airflow_provider_dify.rules.submission.RATE_LIMIT_FIRST_SECONDS", 0.05)
        task = DecoratedTask(lambda: ({"text": "x"}, []), store=True, deferrable=deferrable)
        assert task.run() == {"text": "x"}
        assert (task.calls, len(server.runs)) == (1, 1)


@modes
def test_path_objects_are_uploaded_also_after_a_deferral(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, deferrable: bool
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("words")
    workflow = Workflow("read", inputs=(Input("doc", type="file"),), outputs={"ok": "yes"})
    with DifyServer([workflow], time_scale=0.01) as server:
        connect(monkeypatch, server, "read")
        # A second try without a state store looks for the run of the first one, deferred, before it submits.
        task = DecoratedTask(
            lambda: ({"doc": path}, [path, {"path": path}]), store=False, deferrable=deferrable, timeout=5
        )
        with death("before the POST"):
            task.run()
        assert task.retry() == {"ok": "yes"}
        (sent,) = [request.json for request in server.requests if request.path.endswith("/run")]
        names = [sent["inputs"]["doc"], *sent["files"]]
        assert {each["transfer_method"] for each in names} == {"local_file"}
        assert (task.calls, len(server.runs)) == (2, 1)


@modes
def test_a_retry_that_finds_nothing_submits_what_was_returned_in_it(dify: Start, deferrable: bool) -> None:
    server = dify("echo")
    task = DecoratedTask(store=False, deferrable=deferrable, timeout=5)
    with death("before the POST"):
        task.run()
    assert (task.calls, server.runs) == (1, [])
    assert task.retry() == {"text": "call 2"}
    assert (task.calls, len(server.runs)) == (2, 1)


@modes
@pytest.mark.parametrize("moment", [moment for moment in DEATHS if moment != "before the POST"])
def test_a_retry_reattaches_to_the_run_of_the_try_before(dify: Start, deferrable: bool, moment: str) -> None:
    server = dify("echo")
    task = DecoratedTask(store=True, deferrable=deferrable)
    with death(moment):
        task.run()
    assert task.retry() == {"text": "call 1"}
    assert (task.calls, len(server.runs)) == (2, 1)


@modes
@pytest.mark.parametrize("returned", ["text", ["x"], ({}, "x"), {"text": object()}, {1: 2}, {"text": float("nan")}])
def test_what_is_no_inputs_starts_no_run(dify: Start, deferrable: bool, returned: Any) -> None:
    server = dify("echo")
    with pytest.raises(Exception, match="inputs") as caught:
        DecoratedTask(lambda: returned, store=True, deferrable=deferrable).run()
    assert "DifyInvalidInputError" in repr((caught.value, caught.value.__cause__))
    assert [request.path for request in server.requests if request.method == "POST"] == []


def test_an_error_of_the_function_is_its_own_and_starts_no_run(dify: Start) -> None:
    server = dify("echo")

    def fail() -> dict[str, Any]:
        raise LookupError("no table")

    with pytest.raises(LookupError, match="no table"):
        DecoratedTask(fail, store=True, deferrable=False).run()
    assert server.requests == []


@pytest.mark.parametrize("place", ["function", "decorator"])
def test_files_come_from_the_function_or_the_decorator(dify: Start, place: str) -> None:
    server = dify("echo")
    files = ["https://files.example.com/a.pdf"]
    here = place == "function"
    task = DecoratedTask(
        lambda: ({"text": "x"}, files if here else None),
        store=True,
        deferrable=False,
        **({} if here else {"files": files}),
    )
    task.run()
    (sent,) = [request.json for request in server.requests if request.path.endswith("/run")]
    assert [file["url"] for file in sent["files"]] == files


def test_files_of_both_are_refused(dify: Start) -> None:
    server = dify("echo")
    task = DecoratedTask(lambda: ({}, [UPLOAD]), store=True, deferrable=False, files=[UPLOAD])
    with pytest.raises(DifyInvalidInputError, match="in one of the two places"):
        task.run()
    assert server.requests == []


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"inputs": {"text": "x"}}, "inputs cannot be given to @task.dify_workflow: the function 'make' returns them"),
    ({"multiple_outputs": True, "wait_for_termination": False}, "multiple_outputs needs outputs"),
    ({"poll_interval": 0}, "poll_interval must be more than 0"),
    ({"on_pause": "asks"}, "on_pause must be one of wait, fail, ask"),
]


@pytest.mark.parametrize(("parameters", "text"), REFUSED, ids=[str(each) for each, _ in REFUSED])
def test_wrong_parameters_are_refused_while_the_dag_is_parsed(parameters: dict[str, Any], text: str) -> None:
    def make() -> dict[str, Any]:
        return {}

    with (
        DAG(dag_id="wrong", schedule=None, start_date=datetime(2026, 1, 1)),
        pytest.raises((DifyInvalidInputError, ValueError), match=text),
    ):
        task.dify_workflow(**parameters)(make)()


def test_an_override_is_checked_as_well() -> None:
    def make() -> dict[str, Any]:
        return {}

    with DAG(dag_id="wrong", schedule=None, start_date=datetime(2026, 1, 1)):
        with pytest.raises(DifyInvalidInputError, match="inputs cannot be given"):
            task.dify_workflow(make).override(inputs={})()
        with pytest.raises(DifyInvalidInputError, match="multiple_outputs needs outputs"):
            task.dify_workflow(make, multiple_outputs=True).override(wait_for_termination=False)()


def test_an_async_function_is_refused_while_the_dag_is_parsed() -> None:
    async def make() -> dict[str, Any]:
        return {}

    with (
        DAG(dag_id="wrong", schedule=None, start_date=datetime(2026, 1, 1)),
        pytest.raises(DifyInvalidInputError, match=r"'make' of @task\.dify_workflow must be an ordinary one"),
    ):
        dify_workflow_task(make)()


WORKFLOWS = [
    Workflow("both", inputs=(Input("text"), Input("more", required=False)), outputs={"text": "{text}", "n": 1})
]
BRACES = "{{ not.rendered }} {% nor this %}"


def every_way_to_call() -> DAG:
    """Return a DAG that composes the decorator in every way."""
    with DAG(dag_id="every_way", schedule=None, start_date=datetime(2026, 1, 1)) as dag:

        @task.dify_workflow(poll_interval=0.05, deferrable=True)
        def both(text: str, more: str = "none", ti: Any = None, **context: Any) -> dict[str, Any]:
            """Return inputs."""
            assert context["run_id"] == ti.run_id
            return {"text": f"{text}, {more}, {ti.task_id}", "more": BRACES}

        both("{{ dag.dag_id }}")
        both.override(task_id="overridden", deferrable=False)("a", more="b")
        both.override(task_id="mapped").partial(more="same").expand(text=["x", "y"])
        both.override(task_id="mapped_kwargs").expand_kwargs([{"text": "1", "more": "2"}, {"text": "3"}])

        @task.dify_workflow(multiple_outputs=True)
        def several(text: str) -> dict[str, Any]:
            return {"text": text, "more": BRACES}

        @task.dify_workflow(wait_for_termination=False)
        def started() -> dict[str, Any]:
            return {"text": BRACES}

        started()

        @task
        def use(text: str) -> str:
            return text

        use(several("a")["text"])
    return dag


@pytest.mark.xdist_group("dags")
@pytest.mark.parametrize("version", [pytest.param("1.9.1", marks=pytest.mark.any_airflow), "1.14.2"])
def test_it_composes(dify: Start, version: str) -> None:
    server = dify("both", workflows=WORKFLOWS, emulate=version)
    outcome = run(every_way_to_call())
    assert outcome.state == "success", outcome
    assert outcome.xcom("both") == {"text": "every_way, none, both", "n": 1}
    assert outcome.xcom("overridden")["text"] == "a, b, overridden"
    assert [outcome.xcom("mapped", map_index=index)["text"] for index in (0, 1)] == [
        "x, same, mapped",
        "y, same, mapped",
    ]
    assert [outcome.xcom("mapped_kwargs", map_index=index)["text"] for index in (0, 1)] == [
        "1, 2, mapped_kwargs",
        "3, none, mapped_kwargs",
    ]
    assert outcome.xcom("use") == outcome.xcom("several", "text") == "a"
    # The annotation tells of the inputs, so it means nothing for the outputs.
    assert outcome.xcom("both", "text") is None
    (last,) = [each for each in server.runs if each.id == outcome.xcom("started")]
    assert last.inputs == {"text": BRACES}
    assert {each.inputs["more"] for each in server.runs if each.id != last.id} == {BRACES}
    assert len(server.runs) == 8


def test_airflow_knows_it_under_its_name() -> None:
    decorated: Any = task.dify_workflow(poll_interval=1)(lambda: None)
    assert decorated.operator_class.custom_operator_name == "@task.dify_workflow"
