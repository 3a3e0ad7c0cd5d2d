"""The wait of an operator for its run, and what its end means: outputs, an error, a question, or a run once more."""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_provider_dify.api.runs import RunStatus, StartedRun
from airflow_provider_dify.exceptions import DifyError
from airflow_provider_dify.names import SERVICE_API
from airflow_provider_dify.rules.deferring import HandOver
from airflow_provider_dify.rules.earlier_tries import SubmissionRecord
from airflow_provider_dify.rules.human_waiting import ASK
from airflow_provider_dify.rules.inputs import check_user
from airflow_provider_dify.rules.outcome import (
    LOST_ON_RETRY,
    SAVED_ON_RETRY,
    outputs_of,
    paused_error,
    retry_after_timeout,
    timeout_error,
)
from airflow_provider_dify.rules.polling import Deadline, Ended, GivenUp, TimedOut
from airflow_provider_dify.rules.recovery import SubmitLater, after_shutdown
from airflow_provider_dify.rules.searching import Found
from airflow_provider_dify.rules.settings import PollSchedule
from airflow_provider_dify.rules.waiting import WaitResult
from airflow_provider_dify.runtime.deferral import defer
from airflow_provider_dify.runtime.metrics import Metrics
from airflow_provider_dify.runtime.outputs import Destination, deliver
from airflow_provider_dify.runtime.record import Submission, SubmissionRecords, task_try
from airflow_provider_dify.runtime.report import DUE, Report, SearchReport
from airflow_provider_dify.runtime.run_link import push_link
from airflow_provider_dify.runtime.task_wait import TaskWait

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_dify.runtime.task_protocols import RunWorkflowTask


