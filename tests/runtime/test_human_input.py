"""A paused run's question in Airflow: opened, answered on either side, sent to Dify once."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_dify.exceptions import (
    DifyError,
    DifyHumanInputTimeoutError,
    DifyInvalidInputError,
    DifyRunStoppedError,
    DifyRunTimeoutError,
)
from airflow_provider_dify.hooks.dify import DifyHook
from airflow_provider_dify.operators.workflow import DifyRunWorkflowOperator
from airflow_provider_dify.sensors.workflow import DifyWorkflowRunSensor
from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.server import DifyServer
from airflow_provider_dify.testing.workflows import HumanInput, Input, Step, Workflow
from tests.faults.tries import Task, TaskInstance, connect

ACTIONS = "airflow_provider_dify.runtime.required_actions"
TEXT = [Input("text")]
COMMENT = HumanInput("Approve {{#start.text#}}? {{#$output.comment#}}", {"comment": "fine"})
ATTACHED = HumanInput("Attach.", {"att": {"type": "file", "allowed_file_types": ["document"]}})
BRIEF = HumanInput("Do you agree?")
OUTPUTS = {"comment": "{human.comment}", "action": "{human.__action_id}"}
APPROVED = {"comment": "fine", "action": "approve"}


def asking(form: HumanInput, outputs: Any = None, **more: Any) -> list[Step]:
    return [Step("human", human_input=form, **more)]


WORKFLOWS = [
    Workflow("asks", TEXT, steps=asking(COMMENT), outputs=OUTPUTS),
    Workflow("attaches", TEXT, steps=asking(ATTACHED), outputs={"action": "{human.__action_id}"}),
    Workflow(
        "by_mail", TEXT, steps=asking(HumanInput("Well?", channels=["email"])), outputs={"a": "{human.__action_id}"}
    ),
    Workflow("chooses", TEXT, steps=asking(HumanInput("?", {"tone": {"type": "select", "options": ["a", "b"]}}))),
    Workflow("often", TEXT, steps=asking(HumanInput("Round {round}"), rounds=3), outputs={"a": "{human.__action_id}"}),
    Workflow(
        "two",
        TEXT,
        steps=[Step("both", type="parallel", steps=[Step(name, human_input=BRIEF) for name in ("legal", "sales")])],
        outputs={"legal": "{legal.__action_id}", "sales": "{sales.__action_id}"},
    ),
]


@dataclass
class Actions:
    """
    Airflow's required action of one task instance.

    :param keeps_first: Whether it goes on showing the first question, as before Airflow 3.4.
    :param person: Called when a question is opened; what it returns is the answer.
    """

    keeps_first: bool = True
    person: Callable[[dict[str, Any]], tuple[list[str], dict[str, Any]] | None] = lambda shown: None
    shown: dict[str, Any] | None = None
    response: Any = None
    opened: list[dict[str, Any]] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)

    def open(self, ti_id: Any, **details: Any) -> Any:
        details = json.loads(json.dumps(details))
        if self.shown is None or not self.keeps_first:
            self.shown = details
        self.opened.append(details)
        self.response = None
        if (answer := self.person(details)) is not None:
            self.respond(*answer)
        return SimpleNamespace(**self.shown)

    def respond(self, options: list[str], values: dict[str, Any], user: str | None = "Ada") -> None:
        who = None if user is None else SimpleNamespace(id="1", name=user)
        self.response = SimpleNamespace(
            response_received=True, chosen_options=options, params_input=values, responded_by_user=who
        )

    def read(self, ti_id: Any) -> Any:
        return self.response or SimpleNamespace(response_received=False)

    def close(self, ti_id: Any, why: str) -> Any:
        if self.response is not None:
            raise RuntimeError("409 Conflict")
        self.respond([why], {}, user=None)
        self.closed.append(why)
        return self.response


class Asked(Task):
    """A task on an Airflow that resumes a deferred task itself when its action is answered: 3.3 and later."""

    actions: Actions

    def _event_of(self, deferred: TaskDeferred) -> Any:
        response = self.actions.response
        if deferred.method_name == "execute_answered" and response is not None and response.responded_by_user:
            user = {"id": "1", "name": response.responded_by_user.name}
            reported = {"chosen_options": response.chosen_options, "params_input": response.params_input}
            return {**reported, "responded_at": "2026-11-26", "responded_by_user": user, "timedout": False}
        return super()._event_of(deferred)


@pytest.fixture
def actions(monkeypatch: pytest.MonkeyPatch) -> Actions:
    actions = Actions()
    monkeypatch.setattr(f"{ACTIONS}.open_required_action", actions.open)
    monkeypatch.setattr(f"{ACTIONS}.read_required_action", actions.read)
    monkeypatch.setattr(f"{ACTIONS}.close_required_action", actions.close)
    monkeypatch.setattr("airflow_provider_dify.runtime.task_wait.has_required_actions", lambda: True)
    monkeypatch.setattr("airflow_provider_dify.runtime.human_input.RESUME_SECONDS", 1.0)
    monkeypatch.setattr("airflow_provider_dify.runtime.human_input._RESUME_POLL_SECONDS", 0.05)
    monkeypatch.setattr("airflow_provider_dify.runtime.human_input._SEND_PAUSES", (0.01, 0.01))
    Asked.actions = actions
    return actions


class Log(logging.Handler):
    """Everything that was logged, by Airflow's loggers of tasks too, which do not reach those of the tests."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += f"{record.getMessage()}\n"


