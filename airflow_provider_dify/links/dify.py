"""The link from a task to the run's page in Dify's console."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.providers.common.compat.sdk import BaseOperatorLink

from airflow_provider_dify.names import URL_XCOM_KEY

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, TaskInstanceKey


def run_page(console_url: str, app_id: str) -> str:
    """Return the page of an app's runs in the console; Dify has no address for a single one (API facts, section 13).

    :param console_url: Dify's console, without a slash at the end.
    :param app_id: The app's id, which the server tells as ``sys.app_id``.
    """
    return f"{console_url}/app/{quote(app_id, safe='')}/logs"


def run_url(console_url: str | None, app_id: str | None) -> str | None:
    """Return the page that a task links to: the app's runs, the console itself, or none.

    Nothing is made up: without an app id that the server told it is the console, and without a console that is
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
        ti.xcom_push(key=URL_XCOM_KEY, value=url)
    return url


class DifyRunLink(BaseOperatorLink):
    """Leads to the app's runs in Dify's console, from the moment at which the run is known."""

    name = "Dify run"

    @property
    def xcom_key(self) -> str:
        """The XCom that Airflow 3 reads the link from: the one that the task pushes while it runs."""
        return URL_XCOM_KEY

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the page's address, or an empty string before it is known."""
        from airflow.providers.common.compat.sdk import XCom

        url = XCom.get_value(ti_key=ti_key, key=URL_XCOM_KEY)
        return url if isinstance(url, str) else ""
