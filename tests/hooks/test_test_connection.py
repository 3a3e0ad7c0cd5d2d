"""What the Test button says, word by word."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from airflow_provider_dify.hooks.dify import DifyHook
from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.server import DifyServer
from airflow_provider_dify.testing.workflows import Workflow
from tests.hooks.support import KEY, PASSWORD, TOKEN, Connect, Serve, Start, http, serving
from tests.hooks.test_hook_transports import Authority, authority

__all__ = ["authority"]

BOTH = ("service-api", "workflow-runs")
PROBES = {"service-api": "Reading the app's information", "workflow-runs": "Reading run airflow-connection-test"}
POINTS = {"service-api": "info", "workflow-runs": "get_run"}
FOUND_AGAIN = "Exactly-once submission is supported on this server."


@pytest.fixture
def serve() -> Iterator[Serve]:
    with serving() as start:
        yield start


def reported() -> tuple[bool, str]:
    """Press the button; the answer never tells a secret."""
    ok, message = DifyHook().test_connection()
    assert not [secret for secret in (KEY, PASSWORD, TOKEN) if secret in message]
    assert message == " ".join(message.split())
    return ok, message


def test_a_workflow_app(dify: Start) -> None:
    dify("echo")
    assert reported() == (True, f"Connected to the workflow app 'echo' on Dify 1.16.1. {FOUND_AGAIN}")


def test_a_workflow_app_on_1_11(dify: Start) -> None:
    dify("echo", emulate="1.11.2")
    assert reported() == (True, f"Connected to the workflow app 'echo' on Dify 1.11.2. {FOUND_AGAIN}")


def test_a_workflow_app_on_1_9_1(dify: Start) -> None:
    dify("echo", emulate="1.9.1")
    assert reported() == (
        True,
        "Connected to the workflow app 'echo' on Dify 1.9.1. Runs are at most once on this version, which forgets a "
        "run whose stream breaks: such a task fails and nothing is sent twice. From Dify 1.9.2 on runs are exactly "
        "once.",
    )


@pytest.mark.parametrize(
    ("version", "server", "guarantee"),
    [
        (
            "1.10.0",
            "Dify 1.10.0",
            "Exactly-once submission is supported on this server; an interrupted submission is found once its run has "
            "ended.",
        ),
        (None, "a Dify server of unknown version", FOUND_AGAIN),
    ],
)
def test_other_versions(serve: Serve, connect: Connect, version: str | None, server: str, guarantee: str) -> None:
    headers = {"X_Version": version} if version else {}
    answers = serve(http(200, {"name": "a\nb\x1b[31m" + "x" * 100, "mode": "workflow"}, **headers))
    connect(answers.url)
    name = "a b\ufffd[31m" + "x" * 71 + "…"
    assert reported() == (True, f"Connected to the workflow app {name!r} on {server}. {guarantee}")


def test_a_server_that_does_not_tell_the_type(serve: Serve, connect: Connect) -> None:
    connect(serve(http(200, {"name": "old"}, X_Version="1.14.2")).url)
    assert reported() == (True, f"Connected to the app 'old' on Dify 1.14.2. {FOUND_AGAIN}")


def test_the_workflow_runs_contract(dify: Start) -> None:
    dify("echo", api_contract="workflow-runs")
    assert reported() == (
        True,
        "The gateway knows the API key. Its workflow-runs contract tells nothing about the app. Runs are at most once: "
        "a submission that was interrupted cannot be found again, and is not sent twice.",
    )


@pytest.mark.parametrize("contract", BOTH)
def test_a_wrong_key(dify: Start, connect: Connect, contract: str) -> None:
    server = dify(api_contract=contract)
    connect(server.base_url, KEY, extra={"api_contract": contract})
    assert reported() == (
        False,
        f"The API key is refused. {PROBES[contract]}: HTTP 401 unauthorized: Access token is invalid. "
        "Put the app's API key (app-…; in Dify: the app, API Access) into the connection's API key (password).",
    )


@pytest.mark.parametrize("contract", BOTH)
def test_an_app_without_api_access(dify: Start, contract: str) -> None:
    dify("off", workflows=[Workflow("off", api_enabled=False)], api_contract=contract)
    assert reported() == (
        False,
        f"The app's API access is switched off. {PROBES[contract]}: HTTP 403 forbidden: The app's API service has been "
        "disabled. Switch on the app's API access in Dify, or check what the gateway asks for.",
    )


def test_a_gateway_that_refuses_access(dify: Start) -> None:
    dify().inject(Fault("any", "status", status=403, body="<h1>No entry</h1>"))
    assert reported() == (
        False,
        "The server refuses access. Reading the app's information: HTTP 403: an HTML page (No entry). "
        "Switch on the app's API access in Dify, or check what the gateway asks for.",
    )


def test_an_app_of_another_type(dify: Start) -> None:
    dify("talk", workflows=[Workflow("talk", mode="advanced-chat")])
    assert reported() == (
        False,
        "The key is of the app 'talk', which is of the type advanced-chat: only apps of the type workflow can be run. "
        "Use the API key of an app of the type workflow (in Dify: the app, API Access).",
    )


@pytest.mark.parametrize("version", ["1.9.1", "1.11.2", "1.14.2"])
def test_an_app_that_is_not_published(dify: Start, version: str) -> None:
    dify("new", workflows=[Workflow("new", published=False)], emulate=version)
    assert reported() == (
        False,
        "The app 'new' has not been published. Reading the app's input form: HTTP 400 "
        "app_unavailable: App unavailable, please check your app configurations. The app has never been published: "
        "open its workflow in Dify and press Publish.",
    )


@pytest.mark.parametrize("contract", BOTH)
def test_a_wrong_path(dify: Start, connect: Connect, contract: str) -> None:
    server = dify(api_contract=contract)
    connect(f"{server.base_url}/console", server.api_key(), extra={"api_contract": contract})
    assert reported() == (
        False,
        f"There is no Dify API at {server.base_url}/console. Is /v1 missing? {PROBES[contract]}: HTTP 404 with an HTML "
        "page (404 Not Found): nothing is served at this path. Check the connection's Base URL (host): it usually ends "
        "in /v1.",
    )


def test_a_wrong_path_that_ends_in_v1(dify: Start, connect: Connect) -> None:
    server = dify()
    connect(f"{server.base_url}/dify/v1", server.api_key())
    assert reported()[1].startswith(
        f"There is no Dify API at {server.base_url}/dify/v1. Reading the app's information: "
    )


@pytest.mark.parametrize("contract", BOTH)
def test_a_host_where_nothing_listens(dify: Start, connect: Connect, contract: str) -> None:
    server = dify()
    server.down()
    connect(server.base_url, extra={"api_contract": contract})
    assert reported() == (
        False,
        f"There is no complete answer from {server.base_url}/v1: nothing listens there: the connection was refused. "
        "Check the Base URL and the port in it, the proxy, and that the machine of Airflow may reach it.",
    )


def test_a_host_that_has_no_address(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*arguments: Any, **options: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    # A resolver may answer for any name, so the machine's own is not asked.
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    connect("https://dify.invalid")
    assert reported() == (
        False,
        "There is no complete answer from https://dify.invalid/v1: its host name is not known here. "
        "Check the Base URL and the port in it, the proxy, and that the machine of Airflow may reach it.",
    )


def test_a_host_that_does_not_answer(dify: Start, connect: Connect) -> None:
    server = dify()
    server.inject(Fault("any", "hang", seconds=5))
    connect(server.base_url, extra={"read_timeout": 0.2})
    assert reported() == (
        False,
        f"There is no complete answer from {server.base_url}/v1: it did not answer in time. "
        "Check the Base URL and the port in it, the proxy, and that the machine of Airflow may reach it.",
    )
    assert len(server.requests) == 1


def test_a_certificate_that_is_not_trusted(authority: Authority, serve: Serve, connect: Connect) -> None:
    server = serve(tls=authority.server_side())
    connect(server.url)
    assert reported() == (
        False,
        f"The certificate of {server.url}/v1 is not trusted (unable to get local issuer certificate). Put the path of "
        "the CA bundle that signs it into the connection's field Verify TLS (verify), or use the name that the "
        "certificate is for.",
    )


def test_a_certificate_for_another_name(authority: Authority, serve: Serve, connect: Connect) -> None:
    server = serve(tls=authority.server_side())
    connect(f"https://localhost:{server.port}", extra={"verify": authority.bundle})
    ok, message = reported()
    assert not ok
    assert message.startswith(
        f"The certificate of https://localhost:{server.port}/v1 is not trusted (Hostname mismatch"
    )


def test_plain_http_where_tls_is_expected(dify: Start, connect: Connect) -> None:
    server = dify()
    connect(server.base_url.replace("http:", "https:"))
    assert reported() == (
        False,
        f"No TLS connection with https://127.0.0.1:{server.port}/v1: the server does not speak TLS. If it speaks plain "
        "http, let the connection's Base URL (host) begin with http://; a host without a scheme counts as https.",
    )


@pytest.mark.parametrize("contract", BOTH)
def test_the_login_page_of_a_gateway(dify: Start, contract: str) -> None:
    server = dify(api_contract=contract)
    server.inject(Fault(POINTS[contract], "login_page"))
    assert reported() == (
        False,
        f"Not Dify but something else answers at {server.base_url}/v1. {PROBES[contract]}: HTTP 200 came with an HTML "
        "page (Sign in) instead of JSON. Something in front of Dify, such as the login page of a gateway, may have "
        "answered: check the connection's Base URL (host) and Gateway headers (headers).",
    )


@pytest.mark.parametrize("contract", BOTH)
@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_to_another_host(dify: Start, contract: str, status: int) -> None:
    server = dify(api_contract=contract)
    target = f"https://sso.example.com/login?next={KEY}"
    server.inject(Fault(POINTS[contract], "redirect", url=target, status=status))
    assert reported() == (
        False,
        f"Dify's API is not at {server.base_url}/v1. {PROBES[contract]}: the server redirects (HTTP {status}) to "
        "https://sso.example.com/login. Redirects are not followed, since the API key must not reach another host. Put "
        "the final address into the connection's Base URL (host).",
    )


def test_a_key_that_was_not_typed_again(dify: Start, connect: Connect) -> None:
    """Airflow 2's form sends no key that it only knows from the database."""
    connect(dify().base_url, "")
    assert reported() == (
        False,
        "Field API key (password): is empty. Put the app's API key (app-…) there; it is in Dify in the app, under API "
        "Access.",
    )


