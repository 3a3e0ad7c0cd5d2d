"""What a paused run asks, as one required action of Airflow, and the answer in it as answers to Dify's forms."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_provider_dify.api.checks import plain_text, preview
from airflow_provider_dify.api.human_input import HumanInputField, HumanInputForm, HumanInputRequest
from airflow_provider_dify.api.values import excerpt, shape_of
from airflow_provider_dify.exceptions import DifyInvalidInputError

SUBJECT_CHARS = 200
BODY_CHARS = 16_000
"""Longest body. MySQL keeps 65,535 bytes of it."""
_OPTION_CHARS = 120
_SECRET_CHARS = 8
_SHOWN = 20
_FILES = ("file", "file-list")
_FIELD_PLACE = re.compile(r"\{\{#\$output\.([^#{}]+)#\}\}")
_NUMBERED = re.compile(r"\d+\. ")
_REFUSED = "The answer in Airflow cannot be sent to Dify."
_FILE_HELP = "An http or https URL, the id of an uploaded file, or a path or URI below the task's allowed_upload_roots."


@dataclass(frozen=True)
class AskedForm:
    """A form among those that are asked about.

    :param key: What tells it from the others of its run.
    :param title: The title of its node.
    :param form: The form.
    :param prefix: What options and parameters begin with: the form's number, where there are several forms.
    :param options: The form's actions, by the options that stand for them.
    :param fields: The form's fields, by the parameters that stand for them.
    """

    key: str
    title: str
    prefix: str
    form: HumanInputForm
    options: dict[str, str]
    fields: dict[str, HumanInputField]


@dataclass(frozen=True)
class Question:
    """A required action.

    :param subject: One line of text.
    :param body: Markdown.
    :param options: What can be chosen: one, or with several forms one for each of them.
    :param params: Parameters as Airflow serialises them: ``value``, ``description``, ``schema``.
    :param asked: The forms that it asks about.
    :param multiple: Whether it asks about several forms, for each of which one option is to be chosen.
    """

    subject: str
    body: str
    options: tuple[str, ...]
    params: dict[str, dict[str, Any]]
    asked: tuple[AskedForm, ...]
    multiple: bool = False

    @property
    def keys(self) -> list[str]:
        """What tells the forms from the others of their run."""
        return [each.key for each in self.asked]


@dataclass(frozen=True)
class FormAnswer:
    """An answer to a form, as a person has given it.

    :param asked: The form.
    :param action: The id of the action.
    :param inputs: A value for each field; files are named by texts.
    """

    asked: AskedForm
    action: str
    inputs: dict[str, Any]

    @property
    def action_title(self) -> str:
        """The option that was chosen."""
        return next(option for option, action in self.asked.options.items() if action == self.action)


def key_of(request: HumanInputRequest) -> str:
    """Return what tells a form from the others of its run: its id, or where the server does not say, its title."""
    return request.form_id or request.title


def is_answerable(request: HumanInputRequest) -> bool:
    """Return whether a form can be answered over the API: it has a token, and something to choose."""
    return request.form_token is not None and bool(request.form.actions)


def question_of(requests: Sequence[HumanInputRequest], keys: Sequence[str] = ()) -> Question:
    """Return the required action that asks what forms ask.

    The same forms always give the same question: an answer is read with the question made again.

    :param requests: Forms that can be answered; at least one.
    :param keys: What tells the forms that were asked about from the others of their run, in the order in which they
        were, where some of them may have been answered since; by default those of ``requests``.
    """
    keys = list(keys) or [key_of(request) for request in requests]
    several = len(keys) > 1
    secrets = [request.form_token for request in requests if request.form_token]
    asked = tuple(
        _asked(request, f"{keys.index(key_of(request)) + 1}. " if several else "", secrets) for request in requests
    )
    subject = excerpt(f"Dify asks: {', '.join(each.title for each in asked)}", SUBJECT_CHARS)
    parts = [_body(each, with_title=several) for each in asked]
    if several:
        parts.append("*Choose one option for each of the questions above.*")
    return Question(
        subject=_clean(subject, secrets),
        body=_bounded(_clean("\n\n".join(parts), secrets)),
        options=tuple(option for each in asked for option in each.options),
        params={
            name: _param(field, each.form, each.title if several else None, secrets)
            for each in asked
            for name, field in each.fields.items()
        },
        asked=asked,
        multiple=several,
    )


def read_answer(question: Question, chosen: Any, values: Any) -> list[FormAnswer]:
    """Return the answers to a question's forms.

    What belongs to forms that were answered elsewhere meanwhile, and are no longer among the question's, is passed
    over: Dify takes no second answer.

    :param question: The question.
    :param chosen: The options that were chosen.
    :param values: What was filled in, by the names of the parameters; what is left out has its default.
    :raises DifyInvalidInputError: An option is none of the question's, a form has none or more than one, or a name is
        none of the question's parameters.
    """
    options = [text for each in chosen if (text := plain_text(each)) is not None] if _is_list(chosen) else []
    given = dict(values) if isinstance(values, Mapping) else {}
    strange = [option for option in options if option not in question.options and _is_ours(option, question)]
    faults = [f"The option {preview(option)} is none of the action's." for option in strange[:_SHOWN]]
    unknown = [name for name in given if name not in question.params and _is_ours(name, question)]
    faults += [f"The parameter {preview(name)} is none of the action's." for name in unknown[:_SHOWN]]
    answers = []
    for asked in question.asked:
        mine = {each for each in options if each in asked.options}
        if len(mine) != 1:
            of = f" for {asked.title!r}" if question.multiple else ""
            faults.append(f"One option is to be chosen{of}, and {len(mine) or 'none'} was.")
            continue
        inputs = {}
        for name, field in asked.fields.items():
            value = given.get(name)
            inputs[field.name] = _filled(field, default_of(field, asked.form) if value is None else value)
        answers.append(FormAnswer(asked, asked.options[mine.pop()], _without_none(inputs)))
    if faults:
        raise DifyInvalidInputError(f"{_REFUSED} {' '.join(faults)}")
    return answers


def default_options(question: Question, default_action: str | None) -> list[str] | None:
    """Return the options that stand for a default action; None where a form does not have it.

    :param question: The question.
    :param default_action: The id or the title of an action.
    """
    options = []
    for asked in question.asked:
        titles = {action.id: action.title for action in asked.form.actions}
        names = [o for o, action in asked.options.items() if default_action in (action, titles[action])]
        if not names:
            return None
        options.append(names[0])
    return options


def default_of(field: HumanInputField, form: HumanInputForm) -> Any:
    """Return what a form proposes for a field: None without a proposal, or with one that the field does not take."""
    value = form.defaults.get(field.name, field.default)
    if field.type in _FILES:
        return None
    if field.type == "select":
        return value if isinstance(value, str) and (not field.options or value in field.options) else None
    if field.type == "number":
        return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    return "" if value is None else str(value)


def _asked(request: HumanInputRequest, prefix: str, secrets: Sequence[str]) -> AskedForm:
    title = excerpt(request.title, SUBJECT_CHARS)
    options: dict[str, str] = {}
    for action in request.form.actions:
        name = _clean(excerpt(action.title, _OPTION_CHARS) or action.id, secrets)
        options[_unique(f"{prefix}{title}: {name}" if prefix else name, options, action.id)] = action.id
    fields: dict[str, HumanInputField] = {}
    for field in request.form.fields:
        name = _clean(excerpt(field.name, _OPTION_CHARS), secrets)
        # Airflow keeps such names for itself: "_options" on its page, others where it serialises values.
        name = f"field {name}" if name.startswith("_") else name
        fields[_unique(prefix + name, fields, str(len(fields)))] = field
    return AskedForm(key_of(request), title, prefix, request.form, options, fields)


def _is_ours(name: Any, question: Question) -> bool:
    """Return whether an option or parameter is not that of a form which is no longer among the question's."""
    match = _NUMBERED.match(str(name))
    return not question.multiple or match is None or match[0] in {each.prefix for each in question.asked}


