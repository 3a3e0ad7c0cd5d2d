"""The triggers behind operator and sensor."""

from __future__ import annotations

import asyncio
import random
import time
from abc import abstractmethod
from collections.abc import AsyncIterator
from inspect import signature
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_dify.api.attempts import search_deadline
from airflow_provider_dify.api.finding import find_run, of_use
from airflow_provider_dify.api.following import FollowFlow, followed
from airflow_provider_dify.api.polling import Deadline
from airflow_provider_dify.api.settings import PollSchedule
from airflow_provider_dify.api.steps import StepLog
from airflow_provider_dify.api.waiting import wait_for_run
from airflow_provider_dify.exceptions import DifyError
from airflow_provider_dify.hooks.dify import DifyHook
from airflow_provider_dify.hooks.poller import PolledHook
from airflow_provider_dify.triggers.report import DUE, Report, SearchReport
from airflow_provider_dify.triggers.stopping import (
    CALLS_ON_KILL,
    ON_KILL_SECONDS,
    ended_by_person,
    stop_run,
    undisturbed,
)

_MODULE = "airflow_provider_dify.triggers.workflow"
# What a cancelled wait has open is closed at once; a server that does not let go of it holds nothing up.
CLOSE_SECONDS = 2.0


async def _over(work: asyncio.Future[Any]) -> None:
    await asyncio.wait({work})


