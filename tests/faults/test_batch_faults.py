"""Each row of a batch has one run and one result, whatever goes wrong; the server's books count."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_dify.client.batch_store import BatchStore
from airflow_provider_dify.client.store_writing import Target
from airflow_provider_dify.exceptions import DifyBatchError, DifyError, DifyFileError
from airflow_provider_dify.rules.batch_protocol import BatchTakenOverError, Claim, WritePart, WriteWindow
from airflow_provider_dify.runtime.batch_engine import BatchEngine
from airflow_provider_dify.runtime.input_form_cache import forget_forms
from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.server import DifyServer
from airflow_provider_dify.testing.workflows import Input, Step, Workflow
from tests.faults.tries import Killed, connect, lookups, modes, submissions
from tests.operators.batches import PATIENT, BatchTask, results, rows, runs_of

ECHO = Workflow("echo", inputs=[Input("text")], steps=[Step("work", seconds=0.2)])
LIMITED = Workflow("limited", inputs=[Input("text")], steps=[Step("work", seconds=0.2)], max_active_requests=3)
LONG = Workflow("long", inputs=[Input("text")], duration=30.0)


@pytest.fixture
def server() -> Iterator[DifyServer]:
    with DifyServer([ECHO, LIMITED, LONG], emulate="1.16.1", connections=None, worker_slots=8) as server:
        yield server


@pytest.fixture
def batch(server: DifyServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., BatchTask]:
    def make(app: str = "echo", **parameters: Any) -> BatchTask:
        connect(monkeypatch, server, app, **PATIENT)
        parameters = {"requests": rows(24), "key": "id", "rows_per_part": 5, **parameters}
        return BatchTask(tmp_path / "results", **parameters)

    return make


def once(server: DifyServer, manifest: dict[str, Any], number: int = 24) -> None:
    """Hold a batch to one run and one line for each row."""
    lines = Counter(line["key"] for line in results(manifest))
    assert lines == {f"row-{index}": 1 for index in range(number)}
    assert runs_of(server) == {f"text {index}": 1 for index in range(number)}
    assert manifest["counts"]["succeeded"] == number


LOST_ANSWERS = [
    Fault("submit", "accept_then_reset", times=9),
    Fault("submit", "accept_then_status", status=502, times=9),
    Fault("submit", "stall", seconds=3, times=5),
    Fault("submit", "cut", after_events=0, times=9),
    Fault("submit", "lose_events", events=("*",), times=5),
    Fault("submit", "queue_delay", seconds=1.5, times=5),
]
PASSING = [
    Fault("submit", "too_many_requests", times=6),
    Fault("submit", "too_many_requests", status=429, times=6, headers={"Retry-After": "1"}),
    Fault("logs", "status", status=502, times=5),
    Fault("logs", "status", status=500, times=5),
    Fault("get_run", "status", status=503, times=5),
    Fault("get_run", "stale_row", seconds=0.5, times=5),
    Fault("get_run", "unknown_row", seconds=1.0, times=5),
]


@modes
@pytest.mark.parametrize(
    "fault", [*LOST_ANSWERS, *PASSING], ids=lambda fault: f"{fault.on}-{fault.kind}-{fault.status}"
)
def test_each_row_has_one_run_through_a_fault(
    server: DifyServer, batch: Callable[..., BatchTask], fault: Fault, deferrable: bool
) -> None:
    server.inject(fault)
    # Where no answer is to come, nobody waits for it long; else a pause of this machine is none of Dify's.
    submit_timeout = 1 if fault.kind in ("stall", "lose_events", "queue_delay") else 60
    once(server, batch(deferrable=deferrable, submit_timeout=submit_timeout).run())


@modes
def test_a_run_is_found_whose_answer_was_waited_for_while_many_others_ran(
    server: DifyServer, batch: Callable[..., BatchTask], deferrable: bool
) -> None:
    server.inject(Fault("submit", "stall", seconds=9, times=2))
    # The pages of the log are full of later runs when the search for the first two begins.
    task = batch(requests=rows(200), deferrable=deferrable, max_active_runs=10, submit_timeout=3, run_timeout=8)
    once(server, task.run(), 200)


@modes
@pytest.mark.parametrize("kind", ["status", "reset_before"])
def test_a_row_of_unknown_outcome_is_not_sent_again(
    server: DifyServer, batch: Callable[..., BatchTask], kind: str, deferrable: bool
) -> None:
    server.inject(Fault("submit", kind, status=502 if kind == "status" else None, times=5))
    manifest = batch(deferrable=deferrable, run_timeout=8, fail_on_partial_error=False).run()
    assert manifest["counts"]["unknown"] == 5
    assert manifest["counts"]["succeeded"] == 19
    assert set(runs_of(server).values()) == {1}
    assert len(submissions(server)) == 24


@modes
def test_a_search_alone_asks_little(server: DifyServer, batch: Callable[..., BatchTask], deferrable: bool) -> None:
    # The last of the rows, after runs that were so short that their polls are close to each other.
    server.inject(Fault("submit", "reset_before", after=23, times=1))
    task = batch(deferrable=deferrable, run_timeout=8, fail_on_partial_error=False)
    assert task.run()["counts"]["unknown"] == 1
    last = max(run.finished_at or 0.0 for run in server.runs)
    assert 2 <= len([moment for moment in lookups(server) if moment > last + 1]) <= 8


@modes
def test_a_server_without_room_is_filled_and_not_flooded(
    server: DifyServer, batch: Callable[..., BatchTask], deferrable: bool
) -> None:
    once(server, batch("limited", deferrable=deferrable, max_active_runs=8).run())


@modes
def test_an_outage_costs_time_and_no_rows(
    server: DifyServer, batch: Callable[..., BatchTask], deferrable: bool
) -> None:
    task = batch(deferrable=deferrable, run_timeout=6, fail_on_partial_error=False)
    ended = threading.Event()

    def interrupt() -> None:
        while len(server.runs) < 6 and not ended.is_set():
            time.sleep(0.01)
        server.down("502-html")
        ended.wait(1.5)
        server.up()

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        manifest = task.run()
    finally:
        ended.set()
        thread.join()
    # What the gateway answered instead of Dify may have arrived: such a row is named, and not sent again.
    lines = results(manifest)
    assert Counter(line["key"] for line in lines) == {f"row-{index}": 1 for index in range(24)}
    assert set(runs_of(server).values()) == {1}
    unknown = {line["key"].removeprefix("row-") for line in lines if line["status"] == "unknown"}
    assert len(unknown) <= 8
    assert {text.removeprefix("text ") for text in runs_of(server)} | unknown == {str(index) for index in range(24)}
    assert manifest["counts"]["succeeded"] == 24 - len(unknown)


@modes
def test_a_server_that_is_away_at_the_start_is_waited_for(
    server: DifyServer, batch: Callable[..., BatchTask], deferrable: bool
) -> None:
    forget_forms()
    task = batch(deferrable=deferrable)
    server.down()
    timer = threading.Timer(1.5, server.up)
    timer.start()
    try:
        once(server, task.run())
    finally:
        timer.join()


@modes
def test_runs_that_a_shutdown_stops_are_submitted_again(
    server: DifyServer, batch: Callable[..., BatchTask], deferrable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_dify.rules.batch_pacing.resubmission_wait", lambda *_: 0.7)
    task = batch(deferrable=deferrable, max_active_runs=4)
    ended = threading.Event()

    def shut_down() -> None:
        while len(server.runs) < 6 and not ended.is_set():
            time.sleep(0.01)
        server.shut_down_workers()
        ended.wait(1.5)
        server.start_workers()

    thread = threading.Thread(target=shut_down)
    thread.start()
    try:
        manifest = task.run()
    finally:
        ended.set()
        thread.join()
    assert manifest["counts"]["succeeded"] == 24
    succeeded = Counter(run.inputs["text"] for run in server.runs if run.status == "succeeded")
    assert succeeded == {f"text {index}": 1 for index in range(24)}
    # Those that ran, and those of one more round for each pause: not every row, again and again.
    assert 1 <= sum(run.status == "stopped" for run in server.runs) <= 16


class Death:
    """Let the process die after so many steps in its store, before or after the last of them is done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, steps: int, *, done: bool) -> None:
        perform = BatchStore.perform
        self.left = steps

        def dying(store: BatchStore, step: Any) -> Any:
            self.left -= 1
            if self.left < 0 or (self.left == 0 and not done):
                raise Killed
            answer = perform(store, step)
            if self.left == 0:
                raise Killed
            return answer

        monkeypatch.setattr(BatchStore, "perform", dying)


