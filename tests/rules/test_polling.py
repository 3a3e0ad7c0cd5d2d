"""When to look next, and when to give up."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dify import exceptions as ex
from airflow_provider_dify.api.runs import RunStatus, WorkflowRun
from airflow_provider_dify.rules.polling import (
    MAX_FAILURES_IN_A_ROW,
    Deadline,
    Decision,
    Ended,
    GivenUp,
    PollResult,
    TimedOut,
    Wait,
    Watch,
)
from airflow_provider_dify.rules.settings import PollSchedule, check_choice, seconds_of

SCHEDULE = PollSchedule()
EVEN = 0.5  # the rng that adds no jitter
FAR = Deadline(1e9)

MENDABLE: dict[str, ex.DifyError] = {
    "network": ex.DifyTransportError("x"),
    "network, nothing sent": ex.DifyTransportError("x", sent=False),
    "500": ex.DifyServerError("x", status_code=500),
    "502": ex.DifyServerError("x", status_code=502),
    "rate limit": ex.DifyRateLimitError("x", status_code=429),
    "login page": ex.DifyResponseError("x", status_code=200),
    "unreadable": ex.DifyResponseError("x"),
}
FINAL: dict[str, ex.DifyError] = {
    "401": ex.DifyAuthenticationError("x", status_code=401),
    "403": ex.DifyPermissionError("x", status_code=403),
    "configuration": ex.DifyConfigurationError("x"),
    "invalid": ex.DifyInvalidInputError("x", status_code=400),
    "app": ex.DifyAppError("x"),
}


def saw(status: str) -> PollResult:
    return PollResult(run=WorkflowRun("r", RunStatus(status)))


def failed(error: ex.DifyError) -> PollResult:
    return PollResult(error=error)


UNKNOWN = failed(ex.DifyRunNotFoundError("no such run"))


def decide(
    watch: Watch, look: PollResult, now: float = 0.0, deadline: Deadline = FAR, jitter: float = EVEN
) -> tuple[Watch, Decision]:
    return watch.decide(look, now=now, deadline=deadline, schedule=SCHEDULE, jitter=jitter)


@pytest.mark.parametrize("status", ["succeeded", "partial-succeeded", "failed", "stopped"])
@pytest.mark.parametrize("now", [0.0, 100.0])
def test_an_end_is_an_end_also_after_the_deadline(status: str, now: float) -> None:
    look = saw(status)
    assert look.run is not None
    assert decide(Watch(), look, now, Deadline(50.0))[1] == Ended(look.run)


@pytest.mark.parametrize("status", ["queued", "scheduled", "running", "paused"])
def test_an_active_run_is_waited_for_until_the_deadline(status: str) -> None:
    watch, decision = decide(Watch(), saw(status), 49.9, Deadline(50.0))
    assert isinstance(decision, Wait)
    assert decision.seconds == pytest.approx(0.1)
    assert watch.status == status
    assert decide(watch, saw(status), 50.0, Deadline(50.0))[1] == TimedOut(RunStatus(status))


@pytest.mark.parametrize("name", FINAL)
def test_what_another_poll_cannot_mend_ends_the_wait_at_once(name: str) -> None:
    assert decide(Watch(), failed(FINAL[name]))[1] == GivenUp(FINAL[name])


@pytest.mark.parametrize("name", MENDABLE)
def test_failed_polls_are_transient_up_to_the_stated_number_in_a_row(name: str) -> None:
    watch = Watch(status=RunStatus.RUNNING)
    for number in range(1, MAX_FAILURES_IN_A_ROW):
        watch, decision = decide(watch, failed(MENDABLE[name]))
        assert isinstance(decision, Wait), number
        assert watch.status is RunStatus.RUNNING
    _, decision = decide(watch, failed(MENDABLE[name]))
    assert isinstance(decision, GivenUp)
    assert f"{MAX_FAILURES_IN_A_ROW} polls of the run failed in a row" in str(decision.error)
    assert not ex.is_final(decision.error)
    assert decision.error.status_code == MENDABLE[name].status_code


def test_one_good_poll_forgives_all_failures() -> None:
    watch = Watch()
    for _ in range(MAX_FAILURES_IN_A_ROW - 1):
        watch, _ = decide(watch, failed(MENDABLE["500"]))
    watch, _ = decide(watch, saw("running"))
    _, decision = decide(watch, failed(MENDABLE["500"]))
    assert isinstance(decision, Wait)


def test_failures_at_the_deadline_time_out_with_the_last_status() -> None:
    watch, _ = decide(Watch(), saw("running"), 1.0, Deadline(5.0))
    assert decide(watch, failed(MENDABLE["network"]), 5.0, Deadline(5.0))[1] == TimedOut(RunStatus.RUNNING)
    assert decide(Watch(), failed(MENDABLE["network"]), 5.0, Deadline(5.0))[1] == TimedOut(None)


def test_failures_lengthen_the_distance_to_half_a_minute() -> None:
    watch, waits = Watch(), []
    for _ in range(8):
        watch, decision = decide(watch, failed(MENDABLE["500"]))
        assert isinstance(decision, Wait)
        waits.append(decision.seconds)
    assert waits == sorted(waits)
    assert waits[0] > SCHEDULE.delay(1, 0, None, EVEN)
    assert waits[-1] == 30.0


@pytest.mark.parametrize("kind", [ex.DifyRateLimitError, ex.DifyServerError])
@pytest.mark.parametrize(("asked", "waits"), [(45.0, 45.0), (0.5, 4.0), (None, 4.0)])
def test_retry_after_counts_where_it_is_longer(kind: Any, asked: float | None, waits: float) -> None:
    _, decision = decide(Watch(), failed(kind("x", retry_after=asked)))
    assert decision == Wait(waits)


def test_retry_after_never_leads_past_the_deadline() -> None:
    error = ex.DifyRateLimitError("x", retry_after=3600.0)
    assert decide(Watch(), failed(error), 10.0, Deadline(17.0))[1] == Wait(7.0)


def test_a_run_unknown_for_ten_seconds_is_unknown() -> None:
    watch, decision = decide(Watch(), UNKNOWN, 100.0)
    assert isinstance(decision, Wait)
    watch, decision = decide(watch, UNKNOWN, 109.9)
    assert isinstance(decision, Wait)
    _, decision = decide(watch, UNKNOWN, 110.0)
    assert decision == GivenUp(UNKNOWN.error)  # type: ignore[arg-type]


def test_the_ten_seconds_begin_anew_when_the_run_was_seen() -> None:
    watch, _ = decide(Watch(), UNKNOWN, 100.0)
    watch, _ = decide(watch, saw("running"), 105.0)
    watch, decision = decide(watch, UNKNOWN, 111.0)
    assert isinstance(decision, Wait)
    assert isinstance(decide(watch, UNKNOWN, 120.9)[1], Wait)
    assert isinstance(decide(watch, UNKNOWN, 121.0)[1], GivenUp)


def test_failed_polls_in_between_do_not_make_an_unknown_run_known() -> None:
    watch, _ = decide(Watch(), UNKNOWN, 100.0)
    watch, _ = decide(watch, failed(MENDABLE["network"]), 105.0)
    assert isinstance(decide(watch, UNKNOWN, 110.0)[1], GivenUp)


def test_an_unknown_run_is_looked_at_when_its_ten_seconds_are_over() -> None:
    watch = Watch(polls=10)
    watch, decision = decide(watch, UNKNOWN, 100.0)
    assert decision == Wait(5.0)
    watch, decision = decide(watch, UNKNOWN, 107.0)
    assert decision == Wait(3.0)


def test_an_outage_after_an_unknown_poll_is_waited_out_as_any_other() -> None:
    watch, _ = decide(Watch(), UNKNOWN, 100.0)
    now = 102.0
    for _ in range(10):
        watch, decision = decide(watch, failed(MENDABLE["network"]), now)
        assert isinstance(decision, Wait)
        now += decision.seconds
    assert decision == Wait(30.0)
    _, decision = decide(watch, failed(ex.DifyServerError("x", retry_after=60.0)), now)
    assert decision == Wait(60.0)


def test_an_unknown_run_is_given_up_at_the_deadline_at_the_latest() -> None:
    assert isinstance(decide(Watch(), UNKNOWN, 5.0, Deadline(5.0))[1], TimedOut)


polls = st.one_of(
    st.sampled_from(["queued", "running", "paused"]).map(saw),
    st.sampled_from(sorted(MENDABLE)).map(lambda name: failed(MENDABLE[name])),
    st.floats(0, 3600).map(lambda asked: failed(ex.DifyServerError("x", retry_after=asked))),
    st.just(UNKNOWN),
)


@given(
    st.lists(polls, min_size=1, max_size=200),
    st.floats(0.01, 60),
    st.floats(1, 20),
    st.floats(1, 100_000),
    st.randoms(use_true_random=False),
)
def test_polls_keep_their_distance_and_the_last_one_is_at_the_deadline(
    polls: list[PollResult], first: float, times: float, timeout: float, random: Any
) -> None:
    schedule, deadline = PollSchedule(first, first * times), Deadline(1000.0 + timeout)
    watch, now = Watch(), 1000.0
    now += watch.first_wait(schedule, deadline, now, random.random())
    in_a_row = 0
    for look in polls:
        in_a_row = in_a_row + 1 if look.error and look is not UNKNOWN else 0
        watch, decision = watch.decide(look, now=now, deadline=deadline, schedule=schedule, jitter=random.random())
        if isinstance(decision, GivenUp):
            assert in_a_row >= MAX_FAILURES_IN_A_ROW or look is UNKNOWN
            return
        if isinstance(decision, TimedOut):
            assert now >= deadline.at
            return
        assert isinstance(decision, Wait)
        left = deadline.at - now
        assert 0 < decision.seconds <= left
        assert decision.seconds >= min(left, first * 0.9 - 1e-9)
        asked = getattr(look.error, "retry_after", None) or 0
        if look is not UNKNOWN:
            assert decision.seconds >= min(left, asked)
        assert decision.seconds <= max(first * times, 30, asked) * 1.1 + 1e-6
        now = deadline.at if decision.seconds == left else now + decision.seconds


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.floats(0, 1))
def test_any_number_of_polls_and_failures_gives_a_finite_distance(polls: int, failures: int, jitter: float) -> None:
    assert 0.9 <= SCHEDULE.delay(polls, failures, None, jitter) <= 33.0


@pytest.mark.parametrize(("polls", "seconds"), [(0, 1.0), (1, 2.0), (2, 4.0), (3, 5.0), (4, 5.0), (1000, 5.0)])
def test_the_default_schedule(polls: int, seconds: float) -> None:
    assert SCHEDULE.delay(polls, 0, None, EVEN) == seconds
    assert SCHEDULE.delay(polls, 0, None, 0.0) == pytest.approx(seconds * 0.9)
    assert SCHEDULE.delay(polls, 0, None, 1.0) == pytest.approx(seconds * 1.1)


@pytest.mark.parametrize(
    ("first", "longest", "text"),
    [
        (0, 5, "poll_interval must be more than 0 seconds, got 0."),
        (-1, 5, "poll_interval must be more than 0 seconds, got -1."),
        (1, 0, "max_poll_interval must be more than 0 seconds, got 0."),
        (float("nan"), 5, "poll_interval must be more than 0 seconds, got nan."),
        (1, float("inf"), "max_poll_interval must be more than 0 seconds, got inf."),
        ("1", 5, "poll_interval must be seconds or a timedelta, got str of length 1."),
        (True, 5, "poll_interval must be seconds or a timedelta, got bool."),
        (None, 5, "poll_interval must be seconds or a timedelta, got null."),
        (timedelta(0), 5, "poll_interval must be more than 0 seconds, got 0."),
        (6, 5, "max_poll_interval (5 s) must not be below poll_interval (6 s)."),
    ],
)
def test_wrong_intervals_are_named(first: Any, longest: Any, text: str) -> None:
    with pytest.raises(ex.DifyInvalidInputError) as caught:
        PollSchedule.checked(first, longest)
    assert str(caught.value) == text


def test_intervals_may_be_timedeltas() -> None:
    assert PollSchedule.checked(timedelta(seconds=2), timedelta(minutes=1)) == PollSchedule(2.0, 60.0)
    assert seconds_of(timedelta(milliseconds=5), "x") == 0.005


def test_a_timeout_below_the_first_poll_is_refused() -> None:
    with pytest.raises(ex.DifyInvalidInputError, match=r"timeout \(1 s\) must not be below the first interval \(2 s\)"):
        PollSchedule(2.0, 5.0).checked_timeout(1, "timeout")
    assert PollSchedule(2.0, 5.0).checked_timeout(2, "timeout") == 2.0


@pytest.mark.parametrize(("value", "shown"), [("maybe", "'maybe'"), ("x" * 99, "x" * 40), (None, "null"), (7, "int")])
def test_wrong_words_are_named_with_the_possible_ones(value: Any, shown: str) -> None:
    with pytest.raises(ex.DifyInvalidInputError, match="on_pause must be one of wait, fail, got") as caught:
        check_choice(value, "on_pause", ("wait", "fail"))
    assert shown in str(caught.value)


@pytest.mark.parametrize("value", [[], {}, ["wait"]])
def test_a_word_of_any_type_is_refused(value: Any) -> None:
    with pytest.raises(ex.DifyInvalidInputError):
        check_choice(value, "on_pause", ("wait", "fail"))


@pytest.mark.parametrize(
    ("timeout", "execution_timeout", "seconds"),
    [
        (300, None, 300),
        (300, timedelta(seconds=100), 95 - 10),
        (300, timedelta(seconds=10), 9 - 10),
        (50, timedelta(seconds=100), 50),
        (300, timedelta(days=3), 300),
    ],
)
def test_the_deadline_is_the_earlier_one_and_before_airflows_own(
    timeout: float, execution_timeout: timedelta | None, seconds: float
) -> None:
    deadline = Deadline.after(1010.0, timeout, started_at=1000.0, execution_timeout=execution_timeout)
    assert deadline.at == 1010.0 + seconds
    assert deadline.left(1010.0) == seconds


@pytest.mark.parametrize("moment", [0.0, 1.7e9, 1e12, 1e30, -1e30, float("inf")])
def test_any_deadline_can_be_shown(moment: float) -> None:
    assert str(Deadline(moment))


def test_the_later_of_two_deadlines() -> None:
    assert Deadline(5.0).at_least(7.0) == Deadline(7.0)
    assert Deadline(9.0).at_least(7.0) == Deadline(9.0)
