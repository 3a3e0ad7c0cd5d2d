"""Every parameter of the hook's methods, and every field of a connection, with values that nobody should pass."""

from __future__ import annotations

import asyncio
import inspect
import io
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from functools import cache
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from airflow_provider_dify.api.human_input import HumanInputAction, HumanInputForm
from airflow_provider_dify.api.runs import RunStatus, WorkflowRun
from airflow_provider_dify.client import aiohttp_transport as http_async
from airflow_provider_dify.client import exchange as http
from airflow_provider_dify.client.exchange import tls_context
from airflow_provider_dify.connection import DifyConnection
from airflow_provider_dify.connection_fields import EXTRA_NAMES, field_label
from airflow_provider_dify.exceptions import DifyConfigurationError, DifyError, DifyInvalidInputError
from airflow_provider_dify.hooks.dify import DifyHook
from airflow_provider_dify.hooks.human_input import HumanInputCalls
from airflow_provider_dify.rules.polling import Deadline
from airflow_provider_dify.runtime.worker_client import WorkerClient
from tests.hooks.support import KEY, RUN
from tests.hostile import Sent, check_refusal, every_value, hostile, hostile_texts, own_parameters

quick = settings(
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def _flow() -> Iterator[Any]:
    return None
    yield


FORM = HumanInputForm("", (), (HumanInputAction("approve", "Approve"),))
VALID: dict[str, Callable[[], Any]] = {
    "user": lambda: "u",
    "workflow_run_id": lambda: RUN,
    "task_id": lambda: "t",
    "file": lambda: io.BytesIO(b"content"),
    "name": lambda: "a.txt",
    "destination": lambda: "/nowhere/there/file",
    "form_token": lambda: "token-of-a-form",
    "action": lambda: "approve",
    "form": lambda: FORM,
    "run": lambda: WorkflowRun(RUN, RunStatus.PAUSED, inputs={"sys.user_id": "u"}),
    "flow": _flow,
    "log": lambda: print,
    "deadline": lambda: Deadline(time.time() + 60),
    "text": lambda: "x",
}
"""A value for each parameter that has no default, or where more is asked once it is given."""
URL = "http://127.0.0.1:9/files/x/file-preview"
FILES = {"download_file": {"file": lambda: URL}}

OF_CLIENTS = {"run_exchange", "iterate_exchange", "send"}
"""What is called with an exchange of this package alone."""

METHODS = {
    name: function
    for kind in (DifyHook, HumanInputCalls, WorkerClient)
    for name, function in vars(kind).items()
    if not name.startswith("_") and name not in OF_CLIENTS and inspect.isfunction(function) and own_parameters(function)
}
PARAMETERS = [(method, name) for method, function in METHODS.items() for name in own_parameters(function)]


HOOKS = {conn_id: DifyHook(conn_id) for conn_id in ("dify_default", "gateway")}


@pytest.fixture(scope="module", autouse=True)
def network() -> Iterator[None]:
    """Let a request get to where its first byte would leave."""

    def send(self: Any, request: requests.PreparedRequest, **_: Any) -> Any:
        if request.body is not None:
            b"".join(request.body)  # type: ignore[arg-type]
        head = "".join(f"{name}: {value}" for name, value in request.headers.items())
        assert "\r" not in head
        assert "\n" not in head
        raise Sent

    @cache
    def context(verify: Any, client_cert: Any) -> Any:
        return tls_context(DifyConnection("http://h/v1", KEY, client_cert=client_cert), verify)

    async def connect(self: Any, request: Any, *_: Any, **__: Any) -> Any:
        raise Sent

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requests.adapters.HTTPAdapter, "send", send)
        patch.setattr(aiohttp.TCPConnector, "connect", connect)
        # Reading the certificates of all authorities takes longer than everything else here.
        patch.setattr(http_async, "tls_context", lambda connection, bundle: context(bundle, connection.client_cert))
        patch.setenv("AIRFLOW_CONN_DIFY_DEFAULT", json.dumps({"conn_type": "dify", "host": URL[:18], "password": KEY}))
        patch.setenv(
            "AIRFLOW_CONN_GATEWAY",
            json.dumps(
                {"conn_type": "dify", "host": URL[:18], "password": KEY, "extra": {"api_contract": "workflow-runs"}}
            ),
        )
        patch.setattr(http, "RETRIES", 0)
        logging.disable(logging.CRITICAL)
        yield
        logging.disable(logging.NOTSET)


