"""All example DAGs at once in what ``make up`` starts: triggered, and answered where they ask, as a user does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import requests

from airflow_provider_dify.compat import has_required_actions
from tests.integration.airflow_processes import wait_for
from tests.integration.airflow_rest import Rest
from tests.integration.made_up import MadeUp, made_up
from tests.integration.task_logs import is_settled, task_log
from tests.integration.test_example_dags import DAG_IDS, EXPECTED, SKIPPED

pytestmark = [pytest.mark.processes, pytest.mark.timeout(1800)]

RUN_ID = "manual__at_once"
# Airflow 2 with SQLite runs one task at a time, and there are about seventy, most of which resume once.
LIMIT = 1200.0
ASKING = ("dify_human_input", RUN_ID, "approve")
RESULTS: dict[str, dict[str, Any]] = EXPECTED | {
    "dify_deferrable": {"keep": f"The run {RUN_ID} of dify_deferrable has begun."},
    "dify_human_input": {"report": "approve, formal: go"},
}


class Person:
    """Answers what the example with human input asks: in Airflow where that shows it, else on Dify's page of forms."""

    def __init__(self, up: MadeUp, rest: Rest) -> None:
        self._up = up
        self._rest = rest

    def answer(self) -> None:
        """Answer each question that is open, once the scheduler knows how the task was deferred."""
        if has_required_actions():
            self._answer_in_airflow()
        else:
            self._answer_in_dify()

    def _answer_in_airflow(self) -> None:
        # With SQLite Airflow can mistake the event of another trigger for the answer: the question is asked again then.
        action = self._rest.required_action(*ASKING)
        is_open = action is not None and not action["response_received"]
        if not is_open or self._rest.task_state(*ASKING) != "deferred":
            return
        if is_settled(self._up.scheduler_log, self._up.home, *ASKING):
            assert self._rest.respond(*ASKING, ["Approve"], {"tone": "formal", "comment": "go"}) == 200

    def _answer_in_dify(self) -> None:
        page = requests.get(f"{self._up.dify}/console/forms", timeout=60).text
        for path in re.findall(r'action="([^"]+)"', page):
            filled = {"action": "approve", "field.tone": "formal", "field.comment": "go"}
            assert requests.post(f"{self._up.dify}{path}", data=filled, timeout=60).ok


def test_all_examples_succeed_at_once(tmp_path: Path) -> None:
    with made_up(tmp_path / "up", DIFY_EXAMPLE_STORE=(tmp_path / "store").as_uri()) as up:
        rest = Rest(up.address)
        wait_for("Airflow's REST API", rest.answers)
        assert rest.import_errors() == []
        assert sorted(rest.dag_ids()) == DAG_IDS
        for dag_id in DAG_IDS:
            rest.trigger(dag_id, RUN_ID)
        person = Person(up, rest)

        def ended() -> bool:
            person.answer()
            return all(rest.dag_run_state(dag_id, RUN_ID) in ("success", "failed") for dag_id in DAG_IDS)

        try:
            wait_for("the end of all DAG runs", ended, LIMIT)
        finally:
            wrong = [reported for dag_id in DAG_IDS for reported in failures(up, rest, dag_id)]
            assert not wrong, "\n\n".join(wrong)
        results = {dag_id: {each: rest.xcom(dag_id, RUN_ID, each) for each in RESULTS[dag_id]} for dag_id in DAG_IDS}
    for dag_id, expected in RESULTS.items():
        for task_id, value in expected.items():
            found = results[dag_id][task_id]
            assert value.fullmatch(found) if isinstance(value, re.Pattern) else found == value


def failures(up: MadeUp, rest: Rest, dag_id: str) -> list[str]:
    """Return a text with the log of each task that has not succeeded, and has not been left out by design."""
    texts = []
    for task_id, state in rest.task_states(dag_id, RUN_ID):
        if state != ("skipped" if task_id in SKIPPED.get(dag_id, ()) else "success"):
            texts.append(f"{dag_id}.{task_id} is {state}:\n{task_log(up.home, dag_id, RUN_ID, task_id)[-5000:]}")
    return texts
