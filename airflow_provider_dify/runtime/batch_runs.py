"""The active rows of a batch: submitted, found, polled by pages of the log, and read when they have ended."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any

from airflow_provider_dify.api.runs import LoggedRun, RunStatus, StartedRun, WorkflowRun
from airflow_provider_dify.exceptions import DifyError, DifyNotFoundError, is_final
from airflow_provider_dify.rules.batch_outcome import (
    EndBatch,
    PutBack,
    RowResult,
    RowStatus,
    SearchFor,
    Settle,
    SubmitAgain,
    after_run,
    after_search,
    after_submission_error,
)
from airflow_provider_dify.rules.batch_pacing import Pace, Throttle
from airflow_provider_dify.rules.batch_rows import RowRules
from airflow_provider_dify.rules.batch_settings import BatchSettings
from airflow_provider_dify.rules.outages import is_outage
from airflow_provider_dify.runtime.batch_active import (
    COLLECTING,
    RUNNING,
    SEARCHING,
    ActiveRow,
    LogPoll,
    inputs_of,
    stop_runs,
)
from airflow_provider_dify.runtime.batch_client import BatchClient
from airflow_provider_dify.runtime.batch_server import ServerState
from airflow_provider_dify.runtime.metrics import Metrics

READS = 8
"""Rows of ended runs that are read at a time."""
FRESH_SECONDS = 5.0
"""A submission leaves only so long after its owner was seen to own the batch: a process may be frozen in between."""
RETRY_FIRST_SECONDS = 1.0
UNREADABLE_TIMES = 5
LAST_READ_SECONDS = 60.0
"""So long after a run's time-out its row may still be read."""
_ONE_BY_ONE = 8
_UNSEEN_SECONDS = 3.0

log = logging.getLogger(__name__)


class NotFreshError(DifyError):
    """The process was held up between the check of the owner and the submission, which was not sent."""


