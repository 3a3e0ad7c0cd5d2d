"""Counters and timers of Dify runs, sent through Airflow's own metrics and only where those are on."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_provider_dify.api.runs import RunStatus
from airflow_provider_dify.compat import stats_backend
from airflow_provider_dify.exceptions import DifyError, DifyResponseError, DifyTransportError

if TYPE_CHECKING:
    from airflow_provider_dify.api.runs import WorkflowRun

COUNTER = "counter"
TIMER = "timer"


@dataclass(frozen=True)
class Metric:
    """What is counted or timed.

    :param name: Its name, before which Airflow puts its own prefix.
    :param kind: ``counter`` or ``timer``.
    :param tags: Tags beside ``conn_id``.
    """

    name: str
    kind: str
    tags: tuple[str, ...] = ()


RUNS_STARTED = Metric("dify.runs.started", COUNTER)
RUNS_SUCCEEDED = Metric("dify.runs.succeeded", COUNTER, ("status",))
RUNS_FAILED = Metric("dify.runs.failed", COUNTER, ("status",))
RUN_DURATION = Metric("dify.run.duration", TIMER, ("status",))
TOKENS = Metric("dify.tokens", COUNTER)
SUBMISSION_UNKNOWN = Metric("dify.submission.unknown", COUNTER)
POLL_REQUESTS = Metric("dify.poll.requests", COUNTER)
METRICS = (
    RUNS_STARTED,
    RUNS_SUCCEEDED,
    RUNS_FAILED,
    RUN_DURATION,
    TOKENS,
    SUBMISSION_UNKNOWN,
    POLL_REQUESTS,
)

COUNTED_AS = {
    RunStatus.SUCCEEDED: RUNS_SUCCEEDED,
    RunStatus.PARTIAL_SUCCEEDED: RUNS_SUCCEEDED,
    RunStatus.FAILED: RUNS_FAILED,
    RunStatus.STOPPED: RUNS_FAILED,
}
"""The counter of each status in which a run ends. Runs are counted, not tasks: a task may fail on a partial success."""

_SWITCHES = ("statsd_on", "statsd_datadog_enabled", "otel_on")
# What StatsD, InfluxDB and Datadog take as the value of a tag.
_NOT_OF_A_TAG = re.compile(r"[^A-Za-z0-9_.-]")
_TAG_LENGTH = 100

log = logging.getLogger(__name__)


def measures(run: WorkflowRun) -> list[tuple[Metric, int | timedelta, dict[str, str]]]:
    """Return what the end of a run is counted and timed as: metric, amount, tags; nothing for a run that goes on."""
    ended = COUNTED_AS.get(run.status)
    if ended is None:
        return []
    status = {"status": str(run.status)}
    found: list[tuple[Metric, int | timedelta, dict[str, str]]] = [(ended, 1, status)]
    if run.elapsed_time is not None:
        found.append((RUN_DURATION, timedelta(seconds=run.elapsed_time), status))
    if run.total_tokens:
        found.append((TOKENS, run.total_tokens, {}))
    return found


def was_sent(outcome: object) -> bool:
    """Tell whether a request left, by the error that came of it, if any."""
    if not isinstance(outcome, DifyError):
        return True
    if isinstance(outcome, DifyTransportError):
        return outcome.sent
    return outcome.status_code is not None or isinstance(outcome, DifyResponseError)


class Metrics:
    """Send what happens to the runs of one connection to Airflow's metrics.

    No method raises: a backend that fails costs numbers and no task. The backend is looked up at first use, so that
    parsing a DAG file imports none, and not at all where Airflow's metrics are off.

    :param conn_id: The Airflow connection, which each metric has as its tag ``conn_id``.
    :param in_triggerer: Whether the caller runs in a triggerer.
    """

    def __init__(self, conn_id: str, *, in_triggerer: bool = False) -> None:
        self._conn_id = conn_id
        self._in_triggerer = in_triggerer
        self._is_on: bool | None = None
        self._stats: Any = None

    def run_started(self) -> None:
        """Count a run that a submission of this try has started."""
        self._send(RUNS_STARTED, 1, {})

    def submission_unknown(self) -> None:
        """Count a submission that was sent and whose outcome no answer has named."""
        self._send(SUBMISSION_UNKNOWN, 1, {})

    def run_ended(self, run: WorkflowRun) -> None:
        """Count and time a run whose end a task has read."""
        for metric, amount, tags in measures(run):
            self._send(metric, amount, tags)

    def polled(self, outcome: object) -> None:
        """Count a request that asked for the state of runs.

        :param outcome: The error that came of it, if any; nothing is counted for a request that was not sent.
        """
        if was_sent(outcome):
            self._send(POLL_REQUESTS, 1, {})

    def _send(self, metric: Metric, amount: int | timedelta, tags: dict[str, str]) -> None:
        try:
            if self._is_on is None:
                from airflow.providers.common.compat.sdk import conf

                self._is_on = False
                self._is_on = any(map(partial(conf.getboolean, "metrics", fallback=False), _SWITCHES))
            if self._is_on and self._stats is None:
                self._stats = stats_backend(in_triggerer=self._in_triggerer)
            if self._stats is None:
                return
            tags = {"conn_id": _NOT_OF_A_TAG.sub("_", self._conn_id)[:_TAG_LENGTH], **tags}
            if metric.kind == TIMER:
                self._stats.timing(metric.name, amount, tags=tags)
            else:
                self._stats.incr(metric.name, amount, tags=tags)
        except Exception as error:
            log.debug("The metric %s could not be sent: %r", metric.name, error)
