"""What a task, the hook and the Test button say of a server that cannot be reached: the same, and no client's dump."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from airflow_provider_dify import exceptions as ex
from airflow_provider_dify.hooks.dify import DifyHook
from airflow_provider_dify.testing.faults import Fault
from tests.hooks.support import Connect, Face, Serve, Start, serving
from tests.hooks.test_hook_transports import RUN, Authority, authority

__all__ = ["authority"]

DUMPS = ("Pool(", "WRONG_VERSION", "object at 0x", "Errno", "[SSL", "Max retries", "Traceback")


@pytest.fixture
def serve() -> Iterator[Serve]:
    with serving() as start:
        yield start


def same_words(face: Face, cause: str, sentence: str) -> None:
    """Hold the errors of reading and of submitting, and the Test button, against each other."""
    _, button = DifyHook().test_connection()
    assert sentence in button
    for name, arguments, options in (("get_workflow_run", (RUN,), {}), ("create_workflow_run", ({},), {"user": "me"})):
        with pytest.raises(ex.DifyTransportError) as caught:
            face(name, *arguments, **options)
        assert button in caught.value.message.replace(" Nothing was sent.", "")
        assert caught.value.cause == cause
        assert [dump for dump in DUMPS if dump in caught.value.message] == []


def test_plain_http_behind_a_host_without_a_scheme(
    dify: Start, connect: Connect, face: Face, naps: list[float]
) -> None:
    server = dify()
    connect(f"127.0.0.1:{server.port}", server.api_key())
    same_words(
        face,
        "plain_http",
        "the server does not speak TLS. If it speaks plain http, let the connection's Base URL (host) begin with",
    )


def test_a_certificate(authority: Authority, serve: Serve, connect: Connect, face: Face, naps: list[float]) -> None:
    connect(serve(tls=authority.server_side()).url)
    same_words(face, "certificate", "is not trusted (unable to get local issuer certificate)")


def test_a_port_where_nothing_listens(dify: Start, face: Face, naps: list[float]) -> None:
    dify().down()
    same_words(face, "refused", "nothing listens there: the connection was refused")


def test_a_name_that_is_not_known(
    connect: Connect, face: Face, naps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*arguments: object, **options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    connect("https://dify.invalid")
    same_words(face, "name", "its host name is not known here")


def test_a_proxy_that_is_not_there(connect: Connect, face: Face, naps: list[float]) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        connect("http://dify.example.com", extra={"proxy": proxy})
        same_words(face, "proxy", f"the proxy {proxy} cannot be reached, or does not let the request through")


def test_an_answer_in_time_is_missing(dify: Start, connect: Connect, face: Face, naps: list[float]) -> None:
    server = dify()
    server.inject(Fault("any", "hang", seconds=5))
    connect(server.base_url, server.api_key(), extra={"read_timeout": 0.2})
    error = face("poll", RUN).error
    assert isinstance(error, ex.DifyTransportError)
    assert "it did not answer in time" in error.message
    assert [dump for dump in DUMPS if dump in error.message] == []


def test_a_hook_in_a_with_block(dify: Start) -> None:
    dify()
    with DifyHook() as hook:
        assert hook.get_info().mode == "workflow"

    async def ask() -> str | None:
        async with DifyHook() as hook:
            return (await hook.aget_info()).mode

    assert asyncio.run(ask()) == "workflow"
