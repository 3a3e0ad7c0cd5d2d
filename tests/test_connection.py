"""What the fields of a connection may hold: each good form, and each bad one with a message that helps."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_provider_dify.connection import DifyConnection
from airflow_provider_dify.connection_fields import EXTRA_NAMES, field_label
from airflow_provider_dify.exceptions import DifyConfigurationError
from airflow_provider_dify.hooks.dify import DifyHook
from tests.hooks.support import KEY, clean_environment, texts_of

__all__ = ["clean_environment"]

HOST = "https://dify.example.com"
SECRET = "gateway-S3cret"


def parse(**fields: Any) -> DifyConnection:
    """Parse a connection of which only the given fields differ from a good one."""
    good = {"conn_id": "dify_test", "host": HOST, "schema": None, "port": None, "password": KEY, "extra": {}}
    return DifyConnection.parse(**{**good, **fields})


def refusal(**fields: Any) -> str:
    """Return the message with which a connection is refused; whatever else it could print is free of secrets."""
    with pytest.raises(DifyConfigurationError) as caught:
        parse(**fields)
    printed = texts_of(caught.value)
    assert KEY not in printed
    assert SECRET not in printed
    message = caught.value.message
    assert message.startswith("Connection 'dify_test', field ")
    assert len(message) < 500
    return message


def labelled(text: str) -> str:
    """Return the beginning of a message with the label that the form has for its field."""
    name, colon, rest = text.removeprefix("field ").partition(": ")
    return f"field {field_label(name)}: {rest}" if colon and name in ("host", "extra", *EXTRA_NAMES) else text


def test_a_message_names_a_field_as_the_form_does() -> None:
    assert refusal(password="").startswith("Connection 'dify_test', field API key (password): ")
    assert refusal(host="ftp://a").startswith("Connection 'dify_test', field Base URL (host): ")
    assert refusal(extra={"max_connections": 0}).startswith(
        "Connection 'dify_test', field Max concurrent requests per triggerer (max_connections): "
    )
    assert refusal(port=-1).startswith("Connection 'dify_test', field Port: ")


def test_a_connection_with_nothing_but_a_key() -> None:
    defaults = {"api_contract": "service-api", "verify": True, "client_cert": None, "proxy": None, "headers": {}}
    times = {"connect_timeout": 10.0, "read_timeout": 30.0}
    addresses = {"base_url": "https://api.dify.ai/v1", "console_url": "https://cloud.dify.ai"}
    assert asdict(parse(host=None, schema="", port=0)) == {
        "api_key": KEY,
        "max_connections": 4,
        "allowed_upload_roots": None,
        **defaults,
        **times,
        **addresses,
    }


@pytest.mark.parametrize(
    ("host", "schema", "port", "expected"),
    [
        ("dify.example.com", "", 0, "https://dify.example.com/v1"),
        (" dify.example.com\n", " HTTP ", None, "http://dify.example.com/v1"),
        ("dify.example.com", "http", 5001, "http://dify.example.com:5001/v1"),
        ("dify.example.com:5001", None, 5002, "https://dify.example.com:5001/v1"),
        ("dify.example.com:", None, 5002, "https://dify.example.com:5002/v1"),
        ("dify.example.com/api/v1", None, 5001, "https://dify.example.com:5001/api/v1"),
        ("http://dify.example.com", "https", None, "http://dify.example.com/v1"),
        ("HTTPS://dify.example.com/v1///", None, None, "https://dify.example.com/v1"),
        ("https://dify.example.com/a%20b/api/", None, None, "https://dify.example.com/a%20b/api"),
        ("https://dify.example.com:8443/api/", None, 1, "https://dify.example.com:8443/api"),
        ("[::1]", "http", 5001, "http://[::1]:5001/v1"),
        ("[2001:db8::7]:5001", None, None, "https://[2001:db8::7]:5001/v1"),
        ("http://[::1]:5001/api", None, 6001, "http://[::1]:5001/api"),
        ("dify.müller.example", None, None, "https://dify.müller.example/v1"),
    ],
)
def test_the_base_url(host: str, schema: str | None, port: int | None, expected: str) -> None:
    assert parse(host=host, schema=schema, port=port).base_url == expected


@pytest.mark.parametrize(
    ("uri", "base_url"),
    [
        ("dify://:{key}@host:5001/v1", "https://host:5001/v1"),
        ("dify://:{key}@host/v1/", "https://host/v1"),
        ("dify://:{key}@host", "https://host/v1"),
        ("dify://:{key}@host/tools/dify/v1?read_timeout=60", "https://host/tools/dify/v1"),
        ("dify://:{key}@host:5001/http", "http://host:5001/v1"),
        ("dify://http://:{key}@host:5001/v1", "http://host:5001/v1"),
        ("dify://https://:{key}@host/tools/dify/v1", "https://host/tools/dify/v1"),
        ("dify://:{key}@https%3A%2F%2Fhost%2Fv1", "https://host/v1"),
        ("dify://:{key}@http%3A%2F%2Fhost%3A5001%2Fv1?verify=false", "http://host:5001/v1"),
        ("dify://:{key}@", "https://api.dify.ai/v1"),
        ("dify://:{key}@/v1", "https://api.dify.ai/v1"),
    ],
)
def test_a_connection_as_a_uri_of_the_environment(monkeypatch: pytest.MonkeyPatch, uri: str, base_url: str) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_DIFY_DEFAULT", uri.format(key=KEY))
    connection = DifyHook().connection
    assert connection.base_url == base_url
    assert connection.api_key == KEY


@pytest.mark.parametrize(
    ("host", "console"),
    [
        ("https://host/tools/dify/v1", "https://host/tools/dify"),
        ("https://host/v1", "https://host"),
        ("https://host/api/v1", "https://host"),
        ("https://host/tools", "https://host"),
        ("https://api.dify.ai/v1", "https://cloud.dify.ai"),
    ],
)
def test_the_console_is_below_the_same_path(host: str, console: str) -> None:
    assert parse(host=host).console_url == console


def test_a_path_in_host_and_schema_is_refused() -> None:
    assert "holds a path, and the host has one too" in refusal(host="https://a.com/v1", schema="tools")


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("https://cloud.dify.ai", "cloud.dify.ai is Dify's web site and not its API. The base URL of the cloud is"),
        ("cloud.dify.ai/app/x/workflow", "https://api.dify.ai"),
        ("https://dify.ai/v1", "https://api.dify.ai"),
        ("https://api.dify.ai/v1/workflows/run", "ends in a route of the API"),
        ("https://dify.example.com/v1/info/", "ends in a route of the API"),
    ],
)
def test_an_address_that_is_well_known_not_to_be_the_api(host: str, text: str) -> None:
    assert labelled(text) in refusal(host=host)


def test_the_key_of_a_knowledge_base_is_refused_for_an_app(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_DIFY_DEFAULT", json.dumps({"conn_type": "dify", "password": "dataset-S3cret"}))
    with pytest.raises(DifyConfigurationError, match=r"key of a knowledge base \(dataset-…\).*\n.*\(app-…\)") as caught:
        _ = DifyHook().connection
    assert "S3cret" not in texts_of(caught.value)
    # The Test button asks the server what such a key opens. Other hooks may use one, and a gateway's keys are its own.
    assert parse(password="dataset-S3cret").api_key == "dataset-S3cret"
    parse(password="dataset-S3cret", extra={"api_contract": "workflow-runs"}).check_app_key("dify_test")


@pytest.mark.parametrize("host", [None, "", " \t"])
@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "https://api.dify.ai/v1"),
        ({"DIFY_API_BASE_URL": "http://one:1/api/", "API_BASE_URL": "http://two:2"}, "http://one:1/api"),
        ({"DIFY_API_BASE_URL": " ", "API_BASE_URL": "http://two:2"}, "http://two:2/v1"),
        ({"API_BASE_URL": " two.example.com \n"}, "https://two.example.com/v1"),
    ],
)
def test_a_blank_host_is_taken_from_the_environment_or_is_the_saas(
    monkeypatch: pytest.MonkeyPatch, host: str | None, environment: dict[str, str], expected: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    # Scheme and port belong to the host that is blank.
    assert parse(host=host, schema="http", port=9).base_url == expected
    assert parse(host=HOST).base_url == f"{HOST}/v1"


def test_a_bad_host_of_the_environment_is_named_after_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_BASE_URL", "ftp://one")
    assert "field Base URL (host) (from API_BASE_URL): has the scheme 'ftp'" in refusal(host="")


BAD_HOSTS: dict[str, list[str]] = {
    "host: has a query or a fragment in it. Give the address up to the path ": ["a.com/v1?a=b", "a.com?", "a.com#"],
    "host: has user info in it. The API key belongs in the field API key (password).": [
        f"https://{KEY}@a.com",
        f"me:{SECRET}@a.com",
    ],
    "host: has the scheme 'ftp': only http and https are possible.": ["ftp://a.com"],
    "host: names no host. Give an address such as https://": ["https://", "/v1", "https://:5001/v1", "a.com\\v1"],
    "host: has white space or a control character in it. Remove": ["a.com /", "a\n.com", "a\x00.com", "a\ud800.com"],
    "host: is not a URL (str of length ": ["https://a.com:65536", "a.com:x", "https://[::1", f"https://a.com:{KEY}"],
    "field host: ": ["::1", "a:b:c", "//a.com", f"https://me:{SECRET}/x@a.com"],
}


@pytest.mark.parametrize(("host", "text"), [(host, text) for text, many in BAD_HOSTS.items() for host in many])
def test_a_host_that_is_refused(host: str, text: str) -> None:
    assert labelled(text) in refusal(host=host)


@pytest.mark.parametrize(("name", "value"), [("port", -1), ("port", 65536), ("schema", "ftp"), ("schema", "https://")])
def test_a_port_or_a_schema_that_is_refused(name: str, value: Any) -> None:
    must = "must be http, https, empty, or the path of the base URL such as v1, got str of length "
    must = f"{must}{len(value)}." if name == "schema" else ""
    assert f"field {field_label(name)}: {must}" in refusal(**{name: value})


@pytest.mark.parametrize("port", [-1, 65536, 10**9])
def test_the_message_about_a_port_is_about_the_port(port: int) -> None:
    assert refusal(port=port).endswith(f"field Port: must be a whole number from 1 to 65535, or empty, got {port}.")


@pytest.mark.parametrize("key", [None, "", " ", "\n"])
def test_a_connection_without_a_key(key: str | None) -> None:
    assert "field API key (password): is empty. Put the app's API key (app-…) there;" in refusal(password=key)


@pytest.mark.parametrize("shape", [" {}", "{}\n", "Bearer {}", "{} {}", "{}\x00", "„{}”", "{}\ud800"])
def test_a_key_with_what_no_key_has(shape: str) -> None:
    key = shape.replace("{}", KEY)
    message = refusal(password=key)
    assert (
        f"field API key (password): is an API key of {len(key)} characters with a space, a line break or another"
        in message
    )
    assert "Copy the key alone" in message


@pytest.fixture
def pem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the files that the connections of these tests name, in the working directory."""
    for name in ("ca.pem", "one.pem", "two.pem"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)


