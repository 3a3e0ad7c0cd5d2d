"""The link from a task to the run's page in Dify's console."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.providers.common.compat.sdk import BaseOperatorLink

from airflow_provider_dify.airflow_errors import reason_of
from airflow_provider_dify.names import URL_XCOM_KEY

log = logging.getLogger(__name__)

# The links of this process's tasks, which is one outside of tests.
_pushed: dict[tuple[Any, ...], str] = {}

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
        _pushed[_key_of(ti)] = url
        try:
            _store(ti, url)
        except Exception as error:
            # The link is a help: the run goes on, and so does the task.
            log.warning("The link to the run could not be stored (%s). The task goes on.", reason_of(error))
    return url


def _store(ti: Any, url: str) -> None:
    """Push the link past an XCom backend, where Airflow 3 lets a task do so.

    The web interface of Airflow 3 shows what stands in the database, and a backend that keeps values in an object
    store leaves the address of a file there. Airflow itself stores the link this way when the task ends.
    """
    from airflow.providers.common.compat.sdk import XCom

    past_backend = getattr(XCom, "_set_xcom_in_db", None)
    if past_backend is None or _context_of(ti) is None:
        ti.xcom_push(key=URL_XCOM_KEY, value=url)
        return
    past_backend(
        key=URL_XCOM_KEY,
        value=url,
        dag_id=ti.dag_id,
        task_id=ti.task_id,
        run_id=ti.run_id,
        map_index=ti.map_index,
    )


def _key_of(ti: Any) -> tuple[Any, ...]:
    return ti.dag_id, ti.task_id, ti.run_id, ti.map_index, ti.try_number


def _context_of(ti: Any) -> Any:
    """Return what Airflow 3 tells a task's process of the try; None elsewhere."""
    return getattr(ti, "_ti_context_from_server", None)


def _began_here(ti: Any) -> bool:
    """Tell whether no other process can have pushed the try's link: of XComs only a deferral leaves any."""
    return not getattr(_context_of(ti), "next_method", None)


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

        if _context_of(ti_key) is not None:
            # Airflow 3 asks in the task's own process at its end, and logs an error for each XCom that is not there.
            if (known := _pushed.get(_key_of(ti_key))) is not None:
                return known
            if _began_here(ti_key):
                return ""
        url = XCom.get_value(ti_key=ti_key, key=URL_XCOM_KEY)
        return url if isinstance(url, str) else ""
