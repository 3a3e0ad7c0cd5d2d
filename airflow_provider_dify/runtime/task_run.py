"""One try of a task that runs a Dify workflow: submit or reattach, wait, and end as the parameters say."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, NoReturn

from airflow_provider_dify.api.runs import StartedRun
from airflow_provider_dify.client.deadlines import ending_by
from airflow_provider_dify.exceptions import DifyError, DifyHumanInputTimeoutError, DifySubmissionUnknownError
from airflow_provider_dify.names import RUN_ID_XCOM_KEY, TASK_ID_XCOM_KEY
from airflow_provider_dify.rules.deferring import HandOver, handed_over, not_before
from airflow_provider_dify.rules.earlier_tries import poll_earlier_run, search_deadline
from airflow_provider_dify.rules.outages import wait_for_server
from airflow_provider_dify.rules.polling import TIMEOUT, Deadline
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
    first_step,
)
from airflow_provider_dify.rules.searching import FindResult, Found, NotFound, find_run, is_reusable
from airflow_provider_dify.rules.settings import PollSchedule
from airflow_provider_dify.runtime.deferral import defer
from airflow_provider_dify.runtime.record import Submission
from airflow_provider_dify.runtime.report import Report, SearchReport, carried
from airflow_provider_dify.runtime.resolve_inputs import Prepared, check_parameters, prepare, resolved_inputs
from airflow_provider_dify.runtime.run_wait import RunWait
from airflow_provider_dify.runtime.tracing import current_traceparent

Step = Submit | Search | Reattach | Wait | Fail


class Execution(RunWait):
    """One try of a task, from its start or from where the triggerer has handed it back.

    :param task: The operator, with its templates rendered.
    :param context: Airflow's context of the try.
    """

    def begin(self) -> Any:
        """Start the try: everything that a DAG author passes is checked before anything is searched for or sent.

        Then it reattaches to what an earlier try of this clear generation has left, or submits.
        """
        now = time.time()
        submission = Submission(user=self._user(), submitted_at=now, started_at=now)
        self._inputs = check_parameters(self._task, self._hook)
        self._note_where_to_answer()
        self._note_if_not_findable()
        kept = self._records.read()
        if kept is not None and not self._try.shares_generation_with(kept):
            self._end_former_generation(kept)
            self._records.clear()
            kept = None
        step = first_step(
            self._try,
            kept,
            durable=self._task.durable,
            can_search=self._can_search,
            remembers=self._records.is_complete,
        )
        return self._go(step, submission)

    def submit_again(self, event: Any, submission: dict[str, Any] | None) -> Any:
        """Submit a run for which there was no room, or no server, before."""
        resumed = self._resumed(event, submission)
        return self.begin() if resumed is None else self._go(Submit(), resumed)

    def searched_in_triggerer(self, event: Any, submission: dict[str, Any] | None, *, earlier: bool | None) -> Any:
        """Go on where the search for a run in the triggerer, or the wait for the run it has found, has ended."""
        resumed = self._resumed(event, submission)
        if resumed is None:
            return self.begin()
        result = SearchReport.parse(event)
        if isinstance(result, Report):
            return self._found_and_waited_for(result, resumed)
        earlier = bool(carried(event).get("earlier")) if earlier is None else earlier
        return self._go(*self._searched(resumed, result, earlier=earlier))

    def _resumed(self, event: Any, submission: dict[str, Any] | None) -> Submission | None:
        """Return what this try knew when it was deferred; None where another one was, or where nothing is known."""
        kept = carried(event).get("submission") if submission is None else submission
        resumed = Submission.read(kept) if isinstance(kept, dict) else None
        return resumed if resumed is not None and self._is_of_this_try(resumed) else None

    def _is_of_this_try(self, submission: Submission) -> bool:
        """Tell whether this try was deferred with it.

        A scheduler of Airflow 2 that finds a task of a dead scheduler's executor resumes it once more, as another
        try. What the first one has done since its resumption only a try that begins again takes into account.
        """
        return submission.user == self._user()

    def waited_in_triggerer(
        self, event: Any, workflow_run_id: str | None, task_id: str | None, end_time: float | None, user: str | None
    ) -> Any:
        """Go on where the wait in the triggerer has ended."""
        report, kept, now = Report.parse(event, workflow_run_id), carried(event), time.time()
        user = user or kept.get("user") or self._user()
        state = kept.get("submission")
        submission = Submission.read(state) if state else Submission(user, submitted_at=now, started_at=now)
        self._started = self.known = StartedRun(report.workflow_run_id, task_id or kept.get("task_id"))
        self._submitted_user = user
        end_time = kept.get("end_time", now) if end_time is None else end_time
        deadline = Deadline(end_time, kept.get("limit", TIMEOUT))
        return self._reported(report, self._started, deadline, replace(submission, user=user))

    def _found_and_waited_for(self, report: Report, submission: Submission) -> Any:
        """Go on with a run that the triggerer has found by its user, and whose end it has waited for."""
        assert report.marker is not None
        started = StartedRun(report.workflow_run_id)
        self._count_found(report.marker, submission)
        submission = replace(submission, user=report.marker)
        self._announce(started, submission)
        return self._reported(report, started, self._deadline(submission), submission)

    def killed(self) -> None:
        """Stop the run, since the task is killed on the worker.

        Airflow 3 lets the process go on for some seconds after this: it submits nothing then, and a run whose id
        it learns only then is stopped as well.
        """
        self._is_killed = True
        started, user = self._started, self._submitted_user
        if not self._task.cancel_on_kill or (started is None and not self._sought and user is None):
            return
        if self._records.is_superseded():
            self._log.info("Another try of the task goes on with the Dify run, which is not stopped.")
            return
        if started is None and self._can_search:
            for user in self._sought:
                if (found := self._hook.find_started(user)) is not None:
                    started = StartedRun(found)
                    break
        if started is None:
            self._log.warning("A run that was submitted and is not known by its id cannot be stopped. It may run.")
        elif self._stop(started, user, "the task was killed"):
            self._records.clear()

    @cached_property
    def _inputs(self) -> dict[str, Any]:
        """The task's inputs, checked once in each process."""
        return resolved_inputs(self._task)

    def _note_if_not_findable(self) -> None:
        if self._task.durable and not self._can_search:
            self._log.info(
                "A submission that is interrupted cannot be found again: %s.",
                f"user is set to {self._task.user!r}, which other runs may share"
                if self._task.user is not None
                else "the workflow-runs contract has no logs",
            )

    def _go(self, step: Step | StartedRun, submission: Submission) -> Any:
        """Do what the state machine says, until there is a run; wait for it, here or deferred."""
        while not isinstance(step, StartedRun):
            if isinstance(step, Fail):
                raise step.error
            if step.why:
                self._log.info(step.why)
            if isinstance(step, Submit):
                step, submission = self._submit(submission)
            elif isinstance(step, Search):
                step, submission = self._search(submission, step)
            elif isinstance(step, Reattach):
                step, submission = self._reattach(submission, step.run, step.marker)
            else:
                self._announce(step.run, submission)
                step = step.run
        return self._await(step, submission)

    def _search(self, submission: Submission, step: Search) -> tuple[Step, Submission]:
        """Search for a run by its markers: here, and then deferred."""
        self._sought = step.markers
        deadline, since = self._deadline(submission), time.time()
        flow = find_run(
            step.markers,
            schedule=PollSchedule(self._task.poll_interval, self._task.max_poll_interval),
            patience=search_deadline(deadline, since, earlier=step.earlier),
            clock=time.time,
            jitter=random.random,
            wanted=is_reusable if step.earlier else None,
            streamed=self._task.response_mode == "streaming",
            ended=step.ended,
        )
        leaves_at = self._leaves_at(deadline)
        if leaves_at is None:
            return self._searched(submission, self._hook.follow(flow, self._log.info, deadline), earlier=step.earlier)
        if self._task.defer_after > 0:
            result = self._hook.follow(handed_over(flow, leaves_at, time.time), self._log.info, deadline)
            if not isinstance(result, HandOver):
                return self._searched(submission, result, earlier=step.earlier)
        return self._defer_search(submission, step, deadline, since)

    def _defer_search(self, submission: Submission, step: Search, deadline: Deadline, since: float) -> NoReturn:
        kwargs = {"submission": submission.as_json(), "earlier": step.earlier}
        defer(
            self._task,
            "DifyFindRunTrigger",
            "execute_found",
            {
                "markers": list(step.markers),
                "dify_conn_id": self._task.dify_conn_id,
                "end_time": deadline.at,
                "since": since,
                "earlier": step.earlier,
                "streamed": self._task.response_mode == "streaming",
                "poll_interval": self._task.poll_interval,
                "max_poll_interval": self._task.max_poll_interval,
                "cancel_on_kill": self._task.cancel_on_kill,
                "ended": list(step.ended),
                "own": submission.user,
                "waits": self._task.wait_for_termination,
                "fail_on_pause": self._ends_at_pause,
                "fail_on_partial_success": self._task.fail_on_partial_success,
                "follow_events": self._task.follow_events,
                "resume": kwargs,
            },
            kwargs=kwargs,
        )

    def _count_found(self, marker: str, submission: Submission) -> None:
        """Count a run of this try that was found by its marker: no answer has named it, so nothing has counted it."""
        if marker == submission.user:
            self._metrics.run_started()

    def _searched(self, submission: Submission, result: FindResult, *, earlier: bool) -> tuple[Step, Submission]:
        if isinstance(result, Found):
            self._count_found(result.marker, submission)
        # Where an earlier try has submitted, that submission is the one in doubt.
        kept = self._records.read() if isinstance(result, NotFound) else None
        step = after_search(
            result,
            submission.user,
            earlier=earlier,
            submitted=submission.user if kept is None else kept.marker,
            remembers=self._records.is_complete,
            durable=self._task.durable,
            resubmits=self._task.on_orphaned_intent == "resubmit" and not submission.doubtful,
            hint=submission.hint,
        )
        if isinstance(step, Submit):
            submission = replace(submission, submitted_at=time.time(), doubtful=not earlier)
        return step, submission

    def _reattach(self, submission: Submission, started: StartedRun, user: str) -> tuple[Step, Submission]:
        """Go on with a run of an earlier try, or start a new one where that has ended in vain."""
        self._started, self._submitted_user = started, user
        deadline = self._deadline(submission)
        earlier = poll_earlier_run(started.workflow_run_id, time.time, deadline)
        run = self._hook.follow(earlier, self._log.info, deadline)
        step = after_poll(
            started,
            run,
            fail_on_partial_success=self._task.fail_on_partial_success,
            fail_on_pause=self._task.on_pause == "fail",
        )
        if isinstance(step, Wait):
            submission = replace(submission, user=user)
        else:
            self._started = self._submitted_user = None
            self._records.clear()
            submission = replace(submission, submitted_at=time.time())
        return step, submission

    def _submit(self, submission: Submission) -> tuple[Step | StartedRun, Submission]:
        """Submit the run, as often as it finds no room or no server.

        The inputs are checked and the files uploaded first, unless this try has done so: whoever dies there has
        submitted nothing, and a submission that waits its turn keeps its upload ids. The deadline is counted from what
        comes next.
        """
        while True:
            try:
                prepared = submission.prepared
                if prepared is None:
                    prepared = prepare(self._task, self._hook, self._inputs, user=submission.user)
                    submission = replace(submission, prepared=prepared, submitted_at=time.time())
                deadline = self._deadline(submission)
                # One that is cut off sooner than it needs may have started a run.
                patience = time.time() + min(self._task.submit_timeout, self._task.timeout)
                with ending_by(deadline.at_least(patience)):
                    self._hook.require_server()
                    return self._send(submission, prepared, deadline), submission
            except DifyError as error:
                step = self._after_failure(error, submission)
                if isinstance(step, Fail):
                    if submission.ended and step.error.workflow_run_id is None:
                        # A retry policy must not start this try again: its marker is already that of a run.
                        step.error.workflow_run_id = submission.ended[-1]
                    raise step.error from error.__cause__
                if isinstance(error, DifySubmissionUnknownError):
                    submission = replace(submission, hint=error.hint)
            if isinstance(step, AwaitServer):
                self._await_server(step, submission)
            elif isinstance(step, SubmitLater):
                submission = replace(submission, attempts=submission.attempts + 1)
                self._await_turn(step, submission)
            else:
                return step, submission

    def _send(self, submission: Submission, prepared: Prepared, deadline: Deadline) -> StartedRun:
        self._submitted_user, self._sought = submission.user, (submission.user,)
        return self._hook.create_workflow_run(
            {**self._inputs, **prepared.inputs},
            user=submission.user,
            response_mode=self._task.response_mode,
            files=prepared.files or None,
            query=self._task.query,
            workflow_id=self._task.workflow_id,
            trace_id=self._task.trace_id,
            traceparent=current_traceparent(self._context["ti"]) if self._task.trace else None,
            submit_timeout=self._task.submit_timeout,
            timeout=max(deadline.left(time.time()), self._task.submit_timeout),
            before_send=partial(self._before_send, submission),
            on_started=partial(self._new_run, submission=submission),
        )

    def _before_send(self, submission: Submission) -> None:
        if self._is_killed:
            raise DifyError("The task was killed before its submission was sent, so nothing was submitted.")
        self._records.record_intent(submission.user, submission.ended)

    def _after_failure(self, error: DifyError, submission: Submission) -> SubmitLater | AwaitServer | Search | Fail:
        if isinstance(error, DifySubmissionUnknownError):
            self._metrics.submission_unknown()
        if error.workflow_run_id is not None:
            # There is a run, and what is written down about it stays.
            return Fail(error)
        if not isinstance(error, DifySubmissionUnknownError):
            self._submitted_user, self._sought = None, ()
            self._records.clear()
        return after_failed_submission(
            error,
            submission.user,
            can_search=self._can_search,
            waits_its_turn=self._task.on_rate_limit == "wait",
            attempts=submission.attempts,
            left=self._deadline(submission).left(time.time()),
            jitter=random.random(),
            ended=submission.ended,
        )

    def _new_run(self, started: StartedRun, submission: Submission) -> None:
        self._metrics.run_started()
        self._announce(started, submission)

    def _announce(self, started: StartedRun, submission: Submission) -> None:
        """Put what is known of a run where people, other tasks and the next try find it, before anything else."""
        self._started, self._submitted_user, self.known = started, submission.user, started
        self._records.started(started, submission.user)
        if self._is_killed and self._task.cancel_on_kill:
            self._stop_late(started, submission.user)
        ti: Any = self._context["ti"]
        ti.xcom_push(key=RUN_ID_XCOM_KEY, value=started.workflow_run_id)
        if started.task_id is not None:
            ti.xcom_push(key=TASK_ID_XCOM_KEY, value=started.task_id)
        deadline = self._deadline(submission) if self._task.wait_for_termination else None
        self._log_run_started(started, user=submission.user, deadline=deadline)

    def _await_turn(self, step: SubmitLater, submission: Submission) -> None:
        """Let time pass before a submission is tried again: asleep here, or deferred."""
        self._log.info(step.why)
        moment = time.time() + step.seconds
        deferred_until = Deadline(max(moment, not_before(time.time())))
        is_short = step.seconds < self._task.defer_after or deferred_until.at >= self._deadline(submission).at
        if not self._task.deferrable or is_short:
            time.sleep(step.seconds)
            return
        kwargs = {"submission": submission.as_json()}
        defer(
            self._task,
            "DifySubmitLaterTrigger",
            "submit_again",
            {"moment": moment, "resume": kwargs},
            kwargs=kwargs,
        )

    def _await_server(self, step: AwaitServer, submission: Submission) -> None:
        """Wait until the server answers, or until there is no time left: here, and then deferred."""
        self._log.warning(step.why)
        deadline = self._deadline(submission)
        leaves_at = self._leaves_at(deadline)
        flow = wait_for_server(deadline, time.time, random.random, until=leaves_at)
        if self._hook.follow(flow, self._log.info, deadline) or leaves_at is None:
            return
        kwargs = {"submission": submission.as_json()}
        defer(
            self._task,
            "DifyAwaitServerTrigger",
            "submit_again",
            {
                "dify_conn_id": self._task.dify_conn_id,
                "end_time": deadline.at,
                "resume": kwargs,
            },
            kwargs=kwargs,
        )

    def _submit_after_shutdown(self, step: SubmitLater, ended: str, submission: Submission) -> Any:
        """Submit again after the server's own shutdown has stopped a run."""
        submission = replace(
            submission,
            user=self._user(),
            submitted_at=time.time(),
            attempts=0,
            resubmissions=submission.resubmissions + 1,
            ended=(*submission.ended, ended),
        )
        self._await_turn(step, submission)
        return self._go(Submit(), submission)

    def answered(self, event: Any, kept: dict[str, Any] | None) -> Any:
        """Go on where a paused run's question has been answered, or the wait for an answer has ended."""
        from airflow_provider_dify.runtime.human_input import report_in, resumed

        kept = resumed(event, kept)
        submission = Submission.read(kept["submission"])
        self._started = self.known = started = StartedRun(kept["workflow_run_id"], kept.get("task_id"))
        self._submitted_user = submission.user
        deadline = Deadline(kept["end_time"], kept.get("limit", TIMEOUT))
        if (report := report_in(event, kept)) is not None:
            return self._reported(report, started, deadline, submission)
        try:
            self._human.answer(event, kept)
        except DifyHumanInputTimeoutError:
            why = "nobody has answered its question in time"
            if self._task.cancel_on_timeout and self._stop(started, submission.user, why):
                self._records.clear()
            raise
        return self._await(started, submission)
