"""The connection form of both user interfaces, out of the one description of the fields."""

from __future__ import annotations

import json
from typing import Any

from airflow_provider_dify.fields import EXTRA_FIELDS, SAAS_URL

_API_KEY_LABEL = "API key"
_HOST_LABEL = "Base URL"


def ui_field_behaviour(*, in_extra: bool = True) -> dict[str, Any]:
    """Return which standard fields the form shows, under which labels.

    :param in_extra: Spelling of the keys: with hyphens for provider info (3.2+), with underscores for the
        hook's classic method (2.11 to 3.1).
    """
    placeholders = {"host": SAAS_URL, "password": "app-…"}
    placeholders |= {extra.name: extra.placeholder for extra in EXTRA_FIELDS if extra.placeholder}
    behaviour = {
        "hidden-fields": ["schema", "login", "port", "extra"],
        "relabeling": {"host": _HOST_LABEL, "password": _API_KEY_LABEL},
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
    from flask_appbuilder.fieldwidgets import BS3PasswordFieldWidget, BS3TextFieldWidget
    from wtforms import PasswordField, StringField

    widgets: dict[str, Any] = {}
    for extra in EXTRA_FIELDS:
        secret = extra.schema.get("format") == "password"
        kind, widget = (PasswordField, BS3PasswordFieldWidget()) if secret else (StringField, BS3TextFieldWidget())
        choices = extra.schema.get("enum")
        text = extra.help + (f" One of {json.dumps(choices)}." if choices else "")
        widgets[extra.name] = kind(extra.label, description=text, widget=widget)
    return widgets
