"""The active rows of a batch, and the poll of Dify's log that says which of their runs have started or ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_provider_dify.api.runs import LoggedRun, LogPage
from airflow_provider_dify.exceptions import DifyError
from airflow_provider_dify.rules.batch_pacing import (
    FIRST_SEARCH_SECONDS,
    PAGE_ROWS,
    PageWalk,
    next_search_at,
    page_limit,
)
from airflow_provider_dify.rules.batch_records import Intent
from airflow_provider_dify.rules.batch_rows import BatchRow, RowRules, files_in_inputs, with_upload_ids
from airflow_provider_dify.rules.searching import newest_run
from airflow_provider_dify.runtime.batch_client import BatchClient
from airflow_provider_dify.runtime.batch_threads import in_thread

SUBMITTING, RUNNING, SEARCHING, COLLECTING = "submitting", "running", "searching", "collecting"
_CLOCK_SECONDS = 3600
"""The clocks of server and worker may differ by so much."""
_SEARCHES = 8
"""Markers that are searched for in one poll."""


@dataclass
class ActiveRow:
    """A row that is submitted.

    :param intent: Its submission, as it is recorded.
    :param row: The row; None where only the record names it.
    :param window: Name of the window that records it.
    :param since: Unix seconds at which it was recorded.
    :param until: Unix seconds until which a run is searched for and waited for.
    """

    intent: Intent
    row: BatchRow | None
    window: str = ""
    since: float = 0.0
    until: float = 0.0
    state: str = SUBMITTING
    run_id: str | None = None
    task_id: str | None = None
    reason: str = "the process that submitted it has ended"
    tokens: int = 0
    due: float = 0.0
    resubmitted: bool = False
    failures: int = 0
    read_at: float = 0.0
    searches: int = 0
    searched_at: float = 0.0
    search_due: float = 0.0


async def inputs_of(row: ActiveRow, rules: RowRules, client: BatchClient) -> dict[str, Any]:
    """Return the inputs of a row as they are sent, its files uploaded under its own marker.

    :raises DifyError: They cannot be sent, or a file could not be uploaded. There is no run.
    """
    assert row.row is not None
    inputs = rules.inputs(row.row)
    files = files_in_inputs(inputs)
    if not files:
        return inputs
    ids = await in_thread(lambda: client.upload(files, user=row.intent.user, form=rules.form))
    return with_upload_ids(inputs, ids)


async def stop_runs(client: BatchClient, rows: Iterable[ActiveRow]) -> int:
    """Ask Dify to stop the runs of rows as far as they are known, and return how many it was asked for."""
    asked = await asyncio.gather(
        *(client.stop(row.run_id, row.task_id, row.intent.user) for row in rows if row.run_id is not None)
    )
    return sum(asked)


@dataclass(frozen=True)
class Polled:
    """What one poll has found.

    :param seen: Rows with what the log says of their runs.
    :param missing: Rows whose run is known and on none of the pages.
    """

    seen: list[tuple[ActiveRow, LoggedRun]]
    missing: list[ActiveRow]
    server_version: str | None = None


class LogPoll:
    """Reads as many pages of the log as it takes to see every run that is waited for.

    :param client: Asks Dify.
    """

    def __init__(self, client: BatchClient) -> None:
        self._client = client
        self._pages = 1

    async def read(self, rows: Sequence[ActiveRow]) -> Polled:
        """Poll once.

        :raises DifyError: The server could not be asked.
        """
        running = {row.run_id.lower(): row for row in rows if row.run_id is not None}
        markers = {row.intent.user: row for row in rows if row.run_id is None}
        walk = PageWalk(set(running), set(markers), int(min(row.since for row in rows)) - _CLOCK_SECONDS)
        # Where the last poll took several pages, larger ones are fewer.
        limit = page_limit(len(rows)) if self._pages == 1 else PAGE_ROWS
        while True:
            page = await self._client.page(walk.pages + 1, limit)
            if not walk.take(page.runs, page.has_more):
                break
        self._pages = walk.pages
        seen = []
        for found in walk.found.values():
            row = running.get(found.workflow_run_id.lower()) or markers.get(found.user or "")
            if row is not None:
                seen.append((row, found))
        missing = [row for run_id, row in running.items() if run_id in walk.wanted]
        return Polled(seen, missing, page.server_version)

    async def search(self, rows: Iterable[ActiveRow]) -> list[tuple[ActiveRow, LoggedRun | DifyError | None]]:
        """Search for the runs of submissions that named none, and return what each search has found, or its error.

        A few at a time, those first that were searched for longest ago.
        """
        now = time.time()
        due = [row for row in rows if row.state == SEARCHING and row.search_due <= now]
        due = sorted(due, key=lambda row: row.searched_at)[:_SEARCHES]
        found: list[tuple[ActiveRow, LoggedRun | DifyError | None]] = []
        for row, page in zip(due, await asyncio.gather(*map(self._marked, due)), strict=True):
            if isinstance(page, DifyError):
                row.search_due = now + FIRST_SEARCH_SECONDS
                found.append((row, page))
                continue
            row.searched_at = now
            row.search_due = next_search_at(row.searches, now, row.until)
            row.searches += 1
            found.append((row, newest_run(page, row.intent.user)))
        return found

    async def _marked(self, row: ActiveRow) -> LogPage | DifyError:
        try:
            return await self._client.marked(row.intent.user)
        except DifyError as error:
            return error
