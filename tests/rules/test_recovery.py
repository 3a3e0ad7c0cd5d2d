"""The state machine of a try: every state with every input."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from airflow_provider_dify.api.runs import RunStatus, StartedRun, WorkflowRun
from airflow_provider_dify.exceptions import (
    DifyAuthenticationError,
    DifyRateLimitError,
    DifyServerError,
    DifySubmissionUnknownError,
    DifyTransportError,
)
from airflow_provider_dify.rules.earlier_tries import SubmissionRecord, TaskTry
from airflow_provider_dify.rules.recovery import (
    AwaitServer,
    Fail,
    Reattach,
    Search,
    Submit,
    SubmitLater,
    Wait,
    after_failed_submission,
    after_poll,
    after_search,
    after_shutdown,
    first_step,
)
from airflow_provider_dify.rules.searching import Found, NotFound

GENERATION, USER, RUN = 2, "airflow/d/t/r/2/2", "11111111-1111-4111-8111-111111111111"
FIRST = TaskTry("d", "t", "r", -1, GENERATION, 1, retries=2)
RETRY = TaskTry("d", "t", "r", -1, GENERATION, 2, retries=2)
EARLIER = FIRST.marker
STARTED = StartedRun(RUN, "task")
NAMED = SubmissionRecord(GENERATION, EARLIER, RUN, "task")
UNNAMED = SubmissionRecord(GENERATION, EARLIER)

BEGINNINGS = [
    # try, kept, durable, can_search, remembers -> step
    (FIRST, None, True, True, True, Submit()),
    (FIRST, None, True, True, False, Submit()),
    (FIRST, None, True, False, True, Submit()),
    (FIRST, None, True, False, False, Submit()),
    (RETRY, None, True, True, True, Submit()),
    (RETRY, None, True, True, False, Search((EARLIER,), earlier=True)),
    (RETRY, None, True, False, True, Submit()),
    (RETRY, None, True, False, False, Submit()),
    (RETRY, NAMED, True, True, True, Reattach(STARTED, EARLIER)),
    (RETRY, NAMED, True, False, True, Reattach(STARTED, EARLIER)),
    (RETRY, UNNAMED, True, True, True, Search((EARLIER,), earlier=False)),
    # Nothing tells that run from others: the weaker guarantee of an explicit user.
    (RETRY, UNNAMED, True, False, True, Submit()),
    *[
        (this_try, kept, False, can_search, remembers, Submit())
        for this_try in (FIRST, RETRY)
        for kept in (None, NAMED, UNNAMED)
        for can_search in (True, False)
        for remembers in (True, False)
    ],
]


@pytest.mark.parametrize(("this_try", "kept", "durable", "can_search", "remembers", "step"), BEGINNINGS)
def test_the_try_begins(
    this_try: TaskTry, kept: SubmissionRecord | None, durable: bool, can_search: bool, remembers: bool, step: Any
) -> None:
    result = first_step(this_try, kept, durable=durable, can_search=can_search, remembers=remembers)
    assert replace(result, why=None) == step
    assert bool(result.why) == isinstance(result, Search)


UNKNOWN = DifySubmissionUnknownError("?", reason="?")
LIMITED = DifyRateLimitError("too many")
REPORTED = DifyRateLimitError("too many", retry_after=7.0)
REFUSALS = [
    DifyAuthenticationError("key"),
    DifyServerError("500", status_code=500),
    DifyTransportError("no such name", sent=False, cause="name"),
    DifyTransportError("not trusted", sent=False, cause="certificate"),
]
OUTAGES = [
    DifyTransportError("refused", sent=False, cause="refused"),
    DifyTransportError("nothing", sent=True),
    DifyServerError("gateway", status_code=502),
]

FAILURES = [
    # error, can_search, waits_its_turn, attempts, left -> step
    (UNKNOWN, True, True, 0, 100.0, Search((USER,), earlier=False)),
    (UNKNOWN, True, False, 0, 100.0, Search((USER,), earlier=False)),
    (UNKNOWN, True, True, 0, 0.0, Search((USER,), earlier=False)),
    (UNKNOWN, False, True, 0, 100.0, Fail(UNKNOWN)),
    (UNKNOWN, False, False, 0, 100.0, Fail(UNKNOWN)),
    (LIMITED, True, True, 0, 100.0, SubmitLater(5.0)),
    (LIMITED, False, True, 0, 100.0, SubmitLater(5.0)),
    (LIMITED, True, True, 1, 100.0, SubmitLater(10.0)),
    (LIMITED, True, True, 9, 100.0, SubmitLater(30.0)),
    (LIMITED, True, True, 9, 30.0, Fail(LIMITED)),
    (LIMITED, True, True, 0, 0.0, Fail(LIMITED)),
    (LIMITED, True, False, 0, 100.0, Fail(LIMITED)),
    (REPORTED, True, True, 0, 100.0, SubmitLater(7.35)),
    (REPORTED, True, True, 0, 7.0, Fail(REPORTED)),
    *[
        (refusal, can_search, waits, 0, 100.0, Fail(refusal))
        for refusal in REFUSALS
        for can_search in (True, False)
        for waits in (True, False)
    ],
    *[(outage, can_search, False, 0, 1.0, AwaitServer(outage)) for outage in OUTAGES for can_search in (True, False)],
]


@pytest.mark.parametrize(("error", "can_search", "waits_its_turn", "attempts", "left", "step"), FAILURES)
def test_a_submission_tells_of_no_run(
    error: Any, can_search: bool, waits_its_turn: bool, attempts: int, left: float, step: Any
) -> None:
    result = after_failed_submission(
        error,
        USER,
        can_search=can_search,
        waits_its_turn=waits_its_turn,
        attempts=attempts,
        left=left,
        jitter=0.5,
    )
    if isinstance(result, Fail):
        assert result == step
    elif isinstance(result, SubmitLater):
        assert isinstance(step, SubmitLater)
        assert result.seconds == pytest.approx(step.seconds)
        assert str(error) in str(result.why)
    else:
        assert replace(result, why=None) == step
        assert (USER if isinstance(step, Search) else str(error)) in str(result.why)


@pytest.mark.parametrize("outage", OUTAGES)
def test_a_server_that_stays_away_until_the_deadline_fails_the_task(outage: Any) -> None:
    step = after_failed_submission(outage, USER, can_search=True, waits_its_turn=True, attempts=0, left=0.0, jitter=0.5)
    assert isinstance(step, Fail)
    assert type(step.error) is type(outage)
    assert "nothing was submitted" in str(step.error)
    assert str(outage) in str(step.error)


def test_a_search_passes_over_what_a_shutdown_has_stopped() -> None:
    step = after_failed_submission(
        UNKNOWN, USER, can_search=True, waits_its_turn=True, attempts=0, left=9.0, jitter=0.5, ended=(RUN,)
    )
    assert isinstance(step, Search)
    assert step.ended == (RUN,)
    kept = SubmissionRecord(GENERATION, EARLIER, number=1, ended=(RUN,))
    begun = first_step(RETRY, SubmissionRecord.read(kept.as_json()), durable=True, can_search=True, remembers=True)
    assert isinstance(begun, Search)
    assert begun.ended == (RUN,)


STOPPED = WorkflowRun(RUN, RunStatus.STOPPED, error="Aborted: Workflow stopped because the worker is shutting down.")


@pytest.mark.parametrize(("resubmissions", "seconds"), [(0, 5.0), (1, 10.0), (2, 20.0), (3, 30.0), (4, 30.0)])
def test_a_run_stopped_by_shutdowns_is_submitted_again_ever_later(resubmissions: int, seconds: float) -> None:
    step = after_shutdown(STOPPED, resubmissions=resubmissions, jitter=0.5)
    assert step is not None
    assert step.seconds == pytest.approx(seconds)


@pytest.mark.parametrize(
    "run",
    [
        replace(STOPPED, error="Aborted: User requested stop"),
        replace(STOPPED, error=None),
        replace(STOPPED, status=RunStatus.FAILED),
        replace(STOPPED, status=RunStatus.SUCCEEDED),
    ],
)
def test_nothing_else_is_submitted_again(run: WorkflowRun) -> None:
    assert after_shutdown(run, resubmissions=0, jitter=0.5) is None
    assert after_shutdown(STOPPED, resubmissions=5, jitter=0.5) is None


def searched(
    result: Any, *, earlier: bool, remembers: bool = True, durable: bool = True, resubmits: bool = False
) -> Any:
    return after_search(
        result, USER, earlier=earlier, submitted=EARLIER, remembers=remembers, durable=durable, resubmits=resubmits
    )


@pytest.mark.parametrize("earlier", [True, False], ids=["patience", "deadline"])
def test_a_search_finds_the_submission_of_this_try_or_of_another(earlier: bool) -> None:
    run = StartedRun(RUN)
    assert searched(Found(RUN, USER), earlier=earlier) == Wait(run)
    assert searched(Found(RUN, EARLIER), earlier=earlier) == Reattach(run, EARLIER)


def test_a_search_with_patience_that_finds_nothing_submits() -> None:
    assert searched(NotFound("none"), earlier=True) == Submit("There is no run of an earlier try to reattach to: none.")


@pytest.mark.parametrize("remembers", [True, False])
@pytest.mark.parametrize("durable", [True, False])
def test_a_search_to_the_deadline_that_finds_nothing_never_submits(remembers: bool, durable: bool) -> None:
    step = searched(NotFound("none"), earlier=False, remembers=remembers, durable=durable)
    assert isinstance(step, Fail)
    assert isinstance(step.error, DifySubmissionUnknownError)
    assert str(step.error).startswith(
        f"An earlier try has sent its submission, or died just before, and Dify shows no run of the user '{EARLIER}'"
    )


def test_a_search_to_the_deadline_submits_where_resubmit_is_set() -> None:
    step = searched(NotFound("none"), earlier=False, resubmits=True)
    assert isinstance(step, Submit)
    assert EARLIER in str(step.why)


def test_only_what_this_try_has_sent_counts_as_sent() -> None:
    step = after_search(
        NotFound("none"), USER, earlier=False, submitted=USER, remembers=True, durable=True, resubmits=False
    )
    assert isinstance(step, Fail)
    assert str(step.error).startswith(f"The submission was sent, and Dify shows no run of the user '{USER}'")


REATTACHED = {
    RunStatus.RUNNING: (True, True),
    RunStatus.SUCCEEDED: (True, True),
    RunStatus.PARTIAL_SUCCEEDED: (True, False),
    RunStatus.PAUSED: (True, False),
    RunStatus.FAILED: (False, False),
    RunStatus.STOPPED: (False, False),
}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("status", RunStatus)
def test_a_run_of_an_earlier_try_is_waited_for_or_replaced(status: RunStatus, strict: bool) -> None:
    lenient, otherwise = REATTACHED.get(status, (True, True))
    run = WorkflowRun(workflow_run_id=RUN, status=status, inputs={"sys.app_id": "app"})
    step = after_poll(STARTED, run, fail_on_partial_success=strict, fail_on_pause=strict)
    if otherwise if strict else lenient:
        why = f"Run {RUN} of an earlier try is {status} and is reattached; no new run is started."
        assert step == Wait(StartedRun(RUN, "task", app_id="app", settled=status.is_terminal), why)
    else:
        assert step == Submit(f"Run {RUN} of an earlier try has ended {status}; a new run is started.")


def test_a_run_that_is_gone_is_replaced() -> None:
    step = after_poll(STARTED, None, fail_on_partial_success=False, fail_on_pause=False)
    assert step == Submit(f"Run {RUN} of an earlier try is not shown by the server any more; a new run is started.")
