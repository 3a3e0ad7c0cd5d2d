"""The form by which a paused run asks a human (Dify 1.14 and later; API facts, section 9)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from airflow_provider_dify.api.values import int_or_none, shape_of, text_or_none
from airflow_provider_dify.exceptions import DifyResponseError


@dataclass(frozen=True)
class HumanInputField:
    """A value that the form asks for.

    :param name: The key of the value in the answer's ``inputs``.
    :param type: Dify's name of the type, for example ``paragraph``.
    :param default: What the form's field holds at first; None without a default, or with one out of a variable, which
        is in the form's ``defaults``.
    """

    name: str
    type: str | None = None
    default: Any = None


@dataclass(frozen=True)
class HumanInputAction:
    """One of the decisions that the form offers.

    :param id: What an answer names.
    :param title: What a person reads.
    """

    id: str
    title: str


@dataclass(frozen=True)
class HumanInputForm:
    """A form that waits for an answer.

    :param content: The text of the form, with ``{{#$output.NAME#}}`` where a field stands.
    :param fields: What it asks for; an answer needs each of them.
    :param actions: The decisions of which an answer names one.
    :param defaults: Defaults of fields that come from the workflow's variables, by the fields' names.
    :param expires_at: Unix seconds after which it cannot be answered; None where the server does not tell.
    """

    content: str
    fields: tuple[HumanInputField, ...]
    actions: tuple[HumanInputAction, ...]
    defaults: dict[str, Any] = field(default_factory=dict)
    expires_at: int | None = None


def parse_form(payload: Any) -> HumanInputForm:
    """Read the answer about a form.

    :raises DifyResponseError: It is no form: without it nobody can say what is asked.
    """
    what = "The answer about the human-input form"
    if not isinstance(payload, dict):
        raise DifyResponseError(f"{what} should be a JSON object and is {shape_of(payload)}.")
    content, fields, actions = payload.get("form_content"), payload.get("inputs"), payload.get("user_actions")
    if not isinstance(content, str) or not isinstance(fields, list) or not isinstance(actions, list):
        raise DifyResponseError(f"{what} has no content, inputs and actions; its keys are {sorted(payload)[:12]}.")
    defaults = payload.get("resolved_default_values")
    return HumanInputForm(
        content=content,
        fields=tuple(each for each in map(_field, fields) if each is not None),
        actions=tuple(each for each in map(_action, actions) if each is not None),
        defaults=dict(defaults) if isinstance(defaults, dict) else {},
        expires_at=int_or_none(payload.get("expiration_time")),
    )


def _field(entry: Any) -> HumanInputField | None:
    name = text_or_none(entry.get("output_variable_name")) if isinstance(entry, dict) else None
    if name is None:
        return None
    default = entry.get("default")
    constant = isinstance(default, dict) and default.get("type") == "constant"
    return HumanInputField(name, text_or_none(entry.get("type")), default.get("value") if constant else None)


def _action(entry: Any) -> HumanInputAction | None:
    name = text_or_none(entry.get("id")) if isinstance(entry, dict) else None
    return None if name is None else HumanInputAction(name, text_or_none(entry.get("title")) or name)