GOOD_EXTRAS: list[tuple[str, Any, Any]] = [
    ("api_contract", "service-api", "service-api"),
    ("api_contract", "workflow-runs", "workflow-runs"),
    *[("verify", word, True) for word in (True, "true", "True", " YES ", "on", "y", "t", "1")],
    *[("verify", word, False) for word in (False, "false", "False", " no", "OFF", "n", "f", "0")],
    ("verify", "ca.pem", "ca.pem"),
    ("verify", " ca.pem ", "ca.pem"),
    ("client_cert", "one.pem", ("one.pem",)),
    ("client_cert", ["one.pem"], ("one.pem",)),
    ("client_cert", ["one.pem", " two.pem "], ("one.pem", "two.pem")),
    ("client_cert", ' ["one.pem", "two.pem"]', ("one.pem", "two.pem")),
    ("proxy", "http://proxy.example.com:3128", "http://proxy.example.com:3128"),
    ("proxy", " https://me:it@proxy.example.com ", "https://me:it@proxy.example.com"),
    *[(name, value, 2.5) for name in ("connect_timeout", "read_timeout") for value in (2.5, "2.5", " 2.5\n")],
    *[(name, value, 3600.0) for name in ("connect_timeout", "read_timeout") for value in (3600, "3600", "3.6e3")],
    *[("max_connections", value, 9) for value in (9, 9.0, "9", " 9 ")],
    ("max_connections", 100, 100),
    ("allowed_upload_roots", " /data ", ("/data",)),
    ("allowed_upload_roots", '["/data", "s3://bucket/in"]', ("/data", "s3://bucket/in")),
    ("allowed_upload_roots", ["~/in"], ("~/in",)),
    ("allowed_upload_roots", [], ()),
    ("headers", {}, {}),
    ("headers", {"X-Token": SECRET, "cookie": "a=b; c=d"}, {"X-Token": SECRET, "cookie": "a=b; c=d"}),
    ("headers", '{"X-Token": "a\\tb"}', {"X-Token": "a\tb"}),
    ("headers", {"X-Empty": ""}, {"X-Empty": ""}),
    ("console_url", "https://console.example.com/", "https://console.example.com"),
    ("console_url", " http://console.example.com:3000/dify// ", "http://console.example.com:3000/dify"),
    ("console_url", "console.example.com", "https://console.example.com"),
    ("console_url", " localhost:3000/ ", "https://localhost:3000"),
]


