"""A paused run's question as a required action of Airflow, from the worker's side: asked, and its answer sent to Dify.

The worker opens the action and defers. ``DifyHumanInputTrigger`` watches Airflow and Dify. The worker that resumes
sends the answer. Dify takes one answer for each form, so that an answer that is sent again does no harm.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_provider_dify.api.human_input import HumanInputRequest
from airflow_provider_dify.api.runs import RunStatus, WorkflowRun
from airflow_provider_dify.api.values import excerpt
from airflow_provider_dify.exceptions import (
    DifyError,
    DifyHumanInputTimeoutError,
    DifyInvalidInputError,
    DifyNotFoundError,
    DifyServerError,
    DifyTransportError,
)
from airflow_provider_dify.rules.human_answers import fit_answer
from airflow_provider_dify.rules.human_questions import (
    FormAnswer,
    Question,
    default_options,
    is_answerable,
    key_of,
    question_of,
    read_answer,
)
from airflow_provider_dify.rules.human_waiting import ANSWERED_IN_DIFY, Asking, closing_of
from airflow_provider_dify.rules.polling import Deadline
from airflow_provider_dify.rules.settings import PollSchedule
from airflow_provider_dify.runtime.airflow_errors import reason_of
from airflow_provider_dify.runtime.deferral import defer
from airflow_provider_dify.runtime.human_files import with_files
from airflow_provider_dify.runtime.report import ERROR, TIMED_OUT, Report, carried
from airflow_provider_dify.runtime.required_actions import RequiredActionError, Response, open_action

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

ANSWERED_BY = "airflow"
# Dify says at once that it has taken an answer, and a worker of its own goes on with the run a moment later.
RESUME_SECONDS = 5.0
_RESUME_POLL_SECONDS = 0.5
_SEND_PAUSES = (1.0, 2.0, 4.0)


class HumanInput:
    """What one try of a task asks in Airflow, and sends to Dify.

    :param task: The operator or sensor.
    :param context: Airflow's context of the try.
    :param schedule: The distances between polls.
    """

    def __init__(self, task: Any, context: Context, schedule: PollSchedule) -> None:
        self._task = task
        self._context = context
        self._schedule = schedule
        self._hook = task.hook
        self._log = task.log
        self._asking: Asking = task.asking
        self._tokens: dict[str, str | None] = {}
        self._before: dict[str, Any] = {}

    def ask(self, run_id: str, deadline: Deadline, kept: dict[str, Any], *, cancel_on_kill: bool) -> None:
        """Open the action and defer; return where the run is not paused any more.

        :param run_id: The run.
        :param deadline: The task's.
        :param kept: What the task needs when it is resumed.
        :param cancel_on_kill: Whether the run is stopped when a user ends the task.
        """
        run = self._paused(run_id)
        if run is None:
            return
        requests = self._hook.get_human_input_requests(run)
        open_requests = [request for request in requests if is_answerable(request) and self._is_open(request)]
        known, asked = [key_of(request) for request in requests], []
        respond_by = self._respond_by(known)
        is_open = False
        if not open_requests:
            self._say_where(run_id, requests)
        else:
            question = question_of(open_requests)
            is_open, shown = self._open(run_id, question)
            asked = question.keys if shown else []
        turn = {"turn": secrets.token_hex(8), "asked": asked, "known": known, "respond_by": respond_by}
        self._defer(run_id, deadline, {**kept, **turn}, is_open=is_open, cancel_on_kill=cancel_on_kill)

    def answer(self, event: Any, kept: dict[str, Any]) -> None:
        """Act on the event of the trigger, or of Airflow itself: send the answer, or nothing where Dify had one.

        :param event: The event.
        :param kept: What the task knew when it was deferred.
        :raises DifyHumanInputTimeoutError: Nobody has answered in time, and no default action could be sent.
        :raises DifyError: The answer could not be sent.
        """
        run_id, self._before = kept["workflow_run_id"], dict(kept)
        if is_foreign(event, kept):
            self._log.warning("The task was resumed with the event of another trigger, which is passed over.")
            return
        response = Response.parse(event)
        if response is not None:
            self._answered(run_id, response, kept)
        elif event.get("status") == "unanswered":
            self._unanswered(run_id, kept)
        else:
            self._log.info("Dify run %s: the question is %s.", run_id, excerpt(str(event.get("why")), 100))

    def _answered(self, run_id: str, response: Response, kept: dict[str, Any]) -> None:
        who = excerpt(response.user or "nobody known", 100)
        if not kept.get("asked"):
            self._log.warning("The answer of %s in Airflow was not sent: it is one to an earlier question.", who)
            return
        question = self._question(run_id, kept.get("asked") or [])
        if question is None:
            self._log.warning(
                "The answer of %s in Airflow was not sent: Dify run %s was answered in Dify before.", who, run_id
            )
            return
        try:
            answers = read_answer(question, response.options, response.values)
            self._send_all(run_id, answers, who, f"{ANSWERED_BY}:{response.user}" if response.user else ANSWERED_BY)
        except DifyInvalidInputError as error:
            self._log.warning(
                "The answer of %s in Airflow does not do for Dify run %s, which still waits. %s It is asked again.",
                who,
                run_id,
                error.message,
            )
            return
        self._await_resume(run_id)

    def _unanswered(self, run_id: str, kept: dict[str, Any]) -> None:
        limit, action = self._asking.response_timeout, self._asking.default_action
        problem = f"Nobody has answered the question of Dify run {run_id} within response_timeout ({limit:g} s)"
        self._before = {}
        question = self._question(run_id, kept.get("asked") or kept.get("known") or [])
        if question is None:
            return
        if action is None:
            raise DifyHumanInputTimeoutError(f"{problem}, and there is no default_action.", workflow_run_id=run_id)
        options = default_options(question, action)
        if options is None:
            offered = ", ".join(map(repr, question.options))
            raise DifyHumanInputTimeoutError(
                f"{problem}, and default_action {action!r} is none of the form's actions: {offered}.",
                workflow_run_id=run_id,
            )
        self._log.warning("%s, so default_action %r takes the place of an answer.", problem, action)
        try:
            self._send_all(run_id, read_answer(question, options, {}), "default_action", ANSWERED_BY)
        except DifyInvalidInputError as error:
            raise DifyHumanInputTimeoutError(
                f"{problem}, and default_action {action!r} cannot be sent: {error.message} Give the form's fields "
                "defaults in Dify, or ask without default_action.",
                workflow_run_id=run_id,
            ) from error
        self._await_resume(run_id)

    def _paused(self, run_id: str) -> WorkflowRun | None:
        run = self._hook.get_workflow_run(run_id)
        return run if run.status is RunStatus.PAUSED else None

    def _is_open(self, request: HumanInputRequest) -> bool:
        """Return whether a form may still be answered: the events of a run show it also afterwards."""
        try:
            self._hook.get_human_input_form(request.form_token)
        except DifyError as error:
            return closing_of(error) is None
        return True

    def _question(self, run_id: str, keys: Sequence[str]) -> Question | None:
        """Return what was asked, as far as it is still open; None where none of it is."""
        run = self._paused(run_id)
        requests = [] if run is None else self._hook.get_human_input_requests(run)
        still = [each for each in requests if key_of(each) in keys and is_answerable(each) and self._is_open(each)]
        self._tokens = {key_of(each): each.form_token for each in still}
        return question_of(still, keys) if still else None

    def _say_where(self, run_id: str, requests: Sequence[HumanInputRequest]) -> None:
        """Say where forms are answered that cannot be here."""
        elsewhere = [request for request in requests if not is_answerable(request)]
        for request in elsewhere:
            channels = ", ".join(excerpt(channel, 60) for channel in request.approval_channels)
            self._log.warning(
                "The step %r of Dify run %s asks a human, and cannot be answered from Airflow: it is answered in "
                "Dify%s. It is waited for.",
                excerpt(request.title, 60),
                run_id,
                f", by {channels}" if channels else "",
            )
        if not requests:
            self._log.warning(
                "Dify run %s waits for a human, and the server does not tell for what. It is answered in Dify%s.",
                run_id,
                self._console(),
            )
        elif not elsewhere:
            self._log.info("Dify run %s has been answered, and is about to go on.", run_id)

    def _console(self) -> str:
        console = self._hook.connection.console_url
        return f": {console}" if console else ""

    def _respond_by(self, known: list[str]) -> float | None:
        """Return when a default takes the place of an answer: counted from when these forms were first asked about."""
        if self._asking.response_timeout is None:
            return None
        if self._before.get("respond_by") and set(known) <= set(self._before.get("known") or ()):
            return float(self._before["respond_by"])
        return time.time() + self._asking.response_timeout

    def _open(self, run_id: str, question: Question) -> tuple[bool, bool]:
        """Open the action; return whether it is open, and whether it shows the question."""
        action = self._asking.default_action
        defaults = None if action is None else default_options(question, action)
        if action is not None and defaults is None:
            self._log.warning("default_action %r is none of the form's: %s.", action, ", ".join(question.options))
        try:
            shown = open_action(self._ti_id, question, defaults=defaults, assigned_users=self._asking.users)
        except RequiredActionError as error:
            self._log.warning("Airflow did not take the question of Dify run %s: %s", run_id, error)
            return False, False
        if not shown:
            self._log.warning(
                "Airflow before 3.4 goes on showing the first question of a task instance, also after a clear. So the "
                "question of Dify run %s, %r, is to be answered in Dify%s.",
                run_id,
                question.subject,
                self._console(),
            )
            return True, False
        expiries = [each.form.expires_at for each in question.asked if each.form.expires_at is not None]
        self._log.info(
            "%s. Dify run %s waits for an answer among Airflow's required actions (%s), or in Dify%s.",
            question.subject,
            run_id,
            ", ".join(map(repr, question.options)),
            f", until {Deadline(min(expiries))}" if expiries else "",
        )
        self._notify(question)
        return True, True

    def _notify(self, question: Question) -> None:
        shown = {"subject": question.subject, "body": question.body, "options": list(question.options)}
        for notifier in self._asking.notifiers:
            try:
                notifier({**self._context, "dify_question": shown})
            except Exception as error:
                # The action is open already, and somebody may see it: who is not notified is no reason to fail.
                self._log.warning("%s has failed: %s", type(notifier).__name__, reason_of(error))

    @property
    def _ti_id(self) -> str:
        ti: Any = self._context["ti"]
        return str(ti.id)

    def _defer(
        self, run_id: str, deadline: Deadline, kept: dict[str, Any], *, is_open: bool, cancel_on_kill: bool
    ) -> NoReturn:
        defer(
            self._task,
            "DifyHumanInputTrigger",
            "execute_answered",
            {
                "workflow_run_id": run_id,
                "dify_conn_id": self._task.dify_conn_id,
                "ti_id": self._ti_id,
                "end_time": deadline.at,
                "asked": kept["asked"],
                "known": kept["known"],
                "respond_by": kept["respond_by"],
                "is_open": is_open,
                "poll_interval": self._schedule.first,
                "max_poll_interval": self._schedule.longest,
                "dify_task_id": kept.get("task_id"),
                "user": kept.get("user"),
                "cancel_on_kill": cancel_on_kill,
                "resume": kept,
            },
            kwargs={"kept": kept},
        )

    def _send_all(self, run_id: str, answers: Sequence[FormAnswer], who: str, user: str) -> None:
        """Send answers; of several forms those that Dify refuses leave the others sent."""
        user = user[:255]
        ready = [(answer, with_files(self._task, self._hook, answer, user=user)) for answer in answers]
        for answer, inputs in ready:
            fit_answer(answer.asked.form, answer.action, inputs)
        for answer, inputs in ready:
            self._send(run_id, answer, inputs, who, user)

    def _send(self, run_id: str, answer: FormAnswer, inputs: dict[str, Any], who: str, user: str) -> None:
        title, token = answer.asked.title, self._tokens[answer.asked.key]
        for pause in (*_SEND_PAUSES, None):
            try:
                self._hook.submit_human_input(
                    token, action=answer.action, inputs=inputs, user=user, form=answer.asked.form
                )
                break
            except (DifyInvalidInputError, DifyNotFoundError) as error:
                why = closing_of(error)
                if why is None:
                    raise
                self._log.warning(
                    "The answer of %s to %r was not taken: %s. Dify run %s goes on with the other answer.",
                    who,
                    title,
                    "it was answered in Dify before" if why == ANSWERED_IN_DIFY else f"the form was {why}",
                    run_id,
                )
                return
            except (DifyTransportError, DifyServerError) as error:
                # Whether it has arrived is unknown; a form takes one answer, so that sending it again does no harm.
                if pause is None:
                    raise
                self._log.warning("Sending the answer to %r again in %g s: %s", title, pause, error.message)
                time.sleep(pause)
        fields = ", ".join(map(repr, inputs)) or "no fields"
        self._log.info(
            "The answer of %s to %r was sent to Dify run %s: %r, with %s.",
            who,
            title,
            run_id,
            answer.action_title,
            fields,
        )

    def _await_resume(self, run_id: str) -> None:
        """Let a moment pass until Dify goes on: a run that still shows the pause would be taken for one that asks."""
        until = time.monotonic() + RESUME_SECONDS
        while time.monotonic() < until:
            run = self._hook.poll(run_id).run
            if run is not None and run.status is not RunStatus.PAUSED:
                return
            time.sleep(_RESUME_POLL_SECONDS)


def resumed(event: Any, kept: dict[str, Any] | None) -> dict[str, Any]:
    """Return what a task knew when it was deferred to be answered; the event tells it where Airflow has dropped it."""
    return kept or carried(event)


def is_foreign(event: Any, kept: dict[str, Any]) -> bool:
    """Return whether a trigger's event belongs to another deferral, of this task or of another one.

    Airflow 3.3 and later resume a task at the answer, and its trigger goes on for a moment. With SQLite another trigger
    may get the same id meanwhile, and the event of the one then reaches the task of the other.
    """
    resume = carried(event)
    return bool(resume) and resume.get("turn") != kept.get("turn")


def report_in(event: Any, kept: dict[str, Any]) -> Report | None:
    """Return how the wait ended, where that is what the trigger tells; None for an answer, or none in time."""
    is_report = isinstance(event, dict) and event.get("status") in ("ended", TIMED_OUT, ERROR)
    return Report.parse(event, kept["workflow_run_id"]) if is_report and not is_foreign(event, kept) else None
