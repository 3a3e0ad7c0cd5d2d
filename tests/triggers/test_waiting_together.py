"""Many triggers of one triggerer: what they share, what it costs the server, and what no failure of it can do."""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import Iterator
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dify.api.errors import Answer
from airflow_provider_dify.api.operations import Call
from airflow_provider_dify.exceptions import DifyTransportError
from airflow_provider_dify.runtime import poller
from tests.hooks.virtual import EPOCH, Dify, Run

pytestmark = pytest.mark.any_airflow

MINUTE = 60.0


@pytest.fixture
def dify(monkeypatch: pytest.MonkeyPatch) -> Dify:
    random.seed(7)
    return Dify(monkeypatch)


def ended(events: list[tuple[float, dict[str, Any]]]) -> set[str | None]:
    assert {event["status"] for _, event in events} == {"ended"}
    return {event.get("run_status") for _, event in events}


def latencies(runs: list[Run], events: list[tuple[float, dict[str, Any]]]) -> list[float]:
    return sorted(at - (run.ends or 0.0) for run, (at, _) in zip(runs, events, strict=True))


def start_many(dify: Dify, count: int, least: float = 20.0, most: float = 120.0) -> list[Run]:
    runs = dify.start(count)
    for run in runs:
        run.ends = random.uniform(least, most)
    return runs


def test_a_thousand_cost_a_twentieth_and_are_reported_sooner(dify: Dify) -> None:
    runs = start_many(dify, 1000)
    events = dify.wait_for_all([dify.trigger(run) for run in runs])
    assert ended(events) == {"succeeded"}
    late = latencies(runs, events)
    assert statistics.median(late) <= 1.5
    assert statistics.quantiles(late, n=20)[-1] <= 5.02
    # Single looks, by the same schedule: 1, 3, 7, 12, 17 s and so on.
    single = sum(3 + ((run.ends or 0.0) - 2) / 5 for run in runs)
    confirmed = len({call.path for _, _, call in dify.polls()})
    assert confirmed == 1000
    assert (len(dify.requests) - confirmed) * 20 <= single
    assert len(dify.sessions) == 1


def test_a_thousand_that_start_within_a_second_ask_for_the_connection_once(dify: Dify) -> None:
    runs = start_many(dify, 1000)

    async def start() -> Any:
        tasks = []
        for run in runs:
            tasks.append(asyncio.ensure_future(dify.fire(dify.trigger(run))))
            await asyncio.sleep(0.001)
        return await asyncio.gather(*tasks)

    assert ended(dify.run(start())) == {"succeeded"}
    assert len(dify.reads) == 1
    assert dify.most_busy <= 4
    assert len([at for at, _, _ in dify.requests if at < 5]) < 60


def test_the_bound_is_the_connections_own(dify: Dify) -> None:
    dify.extra = {"max_connections": 2}
    runs = dify.start(300, ends=15.0)
    assert ended(dify.wait_for_all([dify.trigger(run) for run in runs])) == {"succeeded"}
    assert dify.most_busy == 2


def test_one_alone_is_looked_at_as_ever(dify: Dify) -> None:
    [run] = dify.start(ends=30.0)
    assert ended(dify.wait_for_all([dify.trigger(run)])) == {"succeeded"}
    assert dify.pages() == []
    assert [round(at) for at, _, _ in dify.polls()] == pytest.approx([1, 3, 7, 12, 17, 22, 27, 32], abs=2.5)


def test_two_cost_no_more_together_than_alone(dify: Dify) -> None:
    runs = dify.start(2, ends=10 * MINUTE)
    assert ended(dify.wait_for_all([dify.trigger(run, 1000) for run in runs])) == {"succeeded"}
    assert len(dify.polls()) <= 10 * MINUTE / 5 + 6
    assert len(dify.pages()) <= 10 * MINUTE / 2.2


