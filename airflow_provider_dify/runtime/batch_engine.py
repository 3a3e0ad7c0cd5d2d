"""One process's share of a batch: it takes the batch over, submits and collects, and leaves results and a manifest."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any, TypeVar

from airflow_provider_dify.client.batch_source import RowFile
from airflow_provider_dify.client.batch_store import MANIFEST, BatchStore
from airflow_provider_dify.exceptions import DifyError, DifyFileError, DifyRunTimeoutError
from airflow_provider_dify.rules.batch_outcome import Limits, RowResult, RowSelection, RowStatus, Tally, manifest
from airflow_provider_dify.rules.batch_pacing import ProgressLine
from airflow_provider_dify.rules.batch_protocol import (
    BatchTakenOverError,
    CheckOwner,
    Progress,
    Step,
    driven,
    finished,
    flushed,
    recorded,
    released,
    resumed,
    taken_over,
)
from airflow_provider_dify.rules.batch_records import Intent, Window
from airflow_provider_dify.rules.batch_rows import BatchRow, RowRules, key_digest
from airflow_provider_dify.rules.batch_settings import FLUSH_SECONDS, BatchSettings
from airflow_provider_dify.rules.earlier_tries import QUEUE_PATIENCE_SECONDS
from airflow_provider_dify.rules.polling import Deadline
from airflow_provider_dify.runtime.batch_active import ActiveRow, stop_runs
from airflow_provider_dify.runtime.batch_client import BatchClient
from airflow_provider_dify.runtime.batch_rows import RowQueue
from airflow_provider_dify.runtime.batch_runs import ActiveRows
from airflow_provider_dify.runtime.batch_threads import in_thread
from airflow_provider_dify.runtime.metrics import Metrics

STORE_RETRIES = 6
"""An object store that fails is asked again so often, after 0.5 s and then twice as long each time."""

_STORE_FIRST_SECONDS = 0.5
_IDLE_SECONDS = 1.0

T = TypeVar("T")

log = logging.getLogger(__name__)


class BatchEngine:
    """Runs a batch, from wherever the process before it has left it.

    :param client: Asks Dify.
    :param store: The batch's folder.
    :param file: The rows.
    :param rules: How rows are read.
    :param settings: The batch's settings.
    :param metrics: What happens is counted there.
    :param only: The rows to run; None for all.
    :param logger: Takes the lines for the task's log.
    """

    def __init__(
        self,
        client: BatchClient,
        store: BatchStore,
        file: RowFile,
        rules: RowRules,
        settings: BatchSettings,
        metrics: Metrics,
        *,
        only: RowSelection | None = None,
        logger: Any = log,
    ) -> None:
        self._client = client
        self._store = store
        self._settings = settings
        self._only = only
        self._log = logger
        self._deadline = Deadline(settings.end_time, settings.limit)
        self._limits = Limits(settings.max_failures, settings.max_tokens)
        self._progress = Progress()
        self._queue = RowQueue(file, rules, unique=not settings.checked)
        self.active = ActiveRows(
            client,
            rules,
            settings,
            metrics,
            still_owner=self._check_owner,
            on_result=self._take_result,
            on_release=self._take_release,
            logger=logger,
        )
        self._windows: dict[str, Window] = {}
        self._pending: dict[str, set[int]] = {}
        self._window_names: dict[int, set[str]] = {}
        self._window_number = 0
        self._released: list[tuple[str, int]] = []
        self._results: list[RowResult] = []
        self._first_result_at: float | None = None
        self._part_number = 0
        self._redone: set[int] = set()
        self._again: dict[int, Intent] = {}
        self._resumed: set[int] = set()
        self._tokens_before = 0
        self._ended_early: str | None = None

    @property
    def tally(self) -> Tally:
        """Counts and sums so far."""
        return self._progress.tally

    async def run(self) -> dict[str, Any]:
        """Run the batch to its end, and return its manifest.

        :raises DifyRunTimeoutError: The deadline has passed. What is not done is left to the next try.
        :raises BatchTakenOverError: Another process goes on with it.
        :raises DifyError: No row would fare better, or the store failed for long.
        """
        try:
            await self._resume()
            self.active.start_polling()
            await self._loop()
            return await self._finish()
        except BatchTakenOverError:
            raise
        except DifyError:
            self.active.is_stopped = True
            await self._keep_results()
            raise
        finally:
            await self.active.close()
            self._queue.close()

    def stop_submitting(self) -> list[ActiveRow]:
        """Let nothing more be submitted, since the task is killed, and return the rows that are active."""
        self.active.is_stopped = True
        return list(self.active.rows.values())

    async def stop_all(self) -> int:
        """Ask Dify to stop every active run, since a user has cancelled the task, and return how many it was asked for.

        Nothing goes on here then.
        """
        self.active.is_stopped = True
        try:
            return await stop_runs(self._client, self.active.rows.values())
        finally:
            await self._client.close()

    # --- Beginning

    async def _resume(self) -> None:
        number, marker = self._settings.number, self._settings.identity.marker
        # In one thread, since it reads all results.
        progress = await self._in_store(lambda: driven(resumed(number, marker), self._store.perform))
        self._progress = progress
        rows = self._settings.rows
        progress.tally.rows = rows if self._only is None else self._only.count(rows)
        self._pending = {name: set(digests) for name, digests in progress.windows.items()}
        for name, digests in self._pending.items():
            for digest in digests:
                self._window_names.setdefault(digest, set()).add(name)
        now = time.time()
        for intent, at in progress.intents.values():
            until = max(at + self._settings.run_timeout, now + QUEUE_PATIENCE_SECONDS)
            self.active.reattach(ActiveRow(intent, None, since=at or now - 24 * 3600, until=until))
        self._resumed = set(progress.intents)
        if progress.tally.ended or progress.intents:
            self._log.info(
                "The batch goes on: %s rows are done, and the runs of %s submissions without a result are looked for.",
                f"{progress.tally.ended:,}",
                f"{len(progress.intents):,}",
            )
        self._line = ProgressLine(now, progress.tally.ended)
        self._queue.begin(self._is_wanted)

    def _is_wanted(self, digest: int) -> bool:
        if self._only is not None and not self._only.wants(digest):
            return False
        return digest not in self._progress.done and digest not in self._resumed

    # --- The loop

    async def _loop(self) -> None:
        while True:
            if self.active.fatal is not None:
                raise self.active.fatal
            if self._deadline.left(time.time()) <= 0:
                await self._time_out()
            if self._ended_early is None and (why := self._limits.passed(self.tally)) is not None:
                self._ended_early = why
                self._log.warning("The batch ends before its last row: %s.", why)
            self.active.wake.clear()
            await self._release()
            submitted = 0 if self._ended_early else await self._fill()
            await self._flush(at_end=False)
            if self._is_over():
                return
            line = self._line.line(
                time.time(),
                done=self.tally.ended,
                failed=self.tally.unsuccessful,
                active=self.active.active,
                rows=self.tally.rows,
            )
            if line is not None:
                self._log.info(line)
            if not submitted:
                await self._nap()

    def _is_over(self) -> bool:
        if self.active.rows:
            return False
        if self._ended_early:
            return True
        if self.active.ready or not self._queue.ended:
            return False
        if self._again:
            # Rows whose record alone was known, and which are submitted again: their values are read now.
            self._resumed.clear()
            self._queue.begin(self._again.__contains__)
            return False
        return True

    async def _nap(self) -> None:
        """Wait until something has happened, or for a second."""
        waiter = asyncio.ensure_future(self.active.wake.wait())
        try:
            await asyncio.wait({waiter}, timeout=_IDLE_SECONDS)
        finally:
            waiter.cancel()

    async def _fill(self) -> int:
        """Record and submit as many rows as there is room for, and return how many."""
        now = time.time()
        free = self.active.throttle.free(self.active.active, now)
        if self.active.server.outage.is_away or self.active.is_stopped:
            return 0
        # Outputs that nobody has read yet are memory of Dify alone, but reading must keep up.
        if self.active.collecting > 2 * self._settings.max_active_runs:
            return 0
        rows: list[ActiveRow] = []
        while len(rows) < free and (row := await self._next(now)) is not None:
            rows.append(row)
        if not rows:
            return 0
        self._window_number += 1
        window = Window(self._progress.owner, self._window_number, now, tuple(row.intent for row in rows))
        await self._drive(recorded(window))
        self.active.owned_at = now
        self._windows[window.name] = window
        self._pending[window.name] = {row.intent.digest for row in rows}
        for row in rows:
            self._window_names.setdefault(row.intent.digest, set()).add(window.name)
            row.window = window.name
            row.since = time.time()
            row.until = row.since + self._settings.run_timeout
            self.active.submit(row)
        return len(rows)

    async def _next(self, now: float) -> ActiveRow | None:
        ready = self.active.ready
        for _ in range(len(ready)):
            row = ready.popleft()
            intent = row.intent
            if row.row is None:
                self._again[intent.digest] = intent
            elif row.due > now:
                ready.append(row)
            else:
                user = self._settings.identity.marker(intent.key, intent.attempt)
                return ActiveRow(replace(intent, user=user), row.row, tokens=row.tokens, resubmitted=row.resubmitted)
        while (found := await self._queue.next()) is not None:
            if isinstance(found, BatchRow):
                return self._new(found)
            position, error = found
            key = f"row {position}"
            if self._only is None and self._is_wanted(key_digest(key)):
                result = RowResult(
                    key, position, RowStatus.FAILED, 0, self._settings.number, error=error.message,
                    error_type=type(error).__name__, final=True,
                )  # fmt: skip
                self._take_result(result, None)
        return None

    def _new(self, row: BatchRow) -> ActiveRow:
        known = self._again.pop(row.digest, None)
        if known is None:
            known = Intent(row.key, row.position, self._progress.next_attempt(row.digest), "")
        user = self._settings.identity.marker(row.key, known.attempt)
        return ActiveRow(replace(known, key=row.key, position=row.position, user=user), row)

    async def _time_out(self) -> None:
        active = len(self.active.rows)
        stopped = await stop_runs(self._client, self.active.rows.values()) if self._settings.cancel_on_timeout else 0
        raise DifyRunTimeoutError(
            f"The batch had not ended at the deadline {self._deadline}, which follows from {self._deadline.limit}: "
            f"{self.tally.ended:,} rows are done, {active:,} were active, and Dify was asked to stop {stopped:,} of "
            f"these. Raise {self._deadline.limit}. A retry of the task goes on where it ended."
        )

    # --- Results and records

    def _take_result(self, result: RowResult, row: ActiveRow | None) -> None:
        self._results.append(result)
        self._first_result_at = self._first_result_at or time.time()
        self.tally.add(result.status, result.tokens, result.seconds or 0.0)
        digest = key_digest(result.key)
        if digest in self._progress.unsuccessful:
            self._redone.add(digest)

    def _take_release(self, row: ActiveRow) -> None:
        # The window's name at this moment: the row may be recorded again before this is written.
        self._released.append((row.window, row.intent.digest))

    async def _release(self) -> None:
        """Take what was not accepted out of its windows."""
        released_now, self._released = self._released, []
        for name, digest in released_now:
            self._pending.get(name, set()).discard(digest)
            self._window_names.get(digest, set()).discard(name)
        for name in {name for name, _ in released_now if name in self._windows}:
            window = self._windows[name]
            kept = tuple(each for each in window.intents if each.digest in self._pending[name])
            self._windows[name] = window = replace(window, intents=kept)
            await self._drive(released(window))
            if not kept:
                self._forget(name)

    def _forget(self, window: str) -> None:
        self._windows.pop(window, None)
        self._pending.pop(window, None)

    async def _flush(self, *, at_end: bool) -> None:
        """Write results where there are many, or where the first has waited long."""
        waited = self._first_result_at is not None and time.time() - self._first_result_at >= FLUSH_SECONDS
        while self._results and (at_end or waited or len(self._results) >= self._settings.rows_per_part):
            taken = self._results[: self._settings.rows_per_part]
            # The same name where it is written again after an error.
            name = self._progress.owner.part_name(self._part_number + 1, self._settings.result_format)
            digests = {key_digest(result.key) for result in taken}
            for digest in digests:
                for window in self._window_names.pop(digest, ()):
                    self._pending[window].discard(digest)
            done = [window for window, left in self._pending.items() if not left]
            await self._drive(flushed(name, [result.as_json() for result in taken], done))
            self._part_number += 1
            self._progress.parts.append(name)
            for window in done:
                self._forget(window)
            del self._results[: len(taken)]
            self._first_result_at = time.time() if self._results else None

    async def _keep_results(self) -> None:
        """Write what is there before the batch ends with an error, which stays the error whatever comes of it."""
        try:
            await self._release()
            await self._flush(at_end=True)
        except DifyError as error:
            self._log.warning("Results were not written, and are read again by the next try: %s", error)

    async def _finish(self) -> dict[str, Any]:
        await self._flush(at_end=True)
        for digest, status in self._progress.unsuccessful.items():
            if digest not in self._redone:
                self.tally.counts[status] += 1
        parts = await self._drive(finished(self._progress, self._redone))
        connection = self._client.connection
        found = manifest(
            self.tally,
            location=self._store.location,
            result_format=self._settings.result_format,
            parts=parts,
            generation=self._settings.identity.generation,
            key=self._settings.key,
            source=self._settings.shown_source,
            app={
                "id": self.active.server.app_id,
                "server": connection.base_url,
                "server_version": self.active.server.version,
            },
            ended_early=self._ended_early,
        )
        # XCom gets no list that grows with the batch.
        await self._in_store(lambda: self._store.write_json({**found, "part_names": parts}, MANIFEST))
        return found

    # --- The store

    async def _check_owner(self) -> None:
        now = time.time()
        if not await self._in_store(lambda: self._store.perform(CheckOwner())):
            raise taken_over()
        self.active.owned_at = now

    async def _drive(self, flow: Generator[Step, Any, T]) -> T:
        """Do in the store what a flow asks for, until it returns."""
        answer: Any = None
        while True:
            try:
                step = flow.send(answer)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            answer = await self._in_store(lambda step=step: self._store.perform(step))  # type: ignore[misc]

    async def _in_store(self, work: Callable[[], T]) -> T:
        """Do something in the store, again where it fails: steps are written whole, and may be repeated."""
        for number in range(STORE_RETRIES):
            try:
                return await in_thread(work)
            except DifyFileError as error:
                wait = _STORE_FIRST_SECONDS * 2**number * (0.75 + 0.5 * random.random())
                self._log.warning("%s The store is asked again in %.1f s.", error, wait)
                await asyncio.sleep(wait)
        return await in_thread(work)
