"""The operations of gateways, the contract ``workflow-runs``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from airflow_provider_dify.api.human_input import HumanInputForm
from airflow_provider_dify.api.input_form import InputForm
from airflow_provider_dify.api.operations import NO_TRACE, Operation, Upload, check_id, run_poll, submission
from airflow_provider_dify.api.runs import AppInfo, LogPage, StartedRun, UploadedFile, WorkflowRun
from airflow_provider_dify.api.tracing import Trace
from airflow_provider_dify.exceptions import (
    DifyInvalidInputError,
    DifyUnsupportedError,
)
from airflow_provider_dify.names import WORKFLOW_RUNS


class WorkflowRunsApi:
    """The asynchronous contract of gateways before Dify: submit and status, nothing else."""

    name = WORKFLOW_RUNS

    def check_run_id(self, workflow_run_id: Any, field_name: str = "workflow_run_id") -> str:
        """Return the run id; ids of this contract are opaque.

        :raises DifyInvalidInputError: It is no string or empty.
        """
        return check_id(workflow_run_id, field_name)

    def run(
        self,
        *,
        inputs: Mapping[str, Any],
        user: str,
        response_mode: str,
        files: list[dict[str, Any]] | None = None,
        query: str | None = None,
        workflow_id: str | None = None,
        trace: Trace = NO_TRACE,
    ) -> Operation[StartedRun]:
        """Start a run.

        :raises DifyInvalidInputError: ``workflow_id`` is missing; this contract's route names it.
        """
        if workflow_id is None:
            raise DifyInvalidInputError(
                "workflow_id is missing: the workflow-runs contract names the workflow in its route.",
                advice="Pass workflow_id, or set the connection's API contract (api_contract) to service-api.",
                where="workflow_id",
            )
        path = f"/workflows/{quote(check_id(workflow_id, 'workflow_id'), safe='')}/run"
        # Dify's own key is not of this contract, whose gateway may refuse what it does not know.
        return submission(
            path,
            inputs=inputs,
            user=user,
            response_mode=response_mode,
            files=files,
            query=query,
            headers=trace.headers,
        )

    def get_run(self, workflow_run_id: str) -> Operation[WorkflowRun]:
        """Ask for a run."""
        run_id = self.check_run_id(workflow_run_id)
        return run_poll(f"/workflow-runs/{quote(run_id, safe='')}", run_id)

    def stop(self, task_id: str, user: str) -> Operation[None]:
        """There is no stop in this contract."""
        raise self._unsupported("stop a run")

    def logs(self, **filters: Any) -> Operation[LogPage]:
        """There are no logs in this contract."""
        raise self._unsupported("list or find runs")

    def run_events(
        self, workflow_run_id: str, user: str, *, snapshot: bool = False, over_pauses: bool = False
    ) -> Operation[None]:
        """There is no events route in this contract."""
        raise self._unsupported("follow a run's events")

    def upload(self, upload: Upload, user: str) -> Operation[UploadedFile]:
        """There is no upload in this contract."""
        raise self._unsupported("upload a file")

    def info(self) -> Operation[AppInfo]:
        """There is no app information in this contract."""
        raise self._unsupported("read the app's information")

    def parameters(self) -> Operation[dict[str, Any]]:
        """There is no input form in this contract."""
        raise self._unsupported("read the app's input form")

    def human_input_form(self, form_token: str) -> Operation[HumanInputForm]:
        """There are no forms in this contract."""
        raise self._unsupported("read a human-input form")

    def submit_human_input(
        self, form_token: str, *, action: str, inputs: Mapping[str, Any], user: str
    ) -> Operation[None]:
        """There are no forms in this contract."""
        raise self._unsupported("answer a human-input form")

    def input_form(self) -> Operation[InputForm]:
        """There is no input form in this contract."""
        raise self._unsupported("read the app's input form")

    @staticmethod
    def _unsupported(operation: str) -> DifyUnsupportedError:
        return DifyUnsupportedError(
            f"The workflow-runs contract has no route to {operation}.",
            advice="If the server is a Dify server, set the connection's API contract (api_contract) to service-api.",
            where="field API contract",
        )
