"""An Airflow connection of the type ``dify``: what its fields must hold."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from airflow_provider_dify.api.redaction import SHORTEST, Redactor, basic_login, redactor_of
from airflow_provider_dify.connection_checks import FieldChecks, console_of, proxy_of_environment
from airflow_provider_dify.connection_fields import (
    CONNECT_TIMEOUT_SECONDS,
    MAX_CONNECTIONS,
    READ_TIMEOUT_SECONDS,
    SAAS_CONSOLE_URL,
    field_label,
)
from airflow_provider_dify.exceptions import DifyConfigurationError, DifyError
from airflow_provider_dify.names import SERVICE_API

CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")

_DATASET_KEY = "dataset-"
_APP_KEY = "app-"
DATASET_KEY_CODE = "dataset_key"
"""Code of the error for a key of the knowledge API where the key of an app is needed."""
_SHORTEST_CREDENTIAL = 8
_CREDENTIAL_NAME = re.compile(r"auth|token|key|secret|cookie|passw|credential|session|signature", re.IGNORECASE)
# A word of letters and digits that nobody would write: at least 16 of them, with both kinds in it.
_CREDENTIAL_VALUE = re.compile(r"(?=\S*[A-Za-z])(?=\S*[0-9])[\w.~+/=-]{16,}")


@dataclass(frozen=True)
class DifyConnection:
    """A checked connection. Its ``repr`` shows no secret.

    :param base_url: Where the API's routes begin, without a slash at the end.
    :param api_key: The app's API key; it selects the app.
    :param api_contract: ``service-api`` or ``workflow-runs``.
    :param verify: Whether certificates are verified; a string is the path of a CA bundle.
    :param client_cert: Paths of the client certificate and, where it is another file, of its key.
    :param proxy: Proxy for every request, from the connection or the environment; None for none.
    :param connect_timeout: Seconds.
    :param read_timeout: Seconds.
    :param max_connections: Requests that the waiting tasks of a triggerer have under way at a time.
    :param allowed_upload_roots: Folders and URI prefixes below which files to upload must be; None for anywhere.
    :param headers: Headers for a gateway.
    :param console_url: Dify's console, without a slash at the end; None where only a gateway is known.
    """

    base_url: str
    api_key: str = field(repr=False)
    api_contract: str = SERVICE_API
    verify: bool | str = True
    client_cert: tuple[str, ...] | None = None
    proxy: str | None = field(default=None, repr=False)
    connect_timeout: float = CONNECT_TIMEOUT_SECONDS
    read_timeout: float = READ_TIMEOUT_SECONDS
    max_connections: int = MAX_CONNECTIONS
    allowed_upload_roots: tuple[str, ...] | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    console_url: str | None = SAAS_CONSOLE_URL

    @cached_property
    def secrets(self) -> tuple[str, ...]:
        """Texts that must never reach a log line or a message.

        A header's value of up to three characters is none: hiding each "1" would only spoil what is reported.
        """
        found = {self.api_key, *self.headers.values(), *self._proxy_secrets}
        hidden = [text for text in found if len(text) >= SHORTEST]
        # The longest first, and those of one length in a fixed order.
        return tuple(sorted(sorted(hidden), key=len, reverse=True))

    @cached_property
    def data_secrets(self) -> tuple[str, ...]:
        """Texts that must not even reach what a workflow puts out.

        Of the headers only those that look like a login or a key: ``X-Env: prod`` must not change what is reported of
        products.
        """
        found = {self.api_key, *self._proxy_secrets}
        for name, value in self.headers.items():
            if _is_credential(name, value):
                found.add(value)
        return tuple(sorted(found))

    @cached_property
    def _proxy_secrets(self) -> tuple[str, ...]:
        parts = urlsplit(self.proxy) if self.proxy else None
        if parts is None or not parts.password:
            return ()
        password = unquote(parts.password)
        return parts.password, password, basic_login(unquote(parts.username or ""), password)

    def redact(self, text: str) -> str:
        """Replace every secret in a text, which a server may have echoed."""
        text = redactor_of(self.secrets).text(text)
        if "…" in text:
            # An excerpt may have been cut in the middle of a secret.
            for secret in self.secrets:
                # What a key begins with tells its kind, and is no secret.
                kind = _DATASET_KEY if secret.startswith(_DATASET_KEY) else _APP_KEY
                for length in range(len(secret) - 1, len(kind), -1):
                    text = text.replace(secret[:length] + "…", "***…")
        return text

    @cached_property
    def data_redactor(self) -> Redactor:
        """What replaces keys and logins in whatever a server has sent."""
        return redactor_of(self.data_secrets)

    def check_app_key(self, conn_id: str) -> None:
        """Refuse a key that cannot be of an app, before anything is sent with it.

        :param conn_id: The connection's id, for the message.
        :raises DifyConfigurationError: It is the key of a knowledge base.
        """
        if self.api_contract == SERVICE_API and self.api_key.startswith(_DATASET_KEY):
            raise DifyConfigurationError(
                f"Connection {conn_id!r}, field {field_label('password')}: is the key of a knowledge base (dataset-…), "
                "which runs no workflow.",
                advice="Put the key of the app (app-…) there; it is in Dify in the app, under API Access.",
                where=f"field {field_label('password')}",
                code=DATASET_KEY_CODE,
            )

    def check_dataset_key(self, conn_id: str) -> None:
        """Refuse a key that cannot be of the knowledge API, before anything is sent with it.

        :param conn_id: The connection's id, for the message.
        :raises DifyConfigurationError: It is the key of an app, or the API contract has no knowledge bases.
        """
        if self.api_contract != SERVICE_API:
            raise DifyConfigurationError(
                f"Connection {conn_id!r}, field {field_label('api_contract')}: {self.api_contract} has no knowledge "
                "bases.",
                advice="Leave it empty, and let the host be Dify's own API.",
                where=f"field {field_label('api_contract')}",
            )
        if self.api_key.startswith(_APP_KEY):
            raise DifyConfigurationError(
                f"Connection {conn_id!r}, field {field_label('password')}: is the key of an app (app-…), which opens "
                "no knowledge base.",
                advice="Put a key of the knowledge API (dataset-…) there; it is in Dify under Knowledge, API Access. "
                "Airflow needs a connection for each of the two keys.",
                where=f"field {field_label('password')}",
            )

    def ca_bundle(self) -> bool | str:
        """Return what certificates are verified against: a path, True for the usual authorities, or False.

        The variables that requests honours count for the triggerer too.
        """
        if self.verify is not True:
            return self.verify
        for name in CA_VARIABLES:
            if path := os.environ.get(name):
                return path
        return True

    @classmethod
    def parse(
        cls,
        *,
        conn_id: str,
        host: str | None,
        schema: str | None,
        port: int | None,
        password: str | None,
        extra: Any,
    ) -> DifyConnection:
        """Check the fields of an Airflow connection.

        Forms send strings: ``"60"``, ``"y"`` and ``"true"`` count as what they stand for, ``""`` and ``"None"``
        as nothing.

        :param conn_id: The connection's id, for the messages.
        :param host: Base URL; empty means ``DIFY_API_BASE_URL``, else ``API_BASE_URL``, else the SaaS.
        :param schema: ``http`` or ``https``, for a host without a scheme; or the path of the base URL, which is where
            Airflow puts that of a connection's URI.
        :param port: Appended to a host without one; 0 counts as none.
        :param password: The app's API key.
        :param extra: The extra as a dict; see ``fields``.
        :raises DifyConfigurationError: A field is missing, unknown or holds what it must not.
        """
        check = FieldChecks(conn_id)
        host, schema, password = check.texts(host=host, schema=schema, password=password)
        # Which field is read, for the message about a value whose own methods raise.
        name, value = "extra", extra
        try:
            values = check.extras(extra)
            name, value = "host", host
            base = check.base_url(host, schema, check.port(port))
            read: dict[str, Any] = {"base_url": urlunsplit(base), "api_key": check.api_key(password)}
            if "proxy" not in values and (proxy := proxy_of_environment(base)):
                values["proxy"] = proxy
            for name, reading in check.readings().items():
                if name in values:
                    value = values[name]
                    read[name] = reading(value)
        except DifyError:
            raise
        except Exception as error:
            raise check.unreadable(name, value, error) from None
        if "console_url" not in read:
            is_dify = read.get("api_contract", SERVICE_API) == SERVICE_API
            read["console_url"] = console_of(base) if is_dify else None
        return cls(**read)


def _is_credential(name: str, value: str) -> bool:
    """Tell whether a header looks like a login or a key, by its name or by its value."""
    if len(value) < _SHORTEST_CREDENTIAL:
        return False
    return bool(_CREDENTIAL_NAME.search(name) or _CREDENTIAL_VALUE.fullmatch(value))
