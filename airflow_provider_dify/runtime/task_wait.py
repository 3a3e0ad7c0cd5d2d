"""The wait of an operator or a sensor for its run: on the worker, or begun there and left to the triggerer."""

from __future__ import annotations

import random
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from airflow_provider_dify.api.runs import RunStatus, StartedRun, WorkflowRun
from airflow_provider_dify.compat import has_required_actions
from airflow_provider_dify.rules.deferring import HandOver, handed_over, leaves_worker_at, longest_worth_waiting_for
from airflow_provider_dify.rules.event_log import followed, with_failed_step
from airflow_provider_dify.rules.human_waiting import ASK, ends_wait
from airflow_provider_dify.rules.log_lines import Opening, closing_line
from airflow_provider_dify.rules.polling import COLLECT_SECONDS, Deadline
from airflow_provider_dify.rules.settings import PollSchedule
from airflow_provider_dify.rules.steps import StepLog
from airflow_provider_dify.rules.waiting import WaitFlow, WaitResult, wait_for_run
from airflow_provider_dify.runtime.report import Report
from airflow_provider_dify.runtime.run_link import push_link

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_dify.runtime.human_input import HumanInput
    from airflow_provider_dify.runtime.task_protocols import TaskHook, WaitingTask

    TaskT = TypeVar("TaskT", bound=WaitingTask)
else:
    TaskT = TypeVar("TaskT")

STATE_SECONDS = 2.0


class TaskWait(Generic[TaskT]):
    """Waits for the run of one try of an operator or sensor.

    :param task: The operator or sensor, with its templates rendered.
    :param context: Airflow's context of the try.
    :param schedule: The distances between polls.
    """

    def __init__(self, task: TaskT, context: Context, schedule: PollSchedule) -> None:
        self._task = task
        self._context = context
        self._schedule = schedule
        self._hook: TaskHook = task.hook
        self._log = task.log
        self._steps: StepLog | None = None

    @cached_property
    def _human(self) -> HumanInput:
        # Few tasks ask anybody.
        from airflow_provider_dify.runtime.human_input import HumanInput

        return HumanInput(self._task, self._context, self._schedule)

    @property
    def _ends_at_pause(self) -> bool:
        """Whether a paused run ends the wait, to fail or to ask."""
        return ends_wait(self._task.on_pause, has_required_actions)

    def _note_where_to_answer(self) -> None:
        """Log where a question is to be answered, where this Airflow cannot ask it."""
        if self._task.on_pause == ASK and not has_required_actions():
            console = self._hook.connection.console_url
            self._log.info(
                'on_pause="ask" needs Airflow 3.1 or later. Here a run that asks a human is waited for, and is '
                "answered in Dify%s.",
                f": {console}" if console else "",
            )

    def _log_run_started(self, started: StartedRun, *, user: str | None, deadline: Deadline | None) -> None:
        """Push the link of a run and log what is known of it.

        A run that was found by its marker, or that something else has started, has named no app: one poll of at most
        2 s asks for it, so that the link is there while the task waits.

        :param started: The run.
        :param user: The ``user`` of the submission, where the task has submitted the run.
        :param deadline: When waiting ends; None where nobody waits.
        """
        app_id, version = started.app_id, started.server_version
        if app_id is None:
            run = self._hook.poll(started.workflow_run_id, timeout=STATE_SECONDS).run
            if run is not None:
                app_id, version = run.app_id, version or run.server_version
        connection = self._hook.connection
        url = push_link(self._context["ti"], connection.console_url, app_id)
        opening = Opening(started.workflow_run_id, connection.base_url, version, app_id, user, url, deadline)
        for line in opening.lines(time.time()):
            self._log.info(line)

    def _leaves_at(self, deadline: Deadline) -> float | None:
        """Return when this task leaves its worker to wait in the triggerer; None where it stays to the end."""
        return leaves_worker_at(time.time(), self._task.defer_after, deadline) if self._task.deferrable else None

    def _flow(self, run_id: str, deadline: Deadline, first_wait: float | None) -> WaitFlow:
        return wait_for_run(
            run_id,
            schedule=self._schedule,
            deadline=deadline,
            since=time.time(),
            clock=time.time,
            jitter=random.random,
            first_wait=first_wait,
            fail_on_pause=self._ends_at_pause,
        )

    def _wait_here(
        self,
        run_id: str,
        deadline: Deadline,
        until: float | None,
        *,
        user: str | None = None,
        first_wait: float | None = None,
    ) -> WaitResult | HandOver:
        """Wait for a run on the worker.

        :param run_id: The run.
        :param deadline: When waiting ends.
        :param until: Unix seconds at which the triggerer goes on; None to wait to the end.
        :param user: The ``user`` of the submission, for the events of the run.
        :param first_wait: Seconds before the first poll; None means the schedule's.
        """
        flow: Any = self._flow(run_id, deadline, first_wait)
        if until is not None:
            longest = longest_worth_waiting_for(self._context["ti"], self._task.defer_after)
            flow = handed_over(flow, until, time.time, unless_longer_than=longest)
        if self._task.follow_events:
            self._steps = StepLog(run_id, self._hook.redact)
            flow = followed(flow, self._steps, user=user, clock=time.time)
        result: WaitResult | HandOver = self._hook.follow(flow, self._log.info, deadline)
        return result

    def _end_of(self, report: Report, deadline: Deadline) -> WaitResult:
        """Return how the wait in the triggerer has ended; the worker itself reads a run that has ended."""
        result: WaitResult | None = report.wait_result()
        if result is None:
            grace = deadline.at_least(time.time() + COLLECT_SECONDS)
            flow = self._flow(report.workflow_run_id, grace, first_wait=0)
            result = self._hook.follow(flow, self._log.info, grace)
            if report.failed_step is not None:
                result = with_failed_step(result, report.failed_step)
        return result

    @property
    def _logged_steps(self) -> dict[str, str] | None:
        """The steps that the worker has logged, for the trigger that goes on."""
        return None if self._steps is None else self._steps.logged_steps()

    def _log_end(self, run: WorkflowRun) -> None:
        partial_success = run.status is RunStatus.PARTIAL_SUCCEEDED
        (self._log.warning if partial_success else self._log.info)(closing_line(run))
