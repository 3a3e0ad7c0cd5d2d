"""What the fields of a connection must hold: each is read into its value, or refused by its name."""

from __future__ import annotations

import difflib
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import SplitResult, urlsplit, urlunsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

from airflow_provider_dify.api.checks import plain_int, plain_text, preview, unreadable
from airflow_provider_dify.api.values import shape_of
from airflow_provider_dify.connection_fields import (
    EXTRA_NAMES,
    MAX_CONNECTIONS_LIMIT,
    MAX_TIMEOUT_SECONDS,
    SAAS_CONSOLE_URL,
    SAAS_URL,
    field_label,
)
from airflow_provider_dify.exceptions import DifyConfigurationError, DifyInvalidInputError
from airflow_provider_dify.names import API_CONTRACTS, CONN_TYPE
from airflow_provider_dify.rules.settings import check_roots
from airflow_provider_dify.rules.web_addresses import is_host, split_url

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
_KEY = re.compile(r"[!-~]+")
_HEADER_VALUE = re.compile(r"[\t -~]*")
# A scheme without "//", such as "javascript:"; what follows the colon of a host is the number of a port.
_BARE_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?!\d)")
_MAX_PORT = 65535
_MAX_PATH_CHARS = 1000
_MAX_CONN_ID_CHARS = 250
# A path as Airflow cuts it out of a connection's URI; a word with a colon or a blank is none.
_PATH = re.compile(r"[A-Za-z0-9._~%-]+(?:/[A-Za-z0-9._~%-]+)*")
_OTHER_SCHEMES = frozenset({"ftp", "ftps", "sftp", "ssh", "tcp", "ws", "wss", "file", "grpc", "socks5", "s3"})
_NOT_THE_API = frozenset({"cloud.dify.ai", "dify.ai", "www.dify.ai", "docs.dify.ai"})
_ROUTE = re.compile(r"/(?:workflows/run|workflows/logs|info|parameters|chat-messages|completion-messages)/?$")
# What gateways put before the API alone.
_API_PREFIXES = frozenset({"/api", "/api/dify", "/dify-api"})
HOST_VARIABLES = ("DIFY_API_BASE_URL", "API_BASE_URL")
DEFAULT_PATH = "/v1"
_SAAS_HOST = urlsplit(SAAS_URL).hostname
# What forms store for a field that was left empty.
_BLANK = frozenset({"", "None"})
# Airflow 2.11's Test button sends each extra also under the name of its field in the form.
_FORM_NAMES = {f"extra__{CONN_TYPE}__{name}": name for name in EXTRA_NAMES}