@pytest.fixture
def log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[[], str]]:
    """Return a function that returns all that was logged."""
    lines = Log()
    loggers = [logging.getLogger("airflow.task"), logging.getLogger("airflow_provider_dify")]
    for each in loggers:
        each.addHandler(lines)
        monkeypatch.setattr(each, "level", logging.INFO)
        each.manager._clear_cache()  # type: ignore[attr-defined]
    caplog.set_level(logging.DEBUG, "urllib3")
    read = ""

    def text() -> str:
        nonlocal read
        read += "".join(capfd.readouterr())
        return read + lines.text + caplog.text

    yield text
    for each in loggers:
        each.removeHandler(lines)


@pytest.fixture
def server() -> Iterator[DifyServer]:
    with DifyServer(WORKFLOWS, time_scale=0.01) as server:
        yield server


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch, server: DifyServer, actions: Actions) -> Callable[..., Task]:
    """Return a function that makes a task for an app."""

    def make(app: str = "asks", kind: type[Task] = Task, **parameters: Any) -> Task:
        connect(monkeypatch, server, app)
        parameters = {"inputs": {"text": "it"}, "on_pause": "ask", **parameters}
        return kind(store=True, deferrable=True, **parameters)

    return make


def answers(server: DifyServer) -> list[tuple[str, Any, int | None]]:
    """Return the answers that came over the API: action, inputs and status."""
    return [
        (request.json["action"], request.json["inputs"], request.status)
        for request in server.requests
        if request.method == "POST" and "/form/human_input/" in request.path
    ]


def always(*options: str, **values: Any) -> Callable[[Any], tuple[list[str], dict[str, Any]]]:
    return lambda shown: (list(options), values)


@pytest.mark.parametrize("kind", [Task, Asked], ids=["reported by the trigger", "resumed by Airflow"])
def test_an_answer_is_sent_once(task: Any, server: DifyServer, actions: Actions, kind: type[Task]) -> None:
    actions.person = always("Reject", comment="no")
    assert task(kind=kind).run() == {"comment": "no", "action": "reject"}
    assert answers(server) == [("reject", {"comment": "no"}, 200)]
    (opened,) = actions.opened
    assert (opened["subject"], opened["body"]) == ("Dify asks: human", "Approve it? `comment`")


