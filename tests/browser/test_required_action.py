"""A person answers in Airflow's user interface what a paused run of Dify asks."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from airflow_provider_dify.compat import has_required_actions
from tests.browser.conftest import Stack
from tests.browser.test_browser import add_connection, wait_for
from tests.browser.ui import Ui
from tests.integration.task_logs import is_settled

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(900),
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(not has_required_actions(), reason="Airflow before 3.1 has no required actions"),
]

DAG_ID, TASK_ID = "dify_human_input", "approve"
APP = "approval"
SUBJECT = "Dify asks: Editor"
TONES = ["neutral", "friendly", "formal"]
COMMENT = "Mention November, too."
OUTPUTS = {"decision": "approve", "tone": "formal", "comment": COMMENT}


def test_a_form_is_filled_in_and_answered_in_the_browser(ui: Ui, stack: Stack) -> None:
    add_connection(ui, stack, f"dify_{APP}", APP)
    ui.save()
    run_id = ui.trigger(DAG_ID)

    page = ui.page
    ui.open_task(DAG_ID, run_id, TASK_ID)
    page.get_by_role("link", name="Required Action (1)").wait_for()
    wait_for("the task is deferred", lambda: ui.state_of_task() == "deferred")
    # No person answers within the first seconds, in which Airflow can fail the task (apache/airflow 71580).
    key = (DAG_ID, run_id, TASK_ID)
    wait_for("the scheduler knows of the deferral", lambda: is_settled(stack.scheduler_log, stack.home, *key))
    (run,) = [run for run in stack.dify.runs if run.app == APP]
    (form,) = [form for form in stack.dify.forms.all() if form.run_id == run.id]

    ui.open("/")
    page.get_by_role("button", name="Browse").click()
    page.get_by_role("menuitem", name="Required Actions").click()
    action = page.get_by_role("link", name=SUBJECT)
    action.wait_for()
    seen = {"list": page.content()}
    action.click()
    options = page.locator("[data-testid^=hitl-option-]")
    comment = page.locator("textarea[name=element_comment]")
    tone = page.get_by_role("combobox", name="tone")
    comment.wait_for()
    shown = page.inner_text("body")
    for text in (SUBJECT, "May this go out?", "Sales went up in October.", "Tone: tone", "Comment: comment"):
        assert text in shown
    assert "{{#" not in shown
    assert options.all_inner_texts() == ["Approve", "Reject"]
    assert comment.input_value() == ""
    # Dify's form proposes no tone, and takes no answer without one.
    assert [option.is_disabled() for option in options.all()] == [True, True]

    tone.click()
    assert page.get_by_role("option").all_inner_texts() == TONES
    page.get_by_role("option", name="formal", exact=True).click()
    comment.fill(COMMENT)
    comment.blur()
    wait_for("the options can be chosen", lambda: all(option.is_enabled() for option in options.all()))
    seen["question"] = page.content()
    ui.picture("required-action")
    with ui.posting("/hitlDetails") as answers:
        page.get_by_role("button", name="Approve", exact=True).click()
    assert answers[0].ok, answers[0].text()

    page.get_by_text("Response received at").wait_for()
    wait_for("the task succeeds", lambda: ui.state_of_task() == "success")
    ui.open_run(DAG_ID, run_id)
    wait_for("the DAG run succeeds", lambda: ui.state_of_run(DAG_ID, run_id) == "success")
    seen["log"] = ui.log(*key)
    ui.resize()
    page.get_by_role("link", name="Required Actions", exact=True).click()
    page.get_by_text("Response received at").wait_for()
    assert comment.input_value() == COMMENT
    assert not comment.is_enabled()
    assert [option.is_disabled() for option in options.all()] == [True, True]
    seen["answer"] = page.content()
    ui.picture("required-action-answered")

    posted = [each for each in stack.dify.requests if each.method == "POST" and each.path.endswith(form.token)]
    given = [(each.json["action"], each.json["inputs"], each.status) for each in posted]
    assert given == [("approve", {"tone": "formal", "comment": COMMENT}, 200)]
    assert [each.path for each in stack.dify.requests if each.path.endswith("/stop")] == []
    assert [each.id for each in stack.dify.runs if each.app == APP] == [run.id]
    path = f"dags/{DAG_ID}/dagRuns/{quote(run_id, safe='')}/taskInstances/{TASK_ID}/xcomEntries/return_value"
    outputs = page.request.get(f"{stack.address}/api/v2/{path}", params={"stringify": "false"})
    assert outputs.json()["value"] == OUTPUTS
    assert [name for name, text in seen.items() if form.token in text] == []
