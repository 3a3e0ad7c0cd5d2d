"""A run followed by its own stream: which events to hand on, and what an early end means."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

from airflow_provider_dify.api.calls import Operation
from airflow_provider_dify.api.errors import Answer, error_for_answer
from airflow_provider_dify.api.events import ERROR, LAST_EVENTS, PING, Event, EventDecoder
from airflow_provider_dify.api.runs import StartedRun
from airflow_provider_dify.api.submission import WHAT, Refusal, submission_errors
from airflow_provider_dify.exceptions import (
    DifyError,
    DifyRunTimeoutError,
    DifyTransportError,
    DifyUnsupportedError,
)


class StreamReader:
    """Reads the stream of a new run to the run's end.

    :param user: The ``user`` of the submission, for the message of a stream that broke too early.
    """

    def __init__(self, user: str) -> None:
        self._user = user
        self._decoder = EventDecoder()
        self.workflow_run_id: str | None = None
        self.ended = False

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Take bytes of the stream and yield its events, without pings.

        :raises Refusal: An ``error`` event before any that names the run.
        :raises DifyError: An ``error`` event after that.
        """
        for event in self._decoder.feed(chunk):
            if event.event == PING:
                continue
            self.workflow_run_id = self.workflow_run_id or event.workflow_run_id
            self.ended = event.event in LAST_EVENTS
            if event.event == ERROR:
                error = event.error(WHAT)
                if self.workflow_run_id is None:
                    raise Refusal(error)
                error.workflow_run_id = self.workflow_run_id
                raise error
            yield event
            if self.ended:
                return

    def errors(self) -> AbstractContextManager[None]:
        """Let errors out as what they leave behind: a run that goes on, one that may exist, or none."""
        return submission_errors("streaming", self._user, lambda: self.workflow_run_id)

    def end(self, *, timed_out: bool) -> None:
        """Say that no more bytes come, after a loop that ``ended`` did not stop.

        :raises DifyError: Always: the run itself has not ended.
        """
        if timed_out and self.workflow_run_id is not None:
            raise DifyRunTimeoutError(
                f"Dify run {self.workflow_run_id} had not ended when the stream's timeout struck. It goes on: wait for "
                "it with DifyWorkflowRunSensor.",
                workflow_run_id=self.workflow_run_id,
            )
        raise DifyTransportError(
            f"The stream ended before the run {self.workflow_run_id or 'was named'}. A run that was named goes on: "
            "read how it ends with get_workflow_run.",
            sent=True,
        )


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
