"""What earlier tries of a task left behind in Dify, and whether a new try reattaches to it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from airflow_provider_dify.api.runs import RunStatus, WorkflowRun
from airflow_provider_dify.api.server_versions import Server
from airflow_provider_dify.api.values import number_or_none, text_or_none
from airflow_provider_dify.exceptions import DifyNotFoundError, is_final
from airflow_provider_dify.rules.identity import marker
from airflow_provider_dify.rules.outages import is_outage
from airflow_provider_dify.rules.polling import UNKNOWN_GRACE_SECONDS, Deadline, PollResult
from airflow_provider_dify.rules.settings import FIRST_POLL_SECONDS
from airflow_provider_dify.rules.waiting import PollRun, Sleep

# A queued run is invisible, and some were seen to start more than a minute after their submission (dify-behaviour.md,
# 12.2). Where nothing else remembers whether an earlier try has submitted, a retry searches this long before it
# submits itself: longer would delay each retry of a try that never got to submit.
QUEUE_PATIENCE_SECONDS = 60.0
# Where runs are not queued, a row only lags a little behind the submission.
ROW_PATIENCE_SECONDS = 3.0
EARLIER_RUN_SECONDS = 60.0
MAX_EARLIER_TRIES = 20


@dataclass(frozen=True)
class TaskTry:
    """One try of one task instance, as Airflow names it.

    :param generation: ``max_tries`` of the task instance: it grows when the task is cleared, and stays for a retry.
    :param retries: The task's ``retries``, from which the first try of this clear generation follows.
    """

    dag_id: str
    task_id: str
    run_id: str
    map_index: int
    generation: int
    number: int
    retries: int = 0

    @property
    def marker(self) -> str:
        """The ``user`` of this try's submission."""
        return self._marker_of(self.number)

    def _marker_of(self, number: int) -> str:
        return marker(self.dag_id, self.task_id, self.run_id, self.map_index, self.generation, number)

    @property
    def _first(self) -> int:
        """The number of the first try of this clear generation: a clear sets ``max_tries`` to the tries so far
        and ``retries``.
        """
        return max(1, self.generation - self.retries + 1)

    def earlier_markers(self) -> list[str]:
        """Return the markers that earlier tries of the same clear generation may have used, latest first."""
        first = max(self._first, self.number - MAX_EARLIER_TRIES)
        return [self._marker_of(number) for number in range(self.number - 1, first - 1, -1)]

    def shares_generation_with(self, kept: SubmissionRecord) -> bool:
        """Tell whether a try of this clear generation has written a note.

        ``max_tries`` alone would not tell: it is the same again where someone lowers ``retries`` before a clear.
        """
        return kept.generation == self.generation and (kept.number is None or kept.number >= self._first)


@dataclass(frozen=True)
class SubmissionRecord:
    """What a try has written down about its submission, before it and after it.

    :param generation: ``max_tries`` at the time: what another clear generation has written is not this one's.
    :param marker: The ``user`` of the submission.
    :param workflow_run_id: The run; None as long as it is not known.
    :param task_id: Dify's id for a stop; None where it is not known.
    :param number: The try that has written this; None where it is not known.
    :param settled: Whether the run is accounted for: its outputs, or its id, have been handed over. A retry that
        Airflow starts all the same takes them once more, and a clear leaves the run alone.
    :param ended: Runs of the same marker that the server's shutdown has stopped, and after which another was submitted.
    """

    generation: int
    marker: str
    workflow_run_id: str | None = None
    task_id: str | None = None
    number: int | None = None
    settled: bool = False
    ended: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return what is kept: nothing but what JSON knows, which Airflow 3.3 insists on."""
        fields = asdict(self)
        ended = fields.pop("ended")
        # The name that version 0.1.0 gave the clear generation.
        kept = {"life": fields.pop("generation"), **fields}
        return {**kept, "ended": list(ended)} if ended else kept

    @classmethod
    def read(cls, kept: Any) -> SubmissionRecord | None:
        """Return what was kept, or None for nothing or something else."""
        if not isinstance(kept, Mapping):
            return None
        generation, user = number_or_none(kept.get("life")), text_or_none(kept.get("marker"))
        if generation is None or user is None:
            return None
        number = number_or_none(kept.get("number"))
        return cls(
            generation=int(generation),
            marker=user,
            workflow_run_id=text_or_none(kept.get("workflow_run_id")),
            task_id=text_or_none(kept.get("task_id")),
            number=None if number is None else int(number),
            settled=kept.get("settled") is True,
            ended=_texts(kept.get("ended")),
        )


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(each for each in value if isinstance(each, str)) if isinstance(value, (list, tuple)) else ()


def search_deadline(deadline: Deadline, since: float, *, earlier: bool) -> Callable[[Server | None], Deadline]:
    """Return when a search for a run by its marker ends, for the server that answers it, or for None that does not.

    :param deadline: The task's own deadline, which bounds every search.
    :param since: Unix seconds at which the search began.
    :param earlier: Whether it is not even known that there was a submission: then patience ends the search.
    """

    def until(server: Server | None) -> Deadline:
        if not earlier or server is None:
            return deadline
        patience = QUEUE_PATIENCE_SECONDS if server.queues_runs else ROW_PATIENCE_SECONDS
        return Deadline(min(deadline.at, since + patience))

    return until


def may_reattach(status: RunStatus, *, fail_on_partial_success: bool, fail_on_pause: bool) -> bool:
    """Tell whether a new try reattaches to a run of an earlier one, instead of starting its own.

    Active runs are waited for, outputs of a run that succeeded meanwhile are taken; after a failed or stopped
    run, and after an end that fails the task by its own settings, a new run is started.
    """
    if status is RunStatus.PARTIAL_SUCCEEDED:
        return not fail_on_partial_success
    if status is RunStatus.PAUSED:
        return not fail_on_pause
    return status not in (RunStatus.FAILED, RunStatus.STOPPED)


EarlierRunFlow = Generator[PollRun | Sleep, Any, WorkflowRun | None]


def poll_earlier_run(workflow_run_id: str, clock: Callable[[], float], deadline: Deadline) -> EarlierRunFlow:
    """Poll a run of an earlier try until the server tells its state.

    :param workflow_run_id: The run.
    :param clock: Returns unix seconds.
    :param deadline: When waiting for a server that does not answer ends.
    :return: The run; None for one that the server does not show for ``UNKNOWN_GRACE_SECONDS``.
    :raises DifyError: The server did not tell in ``EARLIER_RUN_SECONDS``, or was away until the deadline: nothing is
        known then, and nothing new may be started.
    """
    began = clock()
    while True:
        poll_result: PollResult = yield PollRun(workflow_run_id)
        if poll_result.run is not None:
            return poll_result.run
        spent = clock() - began
        if isinstance(poll_result.error, DifyNotFoundError):
            if spent >= UNKNOWN_GRACE_SECONDS:
                return None
        elif poll_result.error is not None:
            is_away = is_outage(poll_result.error) and deadline.left(clock()) > 0
            if is_final(poll_result.error) or (spent >= EARLIER_RUN_SECONDS and not is_away):
                raise poll_result.error
        yield Sleep(FIRST_POLL_SECONDS)