class _DifyTrigger(BaseTrigger):
    """A trigger that waits for Dify, fires once, and stops what it waits for when a person ends the task."""

    def __init__(self, dify_conn_id: str, cancel_on_kill: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dify_conn_id = dify_conn_id
        self.cancel_on_kill = cancel_on_kill

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments; none of them is secret."""
        arguments = {name: getattr(self, name) for name in signature(type(self)).parameters}
        return f"{_MODULE}.{type(self).__name__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield one event."""
        hook = PolledHook(self.dify_conn_id)
        work = asyncio.ensure_future(self._report(hook))
        try:
            # Not awaited itself: what it awaits may swallow the message by which Airflow knows a person's cancel.
            await asyncio.wait({work})
            # Before the event: who takes only that ends the loop without letting this generator go on.
            await hook.aclose()
            yield TriggerEvent(work.result().event())  # type: ignore[no-untyped-call]
        except asyncio.CancelledError:
            work.cancel()
            await undisturbed(_over(work), CLOSE_SECONDS)
            if not CALLS_ON_KILL:
                await self.on_kill()
            raise
        finally:
            await undisturbed(hook.aclose(), CLOSE_SECONDS)

    async def on_kill(self) -> None:
        """Stop the run when a person marked, cleared or failed the task.

        Called by Airflow 3.3 and later, and by ``run`` before. Some versions call it as well when a healthy
        trigger is handed to another triggerer (apache/airflow 73454), so the task's state is asked first.
        """
        if self.cancel_on_kill:
            await undisturbed(self._stop_if_ended(), ON_KILL_SECONDS)

    async def _stop_if_ended(self) -> None:
        if not await ended_by_person(self):
            return
        hook = DifyHook(self.dify_conn_id)
        try:
            await self._stop(hook)
        finally:
            await hook.aclose()

    @abstractmethod
    async def _report(self, hook: PolledHook) -> Report | SearchReport:
        """Wait for what the trigger is for."""

    @abstractmethod
    async def _stop(self, hook: DifyHook) -> None:
        """Stop what the trigger waits for."""


class DifyWorkflowRunTrigger(_DifyTrigger):
    """Wait for the end of a Dify workflow run, and fire once.

    The event says how the wait ended and carries no outputs; the worker reads them. The deadline is a
    wall-clock moment, so that a restarted triggerer, or another one, keeps it.

    :param workflow_run_id: The run.
    :param dify_conn_id: The Airflow connection; read in the triggerer, never serialised.
    :param end_time: Deadline in unix seconds.
    :param poll_interval: Seconds before the first look; the distance then doubles.
    :param max_poll_interval: Seconds between looks at most.
    :param since: Unix seconds from which the waiting time in the log is counted; now where left out.
    :param first_wait: Seconds before the first look; ``poll_interval`` where left out.
    :param fail_on_pause: Whether a run that waits for a human ends the wait.
    :param dify_task_id: Dify's id for a stop; None where only the run's marker led to it.
    :param user: The ``user`` of the submission, by which the id for a stop may be found.
    :param cancel_on_kill: Whether the run is stopped when a person ends the task.
    :param follow_events: Whether the run's steps are told in the log as they happen.
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
    ) -> None:
        super().__init__(dify_conn_id, cancel_on_kill)
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

    async def _report(self, hook: PolledHook) -> Report:
        deadline, since = Deadline(self.end_time), time.time() if self.since is None else self.since
        hook.wait_for(
            self.workflow_run_id,
            since=since,
            longest=self.max_poll_interval,
            deadline=deadline,
            whole=self.follow_events and self.user is None,
            watched=not self.follow_events,
        )
        wait = wait_for_run(
            self.workflow_run_id,
            schedule=PollSchedule(self.poll_interval, self.max_poll_interval),
            deadline=deadline,
            since=since,
            clock=time.time,
            chance=random.random,
            first_wait=self.first_wait,
            fail_on_pause=self.fail_on_pause,
        )
        flow: FollowFlow = wait
        if self.follow_events:
            flow = followed(wait, StepLog(self.workflow_run_id, hook.redact), user=self.user, clock=time.time)
        try:
            return Report.of(self.workflow_run_id, await hook.afollow(flow, self.log.info))
        except DifyError as error:
            return Report.of_error(self.workflow_run_id, error)

    async def _stop(self, hook: DifyHook) -> None:
        await stop_run(hook, self.workflow_run_id, self.dify_task_id, self.user, self.log)


class DifyFindRunTrigger(_DifyTrigger):
    """Look for a run whose submission told nothing, by the marker it carries, and fire once.

    The worker then goes on with the run, or says that none was found in time.

    :param markers: The ``user`` values to look for, the latest first.
    :param dify_conn_id: The Airflow connection; read in the triggerer, never serialised.
    :param end_time: Deadline in unix seconds.
    :param since: Unix seconds at which the search began.
    :param earlier: Whether runs of earlier tries are looked for, of which it is not even known that they were
        submitted: runs of no use are then passed over, and the search ends by patience.
    :param streamed: Whether the submission was streamed.
    :param poll_interval: Seconds before the second look-up; the distance then doubles.
    :param max_poll_interval: Seconds between look-ups at most.
    :param cancel_on_kill: Whether the run is stopped when a person ends the task.
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
    ) -> None:
        super().__init__(dify_conn_id, cancel_on_kill)
        self.markers = markers
        self.end_time = end_time
        self.since = since
        self.earlier = earlier
        self.streamed = streamed
        self.poll_interval = poll_interval
        self.max_poll_interval = max_poll_interval

    async def _report(self, hook: PolledHook) -> SearchReport:
        flow = find_run(
            self.markers,
            schedule=PollSchedule(self.poll_interval, self.max_poll_interval),
            patience=search_deadline(Deadline(self.end_time), self.since, earlier=self.earlier),
            clock=time.time,
            chance=random.random,
            wanted=of_use if self.earlier else None,
            streamed=self.streamed,
        )
        try:
            return SearchReport.of(await hook.afollow(flow, self.log.info))
        except DifyError as error:
            return SearchReport.of_error(error)

    async def _stop(self, hook: DifyHook) -> None:
        # All at once, since each takes its seconds where Dify does not answer.
        await asyncio.gather(*(self._stop_run_of(hook, marker) for marker in self.markers))
        self.log.warning("A run of this task that is still queued in Dify cannot be stopped, and will run.")

    async def _stop_run_of(self, hook: DifyHook, marker: str) -> None:
        run_id = await hook.afind_started(marker)
        if run_id is not None:
            await stop_run(hook, run_id, None, marker, self.log)


class DifySubmitLaterTrigger(BaseTrigger):
    """Let time pass before a rate-limited submission is tried again, without a worker slot.

    :param moment: Unix seconds at which to fire.
    """

    def __init__(self, moment: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.moment = moment

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the argument."""
        return f"{_MODULE}.DifySubmitLaterTrigger", {"moment": self.moment}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Sleep until the moment has come."""
        await asyncio.sleep(max(self.moment - time.time(), 0))
        yield TriggerEvent(dict(DUE))  # type: ignore[no-untyped-call]
