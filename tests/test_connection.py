"""What the fields of a connection may hold: each good form, and each bad one with a message that helps."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_provider_dify.connection import DifyConnection
from airflow_provider_dify.exceptions import DifyConfigurationError
from airflow_provider_dify.fields import EXTRA_NAMES
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
    message = str(caught.value)
    assert message.startswith("Connection 'dify_test', field ")
    assert len(message) < 500
    return message


def test_a_connection_with_nothing_but_a_key() -> None:
    assert parse(host=None, schema="", port=0) == DifyConnection(
        base_url="https://api.dify.ai/v1",
        api_key=KEY,
        api_contract="service-api",
        verify=True,
        client_cert=None,
        proxy=None,
        connect_timeout=10.0,
        read_timeout=30.0,
        headers={},
        console_url="https://cloud.dify.ai",
    )


@pytest.mark.parametrize(
    ("host", "schema", "port", "expected"),
    [
        ("dify.example.com", None, None, "https://dify.example.com/v1"),
        ("dify.example.com", "", 0, "https://dify.example.com/v1"),
        (" dify.example.com\n", " HTTP ", None, "http://dify.example.com/v1"),
        ("dify.example.com", "http", 5001, "http://dify.example.com:5001/v1"),
        ("dify.example.com:5001", None, None, "https://dify.example.com:5001/v1"),
        ("dify.example.com:5001", None, 5002, "https://dify.example.com:5001/v1"),
        ("dify.example.com:", None, 5002, "https://dify.example.com:5002/v1"),
        ("dify.example.com/api/v1", None, 5001, "https://dify.example.com:5001/api/v1"),
        ("127.0.0.1:5001", "http", None, "http://127.0.0.1:5001/v1"),
        ("http://dify.example.com", "https", None, "http://dify.example.com/v1"),
        ("HTTPS://dify.example.com", None, None, "https://dify.example.com/v1"),
        ("https://dify.example.com//", None, None, "https://dify.example.com/v1"),
        ("https://dify.example.com/v1///", None, None, "https://dify.example.com/v1"),
        ("https://dify.example.com/tools/dify/api", None, None, "https://dify.example.com/tools/dify/api"),
        ("https://dify.example.com/a%20b/", None, None, "https://dify.example.com/a%20b"),
        ("https://dify.example.com:8443/api/", None, 1, "https://dify.example.com:8443/api"),
        ("[::1]", "http", 5001, "http://[::1]:5001/v1"),
        ("[2001:db8::7]:5001", None, None, "https://[2001:db8::7]:5001/v1"),
        ("http://[::1]:5001/api", None, 6001, "http://[::1]:5001/api"),
        ("dify.müller.example", None, None, "https://dify.müller.example/v1"),
    ],
)
def test_the_base_url(host: str, schema: str | None, port: int | None, expected: str) -> None:
    assert parse(host=host, schema=schema, port=port).base_url == expected


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


def test_a_host_of_the_connection_is_stronger_than_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFY_API_BASE_URL", "http://one:1")
    assert parse().base_url == f"{HOST}/v1"


def test_a_bad_host_of_the_environment_is_named_after_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_BASE_URL", "ftp://one")
    assert "field host (from API_BASE_URL): has the scheme 'ftp'" in refusal(host="")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"host": f"{HOST}/v1?a=b"}, "host: has a query or a fragment in it: give the address up to the path only."),
        ({"host": f"{HOST}/?"}, "host: has a query or a fragment in it"),
        ({"host": f"{HOST}#top"}, "host: has a query or a fragment in it"),
        ({"host": f"https://{KEY}@dify.example.com"}, "host: has user info in it: the API key belongs in the password"),
        ({"host": f"me:{SECRET}@dify.example.com"}, "host: has user info in it"),
        ({"host": f"https://me:{SECRET}/x@dify.example.com"}, "field host: "),
        ({"host": f"https://dify.example.com:{KEY}"}, "field host: "),
        ({"host": "ftp://dify.example.com"}, "host: has the scheme 'ftp': only http and https are possible."),
        ({"host": "https://"}, "host: names no host: give an address such as https://dify.example.com."),
        ({"host": "/v1"}, "host: names no host"),
        ({"host": "https://dify.example.com\\v1"}, "host: names no host"),
        ({"host": "https://dify.example.com /v1"}, "host: has white space or a control character in it: remove it."),
        ({"host": "dify.example\n.com"}, "host: has white space or a control character in it"),
        ({"host": "dify\ud800.example.com"}, "host: has white space or a control character in it"),
        ({"host": "https://dify.example.com:65536"}, "host: is no URL ("),
        ({"host": "https://dify.example.com:x"}, "host: is no URL ("),
        ({"host": "https://[::1"}, "host: is no URL ("),
        ({"host": "::1"}, "field host: "),
        ({"schema": "ftp"}, "schema: must be http, https or empty and is str of length 3."),
        ({"host": "dify.example.com", "schema": "https://"}, "schema: must be http, https or empty"),
        ({"port": 65536}, "field port: "),
        ({"port": -1}, "field port: "),
    ],
)
def test_a_base_url_that_is_refused(fields: dict[str, Any], text: str) -> None:
    assert text in refusal(**fields)


@pytest.mark.parametrize("key", [None, "", " ", "\n"])
def test_a_connection_without_a_key(key: str | None) -> None:
    assert "field password: is empty: put the app's API key (app-…) there." in refusal(password=key)


@pytest.mark.parametrize(
    "key", [f" {KEY}", f"{KEY}\n", f"Bearer {KEY}", f"{KEY} {KEY}", f"{KEY}\x00", f"„{KEY}”", f"{KEY}\ud800"]
)
def test_a_key_with_what_no_key_has(key: str) -> None:
    message = refusal(password=key)
    assert f"field password: is an API key of {len(key)} characters with a space, a line break or another" in message
    assert "copy the key alone" in message


@pytest.fixture
def pem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the files that the connections of these tests name, in the working directory."""
    for name in ("ca.pem", "one.pem", "two.pem"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


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
    ("headers", {}, {}),
    ("headers", {"X-Token": SECRET, "cookie": "a=b; c=d"}, {"X-Token": SECRET, "cookie": "a=b; c=d"}),
    ("headers", '{"X-Token": "a\\tb"}', {"X-Token": "a\tb"}),
    ("headers", {"X-Empty": ""}, {"X-Empty": ""}),
    ("console_url", "https://console.example.com/", "https://console.example.com"),
    ("console_url", " http://console.example.com:3000/dify// ", "http://console.example.com:3000/dify"),
]


