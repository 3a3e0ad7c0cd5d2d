"""The link from a task to the run's page in Dify's console."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import BaseOperatorLink

from airflow_provider_dify.compat import has_resumed, is_own_process
from airflow_provider_dify.names import DATASET_URL_XCOM_KEY, URL_XCOM_KEY
from airflow_provider_dify.runtime.run_link import pushed_link

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, TaskInstanceKey


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

        if is_own_process(ti_key):
            # Airflow 3 asks in the task's own process at its end, and logs an error for each XCom that is not there.
            if (known := pushed_link(ti_key)) is not None:
                return known
            # No other process can have pushed it then: of XComs only a deferral leaves any.
            if not has_resumed(ti_key):
                return ""
        url = XCom.get_value(ti_key=ti_key, key=self.xcom_key)
        return url if isinstance(url, str) else ""


class DifyDatasetLink(DifyRunLink):
    """Leads to the documents of a knowledge base in Dify's console, from the moment at which it is known."""

    name = "Dify knowledge base"

    @property
    def xcom_key(self) -> str:
        """The XCom that Airflow 3 reads the link from."""
        return DATASET_URL_XCOM_KEY
