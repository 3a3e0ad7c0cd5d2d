"""Which polls a page of the workflow logs spares: the decisions of the triggerer's shared poller, without I/O.

Many triggers wait for runs of one app. A *sweep* asks for the pages of the logs since the oldest of these runs, and
tells the state of all of them with a request for each hundred. It answers the polls of runs that are still what they
were, and calls the triggers of those that are not. What a page says never ends a wait: the row of GET run decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeGuard

from airflow_provider_dify.api.operations import LOGS_MAX_LIMIT
from airflow_provider_dify.api.runs import LogPage, RunStatus, WorkflowRun
from airflow_provider_dify.api.server_versions import Server
from airflow_provider_dify.exceptions import DifyError, is_final

AT_LEAST = 2
"""Runs that a sweep must be for, and that a page must show, to be worth its request."""

SHORTEST_SECONDS = 1.0
LONGEST_FOR_LOAD_SECONDS = 2.5
CALM_PAGES_PER_SECOND = 4
PAGES_PER_SECOND = 20
"""Sweeps begin a second apart while that makes 4 pages a second, then up to 2.5 s, then as 20 pages a second allow."""

REST_SHARE = 0.25
"""Of the time that a sweep took, which passes at least before the next one: a slow server gets its pauses."""

PATIENCE_SECONDS = 1.0
"""A poll that is due waits this long for the next sweep to begin."""

SLACK_SECONDS = 30.0
"""How far the clocks of Airflow and Dify may be apart for a run to be found before its own row has reported its age."""

PASS_OVER_SECONDS = 60.0
"""How long a run that sweeps do not show is polled by itself, and how long sweeps that show too little pause."""

CHECK_SECONDS = 5.0
"""Of the polls that pages could answer, one is taken all the same in this time: pages are believed, and checked."""

LAG_SECONDS = 5.0
DISTRUST_SECONDS = 300.0
"""A page that still calls a run running this long after GET run has reported its end is not asked again for so long."""

FAILED_SECONDS = 5.0
REFUSED_SECONDS = 60.0
FAILED_MAX_SECONDS = 600.0
LATE_ROW_SECONDS = 5.0
"""How much later than its run a row of the logs may have been written for a sweep to ask for it."""


@dataclass(frozen=True)
class Known:
    """The poll is answered: the run is still of this status."""

    status: RunStatus


@dataclass(frozen=True)
class Ask:
    """The poll is to be taken, by GET run."""


@dataclass(frozen=True)
class Await:
    """A sweep that is under way, or about to begin, may answer the poll."""


_FAR_FUTURE = 10**11
_ASK, _AWAIT = Ask(), Await()
_KNOWN = {status: Known(status) for status in RunStatus}


@dataclass(slots=True)
class _Waiting:
    longest: float
    created: float
    triggers: int = 1
    known: RunStatus | None = None
    refuted: RunStatus | None = None
    missed: int = 0
    # Whether ``created`` is the server's, and not only a bound.
    dated: bool = False

    def date(self, created: int | None) -> None:
        """Take when the server has created the run."""
        if _is_moment(created):
            self.created, self.dated = created, True

    def is_no_news(self, status: RunStatus) -> bool:
        """Whether a row of this status may answer a poll; every other one is for GET run to confirm."""
        if status is RunStatus.RUNNING:
            return self.known is None or self.known is status
        return status is self.known and not status.is_terminal


@dataclass
class Sweep:
    """One round of pages.

    :param began: When it began, by the poller's clock.
    :param created_after: Unix seconds from which rows are asked for.
    :param created_before: Unix seconds up to which rows are asked for; None while a run's own moment is unknown. Newer
        runs, which other triggerers wait for, would else fill the pages before those of these runs.
    """

    began: float
    created_after: float
    created_before: float | None
    _unshown: set[str]
    _shown: set[str] = field(default_factory=set)
    _news: set[str] = field(default_factory=set)
    _asked: int = 0
    _taken: int = 0
    _needed: int = 0
    _empty_in_a_row: int = 0
    _has_more: bool = True


class PollRegistry:
    """The runs that wait on one connection, what pages have reported about them, and when to ask for which.

    All moments are seconds of one clock that only goes forward, except those of ``created`` and ``since``, which are
    unix seconds. Runs are named by their ids in lower case.

    :param serves: Whether the API contract has workflow logs.
    """

    def __init__(self, *, serves: bool = True) -> None:
        self._waiting: dict[str, _Waiting] = {}
        self._passed_over: dict[str, float] = {}
        # Runs that wait, and of which one more row that calls them running tells nothing but that.
        self._plain: set[str] = set()
        self.forget(serves=serves)

    def forget(self, *, serves: bool = True) -> None:
        """Begin again: another key may select another app, whose pages say nothing about these runs.

        :param serves: Whether the API contract has workflow logs.
        """
        self._serves = serves
        self._sweep: Sweep | None = None
        self._next: float | None = None
        self._off_until = -math.inf
        self._failures = self._poor = 0
        self._pages_before = 1
        self._fresh = LONGEST_FOR_LOAD_SECONDS
        self._checked: float | None = None
        self._seen: dict[str, tuple[RunStatus, float]] = {}
        self._ended: dict[str, float] = {}
        self._passed_over.clear()
        self._plain.clear()
        for waiting in self._waiting.values():
            waiting.known = waiting.refuted = None
            waiting.missed = 0

    @property
    def empty(self) -> bool:
        """Whether nobody waits."""
        return not self._waiting

    def join(self, run_id: str, *, since: float, longest: float) -> None:
        """Count one more trigger that waits for a run.

        :param since: Unix seconds before which the run was not created, as far as is known.
        :param longest: Seconds between its polls at most.
        """
        waiting = self._waiting.get(run_id)
        if waiting is None:
            self._waiting[run_id] = _Waiting(longest, since - SLACK_SECONDS)
        else:
            waiting.triggers += 1
            waiting.longest = min(waiting.longest, longest)

    def leave(self, run_id: str) -> None:
        """Count one trigger less, and forget a run that nobody waits for."""
        waiting = self._waiting[run_id]
        waiting.triggers -= 1
        if not waiting.triggers:
            del self._waiting[run_id]
            self._passed_over.pop(run_id, None)
            self._plain.discard(run_id)

    def answer(self, run_id: str, now: float, *, patient: bool = True) -> Known | Ask | Await:
        """Decide how a poll that is due is answered.

        :param patient: Whether it may wait for a sweep; not twice.
        """
        if not self._is_batched(now) or self._is_passed_over(run_id, now):
            return _ASK
        seen = self._seen.get(run_id)
        if seen is not None and now - seen[1] <= self._fresh:
            status = seen[0]
            if not self._waiting[run_id].is_no_news(status):
                return _ASK
            if self._checked is None:
                self._checked = now
            if now - self._checked >= CHECK_SECONDS:
                self._checked = now
                return _ASK
            return _KNOWN[status]
        if not patient:
            return _ASK
        if self._next is None:
            self._next = now
        return _AWAIT if self._sweep is not None or self._next - now <= PATIENCE_SECONDS else _ASK

    def learn(self, run: WorkflowRun, run_id: str, now: float) -> None:
        """Take what GET run has reported about a run that is waited for."""
        waiting = self._waiting.get(run_id)
        if waiting is None:
            return
        self._plain.discard(run_id)
        waiting.known = run.status
        waiting.date(run.created_at)
        seen = self._seen.get(run_id)
        waiting.refuted = seen[0] if seen is not None and seen[0] is not run.status else None
        if run.status.is_terminal:
            self._ended[run_id] = now
        self._learn_version(run.server_version)

    def next_sweep(self, now: float) -> float | None:
        """Return when the next sweep is to begin; None where none is, until a poll waits for it."""
        return self._next if self._is_batched(now) else None

    def begin(self, now: float) -> Sweep:
        """Begin a sweep."""
        self._passed_over = {run_id: until for run_id, until in self._passed_over.items() if until > now}
        unshown = self._waiting.keys() - self._passed_over.keys()
        asked = [self._waiting[run_id] for run_id in unshown]
        oldest = min((each.created for each in asked), default=0.0)
        newest = max((each.created for each in asked), default=None) if all(each.dated for each in asked) else None
        # A row of the logs is written together with its run or a moment later, and times are whole seconds.
        before = None if newest is None else newest + LATE_ROW_SECONDS
        self._sweep = Sweep(now, max(oldest - 2.0, 0.0), before, unshown)
        return self._sweep

    def pages(self, sweep: Sweep, at_once: int) -> list[int]:
        """Return the numbers of the pages to ask for next; none when the sweep is over.

        It is over when all runs were shown, when there are no further rows, when pages in a row showed fewer than two
        runs (one such page more is let pass for each four hundred runs, since others may use the app as well), and
        when even two runs on every page would no longer be worth it.

        :param at_once: Pages that may be asked for at the same time.
        """
        if sweep is not self._sweep:
            return []
        runs = len(sweep._shown) + len(sweep._unshown)
        most = max(1, runs // AT_LEAST)
        most_empty = 2 + math.ceil(runs / LOGS_MAX_LIMIT) // 4
        if not (sweep._unshown and sweep._has_more) or sweep._asked >= most or sweep._empty_in_a_row >= most_empty:
            return []
        # As many as the last sweep needed are asked for together: a request that finds both ends awake costs least.
        count = min(at_once, most - sweep._asked, max(1, self._pages_before - sweep._asked))
        first = sweep._asked + 1
        sweep._asked += count
        return list(range(first, first + count))

    def take(self, sweep: Sweep, page: LogPage, asked_at: float) -> list[str]:
        """Take the rows of a page, in the order of the pages.

        :param asked_at: When it was asked for.
        :return: Runs whose row calls for a poll by GET run.
        """
        if sweep is not self._sweep:
            return []
        sweep._taken += 1
        sweep._has_more = page.has_more and bool(page.runs)
        # Most rows are plain ones, over and over. They are taken all at once, at a fraction of the cost.
        plain = (page.running & self._plain) - sweep._news
        self._seen.update(dict.fromkeys(plain, (RunStatus.RUNNING, asked_at)))
        new = len(plain - sweep._shown)
        sweep._shown |= plain
        sweep._unshown -= plain
        calls: list[str] = []
        for row in page.runs if len(plain) < len(page.runs) else ():
            run_id, status = row.workflow_run_id.lower(), row.status
            if run_id in plain:
                continue
            self._compare_with_end(run_id, status, asked_at)
            if sweep is not self._sweep:
                return calls
            waiting = self._waiting.get(run_id)
            if waiting is None:
                self._seen[run_id] = status, asked_at
                continue
            if run_id not in sweep._shown:
                new += 1
                sweep._shown.add(run_id)
                sweep._unshown.discard(run_id)
                self._passed_over.pop(run_id, None)
                waiting.missed = 0
                waiting.date(row.created_at)
            # Of two rows that contradict each other the one with news counts.
            if run_id in sweep._news:
                continue
            self._seen[run_id] = status, asked_at
            if not waiting.is_no_news(status):
                sweep._news.add(run_id)
                if waiting.refuted is not status:
                    calls.append(run_id)
            elif status is RunStatus.RUNNING and run_id not in self._ended:
                self._plain.add(run_id)
        if new:
            sweep._needed = sweep._taken
        sweep._empty_in_a_row = 0 if new >= AT_LEAST else sweep._empty_in_a_row + 1
        self._learn_version(page.server_version)
        return calls

    def end(self, sweep: Sweep, now: float, jitter: float) -> list[str]:
        """End a sweep, and fix when the next one begins.

        :param jitter: A random number from 0 to 1, for the jitter.
        :return: Runs that are polled by themselves from now on.
        """
        if sweep is not self._sweep:
            return []
        self._sweep, self._failures = None, 0
        passed_over = self._pass_over(sweep, now)
        took, pages = now - sweep.began, max(sweep._taken, 1)
        self._pages_before = sweep._needed
        gap = max(self._interval(sweep._shown, pages), took * (1 + REST_SHARE))
        self._next = sweep.began + gap * (0.9 + 0.2 * jitter)
        self._fresh = 1.5 * gap + took
        self._seen = {run_id: seen for run_id, seen in self._seen.items() if now - seen[1] <= self._fresh}
        self._ended = {run_id: at for run_id, at in self._ended.items() if now - at < PASS_OVER_SECONDS}
        self._poor = self._poor + 1 if len(sweep._shown) < AT_LEAST * pages else 0
        if self._poor > 1:
            # Polls of single runs cost no more than such pages, and tell more.
            self._poor = 0
            self._pause(now, PASS_OVER_SECONDS)
        return passed_over

    def fail(self, error: BaseException, now: float) -> None:
        """End a sweep of which no page came; runs are polled one by one for a while, which grows."""
        seconds = REFUSED_SECONDS if is_final(error) or not isinstance(error, DifyError) else FAILED_SECONDS
        self._failures += 1
        self._pause(now, min(seconds * 2 ** min(self._failures - 1, 16), FAILED_MAX_SECONDS))

    def _pause(self, now: float, seconds: float) -> None:
        self._sweep = self._next = None
        self._off_until = now + seconds
        self._seen.clear()

    def _is_batched(self, now: float) -> bool:
        return self._serves and len(self._waiting) - len(self._passed_over) >= AT_LEAST and now >= self._off_until

    def _is_passed_over(self, run_id: str, now: float) -> bool:
        until = self._passed_over.get(run_id)
        if until is not None and now >= until:
            del self._passed_over[run_id]
            return False
        return until is not None

    def _pass_over(self, sweep: Sweep, now: float) -> list[str]:
        """Leave runs out of the next sweeps that this one did not show: too old, too new, or not of this app."""
        passed_over = []
        for run_id in sweep._unshown:
            waiting = self._waiting.get(run_id)
            if waiting is None:
                continue
            waiting.missed += 1
            self._plain.discard(run_id)
            if sweep._has_more or waiting.missed > 1:
                self._passed_over[run_id] = now + PASS_OVER_SECONDS
                passed_over.append(run_id)
        return passed_over

    def _interval(self, shown: Iterable[str], pages: int) -> float:
        """Return the seconds between two sweeps: never more requests than polls of single runs, nor later ones."""
        intervals = [self._waiting[run_id].longest for run_id in shown if run_id in self._waiting]
        longest = min(intervals, default=LONGEST_FOR_LOAD_SECONDS)
        as_single_polls = pages / sum(1 / seconds for seconds in intervals) if intervals else longest
        for_load = max(min(pages / CALM_PAGES_PER_SECOND, LONGEST_FOR_LOAD_SECONDS), pages / PAGES_PER_SECOND)
        return min(longest, max(SHORTEST_SECONDS, as_single_polls, for_load))

    def _learn_version(self, version: str | None) -> None:
        if self._serves and not Server(version).lists_running_runs:
            self._serves = False
            self._sweep = self._next = None

    def _compare_with_end(self, run_id: str, status: RunStatus, asked_at: float) -> None:
        ended_at = self._ended.get(run_id)
        if ended_at is None:
            return
        if status is not RunStatus.RUNNING:
            del self._ended[run_id]
        elif asked_at - ended_at >= LAG_SECONDS:
            self._ended.clear()
            self._pause(asked_at, DISTRUST_SECONDS)


def _is_moment(seconds: int | None) -> TypeGuard[int]:
    return seconds is not None and 0 <= seconds < _FAR_FUTURE
