"""One try of a sensor that waits for a Dify workflow run."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import AirflowSensorTimeout, AirflowSkipException, PokeReturnValue

from airflow_provider_dify.api.runs import RunStatus, StartedRun, WorkflowRun
from airflow_provider_dify.compat import is_first_poke
from airflow_provider_dify.exceptions import DifyError, DifyNotFoundError, DifySensorTimeoutError
from airflow_provider_dify.rules.deferring import HandOver
from airflow_provider_dify.rules.human_waiting import ASK
from airflow_provider_dify.rules.outcome import SAME_RUN, outputs_of, paused_error, timeout_error
from airflow_provider_dify.rules.polling import (
    TIMEOUT,
    UNKNOWN_GRACE_SECONDS,
    Deadline,
    Ended,
    GivenUp,
    TimedOut,
    Wait,
    Watch,
)
from airflow_provider_dify.rules.settings import FIRST_POLL_SECONDS
from airflow_provider_dify.rules.waiting import PausedOut, WaitResult
from airflow_provider_dify.runtime.deferral import defer
from airflow_provider_dify.runtime.metrics import Metrics
from airflow_provider_dify.runtime.outputs import Destination, deliver
from airflow_provider_dify.runtime.report import Report, carried
from airflow_provider_dify.runtime.resolve_inputs import check_destinations
from airflow_provider_dify.runtime.run_link import push_link
from airflow_provider_dify.runtime.task_wait import TaskWait

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_dify.runtime.task_protocols import RunSensorTask


class SensorRun(TaskWait["RunSensorTask"]):
    """One try of a sensor, from its start or from where the triggerer has handed it back.

    :param sensor: The sensor, with its templates rendered.
    :param context: Airflow's context of the try.
    """

    def __init__(self, sensor: RunSensorTask, context: Context) -> None:
        super().__init__(sensor, context, sensor.schedule)

    def begin(self) -> dict[str, Any]:
        """Wait for the run here, or defer."""
        try:
            run_id, now = self._run_id(), time.time()
            deadline = Deadline.after(
                now, self._task.timeout, started_at=now, execution_timeout=self._task.execution_timeout
            )
            self._note_where_to_answer()
            self._log_run_started(StartedRun(run_id), user=None, deadline=deadline)
            return self._await(run_id, deadline)
        except DifyError as error:
            self._give_up(error)

    def _await(self, run_id: str, deadline: Deadline) -> dict[str, Any]:
        """Wait for the run: here, or deferred."""
        now, leaves_at, polls = time.time(), self._leaves_at(deadline), 0
        if leaves_at is None or self._task.defer_after > 0:
            result = self._wait_here(run_id, deadline, leaves_at, first_wait=self._first_wait)
            if not isinstance(result, HandOver):
                return self._finish(run_id, result, deadline)
            polls = result.polls
        return self._defer(run_id, deadline, now, polls)

    def answered(self, event: Any, kept: dict[str, Any] | None) -> dict[str, Any]:
        """Go on where a paused run's question has been answered, or the wait for an answer has ended."""
        from airflow_provider_dify.runtime.human_input import report_in, resumed

        try:
            kept = resumed(event, kept)
            run_id, deadline = kept["workflow_run_id"], Deadline(kept["end_time"], kept.get("limit", TIMEOUT))
            if (report := report_in(event, kept)) is not None:
                return self._reported(report, deadline)
            self._human.answer(event, kept)
            return self._await(run_id, deadline)
        except DifyError as error:
            self._give_up(error)

    def rescheduled(self, execute: Callable[[Context], Any]) -> Any:
        """Let Airflow poke and reschedule, with the errors of the other modes."""
        try:
            run_id = self._run_id()
            try:
                return execute(self._context)
            except AirflowSensorTimeout as error:
                raise DifySensorTimeoutError(
                    f"{error} Dify run {run_id} had not ended.", on_retry=SAME_RUN, workflow_run_id=run_id
                ) from error
        except DifyError as error:
            self._give_up(error)

    def poke(self) -> PokeReturnValue:
        """Poll once.

        A run that the server does not show is polled for up to 10 s: its row can lag behind the event that
        named it, and a rescheduled sensor remembers nothing of earlier polls.
        """
        run_id = self._run_id()
        poll_result = self._hook.poll(run_id)
        result: WaitResult | Wait
        if poll_result.run is not None:
            self._show(poll_result.run)
        if isinstance(poll_result.error, DifyNotFoundError):
            grace = Deadline(time.time() + UNKNOWN_GRACE_SECONDS + FIRST_POLL_SECONDS)
            result = self._hook.follow(self._flow(run_id, grace, FIRST_POLL_SECONDS), self._log.debug, grace)
        elif (
            poll_result.run is not None and poll_result.run.status is RunStatus.PAUSED and self._task.on_pause == "fail"
        ):
            result = PausedOut(tuple(self._hook.get_pause_questions(poll_result.run)))
        else:
            now = time.time()
            _, result = Watch().decide(
                poll_result, now=now, deadline=Deadline(now), schedule=self._task.schedule, jitter=random.random()
            )
        if isinstance(result, (TimedOut, Wait)):
            return PokeReturnValue(is_done=False)
        return PokeReturnValue(is_done=True, xcom_value=self._finish(run_id, result, Deadline(time.time())))

    def _show(self, run: WorkflowRun) -> None:
        if is_first_poke(self._context):
            started = StartedRun(run.workflow_run_id, app_id=run.app_id, server_version=run.server_version)
            deadline = Deadline(time.time() + self._task.timeout)
            self._log_run_started(started, user=None, deadline=deadline)
        else:
            # Airflow drops the XComs of a sensor each time it is rescheduled.
            push_link(self._context["ti"], self._hook.connection.console_url, run.app_id)

    def waited_in_triggerer(self, event: Any, workflow_run_id: str | None, end_time: float | None) -> dict[str, Any]:
        """Go on where the wait in the triggerer has ended."""
        try:
            report, kept = Report.parse(event, workflow_run_id), carried(event)
            end_time = kept.get("end_time", time.time()) if end_time is None else end_time
            return self._reported(report, Deadline(end_time, kept.get("limit", TIMEOUT)))
        except DifyError as error:
            self._give_up(error)

    def _reported(self, report: Report, deadline: Deadline) -> dict[str, Any]:
        """End as the triggerer has reported."""
        return self._finish(report.workflow_run_id, self._end_of(report, deadline), deadline)

    def _run_id(self) -> str:
        check_destinations(self._task)
        return self._hook.api.check_run_id(self._task.workflow_run_id)

    @property
    def _first_wait(self) -> float:
        return min(FIRST_POLL_SECONDS, self._task.schedule.first)

    def _defer(self, run_id: str, deadline: Deadline, since: float, polls: int) -> NoReturn:
        schedule = self._task.schedule
        kwargs = {"workflow_run_id": run_id, "end_time": deadline.at}
        # No framework timeout, so that a sensor in the triggerer ends with the same error as one on a worker.
        defer(
            self._task,
            "DifyWorkflowRunTrigger",
            "execute_complete",
            {
                "workflow_run_id": run_id,
                "dify_conn_id": self._task.dify_conn_id,
                "end_time": deadline.at,
                "poll_interval": schedule.first,
                "max_poll_interval": schedule.longest,
                "since": since,
                "first_wait": None if polls else self._first_wait,
                "fail_on_pause": self._ends_at_pause,
                "follow_events": self._task.follow_events,
                "polls": polls,
                "steps_logged": self._logged_steps,
                "resume": {**kwargs, "limit": deadline.limit},
            },
            kwargs=kwargs,
        )

    def _finish(self, run_id: str, result: WaitResult, deadline: Deadline) -> dict[str, Any]:
        """Turn the end of the wait into the sensor's return value or exception."""
        if isinstance(result, Ended):
            Metrics(self._task.dify_conn_id).run_ended(result.run)
            self._log_end(result.run)
            if result.run.app_id is not None:
                push_link(self._context["ti"], self._hook.connection.console_url, result.run.app_id)
            outputs = outputs_of(
                result.run,
                fail_on_partial_success=self._task.fail_on_partial_success,
                on_retry=SAME_RUN,
                failed_step=result.failed_step,
            )
            to = Destination.of(self._task)
            return deliver(outputs, workflow_run_id=run_id, hook=self._hook, to=to, on_retry=SAME_RUN)
        if isinstance(result, TimedOut):
            raise timeout_error(run_id, result.status, deadline, DifySensorTimeoutError, SAME_RUN)
        if isinstance(result, GivenUp):
            result.error.workflow_run_id = run_id
            raise result.error
        if self._task.on_pause == ASK:
            kept = {"workflow_run_id": run_id, "end_time": deadline.at, "limit": deadline.limit}
            self._human.ask(run_id, deadline, kept, cancel_on_kill=False)
            return self._await(run_id, deadline)
        raise paused_error(run_id, list(result.questions), SAME_RUN)

    def _give_up(self, error: DifyError) -> NoReturn:
        """Skip where the author asked for it: Airflow's own rules differ by mode and version."""
        if self._task.soft_fail or self._task.never_fail:
            option = "soft_fail" if self._task.soft_fail else "never_fail"
            raise AirflowSkipException(f"Skipping, since {option} is set: {error.message}") from error
        raise error
