"""What became of a row, of a batch, and when a batch ends early."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from airflow_provider_dify.api.checks import plain_int, plain_text, preview
from airflow_provider_dify.api.runs import RunStatus, WorkflowRun
from airflow_provider_dify.api.values import excerpt, shape_of
from airflow_provider_dify.exceptions import (
    DifyAppError,
    DifyAuthenticationError,
    DifyConfigurationError,
    DifyError,
    DifyInvalidInputError,
    DifyNotFoundError,
    DifyPermissionError,
    DifyQuotaError,
    DifyRateLimitError,
    DifySubmissionUnknownError,
    DifyUnsupportedError,
    is_final,
)
from airflow_provider_dify.rules.outages import MAX_RESUBMISSIONS, is_outage, was_stopped_by_shutdown

ERROR_CHARS = 2000
MIN_ROWS_FOR_SHARE = 20
"""A share of failures is judged once so many rows have ended, or all of a smaller batch."""

# They are about the connection or the app: no row of the batch would fare better.
_OF_THE_BATCH = (
    DifyAuthenticationError,
    DifyPermissionError,
    DifyAppError,
    DifyConfigurationError,
    DifyUnsupportedError,
    DifyQuotaError,
    # No such workflow version.
    DifyNotFoundError,
)


class RowStatus(str, Enum):
    """How a row ended."""

    SUCCEEDED = "succeeded"
    PARTIAL_SUCCEEDED = "partial-succeeded"
    FAILED = "failed"
    """The run failed, was stopped or took too long, or Dify refused the row."""
    UNKNOWN = "unknown"
    """It may have been submitted, and no run of it was found: nobody can say whether there is one."""

    def __str__(self) -> str:
        """Return the status as results and manifest have it."""
        return self.value

    @property
    def is_success(self) -> bool:
        """Whether the row has outputs."""
        return self in (RowStatus.SUCCEEDED, RowStatus.PARTIAL_SUCCEEDED)


@dataclass(frozen=True)
class RowResult:
    """What is written down of a row.

    :param final: Whether a retry of the task leaves it at that: another submission would end the same way.
    """

    key: str | int
    position: int
    status: RowStatus
    attempts: int
    number: int
    workflow_run_id: str | None = None
    outputs: Mapping[str, Any] | None = None
    error: str | None = None
    error_type: str | None = None
    tokens: int = 0
    seconds: float | None = None
    final: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the line of the results."""
        return {
            "key": self.key,
            "position": self.position,
            "status": str(self.status),
            "workflow_run_id": self.workflow_run_id,
            "outputs": None if self.outputs is None else dict(self.outputs),
            "error": self.error,
            "error_type": self.error_type,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "attempts": self.attempts,
            "try": self.number,
            "final": self.final,
        }


@dataclass(frozen=True)
class Settle:
    """The row has ended."""

    status: RowStatus
    error: str | None = None
    error_type: str | None = None
    final: bool = False


@dataclass(frozen=True)
class SubmitAgain:
    """The row is submitted once more, as its next attempt.

    :param shutdown: Whether the server's shutdown has stopped its run, which takes none of its retries.
    """

    why: str
    shutdown: bool = False


@dataclass(frozen=True)
class PutBack:
    """The submission was certainly not accepted: the same attempt is sent later.

    :param limited: Whether the server has no room; otherwise it is away.
    :param retry_after: Seconds that the server asks to wait.
    """

    limited: bool
    retry_after: float | None = None


@dataclass(frozen=True)
class SearchFor:
    """A run may exist: the pages of the log tell."""

    reason: str


@dataclass(frozen=True)
class EndBatch:
    """No row of the batch would fare better."""

    error: DifyError


