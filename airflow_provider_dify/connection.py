"""An Airflow connection of the type ``dify``: what its fields must hold."""

from __future__ import annotations

import difflib
import ipaddress
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

from airflow_provider_dify.api.checks import guarded, plain_int, plain_text, preview
from airflow_provider_dify.api.redaction import SHORTEST, Redactor, basic_login, redactor_of
from airflow_provider_dify.api.settings import check_roots
from airflow_provider_dify.api.values import shape_of
from airflow_provider_dify.exceptions import DifyConfigurationError, DifyInvalidInputError
from airflow_provider_dify.fields import (
    CONNECT_TIMEOUT_SECONDS,
    EXTRA_NAMES,
    MAX_CONNECTIONS,
    MAX_CONNECTIONS_LIMIT,
    MAX_TIMEOUT_SECONDS,
    READ_TIMEOUT_SECONDS,
    SAAS_CONSOLE_URL,
    SAAS_URL,
)
from airflow_provider_dify.names import API_CONTRACTS, CONN_TYPE, SERVICE_API

HOST_VARIABLES = ("DIFY_API_BASE_URL", "API_BASE_URL")
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
DEFAULT_PATH = "/v1"

_YES = frozenset({"true", "yes", "on", "y", "t", "1"})
_NO = frozenset({"false", "no", "off", "n", "f", "0"})
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OWN_HEADERS = frozenset(
    {
        "authorization",
        "host",
        "content-length",
        "content-type",
        "transfer-encoding",
        "connection",
        "user-agent",
    }
)
_PRINTABLE = re.compile(r"[\x21-\x7e]+")
# A scheme without "//", such as "javascript:"; what follows the colon of a host is the number of a port.
_BARE_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?!\d)")
_MAX_PORT = 65535
_HOST = re.compile(r"[A-Za-z0-9._~-]+")
_MAX_HOST_CHARS = 253
_MAX_LABEL_CHARS = 63
_MAX_PATH_CHARS = 1000
_MAX_CONN_ID_CHARS = 250
# A path as Airflow cuts it out of a connection's URI; a word with a colon or a blank is none.
_PATH = re.compile(r"[A-Za-z0-9._~%-]+(?:/[A-Za-z0-9._~%-]+)*")
_OTHER_SCHEMES = frozenset({"ftp", "ftps", "sftp", "ssh", "tcp", "ws", "wss", "file", "grpc", "socks5", "s3"})
_NOT_THE_API = frozenset({"cloud.dify.ai", "dify.ai", "www.dify.ai", "docs.dify.ai"})
_ROUTE = re.compile(r"/(?:workflows/run|workflows/logs|info|parameters|chat-messages|completion-messages)/?$")
# What gateways put before the API alone.
_API_PREFIXES = frozenset({"/api", "/api/dify", "/dify-api"})
_DATASET_KEY = "dataset-"
_SHORTEST_CREDENTIAL = 8
_CREDENTIAL_NAME = re.compile(r"auth|token|key|secret|cookie|passw|credential|session|signature", re.IGNORECASE)
# A word of letters and digits that nobody would write: at least 16 of them, with both kinds in it.
_CREDENTIAL_VALUE = re.compile(r"(?=\S*[A-Za-z])(?=\S*[0-9])[\w.~+/=-]{16,}")
# What forms store for a field that was left empty.
_BLANK = frozenset({"", "None"})
# Airflow 2.11's Test button sends each extra also under the name of its field in the form.
_FORM_PREFIX = f"extra__{CONN_TYPE}__"


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

    @property
    def secrets(self) -> tuple[str, ...]:
        """Texts that must never reach a log line or a message.

        A header's value of up to three characters is none: hiding each "1" would only spoil what is said.
        """
        found = {self.api_key, *self.headers.values(), *self._proxy_secrets}
        return tuple(sorted((text for text in found if len(text) >= SHORTEST), key=lambda text: (-len(text), text)))

    @property
    def data_secrets(self) -> tuple[str, ...]:
        """Texts that must not even reach what a workflow puts out.

        Of the headers only those that look like a login or a key: ``X-Env: prod`` must not change what is said of
        products.
        """
        headers = (value for name, value in self.headers.items() if _is_credential(name, value))
        return tuple(sorted({self.api_key, *headers, *self._proxy_secrets}))

    @property
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
                for length in range(len(secret) - 1, len("app-"), -1):
                    text = text.replace(secret[:length] + "…", "***…")
        return text

    @property
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
                f"Connection {conn_id!r}, field password: is the key of a knowledge base (dataset-…), which runs no "
                "workflow. Put the key of the app (app-…) there; it is in Dify in the app, under API Access."
            )

    def ca_bundle(self) -> bool | str:
        """Return what certificates are verified against: a path, True for the usual authorities, or False.

        The variables that requests honours count for the triggerer too.
        """
        if self.verify is not True:
            return self.verify
        return next((os.environ[name] for name in CA_VARIABLES if os.environ.get(name)), True)

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
        check = _Check(conn_id)
        host, schema, password = (
            check.text(name, value) for name, value in (("host", host), ("schema", schema), ("password", password))
        )
        with check.guarded("extra", extra):
            values = check.extras(extra)
        base = check.base_url(host, schema, check.port(port))
        api_key = check.api_key(password)
        read: dict[str, Any] = {}
        for name, reading in check.readings(base).items():
            value = values.get(name)
            with check.guarded(name, value):
                read[name] = reading(value)
        if values.get("console_url") is None and read["api_contract"] != SERVICE_API:
            read["console_url"] = None
        return cls(base_url=urlunsplit(base), api_key=api_key, **read)


