"""The sensor for a run that something else has started: its parameters. What they do is in ``run``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseSensorOperator, conf

from airflow_provider_dify.exceptions import DifyInvalidInputError
from airflow_provider_dify.links.dify import DifyRunLink
from airflow_provider_dify.names import DEFAULT_CONN_NAME
from airflow_provider_dify.rules.human_waiting import ASK, Asking, check_on_pause
from airflow_provider_dify.rules.output_files import check_hosts
from airflow_provider_dify.rules.settings import (
    DEFER_AFTER_SECONDS,
    FIRST_POLL_SECONDS,
    MAX_FILE_BYTES,
    MAX_XCOM_BYTES,
    TIMEOUT_SECONDS,
    OnPause,
    PollSchedule,
    bytes_of,
    check_bool,
    seconds_of,
    seconds_or_zero,
)
from airflow_provider_dify.runtime.error_report import reports_errors

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, PokeReturnValue, XComArg

    from airflow_provider_dify.hooks.dify import DifyHook
    from airflow_provider_dify.runtime.sensor_run import SensorRun


class DifyWorkflowRunSensor(BaseSensorOperator):
    """Wait for a Dify workflow run that something else has started, and return its outputs.

    It never stops a run. ``soft_fail`` and ``never_fail`` skip the task for whatever would have failed it, in
    all modes and on all Airflow versions alike.

    :param workflow_run_id: The run's id, for example the return value of ``DifyRunWorkflowOperator`` with
        ``wait_for_termination=False``. Templated.
    :param dify_conn_id: The Airflow connection; its key must be of the run's app. Templated.
    :param deferrable: Whether to wait in the triggerer. The default is ``[operators] default_deferrable``.
    :param defer_after: Seconds, or a timedelta, for which a deferrable sensor waits on its worker first; as for
        ``DifyRunWorkflowOperator``.
    :param poke_interval: Seconds, or a timedelta, before the second poll; the first follows after at most 1 s.
    :param exponential_backoff: Whether the distance between polls doubles up to ``max_wait``.
    :param max_wait: Seconds, or a timedelta, between polls at most; 5, or ``poke_interval`` where that is more.
    :param timeout: Seconds, or a timedelta, from the sensor's start to its deadline; a last poll is taken when it
        passes. With ``mode="reschedule"`` it is counted as Airflow does.
    :param fail_on_partial_success: Whether a run that succeeded only partially fails the task, instead of a
        warning in its log.
    :param on_pause: A run that asks a human: ``wait`` until the deadline, ``fail``, or ``ask`` in Airflow; as for
        ``DifyRunWorkflowOperator``, like the four that follow. Not possible with ``mode="reschedule"``, unless the
        sensor is deferrable.
    :param assigned_users: Who may answer.
    :param notifiers: Called when the required action is open.
    :param response_timeout: Seconds, or a timedelta, for an answer.
    :param default_action: What counts after that time.

    :param follow_events: Whether the log tells the run's steps as they happen, and a table of them at the end; as
        for ``DifyRunWorkflowOperator``. Not possible with ``mode="reschedule"``, where nobody listens between two
        polls, unless the sensor is deferrable.
    :param output_files_to: Folder in which the files among the run's outputs are saved; as for
        ``DifyRunWorkflowOperator``, like the four that follow. Templated.
    :param allowed_file_hosts: Hosts besides the connection's server that files may be fetched from.
    :param max_file_bytes: Largest file that is fetched, in bytes; 2 GiB. All files of one run together may have 10 GiB,
        or this where it is more.
    :param outputs_to: Folder for outputs that are too large for XCom. Templated.
    :param max_xcom_bytes: Largest outputs that go through XCom, as JSON in bytes; 48 KiB.

    XCom: ``dify_run_url`` for the link: the page of the app's runs in the console, or the console where the
    server does not tell the app.
    """

    template_fields: Sequence[str] = ("workflow_run_id", "dify_conn_id", "output_files_to", "outputs_to")
    operator_extra_links = (DifyRunLink(),)
    ui_color = "#e8efff"

    def __init__(
        self,
        *,
        workflow_run_id: str | XComArg,
        dify_conn_id: str = DEFAULT_CONN_NAME,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        defer_after: float | timedelta = DEFER_AFTER_SECONDS,
        poke_interval: float | timedelta = FIRST_POLL_SECONDS,
        exponential_backoff: bool = True,
        max_wait: float | timedelta | None = None,
        timeout: float | timedelta = TIMEOUT_SECONDS,
        fail_on_partial_success: bool = False,
        on_pause: OnPause = "wait",
        assigned_users: Any = None,
        notifiers: Any = None,
        response_timeout: float | timedelta | None = None,
        default_action: str | None = None,
        follow_events: bool = False,
        output_files_to: Any = None,
        allowed_file_hosts: Sequence[str] = (),
        max_file_bytes: int = MAX_FILE_BYTES,
        outputs_to: Any = None,
        max_xcom_bytes: int = MAX_XCOM_BYTES,
        **kwargs: Any,
    ) -> None:
        first = seconds_of(poke_interval, "poke_interval")
        schedule = PollSchedule.checked(
            first,
            max_wait if check_bool(exponential_backoff, "exponential_backoff") else first,
            names=("poke_interval", "max_wait"),
        )
        super().__init__(
            poke_interval=schedule.first,
            exponential_backoff=exponential_backoff,
            max_wait=schedule.longest,
            timeout=schedule.checked_timeout(timeout, "timeout", "poke_interval"),
            **kwargs,
        )
        self.workflow_run_id: Any = workflow_run_id
        self.dify_conn_id = dify_conn_id
        self.deferrable = check_bool(deferrable, "deferrable")
        self.fail_on_partial_success = check_bool(fail_on_partial_success, "fail_on_partial_success")
        self.follow_events = check_bool(follow_events, "follow_events")
        self.defer_after = seconds_or_zero(defer_after, "defer_after")
        self.output_files_to = output_files_to
        self.allowed_file_hosts = check_hosts(allowed_file_hosts)
        self.max_file_bytes = bytes_of(max_file_bytes, "max_file_bytes")
        self.outputs_to = outputs_to
        self.max_xcom_bytes = bytes_of(max_xcom_bytes, "max_xcom_bytes")
        self.on_pause = check_on_pause(on_pause)
        self.asking = Asking.checked(on_pause, assigned_users, notifiers, response_timeout, default_action)
        if on_pause == ASK and self.reschedule and not self.deferrable:
            raise DifyInvalidInputError(
                'on_pause="ask" needs deferrable=True or mode="poke": a rescheduled sensor has nobody who waits for an '
                "answer between two pokes."
            )

    @cached_property
    def hook(self) -> DifyHook:
        """The hook of the sensor's connection."""
        # Importing it takes longer than parsing a whole DAG file, and parsing needs no HTTP client.
        from airflow_provider_dify.hooks.dify import DifyHook

        return DifyHook(self.dify_conn_id)

    @property
    def schedule(self) -> PollSchedule:
        """The distances between polls."""
        longest = self.poke_interval if self.max_wait is None else seconds_of(self.max_wait, "max_wait")
        return PollSchedule(self.poke_interval, longest)

    def _sensor_run(self, context: Context) -> SensorRun:
        # Airflow parses DAG files again and again: only a sensor that runs pays for what running needs.
        from airflow_provider_dify.runtime.sensor_run import SensorRun

        return SensorRun(self, context)

    @reports_errors
    def execute(self, context: Context) -> Any:
        """Wait for the run: here, in the triggerer, or from one reschedule to the next.

        :return: The outputs.
        :raises DifyError: The run did not end as asked, or not in time.
        :raises AirflowSkipException: The same, with ``soft_fail`` or ``never_fail``.
        """
        run = self._sensor_run(context)
        if self.reschedule and not self.deferrable:
            # Airflow 2 takes a nested call of a decorated execute for one from outside of a task, and warns.
            return run.rescheduled(partial(inspect.unwrap(BaseSensorOperator.execute), self))
        return run.begin()

    @reports_errors
    def execute_complete(
        self, context: Context, event: Any, workflow_run_id: str | None = None, end_time: float | None = None
    ) -> dict[str, Any]:
        """Resume the sensor when the trigger has fired.

        :param event: The trigger's event.
        :param workflow_run_id: The run; by default the event's.
        :param end_time: The deadline in unix seconds.
        :return: The outputs.
        :raises DifyError: As a sensor that waits by itself.
        """
        return self._sensor_run(context).waited_in_triggerer(event, workflow_run_id, end_time)

    @reports_errors
    def execute_answered(self, context: Context, event: Any, kept: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send to Dify what a person has answered, and go on; as ``DifyRunWorkflowOperator`` does."""
        return self._sensor_run(context).answered(event, kept)

    def poke(self, context: Context) -> PokeReturnValue:
        """Poll the run once.

        :return: Whether the run has ended, with the outputs.
        :raises DifyError: It did not end as asked, or another poll would not mend what was answered.
        """
        return self._sensor_run(context).poke()

    def _get_next_poke_interval(
        self, started_at: datetime | float, run_duration: Callable[[], float], poke_count: int
    ) -> float:
        """Return the distance to the next poll of a rescheduled sensor, by the schedule of all other modes."""
        elapsed = run_duration()
        return max(0.0, min(self.schedule.delay_after(elapsed), self.timeout - elapsed))