def after_run(run: WorkflowRun, *, retries_left: int, shutdowns: int) -> Settle | SubmitAgain:
    """Return what follows the end of a row's run.

    :param run: A run of a terminal status, as GET run tells it.
    :param retries_left: Further submissions that the row may have in this try.
    :param shutdowns: Runs of the row that a shutdown of the server has stopped.
    """
    if run.status is RunStatus.SUCCEEDED:
        return Settle(RowStatus.SUCCEEDED)
    text = excerpt(run.error, ERROR_CHARS) if run.error else None
    if run.status is RunStatus.PARTIAL_SUCCEEDED:
        return Settle(RowStatus.PARTIAL_SUCCEEDED, text)
    if was_stopped_by_shutdown(run) and shutdowns < MAX_RESUBMISSIONS:
        return SubmitAgain("the server's shutdown has stopped its run", shutdown=True)
    if run.status is RunStatus.FAILED and retries_left > 0:
        return SubmitAgain(f"its run failed: {text or 'no error text was given'}")
    kind = "DifyRunFailedError" if run.status is RunStatus.FAILED else "DifyRunStoppedError"
    return Settle(RowStatus.FAILED, text or f"the run ended as {run.status}", kind)


def after_submission_error(
    error: DifyError, *, retries_left: int
) -> Settle | SubmitAgain | PutBack | SearchFor | EndBatch:
    """Return what follows a submission that named no run.

    :param error: What the submission ended with; ``DifySubmissionUnknownError`` where a run may exist.
    :param retries_left: As for ``after_run``.
    """
    if isinstance(error, DifySubmissionUnknownError):
        return SearchFor(error.reason or "Dify did not tell which run it started")
    if isinstance(error, _OF_THE_BATCH):
        return EndBatch(error)
    if isinstance(error, DifyRateLimitError):
        return PutBack(limited=True, retry_after=error.retry_after)
    if is_outage(error):
        return PutBack(limited=False)
    if not is_final(error) and retries_left > 0:
        return SubmitAgain(f"it was refused: {excerpt(error.message, 300)}")
    return Settle(RowStatus.FAILED, excerpt(error.message, ERROR_CHARS), type(error).__name__, final=is_final(error))


def after_search(reason: str, *, user: str, on_orphaned_intent: str, resubmitted: bool) -> Settle | SubmitAgain:
    """Return what follows a search that has found no run in its time.

    :param reason: Why it was searched for.
    :param user: Its marker.
    :param on_orphaned_intent: ``fail`` or ``resubmit``.
    :param resubmitted: Whether this try has submitted the row again for that reason already.
    """
    if on_orphaned_intent == "resubmit" and not resubmitted:
        return SubmitAgain('no run of its submission was found, and on_orphaned_intent="resubmit" is set')
    return Settle(
        RowStatus.UNKNOWN,
        f"It may have been submitted ({reason.rstrip('.')}), and Dify shows no run of the user {user!r}. It was not "
        "submitted again.",
        "DifySubmissionUnknownError",
    )


@dataclass
class Tally:
    """Counts and sums of a batch.

    :param rows: Rows of the input; None where they were not counted.
    """

    rows: int | None = None
    counts: dict[RowStatus, int] = field(default_factory=lambda: dict.fromkeys(RowStatus, 0))
    tokens: int = 0
    seconds: float = 0.0

    def add(self, status: RowStatus, tokens: int, seconds: float) -> None:
        """Count a row that has ended."""
        self.counts[status] += 1
        self.tokens += tokens
        self.seconds += seconds

    def remove(self, status: RowStatus) -> None:
        """Count a row no longer, since it is submitted again; what its run has used was used."""
        self.counts[status] -= 1

    @property
    def ended(self) -> int:
        """Rows that have ended."""
        return sum(self.counts.values())

    @property
    def unsuccessful(self) -> int:
        """Rows without outputs."""
        return self.counts[RowStatus.FAILED] + self.counts[RowStatus.UNKNOWN]

    def as_json(self) -> dict[str, int]:
        """Return the counts by status, with the rows that were not run."""
        counts = {str(status): number for status, number in self.counts.items()}
        return counts if self.rows is None else {**counts, NOT_RUN: max(self.rows - self.ended, 0)}


