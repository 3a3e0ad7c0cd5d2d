"""Operations on the forms by which paused runs ask a human, which only newer servers have."""

from __future__ import annotations

from http import HTTPStatus
from urllib.parse import quote, unquote

from airflow_provider_dify.api.errors import Answer, error_for_answer
from airflow_provider_dify.api.operations import Operation, T, check_id
from airflow_provider_dify.api.server_versions import Server
from airflow_provider_dify.exceptions import (
    DifyUnsupportedError,
)

_TOKEN_CHARS = 8


_COMPARE_FORM = (
    "Compare action and inputs with the form that get_human_input_form returns: its actions, and a value of the right "
    "type for each of its fields. The run still waits for an answer."
)


_FORM_REMEDIES = {
    "human_input_form_submitted": (
        "A form can be answered once, and this one has been: by somebody else, or by an earlier try. Read how the run "
        "goes on with get_workflow_run; if it is paused again, get_form_tokens tells the token of its next form."
    ),
    "human_input_form_expired": (
        "The time to answer the form is over. Read with get_workflow_run what became of its run."
    ),
    "invalid_form_data": _COMPARE_FORM,
    "invalid_param": _COMPARE_FORM,
    "not_found": (
        "There is no such form for the app whose API key is used. Take the token of the run's present form from "
        "get_form_tokens, over the connection of the run's own app."
    ),
}


def form_path(form_token: str) -> tuple[str, str]:
    """Return a form's path, and what of it gives access to the form."""
    secret = quote(check_id(form_token, "form_token"), safe="")
    return f"/form/human_input/{secret}", secret


class SinceHumanInput(Operation[T]):
    """An operation on a form, which older servers do not have: they answer its path with a page (dify-behaviour.md,
    section 1).

    Errors have advice about forms, by their codes: the texts differ, and the one of an unknown form repeats its path,
    and with it the token.
    """

    def check(self, answer: Answer) -> None:
        """Let an answer pass that is no error.

        :raises DifyUnsupportedError: The server does not have the route.
        :raises DifyError: It is an error; the form's token is not in it.
        """
        if answer.status == HTTPStatus.NOT_FOUND and answer.is_html and not self._is_there(answer):
            version = answer.server_version
            which = f"and this server is {version}" if version else "and this server has no such route"
            raise DifyUnsupportedError(
                f"{self.call.what} needs Dify 1.14 or later, {which}. Nothing was changed.", status_code=404
            )
        if not answer.ok:
            error = error_for_answer(answer, self.call.what, _FORM_REMEDIES)
            error.rewrite(self._without_token)
            raise error

    def _without_token(self, text: str) -> str:
        secret = self.call.secret or ""
        for token in {secret, unquote(secret)} - {""}:
            # A short one is no token of Dify's, and may stand in any word.
            text = text.replace(f"/human_input/{token}", "/human_input/***")
            text = text.replace(token, "***") if len(token) >= _TOKEN_CHARS else text
        return text

    @staticmethod
    def _is_there(answer: Answer) -> bool:
        return answer.server_version is not None and Server(answer.server_version).has_human_input