class ActiveRows:
    """Follows the rows of a batch from their submission to their results.

    :param client: Asks Dify.
    :param rules: How rows are read.
    :param settings: The batch's settings.
    :param still_owner: Raises where another process owns the batch.
    :param on_result: Takes the result of a row.
    :param on_release: Takes a submission that certainly was not accepted, to be taken out of its window.
    """

    def __init__(
        self,
        client: BatchClient,
        rules: RowRules,
        settings: BatchSettings,
        metrics: Metrics,
        *,
        still_owner: Callable[[], Awaitable[None]],
        on_result: Callable[[RowResult, ActiveRow], None],
        on_release: Callable[[ActiveRow], None],
        logger: Any,
    ) -> None:
        self._client = client
        self._rules = rules
        self._settings = settings
        self._metrics = metrics
        self._still_owner = still_owner
        self._on_result = on_result
        self._on_release = on_release
        self._log = logger
        self.rows: dict[int, ActiveRow] = {}
        self.ready: deque[ActiveRow] = deque()
        self.throttle = Throttle(settings.max_active_runs)
        self.fatal: BaseException | None = None
        self.is_stopped = False
        self.wake = asyncio.Event()
        self.server = ServerState(logger, self.wake.set)
        self.owned_at = 0.0
        self._pace = Pace(settings.max_poll_interval)
        self._streams = asyncio.Semaphore(client.streams)
        self._reads = asyncio.Semaphore(READS)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._log_poll = LogPoll(client)

    @property
    def active(self) -> int:
        """Rows that take one of the server's places, or may."""
        return sum(each.state != COLLECTING for each in self.rows.values())

    @property
    def collecting(self) -> int:
        """Rows whose run has ended and is not read yet."""
        return sum(each.state == COLLECTING for each in self.rows.values())

    def start_polling(self) -> None:
        """Poll in a task of its own."""
        self._spawn(self._poll_forever())

    def submit(self, row: ActiveRow) -> None:
        """Submit a row that is recorded."""
        self.rows[row.intent.digest] = row
        self._spawn(self._submit(row))

    def reattach(self, row: ActiveRow) -> None:
        """Search for the run of a submission that another process has recorded."""
        row.state = SEARCHING
        self.rows[row.intent.digest] = row

    async def close(self) -> None:
        """End all that goes on here; runs go on."""
        self.is_stopped = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and self.fatal is None:
            self.fatal = error
        self.wake.set()

    # --- Submission

    async def _submit(self, row: ActiveRow) -> None:
        assert row.row is not None
        settings, intent = self._settings, row.intent
        async with self._streams:
            try:
                inputs = await inputs_of(row, self._rules, self._client)
                started = await self._send(row, inputs)
            except NotFreshError:
                self._put_back(row, PutBack(limited=False), is_news=False)
                return
            except DifyError as error:
                self._after_error(row, error, settings.retries_per_request - intent.retries)
                return
        self.throttle.accepted()
        self.server.answered()
        self._metrics.run_started()
        self.server.learn(started.app_id, started.server_version)
        row.run_id, row.task_id, row.state = started.workflow_run_id, started.task_id, RUNNING
        if started.settled:
            self._collect(row)
        self.wake.set()

    async def _send(self, row: ActiveRow, inputs: dict[str, Any]) -> StartedRun:
        if not self._is_fresh():
            await self._still_owner()
        return await self._client.submit(
            inputs,
            user=row.intent.user,
            workflow_id=self._settings.workflow_id,
            submit_timeout=self._settings.submit_timeout,
            timeout=self._settings.run_timeout,
            before_send=self._check_fresh,
        )

    def _is_fresh(self) -> bool:
        return time.time() - self.owned_at < FRESH_SECONDS

    def _check_fresh(self) -> None:
        if self.is_stopped or not self._is_fresh():
            raise NotFreshError("The submission was held up, and not sent.")

    def _after_error(self, row: ActiveRow, error: DifyError, retries_left: int) -> None:
        decision = after_submission_error(error, retries_left=retries_left)
        if isinstance(decision, SearchFor):
            self._metrics.submission_unknown()
            self.throttle.accepted()
            row.state, row.reason = SEARCHING, decision.reason
            if not self._client.can_search:
                row.until = 0.0
        elif isinstance(decision, PutBack):
            self._put_back(row, decision)
        elif isinstance(decision, EndBatch):
            self._release(row)
            self.fatal = self.fatal or decision.error
        elif isinstance(decision, SubmitAgain):
            self._again(row, decision)
        else:
            self._settle(row, decision, None)
        self.wake.set()

    def _put_back(self, row: ActiveRow, decision: PutBack, *, is_news: bool = True) -> None:
        """Let the same attempt be sent later, since this one was not accepted."""
        now = time.time()
        self._release(row)
        if decision.limited:
            self.throttle.limited(self.active, now, decision.retry_after, random.random())
        elif is_news:
            self.server.away()
        self.ready.appendleft(row)
        self.wake.set()

    def _release(self, row: ActiveRow) -> None:
        self.rows.pop(row.intent.digest, None)
        self._on_release(row)

    def _again(self, row: ActiveRow, decision: SubmitAgain) -> None:
        """Let the row be submitted as its next attempt."""
        intent = row.intent
        self.rows.pop(intent.digest, None)
        shutdowns = intent.shutdowns + decision.shutdown
        retries = intent.retries + (not decision.shutdown)
        wait = 0.0
        if decision.shutdown:
            self.server.shut_down(self.throttle)
        else:
            wait = min(RETRY_FIRST_SECONDS * 2 ** min(intent.retries, 5), 30.0) * (0.9 + 0.2 * random.random())
        self._log.info("Row %s is submitted again: %s.", intent.key, self._client.redact(decision.why).rstrip("."))
        again = replace(intent, attempt=intent.attempt + 1, retries=retries, shutdowns=shutdowns, user="")
        self.ready.append(
            ActiveRow(
                again,
                row.row,
                tokens=row.tokens,
                due=time.time() + wait,
                resubmitted=row.resubmitted or row.run_id is None,
            )
        )
        self.wake.set()

    def _settle(self, row: ActiveRow, decision: Settle, run: WorkflowRun | None) -> None:
        intent = row.intent
        self.rows.pop(intent.digest, None)
        error = None if decision.error is None else self._client.redact(decision.error)
        result = RowResult(
            key=intent.key,
            position=intent.position,
            status=decision.status,
            attempts=intent.attempt,
            number=self._settings.number,
            workflow_run_id=row.run_id,
            outputs=run.outputs if run is not None and decision.status.is_success else None,
            error=error,
            error_type=decision.error_type,
            tokens=row.tokens,
            seconds=run.elapsed_time if run is not None else None,
            final=decision.final,
        )
        self._on_result(result, row)
        self.wake.set()

    # --- Polls

    async def _poll_forever(self) -> None:
        while True:
            wait = self._pace.interval(time.time(), random.random())
            if self.server.outage.is_away:
                wait = max(self.server.outage.next_at - time.time(), 0.05)
            await asyncio.sleep(wait)
            if self.server.outage.is_away and not self._waiting():
                if not is_outage(await self._client.away()):
                    self.server.answered()
                else:
                    self.server.away()
            elif self._waiting():
                await self._poll()
            self._check_times()

    def _waiting(self) -> list[ActiveRow]:
        return [row for row in self.rows.values() if row.state in (RUNNING, SEARCHING)]

    async def _poll(self) -> None:
        waiting = self._waiting()
        missing = [row for row in waiting if row.state == RUNNING]
        if self._client.can_search:
            # No page is read where it could tell nothing.
            if missing:
                try:
                    poll = await self._log_poll.read(waiting)
                except DifyError as error:
                    self._poll_failed(error)
                    return
                self.server.answered()
                self.server.learn(None, poll.server_version)
                for row, found in poll.seen:
                    self._seen(row, found)
                missing = poll.missing
            for row, run in await self._log_poll.search(self.rows.values()):
                if isinstance(run, DifyError):
                    self._poll_failed(run)
                    continue
                self.server.answered()
                if run is not None:
                    self._seen(row, run)
        await self._read_one_by_one(missing)

    async def _read_one_by_one(self, rows: list[ActiveRow]) -> None:
        now = time.time()
        late = [row for row in rows if now - row.since > _UNSEEN_SECONDS or not self._client.can_search]
        for row in sorted(late, key=lambda row: row.read_at)[:_ONE_BY_ONE]:
            row.read_at = now
            if row.state == RUNNING:
                self._collect(row)

    def _seen(self, row: ActiveRow, found: LoggedRun) -> None:
        if row.state not in (RUNNING, SEARCHING):
            return
        if row.run_id is None:
            row.run_id, row.state = found.workflow_run_id, RUNNING
            # Of what another process has submitted, that one has counted what it knew.
            if row.row is not None:
                self._metrics.run_started()
        if found.status.is_terminal:
            self._collect(row)

    def _collect(self, row: ActiveRow) -> None:
        row.state = COLLECTING
        self.wake.set()
        self._spawn(self._read(row))

    async def _read(self, row: ActiveRow) -> None:
        assert row.run_id is not None
        async with self._reads:
            try:
                run = await self._client.run(row.run_id)
            except DifyError as error:
                self._read_failed(row, error)
                return
        self.server.answered()
        self.server.learn(run.app_id, run.server_version)
        if not run.status.is_terminal:
            row.state = RUNNING
            self._check_time(row, run.status)
            return
        self._metrics.run_ended(run)
        if run.elapsed_time is not None:
            self._pace.ended(run.elapsed_time, time.time())
        row.tokens += run.total_tokens or 0
        intent = row.intent
        decision = after_run(
            run, retries_left=self._settings.retries_per_request - intent.retries, shutdowns=intent.shutdowns
        )
        if isinstance(decision, SubmitAgain):
            self._again(row, decision)
        else:
            self.throttle.ran()
            self._settle(row, decision, run)

    def _read_failed(self, row: ActiveRow, error: DifyError) -> None:
        row.state = RUNNING
        if time.time() >= row.until + LAST_READ_SECONDS:
            self._settle(row, Settle(RowStatus.FAILED, error.message, type(error).__name__), None)
        elif isinstance(error, DifyNotFoundError) or is_outage(error):
            # Rows lag behind what names them, and a server comes back: the run's time-out ends the wait.
            self._poll_failed(error)
        elif is_final(error):
            self.fatal = self.fatal or error
        else:
            row.failures += 1
            if row.failures >= UNREADABLE_TIMES:
                self._settle(row, Settle(RowStatus.FAILED, error.message, type(error).__name__), None)
        self.wake.set()

    def _poll_failed(self, error: DifyError) -> None:
        if is_outage(error):
            self.server.away()
        elif is_final(error) and not isinstance(error, DifyNotFoundError):
            self.fatal = self.fatal or error
            self.wake.set()

    # --- Times

    def _check_times(self) -> None:
        if self.server.outage.is_away:
            return
        for row in self._waiting():
            if time.time() >= row.until:
                if row.state == RUNNING:
                    self._collect(row)
                # Not before it was searched for once more, when time was up.
                elif row.searched_at >= row.until or not self._client.can_search:
                    self._give_up_search(row)

    def _give_up_search(self, row: ActiveRow) -> None:
        decision = after_search(
            row.reason,
            user=row.intent.user,
            on_orphaned_intent=self._settings.on_orphaned_intent,
            resubmitted=row.resubmitted,
        )
        if isinstance(decision, SubmitAgain):
            row.resubmitted = True
            self._again(row, decision)
        else:
            self._log.warning("Row %s: %s", row.intent.key, decision.error)
            self._settle(row, decision, None)

    def _check_time(self, row: ActiveRow, status: RunStatus) -> None:
        if time.time() < row.until:
            return
        if self._settings.cancel_on_timeout:
            self._spawn(stop_runs(self._client, [row]))
        waits = " It waits for a human's answer." if status is RunStatus.PAUSED else ""
        error = (
            f"Its run had not ended after run_timeout ({self._settings.run_timeout:g} s) and was {status}.{waits} "
            f"{'Dify was asked to stop it.' if self._settings.cancel_on_timeout else 'It may go on.'}"
        )
        self._settle(row, Settle(RowStatus.FAILED, error, "DifyRunTimeoutError"), None)