def test_a_body_that_is_not_dify_s(dify: Start) -> None:
    server = dify()
    server.inject(Fault("info", "body", body='{"status": "UP"}', content_type="application/json"))
    assert reported() == (False, "The answer about the app names none; its keys are ['status'].")


def test_a_server_that_fails(dify: Start) -> None:
    dify().inject(Fault("info", "status", status=502))
    assert reported() == (
        False,
        "The server returned an error (HTTP 5xx); the connection may be right. Reading the app's information: HTTP "
        "502: an HTML page (502 Bad Gateway). The server or a gateway before it failed.",
    )


def test_a_server_that_echoes_the_key(dify: Start, connect: Connect) -> None:
    server = dify()
    connect(server.base_url, KEY, extra={"headers": {"X-Gateway": TOKEN}})
    server.inject(Fault("info", "status", status=401, code="unauthorized", message=f"bad {KEY} with {TOKEN}"))
    assert reported() == (
        False,
        "The API key is refused. Reading the app's information: HTTP 401 unauthorized: bad *** with ***. "
        "Put the app's API key (app-…; in Dify: the app, API Access) into the connection's API key (password).",
    )


@pytest.mark.parametrize(
    "fields",
    [
        # The button of 3.3's list of connections.
        {"port": 0, "schema": "", "login": "", "description": "", "extra": "{}"},
        # The button of 2.11's form.
        {
            "extra": json.dumps(
                {
                    "extra__dify__api_contract": "service-api",
                    "extra__dify__connect_timeout": "60",
                    "extra__dify__verify": "y",
                    "api_contract": "service-api",
                    "connect_timeout": "60",
                    "verify": "y",
                    "console_url": "None",
                }
            )
        },
    ],
    ids=["3.3", "2.11"],
)
def test_what_the_buttons_post(dify: Start, connect: Connect, fields: dict[str, Any]) -> None:
    server: DifyServer = dify()
    connect(server.base_url, server.api_key(), **fields)
    assert reported()[0] is True
