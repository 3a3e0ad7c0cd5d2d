"""What a person sees of the provider, in a real browser."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from airflow_provider_dify.connection_fields import EXTRA_FIELDS
from airflow_provider_dify.testing.faults import Fault
from tests.browser.conftest import LIMIT_MS, Stack
from tests.browser.ui import Ui

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900), pytest.mark.xdist_group("browser")]

FOUND_AGAIN = "Exactly-once submission is supported on this server."


def wait_for(what: str, condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_MS / 1000
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.5)


def add_connection(ui: Ui, stack: Stack, conn_id: str, app: str, **extras: str) -> None:
    ui.begin_connection()
    ui.fill(
        conn_id=conn_id, host=stack.dify.base_url, password=stack.dify.api_key(app), port=str(stack.dify.port), **extras
    )


def test_a_connection_is_filled_in_saved_and_opened_again(ui: Ui, stack: Stack) -> None:
    add_connection(
        ui,
        stack,
        "dify_translate",
        "translate",
        description="Translates texts.",
        proxy="",
        verify="true",
        connect_timeout="7",
        console_url=stack.dify.base_url,
    )
    shown = ui.labels()
    assert [label for label in shown if label in {"Base URL", "API key"}] == ["Base URL", "API key"]
    assert [label for label in shown if label in {extra.label for extra in EXTRA_FIELDS}] == [
        extra.label for extra in EXTRA_FIELDS
    ]
    assert {"Schema", "Login", "Host", "Password"} & set(shown) == set()
    assert ui.is_masked("password")
    assert ui.is_masked("proxy")
    ui.picture("connection-extras", height=1500)
    ui.unfold("Standard Fields")
    ui.picture("connection-form")
    ui.save()

    ui.open_connection("dify_translate")
    ui.unfold("Extra Fields")
    values = ui.values()
    assert values["host"] == stack.dify.base_url
    assert (values["verify"], values["connect_timeout"], values["console_url"]) == ("true", "7", stack.dify.base_url)
    assert values["api_contract"] == "service-api"
    assert ui.is_masked("password")
    assert stack.dify.api_key("translate") not in values.values()


def test_the_test_button_tells_what_the_key_leads_to(ui: Ui, stack: Stack) -> None:
    bad = ui.test("dify_translate", "app-0123456789abcdefghijklmn")
    ui.picture("test-bad-key")
    assert bad == (
        False,
        "The API key is refused. Reading the app's information: HTTP 401 unauthorized: Access token is invalid. "
        "Put the app's API key (app-…; in Dify: the app, API Access) into the connection's API key (password).",
    )
    good = ui.test("dify_translate", stack.dify.api_key("translate"))
    ui.picture("test-good-key")
    assert good == (True, f"Connected to the workflow app 'translate' on Dify 1.16.1. {FOUND_AGAIN}")


def test_the_example_runs_and_its_link_leads_to_dify(ui: Ui, stack: Stack) -> None:
    # Until the fault is cleared no poll succeeds, so the task stays deferred.
    stack.dify.inject(Fault("get_run", "status", status=503, times=None))
    run_id = ui.trigger("dify_quickstart")
    ui.open_task("dify_quickstart", run_id, "summarize")
    wait_for("summarize is deferred", lambda: ui.state_of_task() == "deferred")
    ui.open_task("dify_quickstart", run_id, "summarize")
    ui.dify_link().wait_for()
    ui.picture("task-with-link")
    (run,) = [run for run in stack.dify.runs if run.app == "summarize"]
    page = f"{stack.dify.base_url}/app/{stack.dify.app('summarize').app_id}/logs"
    address, text = ui.follow_link(ui.dify_link())
    assert address == page
    assert run.id in text
    assert ui.state_of_task() == "deferred"

    stack.dify.clear_faults()
    ui.open_run("dify_quickstart", run_id)
    wait_for("the run succeeds", lambda: ui.state_of_run("dify_quickstart", run_id) == "success")
    ui.picture("run")
    ui.open_task("dify_quickstart", run_id, "summarize")
    ui.dify_link().wait_for()
    assert ui.state_of_task() == "success"
    address, text = ui.follow_link(ui.dify_link())
    assert address == page
    assert f"{run.id}\tsucceeded" in text


def test_the_log_tells_the_steps(ui: Ui, stack: Stack) -> None:
    run_id = ui.trigger("dify_translate")
    ui.open_run("dify_translate", run_id)
    wait_for("the run succeeds", lambda: ui.state_of_run("dify_translate", run_id) == "success")
    log = ui.log("dify_translate", run_id, "translate")
    ui.picture("log", height=1200)
    print(log)
    (run,) = [run for run in stack.dify.runs if run.app == "translate"]
    assert f"Dify run {run.id}" in log
    # The address of the console is one of the connection's extras, and no secret.
    assert f"{stack.dify.base_url}/app/{stack.dify.app('translate').app_id}/logs" in log
    assert stack.dify.api_key("translate") not in log


def test_the_log_and_the_link_of_a_run_that_fails(ui: Ui, stack: Stack) -> None:
    add_connection(ui, stack, "dify_broken", "broken")
    ui.save()
    run_id = ui.trigger("dify_broken")
    ui.open_run("dify_broken", run_id)
    wait_for("the run fails", lambda: ui.state_of_run("dify_broken", run_id) == "failed")
    log = ui.log("dify_broken", run_id, "fetch_and_translate")
    ui.picture("log-of-failure", height=1200)
    print(log)
    assert "[openai] Rate limit exceeded: quota of today is used up" in log
    ui.open_task("dify_broken", run_id, "fetch_and_translate")
    assert ui.follow_link(ui.dify_link())[0].endswith(f"/app/{stack.dify.app('broken').app_id}/logs")
