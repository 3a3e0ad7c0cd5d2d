"""The form by which a paused run asks a human (Dify 1.14 and later; dify-behaviour.md, section 9)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from airflow_provider_dify.api.values import id_or_none, int_or_none, shape_of, text_or_none
from airflow_provider_dify.exceptions import DifyResponseError


@dataclass(frozen=True)
class OptionSource:
    """Where the options of a ``select`` come from.

    :param type: ``constant`` for options that the form itself has; others come out of the workflow's variables.
    :param selector: The path of the variable.
    :param value: The options, as far as the server tells them.
    """

    type: str | None = None
    selector: tuple[str, ...] = ()
    value: tuple[str, ...] = ()


@dataclass(frozen=True)
class HumanInputField:
    """A value that the form asks for.

    :param name: The key of the value in the answer's ``inputs``.
    :param type: Dify's name of the type: ``paragraph``, and from 1.15 on ``select``, ``file`` and ``file-list``.
    :param default: What the form's field holds at first; None without a default, or with one out of a variable, which
        is in the form's ``defaults``.
    :param option_source: What a ``select`` offers; None for other types.
    :param allowed_file_types: What a file may be, for example ``document``; empty where the form does not say.
    :param allowed_file_extensions: Extensions of a file of the type ``custom``; empty where the form does not say.
    :param allowed_file_upload_methods: ``local_file`` and ``remote_url``; empty where the form does not say.
    :param number_limits: Most files of a ``file-list``; None where the form does not say.
    """

    name: str
    type: str | None = None
    default: Any = None
    option_source: OptionSource | None = None
    allowed_file_types: tuple[str, ...] = ()
    allowed_file_extensions: tuple[str, ...] = ()
    allowed_file_upload_methods: tuple[str, ...] = ()
    number_limits: int | None = None

    @property
    def options(self) -> tuple[str, ...]:
        """What a ``select`` may be; empty where it may be anything, or the server does not tell."""
        return self.option_source.value if self.option_source is not None else ()

    @property
    def is_file(self) -> bool:
        """Whether the value is a file; that of a ``file-list`` is a list of them."""
        return self.type == "file"


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


@dataclass(frozen=True)
class HumanInputRequest:
    """What one node of a paused run asks.

    :param title: The node's title.
    :param form: The form, as far as the reason of the pause tells it.
    :param form_token: What ``get_human_input_form`` and ``submit_human_input`` need; None for a form that this API may
        not answer, such as one that is sent by e-mail. Who has it can decide in a human's place: it is in no ``repr``.
    :param approval_channels: Where it is answered, as Dify 1.15 and later tell it; empty before.
    :param form_id: What tells the form from the others of its run, and is no secret; None where the server does not
        say.
    """

    title: str
    form: HumanInputForm
    form_token: str | None = field(default=None, repr=False)
    approval_channels: tuple[str, ...] = ()
    form_id: str | None = None


def parse_request(reason: dict[str, Any]) -> HumanInputRequest | None:
    """Read a reason of a pause, or an event ``human_input_required``; None for one that asks no human."""
    title = text_or_none(reason.get("node_title")) or text_or_none(reason.get("node_id"))
    if title is None:
        return None
    form = _form(text_or_none(reason.get("form_content")) or "", reason, reason.get("actions"))
    token = text_or_none(reason.get("form_token"))
    channels, form_id = _texts(reason.get("approval_channels")), id_or_none(reason.get("form_id"))
    return HumanInputRequest(title, form, token, channels, None if form_id == token else form_id)


def parse_form(payload: Any) -> HumanInputForm:
    """Read the answer about a form.

    :raises DifyResponseError: It is no form: without it nobody can say what is asked.
    """
    what = "The answer about the human-input form"
    if not isinstance(payload, dict):
        raise DifyResponseError(f"{what} should be a JSON object, got {shape_of(payload)}.")
    content, fields, actions = payload.get("form_content"), payload.get("inputs"), payload.get("user_actions")
    if not isinstance(content, str) or not isinstance(fields, list) or not isinstance(actions, list):
        raise DifyResponseError(f"{what} has no content, inputs and actions; its keys are {sorted(payload)[:12]}.")
    return _form(content, payload, actions)


def _form(content: str, payload: dict[str, Any], actions: Any) -> HumanInputForm:
    fields, defaults = payload.get("inputs"), payload.get("resolved_default_values")
    return HumanInputForm(
        content=content,
        fields=tuple(each for each in map(_field, _list(fields)) if each is not None),
        actions=tuple(each for each in map(_action, _list(actions)) if each is not None),
        defaults=dict(defaults) if isinstance(defaults, dict) else {},
        expires_at=int_or_none(payload.get("expiration_time")),
    )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(each for each in _list(value) if isinstance(each, str))


def _field(entry: Any) -> HumanInputField | None:
    name = text_or_none(entry.get("output_variable_name")) if isinstance(entry, dict) else None
    if name is None:
        return None
    default = entry.get("default")
    constant = isinstance(default, dict) and default.get("type") == "constant"
    source = entry.get("option_source")
    return HumanInputField(
        name,
        text_or_none(entry.get("type")),
        default.get("value") if constant else None,
        option_source=_option_source(source) if isinstance(source, dict) else None,
        allowed_file_types=_texts(entry.get("allowed_file_types")),
        allowed_file_extensions=_texts(entry.get("allowed_file_extensions")),
        allowed_file_upload_methods=_texts(entry.get("allowed_file_upload_methods")),
        number_limits=int_or_none(entry.get("number_limits")),
    )


def _option_source(source: dict[str, Any]) -> OptionSource:
    return OptionSource(text_or_none(source.get("type")), _texts(source.get("selector")), _texts(source.get("value")))


def _action(entry: Any) -> HumanInputAction | None:
    name = text_or_none(entry.get("id")) if isinstance(entry, dict) else None
    return None if name is None else HumanInputAction(name, text_or_none(entry.get("title")) or name)
