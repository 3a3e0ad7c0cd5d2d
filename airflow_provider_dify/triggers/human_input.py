"""The trigger that waits for a person's answer: in Airflow, or in Dify itself."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

from asgiref.sync import sync_to_async

from airflow_provider_dify.api.pauses import PauseReader
from airflow_provider_dify.api.runs import RunStatus, WorkflowRun
from airflow_provider_dify.compat import answers_resume_tasks
from airflow_provider_dify.exceptions import DifyError
from airflow_provider_dify.rules import exchanges
from airflow_provider_dify.rules.human_questions import is_answerable, key_of
from airflow_provider_dify.rules.human_waiting import (
    ANSWERED_IN_DIFY,
    DEADLINE_PASSED,
    NOT_SHOWN,
    RUN_ENDED,
    TASK_ENDED,
    TOO_LATE,
    closing_of,
)
from airflow_provider_dify.rules.polling import Deadline, Ended, GivenUp, TimedOut, Wait, Watch
from airflow_provider_dify.rules.settings import PollSchedule
from airflow_provider_dify.runtime.loop_client import LoopClient
from airflow_provider_dify.runtime.report import Report
from airflow_provider_dify.runtime.required_actions import RequiredActionError, Response, close_action, read_action
from airflow_provider_dify.runtime.stopping import ON_KILL_SECONDS, ended_by_person, shielded, state_of, stop_run
from airflow_provider_dify.triggers.base import OneEventTrigger

# Airflow resumes a task at once, and ends its trigger a moment later.
ANSWER_SECONDS = 5.0
ANSWERED = "answered"
CHANGED = "changed"
UNANSWERED = "unanswered"
_ENDED_STATES = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})


class DifyHumanInputTrigger(OneEventTrigger):
    """Wait until a paused run's question is answered in Airflow or in Dify, expires, or no time is left; fire once.

    Tokens of forms are asked for here again: neither arguments nor events carry one.

    :param workflow_run_id: The run.
    :param dify_conn_id: The Airflow connection; read in the triggerer, never serialised.
    :param ti_id: The task instance, whose required action it is.
    :param end_time: Deadline of the task in unix seconds.
    :param asked: What tells the forms that the action asks about from the others of the run; empty where no action asks
        anything, and only Dify is watched.
    :param known: The same of all forms that the run had open when the task was deferred.
    :param respond_by: Unix seconds after which a default or an error takes the place of an answer; None without.
    :param is_open: Whether the action is open. With ``asked`` empty it shows an old question, and is closed at once.
    :param poll_interval: Seconds before the second poll; the distance then doubles.
    :param max_poll_interval: Seconds between polls at most.
    :param dify_task_id: Dify's id for a stop; None where only the run's marker led to it.
    :param user: The ``user`` of the submission, by which the id for a stop may be found.
    :param cancel_on_kill: Whether the run is stopped when a user ends the task.
    :param not_before: Unix seconds before which the trigger does not fire in a triggerer.
    :param resume: What the event carries back to the task.
    """

    def __init__(
        self,
        workflow_run_id: str,
        dify_conn_id: str,
        ti_id: str,
        end_time: float,
        asked: list[str],
        known: list[str],
        respond_by: float | None = None,
        is_open: bool = True,
        poll_interval: float = PollSchedule.first,
        max_poll_interval: float = PollSchedule.longest,
        dify_task_id: str | None = None,
        user: str | None = None,
        cancel_on_kill: bool = False,
        not_before: float | None = None,
        resume: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(cancel_on_kill=cancel_on_kill, not_before=not_before, resume=resume)
        self.workflow_run_id = workflow_run_id
        self.dify_conn_id = dify_conn_id
        self.ti_id = ti_id
        self.end_time = end_time
        self.asked = asked
        self.known = known
        self.respond_by = respond_by
        self.is_open = is_open
        self.poll_interval = poll_interval
        self.max_poll_interval = max_poll_interval
        self.dify_task_id = dify_task_id
        self.user = user
        self._tokens: dict[str, str] = {}
        self._cannot_read = False

    async def _event(self) -> dict[str, Any]:
        async with LoopClient(self.dify_conn_id) as client:
            return await self._wait(client)

    async def on_kill(self) -> None:
        """Close the action and stop the run when a user marked, cleared or failed the task.

        From Airflow 3.3 on it is called as well when the action was answered: Airflow resumes the task itself then, and
        nothing ends.
        """
        await shielded(self._stop_if_ended(), ON_KILL_SECONDS)

    async def _stop(self) -> None:
        response = await self._response()
        is_answered = response is not None and response.user is not None
        if is_answered and await state_of(self) not in _ENDED_STATES:
            return
        await self._close(TASK_ENDED)
        if not self.cancel_on_kill:
            return
        async with LoopClient(self.dify_conn_id) as client:
            # A task that was resumed may be over, with its run, before Airflow ends its trigger.
            if is_answered and (run := (await client.poll(self.workflow_run_id)).run) and run.status.is_terminal:
                return
            await stop_run(client, self.workflow_run_id, self.dify_task_id, self.user, self.log)

    async def _wait(self, client: LoopClient) -> dict[str, Any]:
        """Watch both sides until one of them tells something."""
        deadline, schedule, watch = (
            Deadline(self.end_time),
            PollSchedule(self.poll_interval, self.max_poll_interval),
            Watch(),
        )
        if self.is_open and not self.asked:
            await self._close(NOT_SHOWN)
        while True:
            if (response := await self._response()) is not None and self.asked:
                await self._leave_to_airflow()
                return {"status": ANSWERED, "answer": response.as_json()}
            poll_result = await client.poll(self.workflow_run_id)
            watch, decision = watch.decide(
                poll_result, now=time.time(), deadline=deadline, schedule=schedule, jitter=random.random()
            )
            why = None if poll_result.run is None else await self._what_changed(client, poll_result.run)
            if isinstance(decision, Wait) and why is not None:
                return await self._changed(why)
            if not isinstance(decision, Wait):
                return await self._over(decision, why)
            if self.respond_by is not None and self.respond_by <= time.time():
                return await self._unanswered()
            await asyncio.sleep(self._pause(decision))

    async def _leave_to_airflow(self) -> None:
        """Let Airflow resume the task where it does so at the answer; it ends this trigger then.

        It does not where the answer came before the task was deferred.
        """
        if self.trigger_id is None or not answers_resume_tasks():
            return
        has_resumed = True
        while has_resumed:
            await asyncio.sleep(ANSWER_SECONDS)
            has_resumed = await ended_by_person(self)

    def _pause(self, decision: Wait) -> float:
        left = decision.seconds if self.respond_by is None else self.respond_by - time.time()
        return max(min(decision.seconds, left), 0.0)

    async def _what_changed(self, client: LoopClient, run: WorkflowRun) -> str | None:
        """Return why the action asks no longer what the run asks; None as long as it does."""
        if run.status is not RunStatus.PAUSED:
            return await self._closed(client) or (RUN_ENDED if run.status is RunStatus.STOPPED else ANSWERED_IN_DIFY)
        if not self._tokens or not self.asked:
            requests = await client.run_exchange(exchanges.pause(run, PauseReader.requests, client.log.debug))
            keys = {key_of(request) for request in requests}
            if requests and not keys <= set(self.known):
                return ANSWERED_IN_DIFY
            self._tokens = {
                key_of(request): request.form_token
                for request in requests
                if is_answerable(request) and request.form_token is not None and key_of(request) in self.asked
            }
        return await self._closed(client)

    async def _closed(self, client: LoopClient) -> str | None:
        """Return why a form that is asked about takes no answer any more; None where all may, or none is known."""
        for token in self._tokens.values():
            try:
                await client.run_exchange(exchanges.form(token))
            except DifyError as error:
                if (why := closing_of(error)) is not None:
                    return why
        return None

    async def _changed(self, why: str) -> dict[str, Any]:
        await self._close(why)
        return {"status": CHANGED, "why": why}

    async def _unanswered(self) -> dict[str, Any]:
        # Closed first: of an answer that comes at this very moment, either this or the answer counts.
        if self.asked and not await self._close(TOO_LATE):
            response = await self._response()
            if response is not None and response.user is not None:
                return {"status": ANSWERED, "answer": response.as_json()}
        return {"status": UNANSWERED}

    async def _over(self, decision: Ended | GivenUp | TimedOut, why: str | None) -> dict[str, Any]:
        await self._close(why or (DEADLINE_PASSED if isinstance(decision, TimedOut) else RUN_ENDED))
        return Report.of(self.workflow_run_id, decision).event()

    async def _response(self) -> Response | None:
        """Return what the action was answered with; None where it is open, or nothing tells."""
        if not self.is_open:
            return None
        try:
            return await sync_to_async(read_action)(self.ti_id)
        except RequiredActionError as error:
            if not self._cannot_read:
                self._cannot_read = True
                self.log.warning("The required action cannot be read, so only Dify is watched: %s", error)
            return None

    async def _close(self, why: str) -> bool:
        if not self.is_open:
            return False
        self.is_open = not await sync_to_async(close_action)(self.ti_id, why)
        if not self.is_open:
            self.log.info("The required action is closed: %s.", why)
        elif (
            why.endswith("in Dify")
            and self.asked
            and (response := await self._response()) is not None
            and response.user is not None
        ):
            self.log.warning(
                "The answer of %s in Airflow was not sent: Dify run %s was %s before.",
                response.user,
                self.workflow_run_id,
                why,
            )
        return not self.is_open
