"""Ten mistakes that are made easily: the log of each says on one screen what is wrong and what to do."""

from __future__ import annotations

import pytest

from tests.browser.conftest import Stack
from tests.browser.test_browser import wait_for
from tests.browser.ui import Ui

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900), pytest.mark.xdist_group("browser")]

DAG_ID = "dify_mistakes"
REFUSED = "app-0123456789abcdefghijklmn"
# What is wrong, and what to do.
MISTAKES = {
    "wrong_input": ("Did you mean 'text'?", "Correct the task's inputs"),
    "missing_input": ("is required but was not given", "Correct the task's inputs"),
    "wrong_type": ("Input 'count' must be a number", "Correct the task's inputs"),
    "wrong_connection_id": ("There is no Airflow connection 'dify_prod'", "Create one of the type dify"),
    "wrong_key": ("401 unauthorized", "Put the app's API key"),
    "dataset_key": ("the key of a knowledge base", "Put the key of the app"),
    "python_repr": ("not a JSON object", "Render it with"),
    "dict_to_the_sensor": ("workflow_run_id must be", "Set wait_for_termination=False"),
    "unpublished_app": ("not published", "press Publish"),
    "chatflow_key": ("not_workflow_app", "Use the API key of an app of the type workflow"),
}


def test_the_log_of_each_mistake_fits_on_one_screen(ui: Ui, stack: Stack) -> None:
    keys = {f"dify_{app}": stack.dify.api_key(app) for app in ("reader", "draft", "chatflow")}
    keys |= {"dify_refused": REFUSED, "dify_dataset": f"dataset-{REFUSED}"}
    for conn_id, key in keys.items():
        ui.begin_connection()
        ui.fill(conn_id=conn_id, host=stack.dify.base_url, password=key, port=str(stack.dify.port))
        ui.save()
    run_id = ui.trigger(DAG_ID)
    ui.open_run(DAG_ID, run_id)
    wait_for("the run fails", lambda: ui.state_of_run(DAG_ID, run_id) == "failed")
    missing = {}
    for task_id, (what, to_do) in MISTAKES.items():
        shown = ui.first_screen_of_log(DAG_ID, run_id, task_id, "To do:")
        ui.picture(f"mistake-{task_id.replace('_', '-')}", height=520, width=1500)
        for text in (what, to_do):
            if text not in " ".join(shown.split()):
                missing[task_id, text] = shown
        assert REFUSED not in shown
    assert missing == {}