@modes
@pytest.mark.parametrize("done", [True, False], ids=["after", "before"])
@pytest.mark.parametrize("steps", [1, 4, 5, 6, 9, 14, 20])
def test_a_killed_process_leaves_each_row_one_run(
    server: DifyServer,
    batch: Callable[..., BatchTask],
    monkeypatch: pytest.MonkeyPatch,
    steps: int,
    done: bool,
    deferrable: bool,
) -> None:
    monkeypatch.setattr("airflow_provider_dify.runtime.batch_engine.QUEUE_PATIENCE_SECONDS", 1.0)
    task = batch(deferrable=deferrable, max_active_runs=4, run_timeout=6, fail_on_partial_error=False)
    with monkeypatch.context() as patch:
        Death(patch, steps, done=done)
        # No more is written, as of a process that is gone; what it has under way in Dify goes on.
        patch.setattr(BatchEngine, "_keep_results", no_last_words)
        with pytest.raises(Killed):
            task.run()
    manifest = task.retry()
    lines = results(manifest)
    assert Counter(line["key"] for line in lines) == {f"row-{index}": 1 for index in range(24)}
    assert max(runs_of(server).values()) == 1
    unknown = {line["key"] for line in lines if line["status"] == "unknown"}
    # A row that was recorded and not submitted is named, and no other.
    assert len(unknown) <= 4
    assert manifest["counts"]["succeeded"] == 24 - len(unknown)
    assert {key.removeprefix("row-") for key in unknown} | {text.removeprefix("text ") for text in runs_of(server)} == {
        str(index) for index in range(24)
    }


