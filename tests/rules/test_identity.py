"""The marker of a submission, and what a try knows of earlier ones."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_dify.api.runs import RunStatus, WorkflowRun
from airflow_provider_dify.api.server_versions import Server
from airflow_provider_dify.exceptions import (
    DifyAuthenticationError,
    DifyError,
    DifyRunNotFoundError,
    DifyServerError,
    DifyTransportError,
)
from airflow_provider_dify.rules.earlier_tries import (
    SubmissionRecord,
    TaskTry,
    may_reattach,
    poll_earlier_run,
    search_deadline,
)
from airflow_provider_dify.rules.identity import marker, task_of
from airflow_provider_dify.rules.inputs import check_user
from airflow_provider_dify.rules.polling import Deadline, PollResult
from airflow_provider_dify.rules.waiting import PollRun, Sleep

# What Airflow allows in a dag, task and run id, and more: a dag id of 2.x may hold non-ASCII letters.
names = st.text(st.sampled_from("abż日._-~:+/0"), min_size=1, max_size=12) | st.builds(
    lambda char, length: char * length, st.sampled_from("aż"), st.integers(200, 260)
)
identities = st.tuples(names, names, names, st.integers(-1, 1024), st.integers(0, 40), st.integers(0, 40))


@given(names, names, names, st.tuples(st.integers(0, 1024), st.integers(0, 40), st.integers(0, 40)), st.integers(0, 9))
@example("d", "t", f"manual~{'a' * 231}", (0, 10, 10), 0)
def test_instances_of_one_mapped_task_are_known_by_their_markers(
    dag: str, task: str, run: str, tail: tuple[int, int, int], other: int
) -> None:
    assert task_of(marker(dag, task, run, *tail)) == task_of(marker(dag, task, run, other, 3, 1))
    assert task_of(marker("dag", "task", "run", *tail)) != task_of(marker("dag", "task", "other", *tail))


def test_a_user_of_its_own_stands_for_all_who_have_it() -> None:
    assert task_of("team/a/b/c/d") == "team/a/b/c/d"


@given(st.lists(identities, max_size=40, unique=True))
def test_every_submission_has_a_marker_of_its_own_that_dify_accepts(submissions: list[Any]) -> None:
    markers = [marker(*submission) for submission in submissions]
    assert len(set(markers)) == len(submissions)
    for text in markers:
        assert check_user(text) == text


@given(identities, st.integers(0, 5), st.integers(-1, 1024), st.integers(0, 40), st.integers(0, 40))
def test_changing_any_part_changes_the_marker(
    submission: Any, part: int, map_index: int, max_tries: int, number: int
) -> None:
    other = list(submission)
    other[part] = {0: "x", 1: "x", 2: "x", 3: map_index, 4: max_tries, 5: number}[part]
    assert (marker(*other) == marker(*submission)) == (tuple(other) == submission)


@pytest.mark.parametrize(
    ("submission", "text"),
    [
        (
            ("dag", "task", "manual__2026-01-01T00:00:00+00:00", -1, 2, 1),
            "airflow/dag/task/manual__2026-01-01T00:00:00+00:00/2/1",
        ),
        (("dag", "group.task", "run", 7, 0, 1), "airflow/dag/group.task/run/7/0/1"),
        (("dag", "task", "run", 0, 0, 1), "airflow/dag/task/run/0/0/1"),
    ],
)
def test_a_marker_that_fits_is_readable(submission: Any, text: str) -> None:
    assert marker(*submission) == text


def test_long_names_stay_readable_as_far_as_there_is_room() -> None:
    text = marker("d" * 250, "t" * 250, "r" * 250, 3, 2, 1)
    assert text.startswith("airflow/" + "d" * 200)
    assert text.endswith("/3/2/1")
    assert len(text) <= 255


def test_slashes_in_names_do_not_make_two_tasks_one() -> None:
    assert marker("a/b", "c", "r", -1, 0, 1) != marker("a", "b/c", "r", -1, 0, 1)
    assert marker("a", "b", "c/1", -1, 0, 1) != marker("a", "b", "c", 1, 0, 1)


def test_a_marker_is_the_same_in_every_process_and_version() -> None:
    assert (
        marker("d" * 250, "żółć", "a/b", 3, 2, 1) == "airflow/" + "d" * 208 + "~2331588d2c30d730eeacc2c143ad485d/3/2/1"
    )
    assert marker("a/b", "c", "r", -1, 0, 1) == "airflow/a/b/c/r~716e57f5f97296cdc357dfad5f3dc4bb/0/1"


def a_try(number: int, generation: int, retries: int = 2) -> TaskTry:
    return TaskTry("dag", "task", "run", -1, generation=generation, number=number, retries=retries)


@pytest.mark.parametrize(
    ("task_try", "earlier"),
    [
        (a_try(1, generation=2), []),
        (a_try(2, generation=2), [1]),
        (a_try(3, generation=2), [2, 1]),
        # Cleared after try 3: max_tries grew to 5, and tries 4, 5 and 6 are the new life's.
        (a_try(4, generation=5), []),
        (a_try(6, generation=5), [5, 4]),
        (a_try(1, generation=0, retries=0), []),
        (a_try(2, generation=0, retries=0), [1]),
        (a_try(100, generation=99, retries=99), list(range(99, 79, -1))),
    ],
)
def test_the_markers_of_earlier_tries_are_those_of_the_same_generation(task_try: TaskTry, earlier: list[int]) -> None:
    assert task_try.earlier_markers() == [
        marker("dag", "task", "run", -1, task_try.generation, number) for number in earlier
    ]
    assert task_try.marker not in task_try.earlier_markers()


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 30))
def test_two_generations_never_share_a_marker(retries: int, earlier_generation: int, growth: int) -> None:
    before = {a_try(number, generation=earlier_generation).marker for number in range(1, 60)}
    after = a_try(60, generation=earlier_generation + growth, retries=retries)
    assert not before & {after.marker, *after.earlier_markers()}


def test_what_a_try_has_written_down_can_be_read_again() -> None:
    for submitted in (
        SubmissionRecord(2, "m"),
        SubmissionRecord(2, "m", "run", "task"),
        SubmissionRecord(2, "m", "run", None, number=1, settled=True),
    ):
        assert SubmissionRecord.read(submitted.as_json()) == submitted


@pytest.mark.parametrize(
    "kept",
    [
        None,
        "",
        7,
        [],
        {},
        {"life": None, "marker": "m"},
        {"life": 2},
        {"life": 2, "marker": ""},
        {"life": "x", "marker": "m"},
    ],
)
def test_what_another_version_has_written_down_counts_as_nothing(kept: Any) -> None:
    assert SubmissionRecord.read(kept) is None


@pytest.mark.parametrize(
    ("status", "default", "strict"),
    [
        ("queued", True, True),
        ("running", True, True),
        ("paused", True, False),
        ("succeeded", True, True),
        ("partial-succeeded", True, False),
        ("failed", False, False),
        ("stopped", False, False),
    ],
)
def test_which_runs_of_earlier_tries_are_reattached(status: str, default: bool, strict: bool) -> None:
    assert may_reattach(RunStatus(status), fail_on_partial_success=False, fail_on_pause=False) is default
    assert may_reattach(RunStatus(status), fail_on_partial_success=True, fail_on_pause=True) is strict


def test_a_search_for_a_known_submission_goes_on_until_the_deadline() -> None:
    assert search_deadline(Deadline(1000.0), 10.0, earlier=False)(Server("1.14.2")) == Deadline(1000.0)


def test_a_search_with_patience_is_shorter_where_nothing_queues() -> None:
    until = search_deadline(Deadline(1000.0), 10.0, earlier=True)
    assert until(Server("1.11.2")).at < until(Server("1.14.2")).at < 1000.0
    assert until(Server()).at == until(Server("1.14.2")).at
    assert search_deadline(Deadline(11.0), 10.0, earlier=True)(Server()) == Deadline(11.0)


def ask(look: Any, deadline: float = 0.0) -> tuple[WorkflowRun | None, list[float]]:
    clock, times = [0.0], []
    flow = poll_earlier_run("r", lambda: clock[0], Deadline(deadline))
    reported: Any = None
    while True:
        try:
            request = flow.send(reported)
        except StopIteration as end:
            return end.value, times
        reported = None
        if isinstance(request, Sleep):
            clock[0] += request.seconds
        else:
            assert request == PollRun("r")
            times.append(clock[0])
            reported = look(clock[0])


def test_an_earlier_run_is_looked_at_until_the_server_tells() -> None:
    run = WorkflowRun("r", RunStatus.RUNNING)
    assert ask(lambda now: PollResult(run=run)) == (run, [0.0])
    found, times = ask(lambda now: PollResult(run=run) if now > 30 else PollResult(error=DifyTransportError("x")))
    assert found == run
    assert all(late > early for early, late in pairwise(times))


def test_an_earlier_run_that_stays_unknown_for_ten_seconds_is_gone() -> None:
    found, times = ask(lambda now: PollResult(error=DifyRunNotFoundError("x")))
    assert found is None
    assert 10 <= times[-1] <= 12


def test_a_server_that_is_away_is_waited_for_until_the_deadline() -> None:
    run, away = WorkflowRun("r", RunStatus.RUNNING), DifyServerError("x", status_code=502)
    assert ask(lambda now: PollResult(run=run) if now > 200 else PollResult(error=away), deadline=300.0)[0] == run
    with pytest.raises(DifyServerError):
        ask(lambda now: PollResult(error=away), deadline=300.0)


@pytest.mark.parametrize(("error", "seconds"), [(DifyAuthenticationError("x"), 0), (DifyTransportError("x"), 60)])
def test_an_earlier_run_that_cannot_be_read_is_never_a_new_run(error: DifyError, seconds: float) -> None:
    times = []

    def look(now: float) -> PollResult:
        times.append(now)
        return PollResult(error=error)

    with pytest.raises(type(error)):
        ask(look)
    assert seconds <= times[-1] <= seconds + 5


@pytest.mark.parametrize(
    ("number", "generation", "retries", "kept", "expected"),
    [
        # The first life: three tries.
        (2, 2, 2, SubmissionRecord(2, "m", number=1), True),
        (2, 2, 2, SubmissionRecord(2, "m", number=None), True),
        # Cleared after one try.
        (2, 3, 2, SubmissionRecord(2, "m", number=1), False),
        (3, 3, 2, SubmissionRecord(3, "m", number=2), True),
        # Cleared after one try, and retries lowered from 5 to 4 before: max_tries is the same.
        (2, 5, 4, SubmissionRecord(5, "m", number=1), False),
        (3, 5, 4, SubmissionRecord(5, "m", number=2), True),
        # More tries than max_tries allows for: a scheduler has reset the task.
        (5, 2, 2, SubmissionRecord(2, "m", number=4), True),
    ],
)
def test_a_note_is_of_this_generation_where_a_try_of_it_has_written_it(
    number: int, generation: int, retries: int, kept: SubmissionRecord, expected: bool
) -> None:
    assert a_try(number, generation, retries).shares_generation_with(kept) is expected