def test_long_intervals_of_the_dags_own_are_kept(dify: Dify) -> None:
    runs = dify.start(3, ends=20 * MINUTE)
    triggers = [dify.trigger(run, 2000, poll_interval=30, max_poll_interval=60) for run in runs]
    assert ended(dify.wait_for_all(triggers)) == {"succeeded"}
    assert len(dify.pages()) <= 20 * MINUTE / 17


def test_the_pages_begin_with_the_oldest_run(dify: Dify) -> None:
    old, new = dify.start(1, created=-3600.0, ends=40.0) + dify.start(1, created=0.0, ends=40.0)
    dify.start(50, created=-7200.0)
    dify.wait_for_all([dify.trigger(run) for run in (old, new)])
    for _, _, call in dify.pages():
        after = datetime.fromisoformat(call.query["created_at__after"]).timestamp() - EPOCH
        assert -3600 - 60 <= after <= -3600


def test_a_run_of_unknown_age_joins_the_pages_after_its_first_poll(dify: Dify) -> None:
    """The sensor's, and those of a server whose clock goes wrong."""
    runs = dify.start(20, created=-5000.0, ends=5 * MINUTE)
    dify.wait_for_all([dify.trigger(run, 1000, since=None) for run in runs])
    assert len(dify.polls()) < 20 * (5 * MINUTE / 5) / 4


@pytest.mark.parametrize("version", ["1.9.1", "1.10.0"])
def test_a_server_whose_logs_list_only_the_ended_is_asked_for_one_page(dify: Dify, version: str) -> None:
    dify.version = version
    runs = dify.start(5, ends=MINUTE)
    assert ended(dify.wait_for_all([dify.trigger(run) for run in runs])) == {"succeeded"}
    assert len(dify.pages()) <= 1
    assert len(dify.polls()) >= 5 * 10


def test_the_contract_without_logs_is_asked_for_none(dify: Dify) -> None:
    dify.extra = {"api_contract": "workflow-runs"}
    runs = dify.start(5, ends=MINUTE)
    assert ended(dify.wait_for_all([dify.trigger(run) for run in runs])) == {"succeeded"}
    assert dify.pages() == []


def test_an_app_that_is_crowded_with_foreign_runs_falls_back(dify: Dify) -> None:
    runs = dify.start(4, ends=5 * MINUTE)
    for second in range(300):
        dify.start(150, created=float(second))
    assert ended(dify.wait_for_all([dify.trigger(run, 1000) for run in runs])) == {"succeeded"}
    # A page or two, twice, once a minute.
    assert len(dify.pages()) <= 4 * 6
    assert len(dify.polls()) >= 4 * 40


def test_foreign_runs_between_ours_change_nothing(dify: Dify) -> None:
    runs = start_many(dify, 200)
    dify.start(600)
    events = dify.wait_for_all([dify.trigger(run) for run in runs])
    assert ended(events) == {"succeeded"}
    assert statistics.median(latencies(runs, events)) <= 1.5
    assert len(dify.polls()) < 300


def test_one_old_run_does_not_stretch_the_pages_of_all(dify: Dify) -> None:
    dify.start(5000, created=-1800.0)
    old = dify.start(1, created=-3600.0, ends=5 * MINUTE)
    new = dify.start(100, created=0.0, ends=5 * MINUTE)
    assert ended(dify.wait_for_all([dify.trigger(run, 1000) for run in old + new])) == {"succeeded"}
    assert len(dify.pages()) <= 5 * MINUTE + 40
    assert max(int(call.query["page"]) for _, _, call in dify.pages()) <= 4


def test_what_a_page_says_of_an_end_is_confirmed(dify: Dify) -> None:
    runs = dify.start(10, ends=40.0, status="failed")

    def lie(now: float, rows: list[Any]) -> list[Any]:
        for row in rows:
            row["workflow_run"]["status"] = "succeeded"
        return rows

    dify.lie = lie
    events = dify.wait_for_all([dify.trigger(run) for run in runs])
    assert ended(events) == {"failed"}
    # Refuted once, the same word of the page does not call again; looks are then what they are without pages.
    assert len(dify.polls()) <= 10 * 13


