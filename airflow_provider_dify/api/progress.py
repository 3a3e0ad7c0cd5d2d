"""What the task log says of a waiting run: changes at once, otherwise a line a minute, and the end."""

from __future__ import annotations

from dataclasses import dataclass

from airflow_provider_dify.api.polling import Look
from airflow_provider_dify.api.runs import RunStatus, WorkflowRun
from airflow_provider_dify.api.values import excerpt

LINE_EVERY_SECONDS = 60.0


@dataclass
class Progress:
    """The lines about one run, without a line per look.

    :param workflow_run_id: The run.
    :param since: Unix seconds from which the waiting time is counted.
    """

    workflow_run_id: str
    since: float
    _told: str | None = None
    _told_at: float = 0.0

    def line(self, look: Look, now: float) -> str | None:
        """Return the line to log after a look, or None where there is nothing new to say."""
        if look.run is not None and look.run.status.is_terminal:
            return None
        state = f"is {look.run.status}" if look.run is not None else f"could not be read: {look.error}"
        # Errors in a row differ in wording only: the kind of news decides whether it is news.
        news = str(look.run.status) if look.run is not None else type(look.error).__name__
        if news == self._told and now - self._told_at < LINE_EVERY_SECONDS:
            return None
        again = "still " if news == self._told and look.run is not None else ""
        self._told, self._told_at = news, now
        if again:
            state = state.replace("is ", "is still ", 1)
        return f"Dify run {self.workflow_run_id} {state} after {max(now - self.since, 0):.0f} s."


def closing_line(run: WorkflowRun) -> str:
    """Return the last line about a run: status, elapsed time, steps, tokens, and the error if there is one."""
    parts = []
    if run.elapsed_time is not None:
        parts.append(f"{run.elapsed_time:.1f} s")
    if run.total_steps:
        parts.append(f"{run.total_steps} step{'s' if run.total_steps != 1 else ''}")
    if run.total_tokens is not None:
        parts.append(f"{run.total_tokens} token{'s' if run.total_tokens != 1 else ''}")
    detail = f" ({', '.join(parts)})" if parts else ""
    error = f": {excerpt(run.error, 1000)}" if run.error else ""
    return f"Dify run {run.workflow_run_id} ended: {run.status}{detail}{error}"


def status_words(status: RunStatus | None) -> str:
    """Return how a status reads in a sentence, also where none was ever seen."""
    return "of unknown status" if status is None else f"{status}"
