"""Which of a run's outputs are files, and from where they may be fetched."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dify.exceptions import DifyFileRefusedError, DifyInvalidInputError
from airflow_provider_dify.rules.output_files import (
    address_of,
    bytes_together,
    check_hosts,
    check_number_of_files,
    declared_size,
    files_in,
)

BASE = "https://dify.example.com/v1"


def file(name: str) -> dict[str, Any]:
    return {"dify_model_identity": "__dify__file__", "filename": name}


def test_files_are_found_at_any_depth_in_order() -> None:
    outputs = {
        "a": file("1"),
        "b": [file("2"), {"c": {"d": [[file("3")], "x", None]}}],
        "e": {"dify_model_identity": "other"},
        "f": {"dify_model_identity": "__dify__file__", "inner": file("no")},
    }
    found = files_in(outputs)
    assert list(found) == ["outputs['a']", "outputs['b'][0]", "outputs['b'][1]['c']['d'][0][0]", "outputs['f']"]
    assert found["outputs['b'][0]"] is outputs["b"][0]  # type: ignore[index]


def test_depth_is_no_matter() -> None:
    deep: Any = file("deep")
    for _ in range(50_000):
        deep = [deep]
    assert len(files_in({"a": deep})) == 1


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        ("https://dify.example.com/files/a?sign=x", "https://dify.example.com/files/a?sign=x"),
        ("https://DIFY.example.com:443/files/a", "https://DIFY.example.com:443/files/a"),
        ("/files/a?sign=x", "https://dify.example.com/files/a?sign=x"),
        ("files/a", "https://dify.example.com/files/a"),
        ("/../../files/a", "https://dify.example.com/files/a"),
    ],
)
def test_the_servers_own_urls(url: str, whole: str) -> None:
    address = address_of(url, BASE)
    assert (address.url, address.is_own) == (whole, True)


REFUSED = [
    "http://dify.example.com/files/a",
    "https://dify.example.com:8443/files/a",
    "https://dify.example.com.evil.example/a",
    "https://dify.example.com./a",
    "https://evil.example/a",
    "//evil.example/a",
    "https://dify.example.com@evil.example/a",
    "https://me:secret@dify.example.com/a",
    "https://evil.example\\@dify.example.com/a",
    "https://dify.example.com\\.evil.example/a",
    "http://127.0.0.1/a",
    "http://127.0.0.1:5001/a",
    "http://localhost/a",
    "http://[::1]/a",
    "http://0x7f000001/a",
    "http://169.254.169.254/latest/meta-data",
    "file:///etc/passwd",
    "FILE:///etc/passwd",
    "ftp://dify.example.com/a",
    "data:text/plain,x",
    "javascript:x",
    "https://dify.example.com:99999/a",
    "https://[broken/a",
    "https://dify.example.com/a b",
    "https://dify.example.com/a\nHost: x",
    " https://dify.example.com/a",
    "https://dify.éxample.com/a",
    "",
    None,
    7,
    ["https://dify.example.com/a"],
]


@pytest.mark.parametrize("url", REFUSED, ids=repr)
def test_everything_else_is_refused(url: Any) -> None:
    with pytest.raises(DifyFileRefusedError) as caught:
        address_of(url, BASE)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("https://files.example.com/a", ["files.example.com"]),
        ("https://FILES.example.com/a", ["Files.example.com"]),
        ("http://files.example.com:9000/a", ["files.example.com:9000"]),
        ("http://127.0.0.1:9000/a", ["127.0.0.1:9000"]),
        ("http://[::1]:9000/a", ["[::1]:9000"]),
        ("https://dify.example.com:8443/a", ["dify.example.com:8443"]),
        ("http://dify.example.com/a", ["dify.example.com"]),
    ],
)
def test_a_host_that_is_allowed_is_no_own_one(url: str, hosts: list[str]) -> None:
    address = address_of(url, BASE, hosts)
    assert (address.url, address.is_own) == (url, False)


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("http://files.example.com:9000/a", ["files.example.com"]),
        ("https://files.example.com/a", ["files.example.com:9000", "example.com"]),
        ("https://a.files.example.com/a", ["files.example.com"]),
        ("file://files.example.com/a", ["files.example.com"]),
    ],
)
def test_only_that_host_is_allowed(url: str, hosts: list[str]) -> None:
    with pytest.raises(DifyFileRefusedError):
        address_of(url, BASE, hosts)


def test_the_refusal_names_the_remedy() -> None:
    with pytest.raises(
        DifyFileRefusedError, match=r'at files.example.com:443 .* allowed_file_hosts=\["files.example.com"\]'
    ):
        address_of("https://files.example.com/a?sign=x", BASE)


@pytest.mark.parametrize(
    "value", ["files.example.com", [7], [""], ["https://a.example"], ["a.example/x"], ["*.example"], {}]
)
def test_hosts_that_are_none(value: Any) -> None:
    with pytest.raises(DifyInvalidInputError, match="allowed_file_hosts must"):
        check_hosts(value)


@pytest.mark.parametrize(("size", "expected"), [(5, 5), (0, 0), (-1, None), (None, None), ("5", None), (True, None)])
def test_a_size_that_is_reported(size: Any, expected: int | None) -> None:
    assert declared_size({"size": size}) == expected


GIBIBYTE = 1024**3


def test_the_files_of_a_run_are_limited_in_number() -> None:
    check_number_of_files(1000)
    with pytest.raises(
        DifyFileRefusedError, match=r"1,001 files .* at most 1,000 .* Let the workflow put them into an"
    ):
        check_number_of_files(1001)


@pytest.mark.parametrize(
    ("sizes", "max_file_bytes", "limit"),
    [
        ([], 1, 10 * GIBIBYTE),
        ([None, None], 1, 10 * GIBIBYTE),
        ([5 * GIBIBYTE, None, 5 * GIBIBYTE], 5 * GIBIBYTE, 10 * GIBIBYTE),
        ([30 * GIBIBYTE], 30 * GIBIBYTE, 30 * GIBIBYTE),
    ],
)
def test_the_files_of_a_run_are_limited_together(sizes: list[int | None], max_file_bytes: int, limit: int) -> None:
    assert bytes_together(sizes, max_file_bytes) == limit
    with pytest.raises(DifyFileRefusedError, match=f"more than {limit:,} bytes together.* Raise max_file_bytes"):
        bytes_together([*sizes, limit, 1], max_file_bytes)


def test_the_signature_is_a_secret() -> None:
    sign = "jkjVYau2o0dO5JeY0_9CsNYGRUQfl0g6wJCjUzifq6c="
    address = address_of(f"/files/a?timestamp=1795402159&nonce={'e' * 32}&sign={sign.replace('=', '%3D')}", BASE)
    assert set(address.secrets) == {sign, sign.replace("=", "%3D"), "e" * 32}
    assert sign not in address.origin


@given(st.text(max_size=60) | st.from_regex(r"(https?:)?//[a-z.:@\\\[\]0-9]{0,20}/?", fullmatch=True))
def test_any_url_is_the_servers_own_or_refused(url: str) -> None:
    from requests import Request
    from urllib3.util import parse_url

    try:
        address = address_of(url, BASE)
    except DifyFileRefusedError:
        return
    # As the client that fetches it understands it.
    prepared = Request("GET", address.url).prepare().url
    assert prepared is not None
    parsed = parse_url(prepared)
    assert (parsed.scheme, parsed.host, parsed.port) in (
        ("https", "dify.example.com", None), ("https", "dify.example.com", 443),
    )  # fmt: skip
