"""Runs the local Dify server: `python -m airflow_provider_dify.testing`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any, NoReturn

from airflow_provider_dify.testing.app import API_CONTRACTS
from airflow_provider_dify.testing.apps import App
from airflow_provider_dify.testing.server import DifyServer
from airflow_provider_dify.testing.versions import VERSIONS
from airflow_provider_dify.testing.workflows import WorkflowError, load_workflows

_EXAMPLES: dict[str, Any] = {"number": 1, "checkbox": True, "json_object": {}, "file-list": []}


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM, and return the exit code."""
    parser = _make_parser()
    options = parser.parse_args(arguments)
    try:
        workflows = load_workflows(options.workflows) if options.workflows else None
        server = DifyServer(
            workflows,
            emulate=options.emulate,
            api_contract=options.api_contract,
            connections=options.connections or None,
            worker_slots=options.worker_slots or None,
            time_scale=options.time_scale,
            host=options.host,
            port=options.port,
        )
    except (WorkflowError, ValueError) as error:
        parser.error(str(error))
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    try:
        server.start()
    except RuntimeError as error:
        parser.error(str(error))
    print(describe(server), flush=True)
    ended.wait()
    server.stop()
    return 0


def describe(server: DifyServer) -> str:
    """Return what somebody needs to use a server: URL, keys, an Airflow connection, a first request."""
    app = server.apps[0]
    connection: dict[str, Any] = {
        "conn_type": "dify",
        "host": server.base_url,
        "password": app.api_key,
    }
    route = "/workflows/run"
    if server.api_contract == "workflow-runs":
        connection["extra"] = {"api_contract": server.api_contract}
        route = f"/workflows/{app.workflow_id}/run"
    body = {"inputs": _example_inputs(app), "response_mode": "blocking", "user": "me"}
    width = max(len(each.name) for each in server.apps)
    return "\n".join(
        [
            f"Local Dify server, as {server.emulate} ({server.api_contract}): {server.base_url}",
            "",
            "Apps and their API keys:",
            *(f"  {each.name:<{width}}  {each.api_key}  {each.workflow.description}" for each in server.apps),
            "",
            f"Airflow connection to {app.name} (export AIRFLOW_CONN_DIFY_DEFAULT='...'):",
            f"  {json.dumps(connection)}",
            "",
            *_knowledge(server),
            "Try it:",
            f"  curl -s {server.api_url}{route} -H 'Authorization: Bearer {app.api_key}' \\",
            f"    -H 'Content-Type: application/json' -d '{json.dumps(body)}'",
            "",
            "Stop with Ctrl+C.",
        ]
    )


def _knowledge(server: DifyServer) -> list[str]:
    if server.api_contract != "service-api" or not server.datasets:
        return []
    connection = {"conn_type": "dify", "host": server.base_url, "password": server.dataset_key}
    return [
        "Knowledge bases and their ids:",
        *(f"  {name}  {dataset_id}" for name, dataset_id in server.datasets.items()),
        "",
        "Airflow connection to them (export AIRFLOW_CONN_DIFY_KNOWLEDGE='...'):",
        f"  {json.dumps(connection)}",
        "",
    ]


def _example_inputs(app: App) -> dict[str, Any]:
    examples = {}
    for item in app.workflow.inputs:
        if item.type == "select":
            examples[item.name] = next(iter(item.options or ()))
        elif item.required:
            examples[item.name] = _EXAMPLES.get(item.type, "Airflow runs it. Dify thinks.")
    return examples


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m airflow_provider_dify.testing",
        description="A local Dify server for DAG tests and first steps, on the loopback interface only.",
        allow_abbrev=False,
    )
    parser.add_argument("--port", type=int, default=0, metavar="N", help="port, 0 for a free one (default)")
    parser.add_argument("--host", default="127.0.0.1", help="loopback address (default %(default)s)")
    parser.add_argument(
        "--emulate",
        default="1.16.1",
        metavar="V",
        help=f"version: {', '.join(VERSIONS)} (default %(default)s)",
    )
    parser.add_argument(
        "--api-contract",
        default="service-api",
        metavar="C",
        help=f"{' or '.join(API_CONTRACTS)} (default %(default)s)",
    )
    parser.add_argument(
        "--connections", type=int, default=10, metavar="N", help="request slots, 0 for no limit (default 10)"
    )
    parser.add_argument(
        "--worker-slots", type=int, default=4, metavar="N", help="worker slots, 0 for no limit (default 4)"
    )
    parser.add_argument(
        "--time-scale", type=float, default=1.0, metavar="X", help="factor on every duration (default 1)"
    )
    parser.add_argument("--workflows", metavar="FILE", help=".py or .yaml file with workflows to offer instead")
    return parser


if __name__ == "__main__":
    sys.exit(main())