async def no_last_words(engine: BatchEngine) -> None:
    raise Killed


@modes
def test_a_store_that_fails_for_a_while_is_waited_for(
    server: DifyServer, batch: Callable[..., BatchTask], monkeypatch: pytest.MonkeyPatch, deferrable: bool
) -> None:
    monkeypatch.setattr("airflow_provider_dify.runtime.batch_engine._STORE_FIRST_SECONDS", 0.01)
    perform, failures = BatchStore.perform, Counter[str]()

    def failing(store: BatchStore, step: Any) -> Any:
        failures[type(step).__name__] += 1
        if failures[type(step).__name__] % 3 == 1:
            if failures[type(step).__name__] % 2:
                perform(store, step)
            raise DifyFileError("the store is away")
        return perform(store, step)

    monkeypatch.setattr(BatchStore, "perform", failing)
    once(server, batch(deferrable=deferrable).run())
    assert {"WriteWindow", "WritePart", "CheckOwner", "Claim"} <= set(failures)


def test_a_store_that_stays_away_fails_the_task_and_a_retry_goes_on(
    server: DifyServer, batch: Callable[..., BatchTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_dify.runtime.batch_engine._STORE_FIRST_SECONDS", 0.001)
    perform, written = BatchStore.perform, []

    def failing(store: BatchStore, step: Any) -> Any:
        written.append(step)
        if isinstance(step, WritePart):
            raise DifyFileError("the store is away")
        return perform(store, step)

    task = batch()
    with monkeypatch.context() as patch:
        patch.setattr(BatchStore, "perform", failing)
        with pytest.raises(DifyFileError, match="the store is away"):
            task.run()
    once(server, task.retry())


def test_a_frozen_process_submits_nothing_after_another_took_over(
    server: DifyServer, batch: Callable[..., BatchTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The former owner stops right after a record, and goes on when the batch is done by the next one."""
    task = batch(max_active_runs=4, run_timeout=6, fail_on_partial_error=False)
    monkeypatch.setattr("airflow_provider_dify.runtime.batch_engine.QUEUE_PATIENCE_SECONDS", 1.0)
    perform = BatchStore.perform
    frozen, thaw, former = threading.Event(), threading.Event(), []
    windows = 0

    def freezing(store: BatchStore, step: Any) -> Any:
        nonlocal windows
        answer = perform(store, step)
        if isinstance(step, WriteWindow) and threading.current_thread() is not None and not former_store:
            windows += 1
            if windows == 3:
                former_store.append(store)
                frozen.set()
                thaw.wait(60)
        return answer

    former_store: list[BatchStore] = []
    monkeypatch.setattr(BatchStore, "perform", freezing)

    def run() -> None:
        try:
            task.run()
        except DifyError as error:
            former.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert frozen.wait(30)
    other = BatchTask(task.folder, **{**task.parameters, "max_active_runs": 4})
    other.ti.try_number = 2
    manifest = other.run()
    before = len(submissions(server))
    thaw.set()
    thread.join(30)
    assert isinstance(former[0], BatchTakenOverError)
    assert len(submissions(server)) == before
    lines = results(manifest)
    assert Counter(line["key"] for line in lines) == {f"row-{index}": 1 for index in range(24)}
    assert max(runs_of(server).values()) == 1


def test_a_submission_that_was_held_up_asks_again_who_owns_the_batch(
    server: DifyServer, batch: Callable[..., BatchTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is frozen between the check of the owner and the submission notices that time has passed."""
    monkeypatch.setattr("airflow_provider_dify.runtime.batch_runs.FRESH_SECONDS", -1.0)
    task = batch(requests=rows(2), timeout=2)
    with pytest.raises(DifyError, match="The batch had not ended at the deadline"):
        task.run()
    assert not server.runs


@modes
def test_a_row_whose_submission_never_arrived_is_named(
    server: DifyServer, batch: Callable[..., BatchTask], monkeypatch: pytest.MonkeyPatch, deferrable: bool
) -> None:
    server.inject(Fault("submit", "hang", times=1, seconds=3))
    task = batch(deferrable=deferrable, run_timeout=8, submit_timeout=1)
    with pytest.raises(DifyBatchError, match="for 1 nobody can say whether there is a run"):
        task.run()
    assert len(server.runs) == 23
    # The next try searches again, and submits nothing.
    monkeypatch.setattr("airflow_provider_dify.runtime.batch_engine.QUEUE_PATIENCE_SECONDS", 1.0)
    with pytest.raises(DifyBatchError):
        task.retry()
    assert len(server.runs) == 23


@modes
def test_it_is_submitted_again_where_the_author_prefers_that(
    server: DifyServer, batch: Callable[..., BatchTask], deferrable: bool
) -> None:
    server.inject(Fault("submit", "hang", times=1, seconds=3))
    once(server, batch(deferrable=deferrable, run_timeout=8, submit_timeout=1, on_orphaned_intent="resubmit").run())


def test_a_kill_on_the_worker_stops_the_active_runs(server: DifyServer, batch: Callable[..., BatchTask]) -> None:
    task = batch("long", max_active_runs=3)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            task.run()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    until(lambda: len(server.runs) == 3 and all(run.status == "running" for run in server.runs))
    operator: Any = task.operator
    until(lambda: operator._batch._engine is not None)
    until(lambda: all(row.run_id for row in operator._batch._engine.active.rows.values()))
    task.operator.on_kill()
    until(lambda: all(run.status == "stopped" for run in server.runs))
    time.sleep(0.5)
    assert len(server.runs) == 3


def test_the_triggerer_leaves_runs_alone_when_it_restarts_and_goes_on(
    server: DifyServer, batch: Callable[..., BatchTask]
) -> None:
    task = batch(deferrable=True)
    context: Any = {"ti": task.ti}
    with pytest.raises(TaskDeferred) as deferred:
        task.operator.execute(context)
    _, arguments = deferred.value.trigger.serialize()
    arguments = json.loads(json.dumps(arguments))

    async def cut_short() -> None:
        trigger = type(deferred.value.trigger)(**arguments)

        async def fire() -> None:
            async for _ in trigger.run():
                raise AssertionError("the batch has ended too soon")

        work = asyncio.ensure_future(fire())
        while len(server.runs) < 10:
            await asyncio.sleep(0.01)
        work.cancel()
        await asyncio.wait({work})

    asyncio.run(cut_short())
    assert not [each for each in server.requests if each.path.endswith("/stop")]
    event = asyncio.run(task.fire(deferred.value.trigger))
    once(server, task.operator.execute_complete(context, event))


def test_two_that_claim_at_once_have_one_owner(tmp_path: Path) -> None:
    stores = [BatchStore(Target(str(tmp_path)), "batch", "generation-1") for _ in range(8)]
    threads = [threading.Thread(target=store.perform, args=(Claim(),)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    from airflow_provider_dify.rules.batch_protocol import CheckOwner

    assert sum(store.perform(CheckOwner()) for store in stores) == 1
    assert len({store._owner for store in stores}) == 8


def until(condition: Callable[[], Any]) -> None:
    limit = time.monotonic() + 30
    while not condition() and time.monotonic() < limit:
        time.sleep(0.02)
    assert condition()
