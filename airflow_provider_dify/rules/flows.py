"""The pages of the workflow logs, and the test of a connection: exchanges of several calls."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TypeVar

from airflow_provider_dify.api.checks import check_number
from airflow_provider_dify.api.knowledge_operations import list_datasets
from airflow_provider_dify.api.operations import LOGS_MAX_LIMIT, ApiContract, Operation
from airflow_provider_dify.api.runs import AppInfo, LoggedRun, LogPage
from airflow_provider_dify.exceptions import DifyError, DifyProviderError, DifyRunNotFoundError
from airflow_provider_dify.names import WORKFLOW_RUNS
from airflow_provider_dify.rules import diagnosis
from airflow_provider_dify.rules.driver_requests import Flow, Send

T = TypeVar("T")

# An id that no server has: what matters is whether the answer is about the key or about the id.
_PROBE_RUN_ID = "airflow-connection-test"


class RunPages:
    """The pages of the workflow logs, one after the other.

    Runs that start meanwhile push rows to the next page, so a run may come twice: it is given out once.

    :param api: The operations of the connection's contract.
    :param filters: The filters of ``ServiceApi.logs``.
    :param page_size: Rows to ask for at a time, 1 to 100.
    :raises DifyUnsupportedError: The contract has no logs.
    :raises DifyInvalidInputError: A filter is wrong.
    """

    def __init__(self, api: ApiContract, filters: Mapping[str, Any], page_size: int = LOGS_MAX_LIMIT) -> None:
        self._api = api
        self._filters = filters
        self._page_size = page_size
        self._seen: set[str] = set()
        self._number = 1
        self.next: Operation[LogPage] | None = self._page()

    def _page(self) -> Operation[LogPage]:
        return self._api.logs(**self._filters, page=self._number, limit=self._page_size)

    def take(self, page: LogPage) -> list[LoggedRun]:
        """Return the runs of a page that were on none before it; ``next`` then asks for the following one, if any."""
        new = [run for run in page.runs if run.workflow_run_id not in self._seen]
        self._seen.update(run.workflow_run_id for run in new)
        self._number += 1
        self.next = self._page() if page.has_more and page.runs else None
        return new


def find_runs(api: ApiContract, filters: Mapping[str, Any], limit: int) -> Flow[list[LoggedRun]]:
    """Collect rows of the workflow logs over as many pages as it takes.

    :param filters: The filters of ``ServiceApi.logs``.
    :param limit: Rows to return at most.
    """
    limit = check_number(limit, "limit", 1)
    pages = RunPages(api, filters, min(limit, LOGS_MAX_LIMIT))
    found: list[LoggedRun] = []
    while pages.next is not None and len(found) < limit:
        found += pages.take((yield pages.next))
    return found[:limit]


def probe(api: ApiContract) -> Operation[Any]:
    """Return the cheapest call that any server answers, be it with an error of its own."""
    return api.get_run(_PROBE_RUN_ID) if api.name == WORKFLOW_RUNS else api.info()


def test_connection(api: ApiContract, base_url: str) -> Flow[tuple[bool, str]]:
    """Ask whatever tells that the connection can run workflows, and say what came of it.

    :param base_url: Where the API's routes begin, for the message.
    """
    app: AppInfo | None = None
    try:
        if api.name == WORKFLOW_RUNS:
            return True, (yield from _known_to_gateway(api))
        app = yield Send(api.info(), retry=False)
        if app.mode is not None and app.mode != "workflow":
            return False, diagnosis.wrong_mode(app)
        yield Send(api.parameters(), retry=False)
        return True, diagnosis.success(app)
    except DifyError as error:
        return False, diagnosis.problem(error, base_url, app)


def test_knowledge(base_url: str) -> Flow[tuple[bool, str]]:
    """Ask what tells that the connection opens knowledge bases, and say what came of it.

    :param base_url: Where the API's routes begin, for the message.
    """
    try:
        page = yield Send(list_datasets(limit=1), retry=False)
        return True, diagnosis.success_of_knowledge(page.total)
    except DifyProviderError:
        # The key was accepted: Dify fails at listing its embedding models.
        return True, diagnosis.success_of_knowledge(None)
    except DifyError as error:
        return False, diagnosis.problem(error, base_url)


def _known_to_gateway(api: ApiContract) -> Flow[str]:
    with suppress(DifyRunNotFoundError):
        yield Send(probe(api), retry=False)
    return diagnosis.success_of_gateway()
