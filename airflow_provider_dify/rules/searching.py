"""The search for a run that its submission has not named: by its marker, in the workflow logs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_provider_dify.api.runs import LoggedRun, LogPage, RunStatus
from airflow_provider_dify.api.server_versions import Server
from airflow_provider_dify.exceptions import DifyError, DifyResponseError, is_final
from airflow_provider_dify.rules.outages import is_shutdown_text
from airflow_provider_dify.rules.polling import Deadline
from airflow_provider_dify.rules.settings import PollSchedule
from airflow_provider_dify.rules.waiting import FindMarker, Say, Sleep


@dataclass(frozen=True)
class Found:
    """A run of one of the markers exists: its submission took effect.

    :param workflow_run_id: The run.
    :param marker: The marker that led to it.
    """

    workflow_run_id: str
    marker: str


@dataclass(frozen=True)
class NotFound:
    """No run of the markers was listed in time, which proves nothing: a queued run is not listed.

    :param reason: Why the search ended.
    """

    reason: str


FindResult = Found | NotFound
FindRequest = Sleep | FindMarker | Say
FindFlow = Generator[FindRequest, Any, FindResult]


def is_reusable(run: LoggedRun) -> bool:
    """Tell whether a run of an earlier try may be reattached; its row in the logs is the first hint only."""
    return run.status not in (RunStatus.FAILED, RunStatus.STOPPED)


def newest_run(page: LogPage, marker: str, ended: Collection[str] = ()) -> LoggedRun | None:
    """Return the run of a marker out of what the logs have of it; None where they have none.

    A marker has one run, unless a DAG run was deleted and triggered again by the same id.

    :param ended: Runs of the marker that do not count.
    """
    runs = (run for run in page.runs if run.user in (None, marker) and run.workflow_run_id not in ended)
    return max(runs, key=lambda run: run.created_at or 0, default=None)


def find_run(
    markers: Sequence[str],
    *,
    schedule: PollSchedule,
    patience: Callable[[Server | None], Deadline],
    clock: Callable[[], float],
    jitter: Callable[[], float],
    wanted: Callable[[LoggedRun], bool] | None = None,
    streamed: bool = True,
    ended: Collection[str] = (),
) -> FindFlow:
    """Look markers up until a run of one of them is listed.

    Failed look-ups are transient errors. A search for runs of earlier tries whose last look-ups failed never ends as
    "nothing there", after which a second run would be started: it goes on until the deadline, and fails.

    :param markers: Markers, the latest first.
    :param schedule: The distances between look-ups.
    :param patience: Returns when to give up, for the server that answers; for None where the last look-up of a
        marker failed.
    :param clock: Returns unix seconds.
    :param jitter: Returns random numbers from 0 to 1.
    :param wanted: Which runs of earlier tries count; left out, the search is for this try's submission, and all
        do. Others are passed over, and end the search where they are of the latest marker: its submission is
        accounted for.
    :param streamed: Whether the submission was streamed: before Dify 1.9.2 such a run is never listed once its
        stream is closed.
    :param ended: Runs of the same markers that are known to have ended, and after which another was submitted.
    """
    polls = failures = 0
    server = Server()
    while True:
        error: DifyError | None = None
        latest_is_settled = False
        for marker in markers:
            answer = yield FindMarker(marker)
            if isinstance(answer, DifyError):
                error = answer
                if is_final(error):
                    raise error
                continue
            assert isinstance(answer, LogPage)
            server = Server(answer.server_version)
            newest = newest_run(answer, marker, ended)
            if newest is None:
                continue
            if wanted is None or wanted(newest):
                return Found(newest.workflow_run_id, marker)
            # After a shutdown of the server the same try submits again, and that run may still be queued.
            was_replaced = is_shutdown_text(newest.error)
            latest_is_settled = latest_is_settled or (marker == markers[0] and not was_replaced)
        polls, failures = polls + 1, failures + 1 if error else 0
        if error is None and streamed and not server.survives_closed_stream:
            return NotFound(f"Dify {server.version} never lists a run whose stream was closed")
        if latest_is_settled:
            return NotFound("the run of the latest submission has ended and is not reusable")
        left = patience(None if error else server).left(clock())
        if left <= 0:
            if error is not None and wanted is not None:
                raise DifyResponseError(
                    "Could not determine whether an earlier try left a run, so no new run was started: "
                    f"{error.message}",
                    status_code=error.status_code,
                    code=error.code,
                )
            return NotFound(error.message if error else "no run of this submission was listed in time")
        yield Sleep(min(schedule.delay(polls, failures, None, jitter()), left))
