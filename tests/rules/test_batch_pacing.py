"""How fast a batch goes: room for submissions, pages of the log, distances, the line a minute."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dify.api.runs import LoggedRun, RunStatus
from airflow_provider_dify.rules.batch_pacing import (
    MAX_PAGES,
    Outage,
    Pace,
    PageWalk,
    ProgressLine,
    Throttle,
    next_search_at,
)


def test_a_refusal_lowers_the_number_of_active_runs() -> None:
    throttle = Throttle(8)
    throttle.limited(3, 100.0, None, 0.5)
    assert throttle.free(3, 100.0) == 0
    assert throttle.free(2, 100.0) == 1


def test_a_refusal_with_none_active_takes_time() -> None:
    throttle = Throttle(8)
    throttle.limited(0, 100.0, None, 0.5)
    assert throttle.free(0, 104.9) == 0
    assert throttle.free(0, 105.1) == 1
    throttle.limited(0, 105.1, None, 0.5)
    assert throttle.free(0, 115.0) == 0


def test_the_server_may_ask_for_a_pause() -> None:
    throttle = Throttle(8)
    throttle.limited(5, 100.0, 30.0, 0.0)
    assert throttle.free(0, 129.0) == 0
    assert throttle.free(0, 130.1) == 5


@given(st.lists(st.one_of(st.just("accepted"), st.integers(0, 8)), max_size=200))
def test_there_is_always_room_for_one_and_never_for_more_than_asked_for(events: list[object]) -> None:
    throttle = Throttle(8)
    for event in events:
        if event == "accepted":
            throttle.accepted()
        else:
            assert isinstance(event, int)
            throttle.limited(event, 0.0, None, 0.5)
        assert 1 <= throttle.allowed <= 8


def test_more_are_tried_after_some_were_accepted() -> None:
    throttle = Throttle(8)
    throttle.limited(2, 0.0, None, 0.5)
    for _ in range(10):
        throttle.accepted()
    assert throttle.allowed == 3


def logged(number: int, created_at: int, status: RunStatus = RunStatus.RUNNING) -> LoggedRun:
    return LoggedRun(f"run-{number}", status, f"user-{number}", None, created_at, None)


def test_pages_are_read_until_every_run_is_seen() -> None:
    walk = PageWalk({"run-1", "run-5"}, set(), back_to=0)
    assert walk.take([logged(9, 90), logged(5, 50)], has_more=True)
    assert not walk.take([logged(1, 10)], has_more=True)
    assert set(walk.found) == {"run-1", "run-5"}


def test_a_marker_is_taken_where_it_is_seen_and_no_page_is_read_for_it() -> None:
    walk = PageWalk({"run-1"}, {"user-7", "user-3"}, back_to=0)
    assert walk.take([logged(9, 90), logged(7, 70)], has_more=True)
    assert not walk.take([logged(1, 10)], has_more=True)
    assert set(walk.found) == {"run-7", "run-1"}
    assert not PageWalk(set(), {"user-3"}, back_to=0).take([logged(9, 90)], has_more=True)


def test_a_marker_is_searched_for_ever_less_often_and_once_at_the_end() -> None:
    assert [next_search_at(asked, 100.0, 500.0) - 100.0 for asked in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert next_search_at(9, 498.0, 500.0) == 500.0
    assert next_search_at(9, 501.0, 500.0) == 501.0


def test_a_poll_has_an_end() -> None:
    walk = PageWalk({"run-x"}, {"user-x"}, back_to=0)
    pages = 1
    while walk.take([logged(pages, 1000 - pages)], has_more=True):
        pages += 1
    assert pages == MAX_PAGES
    assert not PageWalk({"run-x"}, set(), back_to=50).take([logged(1, 40)], has_more=True)


def test_polls_follow_the_length_of_the_runs() -> None:
    pace = Pace(5.0)
    assert pace.interval(100.0, 0.5) == 1.0
    pace.ended(0.5, 100.0)
    assert pace.interval(100.5, 0.5) == 0.05
    for _ in range(60):
        pace.ended(1000.0, 100.0)
    assert pace.interval(100.5, 0.5) == 5.0


def test_a_run_that_takes_longer_is_polled_ever_less_often() -> None:
    pace = Pace(5.0)
    pace.ended(0.5, 100.0)
    assert [pace.interval(100.0 + seconds, 0.5) for seconds in (1, 20, 60, 1000)] == [0.05, 1.0, 3.0, 5.0]
    pace.ended(60.0, 160.0)
    assert pace.interval(160.0, 0.5) < 0.5


def test_an_outage_is_news_once_and_asked_for_ever_less_often() -> None:
    outage = Outage()
    assert outage.began(0.0, 0.5)
    waits = []
    for _ in range(6):
        assert not outage.began(0.0, 0.5)
        waits.append(outage.next_at)
    assert waits == [2.0, 4.0, 8.0, 15.0, 15.0, 15.0]
    assert outage.ended()
    assert not outage.ended()


def test_the_log_has_a_line_a_minute() -> None:
    progress = ProgressLine(0.0, 100)
    assert progress.line(59.0, done=200, failed=0, active=8, rows=1000) is None
    line = progress.line(60.0, done=700, failed=3, active=8, rows=10_000)
    assert line == "Batch: 700 of 10,000 rows done, 3 failed, 8 active, 600 rows a minute, about 15 min left."
    assert progress.line(100.0, done=700, failed=3, active=8, rows=None) is None


def test_shutdowns_pause_submissions_ever_longer_until_a_run_ends() -> None:
    throttle = Throttle(8)
    assert throttle.shut_down(100.0, 0.5) == 5.0
    assert throttle.free(0, 104.9) == 0
    # The others that the same shutdown has stopped.
    assert throttle.shut_down(101.0, 0.5) is None
    assert throttle.free(0, 105.0) == 8
    assert throttle.shut_down(105.0, 0.5) == 10.0
    throttle.ran()
    assert throttle.shut_down(200.0, 0.5) == 5.0
