"""The search for a run by its marker, driven with a clock of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_dify.api.runs import LoggedRun, LogPage, RunStatus
from airflow_provider_dify.exceptions import DifyAuthenticationError, DifyError, DifyTransportError
from airflow_provider_dify.rules.polling import Deadline
from airflow_provider_dify.rules.searching import Found, NotFound, find_run, is_reusable
from airflow_provider_dify.rules.settings import PollSchedule
from airflow_provider_dify.rules.waiting import FindMarker, Sleep


def logged(run_id: str, user: str | None = "new", status: str = "running", created_at: int | None = 1) -> LoggedRun:
    return LoggedRun(run_id, RunStatus(status), user, None, created_at, None)


def page(*runs: LoggedRun, version: str | None = "1.14.2") -> LogPage:
    return LogPage(runs, 1, False, version)


def search(
    answer: Callable[[str, float], LogPage | DifyError],
    *,
    markers: tuple[str, ...] = ("new", "old"),
    patience: float = 60.0,
    **options: Any,
) -> tuple[Any, list[tuple[float, str]]]:
    clock, asked = [0.0], []
    flow = find_run(
        markers,
        schedule=PollSchedule(),
        patience=lambda server: Deadline(patience),
        clock=lambda: clock[0],
        jitter=lambda: 0.5,
        **options,
    )
    reported: Any = None
    while True:
        try:
            request = flow.send(reported)
        except StopIteration as end:
            return end.value, asked
        reported = None
        if isinstance(request, Sleep):
            clock[0] += request.seconds
        else:
            assert isinstance(request, FindMarker)
            asked.append((clock[0], request.user))
            reported = answer(request.user, clock[0])


def test_a_run_that_is_listed_is_found_at_once() -> None:
    result, asked = search(lambda user, now: page(logged("r")))
    assert result == Found("r", "new")
    assert asked == [(0.0, "new")]


def test_the_latest_marker_is_looked_up_first_and_the_earlier_ones_too() -> None:
    result, asked = search(lambda user, now: page(logged("r", "old")) if user == "old" else page())
    assert result == Found("r", "old")
    assert asked == [(0.0, "new"), (0.0, "old")]


def test_a_queued_run_is_found_when_it_starts() -> None:
    result, asked = search(lambda user, now: page(logged("r")) if now > 40 else page(), markers=("new",))
    assert result == Found("r", "new")
    assert [now for now, _ in asked][:5] == [0.0, 2.0, 6.0, 11.0, 16.0]


def test_the_last_lookup_is_at_the_end_of_patience() -> None:
    result, asked = search(lambda user, now: page(), markers=("new",), patience=30.0)
    assert isinstance(result, NotFound)
    assert asked[-1][0] == 30.0


def test_runs_of_other_users_do_not_count() -> None:
    result, _ = search(lambda user, now: page(logged("r", "foreign")), patience=5.0)
    assert isinstance(result, NotFound)


def test_of_two_runs_of_one_marker_the_latest_counts() -> None:
    result, _ = search(lambda user, now: page(logged("late", created_at=9), logged("early", created_at=5)))
    assert result == Found("late", "new")


def test_a_failed_run_hides_those_of_an_earlier_dag_run_of_its_name() -> None:
    result, _ = search(
        lambda user, now: (
            page(logged("late", "new", "failed", 9), logged("early", "new", "succeeded", 5))
            if user == "new"
            else page()
        ),
        wanted=is_reusable,
    )
    assert isinstance(result, NotFound)


def test_failed_lookups_are_transient() -> None:
    result, _ = search(lambda user, now: DifyTransportError("refused") if now < 20 else page(logged("r")))
    assert result == Found("r", "new")


def test_a_search_that_only_failed_says_why() -> None:
    result, _ = search(lambda user, now: DifyTransportError("refused"), patience=5.0)
    assert result == NotFound("refused")


def test_a_refused_key_ends_the_search() -> None:
    with pytest.raises(DifyAuthenticationError):
        search(lambda user, now: DifyAuthenticationError("401"))


@pytest.mark.parametrize(
    ("status", "expected"),
    [("running", True), ("paused", True), ("succeeded", True), ("failed", False), ("stopped", False)],
)
def test_runs_of_no_use_are_passed_over(status: str, expected: bool) -> None:
    result, asked = search(
        lambda user, now: page(logged("r", status=status)) if user == "new" else page(), wanted=is_reusable
    )
    assert isinstance(result, Found) is expected
    assert max(now for now, _ in asked) == 0.0


def test_a_reusable_earlier_run_counts_although_the_latest_is_none() -> None:
    result, _ = search(
        lambda user, now: page(logged("r", user, "failed" if user == "new" else "running")), wanted=is_reusable
    )
    assert result == Found("r", "old")


def test_before_1_9_2_a_closed_stream_is_never_listed_and_not_waited_for() -> None:
    result, asked = search(lambda user, now: page(version="1.9.1"), markers=("new",))
    assert isinstance(result, NotFound)
    assert "1.9.1" in result.reason
    assert len(asked) == 1


def test_before_1_9_2_a_blocking_run_is_listed_when_it_has_ended() -> None:
    result, _ = search(
        lambda user, now: page(*([logged("r", status="succeeded")] if now > 20 else []), version="1.9.1"),
        markers=("new",),
        streamed=False,
    )
    assert result == Found("r", "new")


def test_a_server_unread_at_first_is_not_one_that_never_lists() -> None:
    result, _ = search(
        lambda user, now: DifyTransportError("x") if now < 5 else page(logged("r"), version="1.9.1"), markers=("new",)
    )
    assert result == Found("r", "new")