@pytest.mark.usefixtures("pem")
@pytest.mark.parametrize(("name", "value", "expected"), GOOD_EXTRAS)
def test_an_extra_that_is_accepted(name: str, value: Any, expected: Any) -> None:
    assert getattr(parse(extra={name: value}), name) == expected


def test_the_good_extras_are_all_extras() -> None:
    assert {name for name, _, _ in GOOD_EXTRAS} == set(EXTRA_NAMES)


@pytest.mark.parametrize("nothing", [None, ""])
def test_an_extra_that_the_form_left_empty_has_its_default(nothing: str | None) -> None:
    assert parse(extra=dict.fromkeys(EXTRA_NAMES, nothing)) == parse()


@pytest.mark.usefixtures("pem")
@pytest.mark.parametrize("form", ["uri", "json"])
def test_the_connection_as_airflow_reads_it(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    extra = {"verify": "off", "read_timeout": "45", "client_cert": '["one.pem"]', "headers": f'{{"X-T": "{SECRET}"}}'}
    if form == "uri":
        from urllib.parse import urlencode

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


def header(name: Any, value: Any) -> dict[str, Any]:
    return {"headers": {name: value}}


BAD_NUMBERS = [0, -1, 3600.1, "0", "-0.5", "soon", "10 s", "nan", "inf", "9" * 5000, math.nan, math.inf, 10**400]
NO_HEADER_NAME = "is no header name"
BAD_EXTRAS: list[tuple[Any, str]] = [
    (None, "extra: must be a JSON object and is null."),
    ([SECRET], "extra: must be a JSON object and is list of length 1."),
    (SECRET, "extra: must be a JSON object and is str of length 14."),
    (
        {"verfy": SECRET},
        "extra: has the unknown name 'verfy'. Did you mean 'verify'? Known names: api_contract, verify",
    ),
    ({"": SECRET}, "extra: has the unknown name ''. Known names: api_contract"),
    ({"extra__dify__proxy": ""}, "extra: has the unknown name 'extra__dify__proxy'."),
    ({"VERIFY": True}, "extra: has the unknown name 'VERIFY'."),
    ({"api_contract": "v1"}, "api_contract: must be service-api or workflow-runs and is 'v1'."),
    ({"api_contract": ["service-api"]}, "api_contract: must be service-api or workflow-runs and is list of length 1."),
    ({"verify": 1}, "verify: must be true, false or the path of a CA bundle and is int."),
    ({"verify": ["ca.pem"]}, "verify: must be true, false or the path of a CA bundle and is list of length 1."),
    ({"verify": "no.pem"}, "verify: there is no CA bundle at 'no.pem' on this machine; worker and triggerer both need"),
    ({"verify": " "}, "verify: there is no CA bundle at ''"),
    ({"verify": "\x00"}, "verify: there is no CA bundle at"),
    ({"verify": "\ud800"}, "verify: there is no CA bundle at"),
    ({"client_cert": True}, "client_cert: must be the path of a PEM file, or a list of certificate and key path, and"),
    ({"client_cert": []}, "and is list of length 0."),
    ({"client_cert": ["one.pem"] * 3}, "and is list of length 3."),
    ({"client_cert": ["one.pem", 7]}, "and is list of length 2."),
    ({"client_cert": "['one.pem']"}, "client_cert: is a string of 11 characters that is no JSON."),
    ({"client_cert": ["one.pem", "no.pem"]}, "client_cert: there is no certificate or key at 'no.pem' on this machine"),
    *[
        ({"proxy": value}, f"proxy: must be a URL such as http://proxy.example.com:3128 (http or https; SOCKS {more}")
        for value, more in [
            (f"proxy:{SECRET}", "is not possible in the triggerer) and is str of length 20."),
            (f"socks5://me:{SECRET}@proxy:1080", "is not possible"),
            (f"http://me:{SECRET}@", "is not possible"),
            (f"http://proxy:{SECRET}", "is not possible"),
            (f"http://me:{SECRET}@[::1", "is not possible"),
            (3128, "is not possible in the triggerer) and is int."),
            ({"https": "http://proxy"}, "is not possible in the triggerer) and is dict of length 1."),
        ]
    ],
    *[
        ({name: value}, f"field {name}: must be more than 0 and at most 3600 seconds and is ")
        for name in ("connect_timeout", "read_timeout")
        for value in [*BAD_NUMBERS, True, [1], {"a": 1}]
    ],
    ({"headers": SECRET}, "headers: is a string of 14 characters that is no JSON."),
    ({"headers": "[" * 100_000}, "headers: is a string of 100000 characters that is no JSON."),
    ({"headers": f'["{SECRET}"]'}, "headers: must be a JSON object of names and values and is list of length 1."),
    ({"headers": [SECRET]}, "headers: must be a JSON object of names and values and is list of length 1."),
    ({"headers": 7}, "headers: must be a JSON object of names and values and is int."),
    *[
        (header(name, SECRET), f"headers: {name!r} {NO_HEADER_NAME}")
        for name in ("", "X Token", "X-Töken", "X:", "X\n")
    ],
    (header(7, SECRET), f"headers: int {NO_HEADER_NAME}"),
    (header(f"X-Token: {SECRET}", ""), NO_HEADER_NAME),
    (header("Authorization", SECRET), "headers: 'Authorization' is set by the provider itself: remove it."),
    (header("content-TYPE", "x"), "headers: 'content-TYPE' is set by the provider itself: remove it."),
    (header("Host", "x"), "headers: 'Host' is set by the provider itself"),
    *[
        (header("X-T", value), "headers: the value of 'X-T' must be a string of printable ASCII without white space ar")
        for value in (
            f"{SECRET}\r\nX: y",
            f"{SECRET}\n",
            f" {SECRET}",
            f"{SECRET}é",
            f"{SECRET}\x7f",
            f"{SECRET}\ud800",
        )
    ],
    (header("X-T", "żółw"), "and is str of length 4."),
    (header("X-T", 7), "and is int."),
    (header("X-T", None), "and is null."),
    ({"console_url": 7}, "console_url: must be a URL and is int."),
    ({"console_url": "console.example.com"}, "console_url: has the scheme ''"),
    ({"console_url": " "}, "field console_url: "),
    ({"console_url": "javascript:alert(1)"}, "console_url: has the scheme 'javascript'"),
    ({"console_url": f"https://me:{SECRET}@console"}, "console_url: has user info in it"),
    ({"console_url": "https://console/?a"}, "console_url: has a query or a fragment in it"),
    ({"console_url": "https://con sole"}, "console_url: has white space"),
    ({"console_url": "https://console:99999"}, "console_url: is no URL"),
]


@pytest.mark.usefixtures("pem")
@pytest.mark.parametrize(("extra", "text"), BAD_EXTRAS, ids=range(len(BAD_EXTRAS)))
def test_an_extra_that_is_refused(extra: Any, text: str) -> None:
    assert text in refusal(extra=extra)


@pytest.mark.parametrize(
    ("environment", "proxy"),
    [
        ({}, None),
        ({"https_proxy": "http://one:1"}, "http://one:1"),
        ({"HTTPS_PROXY": "one:1"}, "http://one:1"),
        ({"all_proxy": "http://all:1", "http_proxy": "http://one:1"}, "http://all:1"),
        ({"https_proxy": "http://one:1", "no_proxy": "other.com,example.com"}, None),
        ({"https_proxy": "http://one:1", "no_proxy": "*"}, None),
    ],
)
def test_the_proxy_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], proxy: str | None
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert parse().proxy == proxy
    assert parse(extra={"proxy": "http://mine:1"}).proxy == "http://mine:1"


