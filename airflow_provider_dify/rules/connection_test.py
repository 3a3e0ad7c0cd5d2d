"""The test of a connection: what is asked of the server, and the message that follows."""

from __future__ import annotations

from contextlib import suppress

from airflow_provider_dify.api.knowledge_operations import list_datasets
from airflow_provider_dify.api.operations import ApiContract
from airflow_provider_dify.api.runs import AppInfo
from airflow_provider_dify.exceptions import DifyError, DifyProviderError, DifyRunNotFoundError
from airflow_provider_dify.names import WORKFLOW_RUNS
from airflow_provider_dify.rules import diagnosis
from airflow_provider_dify.rules.driver_requests import Flow, Send
from airflow_provider_dify.rules.exchanges import probe


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
