"""The connection form of both user interfaces, out of the one description of the fields."""

from __future__ import annotations

from typing import Any

from airflow_provider_dify.connection_fields import EXTRA_FIELDS, STANDARD_LABELS, STANDARD_PLACEHOLDERS, ExtraField


def ui_field_behaviour(*, in_extra: bool = True) -> dict[str, Any]:
    """Return which standard fields the form shows, under which labels.

    Provider info shows the port: the Test button of Airflow 3.3.0 to 3.3.2 posts 0 where none is stored, and the
    server then refuses to test (apache/airflow PR 73298); a port that is stored, 0 included, helps. The classic form
    shows the extra: Airflow 2's Test button does nothing where its editor is hidden.

    :param in_extra: Spelling of the keys: with hyphens for provider info (3.2+), with underscores for the
        hook's classic method (2.11 to 3.1).
    """
    placeholders = {**STANDARD_PLACEHOLDERS}
    placeholders |= {extra.name: extra.placeholder for extra in EXTRA_FIELDS if extra.placeholder}
    behaviour = {
        # Dify asks for none of these; scheme and port belong to the base URL, and every extra has a field of its own.
        "hidden-fields": ["schema", "login", "extra" if in_extra else "port"],
        "relabeling": dict(STANDARD_LABELS),
        "placeholders": placeholders,
    }
    return behaviour if in_extra else {name.replace("-", "_"): value for name, value in behaviour.items()}


def conn_fields() -> dict[str, Any]:
    """Return the extra fields for provider info, which the form of Airflow 3.2 and later reads."""
    return {
        extra.name: {"label": extra.label, "description": extra.help, "schema": dict(extra.schema)}
        for extra in EXTRA_FIELDS
    }


def form_widgets() -> dict[str, Any]:
    """Return the extra fields as widgets, which the form of Airflow 2.11 to 3.1 reads."""
    return {extra.name: _widget(extra) for extra in EXTRA_FIELDS}


def _widget(extra: ExtraField) -> Any:
    """Return one field of the classic form.

    Airflow 3.0 and 3.1 render these without the packages, from stand-ins that know just the three kinds of
    field, ``Optional`` and ``any_of``. A number there is a whole one.
    """
    from flask_appbuilder.fieldwidgets import BS3PasswordFieldWidget, BS3TextFieldWidget
    from wtforms import IntegerField, PasswordField, StringField
    from wtforms.validators import Optional, any_of

    schema = extra.schema
    options: dict[str, Any] = {"description": extra.help, "validators": [Optional()], "widget": BS3TextFieldWidget()}
    if "enum" in schema:
        options["validators"].append(any_of(list(schema["enum"])))
        options["description"] += f" One of: {', '.join(schema['enum'])}."
        options["default"] = schema["default"]
    if schema.get("format") == "password":
        return PasswordField(extra.label, **{**options, "widget": BS3PasswordFieldWidget()})
    kind = IntegerField if {"integer", "number"} & set(schema["type"]) else StringField
    return kind(extra.label, **options)