def test_a_bad_proxy_of_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", f"socks5://me:{SECRET}@proxy")
    assert "field proxy: must be a URL such as" in refusal()


def test_the_authorities_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse().ca_bundle() is True
    for name in ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.setenv(name, f"/{name}")
        assert parse().ca_bundle() == f"/{name}"
    assert parse(extra={"verify": False}).ca_bundle() is False
    assert parse(extra={"verify": __file__}).ca_bundle() == __file__


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("api.dify.ai", "https://cloud.dify.ai"),
        ("http://dify.example.com:8080/api", "http://dify.example.com:8080"),
        ("https://[::1]:5001/v1", "https://[::1]:5001"),
    ],
)
def test_the_console_belongs_to_the_host(host: str, expected: str) -> None:
    assert parse(host=host).console_url == expected


def test_secrets_are_hidden() -> None:
    proxy = "http://me:pr0xy-S3cret@proxy.example.com"
    connection = parse(extra={"headers": {"X-A": SECRET, "X-B": f"{SECRET}-2", "X-C": ""}, "proxy": proxy})
    assert set(connection.secrets) == {KEY, SECRET, f"{SECRET}-2", "pr0xy-S3cret"}
    # The longest comes first: otherwise its end would stay.
    assert connection.redact(f"{KEY} {SECRET}-2, {SECRET}; {proxy}") == "*** ***, ***; http://me:***@proxy.example.com"
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
@given(st.dictionaries(st.sampled_from(EXTRA_NAMES), json_values | likely | json_values.map(json.dumps)))
@example({"proxy": "http://[x]:y"})
def test_any_extra_is_a_connection_or_refused(extra: dict[str, Any]) -> None:
    try:
        connection = parse(extra=extra)
    except DifyConfigurationError as caught:
        error = caught
    else:
        error = None
    if error:
        assert KEY not in str(error)
        return
    assert 0 < connection.connect_timeout <= 3600
    assert KEY in connection.secrets
    assert KEY not in connection.redact(f"{connection} {KEY}")


@settings(deadline=None, database=None)
@given(st.dictionaries(st.text(), json_values, min_size=1))
def test_an_unknown_extra_is_refused(extra: dict[str, Any]) -> None:
    if not set(extra) & set(EXTRA_NAMES):
        with pytest.raises(DifyConfigurationError, match="has the unknown name"):
            parse(extra=extra)


@settings(deadline=None, database=None)
@given(st.text() | st.text(":/@[]?#%.x1℀\\", max_size=9) | likely, st.sampled_from([None, "http"]), st.integers())
def test_any_host_is_a_connection_or_refused(host: str, schema: str | None, port: int) -> None:
    try:
        connection = parse(host=host, schema=schema, port=port)
    except DifyConfigurationError:
        return
    assert connection.base_url.startswith(("http://", "https://"))
    assert not connection.base_url.endswith("/")
