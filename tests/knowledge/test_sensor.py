"""The sensor for the indexing of documents, in its three modes."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException, TaskDeferred

from airflow_provider_dify.exceptions import (
    DifyIndexingError,
    DifyIndexingSensorTimeoutError,
    DifyInvalidInputError,
    DifyNotFoundError,
)
from airflow_provider_dify.hooks.knowledge import DifyKnowledgeHook
from airflow_provider_dify.sensors.knowledge import DifyDocumentIndexingSensor
from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.server import DifyServer
from tests.faults.tries import Task, TaskInstance
from tests.knowledge.support import DATASET, RecordStore

waiting = pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "deferred"])


def uploaded(server: DifyServer, name: str = "a", text: str = "one") -> str:
    hook = DifyKnowledgeHook()
    made = hook.create_document_by_text(server.datasets[DATASET], name, text, indexing_technique="economy")
    return made.batch


def sensor(server: DifyServer, batch: Any, **parameters: Any) -> DifyDocumentIndexingSensor:
    known: dict[str, Any] = {"task_id": "it", "poke_interval": 0.05, "timeout": 20, "defer_after": 0, **parameters}
    return DifyDocumentIndexingSensor(dataset_id=server.datasets[DATASET], batch=batch, **known)


def play(given: DifyDocumentIndexingSensor) -> Any:
    context: Any = {"ti": TaskInstance()}
    try:
        return given.execute(context)
    except TaskDeferred as deferred:
        event = asyncio.run(Task.fire(deferred.trigger))
        return given.execute_complete(context, event, **(deferred.kwargs or {}))


@waiting
def test_it_waits_until_the_document_is_indexed(server: DifyServer, deferrable: bool) -> None:
    server.inject(Fault(on="document_upload", kind="slow_indexing", seconds=0.4))
    began = time.monotonic()
    (found,) = play(sensor(server, uploaded(server), deferrable=deferrable))
    assert time.monotonic() - began > 0.4
    assert (found["document_id"], found["state"]) == (server.documents(DATASET)[0].id, "completed")


@waiting
def test_it_waits_for_several_batches(server: DifyServer, deferrable: bool) -> None:
    batches = [uploaded(server, name) for name in "abc"]
    assert len(play(sensor(server, batches, deferrable=deferrable))) == 3


@waiting
def test_a_document_that_cannot_be_indexed_fails_it(server: DifyServer, deferrable: bool) -> None:
    server.inject(Fault(on="document_upload", kind="parse_error", message="no text in it"))
    with pytest.raises(DifyIndexingError, match=r"1 of 1 documents.*no text in it"):
        play(sensor(server, uploaded(server), deferrable=deferrable))


@waiting
def test_a_queue_without_worker_is_named_when_the_time_is_over(server: DifyServer, deferrable: bool) -> None:
    server.stop_indexing()
    with pytest.raises(DifyIndexingSensorTimeoutError, match=r"1 documents were not indexed.*priority_dataset"):
        play(sensor(server, uploaded(server), deferrable=deferrable, timeout=0.5))


@waiting
@pytest.mark.parametrize("option", ["soft_fail", "never_fail"])
def test_it_skips_where_that_is_asked_for(server: DifyServer, deferrable: bool, option: str) -> None:
    server.inject(Fault(on="document_upload", kind="parse_error"))
    with pytest.raises(AirflowSkipException, match=option):
        play(sensor(server, uploaded(server), deferrable=deferrable, **{option: True}))


def test_a_batch_of_an_earlier_upload_is_unknown(server: DifyServer) -> None:
    before = uploaded(server)
    uploaded(server, text="two")
    with pytest.raises(DifyNotFoundError, match="uploaded again"):
        play(sensor(server, before))


def test_errors_that_pass_are_no_news(server: DifyServer) -> None:
    batch = uploaded(server)
    server.inject(Fault(on="indexing_status", kind="status", status=502, times=2))
    assert len(play(sensor(server, batch))) == 1


def test_poke_asks_once(server: DifyServer) -> None:
    server.stop_indexing()
    batch, context = uploaded(server), {"ti": TaskInstance()}
    record = RecordStore(server)
    waits: Any = sensor(server, batch, mode="reschedule")
    assert not waits.poke(context).is_done
    assert record.counts() == {"status": 1}
    server.start_indexing()
    end = time.monotonic() + 10
    while not (result := waits.poke(context)).is_done:
        assert time.monotonic() < end
    assert result.xcom_value[0]["state"] == "completed"


@pytest.mark.parametrize(("name", "wrong"), [("batch", []), ("batch", 5), ("batch", ""), ("dataset_id", "abc")])
def test_mistakes_are_reported_before_anything_is_sent(server: DifyServer, name: str, wrong: Any) -> None:
    given = sensor(server, "b")
    setattr(given, name, wrong)
    record = RecordStore(server)
    with pytest.raises(DifyInvalidInputError, match=name):
        play(given)
    assert record.counts() == {}


def test_the_link_leads_to_the_documents(server: DifyServer) -> None:
    context: Any = {"ti": TaskInstance()}
    sensor(server, uploaded(server)).execute(context)
    assert context["ti"].xcoms["dify_dataset_url"].endswith(f"/datasets/{server.datasets[DATASET]}/documents")