@pytest.mark.usefixtures("pem")
@pytest.mark.parametrize(("name", "value", "expected"), GOOD_EXTRAS)
def test_an_extra_that_is_accepted(name: str, value: Any, expected: Any) -> None:
    assert getattr(parse(extra={name: value}), name) == expected


def test_the_good_extras_are_all_extras() -> None:
    assert {name for name, _, _ in GOOD_EXTRAS} == set(EXTRA_NAMES)


@pytest.mark.parametrize("nothing", [None, "", "None"])
def test_an_extra_that_the_form_left_empty_has_its_default(nothing: str | None) -> None:
    assert parse(extra=dict.fromkeys(EXTRA_NAMES, nothing)) == parse()


def test_the_extras_of_the_classic_forms_test_button() -> None:
    """It sends strings, each under two names, and leaves empty fields out."""
    values = {"api_contract": "service-api", "verify": "y", "connect_timeout": "60", "read_timeout": "None"}
    extra = {f"extra__dify__{name}": value for name, value in values.items()} | values
    for sent in (extra, {name: value for name, value in extra.items() if name.startswith("extra__")}):
        connection = parse(extra=sent)
        assert (connection.verify, connection.connect_timeout, connection.read_timeout) == (True, 60.0, 30.0)
    assert parse(extra={"extra__dify__verify": "true", "verify": "false"}).verify is False


