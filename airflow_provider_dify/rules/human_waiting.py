"""Why a required action is closed without an answer, and who may be asked: decided here, done by trigger and worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from airflow_provider_dify.api.checks import guarded, plain_text
from airflow_provider_dify.api.values import shape_of
from airflow_provider_dify.exceptions import DifyError, DifyInvalidInputError, DifyNotFoundError
from airflow_provider_dify.rules.settings import check_choice, seconds_of

T = TypeVar("T")

WAIT, FAIL, ASK = "wait", "fail", "ask"

ANSWERED_IN_DIFY = "answered in Dify"
EXPIRED_IN_DIFY = "expired in Dify"
GONE_IN_DIFY = "withdrawn in Dify"
RUN_ENDED = "the run has ended"
TASK_ENDED = "the task was ended in Airflow"
DEADLINE_PASSED = "the task's deadline has passed"
TOO_LATE = "not answered in time"
NOT_SHOWN = "to be answered in Dify"

_CLOSED = {"human_input_form_submitted": ANSWERED_IN_DIFY, "human_input_form_expired": EXPIRED_IN_DIFY}


@dataclass(frozen=True)
class Asking:
    """How a paused run's question is asked in Airflow.

    :param users: Who may answer, each with ``id`` and ``name``; empty for everybody who may edit the task.
    :param notifiers: Airflow's notifiers that are called once the action is open.
    :param response_timeout: Seconds for an answer; None for no limit but the task's own.
    :param default_action: Id or title of the action that counts when nobody answers in time; None to fail.
    """

    users: tuple[dict[str, str], ...] = ()
    notifiers: tuple[Any, ...] = ()
    response_timeout: float | None = None
    default_action: str | None = None

    @classmethod
    def checked(
        cls, on_pause: str, users: Any, notifiers: Any, response_timeout: float | timedelta | None, default_action: Any
    ) -> Asking:
        """Return it from what a DAG author has passed.

        :raises DifyInvalidInputError: A value is of another type, or is given without ``on_pause="ask"``.
        """
        given = {
            "assigned_users": users,
            "notifiers": notifiers,
            "response_timeout": response_timeout,
            "default_action": default_action,
        }
        unused = [name for name, value in given.items() if not _is_left_out(value)]
        if unused and on_pause != ASK:
            raise DifyInvalidInputError(f'{unused[0]} needs on_pause="ask", and on_pause is {on_pause!r}.')
        if default_action is not None and not plain_text(default_action):
            raise DifyInvalidInputError(
                f"default_action must be the id or title of one of the form's actions, got {shape_of(default_action)}."
            )
        if default_action is not None and response_timeout is None:
            raise DifyInvalidInputError(
                "default_action needs response_timeout, which says when it takes the place of an answer."
            )
        return cls(
            users=_guarded(users, "assigned_users", _users),
            notifiers=_guarded(notifiers, "notifiers", _notifiers),
            response_timeout=None if response_timeout is None else seconds_of(response_timeout, "response_timeout"),
            default_action=default_action,
        )


def _is_left_out(value: Any) -> bool:
    """Return whether a parameter was not given; a value of another type is never compared, which may raise."""
    return value is None or (type(value) in (tuple, list) and not value)


def check_on_pause(value: Any) -> str:
    """Return what a task does with a paused run.

    :raises DifyInvalidInputError: It is none of ``wait``, ``fail`` and ``ask``.
    """
    return check_choice(value, "on_pause", (WAIT, FAIL, ASK))


def ends_wait(on_pause: str, can_ask: Callable[[], bool]) -> bool:
    """Return whether a paused run ends the wait for it, to fail or to ask.

    :param on_pause: What the task does with a paused run.
    :param can_ask: Tells whether this Airflow has required actions; without, ``ask`` waits.
    """
    return on_pause == FAIL or (on_pause == ASK and can_ask())


def closing_of(error: DifyError) -> str | None:
    """Return why a form takes no answer any more, from the error that came when it was read; None where it may."""
    if isinstance(error, DifyNotFoundError):
        return GONE_IN_DIFY
    return _CLOSED.get(error.code or "")


def _guarded(value: Any, name: str, check: Callable[[Any], T]) -> T:
    with guarded(value, name):
        return check(value)


def _users(value: Any) -> tuple[dict[str, str], ...]:
    users = [value] if isinstance(value, dict) else () if value is None else value
    if not isinstance(users, Sequence) or isinstance(users, str):
        raise DifyInvalidInputError(
            f'assigned_users must be a list of {{"id": …, "name": …}}, as for HITLOperator, got {shape_of(value)}.'
        )
    for number, user in enumerate(users):
        if not isinstance(user, dict) or not all(plain_text(user.get(key)) for key in ("id", "name")):
            raise DifyInvalidInputError(
                f'assigned_users[{number}] must be {{"id": …, "name": …}} with two strings, got {shape_of(user)}.'
            )
    return tuple({"id": str(user["id"]), "name": str(user["name"])} for user in users)


def _notifiers(value: Any) -> tuple[Any, ...]:
    notifiers = [value] if callable(value) else () if value is None else value
    if not isinstance(notifiers, Sequence) or not all(map(callable, notifiers)):
        raise DifyInvalidInputError(f"notifiers must be a notifier or a list of them, got {shape_of(value)}.")
    return tuple(notifiers)
