"""What Airflow's logs hide of a connection, and what they do not."""

from __future__ import annotations

from typing import Any

from airflow_provider_dify.hooks.dify import DifyHook
from tests.hooks.support import KEY, PASSWORD, TOKEN, Connect

try:
    from airflow.sdk._shared.secrets_masker import redact
except ImportError:
    try:
        from airflow.sdk.execution_time.secrets_masker import redact
    except ImportError:
        from airflow.utils.log.secrets_masker import redact

CONSOLE = "https://console.dify.example.com"
LINE: Any = f"link: {CONSOLE}/app/1/logs, key {KEY}, token {TOKEN}, proxy password {PASSWORD}"


def test_the_console_is_shown_and_the_secrets_are_not(connect: Connect) -> None:
    connect(
        "https://dify.example.com",
        KEY,
        extra={
            "console_url": CONSOLE,
            "headers": {"X-Gateway-Token": TOKEN},
            "proxy": f"http://me:{PASSWORD}@proxy.example.com:3128",
        },
    )
    hook = DifyHook()
    assert hook.connection.console_url == CONSOLE
    assert redact(LINE) == f"link: {CONSOLE}/app/1/logs, key ***, token ***, proxy password ***"