@pytest.mark.usefixtures("pem")
@pytest.mark.parametrize("form", ["uri", "json"])
def test_the_connection_as_airflow_reads_it(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    extra = {"verify": "off", "read_timeout": "45", "client_cert": '["one.pem"]', "headers": f'{{"X-T": "{SECRET}"}}'}
    if form == "uri":
        text = f"dify://:{KEY}@dify.example.com:5001/http?{urlencode(extra)}"
    else:
        host = {"host": "dify.example.com", "port": 5001, "schema": "http"}
        text = json.dumps({"conn_type": "dify", "password": KEY, **host, "extra": json.dumps(extra)})
    monkeypatch.setenv("AIRFLOW_CONN_DIFY_TEST", text)
    connection = DifyHook("dify_test").connection
    assert connection.base_url == "http://dify.example.com:5001/v1"
    assert connection.api_key == KEY
    assert (connection.verify, connection.read_timeout) == (False, 45.0)
    assert connection.client_cert == ("one.pem",)
    assert connection.headers == {"X-T": SECRET}


def header(name: Any, value: Any = SECRET) -> dict[str, Any]:
    return {"headers": {name: value}}


NUMBERS = [0, -1, 3600.1, "0", "-0.5", "soon", "10 s", "nan", "inf", "9" * 5000, math.nan, math.inf, 10**400, True, [1]]
BAD_EXTRAS: dict[str, list[Any]] = {
    "extra: must be a JSON object, got null.": [None],
    "extra: must be a JSON object, got list of length 1.": [[SECRET]],
    "extra: must be a JSON object, got str of length 14.": [SECRET],
    "extra: has the unknown name 'verfy'. Did you mean 'verify'? Known names: api_contract,": [{"verfy": SECRET}],
    "extra: has the unknown name '": [{"": SECRET}, {"extra__dify__prxy": ""}, {"VERIFY": True}],
    "api_contract: must be service-api or workflow-runs, got 'v1'.": [{"api_contract": "v1"}],
    "api_contract: must be service-api or workflow-runs, got list of": [{"api_contract": ["service-api"]}],
    "verify: must be true, false or the path of a CA bundle, got int.": [{"verify": 1}],
    "verify: must be true, false or the path of a CA bundle, got list of length 1.": [{"verify": ["ca.pem"]}],
    "verify: there is no CA bundle at 'no.pem' on this machine; worker and triggerer both": [{"verify": "no.pem"}],
    "verify: there is no CA bundle at ": [{"verify": " "}, {"verify": "\x00"}, {"verify": "\ud800"}],
    "client_cert: must be the path of a PEM file, or a list of certificate and key path, got ": [
        {"client_cert": value} for value in (True, 7, {}, [], "[]", ["one.pem"] * 3, ["one.pem", 7])
    ],
    "client_cert: is a string of 11 characters that is no JSON.": [{"client_cert": "['one.pem']"}],
    "client_cert: there is no certificate or key at 'no.pem' on this machine": [{"client_cert": ["one.pem", "no.pem"]}],
    "proxy: must be a URL such as http://proxy.example.com:3128 (http or https; SOCKS is not possible in the tr": [
        {"proxy": value.replace("S", SECRET)}
        for value in ("proxy:S", "socks5://me:S@proxy:1080", "http://me:S@", "http://proxy:S", "http://me:S@[::1", " ")
    ],
    "field proxy: has white space or a control character in it. Remove it.": [
        {"proxy": value}
        for value in ("http://pro xy", "http://proxy:1/\x00", "http://me:a b@proxy", "http://proxy/\u202e")
    ],
    " in the triggerer), got int.": [{"proxy": 3128}],
    " in the triggerer), got dict of length 1.": [{"proxy": {"https": "http://proxy"}}],
    "connect_timeout: must be more than 0 and at most 3600 seconds, got ": [{"connect_timeout": n} for n in NUMBERS],
    "read_timeout: must be more than 0 and at most 3600 seconds, got ": [{"read_timeout": n} for n in NUMBERS],
    "allowed_upload_roots: must be a list of folders": [{"allowed_upload_roots": value} for value in (7, {"a": 1})],
    "allowed_upload_roots: must hold absolute paths": [{"allowed_upload_roots": v} for v in ("data", '["a"]', [7])],
    "max_connections: must be a whole number from 1 to 100, got ": [
        {"max_connections": n} for n in (0, -1, 101, 1.5, "many", True, [4], math.inf, 10**400)
    ],
    "headers: is a string of 14 characters that is no JSON.": [{"headers": SECRET}],
    "headers: is a string of 100000 characters that is no JSON.": [{"headers": "[" * 100_000}],
    "headers: must be a JSON object of names and values, got list": [{"headers": [SECRET]}, {"headers": '["a"]'}],
    "headers: must be a JSON object of names and values, got int.": [{"headers": 7}],
    "is no header name": [header(n) for n in ("", "X Token", "X-Töken", "X:", "X\n", f"X: {SECRET}", 7)],
    "is set by the provider itself: remove it.": [header(n) for n in ("Authorization", "content-TYPE", "host")],
    "headers: the value of 'X-T' must be a string of printable ASCII without white space around it, got str of": [
        header("X-T", value.replace("S", SECRET))
        for value in ("S\r\nX: y", "S\n", " S", "Sé", "żółw", "S\x7f", "\ud800")
    ],
    "got int.": [header("X-T", 7)],
    "got null.": [header("X-T", None)],
    "console_url: must be a URL, got int.": [{"console_url": 7}],
    "console_url: has the scheme '": [{"console_url": url} for url in ("javascript:alert(1)", "ftp://console")],
    "console_url: has user info in it": [{"console_url": f"https://me:{SECRET}@console"}],
    "console_url: has a query or a fragment in it": [{"console_url": f"https://console/{end}"} for end in "?#"],
    "console_url: has white space": [{"console_url": "https://con sole"}],
    "field console_url: ": [{"console_url": value} for value in (" ", "https://console:99999", "https://")],
}


@pytest.mark.usefixtures("pem")
@pytest.mark.parametrize(
    ("extra", "text"),
    [
        pytest.param(extra, text, id=f"{text[:30]}{i}")
        for text, many in BAD_EXTRAS.items()
        for i, extra in enumerate(many)
    ],
)
def test_an_extra_that_is_refused(extra: Any, text: str) -> None:
    assert labelled(text) in refusal(extra=extra)


PROXIES: list[tuple[dict[str, str], str | None]] = [
    ({}, None),
    ({"https_proxy": "http://one:1", "http_proxy": "http://two:2"}, "http://one:1"),
    ({"HTTPS_PROXY": "one:1"}, "http://one:1"),
    ({"all_proxy": "http://all:1", "http_proxy": "http://one:1"}, "http://all:1"),
    ({"https_proxy": "http://one:1", "no_proxy": "other.com,example.com"}, None),
    ({"https_proxy": "http://one:1", "no_proxy": "*"}, None),
]


@pytest.mark.parametrize(("variables", "proxy"), PROXIES)
def test_the_proxy_of_the_environment(monkeypatch: Any, variables: dict[str, str], proxy: str | None) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert parse().proxy == proxy
    assert parse(extra={"proxy": "http://mine:1"}).proxy == "http://mine:1"


def test_a_bad_proxy_of_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", f"socks5://me:{SECRET}@proxy")
    assert "field Proxy: must be a URL such as" in refusal()


def test_the_authorities_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse().ca_bundle() is True
    for name in ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.setenv(name, f"/{name}")
        assert parse().ca_bundle() == f"/{name}"
    assert parse(extra={"verify": False}).ca_bundle() is False
    assert parse(extra={"verify": __file__}).ca_bundle() == __file__


def test_the_console_belongs_to_the_host() -> None:
    for base in ("http://dify.example.com:8080", "https://[::1]:5001"):
        assert parse(host=f"{base}/api").console_url == base


def test_secrets_are_hidden() -> None:
    proxy = "http://me:pr0xy-S3cret@proxy.example.com"
    connection = parse(extra={"headers": {"X-A": SECRET, "X-B": f"{SECRET}-2", "X-C": ""}, "proxy": proxy})
    login = base64.b64encode(b"me:pr0xy-S3cret").decode()
    assert set(connection.secrets) == {KEY, SECRET, f"{SECRET}-2", "pr0xy-S3cret", login}
    # The longest comes first: otherwise its end would stay.
    assert connection.redact(f"{KEY} {SECRET}-2, {SECRET}; {proxy}") == "*** ***, ***; http://me:***@proxy.example.com"
    # An excerpt may end within a secret; what every key begins with is none.
    assert connection.redact(f"bad key {KEY[:9]}…, give one (app-…)") == "bad key ***…, give one (app-…)"
    assert not any(secret in shown for secret in connection.secrets for shown in (repr(connection), f"{connection}"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
likely = st.sampled_from(
    ["http://", "https://[", "http://a b", "http://℀@x", "//x", "[", "[]", '["\\u0000"]', "{}", '{"a": "\\n"}', "1e999"]
)


@settings(deadline=None, database=None)
@given(st.dictionaries(st.sampled_from(EXTRA_NAMES) | st.text(), json_values | likely | json_values.map(json.dumps)))
@example({"proxy": "http://[x]:y"})
def test_any_extra_is_a_connection_or_refused(extra: dict[str, Any]) -> None:
    try:
        connection = parse(extra=extra)
    except DifyConfigurationError:
        return
    assert set(extra) <= set(EXTRA_NAMES)
    assert 0 < connection.connect_timeout <= 3600
    assert 1 <= connection.max_connections <= 100
    assert KEY in connection.secrets
    assert KEY not in connection.redact(f"{connection} {KEY}")


@settings(deadline=None, database=None)
@given(st.text() | st.text(":/@[]?#%.x1℀\\", max_size=9) | likely, st.sampled_from([None, "http"]), st.integers())
def test_any_host_is_a_connection_or_refused(host: str, schema: str | None, port: int) -> None:
    try:
        connection = parse(host=host, schema=schema, port=port)
    except DifyConfigurationError:
        return
    assert connection.base_url.startswith(("http://", "https://"))
    assert not connection.base_url.endswith("/")
