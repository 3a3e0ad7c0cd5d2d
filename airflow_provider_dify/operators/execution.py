"""One try of a task that runs a Dify workflow: submit or take up, wait, and end as the parameters say."""

from __future__ import annotations

import random
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_provider_dify.api.attempts import Submitted, look_at_earlier, search_deadline
from airflow_provider_dify.api.deferring import HandOver, handed_over, leaves_worker_at, not_before
from airflow_provider_dify.api.finding import FindResult, Found, NotFound, find_run, of_use
from airflow_provider_dify.api.following import followed, with_failed_step
from airflow_provider_dify.api.inputs import check_user
from airflow_provider_dify.api.outages import wait_for_server
from airflow_provider_dify.api.outcomes import (
    LOST_ON_RETRY,
    SAVED_ON_RETRY,
    outputs_of,
    paused_error,
    retry_after_timeout,
    timeout_error,
)
from airflow_provider_dify.api.polling import COLLECT_SECONDS, TIMEOUT, Deadline, Ended, GivenUp, TimedOut
from airflow_provider_dify.api.progress import closing_line
from airflow_provider_dify.api.runs import RunStatus, StartedRun
from airflow_provider_dify.api.settings import PollSchedule
from airflow_provider_dify.api.steps import StepLog
from airflow_provider_dify.api.transitions import (
    AwaitServer,
    Fail,
    Search,
    Submit,
    SubmitLater,
    TakeUp,
    Wait,
    after_failed_submission,
    after_look,
    after_search,
    after_shutdown,
    first_step,
)
from airflow_provider_dify.api.waiting import WaitFlow, WaitResult, wait_for_run
from airflow_provider_dify.exceptions import DifyError, DifySubmissionUnknownError
from airflow_provider_dify.hooks.introducing import introduce
from airflow_provider_dify.hooks.limits import ending_by
from airflow_provider_dify.links.dify import push_link
from airflow_provider_dify.names import RUN_ID_XCOM_KEY, SERVICE_API, TASK_ID_XCOM_KEY
from airflow_provider_dify.operators.ledger import SubmissionLedger, task_try
from airflow_provider_dify.operators.outputs import Destination, deliver
from airflow_provider_dify.operators.preparing import Prepared, check_parameters, prepare, resolved_inputs
from airflow_provider_dify.operators.tracing import current_traceparent
from airflow_provider_dify.triggers.report import DUE, Report, SearchReport, carried

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_dify.operators.workflow import DifyRunWorkflowOperator


