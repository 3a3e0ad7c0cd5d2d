"""What a task's log says of a store of Airflow's that fails."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_dify.api.runs import StartedRun
from airflow_provider_dify.exceptions import DifyError
from airflow_provider_dify.rules.earlier_tries import TaskTry
from airflow_provider_dify.runtime.airflow_errors import reason_of
from airflow_provider_dify.runtime.record import SubmissionRecords
from airflow_provider_dify.runtime.run_link import push_link

MOVED_ON = "Airflow's API server answers HTTP {}: the task instance has moved on, so this process has been given up"


class ApiServerError(Exception):
    """As Airflow 3 builds it: the text is the dump of a dictionary."""

    def __init__(self, status: int | None) -> None:
        detail = {"status_code": status, "message": "Server returned error", "detail": {"reason": "not_found"}}
        self.error = SimpleNamespace(detail=detail)
        super().__init__(f"API_SERVER_ERROR: {detail}")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        *((ApiServerError(status), MOVED_ON.format(status)) for status in (403, 404, 409, 410)),
        (ApiServerError(500), "Airflow's API server answers HTTP 500"),
        (ApiServerError(None), "ApiServerError"),
        (OSError("disk full."), "OSError: disk full"),
        (ValueError(), "ValueError"),
    ],
)
def test_the_reason(error: Exception, text: str) -> None:
    reason = reason_of(error)
    assert reason.startswith(text)
    assert "{" not in reason


class Store:
    def __getattr__(self, name: str) -> Any:
        def refuse(*arguments: Any) -> None:
            raise ApiServerError(404)

        return refuse


def test_a_note_that_is_not_taken_is_one_sentence(caplog: pytest.LogCaptureFixture) -> None:
    this_try = TaskTry(dag_id="d", task_id="t", run_id="r", map_index=-1, generation=0, number=1, retries=0)
    records = SubmissionRecords({"task_state_store": Store()}, this_try, durable=True)
    with caplog.at_level(logging.WARNING):
        records.started(StartedRun("run"), "me")
        records.clear()
    assert [record.getMessage().count("HTTP 404: the task instance has moved on") for record in caplog.records] == [
        1,
        1,
    ]
    assert "{" not in caplog.text
    for operation in (records.read, lambda: records.record_intent("me")):
        with pytest.raises(DifyError, match=r"could not be (read|written) \(Airflow's API server answers HTTP 404: "):
            operation()


def test_a_link_that_is_not_taken_fails_no_task(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(**arguments: Any) -> None:
        raise ApiServerError(409)

    ti = SimpleNamespace(dag_id="d", task_id="t", run_id="r", map_index=-1, try_number=1, xcom_push=refuse)
    with caplog.at_level(logging.WARNING):
        assert push_link(ti, "https://console", None) == "https://console"
    assert "The link to Dify could not be stored (Airflow's API server answers HTTP 409" in caplog.text