def _unique(name: str, taken: Mapping[str, Any], suffix: str) -> str:
    if name not in taken:
        return name
    name = f"{name} ({excerpt(suffix, _OPTION_CHARS)})"
    while name in taken:
        name += "'"
    return name


def _body(asked: AskedForm, *, with_title: bool) -> str:
    text = _FIELD_PLACE.sub(lambda place: f"`{place[1]}`", asked.form.content).strip() or "*The form has no text.*"
    # Nothing that differs from try to try: Airflow before 3.4 only shows a question again that is the same.
    return f"### {asked.title}\n\n{text}" if with_title else text


def _bounded(text: str) -> str:
    if len(text) <= BODY_CHARS:
        return text
    return text[:BODY_CHARS] + "…\n\n*The text is longer than what Airflow shows here. Dify shows all of it.*"


def _clean(text: str, secrets: Iterable[str]) -> str:
    """Return a text that every database keeps, and that gives no access to a form."""
    for secret in secrets:
        text = text.replace(secret, "***") if len(secret) >= _SECRET_CHARS else text
    text = text.encode("utf-8", "replace").decode("utf-8")
    return "".join(char if char in "\n\t" or char.isprintable() else " " for char in text)


def _param(field: HumanInputField, form: HumanInputForm, title: str | None, secrets: Sequence[str]) -> dict[str, Any]:
    name = _clean(excerpt(field.name, _OPTION_CHARS), secrets)
    value = default_of(field, form)
    schema: dict[str, Any] = {"title": f"{title}: {name}" if title else name}
    description = None
    if field.type == "select" and field.options:
        schema |= {"type": "string", "enum": [_clean(option, secrets) for option in field.options]}
    elif field.type == "number":
        schema |= {"type": "number"}
    elif field.type == "file":
        schema |= {"type": "string"}
        description = _FILE_HELP
    elif field.type == "file-list":
        schema |= {"type": "array", "items": {"type": "string"}}
        description = f"{_FILE_HELP} One a line."
    elif field.type == "paragraph":
        # A form may be sent with an empty text: without null, Airflow's form would ask for one.
        schema |= {"type": ["string", "null"], "format": "multiline"}
    else:
        schema |= {"type": ["string", "null"]}
    value = _clean(value, secrets) if isinstance(value, str) else value
    return {"value": value, "description": description, "schema": schema}


def _filled(field: HumanInputField, value: Any) -> Any:
    """Return a value as a form takes it, out of what Airflow's page or a REST client has sent."""
    if field.type in _FILES:
        texts = [value] if isinstance(value, str) else value
        if not _is_list(texts) or not all(isinstance(each, str) for each in texts):
            if value is None:
                return [] if field.type == "file-list" else None
            raise DifyInvalidInputError(
                f"{_REFUSED} Input {field.name!r} is named by a text, or by a list of texts, and is {shape_of(value)}."
            )
        texts = [text.strip() for each in texts for text in each.splitlines() if text.strip()]
        if field.type == "file-list":
            return texts
        return texts[0] if len(texts) == 1 else texts or None
    if field.type == "select":
        return next((option for option in field.options if _clean(option, ()) == value), value)
    if field.type == "number" or value is None:
        return value
    if isinstance(value, (str, int, float)):
        return str(value)
    raise DifyInvalidInputError(f"{_REFUSED} Input {field.name!r} must be a text and is {shape_of(value)}.")


def _without_none(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if value is not None}


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))
