"""Checks bodies and queries as flask-restx (1.9.1) or pydantic (later versions) do, with their messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_dify.testing.errors import ApiError, invalid_param, rejected_by_restx
from airflow_provider_dify.testing.versions import Version

RESPONSE_MODES = ("blocking", "streaming")
LOG_STATUSES = ("succeeded", "failed", "stopped")
_MAX_PAGE = 99999
_MAX_LIMIT = 100
_SHOWN_CHARACTERS = 50


@dataclass(frozen=True, slots=True)
class _Fault:
    field: str
    text: str
    kind: str
    value: Any

    def render(self, pydantic: str) -> str:
        shown = repr(self.value)
        if len(shown) > _SHOWN_CHARACTERS:
            shown = f"{shown[:25]}...{shown[-24:]}"
        return (
            f"{self.field}\n  {self.text} [type={self.kind}, input_value={shown}, "
            f"input_type={type(self.value).__name__}]\n"
            f"    For further information visit https://errors.pydantic.dev/{pydantic}/v/{self.kind}"
        )


def check_run_body(body: Mapping[str, Any], version: Version) -> tuple[dict[str, Any], str, list[Any]]:
    """Return inputs, response mode and top-level files of a run request.

    :raises ApiError: for a body that the version refuses.
    """
    faults = []
    inputs, mode, files = body.get("inputs"), body.get("response_mode"), body.get("files")
    if "inputs" not in body:
        faults.append(_Fault("inputs", "Field required", "missing", dict(body)))
    elif not isinstance(inputs, dict):
        faults.append(_Fault("inputs", "Input should be a valid dictionary", "dict_type", inputs))
    if files is not None and not isinstance(files, list):
        faults.append(_Fault("files", "Input should be a valid list", "list_type", files))
    if mode is not None and mode not in RESPONSE_MODES:
        faults.append(_literal("response_mode", mode, RESPONSE_MODES))
    if faults:
        raise _refusal(faults, "WorkflowRunPayload", version)
    return dict(inputs or {}), mode or "blocking", list(files or [])


def check_form_body(body: Mapping[str, Any], version: Version) -> tuple[dict[str, Any], str]:
    """Return inputs and action of an answer to a human-input form.

    :raises ApiError: for a body that the version refuses.
    """
    faults = []
    inputs, action = body.get("inputs"), body.get("action")
    if "inputs" not in body:
        faults.append(_Fault("inputs", "Field required", "missing", dict(body)))
    elif not isinstance(inputs, dict):
        faults.append(_Fault("inputs", "Input should be a valid dictionary", "dict_type", inputs))
    if "action" not in body:
        faults.append(_Fault("action", "Field required", "missing", dict(body)))
    elif not isinstance(action, str):
        faults.append(_Fault("action", "Input should be a valid string", "string_type", action))
    if faults:
        raise _refusal(faults, "HumanInputFormSubmitPayload", version)
    return dict(inputs or {}), str(action)


def check_query(query: Mapping[str, str], version: Version) -> tuple[int, int]:
    """Return page and limit of a logs query, after a check of its status.

    :raises ApiError: for parameters that the version refuses.
    """
    faults = []
    status = query.get("status")
    if status and status not in LOG_STATUSES:
        faults.append(_literal("status", status, LOG_STATUSES))
    numbers = {"page": 1, "limit": 20}
    for name, most in (("page", _MAX_PAGE), ("limit", _MAX_LIMIT)):
        if name in query:
            fault = _out_of_range(name, query[name], most)
            if fault:
                faults.append(fault)
            else:
                numbers[name] = int(query[name])
    if faults:
        raise _refusal(faults, "WorkflowLogQuery", version)
    return numbers["page"], numbers["limit"]


def _out_of_range(name: str, text: str, most: int) -> _Fault | None:
    try:
        number = int(text)
    except ValueError:
        wanted = "Input should be a valid integer, unable to parse string as an integer"
        return _Fault(name, wanted, "int_parsing", text)
    if number < 1:
        return _Fault(name, "Input should be greater than or equal to 1", "greater_than_equal", text)
    if number > most:
        return _Fault(name, f"Input should be less than or equal to {most}", "less_than_equal", text)
    return None


def _literal(name: str, value: Any, choices: tuple[str, ...]) -> _Fault:
    listed = ", ".join(repr(choice) for choice in choices[:-1]) + f" or {choices[-1]!r}"
    return _Fault(name, f"Input should be {listed}", "literal_error", value)


def refusal(field: str, text: str, kind: str, value: Any, model: str, version: Version) -> ApiError:
    """Return the 400 for one wrong field of a body, or for a body as a whole where the field is empty."""
    error = _refusal([_Fault(field, text, kind, value)], model, version)
    if not field:
        return invalid_param(str(error.body["message"]).replace("\n\n", "\n"))
    return error


def _refusal(faults: list[_Fault], model: str, version: Version) -> ApiError:
    if version.pydantic is None:
        return rejected_by_restx(faults[0].field, _restx_message(faults[0]))
    head = f"{len(faults)} validation error{'s' if len(faults) > 1 else ''} for {model}"
    return invalid_param("\n".join([head, *(fault.render(version.pydantic) for fault in faults)]))


def _restx_message(fault: _Fault) -> str:
    if fault.kind == "missing":
        return "Missing required parameter in the JSON body"
    if fault.kind == "literal_error":
        return f"The value {fault.value!r} is not a valid choice for {fault.field!r}."
    if fault.kind in ("greater_than_equal", "less_than_equal"):
        most = _MAX_PAGE if fault.field == "page" else _MAX_LIMIT
        return f"Invalid argument: {fault.value}. argument must be within the range 1 - {most}"
    if fault.kind == "int_parsing":
        return f"{fault.value} is not a valid integer"
    return "Must not be null!" if fault.value is None else f"{fault.text}, not {fault.value!r}"
