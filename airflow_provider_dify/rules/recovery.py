"""What a try of a task does next: the state machine of submissions, searches and tries, as pure functions.

Each step tells the log why, where that is not plain.

======================  ==========================================================  ==========================
State                   Input                                                       Step
======================  ==========================================================  ==========================
the try begins          ``durable=False``                                           submit
the try begins          an earlier try has left the id of its run                   reattach to that run
the try begins          an earlier try may have submitted, and left no id           search to the deadline
the try begins          nothing was left, and that is certain                       submit
the try begins          a retry, and nothing would have been left                   search with patience
the try begins          no search is possible                                       submit
submitted               started                                                     wait
submitted               rate-limited                                                submit later, or fail
submitted               no server answers, and nothing was sent                     wait for the server
submitted               a quota is used up                                          fail
submitted               refused                                                     fail
submitted               unknown                                                     search to the deadline
submitted               unknown, and no search is possible                          fail
searched                found the submission of this try                            wait
searched                found that of an earlier try                                reattach to that run
searched with patience  not found                                                   submit
searched to deadline    not found                                                   fail: never a second POST
searched to deadline    not found, ``on_orphaned_intent="resubmit"``                submit, once
waited                  stopped by the server's own shutdown                        submit later, five times
polled an earlier run   active, or ended with reusable outputs                      wait
polled an earlier run   ended otherwise, or gone                                    submit
======================  ==========================================================  ==========================
"""

from __future__ import annotations

from dataclasses import dataclass

from airflow_provider_dify.api.runs import StartedRun, WorkflowRun
from airflow_provider_dify.exceptions import DifyError, DifyRateLimitError, DifySubmissionUnknownError, is_final
from airflow_provider_dify.rules.earlier_tries import SubmissionRecord, TaskTry, may_reattach
from airflow_provider_dify.rules.outages import (
    MAX_RESUBMISSIONS,
    is_outage,
    no_server_error,
    resubmission_wait,
    was_stopped_by_shutdown,
)
from airflow_provider_dify.rules.searching import FindResult, NotFound
from airflow_provider_dify.rules.submission import rate_limit_wait, unresolved_error


@dataclass(frozen=True)
class Submit:
    """Send a submission: it is certain, or as certain as can be, that there is no run."""

    why: str | None = None


@dataclass(frozen=True)
class SubmitLater:
    """Let time pass and submit then, since no run was accepted now.

    :param seconds: How long.
    """

    seconds: float
    why: str | None = None


@dataclass(frozen=True)
class AwaitServer:
    """Wait until the server answers, and submit then.

    :param error: What the outage was noticed by.
    """

    error: DifyError
    why: str | None = None


@dataclass(frozen=True)
class Search:
    """Search for a run by its markers.

    :param markers: The ``user`` values, the latest first.
    :param earlier: Whether it is not even known that there was a submission: then patience ends the search, and
        otherwise the deadline.
    :param ended: Runs of the markers that have ended, and after which another was submitted.
    """

    markers: tuple[str, ...]
    earlier: bool
    why: str | None = None
    ended: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reattach:
    """Poll the run of an earlier try, and go on with it where it is reusable.

    :param run: The run.
    :param marker: The ``user`` of its submission.
    """

    run: StartedRun
    marker: str
    why: str | None = None


@dataclass(frozen=True)
class Wait:
    """Wait for the end of the run, whose id is known.

    :param run: The run.
    """

    run: StartedRun
    why: str | None = None


@dataclass(frozen=True)
class Fail:
    """End the try.

    :param error: The exception.
    """

    error: DifyError


def first_step(
    this_try: TaskTry, kept: SubmissionRecord | None, *, durable: bool, can_search: bool, remembers: bool
) -> Submit | Search | Reattach:
    """Return how a try begins.

    :param kept: The note that an earlier try of this clear generation has left.
    :param durable: Whether a try reattaches to what earlier ones have left.
    :param can_search: Whether runs can be identified by their ``user`` and be listed.
    :param remembers: Whether there is a store, in which a submission would have been left.
    """
    if not durable:
        return Submit()
    if kept is not None and kept.workflow_run_id is not None:
        return Reattach(StartedRun(kept.workflow_run_id, kept.task_id), kept.marker)
    if not can_search:
        return Submit()
    if kept is not None:
        why = "An earlier try has submitted a run and did not learn its id: it is searched for."
        return Search((kept.marker,), earlier=False, why=why, ended=kept.ended)
    markers = tuple(this_try.earlier_markers())
    if remembers or not markers:
        return Submit()
    why = "This is a retry: runs of earlier tries are searched for before a new one is started."
    return Search(markers, earlier=True, why=why)


