"""What a paused run asks a human, from the events that the server replays for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from airflow_provider_dify.api.events import HUMAN_INPUT_REQUIRED, LAST_EVENTS, EventDecoder
from airflow_provider_dify.api.human_input import HumanInputRequest, parse_request
from airflow_provider_dify.api.values import excerpt, text_or_none

# The server closes a paused run's snapshot by itself; this bounds the wait for one that does not.
PAUSE_EVENTS_SECONDS = 5.0


class PauseReader:
    """Reads the snapshot of a paused run (dify-behaviour.md, section 9) for the questions in it."""

    def __init__(self) -> None:
        self._decoder = EventDecoder()
        self._reasons: list[dict[str, Any]] = []

    def feed(self, chunk: bytes) -> bool:
        """Take bytes of the stream and tell whether there is more to read."""
        more = True
        for event in self._decoder.feed(chunk):
            if event.event == HUMAN_INPUT_REQUIRED:
                self._reasons.append(event.data)
            more = more and event.event not in LAST_EVENTS
        return more

    def questions(self) -> list[str]:
        """Return a sentence for each question."""
        return questions_of(self._reasons)

    def requests(self) -> list[HumanInputRequest]:
        """Return what is asked, form by form."""
        return [request for request in map(parse_request, self._reasons) if request is not None]

    def form_tokens(self) -> list[str]:
        """Return the tokens of the forms that wait for an answer."""
        tokens = (text_or_none(reason.get("form_token")) for reason in self._reasons)
        return list(dict.fromkeys(token for token in tokens if token is not None))


def questions_of(reasons: Iterable[dict[str, Any]]) -> list[str]:
    """Return a sentence for each reason of a pause that asks a human."""
    return [question for question in map(_question, reasons) if question is not None]


def _question(reason: dict[str, Any]) -> str | None:
    # The reason's form_token gives access to the form, so it stays out of the log.
    request = parse_request(reason)
    if request is None:
        return None
    asked = excerpt(request.form.content or "a decision").rstrip(".")
    names = ", ".join(excerpt(action.title, 60) for action in request.form.actions)
    choices = f" Possible answers: {names}." if names else ""
    return f"The step {excerpt(request.title, 60)!r} asks a human: {asked}.{choices}{_elsewhere(reason, request)}"


def _elsewhere(reason: dict[str, Any], request: HumanInputRequest) -> str:
    """Say where a form is answered that this API may not answer."""
    if "form_token" not in reason or request.form_token is not None:
        return ""
    channels = ", ".join(excerpt(channel, 60) for channel in request.approval_channels)
    return f" It is answered outside of this API{f': {channels}' if channels else ''}."