def arguments_of(method: str, name: str, value: Any) -> dict[str, Any]:
    """Return arguments that are all valid but one."""
    chosen = {**VALID, **FILES.get(method.removeprefix("a"), {})}
    given = {
        other: chosen[other]()
        for other, each in own_parameters(METHODS[method]).items()
        if each.default is inspect.Parameter.empty
        or other == "name"
        or (other == "form" and name in ("action", "form"))
    }
    return {**given, name: value}


async def call(hook: DifyHook, method: str, arguments: dict[str, Any]) -> Any:
    """Call a method to its end, whatever kind of method it is."""
    result = getattr(hook, method)(**arguments)
    if inspect.isasyncgen(result):
        return [each async for each in result]
    if inspect.isgenerator(result):
        return list(result)
    return await result if inspect.iscoroutine(result) else result


def run(hook: DifyHook, method: str, arguments: dict[str, Any]) -> Any:
    """Call one method."""

    async def calling() -> Any:
        async with hook:
            return await call(hook, method, arguments)

    return asyncio.run(calling())


async def outcome(hook: DifyHook, method: str, name: str, value: Any) -> None:
    if name in ("before_send", "on_started", "log") and callable(value):
        # What it raises is its author's.
        return
    try:
        await call(hook, method, arguments_of(method, name, value))
    except Sent:
        return
    except DifyError as error:
        if hook.dify_conn_id == "gateway" and "workflow-runs contract" in str(error):
            return
        check_refusal(error, name)


def test_there_is_a_valid_value_for_each_parameter() -> None:
    """A parameter that is new, and has no default, needs an entry in ``VALID``."""
    assert len(PARAMETERS) >= 100
    for method in METHODS:
        arguments_of(method, "", None)


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"redact", "follow"}))
def test_valid_values_are_accepted(method: str) -> None:
    arguments = arguments_of(method, "", None)
    arguments.pop("")
    with pytest.raises(Sent):
        run(DifyHook(), method, arguments)


@pytest.mark.parametrize(("method", "name"), PARAMETERS)
def test_each_hostile_value_is_sent_or_refused_by_name(method: str, name: str) -> None:
    async def calling() -> None:
        async with DifyHook() as hook:
            for value in every_value():
                await outcome(hook, method, name, value)

    asyncio.run(calling())


@pytest.mark.parametrize("conn_id", HOOKS)
@pytest.mark.parametrize("method", [method for method in METHODS if not method.startswith("a")])
@settings(parent=quick, max_examples=10)
@given(data=st.data())
def test_any_value_is_sent_or_refused_by_name(method: str, conn_id: str, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(list(own_parameters(METHODS[method]))))
    hook, value = HOOKS[conn_id], data.draw(hostile())
    with suppress(StopIteration):
        outcome(hook, method, name, value).send(None)


@pytest.mark.parametrize("method", ["get_info", "aget_info"])
def test_a_connection_id_that_is_none_is_refused_by_name(method: str) -> None:
    for value in every_value():
        with pytest.raises(DifyError) as caught:
            run(DifyHook(value), method, {})
        check_refusal(
            caught.value, "dify_conn_id", "dify_conn_id" if "dify_conn_id" in str(caught.value) else "There is no"
        )


FIELDS = ("host", "schema", "port", "password", "extra", *EXTRA_NAMES)
FINE: dict[str, Any] = {"host": "h", "schema": None, "port": None, "password": KEY, "extra": {}}


def parsed(field: str, value: Any) -> DifyConnection | None:
    """Return the connection with one hostile field, or None where it is refused as it should be."""
    fields = {**FINE, **({field: value} if field in FINE else {"extra": {field: value}})}
    try:
        return DifyConnection.parse(conn_id="it", **fields)
    except DifyConfigurationError as error:
        check_refusal(error, field, f"Connection 'it', field {'' if field == 'extra' else field_label(field)}")
    return None