class FieldChecks:
    """The rules of the fields; every message names the connection, the field, its shape and the remedy."""

    def __init__(self, conn_id: str) -> None:
        self._conn_id = conn_id

    def _error(self, field_name: str, problem: str, advice: str = "") -> DifyConfigurationError:
        where = f"field {field_label(field_name)}"
        name = preview(self._conn_id, _MAX_CONN_ID_CHARS)
        return DifyConfigurationError(f"Connection {name}, {where}: {problem}", advice=advice, where=where)

    def unreadable(self, field_name: str, value: Any, error: Exception) -> DifyConfigurationError:
        """Return the error about a value that raised one of another kind while it was checked."""
        name = preview(self._conn_id, _MAX_CONN_ID_CHARS)
        place = f"Connection {name}, field {field_label(field_name)}:"
        return DifyConfigurationError(unreadable(error, value, place))

    def readings(self) -> dict[str, Callable[[Any], Any]]:
        """Return what reads the value of each extra, in the order of the form."""
        return {
            "api_contract": self.contract,
            "verify": self.verify,
            "client_cert": self.client_cert,
            "proxy": self.proxy,
            "connect_timeout": partial(self.seconds, "connect_timeout"),
            "read_timeout": partial(self.seconds, "read_timeout"),
            "max_connections": self.max_connections,
            "allowed_upload_roots": self.upload_roots,
            "headers": self.headers,
            "console_url": self.console_url,
        }

    def texts(self, **fields: Any) -> list[str | None]:
        """Return fields that Airflow keeps as text; a connection that is no URI may hold anything there."""
        texts = []
        for name, value in fields.items():
            text = None if value is None else plain_text(value)
            if value is not None and text is None:
                raise self._error(name, f"must be a string, got {shape_of(value)}.", "Put it into quotes.")
            texts.append(text)
        return texts

    def port(self, value: Any) -> int | None:
        """Return the port; None where it is empty."""
        if value is None:
            return None
        number = plain_int(value)
        if number is None or not 0 <= number <= _MAX_PORT:
            shown = shape_of(value) if number is None else preview(number)
            raise self._error("port", f"must be a whole number from 1 to {_MAX_PORT}, or empty, got {shown}.")
        return number

    def extras(self, extra: Any) -> dict[str, Any]:
        """Return the fields of the extra that are set, under the names without the prefix of the form."""
        if not isinstance(extra, Mapping):
            raise self._error("extra", f"must be a JSON object, got {shape_of(extra)}.")
        given: dict[str, Any] = {}
        unknown = []
        for name, value in extra.items():
            if name in EXTRA_NAMES:
                given[name] = value
            elif name in _FORM_NAMES:
                # The name without the prefix goes before, wherever it stands.
                given.setdefault(_FORM_NAMES[name], value)
            elif plain_text(name) is None:
                raise self._error("extra", f"has a name that is {shape_of(name)}: names are texts in quotes.")
            else:
                unknown.append(str(name))
        if unknown:
            first = min(unknown)
            close = difflib.get_close_matches(first[:100], EXTRA_NAMES, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise self._error(
                "extra", f"has the unknown name {preview(first)}.{hint} Known names: {', '.join(EXTRA_NAMES)}."
            )
        return {name: value for name, value in given.items() if value is not None and plain_text(value) not in _BLANK}

    def base_url(self, host: str | None, schema: str | None, port: int | None) -> SplitResult:
        """Return the base URL, out of host, schema and port."""
        field_name, text = "host", (host or "").strip()
        if not text:
            # Scheme and port belong to the host that is blank.
            text, schema, port = SAAS_URL, None, None
            for name in HOST_VARIABLES:
                if found := os.environ.get(name, "").strip():
                    field_name, text = f"host (from {name})", found
                    break
        schema, path = self._schema(schema) if schema else (None, "")
        if "://" not in text:
            text = f"{schema or 'https'}://{text}"
        parts = self._url(text, field_name)
        if parts.port is None and port:
            parts = parts._replace(netloc=f"{parts.netloc.rstrip(':')}:{port}")
        if path:
            if parts.path.strip("/"):
                raise self._error(
                    "schema", "holds a path, and the host has one too.", "Put the whole URL into the host."
                )
            parts = self._url(f"{urlunsplit(parts._replace(path=''))}/{path}", "schema")
        self._no_console(parts, field_name)
        if len(parts.path) > _MAX_PATH_CHARS:
            raise self._error(
                "schema" if path else field_name, f"has a path of more than {_MAX_PATH_CHARS:,} characters: shorten it."
            )
        return parts._replace(path=parts.path.rstrip("/") or DEFAULT_PATH)

    def _schema(self, schema: str) -> tuple[str | None, str]:
        """Return scheme and path out of the field: Airflow puts the path of a connection's URI into it."""
        text = schema.strip().strip("/")
        if text.lower() in ("http", "https", ""):
            return text.lower() or None, ""
        if not _PATH.fullmatch(text) or text.lower() in _OTHER_SCHEMES:
            raise self._error(
                "schema",
                f"must be http, https, empty, or the path of the base URL such as v1, got {shape_of(schema)}.",
            )
        return None, text

    def _no_console(self, parts: SplitResult, field_name: str) -> None:
        """Refuse addresses that are well known not to be the API's."""
        if (parts.hostname or "") in _NOT_THE_API:
            raise self._error(
                field_name,
                f"{parts.hostname} is Dify's web site and not its API.",
                f"The base URL of the cloud is {SAAS_URL}.",
            )
        if _ROUTE.search(parts.path):
            raise self._error(
                field_name, "ends in a route of the API.", "Give the address up to /v1; the routes are appended to it."
            )

    def _url(self, text: str, field_name: str) -> SplitResult:
        """Split a URL that must be http(s) and nothing but scheme, host, port and path."""
        self._solid(text, field_name)
        parts = split_url(text)
        if parts is None:
            raise self._error(field_name, f"is not a URL ({shape_of(text)}).", f"Give one such as {SAAS_URL}.")
        if parts.scheme not in ("http", "https"):
            raise self._error(
                field_name, f"has the scheme {preview(parts.scheme, 20)}: only http and https are possible."
            )
        if "@" in parts.netloc:
            raise self._error(
                field_name, "has user info in it.", f"The API key belongs in the field {field_label('password')}."
            )
        if "?" in text or "#" in text:
            raise self._error(field_name, "has a query or a fragment in it.", "Give the address up to the path only.")
        if not parts.hostname or "\\" in text:
            raise self._error(field_name, "names no host.", "Give an address such as https://dify.example.com.")
        if not is_host(parts):
            raise self._error(
                field_name,
                f"names the host {preview(parts.hostname)}, which no host can be called: a name has letters, digits, "
                "'-', '_' and dots, and at most 63 characters between two dots.",
            )
        return parts

    def _solid(self, text: str, field_name: str) -> None:
        # Of white space, only the blank counts as printable.
        if " " in text or not text.isprintable():
            raise self._error(field_name, "has white space or a control character in it.", "Remove it.")

    def api_key(self, password: str | None) -> str:
        """Return the API key."""
        if not password or not password.strip():
            raise self._error(
                "password",
                "is empty.",
                "Put the app's API key (app-…) there; it is in Dify in the app, under API Access.",
            )
        if not _KEY.fullmatch(password):
            raise self._error(
                "password",
                f"is an API key of {len(password)} characters with a space, a line break or another character "
                "that no key has.",
                "Copy the key alone, without 'Bearer' and without what surrounds it.",
            )
        return password

    def upload_roots(self, value: Any) -> tuple[str, ...] | None:
        """Return the folders and prefixes below which files to upload must be; None for all."""
        if isinstance(value, str):
            value = self._json("allowed_upload_roots", value) if value.strip().startswith("[") else [value.strip()]
        try:
            return check_roots(value)
        except DifyInvalidInputError as error:
            problem = error.message.removeprefix("allowed_upload_roots ")
        raise self._error("allowed_upload_roots", problem)

    def contract(self, value: Any) -> str:
        """Return the name of the API contract."""
        text = plain_text(value)
        if text is None or text not in API_CONTRACTS:
            raise self._error("api_contract", f"must be {' or '.join(API_CONTRACTS)}, got {_shown(value)}.")
        return text

    def verify(self, value: Any) -> bool | str:
        """Return what certificates are verified against."""
        if isinstance(value, bool):
            return value
        if not isinstance(value, str):
            raise self._error("verify", f"must be true, false or the path of a CA bundle, got {shape_of(value)}.")
        word = value.strip().lower()
        if word in _YES | _NO:
            return word in _YES
        return self._file("verify", value.strip(), "CA bundle")

    def client_cert(self, value: Any) -> tuple[str, ...]:
        """Return the paths of a client certificate and its key."""
        if isinstance(value, str) and value.strip().startswith("["):
            value = self._json("client_cert", value)
        paths = [value] if isinstance(value, str) else value
        if not isinstance(paths, list) or len(paths) not in (1, 2) or not all(isinstance(p, str) for p in paths):
            raise self._error(
                "client_cert",
                f"must be the path of a PEM file, or a list of certificate and key path, got {shape_of(value)}.",
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

    def proxy(self, value: Any) -> str:
        """Return the URL of a proxy."""
        parts = split_url(value.strip()) if isinstance(value, str) else None
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
            raise self._error(
                "proxy",
                "must be a URL such as http://proxy.example.com:3128 (http or https; SOCKS is not possible in the "
                f"triggerer), got {shape_of(value)}.",
            )
        self._solid(value.strip(), "proxy")
        if not is_host(parts):
            raise self._error("proxy", f"names a host of {len(parts.hostname)} characters that no host can be called.")
        return urlunsplit(parts)

    def seconds(self, field_name: str, value: Any) -> float:
        """Return a time-out."""
        seconds = _number(value)
        if not 0 < seconds <= MAX_TIMEOUT_SECONDS:
            raise self._error(
                field_name,
                f"must be more than 0 and at most {MAX_TIMEOUT_SECONDS:g} seconds, got {_shown(value)}.",
            )
        return seconds

    def max_connections(self, value: Any) -> int:
        """Return the number of requests at a time."""
        number = _number(value)
        if not (1 <= number <= MAX_CONNECTIONS_LIMIT and number.is_integer()):
            raise self._error(
                "max_connections",
                f"must be a whole number from 1 to {MAX_CONNECTIONS_LIMIT}, got {_shown(value)}.",
            )
        return int(number)

    def headers(self, value: Any) -> dict[str, str]:
        """Return the headers of a gateway."""
        if isinstance(value, str):
            value = self._json("headers", value)
        if not isinstance(value, Mapping):
            raise self._error("headers", f"must be a JSON object of names and values, got {shape_of(value)}.")
        for name, content in value.items():
            if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
                # What follows a colon may be the value.
                shown = name[: name.find(":") + 1] or name if isinstance(name, str) else name
                raise self._error("headers", f"{_shown(shown)} is no header name.")
            if name.lower() in _OWN_HEADERS:
                raise self._error("headers", f"{preview(name)} is set by the provider itself: remove it.")
            if not isinstance(content, str) or content != content.strip() or not _HEADER_VALUE.fullmatch(content):
                raise self._error(
                    "headers",
                    f"the value of {preview(name)} must be a string of printable ASCII without white space around it, "
                    f"got {shape_of(content)}.",
                )
        return dict(value)

    def console_url(self, value: Any) -> str:
        """Return the address of Dify's console."""
        if not isinstance(value, str):
            raise self._error("console_url", f"must be a URL, got {shape_of(value)}.")
        text = value.strip()
        if text and "://" not in text and not _BARE_SCHEME.match(text):
            text = f"https://{text}"
        return urlunsplit(self._url(text, "console_url")).rstrip("/")


def proxy_of_environment(base: SplitResult) -> str | None:
    """Return the proxy that the environment names for a base URL, unchecked; None for none."""
    found = getproxies_environment()
    proxy = found.get(base.scheme) or found.get("all")
    if not proxy or proxy_bypass_environment(base.hostname or "") or proxy_bypass_environment(base.netloc):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def console_of(base: SplitResult) -> str:
    """Return the address of the console that belongs to a base URL of Dify's own API."""
    if base.hostname == _SAAS_HOST:
        return SAAS_CONSOLE_URL
    # A server below a path of a gateway has its console there too; a longer path is of the API alone.
    prefix = base.path.removesuffix(DEFAULT_PATH) if base.path.endswith(DEFAULT_PATH) else ""
    return f"{base.scheme}://{base.netloc}{'' if prefix in _API_PREFIXES else prefix}"


def _number(value: Any) -> float:
    """Return a number, or a text of one, as a float; nan for anything else."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _shown(value: Any) -> str:
    return preview(value) if plain_text(value) is not None else shape_of(value)