def test_pages_that_are_frozen_are_found_out(dify: Dify) -> None:
    """A cache before the server answers the page of the first minute for ever."""
    runs = dify.start(20)
    for index, run in enumerate(runs):
        run.ends = 20.0 + index

    def lie(now: float, rows: list[Any]) -> list[Any]:
        for row in rows:
            row["workflow_run"]["status"] = "running"
        return rows

    dify.lie = lie
    events = dify.wait_for_all([dify.trigger(run, 3600) for run in runs])
    assert ended(events) == {"succeeded"}
    assert max(at for at, _ in events) < 4 * MINUTE


def test_paused_runs_are_reported_once_and_then_cost_pages_only(dify: Dify) -> None:
    runs = dify.start(10, ends=10 * MINUTE, until_then="paused")
    assert ended(dify.wait_for_all([dify.trigger(run, 1000) for run in runs])) == {"succeeded"}
    assert len(dify.polls()) <= 10 + 10 + 10 * MINUTE / 5 + 5


def test_the_last_poll_is_always_taken(dify: Dify) -> None:
    runs = dify.start(10, ends=59.8)
    dify.lie = lambda now, rows: [dify.row(run, "running") for run in runs]
    events = dify.wait_for_all([dify.trigger(run, 60) for run in runs])
    assert ended(events) == {"succeeded"}
    assert all(at <= 61 for at, _ in events)


def test_a_deadline_ends_the_wait_although_nothing_answers(dify: Dify) -> None:
    runs = dify.start(40)
    dify.fault = lambda now, key, call: DifyTransportError("silence", cause="timeout")
    dify.seconds = 30.0
    events = dify.wait_for_all([dify.trigger(run, 100) for run in runs])
    assert {event["status"] for _, event in events} == {"timed_out"}
    assert max(at for at, _ in events) <= 100 + 30 + 30 + 1


def test_who_leaves_disturbs_nobody(dify: Dify) -> None:
    runs = start_many(dify, 100, most=60.0)

    async def leaving() -> Any:
        tasks = [asyncio.ensure_future(dify.fire(dify.trigger(run))) for run in runs]
        for index in range(0, 100, 2):
            await asyncio.sleep(0.13)
            tasks[index].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = dify.run(leaving())
    assert all(isinstance(each, asyncio.CancelledError) for each in results[::2])
    assert ended(results[1::2]) == {"succeeded"}


def test_all_leave_at_any_moment_and_nothing_is_left(dify: Dify) -> None:
    runs = dify.start(50)

    async def leaving() -> None:
        for moment in (0.0, 0.005, 0.015, 0.9, 1.0, 1.01, 1.2, 3.3):
            tasks = [asyncio.ensure_future(dify.fire(dify.trigger(run))) for run in runs]
            await asyncio.sleep(moment)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    dify.run(leaving())


def test_two_triggers_of_one_run_are_both_reported(dify: Dify) -> None:
    runs = dify.start(3, ends=20.0)
    assert ended(dify.wait_for_all([dify.trigger(run) for run in runs + runs])) == {"succeeded"}