def _is_credential(name: str, value: str) -> bool:
    """Tell whether a header looks like a login or a key, by its name or by its value."""
    if len(value) < _SHORTEST_CREDENTIAL:
        return False
    return bool(_CREDENTIAL_NAME.search(name) or _CREDENTIAL_VALUE.fullmatch(value))


class _Check:
    """The rules of the fields; every message names the connection, the field, its shape and the remedy."""

    def __init__(self, conn_id: str) -> None:
        self._name = preview(conn_id, _MAX_CONN_ID_CHARS)

    def _error(self, field_name: str, text: str) -> DifyConfigurationError:
        return DifyConfigurationError(f"Connection {self._name}, field {field_name}: {text}")

    def guarded(self, field_name: str, value: Any) -> AbstractContextManager[None]:
        return guarded(value, f"Connection {self._name}, field {field_name}:", DifyConfigurationError)

    def readings(self, base: SplitResult) -> dict[str, Callable[[Any], Any]]:
        """Return how the value of each extra is read; an extra without a value is read as None."""
        return {
            "api_contract": self.contract,
            "verify": self.verify,
            "client_cert": self.client_cert,
            "proxy": partial(self.proxy, base=base),
            "connect_timeout": partial(self.seconds, "connect_timeout", CONNECT_TIMEOUT_SECONDS),
            "read_timeout": partial(self.seconds, "read_timeout", READ_TIMEOUT_SECONDS),
            "max_connections": partial(self.count, "max_connections", MAX_CONNECTIONS, MAX_CONNECTIONS_LIMIT),
            "allowed_upload_roots": self.upload_roots,
            "headers": self.headers,
            "console_url": partial(self.console_url, base=base),
        }

    def text(self, field_name: str, value: Any) -> str | None:
        """Return a field that Airflow keeps as text; a connection that is no URI may hold anything there."""
        text = plain_text(value)
        if value is not None and text is None:
            raise self._error(field_name, f"must be a text and is {shape_of(value)}: put it into quotes.")
        return text

    def port(self, value: Any) -> int | None:
        number = plain_int(value)
        if value is not None and (number is None or not 0 <= number <= _MAX_PORT):
            shown = shape_of(value) if number is None else preview(number)
            raise self._error("port", f"must be a whole number from 1 to {_MAX_PORT}, or empty, and is {shown}.")
        return number

    def extras(self, extra: Any) -> dict[str, Any]:
        if not isinstance(extra, Mapping):
            raise self._error("extra", f"must be a JSON object and is {shape_of(extra)}.")
        extra = _without_form_names(extra)
        for name in extra:
            if plain_text(name) is None:
                raise self._error("extra", f"has a name that is {shape_of(name)}: names are texts in quotes.")
        unknown = sorted(str(name) for name in extra if name not in EXTRA_NAMES)
        if unknown:
            close = difflib.get_close_matches(unknown[0][:100], EXTRA_NAMES, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise self._error(
                "extra", f"has the unknown name {preview(unknown[0])}.{hint} Known names: {', '.join(EXTRA_NAMES)}."
            )
        return {name: value for name, value in extra.items() if value is not None and not _is_blank(value)}

    def base_url(self, host: str | None, schema: str | None, port: int | None) -> SplitResult:
        field_name, text = "host", (host or "").strip()
        if not text:
            named = ((name, os.environ.get(name, "").strip()) for name in HOST_VARIABLES)
            field_name, text = next(((f"host (from {n})", v) for n, v in named if v), ("host", SAAS_URL))
            schema = port = None
        schema, path = self._schema(schema)
        if "://" not in text:
            text = f"{schema or 'https'}://{text}"
        parts = self._url(text, field_name)
        if parts.port is None and port:
            parts = parts._replace(netloc=f"{parts.netloc.rstrip(':')}:{port}")
        if path:
            if parts.path.strip("/"):
                raise self._error("schema", "holds a path, and the host has one too: put the whole URL into the host.")
            parts = self._url(f"{urlunsplit(parts._replace(path=''))}/{path}", "schema")
        self._no_console(parts, field_name)
        if len(parts.path) > _MAX_PATH_CHARS:
            raise self._error(
                "schema" if path else field_name, f"has a path of more than {_MAX_PATH_CHARS:,} characters: shorten it."
            )
        return parts._replace(path=parts.path.rstrip("/") or DEFAULT_PATH)

    def _schema(self, schema: str | None) -> tuple[str | None, str]:
        """Return scheme and path out of the field: Airflow puts the path of a connection's URI into it."""
        text = (schema or "").strip().strip("/")
        if text.lower() in ("http", "https", ""):
            return text.lower() or None, ""
        if not _PATH.fullmatch(text) or text.lower() in _OTHER_SCHEMES:
            raise self._error(
                "schema",
                f"must be http, https, empty, or the path of the base URL such as v1, and is {shape_of(schema)}.",
            )
        return None, text

    def _no_console(self, parts: SplitResult, field_name: str) -> None:
        """Refuse addresses that are well known not to be the API's."""
        if (parts.hostname or "") in _NOT_THE_API:
            raise self._error(
                field_name,
                f"{parts.hostname} is Dify's web site and not its API: the base URL of the cloud is {SAAS_URL}.",
            )
        if _ROUTE.search(parts.path):
            raise self._error(
                field_name, "ends in a route of the API: give the address up to /v1, the routes are appended to it."
            )

    def _url(self, text: str, field_name: str) -> SplitResult:
        """Split a URL that must be http(s) and nothing but scheme, host, port and path."""
        self._solid(text, field_name)
        parts = _split(text)
        if parts is None:
            raise self._error(field_name, f"is no URL ({shape_of(text)}): give one as {SAAS_URL}.")
        if parts.scheme not in ("http", "https"):
            raise self._error(
                field_name, f"has the scheme {preview(parts.scheme, 20)}: only http and https are possible."
            )
        if "@" in parts.netloc:
            raise self._error(field_name, "has user info in it: the API key belongs in the password field.")
        if "?" in text or "#" in text:
            raise self._error(field_name, "has a query or a fragment in it: give the address up to the path only.")
        if not parts.hostname or "\\" in text:
            raise self._error(field_name, "names no host: give an address such as https://dify.example.com.")
        if not _is_host(parts):
            raise self._error(
                field_name,
                f"names the host {preview(parts.hostname)}, which no host can be called: a name has letters, digits, "
                "'-', '_' and dots, and at most 63 characters between two dots.",
            )
        return parts

    def _solid(self, text: str, field_name: str) -> None:
        if any(char.isspace() or not char.isprintable() for char in text):
            raise self._error(field_name, "has white space or a control character in it: remove it.")

    def api_key(self, password: str | None) -> str:
        if not password or not password.strip():
            raise self._error("password", "is empty: put the app's API key (app-…) there.")
        if not _PRINTABLE.fullmatch(password):
            raise self._error(
                "password",
                f"is an API key of {len(password)} characters with a space, a line break or another character "
                "that no key has: copy the key alone, without 'Bearer' and without what surrounds it.",
            )
        return password

    def upload_roots(self, value: Any) -> tuple[str, ...] | None:
        if isinstance(value, str):
            value = self._json("allowed_upload_roots", value) if value.strip().startswith("[") else [value.strip()]
        try:
            return check_roots(value)
        except DifyInvalidInputError as error:
            problem = error.message.removeprefix("allowed_upload_roots ")
        raise self._error("allowed_upload_roots", problem)

    def contract(self, value: Any) -> str:
        if value is None:
            return SERVICE_API
        text = plain_text(value)
        if text is None or text not in API_CONTRACTS:
            raise self._error("api_contract", f"must be {' or '.join(API_CONTRACTS)} and is {_shown(value)}.")
        return text

    def verify(self, value: Any) -> bool | str:
        if value is None:
            return True
        if isinstance(value, bool):
            return value
        if not isinstance(value, str):
            raise self._error("verify", f"must be true, false or the path of a CA bundle and is {shape_of(value)}.")
        word = value.strip().lower()
        if word in _YES | _NO:
            return word in _YES
        return self._file("verify", value.strip(), "CA bundle")

    def client_cert(self, value: Any) -> tuple[str, ...] | None:
        if value is None:
            return None
        if isinstance(value, str) and value.strip().startswith("["):
            value = self._json("client_cert", value)
        paths = [value] if isinstance(value, str) else value
        if not isinstance(paths, list) or len(paths) not in (1, 2) or not all(isinstance(p, str) for p in paths):
            raise self._error(
                "client_cert",
                f"must be the path of a PEM file, or a list of certificate and key path, and is {shape_of(value)}.",
            )
        return tuple(self._file("client_cert", path.strip(), "certificate or key") for path in paths)

    def _file(self, field_name: str, path: str, what: str) -> str:
        if not os.path.exists(path):
            raise self._error(
                field_name,
                f"there is no {what} at {preview(path, 300)} on this machine; worker and triggerer both need the file.",
            )
        return path

    def _json(self, field_name: str, text: str) -> Any:
        with suppress(ValueError, RecursionError):
            return json.loads(text)
        raise self._error(field_name, f"is a string of {len(text)} characters that is no JSON.")

    def proxy(self, value: Any, base: SplitResult) -> str | None:
        if value is None:
            host = base.hostname or ""
            if proxy_bypass_environment(host) or proxy_bypass_environment(base.netloc):
                return None
            found = getproxies_environment()
            value = found.get(base.scheme) or found.get("all")
            if not value:
                return None
            if "://" not in value:
                value = f"http://{value}"
        parts = _split(value.strip()) if isinstance(value, str) else None
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
            raise self._error(
                "proxy",
                "must be a URL such as http://proxy.example.com:3128 (http or https; SOCKS is not possible in the "
                f"triggerer) and is {shape_of(value)}.",
            )
        self._solid(value.strip(), "proxy")
        if not _is_host(parts):
            raise self._error("proxy", f"names a host of {len(parts.hostname)} characters that no host can be called.")
        return urlunsplit(parts)

    def seconds(self, field_name: str, default: float, value: Any) -> float:
        if value is None:
            return default
        try:
            seconds = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            seconds = math.nan
        if not 0 < seconds <= MAX_TIMEOUT_SECONDS:
            raise self._error(
                field_name,
                f"must be more than 0 and at most {MAX_TIMEOUT_SECONDS:g} seconds and is {_shown(value)}.",
            )
        return seconds

    def count(self, field_name: str, default: int, most: int, value: Any) -> int:
        if value is None:
            return default
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not (1 <= number <= most and number.is_integer()):
            raise self._error(field_name, f"must be a whole number from 1 to {most} and is {_shown(value)}.")
        return int(number)

    def headers(self, value: Any) -> dict[str, str]:
        if value is None:
            return {}
        if isinstance(value, str):
            value = self._json("headers", value)
        if not isinstance(value, Mapping):
            raise self._error("headers", f"must be a JSON object of names and values and is {shape_of(value)}.")
        for name, content in value.items():
            if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
                # What follows a colon may be the value.
                shown = name[: name.find(":") + 1] or name if isinstance(name, str) else name
                raise self._error("headers", f"{_shown(shown)} is no header name.")
            if name.lower() in _OWN_HEADERS:
                raise self._error("headers", f"{preview(name)} is set by the provider itself: remove it.")
            if not isinstance(content, str) or content != content.strip() or not _is_header_value(content):
                raise self._error(
                    "headers",
                    f"the value of {preview(name)} must be a string of printable ASCII without white space around it "
                    f"and is {shape_of(content)}.",
                )
        return dict(value)

    def console_url(self, value: Any, base: SplitResult) -> str | None:
        if value is None:
            if base.hostname == urlsplit(SAAS_URL).hostname:
                return SAAS_CONSOLE_URL
            # A server below a path of a gateway has its console there too; a longer path is of the API alone.
            prefix = base.path.removesuffix(DEFAULT_PATH) if base.path.endswith(DEFAULT_PATH) else ""
            return f"{base.scheme}://{base.netloc}{'' if prefix in _API_PREFIXES else prefix}"
        if not isinstance(value, str):
            raise self._error("console_url", f"must be a URL and is {shape_of(value)}.")
        text = value.strip()
        if text and "://" not in text and not _BARE_SCHEME.match(text):
            text = f"https://{text}"
        return urlunsplit(self._url(text, "console_url")).rstrip("/")


def _is_blank(value: Any) -> bool:
    return plain_text(value) in _BLANK


def _without_form_names(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Give what a form sends under its field's name the name of the extra, unless that is there as well."""
    fields = {f"{_FORM_PREFIX}{name}": name for name in EXTRA_NAMES}
    plain = {name: value for name, value in extra.items() if name not in fields}
    return {fields[name]: value for name, value in extra.items() if name in fields} | plain


def _is_header_value(text: str) -> bool:
    return all(char == "\t" or " " <= char <= "~" for char in text)


def _is_host(parts: SplitResult) -> bool:
    """Tell whether a URL's host is one that both HTTP clients, and name servers, can be asked for."""
    host = parts.hostname or ""
    if parts.netloc.rpartition("@")[2].startswith("["):
        address, _, zone = host.partition("%")
        with suppress(ValueError):
            return ipaddress.ip_address(address).version == 6 and (not zone or bool(_HOST.fullmatch(zone)))
        return False
    if not host.isascii():
        # As the HTTP clients encode it, which need the package themselves.
        import idna

        with suppress(UnicodeError):
            return len(idna.encode(host.lower(), strict=True, std3_rules=True)) <= _MAX_HOST_CHARS
        return False
    labels = host.removesuffix(".").split(".")
    return (
        bool(_HOST.fullmatch(host))
        and len(host) <= _MAX_HOST_CHARS
        and all(0 < len(each) <= _MAX_LABEL_CHARS for each in labels)
    )


def _split(text: str) -> SplitResult | None:
    """Return the parts of a URL, None for what is no URL; Python's own error would quote it, secrets included."""
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 - reading it is what checks it
    except ValueError:
        return None
    return parts


def _shown(value: Any) -> str:
    return preview(value) if plain_text(value) is not None else shape_of(value)
