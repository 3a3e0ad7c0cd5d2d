"""The hook's part for forms by which a paused run asks a human."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_dify.api.human_input import HumanInputForm, HumanInputRequest
from airflow_provider_dify.api.pauses import PauseReader
from airflow_provider_dify.api.runs import WorkflowRun
from airflow_provider_dify.hooks.twins import asynchronous
from airflow_provider_dify.rules import exchanges
from airflow_provider_dify.rules.human_answers import fit_answer
from airflow_provider_dify.rules.inputs import check_user
from airflow_provider_dify.runtime.worker_client import WorkerClient


class HumanInputCalls(WorkerClient):
    """What ``DifyHook`` offers for paused runs."""

    def get_pause_questions(self, run: WorkflowRun) -> list[str]:
        """Return what a paused run asks, a sentence for each question; empty where the server does not tell.

        Only the events route of Dify 1.14 tells it for a run that is known by its id (dify-behaviour.md, section 9).

        :param run: A run with its ``inputs``, which name the user that may read its events.
        """
        return self.run_exchange(exchanges.pause(run, PauseReader.questions, self.log.debug))

    def get_form_tokens(self, run: WorkflowRun) -> list[str]:
        """Return the tokens of the forms by which a paused run asks a human; empty where the server does not tell.

        A token is what ``get_human_input_form`` and ``submit_human_input`` need. Who has it and the app's API key can
        decide in a human's place, so keep it out of logs and XComs.

        :param run: A run with its ``inputs``, as ``get_workflow_run`` returns it.
        """
        return self.run_exchange(exchanges.pause(run, PauseReader.form_tokens, self.log.debug))

    def get_human_input_requests(self, run: WorkflowRun) -> list[HumanInputRequest]:
        """Return what a paused run asks, form by form, with where it may be answered; empty where nothing tells.

        :param run: A run with its ``inputs``, as ``get_workflow_run`` returns it.
        """
        return self.run_exchange(exchanges.pause(run, PauseReader.requests, self.log.debug))

    def get_human_input_form(self, form_token: str) -> HumanInputForm:
        """Return the form by which a paused run asks a human.

        :param form_token: From ``get_form_tokens``, or from the run's ``reasons`` or its event
            ``human_input_required``.
        :raises DifyUnsupportedError: The server is older than Dify 1.14, or the API contract has no forms.
        :raises DifyNotFoundError: There is no such form for the connection's app.
        :raises DifyInvalidInputError: It has been answered already.
        """
        return self.run_exchange(exchanges.form(form_token))

    def submit_human_input(
        self,
        form_token: str,
        *,
        action: str,
        inputs: Mapping[str, Any] | None = None,
        user: str = "airflow",
        form: HumanInputForm | None = None,
    ) -> None:
        """Answer a paused run in a human's place; the run goes on.

        It is sent once: after a ``DifyTransportError`` whose ``sent`` is true, Dify may have taken the answer.

        :param form_token: The form; see ``get_human_input_form``.
        :param action: The id of one of the form's actions.
        :param inputs: A value for each of the form's fields. A file is what ``upload_file`` returns, or a mapping in
            Dify's form; with ``form`` also an upload id or a URL.
        :param user: Who answers, 1 to 255 characters; Dify takes anybody.
        :param form: The form that is answered: what does not fit it is then refused before anything is sent.
        :raises DifyInvalidInputError: There is no such action, a field has no value or a wrong one, or the form has
            been answered.
        :raises DifyUnsupportedError: The server is older than Dify 1.14, or the API contract has no forms.
        :raises DifyNotFoundError: There is no such form for the connection's app.
        """
        values, user = fit_answer(form, action, inputs), check_user(user)
        return self.run_exchange(
            exchanges.send(lambda api: api.submit_human_input(form_token, action=action, inputs=values, user=user))
        )

    aget_pause_questions = asynchronous(get_pause_questions)
    aget_form_tokens = asynchronous(get_form_tokens)
    aget_human_input_requests = asynchronous(get_human_input_requests)
    aget_human_input_form = asynchronous(get_human_input_form)
    asubmit_human_input = asynchronous(submit_human_input)
