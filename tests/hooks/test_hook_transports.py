"""TLS, proxies and what is sent to whom: the same in the worker's transport and in the triggerer's."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_dify import exceptions as ex
from airflow_provider_dify.api.runs import RunStatus
from tests.hooks.support import (
    KEY,
    PASSWORD,
    RUN,
    TOKEN,
    Connect,
    Face,
    Proxy,
    Serve,
    fails,
    http,
    poll_error,
    serving,
    texts_of,
)


@pytest.fixture
def serve() -> Iterator[Serve]:
    with serving() as start:
        yield start


# --- TLS


class Authority:
    """A certificate authority of its own, and what it has signed, as PEM files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bundle = self.sign_itself("ca")
        self.stranger = self.sign_itself("stranger")
        self.issue("server", "subjectAltName=IP:127.0.0.1", "serverAuth")
        self.issue("client", "subjectAltName=DNS:client.example.com", "clientAuth")
        content = (folder / "client.pem").read_bytes() + (folder / "client.key").read_bytes()
        (folder / "combined.pem").write_bytes(content)
        self.run("rsa", "-aes256", "-passout", "pass:secret", "-in", "client.key", "-out", "locked.key")

    def run(self, *arguments: str) -> None:
        subprocess.run(
            ["openssl", *arguments], cwd=self.folder, check=True, capture_output=True, stdin=subprocess.DEVNULL
        )

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def sign_itself(self, name: str) -> str:
        (self.folder / f"{name}.cnf").write_text(
            "[req]\ndistinguished_name=dn\nx509_extensions=ext\nprompt=no\n"
            f"[dn]\nCN=Test {name}\n"
            "[ext]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n"
            "subjectKeyIdentifier=hash\n"
        )
        self.run(
            *f"req -x509 -newkey rsa:2048 -nodes -days 2 -config {name}.cnf -keyout {name}.key -out {name}.pem".split()
        )
        return self.path(f"{name}.pem")

    def issue(self, name: str, alternative: str, usage: str) -> None:
        (self.folder / f"{name}.ext").write_text(
            f"{alternative}\nextendedKeyUsage={usage}\nbasicConstraints=critical,CA:FALSE\n"
            "keyUsage=critical,digitalSignature,keyEncipherment\n"
            "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
        )
        (self.folder / f"{name}.cnf").write_text("[req]\ndistinguished_name=dn\nprompt=no\n[dn]\nCN=Test\n")
        self.run(*f"req -newkey rsa:2048 -nodes -config {name}.cnf -keyout {name}.key -out {name}.csr".split())
        self.run(
            *f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 "
            f"-extfile {name}.ext -out {name}.pem".split()
        )

    def server_side(self, *, ask_client: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path("server.pem"), self.path("server.key"))
        if ask_client:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.bundle)
        return context


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    if shutil.which("openssl") is None:
        pytest.skip("certificates are made with the openssl command")
    return Authority(tmp_path_factory.mktemp("tls"))


def test_a_certificate_of_an_unknown_authority_is_refused(
    authority: Authority, serve: Serve, connect: Connect, face: Face
) -> None:
    server = serve(tls=authority.server_side())
    for extra in ({}, {"verify": True}, {"verify": authority.stranger}):
        connect(server.url, extra=extra)
        error = poll_error(face)
        assert isinstance(error, ex.DifyTransportError)
        assert "is not trusted" in error.message
        assert server.url in error.message
    assert server.requests == []


