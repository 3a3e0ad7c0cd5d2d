"""Required actions of Airflow (its human-in-the-loop API, 3.1 and later): opened, read and closed.

One belongs to a task instance. A worker can open it and a triggerer can read and close it; each asks Airflow through
its supervisor, which knows no other way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from airflow_provider_dify.compat import close_required_action, open_required_action, read_required_action
from airflow_provider_dify.rules.human_questions import Question


class RequiredActionError(Exception):
    """Airflow did not open, tell or close a required action."""


@dataclass(frozen=True)
class Response:
    """What a required action was answered with.

    :param options: The options that were chosen.
    :param values: What was filled in, by the names of the parameters.
    :param user: The name of who answered; None where no person did.
    """

    options: list[str]
    values: dict[str, Any]
    user: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it as a trigger's event carries it."""
        return {"options": self.options, "values": self.values, "user": self.user}

    @classmethod
    def parse(cls, event: Any) -> Response | None:
        """Read it from the event of a resumed task; None where the event is about something else.

        Airflow 3.3 and later resume a deferred task themselves when its action is answered, with an event of their own;
        before, the trigger does.
        """
        if not isinstance(event, Mapping):
            return None
        own = event.get("answer")
        if isinstance(own, Mapping):
            return cls(list(own.get("options") or ()), dict(own.get("values") or {}), own.get("user"))
        if "chosen_options" not in event:
            return None
        user = event.get("responded_by_user")
        name = (user.get("name") or user.get("id")) if isinstance(user, Mapping) else None
        return cls(list(event.get("chosen_options") or ()), dict(event.get("params_input") or {}), name)


def open_action(
    ti_id: UUID | str,
    question: Question,
    *,
    defaults: list[str] | None = None,
    assigned_users: Sequence[Mapping[str, str]] = (),
) -> bool:
    """Open the required action of a task instance, or open it again where it was answered before.

    :param ti_id: The task instance.
    :param question: What is asked.
    :param defaults: The options that count when nobody answers in time.
    :param assigned_users: Who may answer, each with ``id`` and ``name``; everybody who may edit the task where empty.
    :return: Whether the action now asks this question. Airflow before 3.4 keeps the first question of a task instance,
        also over retries and clears.
    :raises RequiredActionError: Airflow refuses it.
    """
    opened = _call(
        open_required_action,
        ti_id=_uuid(ti_id),
        options=list(question.options),
        subject=question.subject,
        body=question.body,
        defaults=defaults,
        multiple=question.multiple,
        params=question.params,
        assigned_users=assigned_users,
    )
    shown = (opened.subject, opened.body, list(opened.options), dict(opened.params or {}))
    return bool(shown == (question.subject, question.body, list(question.options), question.params))


def read_action(ti_id: UUID | str) -> Response | None:
    """Return what a task instance's required action was answered with; None where it is open. For triggers.

    :raises RequiredActionError: Airflow does not tell: the task instance is another one now, after a clear say.
    """
    detail = _call(read_required_action, ti_id=_uuid(ti_id))
    if not detail.response_received:
        return None
    user = detail.responded_by_user
    name = None if user is None else (user.name or user.id)
    return Response(list(detail.chosen_options or ()), dict(detail.params_input or {}), name)


def close_action(ti_id: UUID | str, why: str) -> bool:
    """Close a required action that needs no answer any more; tell whether it was open. For triggers.

    :param why: What stands in the place of the chosen option.
    """
    try:
        _call(close_required_action, ti_id=_uuid(ti_id), why=why)
    except RequiredActionError:
        return False
    return True


def _uuid(ti_id: UUID | str) -> UUID:
    return ti_id if isinstance(ti_id, UUID) else UUID(ti_id)


def _call(function: Any, **arguments: Any) -> Any:
    try:
        answer = function(**arguments)
    except Exception as error:
        raise RequiredActionError(f"{type(error).__name__}: {error}") from error
    if answer is None or type(answer).__name__ == "ErrorResponse":
        # Some versions return an error where others raise it.
        raise RequiredActionError(f"Airflow answered {answer!r}")
    return answer
