"""Bodies that were compressed although nobody asked: read in small pieces, or refused."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dify.api.operations import Call
from airflow_provider_dify.client.bodies import PIECE_BYTES, BodyDecoder, Size
from airflow_provider_dify.client.deadlines import Limit
from airflow_provider_dify.client.exchange import Exchange, request_headers
from airflow_provider_dify.connection import DifyConnection
from tests.hooks.hostile_answers import GZIP, RAW, packed

CODINGS = {"gzip": GZIP, "x-gzip": GZIP, "GZip": GZIP, "deflate": zlib.MAX_WBITS, "Deflate": RAW}


def decoded(coding: str, body: bytes, size: int = 1000) -> bytes:
    decoder, found = BodyDecoder(coding), bytearray()
    assert decoder.refused is None
    for start in range(0, len(body), size):
        decoder.feed(body[start : start + size])
        while not decoder.is_hungry:
            piece = decoder.take()
            assert len(piece) <= PIECE_BYTES
            found += piece
    decoder.check_end()
    return bytes(found)


@given(st.sampled_from(list(CODINGS)), st.binary(), st.integers(0, 3000), st.integers(1, 5000))
def test_a_body_is_the_same_however_it_is_cut(coding: str, unit: bytes, times: int, size: int) -> None:
    content = unit * times
    assert decoded(coding, packed(content, CODINGS[coding]), size) == content


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_a_gzip_body_may_have_several_members(size: int) -> None:
    assert decoded("gzip", gzip.compress(b"a" * 50_000) + gzip.compress(b"") + gzip.compress(b"b"), size) == (
        b"a" * 50_000 + b"b"
    )


@pytest.mark.parametrize("coding", ["", "identity", "None", "utf-8", "aws-chunked", "identity, identity"])
def test_names_of_no_compression_leave_a_body_as_it_is(coding: str) -> None:
    assert decoded(coding, b"{} as it is") == b"{} as it is"


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, gzip", "deflate, gzip", "gzip, br", "x" * 5000])
def test_other_codings_are_refused(coding: str) -> None:
    refused = BodyDecoder(coding).refused
    assert refused
    assert len(refused) <= 61
    assert BodyDecoder(f"identity, {coding}").refused


DAMAGED = {
    "no gzip": b"{}",
    "more after the end": gzip.compress(b"{}") + b"{}",
    "a wrong checksum": gzip.compress(b"{}")[:-8] + b"checksum",
}


@pytest.mark.parametrize("body", DAMAGED.values(), ids=DAMAGED)
def test_damaged_data_are_an_error(body: bytes) -> None:
    with pytest.raises(ValueError, match="damaged"):
        decoded("gzip", body)


@pytest.mark.parametrize("left", [1, 10, 30])
def test_a_body_that_was_cut_is_an_error_at_its_end(left: int) -> None:
    with pytest.raises(ValueError, match="end too early"):
        decoded("gzip", gzip.compress(bytes(range(256)))[:left])


def test_a_body_without_a_byte_has_ended() -> None:
    assert decoded("gzip", b"") == b""


def test_data_that_compress_badly_are_read() -> None:
    content = b"".join(zlib.crc32(b"%d" % number).to_bytes(4, "big") for number in range(500_000))
    stored = zlib.compressobj(0, zlib.DEFLATED, GZIP)
    assert decoded("gzip", stored.compress(content) + stored.flush(), 65536) == content


def test_no_request_asks_for_compression_whatever_the_connection_says() -> None:
    connection = DifyConnection(
        "https://dify.example.com/v1", "app-x", headers={"accept-ENCODING": "br", "X-Team": "a"}
    )
    for streaming in (True, False):
        headers = request_headers(connection, Call("GET", "/info", "Reading", streaming=streaming), None)
        assert {name: value for name, value in headers.items() if name.lower() == "accept-encoding"} == {
            "Accept-Encoding": "identity"
        }
        assert headers["X-Team"] == "a"


def test_a_header_in_several_lines_is_read_as_one() -> None:
    from multidict import CIMultiDict

    lines = CIMultiDict([("Content-Encoding", "gzip"), ("content-encoding", "gzip")])
    connection = DifyConnection("https://dify.example.com/v1", "app-x")
    exchange = Exchange(connection, Call("GET", "/info", "Reading"), None, (200, lines), Limit(1), None, Size())
    assert exchange.head.headers == {"content-encoding": "gzip, gzip"}
