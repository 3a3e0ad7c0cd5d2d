"""The triggers behind operator and sensor."""

from __future__ import annotations

import asyncio
import random
import time
from abc import abstractmethod
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from airflow_provider_dify.exceptions import DifyError
from airflow_provider_dify.rules import exchanges
from airflow_provider_dify.rules.earlier_tries import may_reattach, poll_earlier_run, search_deadline
from airflow_provider_dify.rules.event_log import FollowFlow, followed
from airflow_provider_dify.rules.outages import wait_for_server
from airflow_provider_dify.rules.polling import Deadline
from airflow_provider_dify.rules.searching import Found, find_run, is_reusable
from airflow_provider_dify.rules.settings import PollSchedule
from airflow_provider_dify.rules.steps import StepLog
from airflow_provider_dify.rules.waiting import wait_for_run
from airflow_provider_dify.runtime.loop_client import LoopClient
from airflow_provider_dify.runtime.poller import PolledClient, RowTooLargeError
from airflow_provider_dify.runtime.report import DUE, ENDED, Report, SearchReport
from airflow_provider_dify.runtime.stopping import stop_run
from airflow_provider_dify.triggers.base import OneEventTrigger


class _RunTrigger(OneEventTrigger):
    """A trigger that waits for the end of a run: of one that is known, or of one that it has found first."""

    dify_conn_id: str
    end_time: float
    poll_interval: float
    max_poll_interval: float
    fail_on_pause: bool
    follow_events: bool

    async def _event(self) -> dict[str, Any]:
        async with PolledClient(self.dify_conn_id) as client:
            return (await self._report(client)).event()

    @abstractmethod
    def _report(self, client: PolledClient) -> Coroutine[Any, Any, Report | SearchReport]:
        """Wait for the end of the run."""

    async def _wait_for(
        self,
        client: PolledClient,
        run_id: str,
        *,
        since: float,
        user: str | None,
        first_wait: float | None = None,
        polls: int = 0,
        steps_logged: dict[str, str] | None = None,
    ) -> Report:
        deadline = Deadline(self.end_time)
        schedule = PollSchedule(self.poll_interval, self.max_poll_interval)
        client.wait_for(
            run_id,
            since=since,
            longest=self.max_poll_interval,
            deadline=deadline,
            whole=self.follow_events and user is None,
            watched=not self.follow_events,
        )
        if first_wait is None:
            first_wait = schedule.delay(polls, 0, None, random.random())
        # What the trigger learned before it may fire would have to be asked for again; but whose events it may follow
        # is known only after a poll.
        hold = 0.0 if self.follow_events and user is None else self.left_to_hold()
        wait = wait_for_run(
            run_id,
            schedule=schedule,
            deadline=deadline,
            since=since,
            clock=time.time,
            jitter=random.random,
            first_wait=max(0.0, min(max(first_wait, hold), deadline.left(time.time()))),
            polls=polls,
            fail_on_pause=self.fail_on_pause,
        )
        flow: FollowFlow = wait
        if self.follow_events:
            steps = StepLog(run_id, client.redact, logged=steps_logged or {})
            flow = followed(wait, steps, user=user, clock=time.time)
        try:
            return Report.of(run_id, await client.follow(flow, self.log.info, deadline))
        except RowTooLargeError:
            self.log.info("The row of Dify run %s is too large for the triggerer: the worker reads it.", run_id)
            return Report(ENDED, run_id)
        except DifyError as error:
            return Report.of_error(run_id, error)