def reached(connection: DifyConnection) -> None:
    """Take a connection that was accepted as far as its first request."""
    hook, async_hook = DifyHook(), DifyHook()
    hook.__dict__["connection"] = async_hook.in_loop._connection = connection
    for each, method in ((hook, "get_info"), (async_hook, "aget_info")):
        try:
            run(each, method, {})
        except Sent:
            continue
        except DifyConfigurationError as error:
            # Files are read when they are needed, and may be no certificates.
            check_refusal(error, "", "client_cert" if "client_cert" in str(error) else "verify")
        else:
            raise AssertionError("a request has got nowhere")


def accepted(field: str, value: Any) -> None:
    connection = parsed(field, value)
    if connection is not None:
        reached(connection)


@pytest.mark.parametrize("field", FIELDS)
def test_each_hostile_field_is_refused_by_name(field: str) -> None:
    for value in every_value():
        accepted(field, value)


@pytest.mark.parametrize("field", FIELDS)
@settings(parent=quick, max_examples=10)
@given(value=hostile())
def test_any_field_is_used_or_refused_by_name(field: str, value: Any) -> None:
    accepted(field, value)


_ODD = st.text(alphabet=st.sampled_from("abcZ09.-_~|%[]:@/?#!$&'()*+,;=<>{}^`\\\"\u00e9\u2100\u3002 "), max_size=12)


@pytest.mark.parametrize("field", ["host", "proxy", "console_url"])
@settings(parent=quick, max_examples=60)
@given(scheme=st.sampled_from(["", "http://", "https://"]), host=_ODD, path=_ODD)
def test_any_address_is_used_or_refused_by_name(field: str, scheme: str, host: str, path: str) -> None:
    accepted(field, f"{scheme}{host}/{path}")
    accepted(field, f"{scheme}h{host}")


@settings(parent=quick, max_examples=60)
@given(
    user=hostile_texts(),
    host=st.sampled_from(["h", "h|x", "[::1", "%00", "a" * 64, ""]) | _ODD,
    port=st.sampled_from(["", ":80", ":99999", ":x", ":" + "9" * 5000]),
    path=_ODD,
    extras=st.dictionaries(st.sampled_from(EXTRA_NAMES) | _ODD, hostile_texts(), max_size=2),
)
def test_any_uri_is_used_or_refused(user: str, host: str, port: str, path: str, extras: dict[str, str]) -> None:
    query = urlencode(extras, errors="surrogatepass")
    uri = f"dify://:{quote(user, safe='', errors='surrogatepass')}@{host}{port}/{path}?{query}"
    if "\0" in uri:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_URI", uri)
        try:
            run(DifyHook("uri"), "get_info", {})
        except Sent:
            return
        except DifyError as error:
            check_refusal(error, "", "onnection")


@pytest.mark.parametrize(
    "host", ["h", "h:80", "my_host", "host-1.example.com.", "b\u00fccher.example", "[::1]:5001", "10.0.0.1"]
)
def test_what_hosts_are_called_is_accepted(host: str) -> None:
    connection = parsed("host", host)
    assert connection is not None
    reached(connection)


def test_a_header_cannot_be_smuggled_into_an_upload() -> None:
    for name, value in (("mime_type", "a\r\nX: 1"), ("name", "a\ud800.txt")):
        with pytest.raises(DifyInvalidInputError, match=name) as caught:
            run(DifyHook(), "upload_file", arguments_of("upload_file", name, value))
        assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", [timedelta.max, 10**400, 1e300])
def test_a_time_beyond_all_clocks_is_refused_with_the_limit(value: Any) -> None:
    with pytest.raises(DifyInvalidInputError, match="timeout must be at most 3,155,760,000 seconds"):
        run(DifyHook(), "create_workflow_run", arguments_of("create_workflow_run", "timeout", value))


def test_a_host_that_none_can_be_called_is_shown() -> None:
    with pytest.raises(
        DifyConfigurationError, match=r"field Base URL \(host\): names the host 'h\|x', which no host can be called"
    ):
        DifyConnection.parse(conn_id="it", **{**FINE, "host": "http://h|x"})
