"""Placeholders in workflow definitions: `{text}`, `{sys.user_id}`, `{llm.text}`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_PLACEHOLDER = re.compile(r"\{([A-Za-z_][\w-]*(?:\.[\w-]+)*)\}")


def references(value: Any) -> list[str]:
    """Return the names that a template refers to, in order of appearance."""
    if isinstance(value, str):
        return _PLACEHOLDER.findall(value)
    if isinstance(value, Mapping):
        return [name for item in value.values() for name in references(item)]
    if isinstance(value, (list, tuple)):
        return [name for item in value for name in references(item)]
    return []


def lookup(name: str, scope: Mapping[str, Any]) -> Any:
    """Return the value of a dotted name, None where there is none."""
    if name in scope:
        return scope[name]
    value: Any = scope
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def render(value: Any, scope: Mapping[str, Any]) -> Any:
    """Fill in the placeholders of a template.

    A string that is nothing but one placeholder becomes the value itself, of whatever type; within a longer
    string the value's text is put. Braces that hold no name, as in JSON text, are left alone.
    """
    if isinstance(value, str):
        whole = _PLACEHOLDER.fullmatch(value)
        if whole:
            return lookup(whole[1], scope)
        return _PLACEHOLDER.sub(lambda match: as_text(lookup(match[1], scope)), value)
    if isinstance(value, Mapping):
        return {key: render(item, scope) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [render(item, scope) for item in value]
    return value


def as_text(value: Any) -> str:
    """Return a value as Dify streams it: null as nothing, a list as bullets, an object as indented JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False, indent=2, default=str)
    if isinstance(value, (list, tuple)):
        return "\n".join(f"- {as_text(item)}" for item in value)
    return str(value)
