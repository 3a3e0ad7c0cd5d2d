"""Secrets are found in whatever form they are echoed, and nothing else is changed."""

from __future__ import annotations

import base64
import html
import json
import time
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dify.api.redaction import MASK, Redactor, StreamRedaction, basic_login, redactor_of

KEY = "app-S3cret/Key+that=nobody"
LOGIN = basic_login("me", "pr0xy&P4ss<word>")
REDACTOR = Redactor([KEY, LOGIN, "pr0xy&P4ss<word>"])


def every_character(form: str, text: str = KEY) -> str:
    return "".join(form.format(ord(character)) for character in text)


FORMS = {
    "plain": KEY,
    "in other letters": KEY.upper(),
    "in a header": f"Bearer {KEY}",
    "JSON": json.dumps({"a": f'"{KEY}"'}),
    "JSON in JSON": json.dumps(json.dumps({"a": KEY.replace("/", "\\/")})),
    "JSON with escapes": every_character("\\u{:04x}"),
    "JSON with capital escapes": every_character("\\u{:04X}"),
    "JSON with escapes in JSON": every_character("\\\\u{:04x}"),
    "some escapes": KEY.replace("S", "\\u0053").replace("t", "%74").replace("o", "&#111;"),
    "a Python string": every_character("\\x{:02x}"),
    "a URL": quote(KEY, safe=""),
    "a form": quote_plus(KEY),
    "a URL in a URL": quote(quote(KEY, safe=""), safe=""),
    "a URL with every character": every_character("%{:02x}"),
    "HTML": html.escape(f"<b>{KEY}</b>"),
    "HTML in decimal": every_character("&#{};"),
    "HTML in hexadecimal": every_character("&#x{:X};"),
    "HTML with zeros": every_character("&#x00{:x};"),
    "base64": base64.b64encode(KEY.encode()).decode(),
    **{f"base64 after {n}": base64.b64encode(b"Bearer "[:n] + KEY.encode() + b" and so on").decode() for n in range(8)},
    "base64 for URLs": base64.urlsafe_b64encode(f"x{KEY}".encode()).decode(),
    "hexadecimal": KEY.encode().hex(),
    "the proxy's login": f"Proxy-Authorization: Basic {LOGIN}",
    "the proxy's password in HTML": html.escape("pr0xy&P4ss<word>"),
}
PARTS = ("s3cret", "p4ss", LOGIN.lower()[:12], base64.b64encode(KEY.encode()).decode()[:12].lower())


@pytest.mark.parametrize("form", FORMS)
def test_a_secret_is_found_in_every_form(form: str) -> None:
    for text in (FORMS[form], f"before {FORMS[form]} after", f'{{"a": "{FORMS[form]}"}}'):
        clean = REDACTOR.text(text)
        assert MASK in clean
        assert not any(part in clean.lower() for part in PARTS)
        assert REDACTOR.text(clean) == clean


# Of what no escape consists, so that none begins in the middle of another.
LETTERS = "ghijklmnopqrstvwyzGHIJKLMNOPQRSTVWYZ+-_.=/!$*~"


@given(st.text(LETTERS, min_size=4, max_size=40), st.data())
def test_a_secret_is_found_however_its_characters_are_escaped(secret: str, data: st.DataObject) -> None:
    ways = ["{0}", "\\u{1:04x}", "\\\\u{1:04X}", "%{1:02x}", "%{1:02X}", "&#{1};", "&#x{1:x};", "\\x{1:02x}"]
    written = "".join(data.draw(st.sampled_from(ways)).format(letter, ord(letter)) for letter in secret)
    assert Redactor([secret]).text(f"before {written} after") == f"before {MASK} after"


@given(st.binary(max_size=2000))
def test_bytes_without_a_secret_stay_as_they_are(data: bytes) -> None:
    assert REDACTOR.bytes(data) == data


@given(st.text(max_size=300))
def test_a_text_without_a_secret_stays_as_it_is(text: str) -> None:
    assert REDACTOR.text(text) == text
    assert Redactor([]).text(text) == text
    assert Redactor(["abc"]).text(text + "abc") == text + "abc"


def test_a_lone_surrogate_is_no_obstacle() -> None:
    assert REDACTOR.text(f"\ud800{KEY}\udfff") == f"\ud800{MASK}\udfff"


@given(st.lists(st.sampled_from(sorted(FORMS.values())), min_size=1, max_size=4), st.data())
def test_a_stream_is_cleaned_wherever_it_is_cut(forms: list[str], data: st.DataObject) -> None:
    whole = "\n".join(f"data: {form} and more" for form in forms).encode()
    stream, clean, rest = StreamRedaction(REDACTOR), b"", whole
    while rest:
        size = data.draw(st.integers(1, 60))
        clean += stream.feed(rest[:size])
        rest = rest[size:]
    clean += stream.rest()
    assert clean.count(b"data: ") == clean.count(b" and more") == len(forms)
    assert not any(part in clean.decode().lower() for part in PARTS)


def test_a_whole_line_comes_at_once_and_an_endless_one_is_not_kept() -> None:
    stream = StreamRedaction(REDACTOR)
    assert stream.feed(b"data: 1\n\ndata:") == b"data: 1\n\n"
    assert stream.feed(b" 2\r\n") == b"data: 2\r\n"
    given = sum(len(stream.feed(b"x" * 65536)) for _ in range(100))
    assert given > 99 * 65536


def test_a_redactor_is_made_once() -> None:
    assert redactor_of((KEY,)) is redactor_of((KEY,))


def test_a_header_is_searched_for_escapes_however_many_others_there_are() -> None:
    secret = "s3cret-of-the-gateway"
    escaped = secret.replace("c", "%63")
    headers = {"x-echo": escaped, "x-long": "a" * 70_000, "x-plain": "nothing"}
    clean = Redactor([secret]).values(headers)
    assert clean == {**headers, "x-echo": "***"}
    assert Redactor([secret]).values({"x-plain": "nothing"}) == {"x-plain": "nothing"}


@pytest.mark.parametrize("echoes", [False, True], ids=["without a secret", "with an escaped one"])
def test_a_body_of_backslashes_is_searched_in_one_pass(echoes: bool) -> None:
    echo = f" \\u{ord(KEY[0]):04x}{KEY[1:]}".encode() if echoes else b""
    body = b"\\" * 60 * 1024
    began = time.monotonic()
    assert REDACTOR.bytes(body + echo) == (body + b" ***" if echoes else body)
    assert time.monotonic() - began < 5