@dataclass(frozen=True)
class Submission:
    """What a task knows of its submission, also after it was deferred.

    :param user: Dify's ``user``; the marker of this try, unless the DAG author has set one.
    :param submitted_at: Unix seconds of the first submission, from which the deadline follows.
    :param started_at: Unix seconds at which the try started.
    :param attempts: Submissions that were rate-limited.
    :param prepared: What was made of the task's files; None before the inputs were checked and the files uploaded.
    :param resubmissions: Submissions of this try that followed a run which the server's shutdown had stopped.
    :param ended: The runs that were stopped so, of the same user.
    :param doubtful: Whether a submission that was not found was sent again.
    :param hint: What a submission that was answered with silence may mean on this server.
    """

    user: str
    submitted_at: float
    started_at: float
    attempts: int = 0
    prepared: Prepared | None = None
    resubmissions: int = 0
    ended: tuple[str, ...] = ()
    doubtful: bool = False
    hint: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return what is kept while the task is deferred."""
        return {**asdict(self), "ended": list(self.ended)}

    @classmethod
    def read(cls, told: dict[str, Any]) -> Submission:
        """Return what was known before the task was deferred, maybe by a newer version of this package."""
        known = {field.name for field in fields(cls)}
        kept = {name: value for name, value in told.items() if name in known}
        if kept.get("prepared") is not None:
            kept["prepared"] = Prepared(**kept["prepared"])
        return cls(**{**kept, "ended": tuple(kept.get("ended") or ())})


class Execution:
    """One try of a task, from its start or from where the triggerer has handed it back.

    :param task: The operator, with its templates rendered.
    :param context: Airflow's context of the try.
    """

    def __init__(self, task: DifyRunWorkflowOperator, context: Context) -> None:
        self._task = task
        self._context = context
        self._hook = task.hook
        self._log = task.log
        self._try = task_try(context["ti"], task.retries)
        self._ledger = SubmissionLedger(context, self._try, durable=task.durable)
        self._started: StartedRun | None = None
        self._submitted_user: str | None = None
        # The markers of submissions whose run is not known by its id.
        self._sought: tuple[str, ...] = ()
        self._is_killed = False
        # What lineage tells of the run, also after its end.
        self.known: StartedRun | None = None
        self._steps: StepLog | None = None

    def begin(self) -> Any:
        """Start the try: everything that a DAG author passes is checked before anything is looked for or sent."""
        now = time.time()
        user = self._user()
        check_parameters(self._task, self._hook)
        return self._begin(Submission(user=user, submitted_at=now, started_at=now))

    def submit_again(self, event: Any, submission: dict[str, Any] | None) -> Any:
        """Submit a run for which there was no room, or no server, before."""
        resumed = self._resumed(event, submission)
        return self.begin() if resumed is None else self._submit(resumed)

    def searched_in_triggerer(self, event: Any, submission: dict[str, Any] | None, *, earlier: bool | None) -> Any:
        """Go on where the search for a run in the triggerer, or the wait for the run it has found, has ended."""
        resumed = self._resumed(event, submission)
        if resumed is None:
            return self.begin()
        result = SearchReport.parse(event)
        if isinstance(result, Report):
            return self._found_and_waited_for(result, resumed)
        earlier = bool(carried(event).get("earlier")) if earlier is None else earlier
        return self._searched(resumed, result, earlier=earlier)

    def _resumed(self, event: Any, submission: dict[str, Any] | None) -> Submission | None:
        """Return what this try knew when it was deferred; None where another one was, or where nothing is told."""
        kept = carried(event).get("submission") if submission is None else submission
        resumed = Submission.read(kept) if isinstance(kept, dict) else None
        return resumed if resumed is not None and self._is_of_this_try(resumed) else None

    def _is_of_this_try(self, submission: Submission) -> bool:
        """Tell whether this try was deferred with it.

        A scheduler of Airflow 2 that finds a task of a dead scheduler's executor resumes it once more, as another
        try. What the first one has done since its resumption only a try that begins anew takes into account.
        """
        return submission.user == self._user()

    def waited_in_triggerer(
        self, event: Any, workflow_run_id: str | None, task_id: str | None, end_time: float | None, user: str | None
    ) -> Any:
        """Go on where the wait in the triggerer has ended."""
        report, kept, now = Report.parse(event, workflow_run_id), carried(event), time.time()
        user = user or kept.get("user") or self._user()
        told = kept.get("submission")
        submission = Submission.read(told) if told else Submission(user, submitted_at=now, started_at=now)
        self._started = self.known = StartedRun(report.workflow_run_id, task_id or kept.get("task_id"))
        self._submitted_user = user
        end_time = kept.get("end_time", now) if end_time is None else end_time
        deadline = Deadline(end_time, kept.get("limit", TIMEOUT))
        return self._reported(report, self._started, deadline, replace(submission, user=user))

    def _found_and_waited_for(self, report: Report, submission: Submission) -> Any:
        """Go on with a run that the triggerer has found by its user, and whose end it has waited for."""
        assert report.marker is not None
        started = StartedRun(report.workflow_run_id)
        submission = replace(submission, user=report.marker)
        self._announce(started, submission)
        return self._reported(report, started, self._deadline(submission), submission)

    def _reported(self, report: Report, started: StartedRun, deadline: Deadline, submission: Submission) -> Any:
        """End as the triggerer has reported; the worker itself reads what the run has put out."""
        result: WaitResult | None = report.wait_result()
        if result is None:
            grace = deadline.at_least(time.time() + COLLECT_SECONDS)
            result = with_failed_step(self._collect(started, grace), report.failed_step)
        return self._finish(started, result, deadline, submission)

    def recall(self, kept: dict[str, Any]) -> None:
        """Know what the task knew when it was deferred, and what the trigger has told since, without going on.

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

    def killed(self) -> None:
        """Stop the run, since the task is killed on the worker.

        Airflow 3 lets the process go on for some seconds after this: it submits nothing then, and a run whose id
        it learns only then is stopped as well.
        """
        self._is_killed = True
        started, user = self._started, self._submitted_user
        if not self._task.cancel_on_kill or (started is None and not self._sought and user is None):
            return
        if self._ledger.has_passed_on():
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
            self._ledger.settle()

    def _user(self) -> str:
        if self._task.user is not None:
            self._task.user = check_user(self._task.user)
            return self._task.user
        return self._try.marker

    @property
    def _can_search(self) -> bool:
        """Whether a run of this task can be told from all others by its user, and be looked for."""
        return self._task.user is None and self._hook.connection.api_contract == SERVICE_API

    def _deadline(self, submission: Submission) -> Deadline:
        return Deadline.after(
            submission.submitted_at,
            self._task.timeout,
            started_at=submission.started_at,
            execution_timeout=self._task.execution_timeout,
        )

    def _begin(self, submission: Submission) -> Any:
        """Take up what an earlier try of this life has left, or submit."""
        if self._task.durable and not self._can_search:
            self._log.info(
                "A submission that is interrupted cannot be found again: %s.",
                f"user is set to {self._task.user!r}, which other runs may share"
                if self._task.user is not None
                else "the workflow-runs contract has no logs",
            )
        kept = self._ledger.read()
        if kept is not None and not self._try.shares_life_with(kept):
            self._end_former_life(kept)
            self._ledger.settle()
            kept = None
        step = first_step(
            self._try,
            kept,
            durable=self._task.durable,
            can_search=self._can_search,
            remembers=self._ledger.is_complete,
        )
        return self._go(step, submission)

    def _go(self, step: Submit | Search | TakeUp | Wait | Fail, submission: Submission) -> Any:
        """Do what the state machine says."""
        if isinstance(step, Fail):
            raise step.error
        if step.why:
            self._log.info(step.why)
        if isinstance(step, Submit):
            return self._submit(submission)
        if isinstance(step, Search):
            return self._search(submission, step)
        if isinstance(step, TakeUp):
            return self._take_up(submission, step.run, step.marker)
        self._announce(step.run, submission)
        return self._await(step.run, submission)

    def _end_former_life(self, kept: Submitted) -> None:
        """Stop what a cleared task has left running, where the clear itself did not get to it."""
        if kept.settled or not self._task.cancel_on_kill:
            return
        run_id = kept.workflow_run_id
        if run_id is None and self._can_search:
            run_id = self._hook.find_started(kept.marker)
        if run_id is not None:
            self._stop(StartedRun(run_id, kept.task_id), kept.marker, "the task was cleared")

    def _search(self, submission: Submission, step: Search) -> Any:
        """Look for a run by its markers: here, and then deferred."""
        self._sought = step.markers
        deadline, since = self._deadline(submission), time.time()
        flow = find_run(
            step.markers,
            schedule=PollSchedule(self._task.poll_interval, self._task.max_poll_interval),
            patience=search_deadline(deadline, since, earlier=step.earlier),
            clock=time.time,
            chance=random.random,
            wanted=of_use if step.earlier else None,
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

    def _leaves_at(self, deadline: Deadline) -> float | None:
        """Return when this task leaves its worker to wait in the triggerer; None where it stays to the end."""
        return leaves_worker_at(time.time(), self._task.defer_after, deadline) if self._task.deferrable else None

    def _defer_search(self, submission: Submission, step: Search, deadline: Deadline, since: float) -> NoReturn:
        from airflow_provider_dify.triggers.workflow import DifyFindRunTrigger

        kwargs = {"submission": submission.as_json(), "earlier": step.earlier}
        self._task.defer(
            trigger=DifyFindRunTrigger(
                markers=list(step.markers),
                dify_conn_id=self._task.dify_conn_id,
                end_time=deadline.at,
                since=since,
                earlier=step.earlier,
                streamed=self._task.response_mode == "streaming",
                poll_interval=self._task.poll_interval,
                max_poll_interval=self._task.max_poll_interval,
                cancel_on_kill=self._task.cancel_on_kill,
                ended=list(step.ended),
                own=submission.user,
                waits=self._task.wait_for_termination,
                fail_on_pause=self._task.on_pause == "fail",
                fail_on_partial_success=self._task.fail_on_partial_success,
                follow_events=self._task.follow_events,
                not_before=not_before(time.time()),
                resume=kwargs,
            ),
            method_name="execute_found",
            kwargs=kwargs,
        )
        raise AssertionError("defer() does not return")

    def _searched(self, submission: Submission, result: FindResult, *, earlier: bool) -> Any:
        # Where an earlier try has submitted, that submission is the one in doubt.
        kept = self._ledger.read() if isinstance(result, NotFound) else None
        step = after_search(
            result,
            submission.user,
            earlier=earlier,
            submitted=submission.user if kept is None else kept.marker,
            remembers=self._ledger.is_complete,
            durable=self._task.durable,
            resubmits=self._task.on_orphaned_intent == "resubmit" and not submission.doubtful,
            hint=submission.hint,
        )
        if isinstance(step, Submit):
            submission = replace(submission, submitted_at=time.time(), doubtful=not earlier)
        return self._go(step, submission)

    def _take_up(self, submission: Submission, started: StartedRun, user: str) -> Any:
        """Go on with a run of an earlier try, or start a new one where that has ended in vain."""
        self._started, self._submitted_user = started, user
        deadline = self._deadline(submission)
        earlier = look_at_earlier(started.workflow_run_id, time.time, deadline)
        run = self._hook.follow(earlier, self._log.info, deadline)
        step = after_look(
            started,
            run,
            fail_on_partial_success=self._task.fail_on_partial_success,
            fail_on_pause=self._task.on_pause == "fail",
        )
        if isinstance(step, Wait):
            submission = replace(submission, user=user)
        else:
            self._started = self._submitted_user = None
            self._ledger.settle()
            submission = replace(submission, submitted_at=time.time())
        return self._go(step, submission)

    def _submit(self, submission: Submission) -> Any:
        while True:
            try:
                submission = self._prepared(submission)
                with ending_by(self._submission_deadline(submission)):
                    self._hook.require_server()
                    started = self._send(submission)
            except DifyError as error:
                step = self._after_failure(error, submission)
                if isinstance(step, Fail):
                    raise step.error from error.__cause__
                if isinstance(error, DifySubmissionUnknownError):
                    submission = replace(submission, hint=error.hint)
            else:
                return self._await(started, submission)
            if isinstance(step, AwaitServer):
                self._await_server(step, submission)
            elif isinstance(step, SubmitLater):
                submission = replace(submission, attempts=submission.attempts + 1)
                self._await_turn(step, submission)
            else:
                return self._go(step, submission)

    def _submission_deadline(self, submission: Submission) -> Deadline:
        """Return when a submission is given up: one that is cut off sooner than it needs may have started a run."""
        patience = min(self._task.submit_timeout, self._task.timeout)
        return self._deadline(submission).at_least(time.time() + patience)

    def _prepared(self, submission: Submission) -> Submission:
        """Check the inputs and upload the files, unless this try has done so.

        Whoever dies here has submitted nothing, and a submission that waits its turn keeps its upload ids. The
        deadline is counted from what comes next.
        """
        if submission.prepared is not None:
            return submission
        prepared = prepare(self._task, self._hook, user=submission.user)
        return replace(submission, prepared=prepared, submitted_at=time.time())

    def _send(self, submission: Submission) -> StartedRun:
        self._submitted_user, self._sought = submission.user, (submission.user,)
        prepared = submission.prepared
        assert prepared is not None
        return self._hook.create_workflow_run(
            {**resolved_inputs(self._task), **prepared.inputs},
            user=submission.user,
            response_mode=self._task.response_mode,
            files=prepared.files,
            query=self._task.query,
            workflow_id=self._task.workflow_id,
            trace_id=self._task.trace_id,
            traceparent=current_traceparent(self._context["ti"]) if self._task.trace else None,
            submit_timeout=self._task.submit_timeout,
            timeout=max(self._deadline(submission).left(time.time()), self._task.submit_timeout),
            before_send=partial(self._before_send, submission),
            on_started=partial(self._announce, submission=submission),
        )

    def _before_send(self, submission: Submission) -> None:
        if self._is_killed:
            raise DifyError("The task was killed before its submission was sent, so nothing was submitted.")
        self._ledger.intend(submission.user, submission.ended)

    def _after_failure(self, error: DifyError, submission: Submission) -> SubmitLater | AwaitServer | Search | Fail:
        if error.workflow_run_id is not None:
            # There is a run, and what is written down about it stays.
            return Fail(error)
        if not isinstance(error, DifySubmissionUnknownError):
            self._submitted_user, self._sought = None, ()
            self._ledger.settle()
        return after_failed_submission(
            error,
            submission.user,
            can_search=self._can_search,
            waits_its_turn=self._task.on_rate_limit == "wait",
            attempts=submission.attempts,
            left=self._deadline(submission).left(time.time()),
            chance=random.random(),
            ended=submission.ended,
        )

    def _await(self, started: StartedRun, submission: Submission) -> Any:
        """Wait for a run that has a name: here, or deferred."""
        if not self._task.wait_for_termination:
            self._ledger.started(started, submission.user, settled=True)
            return started.workflow_run_id
        deadline = self._deadline(submission)
        if started.settled:
            # What the submission told of the end is no authority; the row is (API facts, section 12).
            look = self._hook.look(started.workflow_run_id)
            if look.run is not None and look.run.status.is_terminal:
                return self._finish(started, Ended(look.run), deadline, submission)
        leaves_at, polls = self._leaves_at(deadline), 0
        if leaves_at is None or self._task.defer_after > 0:
            result = self._wait_here(started, deadline, leaves_at)
            if not isinstance(result, HandOver):
                return self._finish(started, result, deadline, submission)
            polls = result.polls
        return self._defer_wait(started, deadline, submission, polls)

    def _announce(self, started: StartedRun, submission: Submission) -> None:
        """Put what is known of a run where people, other tasks and the next try find it, before anything else."""
        self._started, self._submitted_user, self.known = started, submission.user, started
        self._ledger.started(started, submission.user)
        if self._is_killed and self._task.cancel_on_kill:
            self._stop_late(started, submission.user)
        ti: Any = self._context["ti"]
        ti.xcom_push(key=RUN_ID_XCOM_KEY, value=started.workflow_run_id)
        if started.task_id is not None:
            ti.xcom_push(key=TASK_ID_XCOM_KEY, value=started.task_id)
        deadline = self._deadline(submission) if self._task.wait_for_termination else None
        introduce(self._hook, self._context, started, self._log.info, user=submission.user, deadline=deadline)

    def _stop_late(self, started: StartedRun, user: str) -> NoReturn:
        """Stop a run that has told its id only after the task was killed."""
        if self._stop(started, user, "the task was killed"):
            self._ledger.settle()
        run_id = started.workflow_run_id
        raise DifyError(f"The task was killed while it submitted Dify run {run_id}.", workflow_run_id=run_id)

    def _await_turn(self, step: SubmitLater, submission: Submission) -> None:
        """Let time pass before a submission is tried again: asleep here, or deferred."""
        self._log.info(step.why)
        moment = time.time() + step.seconds
        deferred_until = Deadline(max(moment, not_before(time.time())))
        is_short = step.seconds < self._task.defer_after or deferred_until.at >= self._deadline(submission).at
        if not self._task.deferrable or is_short:
            time.sleep(step.seconds)
            return
        from airflow_provider_dify.triggers.workflow import DifySubmitLaterTrigger

        kwargs = {"submission": submission.as_json()}
        self._task.defer(
            trigger=DifySubmitLaterTrigger(moment, not_before(time.time()), resume=kwargs),
            method_name="submit_again",
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
        from airflow_provider_dify.triggers.workflow import DifyAwaitServerTrigger

        kwargs = {"submission": submission.as_json()}
        self._task.defer(
            trigger=DifyAwaitServerTrigger(
                self._task.dify_conn_id, deadline.at, not_before(time.time()), resume=kwargs
            ),
            method_name="submit_again",
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
        return self._submit(submission)

    def _defer_wait(self, started: StartedRun, deadline: Deadline, submission: Submission, polls: int) -> NoReturn:
        from airflow_provider_dify.triggers.workflow import DifyWorkflowRunTrigger

        kwargs = {
            "workflow_run_id": started.workflow_run_id,
            "task_id": started.task_id,
            "end_time": deadline.at,
            "user": submission.user,
        }
        # No framework timeout: when one strikes, neither this operator nor the trigger gets to stop the run.
        self._task.defer(
            trigger=DifyWorkflowRunTrigger(
                workflow_run_id=started.workflow_run_id,
                dify_conn_id=self._task.dify_conn_id,
                end_time=deadline.at,
                poll_interval=self._task.poll_interval,
                max_poll_interval=self._task.max_poll_interval,
                since=submission.submitted_at,
                fail_on_pause=self._task.on_pause == "fail",
                dify_task_id=started.task_id,
                user=submission.user,
                cancel_on_kill=self._task.cancel_on_kill,
                follow_events=self._task.follow_events,
                polls=polls,
                steps_logged=None if self._steps is None else self._steps.logged_steps(),
                not_before=not_before(time.time()),
                resume={**kwargs, "limit": deadline.limit, "submission": submission.as_json()},
            ),
            method_name="execute_complete",
            kwargs=kwargs,
        )
        raise AssertionError("defer() does not return")

    def _wait_here(self, started: StartedRun, deadline: Deadline, until: float | None) -> WaitResult | HandOver:
        """Wait for a run on the worker.

        :param until: Unix seconds at which the triggerer goes on; None to wait to the end.
        """
        wait = self._wait(started, deadline)
        flow = wait if until is None else handed_over(wait, until, time.time)
        if not self._task.follow_events:
            return self._hook.follow(flow, self._log.info, deadline)
        self._steps = StepLog(started.workflow_run_id, self._hook.redact)
        followed_flow = followed(flow, self._steps, user=self._submitted_user, clock=time.time)
        return self._hook.follow(followed_flow, self._log.info, deadline)

    def _collect(self, started: StartedRun, deadline: Deadline) -> WaitResult:
        """Read a run whose end the triggerer has seen, and whose steps it has logged."""
        return self._hook.follow(self._wait(started, deadline, first_wait=0), self._log.info, deadline)

    def _wait(self, started: StartedRun, deadline: Deadline, first_wait: float | None = None) -> WaitFlow:
        return wait_for_run(
            started.workflow_run_id,
            schedule=PollSchedule(self._task.poll_interval, self._task.max_poll_interval),
            deadline=deadline,
            since=time.time(),
            clock=time.time,
            chance=random.random,
            first_wait=first_wait,
            fail_on_pause=self._task.on_pause == "fail",
        )

    def _finish(self, started: StartedRun, result: WaitResult, deadline: Deadline, submission: Submission) -> Any:
        """Turn the end of the wait into the task's return value or exception, or submit again after a shutdown."""
        run_id, ledger, user = started.workflow_run_id, self._ledger, submission.user
        if isinstance(result, Ended):
            self._started = self._submitted_user = None
            again = after_shutdown(result.run, resubmissions=submission.resubmissions, chance=random.random())
            if again is not None:
                return self._submit_after_shutdown(again, run_id, submission)
            self.known = replace(started, run=result.run)
            if result.run.status in (RunStatus.FAILED, RunStatus.STOPPED):
                ledger.settle()
            else:
                ledger.started(started, user, settled=True)
            partial_success = result.run.status is RunStatus.PARTIAL_SUCCEEDED
            (self._log.warning if partial_success else self._log.info)(closing_line(result.run))
            if started.app_id is None and result.run.app_id is not None:
                push_link(self._context["ti"], self._hook.connection.console_url, result.run.app_id)
            return self._deliver(result)
        if isinstance(result, TimedOut):
            # A process that was frozen for long finds its deadline gone by, and the run in the hands of another try.
            stops = self._task.cancel_on_timeout and not ledger.has_passed_on()
            stopped = stops and self._stop(started, user, f"its {deadline.limit} has passed")
            if stopped:
                ledger.settle()
            on_retry = retry_after_timeout(
                asked_to_stop=stopped,
                remembered=ledger.is_complete,
                findable=self._task.durable and self._can_search,
            )
            raise timeout_error(run_id, result.status, deadline, on_retry=on_retry)
        if isinstance(result, GivenUp):
            result.error.workflow_run_id = run_id
            raise result.error
        ledger.settle()
        raise paused_error(run_id, list(result.questions))

    def _deliver(self, result: Ended) -> dict[str, Any]:
        """Return the outputs of a run that has ended, their files saved, or raise what says how it ended."""
        run = result.run
        outputs = outputs_of(
            run, fail_on_partial_success=self._task.fail_on_partial_success, failed_step=result.failed_step
        )
        found_again = self._ledger.is_complete or (self._task.durable and self._can_search)
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
            self._log.warning("Dify run %s could not be stopped although %s: %s", run_id, why, error)
            return False
        self._log.info("Dify was asked to stop run %s, since %s.", run_id, why)
        return True