@dataclass(frozen=True)
class Limits:
    """When a batch ends before its last row.

    :param max_failures: Rows that may fail, as a number, or as a share between 0 and 1; None for no limit.
    :param max_tokens: Tokens after which nothing more is submitted; None for no limit.
    """

    max_failures: int | float | None = None
    max_tokens: int | None = None

    def passed(self, tally: Tally) -> str | None:
        """Return why nothing more is to be submitted; None where nothing speaks against it."""
        if self.max_tokens is not None and tally.tokens > self.max_tokens:
            return f"max_tokens is {self.max_tokens:,}, and its runs have used {tally.tokens:,} tokens"
        failed, limit = tally.unsuccessful, self.max_failures
        if limit is None or not failed:
            return None
        if isinstance(limit, int):
            return f"max_failures is {limit:,}, and {failed:,} rows have failed" if failed > limit else None
        # A share of the rows that have ended: of the first few it would say nothing.
        enough = tally.ended >= min(MIN_ROWS_FOR_SHARE, tally.rows or MIN_ROWS_FOR_SHARE)
        if enough and failed > limit * tally.ended:
            return f"max_failures is {limit:g}, and {failed:,} of {tally.ended:,} rows have failed"
        return None


def check_max_failures(value: Any) -> int | float | None:
    """Return how many rows may fail.

    :raises DifyInvalidInputError: It is no whole number of 0 or more, and no share between 0 and 1.
    """
    if value is None:
        return None
    number = plain_int(value)
    if number is not None and number >= 0:
        return number
    if type(value) is float and 0 < value < 1:
        return value
    shown = preview(value) if number is not None or type(value) is float else shape_of(value)
    raise DifyInvalidInputError(
        f"max_failures must be a whole number of rows, 0 or more, or a share between 0 and 1 such as 0.05, and is "
        f"{shown}."
    )


NOT_RUN = "not_run"
"""What the counts and ``only`` call rows that have no result."""


def check_only(value: Any) -> tuple[str, ...] | None:
    """Return the statuses of the rows that are run again; None for all rows.

    :raises DifyInvalidInputError: It is no list of statuses.
    """
    if value is None:
        return None
    known = [*map(str, RowStatus), NOT_RUN]
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Collection) or not value:
        raise DifyInvalidInputError(
            f"only must be a list of statuses out of {', '.join(known)}, and is {shape_of(value)}."
        )
    found = set()
    for each in value:
        text = plain_text(each)
        if text is None or text not in known:
            shown = preview(text) if text is not None else shape_of(each)
            raise DifyInvalidInputError(
                f"only must be a list of statuses out of {', '.join(known)}, and one is {shown}."
            )
        found.add(text)
    return tuple(sorted(found))


@dataclass(frozen=True)
class RowSelection:
    """Which rows of the input are run: those that ended in certain ways in an earlier batch.

    :param chosen: Digests of the keys of rows that did.
    :param others: Digests of those that ended otherwise, where rows without a result are run too; None where not.
    """

    chosen: frozenset[int]
    others: frozenset[int] | None = None

    @classmethod
    def of(cls, ends: Iterable[tuple[int, str]], only: Collection[str]) -> RowSelection:
        """Select rows.

        :param ends: Digest and status of each result, the later one of two where a row has both.
        :param only: The statuses.
        """
        last = dict(ends)
        chosen = frozenset(digest for digest, status in last.items() if status in only)
        return cls(chosen, frozenset(last) - chosen if NOT_RUN in only else None)

    def wants(self, digest: int) -> bool:
        """Tell whether a row is run."""
        return digest in self.chosen if self.others is None else digest not in self.others

    def count(self, rows: int | None) -> int | None:
        """Return how many rows are run, of so many in the input; None where that is not known."""
        if self.others is None:
            return len(self.chosen)
        return None if rows is None else max(rows - len(self.others), len(self.chosen))


def manifest(
    tally: Tally,
    *,
    location: str,
    result_format: str,
    parts: Iterable[str],
    generation: int,
    key: str | None,
    source: str | None,
    app: Mapping[str, Any],
    ended_early: str | None,
) -> dict[str, Any]:
    """Return what is known of a batch that has ended, as its file and its XCom have it.

    :param location: Folder of this generation.
    :param ended_early: Why rows were not submitted; None where all were.
    """
    parts = list(parts)
    complete = ended_early is None
    return {
        "version": 1,
        "complete": complete,
        "location": location,
        "results": f"{location.rstrip('/')}/results",
        "format": result_format,
        "parts": len(parts),
        "rows": tally.ended if tally.rows is None else tally.rows,
        "counts": tally.as_json(),
        "tokens": tally.tokens,
        "seconds": round(tally.seconds, 3),
        "generation": generation,
        "key": key,
        "source": source,
        "app": dict(app),
        **({} if complete else {"ended_early": ended_early}),
    }
