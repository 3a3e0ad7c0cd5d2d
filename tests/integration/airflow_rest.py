"""Airflow's public REST API as a person's clicks use it, on Airflow 2 and 3 alike."""

from __future__ import annotations

import json
from typing import Any

import requests

from tests.integration.airflow_dags import is_airflow_2

USER = PASSWORD = "admin"


class Rest:
    """
    Triggers, marks and clears.

    :param address: Where Airflow's API server, or webserver, listens.
    """

    def __init__(self, address: str) -> None:
        self._base = f"{address}/api/{'v1' if is_airflow_2() else 'v2'}"
        self._session = requests.Session()
        self._session.trust_env = False
        if is_airflow_2():
            self._session.auth = (USER, PASSWORD)
        self._token_address = f"{address}/auth/token"

    def answers(self) -> bool:
        """Tell whether the server takes requests."""
        try:
            if not is_airflow_2():
                token = self._session.get(self._token_address, timeout=30).json()["access_token"]
                self._session.headers["Authorization"] = f"Bearer {token}"
            return self._session.get(f"{self._base}/dags", timeout=30).ok
        except (requests.RequestException, ValueError, KeyError):
            return False

    def trigger(self, dag_id: str, run_id: str, conf: dict[str, Any] | None = None) -> None:
        logical_date = {} if is_airflow_2() else {"logical_date": None}
        self._call("POST", f"dags/{dag_id}/dagRuns", {"dag_run_id": run_id, "conf": conf or {}, **logical_date})

    def mark_task(self, dag_id: str, run_id: str, task_id: str, state: str) -> None:
        body: dict[str, Any] = {"new_state": state}
        if is_airflow_2():
            body["dry_run"] = False
        self._call("PATCH", f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}", body)

    def mark_dag_run(self, dag_id: str, run_id: str, state: str) -> None:
        self._call("PATCH", f"dags/{dag_id}/dagRuns/{run_id}", {"state": state})

    def clear(self, dag_id: str, run_id: str, task_id: str, map_index: int | None = None) -> None:
        """Clear a task; ``map_index`` chooses one of its mapped instances, on Airflow 3."""
        body = {
            "dag_run_id": run_id,
            "task_ids": [task_id if map_index is None else [task_id, map_index]],
            "only_failed": False,
            "dry_run": False,
            "reset_dag_runs": True,
        }
        self._call("POST", f"dags/{dag_id}/clearTaskInstances", body)

    def dag_ids(self) -> list[str]:
        """Return the ids of all DAGs."""
        return [dag["dag_id"] for dag in self._get("dags")["dags"]]

    def import_errors(self) -> list[str]:
        """Return what keeps files of DAGs from being read."""
        return [error["stack_trace"] for error in self._get("importErrors")["import_errors"]]

    def dag_run_state(self, dag_id: str, run_id: str) -> str:
        """Return the state of a DAG run."""
        state: str = self._get(f"dags/{dag_id}/dagRuns/{run_id}")["state"]
        return state

    def task_states(self, dag_id: str, run_id: str) -> list[tuple[str, str | None]]:
        """Return the id and the state of each task of a DAG run, a mapped one for each of its instances."""
        found = self._get(f"dags/{dag_id}/dagRuns/{run_id}/taskInstances")["task_instances"]
        return [(each["task_id"], each["state"]) for each in found]

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:
        """Return what a task has left for others."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        return self._get(path, stringify="false")["value"]

    def task_state(self, dag_id: str, run_id: str, task_id: str) -> str | None:
        """Return the state of a task."""
        path = f"{self._base}/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
        answer = self._session.get(path, timeout=60)
        state: str | None = answer.json()["state"] if answer.ok else None
        return state

    def required_action(self, dag_id: str, run_id: str, task_id: str) -> dict[str, Any] | None:
        """Return the required action of a task; None where it has none."""
        answer = self._session.get(f"{self._base}/{self._action_path(dag_id, run_id, task_id)}", timeout=60)
        found: dict[str, Any] | None = answer.json() if answer.ok else None
        return found

    def respond(
        self, dag_id: str, run_id: str, task_id: str, options: list[str], values: dict[str, Any] | None = None
    ) -> int:
        """Answer a required action, and return the status of the answer."""
        body = {"chosen_options": options, "params_input": values or {}}
        path = f"{self._base}/{self._action_path(dag_id, run_id, task_id)}"
        return self._session.patch(path, json=body, timeout=60).status_code

    @staticmethod
    def _action_path(dag_id: str, run_id: str, task_id: str) -> str:
        return f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/-1/hitlDetails"

    def _get(self, path: str, **query: str) -> Any:
        answer = self._session.get(f"{self._base}/{path}", params=query, timeout=60)
        assert answer.ok, f"GET {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def _call(self, method: str, path: str, body: dict[str, Any]) -> None:
        answer = self._session.request(
            method,
            f"{self._base}/{path}",
            data=json.dumps(body),
            headers={"Content-Type": "application/json"},
            timeout=60,
        )
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text}"
