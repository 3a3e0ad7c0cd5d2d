"""What the task log says of a waiting run: changes at once, otherwise a line a minute, and the end."""

from __future__ import annotations

from dataclasses import dataclass

from airflow_provider_dify.api.runs import RunStatus, WorkflowRun
from airflow_provider_dify.api.server_versions import NEWEST_TESTED, Server
from airflow_provider_dify.api.values import excerpt
from airflow_provider_dify.rules.polling import Deadline, PollResult

LINE_EVERY_SECONDS = 60.0


@dataclass
class Progress:
    """The lines about one run, without a line per poll.

    :param workflow_run_id: The run.
    :param since: Unix seconds from which the waiting time is counted.
    """

    workflow_run_id: str
    since: float
    _reported: str | None = None
    _reported_at: float = 0.0

    def line(self, poll_result: PollResult, now: float) -> str | None:
        """Return the line to log after a poll, or None where there is nothing new to say."""
        if poll_result.run is not None and poll_result.run.status.is_terminal:
            return None
        state = (
            f"is {poll_result.run.status}"
            if poll_result.run is not None
            else f"could not be read: {poll_result.error.message if poll_result.error else None}"
        )
        # Errors in a row differ in wording only: the kind of news decides whether it is news.
        news = str(poll_result.run.status) if poll_result.run is not None else type(poll_result.error).__name__
        if news == self._reported and now - self._reported_at < LINE_EVERY_SECONDS:
            return None
        again = "still " if news == self._reported and poll_result.run is not None else ""
        self._reported, self._reported_at = news, now
        if again:
            state = state.replace("is ", "is still ", 1)
        return f"Dify run {self.workflow_run_id} {state} after {max(now - self.since, 0):.0f} s."


@dataclass(frozen=True)
class Opening:
    """What is known of a run when the wait for it begins.

    :param workflow_run_id: The run.
    :param base_url: The server.
    :param server_version: Its version; None where it does not tell.
    :param app_id: The app; None where the server does not tell.
    :param user: The ``user`` of the submission; None where the task has not submitted it.
    :param url: The page that the task links to.
    :param deadline: When waiting ends; None where nobody waits.
    """

    workflow_run_id: str
    base_url: str
    server_version: str | None = None
    app_id: str | None = None
    user: str | None = None
    url: str | None = None
    deadline: Deadline | None = None

    def lines(self, now: float) -> list[str]:
        """Return the block at the beginning of the log, a line for each fact that is known."""
        version = f"Dify {excerpt(self.server_version, 20)}" if self.server_version else "Dify (version unknown)"
        if Server(self.server_version).is_newer_than_tested:
            version += f" (newer than {NEWEST_TESTED}, the newest that was tested)"
        deadline = None
        if self.deadline is not None:
            deadline = f"{self.deadline}, in {max(self.deadline.left(now), 0):.0f} s"
        facts = {
            "server": f"{version} at {self.base_url}",
            "app": self.app_id and excerpt(self.app_id, 80),
            "user": self.user,
            "link": self.url,
            "deadline": deadline,
        }
        width = max(map(len, facts)) + 1
        known = [f"  {f'{name}:':<{width}} {fact}" for name, fact in facts.items() if fact]
        return [f"Dify run {self.workflow_run_id}", *known]


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