def after_failed_submission(
    error: DifyError,
    user: str,
    *,
    can_search: bool,
    waits_its_turn: bool,
    attempts: int,
    left: float,
    jitter: float,
    ended: tuple[str, ...] = (),
) -> SubmitLater | AwaitServer | Search | Fail:
    """Return what follows a submission that did not tell of a run.

    :param error: What it ended with.
    :param user: The ``user`` of the submission.
    :param can_search: Whether runs can be identified by their ``user`` and be listed.
    :param waits_its_turn: Whether a rate-limited submission is sent again.
    :param attempts: Submissions of this try that were rate-limited before.
    :param left: Seconds to the deadline.
    :param jitter: A random number from 0 to 1.
    :param ended: Runs of this user that have ended, and after which this one was submitted.
    """
    if isinstance(error, DifySubmissionUnknownError) and can_search:
        why = f"Dify has not named the run it started ({error.reason}). It is searched for by its user {user}."
        return Search((user,), earlier=False, why=why, ended=ended)
    if is_outage(error):
        if left > 0:
            return AwaitServer(error, f"No Dify server answers; the run is submitted once it does. {error.message}")
        return Fail(no_server_error(error))
    if isinstance(error, DifyRateLimitError) and not is_final(error) and waits_its_turn:
        seconds = rate_limit_wait(attempts, error.retry_after, jitter)
        if seconds < left:
            why = f"Dify takes no further run now; the next submission follows in {seconds:.0f} s. {error.message}"
            return SubmitLater(seconds, why)
    return Fail(error)


def after_search(
    result: FindResult,
    user: str,
    *,
    earlier: bool,
    submitted: str,
    remembers: bool,
    durable: bool,
    resubmits: bool,
    hint: str = "",
) -> Submit | Reattach | Wait | Fail:
    """Return what follows a search.

    :param result: How it ended.
    :param user: The ``user`` of this try.
    :param earlier: As in ``Search``.
    :param submitted: The ``user`` of the submission that is in doubt; an earlier try's, where that has submitted.
    :param remembers: Whether the next try will know of that submission.
    :param durable: Whether the next try searches for it at all.
    :param resubmits: Whether a submission that is not found is sent again, at the price of a second run.
    :param hint: What the silence that began the search may mean.
    """
    if isinstance(result, NotFound):
        if earlier:
            return Submit(f"There is no run of an earlier try to reattach to: {result.reason}.")
        if resubmits:
            return Submit(
                f"Dify shows no run of the user {submitted!r}: {result.reason}. It is submitted again, since "
                'on_orphaned_intent="resubmit" is set: should the first one run as well, there are two.'
            )
        return Fail(
            unresolved_error(
                result.reason,
                submitted,
                sent=submitted == user,
                remembered=remembers,
                durable=durable,
                hint=hint if submitted == user else "",
            )
        )
    run = StartedRun(result.workflow_run_id)
    return Wait(run) if result.marker == user else Reattach(run, result.marker)


def after_shutdown(run: WorkflowRun, *, resubmissions: int, jitter: float) -> SubmitLater | None:
    """Return what follows the end of a run that the server's own shutdown has stopped; None for any other end.

    :param run: The run, which has ended.
    :param resubmissions: Submissions of this try that followed a shutdown before.
    :param jitter: A random number from 0 to 1.
    """
    if not was_stopped_by_shutdown(run) or resubmissions >= MAX_RESUBMISSIONS:
        return None
    seconds = resubmission_wait(resubmissions, jitter)
    return SubmitLater(
        seconds,
        f"Dify has stopped run {run.workflow_run_id}, since its worker was shut down, as for an upgrade. It is "
        f"submitted again in {seconds:.0f} s.",
    )


def after_poll(
    started: StartedRun, run: WorkflowRun | None, *, fail_on_partial_success: bool, fail_on_pause: bool
) -> Submit | Wait:
    """Return what follows a poll of the run of an earlier try.

    :param started: The run as it was left.
    :param run: What the server shows of it; None for nothing.
    """
    run_id = started.workflow_run_id
    if run is None:
        return Submit(f"Run {run_id} of an earlier try is not shown by the server any more; a new run is started.")
    if not may_reattach(run.status, fail_on_partial_success=fail_on_partial_success, fail_on_pause=fail_on_pause):
        return Submit(f"Run {run_id} of an earlier try has ended {run.status}; a new run is started.")
    return Wait(
        StartedRun(
            run_id,
            started.task_id,
            app_id=run.app_id,
            server_version=run.server_version,
            settled=run.status.is_terminal,
        ),
        f"Run {run_id} of an earlier try is {run.status} and is reattached; no new run is started.",
    )