def test_a_poller_that_dies_is_reborn(dify: Dify, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = dify.start(20, ends=20 * MINUTE)
    deaths: list[float] = []

    def fault(now: float, key: str, call: Call) -> Exception | None:
        if call.path.endswith("/logs") and now < 3 * MINUTE:
            deaths.append(now)
            return MemoryError("any bug")
        return None

    dify.fault = fault
    assert ended(dify.wait_for_all([dify.trigger(run, 3600) for run in runs])) == {"succeeded"}
    assert deaths
    assert len(dify.pages()) > len(deaths) + 100
    single = 20 * 20 * MINUTE / 5
    assert len(dify.polls()) < single / 2


@pytest.mark.parametrize("status", [404, 403, 500, 502])
def test_logs_that_are_refused_cost_a_page_now_and_then(dify: Dify, status: int) -> None:
    runs = dify.start(10, ends=10 * MINUTE)

    def fault(now: float, key: str, call: Call) -> Answer | None:
        return dify.json({"code": "x", "message": "x", "status": status}, status) if "/logs" in call.path else None

    dify.fault = fault
    events = dify.wait_for_all([dify.trigger(run, 1000) for run in runs])
    assert ended(events) == {"succeeded"}
    assert len(dify.pages()) <= 16


def test_when_the_pages_stop_each_polls_by_itself_again(dify: Dify) -> None:
    runs = start_many(dify, 50, least=40.0)

    def fault(now: float, key: str, call: Call) -> Answer | None:
        return dify.json({}, 500) if "/logs" in call.path and now > 30 else None

    dify.fault = fault
    events = dify.wait_for_all([dify.trigger(run) for run in runs])
    assert ended(events) == {"succeeded"}
    assert latencies(runs, events)[-1] <= 8


def test_a_run_that_the_pages_lose_is_looked_at_by_itself_again(dify: Dify) -> None:
    runs = dify.start(50, ends=100.0)
    lost = runs[7]
    lost.ends = 50.0
    dify.lie = lambda now, rows: [row for row in rows if now < 30 or row["workflow_run"]["id"] != lost.id]
    events = dify.wait_for_all([dify.trigger(run) for run in runs])
    assert ended(events) == {"succeeded"}
    assert events[7][0] <= 50 + 7


def test_the_last_that_waits_polls_by_itself_again(dify: Dify) -> None:
    runs = dify.start(2, ends=20.0)
    runs[1].ends = 60.0
    events = dify.wait_for_all([dify.trigger(run) for run in runs])
    assert ended(events) == {"succeeded"}
    assert latencies(runs, events)[-1] <= 6


def test_a_rotated_key_fails_nobody(dify: Dify) -> None:
    runs = dify.start(30, ends=2 * MINUTE, key="app-key")

    def fault(now: float, key: str, call: Call) -> Answer | None:
        if now > 30:
            dify.keys["dify_default"] = "app-new"
            if key != "app-new":
                return dify.json({"code": "unauthorized", "message": "Access token is invalid", "status": 401}, 401)
            for run in runs:
                run.key = "app-new"
        return None

    dify.fault = fault
    assert ended(dify.wait_for_all([dify.trigger(run) for run in runs])) == {"succeeded"}
    assert len(dify.reads) == 2
    assert len(dify.sessions) == 2


def test_a_changed_connection_is_noticed_although_the_old_key_works(dify: Dify) -> None:
    runs = dify.start(3, ends=15 * MINUTE)

    def fault(now: float, key: str, call: Call) -> None:
        if now > 10:
            dify.keys["dify_default"] = "app-new"
        if key == "app-new":
            for run in runs:
                run.key = "app-new"

    dify.fault = fault
    assert ended(dify.wait_for_all([dify.trigger(run, 1000) for run in runs])) == {"succeeded"}
    assert {key for at, key, _ in dify.requests if at > poller.READ_AGAIN_SECONDS + 10} == {"app-new"}
    assert len(dify.reads) <= 4


def test_a_refused_key_fails_all_and_is_asked_for_once(dify: Dify) -> None:
    runs = dify.start(200)
    dify.fault = lambda now, key, call: dify.json({"code": "unauthorized", "message": "no", "status": 401}, 401)
    events = dify.wait_for_all([dify.trigger(run) for run in runs])
    assert {event["error"]["type"] for _, event in events} == {"DifyAuthenticationError"}
    assert len(dify.reads) <= 6


def test_a_connection_that_cannot_be_read_is_read_again(dify: Dify) -> None:
    runs = dify.start(100, ends=MINUTE)
    dify.keys["dify_default"] = "unreadable"

    async def waiting() -> Any:
        tasks = [asyncio.ensure_future(dify.fire(dify.trigger(run))) for run in runs]
        await asyncio.sleep(20)
        dify.keys["dify_default"] = "app-key"
        return await asyncio.gather(*tasks)

    assert ended(dify.run(waiting())) == {"succeeded"}
    assert len(dify.reads) <= 2 + 20 / 2


def test_two_connections_never_share(dify: Dify) -> None:
    """The same ids behind two keys: the one says that all have ended, the other that none has."""
    dify.keys = {"one": "app-one", "two": "app-two"}
    ours = dify.start(20, ends=30.0, key="app-one")
    theirs = dify.start(20, ends=90.0, key="app-two")
    triggers = [dify.trigger(run, dify_conn_id="one") for run in ours]
    triggers += [dify.trigger(run, dify_conn_id="two") for run in theirs]
    events = dify.wait_for_all(triggers)
    assert ended(events) == {"succeeded"}
    assert all(30 <= at < 36 for at, _ in events[:20])
    assert all(90 <= at < 96 for at, _ in events[20:])
    assert len(dify.sessions) == 2


def test_rows_of_the_app_before_are_forgotten_with_its_key(dify: Dify) -> None:
    """The new key's app does not know these runs, whatever the old one's pages lines a moment ago."""
    runs = dify.start(10, ends=10 * MINUTE)

    def fault(now: float, key: str, call: Call) -> Answer | None:
        if now > 30 and key == "app-key":
            dify.keys["dify_default"] = "app-other"
            return dify.json({"code": "unauthorized", "message": "no", "status": 401}, 401)
        return None

    dify.fault = fault
    events = dify.wait_for_all([dify.trigger(run, 1000) for run in runs])
    assert {event["error"]["type"] for _, event in events} == {"DifyRunNotFoundError"}
    assert max(at for at, _ in events) < 60


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_holds_for_all(dify: Dify, status: int) -> None:
    runs = dify.start(50, ends=MINUTE)
    asked: list[float] = []

    def fault(now: float, key: str, call: Call) -> Answer | None:
        if 10 <= now < 40:
            asked.append(now)
            return dify.json({"code": "x", "message": "x", "status": status}, status, **{"retry-after": "30"})
        return None

    dify.fault = fault
    assert ended(dify.wait_for_all([dify.trigger(run) for run in runs])) == {"succeeded"}
    assert len(asked) <= 4


def test_a_slow_server_is_not_queued_up_behind(dify: Dify) -> None:
    """Answers of two seconds, and only single looks: at most half of the four connections are busy."""
    dify.extra = {"api_contract": "workflow-runs"}
    dify.seconds = 2.0
    runs = dify.start(200, ends=10 * MINUTE)
    assert ended(dify.wait_for_all([dify.trigger(run, 3600) for run in runs])) == {"succeeded"}
    spent = dify.loop.now
    assert dify.most_busy <= 4
    assert dify.busy_seconds <= 2.2 * spent


def test_slow_pages_come_less_often(dify: Dify) -> None:
    dify.seconds = 3.0
    runs = dify.start(1000, ends=5 * MINUTE)
    events = dify.wait_for_all([dify.trigger(run, 1000) for run in runs])
    assert ended(events) == {"succeeded"}
    before = [at for at, _, _ in dify.pages() if at < 5 * MINUTE]
    assert len(before) * 3.0 <= 4 * 5 * MINUTE


def test_lines_of_the_log_fall_together(dify: Dify) -> None:
    """Airflow's triggerer asks the database when a trigger has logged something, once for all that falls together."""
    reported: list[tuple[float, str]] = []
    runs = start_many(dify, 100, 10 * MINUTE, 10 * MINUTE)
    triggers = [dify.trigger(run, 20 * MINUTE) for run in runs]
    for trigger in triggers:
        trigger._log = SimpleNamespace(info=lambda line: reported.append((dify.loop.now, line)))
    dify.wait_for_all(triggers)
    still = [(at, line) for at, line in reported if "is still running" in line]
    for run in runs:
        lines = [at for at, line in still if run.id in line]
        assert 7 <= len(lines) <= 9
    assert sum(at == int(at) for at, _ in still) >= 0.9 * len(still)


def test_a_long_wait_ends_at_its_deadline_all_the_same(dify: Dify) -> None:
    runs = dify.start(50)
    events = dify.wait_for_all([dify.trigger(run, 100 + number / 10) for number, run in enumerate(runs)])
    for number, (at, event) in enumerate(events):
        assert event["status"] == "timed_out"
        assert at - (100 + number / 10) <= 0.2


def test_hours_of_coming_and_going_leave_nothing(dify: Dify) -> None:
    held: list[poller.Poller] = []

    async def hours() -> None:
        [last] = dify.start(1, ends=3 * 3600.0)
        task = asyncio.ensure_future(dify.fire(dify.trigger(last, 4 * 3600)))
        for _ in range(120):
            runs = dify.start(20, created=dify.loop.now, ends=dify.loop.now + 30)
            await asyncio.gather(*(dify.fire(dify.trigger(run)) for run in runs))
            held[:] = poller._pollers[dify.loop].values()
            await asyncio.sleep(30)
            for run in runs:
                del dify.runs[run.id]
        registry = held[0]._registry
        assert len(registry._waiting) == 1
        assert len(registry._plain) <= 1
        assert len(registry._seen) + len(registry._ended) + len(registry._passed_over) <= 45
        assert (len(held[0]._waiting), len(held[0]._awaiting)) == (1, 0)
        assert len(held[0]._alarms._ticks) <= 60
        await task

    dify.run(hours())


STATUSES = ("running", "paused", "succeeded", "failed", "stopped", "partial-succeeded", "scheduled", "unheard-of")
LIES = ("honest", "stale", "missing", "reordered", "duplicates", "foreign", "wrong", "empty", "broken", "another key's")


@st.composite
def generations(draw: st.DrawFn) -> dict[str, Any]:
    count = draw(st.integers(2, 7))
    return {
        "ends": draw(st.lists(st.floats(0, 80), min_size=count, max_size=count)),
        "statuses": draw(st.lists(st.sampled_from(STATUSES[2:6]), min_size=count, max_size=count)),
        "lies": draw(st.lists(st.sampled_from(LIES), min_size=1, max_size=6)),
        "more": draw(st.booleans()),
        "seed": draw(st.integers(0, 2**32)),
        "timeout": draw(st.floats(5, 60)),
    }


@given(generations())
def test_a_page_that_lies_ends_no_run_wrongly_and_hangs_none(generation: dict[str, Any]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        dify = Dify(monkeypatch)
        jitter = random.Random(generation["seed"])
        runs = [run for _ in generation["ends"] for run in dify.start()]
        for run, ends, status in zip(runs, generation["ends"], generation["statuses"], strict=True):
            run.ends, run.status = ends, status
        asked: Iterator[int] = iter(range(10**6))

        def lie(now: float, rows: list[Any]) -> list[Any]:
            kind = generation["lies"][next(asked) % len(generation["lies"])]
            if kind == "stale":
                return [dify.row(run, run.status_at(now - jitter.uniform(0, 60))) for run in runs]
            if kind == "missing":
                return [row for row in rows if jitter.random() < 0.5]
            if kind == "reordered":
                return jitter.sample(rows, len(rows))
            if kind == "duplicates":
                return [dify.row(jitter.choice(runs), jitter.choice(STATUSES)) for _ in range(12)]
            if kind == "foreign":
                return [dify.row(Run(), "succeeded") for _ in range(100)]
            if kind == "wrong":
                return [dify.row(run, jitter.choice(STATUSES)) for run in runs]
            if kind == "another key's":
                return [dify.row(run, "failed") for run in runs]
            return {"honest": rows, "empty": [], "broken": [None, {}, {"workflow_run": {"id": 7}}, *rows]}[kind]

        dify.lie = lie
        dify.more = lambda more: more or generation["more"]
        deadline = generation["timeout"]
        for run, (at, event) in zip(
            runs, dify.wait_for_all([dify.trigger(run, deadline) for run in runs]), strict=True
        ):
            assert at <= deadline + 1
            assert run.ends is not None
            if event["status"] == "ended":
                assert event["run_status"] == run.status
                assert at >= run.ends
            else:
                assert event["status"] == "timed_out"
                assert run.ends >= deadline - 0.1
                assert at >= deadline - 0.001
