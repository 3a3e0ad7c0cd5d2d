"""The link from a task to the run's page in Dify's console."""

from __future__ import annotations

from typing import TYPE_CHECKING
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


class DifyRunLink(BaseOperatorLink):
    """Leads to the app's runs in Dify's console, once the operator or sensor has learned the app's id."""

    name = "Dify run"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the page's address, or an empty string before it is known."""
        from airflow.providers.common.compat.sdk import XCom

        url = XCom.get_value(ti_key=ti_key, key=URL_XCOM_KEY)
        return url if isinstance(url, str) else ""
