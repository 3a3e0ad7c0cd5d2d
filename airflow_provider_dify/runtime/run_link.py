"""The page in Dify's console that a task links to, known as soon as the run is."""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import quote

from airflow_provider_dify.compat import push_xcom
from airflow_provider_dify.names import URL_XCOM_KEY
from airflow_provider_dify.runtime.airflow_errors import reason_of

log = logging.getLogger(__name__)

# The links of this process's tasks, which is one outside of tests.
_pushed: dict[tuple[Any, ...], str] = {}


def run_page(console_url: str, app_id: str) -> str:
    """Return the page of an app's runs in the console; Dify has no address for a single one (dify-behaviour.md,
    section 13).

    :param console_url: Dify's console, without a slash at the end.
    :param app_id: The app's id, which the server tells as ``sys.app_id``.
    """
    return f"{console_url}/app/{quote(app_id, safe='')}/logs"


def run_url(console_url: str | None, app_id: str | None) -> str | None:
    """Return the page that a task links to: the app's runs, the console itself, or none.

    Nothing is made up: without an app id of the server it is the console, and without a console that is
    known (a gateway of the ``workflow-runs`` contract is none) there is no link.

    :param console_url: Dify's console, without a slash at the end.
    :param app_id: The app's id.
    """
    if console_url is None or app_id is None:
        return console_url
    return run_page(console_url, app_id)


def push_link(ti: Any, console_url: str | None, app_id: str | None) -> str | None:
    """Make the link of a task known while it still runs; Airflow itself asks for it only when the task ends.

    :return: Where it leads; None where there is none.
    """
    url = run_url(console_url, app_id)
    if url is not None:
        push_url(ti, URL_XCOM_KEY, url)
    return url


def dataset_url(console_url: str | None, dataset_id: str) -> str | None:
    """Return the page of a knowledge base's documents in the console; None without a console that is known."""
    return None if console_url is None else f"{console_url}/datasets/{quote(dataset_id, safe='')}/documents"


def push_url(ti: Any, key: str, url: str) -> None:
    """Make the link of a task known while it still runs.

    :param key: The XCom that the link is read from.
    """
    _pushed[_key_of(ti)] = url
    try:
        push_xcom(ti, key, url)
    except Exception as error:
        # The link is a help: the task goes on.
        log.warning("The link to Dify could not be stored (%s). The task goes on.", reason_of(error))


def pushed_link(ti: Any) -> str | None:
    """Return the link that this process has pushed for a try; None for none."""
    return _pushed.get(_key_of(ti))


def _key_of(ti: Any) -> tuple[Any, ...]:
    return ti.dag_id, ti.task_id, ti.run_id, ti.map_index, ti.try_number