class RunWait(TaskWait["RunWorkflowTask"]):
    """Waits for the run of one try of an operator, here or deferred, and ends the task.

    :param task: The operator, with its templates rendered.
    :param context: Airflow's context of the try.
    """

    def __init__(self, task: RunWorkflowTask, context: Context) -> None:
        super().__init__(task, context, PollSchedule(task.poll_interval, task.max_poll_interval))
        self._try = task_try(context["ti"], task.retries)
        self._records = SubmissionRecords(context, self._try, durable=task.durable)
        self._metrics = Metrics(task.dify_conn_id)
        self._started: StartedRun | None = None
        self._submitted_user: str | None = None
        # The markers of submissions whose run is not known by its id.
        self._sought: tuple[str, ...] = ()
        self._is_killed = False
        # What lineage emits of the run, also after its end.
        self.known: StartedRun | None = None

    def _submit_after_shutdown(self, step: SubmitLater, ended: str, submission: Submission) -> Any:
        """Submit again after the server's own shutdown has stopped a run."""
        raise NotImplementedError

    def _user(self) -> str:
        if self._task.user is not None:
            self._task.user = check_user(self._task.user)
            return self._task.user
        return self._try.marker

    @property
    def _can_search(self) -> bool:
        """Whether a run of this task differs from all others by its user, and can be searched for."""
        return self._task.user is None and self._hook.connection.api_contract == SERVICE_API

    def _deadline(self, submission: Submission) -> Deadline:
        return Deadline.after(
            submission.submitted_at,
            self._task.timeout,
            started_at=submission.started_at,
            execution_timeout=self._task.execution_timeout,
        )

    def _defer_wait(self, started: StartedRun, deadline: Deadline, submission: Submission, polls: int) -> NoReturn:
        kwargs = {
            "workflow_run_id": started.workflow_run_id,
            "task_id": started.task_id,
            "end_time": deadline.at,
            "user": submission.user,
        }
        # No framework timeout: when one passes, neither this operator nor the trigger gets to stop the run.
        defer(
            self._task,
            "DifyWorkflowRunTrigger",
            "execute_complete",
            {
                "workflow_run_id": started.workflow_run_id,
                "dify_conn_id": self._task.dify_conn_id,
                "end_time": deadline.at,
                "poll_interval": self._task.poll_interval,
                "max_poll_interval": self._task.max_poll_interval,
                "since": submission.submitted_at,
                "fail_on_pause": self._ends_at_pause,
                "dify_task_id": started.task_id,
                "user": submission.user,
                "cancel_on_kill": self._task.cancel_on_kill,
                "follow_events": self._task.follow_events,
                "polls": polls,
                "steps_logged": self._logged_steps,
                "resume": {**kwargs, "limit": deadline.limit, "submission": submission.as_json()},
            },
            kwargs=kwargs,
        )

    def _finish(self, started: StartedRun, result: WaitResult, deadline: Deadline, submission: Submission) -> Any:
        """Turn the end of the wait into the task's return value or exception, or submit again after a shutdown."""
        run_id, records, user = started.workflow_run_id, self._records, submission.user
        if isinstance(result, Ended):
            self._started = self._submitted_user = None
            self._metrics.run_ended(result.run)
            again = after_shutdown(result.run, resubmissions=submission.resubmissions, jitter=random.random())
            if again is not None:
                return self._submit_after_shutdown(again, run_id, submission)
            self.known = replace(started, run=result.run)
            if result.run.status in (RunStatus.FAILED, RunStatus.STOPPED):
                records.clear()
            else:
                records.started(started, user, settled=True)
            self._log_end(result.run)
            if started.app_id is None and result.run.app_id is not None:
                push_link(self._context["ti"], self._hook.connection.console_url, result.run.app_id)
            return self._deliver(result)
        if isinstance(result, TimedOut):
            # A process that was frozen for long finds its deadline gone by, and the run in the hands of another try.
            stops = self._task.cancel_on_timeout and not records.is_superseded()
            stopped = stops and self._stop(started, user, f"its {deadline.limit} has passed")
            if stopped:
                records.clear()
            on_retry = retry_after_timeout(
                asked_to_stop=stopped,
                remembered=records.is_complete,
                findable=self._task.durable and self._can_search,
            )
            raise timeout_error(run_id, result.status, deadline, on_retry=on_retry)
        if isinstance(result, GivenUp):
            result.error.workflow_run_id = run_id
            raise result.error
        if self._task.on_pause == ASK:
            return self._ask(started, deadline, submission)
        records.clear()
        raise paused_error(run_id, list(result.questions))

    def _ask(self, started: StartedRun, deadline: Deadline, submission: Submission) -> Any:
        """Ask in Airflow what the run asks, deferred; or go on waiting where it asks nothing any more."""
        kept = {
            "workflow_run_id": started.workflow_run_id,
            "task_id": started.task_id,
            "end_time": deadline.at,
            "limit": deadline.limit,
            "user": submission.user,
            "submission": submission.as_json(),
        }
        self._human.ask(started.workflow_run_id, deadline, kept, cancel_on_kill=self._task.cancel_on_kill)
        return self._await(started, submission)

    def _deliver(self, result: Ended) -> dict[str, Any]:
        """Return the outputs of a run that has ended, their files saved, or raise what says how it ended."""
        run = result.run
        outputs = outputs_of(
            run, fail_on_partial_success=self._task.fail_on_partial_success, failed_step=result.failed_step
        )
        found_again = self._records.is_complete or (self._task.durable and self._can_search)
        return deliver(
            outputs,
            workflow_run_id=run.workflow_run_id,
            hook=self._hook,
            to=Destination.of(self._task),
            on_retry=SAVED_ON_RETRY if found_again else LOST_ON_RETRY,
        )

    def _stop(self, started: StartedRun, user: str | None, why: str) -> bool:
        """Ask Dify to stop a run, without ever hiding what made that necessary; tell whether it was asked."""
        run_id, task_id = started.workflow_run_id, started.task_id
        try:
            if task_id is None and user is not None:
                task_id = self._hook.find_task_id(run_id, user)
            if task_id is None:
                self._log.warning(
                    "Dify run %s cannot be stopped although %s: its task id is not known. It runs on.", run_id, why
                )
                return False
            self._hook.stop_workflow_run(task_id)
        except DifyError as error:
            self._log.warning("Dify run %s could not be stopped although %s: %s", run_id, why, error.message)
            return False
        self._log.info("Dify was asked to stop run %s, since %s.", run_id, why)
        return True

    def _await(self, started: StartedRun, submission: Submission) -> Any:
        """Wait for a run that has a name: here, or deferred."""
        if not self._task.wait_for_termination:
            self._records.started(started, submission.user, settled=True)
            return started.workflow_run_id
        deadline = self._deadline(submission)
        if started.settled:
            # The end in the answer to a submission is no authority; the row is (dify-behaviour.md, section 12).
            poll_result = self._hook.poll(started.workflow_run_id)
            if poll_result.run is not None and poll_result.run.status.is_terminal:
                return self._finish(started, Ended(poll_result.run), deadline, submission)
        leaves_at, polls = self._leaves_at(deadline), 0
        if leaves_at is None or self._task.defer_after > 0:
            result = self._wait_here(started.workflow_run_id, deadline, leaves_at, user=self._submitted_user)
            if not isinstance(result, HandOver):
                return self._finish(started, result, deadline, submission)
            polls = result.polls
        return self._defer_wait(started, deadline, submission, polls)

    def _reported(self, report: Report, started: StartedRun, deadline: Deadline, submission: Submission) -> Any:
        """End as the triggerer has reported."""
        return self._finish(started, self._end_of(report, deadline), deadline, submission)

    def recall(self, kept: dict[str, Any]) -> None:
        """Know what the task knew when it was deferred, and what the trigger has reported since, without going on.

        :param kept: The arguments of one of the methods by which a task is resumed.
        """
        run_id, task_id, user = kept.get("workflow_run_id"), kept.get("task_id"), kept.get("user")
        submission, event = kept.get("submission"), kept.get("event")
        is_due = isinstance(event, dict) and event.get("status") == DUE
        if run_id is not None:
            self._started, self._submitted_user = StartedRun(run_id, task_id), user
        elif submission is not None and not is_due:
            self._submitted_user, self._sought = submission["user"], (submission["user"],)
            with suppress(DifyError):
                found = SearchReport.parse(event)
                if isinstance(found, (Found, Report)):
                    self._started, self._submitted_user = StartedRun(found.workflow_run_id), found.marker

    def _stop_late(self, started: StartedRun, user: str) -> NoReturn:
        """Stop a run whose id became known only after the task was killed."""
        if self._stop(started, user, "the task was killed"):
            self._records.clear()
        run_id = started.workflow_run_id
        raise DifyError(f"The task was killed while it submitted Dify run {run_id}.", workflow_run_id=run_id)

    def _end_former_generation(self, kept: SubmissionRecord) -> None:
        """Stop what a cleared task has left running, where the clear itself did not get to it."""
        if kept.settled or not self._task.cancel_on_kill:
            return
        run_id = kept.workflow_run_id
        if run_id is None and self._can_search:
            run_id = self._hook.find_started(kept.marker)
        if run_id is not None:
            self._stop(StartedRun(run_id, kept.task_id), kept.marker, "the task was cleared")
