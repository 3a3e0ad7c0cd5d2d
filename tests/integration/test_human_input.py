"""Questions of paused runs as required actions of a real Airflow: asked, answered on either side, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_dify.compat import has_required_actions
from airflow_provider_dify.testing.answering import FormRecord
from airflow_provider_dify.testing.runs import RunRecord
from airflow_provider_dify.testing.server import DifyServer
from airflow_provider_dify.testing.workflows import HumanInput, Input, Step, Workflow
from tests.integration.airflow_dags import decoded
from tests.integration.airflow_processes import Airflow, processes_of, wait_for
from tests.integration.airflow_tables import XCOM
from tests.integration.task_logs import is_settled, task_log

DAGS = Path(__file__).parent / "human_dags"
TASK = "review"
OUTPUTS = {"comment": "{human.comment}", "action": "{human.__action_id}"}
FORM = HumanInput(
    form_content="## Please approve {{#start.text#}}\n\n{{#$output.comment#}} {{#$output.tone#}}",
    fields={"comment": "fine", "tone": {"type": "select", "options": ["plain", "formal"]}},
)
TEXT = [Input("text")]

pytestmark = [
    pytest.mark.processes,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not has_required_actions(), reason="Airflow before 3.1 has no required actions"),
]


def workflows() -> list[Workflow]:
    """Return a workflow that asks once, one that asks two people at a time, and one that asks in a loop."""
    brief = HumanInput("Do you agree?", actions={"yes": "Yes", "no": "No"})
    pair = Step("both", type="parallel", steps=[Step("legal", human_input=brief), Step("sales", human_input=brief)])
    loop = Step("check", human_input=HumanInput("Round {round} of {{#start.text#}}", {"note": ""}), rounds=2)
    simple = HumanInput("Shall it go out?", {"note": "nothing"})
    return [
        Workflow("simple", TEXT, steps=[Step("human", human_input=simple)], outputs={"note": "{human.note}"}),
        Workflow("review", TEXT, steps=[Step("human", human_input=FORM)], outputs=OUTPUTS),
        Workflow("two", TEXT, steps=[pair], outputs={"l": "{legal.__action_id}", "s": "{sales.__action_id}"}),
        Workflow("often", TEXT, steps=[loop], outputs={"note": "{check.note}"}),
    ]


LIMIT = 400.0
AT_A_TIME = 3


def shows_later_questions() -> bool:
    """Tell whether this Airflow shows more than the first question of a task instance."""
    return tuple(int(part) for part in version("apache-airflow").split(".")[:2]) >= (3, 4)


# One DAG run for each test, in about their order.
RUNS = {
    "asks": ["plain", "in_dify", "expired", "both", "wrong_option", "wrong_value", "marked", "cleared", "killed"],
    "asks_for_deferrable": ["plain"],
    "asks_by_sensor": ["plain"],
    "asks_with_default": ["default"],
    "asks_in_vain": ["vain"],
    "asks_until_deadline": ["deadline"],
    "asks_two": ["two"],
    "asks_often": ["often"],
}


class Played:
    """One Airflow and one Dify, with a DAG run for each test."""

    def __init__(self, airflow: Airflow, server: DifyServer) -> None:
        self.airflow = airflow
        self.server = server
        self.rest = airflow.rest
        self._scheduler_log = airflow.home / "scheduler.log"
        self._order = [(dag_id, run_id) for dag_id, run_ids in RUNS.items() for run_id in run_ids]
        self._begun: set[tuple[str, str]] = set()

    def _begin(self, dag_id: str, run_id: str) -> None:
        """Start a DAG run, and with it those of the next tests: not all at once, which is too much for SQLite."""
        index = self._order.index((dag_id, run_id))
        for due in self._order[index : index + AT_A_TIME]:
            if due not in self._begun:
                self._begun.add(due)
                self.rest.trigger(*due, {})

    def state(self, dag_id: str, run_id: str) -> str | None:
        self.airflow.check()
        return self.rest.task_state(dag_id, run_id, TASK)

    def asked(self, dag_id: str, run_id: str, body: str = "") -> dict[str, Any]:
        """
        Wait until a question is open and the task deferred, and return its required action.

        Airflow 3.3 and later resume the task at the answer. Where its scheduler has not read yet how the worker that
        deferred has ended, it then takes that end for the task's (apache/airflow 71580): an answer must not be given
        within the first seconds, as no person does.
        """
        self._begin(dag_id, run_id)
        seen: dict[str, Any] = {}

        def found() -> dict[str, Any] | None:
            seen["action"] = action = self.rest.required_action(dag_id, run_id, TASK)
            seen["state"] = state = self.state(dag_id, run_id)
            seen["settled"] = settled = is_settled(self._scheduler_log, self.airflow.home, dag_id, run_id, TASK)
            assert state not in ("failed", "success"), "The task has ended."
            is_open = action is not None and not action["response_received"] and body in action["body"]
            return action if is_open and state == "deferred" and settled else None

        try:
            return wait_for(f"the question of {run_id}", found, LIMIT)
        except AssertionError as error:
            logs = f"{self.log(dag_id, run_id)}\n{self.airflow.logs()}"
            raise AssertionError(f"{error} Seen last: {seen}\n{logs}") from error

    def ended(self, dag_id: str, run_id: str) -> str:
        self._begin(dag_id, run_id)
        state: str | None = wait_for(
            f"the end of {dag_id} {run_id}",
            lambda: found if (found := self.state(dag_id, run_id)) in ("success", "failed") else None,
            LIMIT,
        )
        assert state is not None
        return state

    def closed(self, dag_id: str, run_id: str) -> list[str]:
        """Wait until a required action is closed, and return what was chosen."""

        def found() -> list[str] | None:
            action = self.rest.required_action(dag_id, run_id, TASK)
            return action["chosen_options"] if action is not None and action["response_received"] else None

        return wait_for(f"the end of the question of {dag_id} {run_id}", found, LIMIT)

    def outputs(self, dag_id: str, run_id: str) -> Any:
        query = f"SELECT value FROM {XCOM} WHERE dag_id = ? AND run_id = ? AND task_id = ? AND key = 'return_value'"
        return decoded(self.airflow.rows(query, dag_id, run_id, TASK)[0][0])

    def log(self, dag_id: str, run_id: str) -> str:
        """Return what the task and its trigger have logged."""
        return task_log(self.airflow.home, dag_id, run_id, TASK)

    def runs(self, dag_id: str, run_id: str) -> list[RunRecord]:
        """Return the Dify runs of a DAG run, oldest first."""
        return [run for run in self.server.runs if {dag_id, run_id} <= set(run.user.split("/"))]

    def forms(self, dag_id: str, run_id: str) -> list[FormRecord]:
        """Return the forms of a DAG run, oldest first."""
        ids = [run.id for run in self.runs(dag_id, run_id)]
        return [form for form in self.server.forms.all() if form.run_id in ids]

    def submissions(self, form: FormRecord) -> list[Any]:
        """Return the answers to a form that came over the API, with their statuses."""
        return [
            (request.json["action"], request.json["inputs"], request.status)
            for request in self.server.requests
            if request.method == "POST" and request.path.endswith(form.token)
        ]

    def stops(self, dag_id: str, run_id: str) -> list[str]:
        """Return the Dify runs of a DAG run that Dify was asked to stop."""
        asked = [request.path for request in self.server.requests if request.path.endswith("/stop")]
        return [run.id for run in self.runs(dag_id, run_id) if any(run.task_id in path for path in asked)]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    home = tmp_path_factory.mktemp("human")
    with DifyServer(workflows()) as server:

        def connection(app: str) -> dict[str, Any]:
            return {"conn_type": "dify", "host": server.base_url, "password": server.api_key(app)}

        others = {f"dify_{app}": connection(app) for app in ("simple", "two", "often")}
        settings = {"CORE__DAGS_ARE_PAUSED_AT_CREATION": "False"}
        with Airflow(home, connection("review"), DAGS, connections=others, settings=settings) as airflow:
            wait_for("Airflow's answer", airflow.rest.answers)
            wait_for("the DAGs", lambda: len(airflow.rows("SELECT 1 FROM serialized_dag")) >= len(RUNS))
            yield Played(airflow, server)
            forms = server.forms.all()
            stored = airflow.stored()
        wait_for("the end of all that was started", lambda: not processes_of(airflow.sessions))
    assert forms
    for form in forms:
        assert [path for path, content in stored.items() if form.token.encode() in content] == []


@pytest.mark.parametrize(
    "dag_id",
    [
        "asks",
        pytest.param("asks_for_deferrable", marks=pytest.mark.any_airflow),
        pytest.param("asks_by_sensor", marks=pytest.mark.any_airflow),
    ],
)
def test_an_answer_in_airflow_lets_the_run_go_on(played: Played, dag_id: str) -> None:
    action = played.asked(dag_id, "plain")
    assert action["subject"] == "Dify asks: human"
    assert action["body"] == "## Please approve the draft\n\n`comment` `tone`"
    assert action["options"] == ["Approve", "Reject"]
    assert action["params"]["tone"]["schema"]["enum"] == ["plain", "formal"]
    assert action["params"]["comment"]["value"] == "fine"
    values = {"comment": "well done", "tone": "formal"}
    assert played.rest.respond(dag_id, "plain", TASK, ["Approve"], values) == 200
    assert played.ended(dag_id, "plain") == "success", played.log(dag_id, "plain")
    assert played.outputs(dag_id, "plain") == {"comment": "well done", "action": "approve"}
    (form,) = played.forms(dag_id, "plain")
    assert played.submissions(form) == [("approve", values, 200)]
    assert "was sent to Dify run" in played.log(dag_id, "plain")
    assert played.stops(dag_id, "plain") == []


def test_an_answer_in_dify_closes_the_question(played: Played) -> None:
    played.asked("asks", "in_dify")
    (form,) = played.forms("asks", "in_dify")
    played.server.forms.answer(form.id, "reject", {"comment": "no", "tone": "plain"})
    assert played.closed("asks", "in_dify") == ["answered in Dify"]
    assert played.ended("asks", "in_dify") == "success"
    assert played.outputs("asks", "in_dify") == {"comment": "no", "action": "reject"}
    assert played.submissions(form) == []


def test_a_form_that_expires_closes_the_question(played: Played) -> None:
    played.asked("asks", "expired")
    (form,) = played.forms("asks", "expired")
    played.server.forms.expire(form.id)
    (chosen,) = played.closed("asks", "expired")
    assert chosen in ("expired in Dify", "answered in Dify")
    assert played.ended("asks", "expired") == "success"
    assert played.submissions(form) == []


def test_of_two_answers_at_the_same_moment_the_first_in_dify_counts(played: Played) -> None:
    played.asked("asks", "both")
    (form,) = played.forms("asks", "both")
    values = {"comment": "from Airflow", "tone": "plain"}
    assert played.rest.respond("asks", "both", TASK, ["Approve"], values) == 200
    played.server.forms.answer(form.id, "reject", {"comment": "from Dify", "tone": "plain"})
    assert played.ended("asks", "both") == "success", played.log("asks", "both")
    assert played.outputs("asks", "both") == {"comment": "from Dify", "action": "reject"}
    assert played.closed("asks", "both") == ["Approve"]
    assert [status for *_, status in played.submissions(form)] in ([], [412])
    assert "was answered in Dify before" in played.log("asks", "both")


def test_a_wrong_option_is_refused_or_asked_again(played: Played) -> None:
    """Airflow 3.3 and later refuse it; before, the question is opened again."""
    played.asked("asks", "wrong_option")
    (form,) = played.forms("asks", "wrong_option")
    status = played.rest.respond("asks", "wrong_option", TASK, ["Maybe"], {"tone": "plain"})
    if status != 400:
        wait_for(
            "the line in the log", lambda: "The option 'Maybe' is none" in played.log("asks", "wrong_option"), LIMIT
        )
    played.asked("asks", "wrong_option")
    assert played.submissions(form) == []
    assert played.rest.respond("asks", "wrong_option", TASK, ["Reject"], {"tone": "plain"}) == 200
    assert played.ended("asks", "wrong_option") == "success", played.log("asks", "wrong_option")
    assert played.submissions(form) == [("reject", {"comment": "fine", "tone": "plain"}, 200)]


def test_a_value_that_the_form_does_not_take_is_asked_for_again(played: Played) -> None:
    played.asked("asks", "wrong_value")
    (form,) = played.forms("asks", "wrong_value")
    assert played.rest.respond("asks", "wrong_value", TASK, ["Approve"], {"tone": "shrill"}) == 200
    wait_for("the line in the log", lambda: "It is asked again" in played.log("asks", "wrong_value"), LIMIT)
    played.asked("asks", "wrong_value")
    assert played.submissions(form) == []
    assert played.rest.respond("asks", "wrong_value", TASK, ["Approve"], {"tone": "formal"}) == 200
    assert played.ended("asks", "wrong_value") == "success", played.log("asks", "wrong_value")
    assert played.submissions(form) == [("approve", {"comment": "fine", "tone": "formal"}, 200)]


def test_a_task_that_is_marked_stops_the_run(played: Played) -> None:
    played.asked("asks", "marked")
    played.rest.mark_task("asks", "marked", TASK, "failed")
    assert played.closed("asks", "marked") == ["the task was ended in Airflow"]
    (run,) = played.runs("asks", "marked")
    wait_for("the stop", lambda: played.stops("asks", "marked") == [run.id], LIMIT)
    assert played.state("asks", "marked") == "failed"


def test_a_task_that_is_cleared_asks_for_its_new_run(played: Played) -> None:
    played.asked("asks", "cleared")
    played.rest.clear("asks", "cleared", TASK)
    wait_for("the new run", lambda: len(played.runs("asks", "cleared")) == 2, LIMIT)
    played.asked("asks", "cleared")
    old, new = played.forms("asks", "cleared")
    assert played.rest.respond("asks", "cleared", TASK, ["Approve"], {"tone": "plain"}) == 200
    assert played.ended("asks", "cleared") == "success", played.log("asks", "cleared")
    assert played.submissions(old) == []
    assert played.submissions(new) == [("approve", {"comment": "fine", "tone": "plain"}, 200)]
    assert played.stops("asks", "cleared") == [old.run_id]


def test_without_an_answer_the_default_action_is_sent(played: Played) -> None:
    assert played.ended("asks_with_default", "default") == "success", played.log("asks_with_default", "default")
    assert played.closed("asks_with_default", "default") == ["not answered in time"]
    assert played.outputs("asks_with_default", "default") == {"note": "nothing"}
    (form,) = played.forms("asks_with_default", "default")
    assert played.submissions(form) == [("reject", {"note": "nothing"}, 200)]
    assert "default_action 'Reject' takes the place" in played.log("asks_with_default", "default")


def test_without_an_answer_and_a_default_the_task_fails(played: Played) -> None:
    assert played.ended("asks_in_vain", "vain") == "failed"
    assert played.closed("asks_in_vain", "vain") == ["not answered in time"]
    assert "DifyHumanInputTimeoutError" in played.log("asks_in_vain", "vain")
    assert len(played.stops("asks_in_vain", "vain")) == 1


def test_the_deadline_of_the_task_closes_the_question(played: Played) -> None:
    assert played.ended("asks_until_deadline", "deadline") == "failed"
    assert played.closed("asks_until_deadline", "deadline") == ["the task's deadline has passed"]
    assert "DifyRunTimeoutError" in played.log("asks_until_deadline", "deadline")
    assert len(played.stops("asks_until_deadline", "deadline")) == 1


def test_forms_that_wait_at_the_same_time_are_asked_in_one_action(played: Played) -> None:
    action = played.asked("asks_two", "two")
    assert action["options"] == ["1. legal: Yes", "1. legal: No", "2. sales: Yes", "2. sales: No"]
    assert played.rest.respond("asks_two", "two", TASK, ["1. legal: Yes", "2. sales: No"]) == 200
    assert played.ended("asks_two", "two") == "success", played.log("asks_two", "two")
    assert played.outputs("asks_two", "two") == {"l": "yes", "s": "no"}
    assert [len(played.submissions(form)) for form in played.forms("asks_two", "two")] == [1, 1]


def test_forms_in_a_loop_are_asked_one_after_the_other(played: Played) -> None:
    """Airflow before 3.4 shows the first question only, and the others are answered in Dify."""
    played.asked("asks_often", "often", "Round 0 of the draft")
    assert played.rest.respond("asks_often", "often", TASK, ["Approve"], {"note": "first"}) == 200
    wait_for("the second form", lambda: len(played.forms("asks_often", "often")) == 2, LIMIT)
    first, second = played.forms("asks_often", "often")
    if shows_later_questions():
        played.asked("asks_often", "often", "Round 1 of the draft")
        assert played.rest.respond("asks_often", "often", TASK, ["Reject"], {"note": "second"}) == 200
    else:
        line = "goes on showing the first question"
        wait_for("the line in the log", lambda: line in played.log("asks_often", "often"), LIMIT)
        assert played.closed("asks_often", "often") == ["to be answered in Dify"]
        played.server.forms.answer(second.id, "reject", {"note": "second"})
    assert played.ended("asks_often", "often") == "success", played.log("asks_often", "often")
    assert played.outputs("asks_often", "often") == {"note": "second"}
    assert played.submissions(first) == [("approve", {"note": "first"}, 200)]
    assert len(played.submissions(second)) == (1 if shows_later_questions() else 0)


def test_another_triggerer_goes_on_polling(played: Played) -> None:
    played.asked("asks", "killed")
    played.airflow.kill("triggerer")
    (form,) = played.forms("asks", "killed")
    played.server.forms.answer(form.id, "approve", {"comment": "meanwhile", "tone": "plain"})
    played.airflow.start("triggerer")
    assert played.closed("asks", "killed") == ["answered in Dify"]
    assert played.ended("asks", "killed") == "success", played.log("asks", "killed")
    assert played.outputs("asks", "killed") == {"comment": "meanwhile", "action": "approve"}
    assert played.stops("asks", "killed") == []