def test_a_task_without_deferrable_is_deferred_to_ask(task: Any, actions: Actions) -> None:
    actions.person = always("Approve")
    made = task()
    made.parameters["deferrable"] = False
    assert made.run() == APPROVED


def test_an_answer_in_dify_closes_the_question(task: Any, server: DifyServer, actions: Actions) -> None:
    def in_dify(shown: Any) -> None:
        (form,) = server.forms.open()
        server.forms.answer(form.id, "approve", {"comment": "from Dify"})

    actions.person = in_dify
    assert task().run() == {"comment": "from Dify", "action": "approve"}
    assert actions.closed == ["answered in Dify"]
    assert answers(server) == []


def test_an_answer_that_comes_second_is_not_sent(
    task: Any, server: DifyServer, actions: Actions, log: Callable[[], str]
) -> None:
    def both(shown: Any) -> Any:
        (form,) = server.forms.open()
        server.forms.answer(form.id, "approve", {"comment": "from Dify"})
        return ["Reject"], {}

    actions.person = both
    assert task(kind=Asked).run() == {"comment": "from Dify", "action": "approve"}
    assert answers(server) == []
    assert "The answer of Ada in Airflow was not sent" in log()


def test_an_answer_that_is_overtaken_on_its_way_is_refused_by_dify(
    task: Any, server: DifyServer, actions: Actions, log: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = DifyHook.submit_human_input

    def overtaken(self: DifyHook, *args: Any, **kwargs: Any) -> None:
        (form,) = server.forms.open()
        server.forms.answer(form.id, "approve", {"comment": "from Dify"})
        submit(self, *args, **kwargs)

    monkeypatch.setattr(DifyHook, "submit_human_input", overtaken)
    actions.person = always("Reject")
    assert task().run() == {"comment": "from Dify", "action": "approve"}
    assert [status for *_, status in answers(server)] == [412]
    assert "was not taken: it was answered in Dify before" in log()


@pytest.mark.parametrize("kind", ["accept_then_reset", "accept_then_status", "reset_before"])
def test_an_answer_whose_answer_is_lost_is_sent_again(
    task: Any, server: DifyServer, actions: Actions, kind: str
) -> None:
    server.inject(Fault("any", kind, user="airflow:Ada", **({"status": 502} if kind.endswith("status") else {})))
    actions.person = always("Approve")
    assert task().run() == APPROVED
    statuses = [status for *_, status in answers(server)]
    assert len(statuses) == 2
    assert statuses[1] == (200 if kind == "reset_before" else 412)


def test_a_form_that_expires_closes_the_question(task: Any, server: DifyServer, actions: Actions) -> None:
    actions.person = lambda shown: server.forms.expire(server.forms.open()[0].id)
    assert task().run() == {"comment": "fine", "action": "__timeout"}
    assert actions.closed in (["answered in Dify"], ["expired in Dify"])


def test_an_answer_that_does_not_do_is_asked_for_again(
    task: Any, server: DifyServer, actions: Actions, log: Callable[[], str]
) -> None:
    given: Any = iter(
        [(["Maybe"], {}), (["Approve"], {"comment": ["x"]}), (["Approve"], {"other": 1}), (["Approve"], {})]
    )
    actions.person = lambda shown: next(given)
    assert task().run() == APPROVED
    assert next(given, None) is None
    assert answers(server) == [("approve", {"comment": "fine"}, 200)]
    assert "It is asked again." in log()


def test_nobody_answers_and_the_default_action_is_sent(task: Any, server: DifyServer, actions: Actions) -> None:
    assert task(response_timeout=0.5, default_action="approve").run() == APPROVED
    assert actions.closed == ["not answered in time"]
    assert answers(server) == [("approve", {"comment": "fine"}, 200)]
    assert actions.opened[0]["defaults"] == ["Approve"]


@pytest.mark.parametrize(
    ("app", "default", "reported"),
    [
        ("asks", None, "there is no default_action"),
        ("asks", "never", "default_action 'never' is none of the form's actions: 'Approve', 'Reject'"),
        ("chooses", "approve", "default_action 'approve' cannot be sent"),
    ],
)
def test_nobody_answers_and_the_task_fails(
    task: Any, server: DifyServer, actions: Actions, app: str, default: str | None, reported: str
) -> None:
    with pytest.raises(DifyHumanInputTimeoutError, match=reported):
        task(app, response_timeout=0.5, default_action=default).run()
    assert actions.closed == ["not answered in time"]
    assert answers(server) == []
    assert any(request.path.endswith("/stop") for request in server.requests)


def test_the_deadline_closes_the_question(task: Any, actions: Actions) -> None:
    with pytest.raises(DifyRunTimeoutError):
        task(timeout=1).run()
    assert actions.closed == ["the task's deadline has passed"]


def test_several_forms_are_answered_together(task: Any, server: DifyServer, actions: Actions) -> None:
    actions.person = always("1. legal: Approve", "2. sales: Reject")
    assert task("two").run() == {"legal": "approve", "sales": "reject"}
    assert [action for action, *_ in answers(server)] == ["approve", "reject"]
    assert len(actions.opened) == 1


def test_of_several_forms_one_is_answered_in_dify_meanwhile(task: Any, server: DifyServer, actions: Actions) -> None:
    def one_in_dify(shown: Any) -> Any:
        server.forms.answer(server.forms.open()[0].id, "reject")
        return ["1. legal: Approve", "2. sales: Approve"], {}

    actions.person = one_in_dify
    assert task("two", kind=Asked).run() == {"legal": "reject", "sales": "approve"}
    assert [(action, status) for action, _, status in answers(server)] == [("approve", 200)]


def test_later_questions_are_asked_where_airflow_shows_them(task: Any, server: DifyServer, actions: Actions) -> None:
    actions.keeps_first = False
    actions.person = always("Approve")
    assert task("often").run() == {"a": "approve"}
    assert [opened["body"] for opened in actions.opened] == ["Round 0", "Round 1", "Round 2"]
    assert len(answers(server)) == 3


def test_a_later_question_that_airflow_does_not_show_is_left_to_dify(
    task: Any, server: DifyServer, actions: Actions, log: Callable[[], str]
) -> None:
    def person(shown: Any) -> Any:
        if len(actions.opened) > 1:
            server.forms.answer(server.forms.open()[0].id, "reject")
        return (["Approve"], {}) if len(actions.opened) == 1 else None

    actions.person = person
    assert task("often").run() == {"a": "reject"}
    assert [action for action, *_ in answers(server)] == ["approve"]
    assert "goes on showing the first question" in log()
    assert "to be answered in Dify" in actions.closed


def test_a_form_without_token_is_waited_for(
    task: Any, server: DifyServer, actions: Actions, log: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fire = Task.fire

    async def answered_by_mail(trigger: Any) -> Any:
        if type(trigger).__name__ == "DifyHumanInputTrigger":
            server.forms.answer(server.forms.open()[0].id, "reject")
        return await fire(trigger)

    monkeypatch.setattr(Task, "fire", staticmethod(answered_by_mail))
    assert task("by_mail").run() == {"a": "reject"}
    assert actions.opened == []
    assert "cannot be answered from Airflow: it is answered in Dify, by email" in log()


def test_before_airflow_3_1_it_waits_and_says_where(
    task: Any, server: DifyServer, log: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_dify.runtime.task_wait.has_required_actions", lambda: False)
    with pytest.raises(DifyRunTimeoutError):
        task(timeout=1).run()
    assert 'on_pause="ask" needs Airflow 3.1 or later' in log()
    assert f"is answered in Dify: {server.base_url}" in log()
    assert "The step 'human' asks a human" in log()


def test_a_retry_asks_again_for_the_same_run(task: Any, server: DifyServer, actions: Actions) -> None:
    """The worker died with the answer, before it was sent."""
    made = task()
    actions.person = always("Approve")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DifyHook, "submit_human_input", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            made.run()
    assert made.retry() == APPROVED
    assert len(server.runs) == 1
    assert answers(server) == [("approve", {"comment": "fine"}, 200)]


def test_the_stop_of_resumed_runs_is_explained(monkeypatch: pytest.MonkeyPatch, actions: Actions) -> None:
    actions.person = always("Approve")
    with DifyServer(WORKFLOWS, time_scale=0.01, resume_stops=True) as server:
        connect(monkeypatch, server, "asks")
        made = Task(store=True, deferrable=True, inputs={"text": "it"}, on_pause="ask")
        with pytest.raises(DifyRunStoppedError, match=r"Upgrade Dify to 1\.17 or later; a retry would only ask again"):
            made.run()
        assert [status for *_, status in answers(server)] == [200]


def test_a_file_is_named_by_its_url(task: Any, server: DifyServer, actions: Actions) -> None:
    actions.person = always("Approve", att="https://files.example/a.txt")
    assert task("attaches").run() == {"action": "approve"}
    ((_, inputs, _),) = answers(server)
    assert inputs["att"] == {
        "type": "document",
        "transfer_method": "remote_url",
        "url": "https://files.example/a.txt",
    }


def test_a_path_is_uploaded_only_below_the_roots(
    task: Any, server: DifyServer, actions: Actions, tmp_path: Path, log: Callable[[], str]
) -> None:
    inside, outside = tmp_path / "in" / "a.txt", tmp_path / "out.txt"
    inside.parent.mkdir()
    for path in (inside, outside):
        path.write_text("content")
    given = iter([str(outside), str(inside)])
    actions.person = lambda shown: (["Approve"], {"att": next(given)})
    assert task("attaches", allowed_upload_roots=[str(inside.parent)]).run() == {"action": "approve"}
    ((_, inputs, _),) = answers(server)
    assert inputs["att"]["transfer_method"] == "local_file"
    assert "not below one of allowed_upload_roots" in log()


def test_without_roots_no_path_is_uploaded(
    task: Any, server: DifyServer, actions: Actions, tmp_path: Path, log: Callable[[], str]
) -> None:
    (tmp_path / "a.txt").write_text("content")
    given = iter([str(tmp_path / "a.txt"), "https://files.example/a.txt"])
    actions.person = lambda shown: (["Approve"], {"att": next(given)})
    task("attaches").run()
    assert "this task uploads none" in log()
    assert not any(request.path.endswith("/files/upload") for request in server.requests)


def test_notifiers_are_called_and_may_fail(
    task: Any, server: DifyServer, actions: Actions, log: Callable[[], str]
) -> None:
    reported = []

    def notify(context: Any) -> None:
        reported.append(context["dify_question"])

    def broken(context: Any) -> None:
        raise RuntimeError("no mail server")

    actions.person = always("Approve")
    task(notifiers=[broken, notify]).run()
    assert reported == [
        {"subject": "Dify asks: human", "body": "Approve it? `comment`", "options": ["Approve", "Reject"]}
    ]
    assert "no mail server" in log()


def test_assigned_users_are_passed_on(task: Any, actions: Actions) -> None:
    actions.person = always("Approve")
    task(assigned_users={"id": "7", "name": "Ada"}).run()
    assert actions.opened[0]["assigned_users"] == [{"id": "7", "name": "Ada"}]


def test_no_token_is_kept_reported_or_logged(
    task: Any, server: DifyServer, actions: Actions, log: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    event_of = Task._event_of

    def noting(self: Task, deferred: TaskDeferred) -> Any:
        event = event_of(self, deferred)
        seen.extend([deferred.trigger.serialize(), deferred.kwargs, event])
        return event

    monkeypatch.setattr(Task, "_event_of", noting)
    actions.person = always("Approve")
    made = task(notifiers=[lambda context: seen.append({k: str(v) for k, v in context.items()})])
    made.run()
    (form,) = server.forms.all()
    everything = json.dumps([seen, actions.opened, made.ti.xcoms, made.store.values], default=str) + log()
    assert form.token not in everything
    assert form.id in everything


@pytest.mark.parametrize("status", ["answered", "unanswered", "ended", "error"])
def test_the_event_of_another_trigger_is_passed_over(
    task: Any, server: DifyServer, actions: Actions, log: Callable[[], str], status: str
) -> None:
    """With SQLite the ids of triggers are used again, so that an event may reach the wrong task."""

    class Misled(Task):
        misled = False

        def _event_of(self, deferred: TaskDeferred) -> Any:
            if deferred.method_name != "execute_answered" or self.misled:
                return super()._event_of(deferred)
            self.misled = True
            answer = {"options": ["Reject"], "values": {}, "user": "Eve"}
            run_id = "6b454183-889f-4bc9-8060-764be1cb16ea"
            resume = {**deferred.trigger.resume, "workflow_run_id": run_id, "turn": "another"}
            return {"status": status, "workflow_run_id": run_id, "answer": answer, "resume": resume}

    actions.person = lambda shown: (["Approve"], {}) if len(actions.opened) > 1 else None
    assert task(kind=Misled).run() == APPROVED
    assert [action for action, *_ in answers(server)] == ["approve"]
    assert "the event of another trigger, which is passed over" in log()


def test_the_sensor_asks_too(monkeypatch: pytest.MonkeyPatch, server: DifyServer, actions: Actions) -> None:
    connect(monkeypatch, server, "asks")
    run_id = DifyHook().create_workflow_run({"text": "it"}, user="somebody").workflow_run_id
    actions.person = always("Approve")
    context: Any = {"ti": TaskInstance()}
    method, kwargs = "execute", {}
    while True:
        sensor = DifyWorkflowRunSensor(
            task_id="it", workflow_run_id=run_id, on_pause="ask", poke_interval=0.05, timeout=10, defer_after=0
        )
        try:
            returned = getattr(sensor, method)(context, **kwargs)
            break
        except TaskDeferred as deferred:
            import asyncio

            event = asyncio.run(Task.fire(deferred.trigger))
            method, kwargs = deferred.method_name, {**(deferred.kwargs or {}), "event": event}
    assert returned == APPROVED
    assert len(answers(server)) == 1


@pytest.mark.parametrize(
    ("parameters", "reported"),
    [
        ({"assigned_users": [{"id": "1", "name": "a"}]}, 'assigned_users needs on_pause="ask"'),
        ({"notifiers": [print]}, 'notifiers needs on_pause="ask"'),
        ({"on_pause": "ask", "assigned_users": ["a"]}, "assigned_users\\[0\\] must be"),
        ({"on_pause": "ask", "assigned_users": "a"}, "assigned_users must be a list"),
        ({"on_pause": "ask", "notifiers": ["a"]}, "notifiers must be a notifier"),
        ({"on_pause": "ask", "response_timeout": 0}, "response_timeout must be more than 0"),
        ({"on_pause": "ask", "default_action": "a"}, "default_action needs response_timeout"),
        ({"on_pause": "ask", "default_action": 1, "response_timeout": 1}, "default_action must be the id"),
    ],
)
def test_a_wrong_parameter_is_refused(parameters: dict[str, Any], reported: str) -> None:
    with pytest.raises(DifyInvalidInputError, match=reported):
        DifyRunWorkflowOperator(task_id="it", **parameters)


def test_a_rescheduled_sensor_cannot_ask() -> None:
    with pytest.raises(DifyError, match='needs deferrable=True or mode="poke"'):
        DifyWorkflowRunSensor(task_id="it", workflow_run_id="x", mode="reschedule", deferrable=False, on_pause="ask")
