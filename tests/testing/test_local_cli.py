"""The local server as a command."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "airflow_provider_dify.testing"]
LIMIT = 30


def found(pattern: str, text: str, flags: int = 0) -> str:
    """Return the first group of a pattern that must be there."""
    match = re.search(pattern, text, flags)
    assert match, text
    return match[1]


@contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the command and yield its process and what it lines until it was ready."""
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
    )
    try:
        assert process.stdout
        lines = ""
        for line in process.stdout:
            lines += line
            if line.startswith("Stop with"):
                break
        yield process, lines
    finally:
        process.kill()
        process.communicate(timeout=LIMIT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serves_until_a_signal(number: signal.Signals) -> None:
    """It says URL, keys, connection and a first request, and ends with exit code 0, open streams or not."""
    with running("--time-scale", "0.1") as (process, lines):
        connection = json.loads(found(r"^ *(\{\"conn_type.*)$", lines, re.M))
        assert connection.keys() == {"conn_type", "host", "password"}
        assert connection["conn_type"] == "dify"
        assert connection["host"] in lines.splitlines()[0]
        assert re.search(rf"^  summarize +{connection['password']}  ", lines, re.M)
        headers = {"Authorization": f"Bearer {connection['password']}"}
        info = requests.get(f"{connection['host']}/v1/info", headers=headers, timeout=LIMIT)
        assert info.json()["name"] == "summarize"
        slow = {"Authorization": f"Bearer {found(r'slow +(app-[a-zA-Z0-9]+)', lines)}"}
        body = {"inputs": {"seconds": 600}, "user": "me", "response_mode": "streaming"}
        with requests.post(
            f"{connection['host']}/v1/workflows/run", json=body, headers=slow, stream=True, timeout=LIMIT
        ) as stream:
            next(stream.iter_content(None))
            process.send_signal(number)
            _, errors = process.communicate(timeout=LIMIT)
    assert (process.returncode, errors) == (0, "")


def test_the_curl_example_works() -> None:
    """Copied into a shell."""
    with running("--emulate", "1.11.2", "--time-scale", "0.1") as (_, lines):
        command = lines[lines.index("  curl ") : lines.index("Stop with")]
        answer = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=LIMIT, check=True)
    assert json.loads(answer.stdout)["data"]["outputs"]["summary"] == "Airflow runs it."


def test_serves_the_other_contract_and_own_workflows(tmp_path: Path) -> None:
    """The connection says so."""
    flows = tmp_path / "flows.yaml"
    flows.write_text("workflows: [{name: mine, inputs: [{name: n, type: number}]}]", encoding="utf-8")
    with running("--api-contract", "workflow-runs", "--workflows", str(flows)) as (_, lines):
        connection = json.loads(found(r"^ *(\{\"conn_type.*)$", lines, re.M))
        assert connection["extra"] == {"api_contract": "workflow-runs"}
        url = found(r"curl -s (\S+)", lines)
        body = {"inputs": {"n": 1}, "user": "me"}
        headers = {"Authorization": f"Bearer {connection['password']}"}
        answer = requests.post(url, json=body, headers=headers, timeout=LIMIT)
        assert answer.json()["status"] == "queued"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--emulate", "2.0"], "emulate must be one of 1.9.1, 1.11.2, 1.14.2, 1.16.1, not '2.0'"),
        (["--api-contract", "x"], "api_contract must be one of service-api, workflow-runs, not 'x'"),
        (["--port", "http"], "argument --port: invalid int value: 'http'"),
        (["--host", "0.0.0.0"], "host must be a loopback address"),
        (["--time-scale", "-1"], "time_scale must be greater than 0"),
        (["--connections", "-1"], "connections must be 1 or more"),
        (["--workflows", "nope.yaml"], "nope.yaml: no such file"),
        (["--colour"], "unrecognized arguments: --colour"),
    ],
)
def test_bad_options_are_one_line_and_exit_code_2(arguments: list[str], message: str) -> None:
    """What is wrong, and what would be right."""
    ended = subprocess.run([*COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert message in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_taken_port_is_one_line_and_exit_code_2() -> None:
    """Another server listens there."""
    with running() as (_, lines):
        port = found(r"http://127.0.0.1:(\d+)", lines)
        ended = subprocess.run(
            [*COMMAND, "--port", port], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False
        )
    assert ended.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_help_is_given() -> None:
    """With every option."""
    ended = subprocess.run([*COMMAND, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=True)
    for option in ("--port", "--host", "--emulate", "--api-contract", "--connections", "--worker-slots"):
        assert option in ended.stdout
    assert "--time-scale" in ended.stdout
    assert "--workflows" in ended.stdout
