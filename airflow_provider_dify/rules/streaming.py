"""A run followed by its own stream: which events to hand on, and what an early end means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from airflow_provider_dify.api.errors import Answer, error_for_answer
from airflow_provider_dify.api.events import ERROR, LAST_EVENTS, Event, EventDecoder
from airflow_provider_dify.api.operations import Operation
from airflow_provider_dify.api.refusals import WHAT, RunNaming
from airflow_provider_dify.api.runs import StartedRun
from airflow_provider_dify.exceptions import (
    DifyError,
    DifyRunTimeoutError,
    DifyTransportError,
    DifyUnsupportedError,
)
from airflow_provider_dify.rules.submission import SilentStream, silence_hint, submission_errors


class StreamReader:
    """Reads the stream of a new run to the run's end.

    :param user: The ``user`` of the submission, for the message of a stream that broke too early.
    :param submission: The body that is sent.
    """

    def __init__(self, user: str, submission: Mapping[str, Any] | None = None) -> None:
        self._user = user
        self._submission = submission
        self._server_version: str | None = None
        self._decoder = EventDecoder()
        self._naming = RunNaming()
        self.ended = False

    @property
    def workflow_run_id(self) -> str | None:
        """The run, once an event has named it."""
        return self._naming.named.workflow_run_id if self._naming.named is not None else None

    def opened(self, answer: Answer) -> None:
        """Take the head of the answer."""
        self._server_version = answer.server_version

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Take bytes of the stream and yield its events, without pings.

        :raises Refusal: Events say that no run exists; none of them was yielded.
        :raises DifyError: An ``error`` event after one that named the run.
        """
        for event in self._decoder.feed(chunk):
            named = self.workflow_run_id
            if event.event == ERROR and named is not None:
                self.ended = True
                error = event.error(WHAT)
                error.workflow_run_id = named
                raise error
            for certain in self._naming.take(event):
                self.ended = certain.event in LAST_EVENTS
                yield certain
                if self.ended:
                    return

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Let errors out as what they leave behind: a run that goes on, one that may exist, or none."""
        with submission_errors("streaming", self._user, lambda: self.workflow_run_id):
            try:
                yield
            except DifyError:
                self._close()
                raise

    def end(self, *, timed_out: bool) -> None:
        """Say that no more bytes come, after a loop that ``ended`` did not stop.

        :raises Refusal: The stream ended within a synthetic pair.
        :raises DifyError: Otherwise always: the run itself has not ended.
        """
        self._close()
        if timed_out and self.workflow_run_id is not None:
            raise DifyRunTimeoutError(
                f"Dify run {self.workflow_run_id} had not ended when the stream's timeout passed. It goes on: wait for "
                "it with DifyWorkflowRunSensor.",
                workflow_run_id=self.workflow_run_id,
            )
        if self._naming.is_silent:
            raise SilentStream(
                "the stream ended, or fell silent, before it named the run",
                hint=silence_hint(self._server_version, self._submission),
            )
        raise DifyTransportError(
            f"The stream ended before the run {self.workflow_run_id or 'was named'}. A run that was named goes on: "
            "read how it ends with get_workflow_run.",
            sent=True,
        )

    def _close(self) -> None:
        if self.workflow_run_id is None:
            for event in self._decoder.close():
                self._naming.take(event)
        self._naming.close()


def no_stream(answer: Answer, operation: Operation[StartedRun]) -> DifyError:
    """Return the exception for an answer to a streaming submission that is no stream of events."""
    if not answer.ok or answer.is_html:
        return error_for_answer(answer, operation.call.what)
    started = operation.read(answer)
    return DifyUnsupportedError(
        f"The server started run {started.workflow_run_id} and answered without a stream, as gateways of the "
        "workflow-runs contract do. Use create_workflow_run and get_workflow_run.",
        workflow_run_id=started.workflow_run_id,
    )
