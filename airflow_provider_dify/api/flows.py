"""Deeds that take more than one call, written once: generators that yield operations and get their values."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, TypeVar

from airflow_provider_dify.api.calls import LOGS_MAX_LIMIT, ApiContract, Operation
from airflow_provider_dify.api.runs import LoggedRun
from airflow_provider_dify.api.values import shape_of
from airflow_provider_dify.exceptions import DifyInvalidInputError, DifyNotFoundError
from airflow_provider_dify.names import WORKFLOW_RUNS

T = TypeVar("T")
Flow = Generator[Operation[Any], Any, T]

# An id that no server has: what matters is whether the answer is about the key or about the id.
_PROBE_RUN_ID = "airflow-connection-test"


def find_runs(api: ApiContract, filters: Mapping[str, Any], limit: int) -> Flow[list[LoggedRun]]:
    """Collect rows of the workflow logs over as many pages as it takes.

    Runs that start meanwhile push rows to the next page, so a run may come twice: it is returned once.

    :param filters: The filters of ``ServiceApi.logs``.
    :param limit: Rows to return at most.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise DifyInvalidInputError(f"limit must be a whole number of at least 1 and is {shape_of(limit)}.")
    found: dict[str, LoggedRun] = {}
    number = 1
    while True:
        page = yield api.logs(**filters, page=number, limit=min(limit, LOGS_MAX_LIMIT))
        for run in page.runs:
            found.setdefault(run.workflow_run_id, run)
        if not page.has_more or not page.runs or len(found) >= limit:
            return list(found.values())[:limit]
        number += 1


def test_connection(api: ApiContract) -> Flow[tuple[bool, str]]:
    """Ask whatever tells that the connection can run workflows; errors come out as they are."""
    if api.name == WORKFLOW_RUNS:
        try:
            yield api.get_run(_PROBE_RUN_ID)
        except DifyNotFoundError as error:
            if error.code is None and "HTML" in error.message:
                raise
        return True, "The gateway knows the API key. Its workflow-runs contract tells nothing about the app."
    info = yield api.info()
    if info.mode is not None and info.mode != "workflow":
        return False, (
            f"The key is of the app {info.name!r}, which is of the type {info.mode}: only apps of the type workflow "
            "can be run. Use the API key of a workflow app."
        )
    yield api.parameters()
    server = f"Dify {info.server_version}" if info.server_version else "Dify (version not told)"
    return True, f"Connected to the workflow app {info.name!r} on {server}."
