"""How the link is stored and asked for in a task's own process on Airflow 3."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import XCom

from airflow_provider_dify.links.dify import DifyRunLink
from airflow_provider_dify.runtime.run_link import push_link

URL = "https://console"


def task_instance(run_id: str, next_method: str | None = None) -> Any:
    def push(**arguments: Any) -> None:
        raise AssertionError("an XCom backend may keep the link elsewhere")

    names = {"dag_id": "d", "task_id": "t", "run_id": run_id, "map_index": 3, "try_number": 1}
    context = SimpleNamespace(next_method=next_method)
    return SimpleNamespace(**names, xcom_push=push, _ti_context_from_server=context)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []

    def get_value(*, ti_key: Any, key: str) -> str:
        found.append(key)
        return URL

    monkeypatch.setattr(XCom, "get_value", get_value)
    return found


def test_the_link_goes_past_an_xcom_backend(monkeypatch: pytest.MonkeyPatch, asked: list[Any]) -> None:
    stored: list[dict[str, Any]] = []
    monkeypatch.setattr(XCom, "_set_xcom_in_db", lambda **arguments: stored.append(arguments), raising=False)
    ti = task_instance("past")
    push_link(ti, URL, None)
    assert stored == [
        {"key": "dify_run_url", "value": URL, "dag_id": "d", "task_id": "t", "run_id": "past", "map_index": 3}
    ]
    operator: Any = None
    assert DifyRunLink().get_link(operator, ti_key=ti) == URL
    assert asked == []


@pytest.mark.parametrize(
    ("next_method", "link", "questions"), [(None, "", []), ("execute_complete", URL, ["dify_run_url"])]
)
def test_a_link_that_cannot_be_there_is_not_asked_for(
    asked: list[Any], next_method: str | None, link: str, questions: list[str]
) -> None:
    operator: Any = None
    assert DifyRunLink().get_link(operator, ti_key=task_instance(f"asked-{next_method}", next_method)) == link
    assert asked == questions