class DifyWorkflowRunTrigger(_RunTrigger):
    """Wait for the end of a Dify workflow run, and fire once.

    The event says how the wait ended and carries no outputs; the worker reads them. The deadline is a
    wall-clock moment, so that a restarted triggerer, or another one, keeps it.

    :param workflow_run_id: The run.
    :param dify_conn_id: The Airflow connection; read in the triggerer, never serialised.
    :param end_time: Deadline in unix seconds.
    :param poll_interval: Seconds before the first poll; the distance then doubles.
    :param max_poll_interval: Seconds between polls at most.
    :param since: Unix seconds from which the waiting time in the log is counted; now where left out.
    :param first_wait: Seconds before the first poll; ``poll_interval`` where left out.
    :param fail_on_pause: Whether a run that waits for a human ends the wait.
    :param dify_task_id: Dify's id for a stop; None where only the run's marker led to it.
    :param user: The ``user`` of the submission, by which the id for a stop may be found.
    :param cancel_on_kill: Whether the run is stopped when a user cancels the task.
    :param follow_events: Whether the run's steps are logged as they happen.
    :param polls: Polls that the worker has made; the distances go on growing from there.
    :param steps_logged: Steps that the worker has logged, by their ids, with the status that it has logged.
    :param not_before: Unix seconds before which the trigger does not fire in a triggerer.
    :param resume: What the event carries back to the task.
    """

    def __init__(
        self,
        workflow_run_id: str,
        dify_conn_id: str,
        end_time: float,
        poll_interval: float = PollSchedule.first,
        max_poll_interval: float = PollSchedule.longest,
        since: float | None = None,
        first_wait: float | None = None,
        fail_on_pause: bool = False,
        dify_task_id: str | None = None,
        user: str | None = None,
        cancel_on_kill: bool = False,
        follow_events: bool = False,
        polls: int = 0,
        steps_logged: dict[str, str] | None = None,
        not_before: float | None = None,
        resume: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(cancel_on_kill=cancel_on_kill, not_before=not_before, resume=resume)
        self.dify_conn_id = dify_conn_id
        self.workflow_run_id = workflow_run_id
        self.end_time = end_time
        self.poll_interval = poll_interval
        self.max_poll_interval = max_poll_interval
        self.since = since
        self.first_wait = first_wait
        self.fail_on_pause = fail_on_pause
        self.dify_task_id = dify_task_id
        self.user = user
        self.follow_events = follow_events
        self.polls = polls
        self.steps_logged = steps_logged

    def _report(self, client: PolledClient) -> Coroutine[Any, Any, Report]:
        return self._wait_for(
            client,
            self.workflow_run_id,
            since=time.time() if self.since is None else self.since,
            user=self.user,
            first_wait=self.first_wait,
            polls=self.polls,
            steps_logged=self.steps_logged,
        )

    async def _stop(self) -> None:
        async with LoopClient(self.dify_conn_id) as client:
            await stop_run(client, self.workflow_run_id, self.dify_task_id, self.user, self.log)


class DifyFindRunTrigger(_RunTrigger):
    """Search for a run that its submission has not named, by the marker it carries; wait for its end, and fire once.

    The worker then goes on with the run, or says that none was found in time. It is not resumed in between, so that
    one deferral does.

    :param markers: Markers to look up, the latest first.
    :param dify_conn_id: The Airflow connection; read in the triggerer, never serialised.
    :param end_time: Deadline in unix seconds.
    :param since: Unix seconds at which the search began.
    :param earlier: Whether the runs would be of earlier tries: the search then has a patience of its own, and
        the run is reusable only where it is active or has succeeded.
    :param streamed: Whether the submission was streamed.
    :param poll_interval: Seconds between look-ups at first; the distance then doubles.
    :param max_poll_interval: Seconds between look-ups at most.
    :param cancel_on_kill: Whether the run is stopped when a user cancels the task.
    :param ended: Runs of the markers that have ended, and after which another was submitted.
    :param own: The marker of this try, whose run is waited for whatever its status is.
    :param waits: Whether to wait for the end of the run; otherwise the trigger fires when it has found it.
    :param fail_on_pause: Whether a run that waits for a human ends the wait.
    :param fail_on_partial_success: Whether a run that succeeded partially is not reusable for a later try.
    :param follow_events: Whether the run's steps are logged as they happen.
    :param not_before: Unix seconds before which the trigger does not fire in a triggerer.
    :param resume: What the event carries back to the task.
    """

    def __init__(
        self,
        markers: list[str],
        dify_conn_id: str,
        end_time: float,
        since: float,
        earlier: bool = False,
        streamed: bool = True,
        poll_interval: float = PollSchedule.first,
        max_poll_interval: float = PollSchedule.longest,
        cancel_on_kill: bool = False,
        ended: list[str] | None = None,
        own: str | None = None,
        waits: bool = False,
        fail_on_pause: bool = False,
        fail_on_partial_success: bool = False,
        follow_events: bool = False,
        not_before: float | None = None,
        resume: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(cancel_on_kill=cancel_on_kill, not_before=not_before, resume=resume)
        self.dify_conn_id = dify_conn_id
        self.markers = markers
        self.end_time = end_time
        self.since = since
        self.earlier = earlier
        self.streamed = streamed
        self.poll_interval = poll_interval
        self.max_poll_interval = max_poll_interval
        self.ended = ended
        self.own = own
        self.waits = waits
        self.fail_on_pause = fail_on_pause
        self.fail_on_partial_success = fail_on_partial_success
        self.follow_events = follow_events

    async def _report(self, client: PolledClient) -> SearchReport | Report:
        deadline = Deadline(self.end_time)
        flow = find_run(
            self.markers,
            schedule=PollSchedule(self.poll_interval, self.max_poll_interval),
            patience=search_deadline(deadline, self.since, earlier=self.earlier),
            clock=time.time,
            jitter=random.random,
            wanted=is_reusable if self.earlier else None,
            streamed=self.streamed,
            ended=self.ended or (),
        )
        try:
            result = await client.follow(flow, self.log.info, deadline)
            if not isinstance(result, Found) or not self.waits or not await self._is_active(client, result):
                return SearchReport.of(result)
        except DifyError as error:
            return SearchReport.of_error(error)
        run_id, marker = result.workflow_run_id, result.marker
        self.log.info("Dify run %s was found by its user %s, and is waited for.", run_id, marker)
        report = await self._wait_for(client, run_id, since=self.since, user=marker)
        return replace(report, marker=marker)

    async def _is_active(self, client: PolledClient, found: Found) -> bool:
        """Tell whether the run is to be waited for here: all else is decided where the task resumes."""
        if found.marker == self.own:
            return True
        deadline = Deadline(self.end_time)
        earlier = poll_earlier_run(found.workflow_run_id, time.time, deadline)
        try:
            run = await client.follow(earlier, self.log.info, deadline)
        except RowTooLargeError:
            return False
        return (
            run is not None
            and not run.status.is_terminal
            and may_reattach(
                run.status,
                fail_on_partial_success=self.fail_on_partial_success,
                fail_on_pause=self.fail_on_pause,
            )
        )

    async def _stop(self) -> None:
        async with LoopClient(self.dify_conn_id) as client:
            # All at once, since each takes its seconds where Dify does not answer.
            await asyncio.gather(*(self._stop_run_of(client, marker) for marker in self.markers))
        self.log.warning("A run of this task that is still queued in Dify cannot be stopped, and will run.")

    async def _stop_run_of(self, client: LoopClient, marker: str) -> None:
        run_id = await client.run_exchange(exchanges.active_run(marker, time.time(), lambda _: None))
        if run_id is not None:
            await stop_run(client, run_id, None, marker, self.log)


class DifyAwaitServerTrigger(OneEventTrigger):
    """Wait for a server that is away, as during an upgrade, and fire when it answers or when there is no time left.

    :param dify_conn_id: The Airflow connection; read in the triggerer, never serialised.
    :param end_time: Deadline in unix seconds.
    :param not_before: Unix seconds before which the trigger does not fire in a triggerer.
    :param resume: What the event carries back to the task.
    """

    def __init__(
        self,
        dify_conn_id: str,
        end_time: float,
        not_before: float | None = None,
        resume: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(not_before=not_before, resume=resume)
        self.dify_conn_id = dify_conn_id
        self.end_time = end_time

    async def _event(self) -> dict[str, Any]:
        deadline = Deadline(self.end_time)
        async with PolledClient(self.dify_conn_id) as client:
            await client.follow(wait_for_server(deadline, time.time, random.random), self.log.info, deadline)
        return {"status": DUE}


class DifySubmitLaterTrigger(OneEventTrigger):
    """Let time pass before a rate-limited submission is tried again, without a worker slot.

    :param moment: Unix seconds at which to fire.
    :param not_before: Unix seconds before which the trigger does not fire in a triggerer.
    :param resume: What the event carries back to the task.
    """

    def __init__(self, moment: float, not_before: float | None = None, resume: dict[str, Any] | None = None) -> None:
        super().__init__(not_before=not_before, resume=resume)
        self.moment = moment

    async def _event(self) -> dict[str, Any]:
        await asyncio.sleep(max(self.moment - time.time(), 0.0))
        return {"status": DUE}