@pytest.mark.parametrize("given", ["bundle", "folder", "false", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_a_certificate_is_accepted_where_the_connection_says_so(
    authority: Authority, serve: Serve, connect: Connect, face: Face, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    server = serve(tls=authority.server_side())
    extra: dict[str, Any] = {}
    if given == "bundle":
        extra = {"verify": authority.bundle}
    elif given == "folder":
        hashed = authority.folder / "hashed"
        hashed.mkdir(exist_ok=True)
        shutil.copy(authority.bundle, hashed / "ca.pem")
        authority.run("rehash", str(hashed))
        extra = {"verify": str(hashed)}
    elif given == "false":
        extra = {"verify": False}
    else:
        monkeypatch.setenv(given, authority.bundle)
    connect(server.url, extra=extra)
    assert face("get_workflow_run", RUN).status is RunStatus.SUCCEEDED
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"


def test_a_certificate_for_another_name_is_refused(
    authority: Authority, serve: Serve, connect: Connect, face: Face
) -> None:
    server = serve(tls=authority.server_side())
    connect(f"https://localhost:{server.port}", extra={"verify": authority.bundle})
    assert "certificate" in poll_error(face).message
    assert server.requests == []


@pytest.mark.parametrize("form", ["combined", "list", "json"])
def test_a_client_certificate_is_shown(
    authority: Authority, serve: Serve, connect: Connect, face: Face, form: str
) -> None:
    server = serve(tls=authority.server_side(ask_client=True))
    connect(server.url, extra={"verify": authority.bundle})
    assert isinstance(poll_error(face), ex.DifyTransportError)
    assert server.requests == []
    pair = [authority.path("client.pem"), authority.path("client.key")]
    given = {"combined": authority.path("combined.pem"), "list": pair, "json": json.dumps(pair)}[form]
    connect(server.url, extra={"verify": authority.bundle, "client_cert": given})
    assert face("get_workflow_run", RUN).outputs == {"text": "x"}
    started = face("create_workflow_run", {}, user="me", response_mode="blocking")
    assert started.workflow_run_id == RUN


@pytest.mark.parametrize(
    ("field", "file", "text"),
    [
        ("verify", "nowhere.pem", "there is no CA bundle at"),
        ("verify", "garbage.pem", "names a file that cannot be loaded"),
        ("verify", "empty.pem", "names a file that cannot be loaded"),
        ("client_cert", "nowhere.pem", "there is no certificate or key at"),
        ("client_cert", "garbage.pem", "names a file that cannot be loaded"),
        ("client_cert", "client.pem", "names a file that cannot be loaded"),
        ("client_cert", '["{0}/client.pem", "{0}/server.key"]', "names a file that cannot be loaded"),
        ("client_cert", '["{0}/client.pem", "{0}/locked.key"]', "names a file that cannot be loaded"),
    ],
)
def test_a_file_that_cannot_be_used_is_a_wrong_connection(
    authority: Authority, serve: Serve, connect: Connect, face: Face, field: str, file: str, text: str
) -> None:
    (authority.folder / "garbage.pem").write_text("-----BEGIN CERTIFICATE-----\nnone\n")
    (authority.folder / "empty.pem").touch()
    server = serve(tls=authority.server_side())
    path = file.replace("{0}", str(authority.folder)) if file.startswith("[") else authority.path(file)
    connect(server.url, extra={"verify": authority.bundle, field: path})
    error = fails(ex.DifyConfigurationError, face, "get_workflow_run", RUN)
    assert text in error.message
    assert field in error.message
    assert isinstance(poll_error(face), ex.DifyConfigurationError)
    assert server.requests == []


# --- Proxies


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_plain_http_goes_through_the_proxy(serve: Serve, connect: Connect, face: Face) -> None:
    server, proxy = serve(), serve(Proxy(basic("me", PASSWORD)))
    connect(server.url, extra={"proxy": f"http://me:{PASSWORD}@127.0.0.1:{proxy.port}"})
    assert face("get_workflow_run", RUN).status is RunStatus.SUCCEEDED
    assert face("create_workflow_run", {}, user="me", response_mode="blocking").workflow_run_id == RUN
    assert [request.line for request in proxy.requests] == [
        f"GET {server.url}/v1/workflows/run/{RUN} HTTP/1.1",
        f"POST {server.url}/v1/workflows/run HTTP/1.1",
    ]
    assert len(server.requests) == 2
    assert all("proxy-authorization" not in request.headers for request in server.requests)


def test_https_goes_through_a_tunnel_that_sees_no_key(
    authority: Authority, serve: Serve, connect: Connect, face: Face
) -> None:
    server, proxy = serve(tls=authority.server_side()), serve(Proxy(basic("me", "p@ss:w/rd")))
    extra = {"proxy": f"http://me:p%40ss%3Aw%2Frd@127.0.0.1:{proxy.port}", "verify": authority.bundle}
    connect(server.url, extra=extra)
    assert face("get_workflow_run", RUN).status is RunStatus.SUCCEEDED
    assert face("create_workflow_run", {}, user="me", response_mode="blocking").workflow_run_id == RUN
    assert {request.line[:-1] for request in proxy.requests} == {f"CONNECT 127.0.0.1:{server.port} HTTP/1."}
    assert len(server.requests) == 2
    for request in proxy.requests:
        assert "authorization" not in request.headers
    for request in server.requests:
        assert "proxy-authorization" not in request.headers
        assert request.headers["authorization"] == f"Bearer {KEY}"


def test_a_tunnel_does_not_weaken_the_check_of_certificates(
    authority: Authority, serve: Serve, connect: Connect, face: Face
) -> None:
    server, proxy = serve(tls=authority.server_side()), serve(Proxy())
    connect(server.url, extra={"proxy": f"http://me:{PASSWORD}@127.0.0.1:{proxy.port}"})
    assert "is not trusted" in poll_error(face).message
    assert server.requests == []


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_wrong_proxy_credentials_are_reported_without_them(
    authority: Authority, serve: Serve, connect: Connect, face: Face, naps: list[float], tls: bool
) -> None:
    server = serve(tls=authority.server_side() if tls else None)
    proxy = serve(Proxy(basic("me", "another")))
    extra = {"proxy": f"http://me:{PASSWORD}@127.0.0.1:{proxy.port}", "verify": authority.bundle}
    connect(server.url, extra=extra)
    read = fails(ex.DifyError, face, "get_workflow_run", RUN)
    submitted = fails(ex.DifyError, face, "create_workflow_run", {}, user="me")
    for error in (read, submitted):
        assert "407" in error.message
        assert "proxy" in error.message.lower()
        # A request that no proxy passed on has started no run.
        assert not isinstance(error, ex.DifySubmissionUnknownError)
    assert server.requests == []


def test_proxy_credentials_beyond_latin_1_work_or_are_refused(serve: Serve, connect: Connect, face: Face) -> None:
    server, proxy = serve(), serve(Proxy())
    connect(server.url, extra={"proxy": f"http://me:%C5%BCabka-{PASSWORD}@127.0.0.1:{proxy.port}"})
    error = face("poll", RUN).error
    assert error is None or PASSWORD not in texts_of(error)


def test_a_proxy_that_is_not_there(serve: Serve, connect: Connect, face: Face, naps: list[float]) -> None:
    server = serve()
    # Bound, so that nobody else gets the port, but not listening.
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        connect(server.url, extra={"proxy": f"http://me:{PASSWORD}@127.0.0.1:{reserved.getsockname()[1]}"})
        error = fails(ex.DifyTransportError, face, "create_workflow_run", {}, user="me")
    assert "Nothing was sent" in error.message
    assert server.requests == []


@pytest.mark.parametrize("name", ["http_proxy", "ALL_PROXY"])
def test_a_proxy_of_the_environment(
    serve: Serve, connect: Connect, face: Face, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    server, proxy = serve(), serve(Proxy())
    connect(server.url)
    monkeypatch.setenv(name, f"127.0.0.1:{proxy.port}")
    face("get_workflow_run", RUN)
    assert (len(proxy.requests), len(server.requests)) == (1, 1)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    face("get_workflow_run", RUN)
    assert (len(proxy.requests), len(server.requests)) == (1, 2)


# --- What is sent, and to whom


def test_gateway_headers_go_with_every_request_and_replace_no_own_one(
    serve: Serve, connect: Connect, face: Face, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server = serve()
    connect(server.url, extra={"headers": {"X-Gateway-Token": TOKEN, "Cookie": "a=b"}})
    face("get_workflow_run", RUN)
    face("create_workflow_run", {}, user="me", response_mode="blocking")
    face("poll", RUN)
    assert len(server.requests) == 3
    for request in server.requests:
        assert request.headers["x-gateway-token"] == TOKEN
        assert request.headers["cookie"] == "a=b"
        assert request.headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("where", ["other", "same"])
def test_a_redirect_is_not_followed(serve: Serve, connect: Connect, face: Face, status: int, where: str) -> None:
    other = serve()
    target: list[str] = []
    server = serve(lambda request, connection: http(status, "", Location=target[0]))
    target.append(f"{(other if where == 'other' else server).url}/elsewhere?key={KEY}&token={TOKEN}")
    connect(server.url, extra={"headers": {"X-Gateway-Token": TOKEN}})
    for call, options in ((("get_workflow_run", RUN), {}), (("create_workflow_run", {}), {"user": "me"})):
        error = fails(ex.DifyResponseError, face, *call, **options)
        assert error.status_code == status
        assert "Redirects are not followed" in error.message
        assert "/elsewhere" in error.message
    assert len(server.requests) == 2
    assert other.requests == []


def test_without_a_host_the_environment_names_it(
    serve: Serve, connect: Connect, face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, second = serve(), serve()
    connect(None)
    monkeypatch.setenv("API_BASE_URL", second.url)
    monkeypatch.setenv("DIFY_API_BASE_URL", f"{server.url}/v1")
    face("get_workflow_run", RUN)
    monkeypatch.delenv("DIFY_API_BASE_URL")
    face("get_workflow_run", RUN)
    assert [each.requests[0].line for each in (server, second)] == [f"GET /v1/workflows/run/{RUN} HTTP/1.1"] * 2
    assert (len(server.requests), len(second.requests)) == (1, 1)
