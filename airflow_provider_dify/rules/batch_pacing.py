"""How fast a batch goes: room for submissions, distances between polls, the pages of the log, the line a minute."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from airflow_provider_dify.api.runs import LoggedRun
from airflow_provider_dify.rules.outages import resubmission_wait
from airflow_provider_dify.rules.submission import rate_limit_wait

PROGRESS_SECONDS = 60.0
MAX_PAGES = 20
"""Pages of one poll at most; runs that are on none of them are asked for one by one."""

PAGE_ROWS = 100
LEAST_POLL_SECONDS = 0.05
FIRST_SEARCH_SECONDS = 1.0
LONGEST_SEARCH_SECONDS = 5.0
_SHARE_OF_A_RUN = 0.05
_SLOTS_PER_PROBE = 5
_OUTAGE_LONGEST_SECONDS = 15.0


@dataclass
class Throttle:
    """How many runs may be active, which a server that refuses further ones lowers.

    A refusal while runs of the batch are active says how many there is room for: the next submission follows when one
    of them has ended. Only where none is active time has to pass.

    :param most: ``max_active_runs``.
    """

    most: int
    allowed: int = 0
    paused_until: float = 0.0
    _refusals: int = 0
    _accepted: int = 0
    _shutdowns: int = 0

    def __post_init__(self) -> None:
        """Begin with all of them."""
        self.allowed = self.most

    def free(self, active: int, now: float) -> int:
        """Return how many submissions there is room for."""
        return 0 if now < self.paused_until else max(self.allowed - active, 0)

    def limited(self, active: int, now: float, retry_after: float | None, jitter: float) -> None:
        """Take note of a submission for which the server had no room.

        :param active: Runs of the batch that are active.
        :param jitter: A random number from 0 to 1.
        """
        self.allowed = max(1, min(self.allowed, active))
        self._accepted = 0
        if active == 0 or retry_after is not None:
            self.paused_until = max(self.paused_until, now + rate_limit_wait(self._refusals, retry_after, jitter))
        self._refusals += active == 0

    def shut_down(self, now: float, jitter: float) -> float | None:
        """Take note of a run that the server's own shutdown has stopped, and return the seconds of a new pause.

        What is submitted while its workers end is stopped as well, so that every row would come back.

        :return: None where a pause goes on already.
        """
        if now < self.paused_until:
            return None
        wait = resubmission_wait(self._shutdowns, jitter)
        self._shutdowns += 1
        self.paused_until = now + wait
        return wait

    def ran(self) -> None:
        """Take note of a run that has ended by itself."""
        self._shutdowns = 0

    def accepted(self) -> None:
        """Take note of a submission that was accepted; after some of them more are tried."""
        self._refusals = 0
        self._accepted += 1
        if self.allowed < self.most and self._accepted >= _SLOTS_PER_PROBE * self.allowed:
            self.allowed += 1
            self._accepted = 0


@dataclass
class Outage:
    """Whether the server is away, and when it is asked again."""

    is_away: bool = False
    next_at: float = 0.0
    _wait: float = 1.0

    def began(self, now: float, jitter: float) -> bool:
        """Take note of a request that no server has answered; tell whether that is news."""
        is_new = not self.is_away
        self._wait = 1.0 if is_new else min(2 * self._wait, _OUTAGE_LONGEST_SECONDS)
        self.is_away = True
        self.next_at = now + self._wait * (0.75 + 0.5 * jitter)
        return is_new

    def ended(self) -> bool:
        """Take note of an answer; tell whether that is news."""
        was_away, self.is_away = self.is_away, False
        return was_away


@dataclass
class Pace:
    """The distance between polls: a small share of what a run takes, or of the time without news, within bounds.

    :param longest: Seconds between polls at most.
    """

    longest: float
    _mean: float | None = None
    _news_at: float = 0.0

    def ended(self, seconds: float, now: float) -> None:
        """Take note of how long a run took that has ended."""
        self._mean = seconds if self._mean is None else 0.9 * self._mean + 0.1 * seconds
        self._news_at = now

    def interval(self, now: float, jitter: float) -> float:
        """Return the seconds to the next poll."""
        wanted = 1.0
        if self._mean is not None:
            # One run that takes far longer than the others is not asked for at their pace.
            wanted = max(self._mean, now - self._news_at) * _SHARE_OF_A_RUN
        return min(max(wanted, LEAST_POLL_SECONDS), self.longest) * (0.9 + 0.2 * jitter)


@dataclass
class PageWalk:
    """One poll: the pages of the log, newest first, until every run that is waited for is seen.

    :param wanted: Ids of the runs, in lower case.
    :param markers: Markers whose runs are not known. They are taken where a page shows them, and no page is read for
        them: each is searched for by itself, since its run may be older than many others.
    :param back_to: Unix seconds of the server's clock before which no run of the batch was created.
    """

    wanted: set[str]
    markers: set[str]
    back_to: int
    pages: int = 0
    found: dict[str, LoggedRun] = field(default_factory=dict)

    def take(self, runs: Iterable[LoggedRun], has_more: bool) -> bool:
        """Take a page, and tell whether another one is needed."""
        self.pages += 1
        oldest: int | None = None
        for run in runs:
            run_id = run.workflow_run_id.lower()
            if run.created_at is not None:
                oldest = run.created_at if oldest is None else min(oldest, run.created_at)
            if run.user in self.markers or run_id in self.wanted:
                self.found.setdefault(run_id, run)
                self.wanted.discard(run_id)
        if not has_more or oldest is None or self.pages >= MAX_PAGES or oldest < self.back_to:
            return False
        return bool(self.wanted)


def next_search_at(asked: int, now: float, until: float) -> float:
    """Return when a marker is searched for again: 1 s after the first time, later up to 5 s, and once when time is up.

    :param asked: How often it was searched for.
    :param until: Unix seconds until which it is searched for.
    """
    wait: float = min(FIRST_SEARCH_SECONDS * 2 ** min(asked, 8), LONGEST_SEARCH_SECONDS)
    return min(now + wait, max(until, now))


def page_limit(active: int) -> int:
    """Return how many rows to ask for: enough for the runs that are waited for and those that have ended since."""
    return max(20, min(PAGE_ROWS, 2 * active))


@dataclass
class ProgressLine:
    """The line a minute in the log.

    :param began: Unix seconds at which this process began.
    :param done_before: Rows that were done then.
    """

    began: float
    done_before: int
    due: float = 0.0

    def __post_init__(self) -> None:
        """Say the first line after a minute."""
        self.due = self.began + PROGRESS_SECONDS

    def line(self, now: float, *, done: int, failed: int, active: int, rows: int | None) -> str | None:
        """Return the line where it is time for one."""
        if now < self.due:
            return None
        self.due = now + PROGRESS_SECONDS
        minutes = max(now - self.began, 1.0) / 60
        pace = (done - self.done_before) / minutes
        of = "" if rows is None else f" of {rows:,}"
        left = f", about {duration((rows - done) / pace * 60)} left" if rows is not None and pace > 0 else ""
        return f"Batch: {done:,}{of} rows done, {failed:,} failed, {active:,} active, {pace:,.0f} rows a minute{left}."


def duration(seconds: float) -> str:
    """Return a time span in words of two units at most."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else f"{rest} s"
