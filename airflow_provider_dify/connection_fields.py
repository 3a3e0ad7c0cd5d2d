"""The fields of a connection, described once for the forms, the checks and the documentation.

Airflow reads the form while it is being imported itself, so nothing here may import Airflow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_dify.names import API_CONTRACTS, SERVICE_API

SAAS_URL = "https://api.dify.ai"
SAAS_CONSOLE_URL = "https://cloud.dify.ai"
CONNECT_TIMEOUT_SECONDS = 10.0
READ_TIMEOUT_SECONDS = 30.0
MAX_TIMEOUT_SECONDS = 3600.0
MAX_CONNECTIONS = 4
MAX_CONNECTIONS_LIMIT = 100


@dataclass(frozen=True)
class ExtraField:
    """One extra of the connection, as the form shows it and as the error messages name it.

    :param name: Key in the connection's extra.
    :param label: Label in the form.
    :param help: One sentence for the person who fills the form.
    :param schema: JSON schema of the value.
    :param placeholder: Example shown in an empty field.
    """

    name: str
    label: str
    help: str
    schema: Mapping[str, Any]
    placeholder: str = ""


HOST_LABEL = "Base URL"
API_KEY_LABEL = "API key"
STANDARD_LABELS = {"host": HOST_LABEL, "password": API_KEY_LABEL}
STANDARD_PLACEHOLDERS = {
    "host": SAAS_URL,
    "password": "app-… (Dify: API Access)",
    "port": "Leave empty (enter 0 if Test reports 'host or port differs')",
}

EXTRA_FIELDS = (
    ExtraField(
        "api_contract",
        "API contract",
        "service-api is Dify's own API; workflow-runs is the asynchronous API of some gateways before it.",
        {"type": "string", "enum": list(API_CONTRACTS), "default": SERVICE_API},
        SERVICE_API,
    ),
    ExtraField(
        "verify",
        "Verify TLS",
        "true, false, or the path of a CA bundle that signs the server's certificate. Empty means true.",
        # A switch could not hold the path, and the classic form saves one that was not touched as off.
        {"type": ["string", "null"], "examples": ["true", "false"]},
        "true",
    ),
    ExtraField(
        "client_cert",
        "Client certificate",
        "Path of a PEM file with certificate and key, or a JSON list of the two paths.",
        {"type": ["string", "null"]},
        "/etc/ssl/dify-client.pem",
    ),
    ExtraField(
        "proxy",
        "Proxy",
        "URL of an HTTP proxy, such as http://user:password@proxy.example.com:3128. Empty means the proxy variables "
        "of the environment.",
        {"type": ["string", "null"], "format": "password"},
        "http://proxy.example.com:3128",
    ),
    ExtraField(
        "connect_timeout",
        "Connect timeout",
        f"Seconds to wait for a connection. Empty means {CONNECT_TIMEOUT_SECONDS:g}.",
        {"type": ["number", "null"], "minimum": 0, "exclusiveMinimum": 0, "maximum": MAX_TIMEOUT_SECONDS},
        f"{CONNECT_TIMEOUT_SECONDS:g}",
    ),
    ExtraField(
        "read_timeout",
        "Read timeout",
        f"Seconds to wait for an answer, or between two parts of one. Empty means {READ_TIMEOUT_SECONDS:g}.",
        {"type": ["number", "null"], "minimum": 0, "exclusiveMinimum": 0, "maximum": MAX_TIMEOUT_SECONDS},
        f"{READ_TIMEOUT_SECONDS:g}",
    ),
    ExtraField(
        "max_connections",
        "Max concurrent requests per triggerer",
        "Maximum concurrent requests from all deferred tasks in one triggerer. Empty means "
        f"{MAX_CONNECTIONS}; a stock Dify has ten connections for all its clients.",
        {"type": ["integer", "null"], "minimum": 1, "maximum": MAX_CONNECTIONS_LIMIT},
        f"{MAX_CONNECTIONS}",
    ),
    ExtraField(
        "allowed_upload_roots",
        "Allowed upload roots",
        'Folder or URI prefix, or a JSON list of them such as ["/data", "s3://bucket/in"], below which files to upload '
        "must be. Empty means that a DAG may name any file.",
        {"type": ["string", "null"]},
        '["/data", "s3://bucket/in"]',
    ),
    ExtraField(
        "headers",
        "Gateway headers",
        'JSON object of headers that a gateway before Dify expects, such as {"X-Gateway-Token": "…"}; their values '
        "are masked in logs.",
        {"type": ["object", "null"], "additionalProperties": {"type": "string"}},
        '{"X-Gateway-Token": "…"}',
    ),
    ExtraField(
        "console_url",
        "Console URL",
        "Address of Dify's console, for the link of a task. Empty means https://cloud.dify.ai for https://api.dify.ai, "
        "and otherwise the host of the base URL.",
        {"type": ["string", "null"]},
        SAAS_CONSOLE_URL,
    ),
)
EXTRA_NAMES = tuple(extra.name for extra in EXTRA_FIELDS)
_LABELS = {**STANDARD_LABELS, "port": "Port", "schema": "Schema", "extra": "Extra"} | {
    extra.name: extra.label for extra in EXTRA_FIELDS
}


def field_label(name: str) -> str:
    """Return a field as messages name it: the form's label, and the name in a URI or JSON where that differs.

    :param name: The field's name, maybe with a remark after it, such as the variable that its value comes from.
    """
    key, _, remark = name.partition(" ")
    label = _LABELS.get(key, key)
    shown = label if label.lower() == key else f"{label} ({key})"
    return f"{shown} {remark}" if remark else shown
