"""What a page of the logs may answer, which page is asked for next, and when."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_provider_dify.api.runs import LoggedRun, LogPage, RunStatus, WorkflowRun
from airflow_provider_dify.exceptions import DifyNotFoundError, DifyServerError
from airflow_provider_dify.rules.batching import Ask, Await, Known, PollRegistry, Sweep

RUNNING = RunStatus.RUNNING


def registry_of(*runs: str, longest: float = 5.0, since: float = 1000.0, **options: Any) -> PollRegistry:
    registry = PollRegistry(**options)
    for run in runs:
        registry.join(run, since=since, longest=longest)
    return registry


def page(rows: Iterable[tuple[str, str]] | Iterable[str], *, more: bool = False, version: str | None = None) -> LogPage:
    reported = [(row, "running") if isinstance(row, str) else row for row in rows]
    runs = [LoggedRun(run, RunStatus(status), "me", None, 1000, None) for run, status in reported]
    return LogPage(tuple(runs), 1, more, version)


def sweep(registry: PollRegistry, *pages: LogPage, now: float = 10.0) -> Sweep:
    round_ = registry.begin(now)
    for each in pages:
        assert registry.pages(round_, 1)
        registry.take(round_, each, now)
    registry.end(round_, now, 0.5)
    return round_


def ids(count: int, first: int = 0) -> list[str]:
    return [f"run-{number}" for number in range(first, first + count)]


def test_rows_newer_than_all_runs_are_not_asked_for() -> None:
    """A triggerer with the older half of the runs would else find two pages without any, and poll each by itself."""
    registry = registry_of("a", "b")
    assert registry.begin(10.0).created_before is None
    registry.learn(WorkflowRun("a", RUNNING, created_at=1500), "a", 10.1)
    assert registry.begin(11.0).created_before is None
    registry.learn(WorkflowRun("b", RUNNING, created_at=1400), "b", 11.1)
    known = registry.begin(12.0)
    assert (known.created_after, known.created_before) == (1398, 1505)
    registry.join("c", since=2000.0, longest=5.0)
    assert registry.begin(13.0).created_before is None


@pytest.mark.parametrize(
    ("known", "reported", "answer"),
    [
        (None, "running", Known(RUNNING)),
        ("running", "running", Known(RUNNING)),
        ("paused", "paused", Known(RunStatus.PAUSED)),
        (None, "paused", Ask()),
        ("running", "paused", Ask()),
        ("paused", "running", Ask()),
        (None, "scheduled", Ask()),
        *[(known, end, Ask()) for known in (None, "running", "paused") for end in ("succeeded", "failed", "stopped")],
        (None, "partial-succeeded", Ask()),
    ],
)
def test_what_a_row_may_answer(known: str | None, reported: str, answer: object) -> None:
    registry = registry_of("a", "b")
    if known is not None:
        registry.learn(WorkflowRun("a", RunStatus(known)), "a", 9.0)
    sweep(registry, page([("a", reported), ("b", "running")]))
    assert registry.answer("a", 10.5) == answer
    assert registry.answer("b", 10.5) == Known(RUNNING)


def test_only_news_calls_a_trigger_and_not_again_once_refuted() -> None:
    registry = registry_of("a", "b")
    first = registry.begin(10.0)
    registry.pages(first, 1)
    assert registry.take(first, page([("a", "succeeded"), ("b", "running")]), 10.0) == ["a"]
    registry.end(first, 10.1, 0.5)
    registry.learn(WorkflowRun("a", RUNNING), "a", 10.2)
    second = registry.begin(11.0)
    registry.pages(second, 1)
    assert registry.take(second, page([("a", "succeeded"), ("b", "running")]), 11.0) == []
    registry.end(second, 11.1, 0.5)
    assert registry.answer("a", 12.0) == Ask()
    third = registry.begin(12.0)
    registry.pages(third, 1)
    assert registry.take(third, page([("a", "failed"), ("b", "running")]), 12.0) == ["a"]


def test_of_two_rows_that_contradict_each_other_the_news_counts() -> None:
    for rows in ([("a", "failed"), ("a", "running")], [("a", "running"), ("a", "failed")]):
        registry = registry_of("a", "b")
        sweep(registry, page([*rows, ("b", "running")]))
        assert registry.answer("a", 10.1) == Ask()


def test_one_alone_and_a_contract_without_logs_wait_for_no_sweep() -> None:
    assert registry_of("a").answer("a", 10.0) == Ask()
    assert registry_of("a", "b", serves=False).answer("a", 10.0) == Ask()


def test_the_first_poll_that_is_due_begins_the_sweeps() -> None:
    registry = registry_of("a", "b")
    assert registry.next_sweep(10.0) is None
    assert registry.answer("a", 10.0) == Await()
    assert registry.next_sweep(10.0) == 10.0
    assert registry.answer("a", 10.0, patient=False) == Ask()


def test_a_row_grows_old() -> None:
    registry = registry_of("a", "b")
    sweep(registry, page(["a", "b"]))
    assert registry.answer("a", 12.0) == Known(RUNNING)
    assert registry.answer("a", 60.0, patient=False) == Ask()


def test_a_trigger_that_comes_late_is_answered_by_the_last_sweep() -> None:
    registry = registry_of("a", "b")
    sweep(registry, page(["late", "a", "b"]))
    registry.join("late", since=1000.0, longest=5.0)
    assert registry.answer("late", 10.5) == Known(RUNNING)


def test_one_poll_in_five_seconds_is_taken_all_the_same() -> None:
    registry = registry_of("a", "b")
    taken = 0
    for tenth in range(100, 400):
        now = tenth / 10
        if now == int(now):
            sweep(registry, page(["a", "b"]), now=now)
        taken += registry.answer("a", now) == Ask()
    assert 4 <= taken <= 6


def test_a_page_that_calls_an_ended_run_running_is_not_asked_again() -> None:
    registry = registry_of("a", "b", "c")
    sweep(registry, page(["a", "b", "c"]))
    registry.learn(WorkflowRun("a", RunStatus.SUCCEEDED), "a", 11.0)
    registry.leave("a")
    sweep(registry, page(["a", "b", "c"]), now=15.9)
    assert registry.next_sweep(16.0) is not None
    sweep(registry, page(["a", "b", "c"]), now=16.1)
    assert registry.next_sweep(300.0) is None
    assert registry.answer("b", 16.2) == Ask()
    assert registry.answer("b", 317.0) == Await()


@pytest.mark.parametrize(("version", "serves"), [("1.9.1", False), ("1.10.9", False), ("1.11.0", True), (None, True)])
def test_versions_whose_logs_list_the_ended_only(version: str | None, serves: bool) -> None:
    registry = registry_of("a", "b")
    sweep(registry, page(["a", "b"], version=version))
    assert (registry.answer("a", 10.1) == Known(RUNNING)) is serves
    assert (registry.next_sweep(11.0) is not None) is serves


@pytest.mark.parametrize(
    ("runs", "longest", "pages", "seconds"),
    [
        *(
            (2, 5, 1, 2.5),
            (5, 5, 1, 1),
            (100, 5, 1, 1),
            (400, 5, 4, 1),
            (500, 5, 5, 1.25),
            (1000, 5, 10, 2.5),
            (5000, 5, 50, 2.5),
        ),
        *((10_000, 5, 100, 5), (30_000, 5, 300, 5), (2, 60, 1, 30), (60, 60, 1, 1), (4, 0.5, 1, 0.5)),
    ],
)
def test_the_distance_of_sweeps(runs: int, longest: float, pages: int, seconds: float) -> None:
    registry = registry_of(*ids(runs), longest=longest)
    sweep(registry, *(page(ids(min(100, runs), 100 * number), more=number + 1 < pages) for number in range(pages)))
    assert registry.next_sweep(10.0) == pytest.approx(10 + seconds)


def test_a_sweep_that_took_long_is_followed_by_a_pause() -> None:
    registry = registry_of("a", "b")
    slow = registry.begin(10.0)
    registry.pages(slow, 1)
    registry.take(slow, page(["a", "b"]), 10.0)
    registry.end(slow, 18.0, 0.5)
    assert registry.next_sweep(18.0) == pytest.approx(20.0)


@pytest.mark.parametrize(
    ("runs", "at_once", "per_page", "more", "asked"),
    [
        # All that wait are on the first page.
        (5, 4, 5, True, [[1]]),
        # No further rows, though some were not shown.
        (5, 4, 3, False, [[1]]),
        # With two runs a second page could not be worth it.
        (2, 4, 1, True, [[1]]),
        # A page that shows one run, or none, is let pass once; once more for each four hundred.
        (50, 4, 0, True, [[1], [2]]),
        (50, 4, 1, True, [[1], [2]]),
        (1000, 4, 0, True, [[1], [2], [3], [4]]),
        # Until all were shown.
        (50, 4, 10, True, [[1], [2], [3], [4], [5]]),
    ],
)
def test_the_pages_of_a_first_sweep(runs: int, at_once: int, per_page: int, more: bool, asked: list[list[int]]) -> None:
    registry = registry_of(*ids(runs))
    first, numbers, shown = registry.begin(10.0), [], 0
    while chunk := registry.pages(first, at_once):
        numbers.append(chunk)
        for _ in chunk:
            registry.take(first, page([*ids(per_page, shown), *ids(50, 10**6 + shown)], more=more), 10.0)
            shown += per_page
    assert numbers == asked


def test_pages_that_the_last_sweep_needed_are_asked_for_at_once() -> None:
    registry = registry_of(*ids(1000))
    pages = [page(ids(100, 100 * number), more=number < 9) for number in range(10)]
    sweep(registry, *pages)
    second, numbers = registry.begin(13.0), []
    while chunk := registry.pages(second, 4):
        numbers.append(chunk)
        for number in chunk:
            registry.take(second, pages[number - 1], 13.0)
    assert numbers == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]


def test_a_run_that_is_not_shown_is_looked_at_by_itself_for_a_minute() -> None:
    registry = registry_of("a", "b", "old")
    sweep(registry, page(["a", "b"], more=False))
    assert registry.answer("old", 10.1) == Ask() or registry.answer("old", 11.5) == Await()
    sweep(registry, page(["a", "b"], more=False), now=12.0)
    assert registry.answer("old", 12.1) == Ask()
    assert registry.answer("a", 12.1) == Known(RUNNING)
    assert "old" not in registry.begin(20.0)._unshown
    assert "old" in registry.begin(73.0)._unshown


def test_sweeps_that_show_too_little_pause() -> None:
    registry = registry_of(*ids(20))
    crowd = page(ids(100, 10**6), more=True)
    sweep(registry, crowd, crowd)
    registry._passed_over.clear()
    sweep(registry, crowd, crowd, now=13.0)
    registry._passed_over.clear()
    assert registry.next_sweep(14.0) is None
    assert registry.answer("run-1", 14.0) == Ask()
    assert registry.answer("run-1", 74.0) == Await()


def test_failures_pause_the_sweeps_longer_and_longer() -> None:
    registry, now, pauses = registry_of("a", "b"), 0.0, []
    for _ in range(9):
        registry.begin(now)
        registry.fail(DifyServerError("x"), now)
        pause = next(seconds for seconds in range(1, 1000) if registry.answer("a", now + seconds) == Await())
        pauses.append(pause)
        now += pause
    assert pauses == [5, 10, 20, 40, 80, 160, 320, 600, 600]
    registry.begin(now)
    registry.forget()
    registry.fail(DifyNotFoundError("x"), now)
    assert registry.answer("a", now + 59) == Ask()
    assert registry.answer("a", now + 60) == Await()


def test_a_sweep_from_before_the_connection_changed_says_nothing() -> None:
    registry = registry_of("a", "b")
    old = registry.begin(10.0)
    registry.pages(old, 1)
    registry.forget()
    assert registry.take(old, page([("a", "failed"), ("b", "running")]), 10.0) == []
    registry.end(old, 10.1, 0.5)
    assert registry.pages(old, 1) == []
    assert registry.answer("a", 10.2) == Await()


def test_the_oldest_run_sets_where_pages_begin() -> None:
    registry = PollRegistry()
    registry.join("a", since=5000.0, longest=5)
    registry.join("b", since=4000.0, longest=5)
    assert 4000 - 40 <= registry.begin(1.0).created_after <= 4000 - 30
    registry.learn(WorkflowRun("b", RUNNING, created_at=3000), "b", 1.0)
    assert 2990 <= registry.begin(2.0).created_after <= 3000
    registry.leave("b")
    assert 5000 - 40 <= registry.begin(3.0).created_after <= 5000 - 30


@pytest.mark.parametrize("created_at", [-1, 10**12, 10**400])
def test_moments_that_cannot_be_are_passed_over(created_at: int) -> None:
    registry = registry_of("a", "b", since=5000.0)
    for run in ("a", "b"):
        registry.learn(WorkflowRun(run, RUNNING, created_at=created_at), run, 1.0)
    assert 4900 < registry.begin(2.0).created_after < 5000


steps = st.lists(
    st.tuples(
        st.sampled_from(["join", "leave", "learn", "sweep", "fail", "forget", "answer"]),
        st.integers(0, 5),
        st.sampled_from(list(RunStatus)),
        st.floats(0, 30),
    ),
    max_size=60,
)


@given(steps)
def test_any_history_answers_with_what_a_fresh_row_showed(history: list[Any]) -> None:
    registry, now, joined = PollRegistry(), 0.0, dict.fromkeys(ids(6), 0)
    reported: dict[str, tuple[RunStatus, float]] = {}
    for step, number, status, seconds in history:
        now += seconds
        run = f"run-{number}"
        if step == "join":
            registry.join(run, since=now, longest=5.0)
            joined[run] += 1
        elif step == "leave" and joined[run]:
            registry.leave(run)
            joined[run] -= 1
        elif step == "learn" and joined[run]:
            registry.learn(WorkflowRun(run, status), run, now)
        elif step == "sweep":
            round_ = registry.begin(now)
            while registry.pages(round_, 3):
                registry.take(round_, page([(run, str(status)), (f"run-{(number + 1) % 6}", "running")]), now)
                reported |= {f"run-{(number + 1) % 6}": (RUNNING, now), run: (status, now)}
            registry.end(round_, now, 0.5)
        elif step == "fail":
            registry.begin(now)
            registry.fail(DifyServerError("x"), now)
        elif step == "forget":
            registry.forget()
            reported.clear()
        elif step == "answer" and joined[run]:
            answer = registry.answer(run, now)
            if isinstance(answer, Known):
                assert not answer.status.is_terminal
                assert reported[run][0] is answer.status
                assert now - reported[run][1] <= 15
    assert registry.empty is not any(joined.values())


FEW = ids(4)
rows = st.lists(
    st.tuples(st.sampled_from(FEW), st.sampled_from(["running"] * 6 + ["succeeded", "paused"])), min_size=2, max_size=6
)
reported = st.one_of(
    st.tuples(st.just("sweep"), st.lists(rows, min_size=1, max_size=2)),
    st.tuples(st.just("sweep"), st.just([[(run, "running") for run in FEW]])),
    st.tuples(st.just("learn"), st.sampled_from(FEW), st.sampled_from(["running", "paused", "succeeded"])),
    st.tuples(st.sampled_from(["join", "leave"]), st.sampled_from(FEW)),
    st.tuples(st.sampled_from(["fail", "forget"])),
)


class Careful(PollRegistry):
    """Takes each row by itself, as if every run had something particular about it."""

    def take(self, sweep: Sweep, page: LogPage, asked_at: float) -> list[str]:
        self._plain.clear()
        return super().take(sweep, page, asked_at)


ALL = ("sweep", [[(run, "running") for run in FEW]])
BUT_ONE = ("sweep", [[(run, "running") for run in FEW[1:]]])
CONTRADICTION = ("sweep", [[(FEW[0], "succeeded"), *((run, "running") for run in FEW[1:])], ALL[1][0]])
ENDED_AND_BACK = [("learn", FEW[0], "succeeded"), ("leave", FEW[0]), ("join", FEW[0])]


def in_turn(*did: Any) -> list[Any]:
    return [(step, 1.0) for step in did]


@settings(max_examples=300)
@example(in_turn(ALL, CONTRADICTION))
@example(in_turn(ALL, ("leave", FEW[0]), ALL, ("join", FEW[0]), ("learn", FEW[0], "paused"), ALL))
@example(in_turn(ALL, BUT_ONE, ALL, BUT_ONE, ALL))
@example(in_turn(ALL, *ENDED_AND_BACK, ALL, ALL, ALL, ALL))
@example(in_turn(ALL, ("fail",), ("learn", FEW[0], "paused"), ALL))
@given(st.lists(st.tuples(reported, st.floats(0.1, 4)), min_size=3, max_size=30))
def test_rows_that_are_taken_all_at_once_say_what_they_say_one_by_one(history: list[Any]) -> None:
    now, joined = 1000.0, dict.fromkeys(FEW, 1)
    both = registry_of(*FEW), Careful()
    for run in FEW:
        both[1].join(run, since=1000.0, longest=5.0)
    for step, seconds in history:
        now += seconds
        did: list[Any] = []
        for registry in both:
            seen: list[Any] = []
            if step[0] == "join":
                registry.join(step[1], since=now, longest=5.0)
            elif step[0] == "leave" and joined[step[1]]:
                registry.leave(step[1])
            elif step[0] == "learn" and joined[step[1]]:
                registry.learn(WorkflowRun(step[1], RunStatus(step[2])), step[1], now)
            elif step[0] == "forget":
                registry.forget()
            elif step[0] == "fail":
                registry.begin(now)
                registry.fail(DifyServerError("x"), now)
            elif step[0] == "sweep":
                round_ = registry.begin(now)
                seen.append(round_.created_after)
                pages = iter(step[1])
                while numbers := registry.pages(round_, 2):
                    for _ in numbers:
                        calls = registry.take(round_, page(next(pages, []), more=True), now)
                        seen.append((numbers, sorted(calls)))
                seen.append(sorted(registry.end(round_, now, 0.5)))
            did.append(seen)
        if step[0] in ("join", "leave"):
            joined[step[1]] = max(joined[step[1]] + (1 if step[0] == "join" else -1), 0)
        assert did[0] == did[1]
        assert both[0].next_sweep(now) == both[1].next_sweep(now)
        for run in (run for run, count in joined.items() if count):
            assert both[0].answer(run, now) == both[1].answer(run, now)
