"""The operator that runs a Dify workflow: its parameters. What they do is in ``execution``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Generic, cast, get_args

from airflow.providers.common.compat.sdk import BaseOperator, conf

from airflow_provider_dify.compat import deferred_arguments
from airflow_provider_dify.links.dify import DifyRunLink
from airflow_provider_dify.names import DEFAULT_CONN_NAME
from airflow_provider_dify.rules.human_waiting import Asking, check_on_pause
from airflow_provider_dify.rules.output_files import check_hosts
from airflow_provider_dify.rules.settings import (
    DEFER_AFTER_SECONDS,
    FIRST_POLL_SECONDS,
    MAX_FILE_BYTES,
    MAX_XCOM_BYTES,
    RESPONSE_MODES,
    SUBMIT_TIMEOUT_SECONDS,
    TIMEOUT_SECONDS,
    OnOrphanedIntent,
    OnPause,
    OnRateLimit,
    PollSchedule,
    ResponseMode,
    bytes_of,
    check_bool,
    check_choice,
    check_roots,
    seconds_of,
    seconds_or_zero,
)
from airflow_provider_dify.runtime.error_report import reports_errors

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, XComArg
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_dify.api.runs import StartedRun
    from airflow_provider_dify.hooks.dify import DifyHook
    from airflow_provider_dify.runtime.task_run import Execution

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    OutputsT = TypeVar("OutputsT", default=Any)
else:
    from typing import TypeVar

    OutputsT = TypeVar("OutputsT")


class DifyRunWorkflowOperator(BaseOperator, Generic[OutputsT]):
    """Run a Dify workflow and return its outputs.

    The run's id is known a moment after the submission, is pushed to XCom at once, and the rest is waiting:
    on a worker slot, or with ``deferrable=True`` in the triggerer. Return value and exceptions are the same
    in both modes. A submission that may have been accepted is never sent a second time.

    Dify servers before 1.9.2 abandon a run whose stream is closed. On those the stream is read to its end in the
    worker, whatever ``deferrable`` says.

    :param inputs: The workflow's inputs: a mapping of names to JSON values, or a template that renders to one
        as JSON. Templated.
    :param files: Files of the run (``sys.files``): local paths, URIs of objects in any store that Airflow knows
        (``s3://…``, ``file://…``), ``ObjectStoragePath``, remote URLs, upload ids, mappings in Dify's form, or mappings
        ``{"path": …, "type": …, "mime_type": …, "name": …}`` with what shall not follow from the name. Paths and
        objects are uploaded right before the submission. File-typed inputs take the same. Templated.
    :param validate_inputs: Whether ``inputs`` are held against the app's input form before anything is submitted, so
        that one error names every input that is missing, undeclared (Dify drops those silently), of a wrong type, too
        long or none of the options. The form is asked for once in each process and five minutes; where it cannot be
        read, and where ``workflow_id`` names a version, the log says so and the inputs go unchecked.
    :param query: Text of a conversational workflow; only in the ``workflow-runs`` contract. Templated.
    :param user: Caller identity that Dify shows, at most 255 characters. Left out, it is derived from the
        task instance, which makes the submission findable. Templated.
    :param workflow_id: A published version to run, instead of the current one; required by the
        ``workflow-runs`` contract. Templated.
    :param trace: Whether the trace that the task belongs to is passed on, as header ``traceparent`` and as Dify's
        ``trace_id``, so that a tracing backend shows task and workflow in one trace: OpenTelemetry's current span, else
        what Airflow 3 hands the task. Nothing is sent where there is none.
    :param trace_id: Dify's ``trace_id`` instead of that of the trace: 1 to 128 letters, digits, ``-`` or ``_``.
        Templated.
    :param response_mode: ``streaming`` learns the run's id at once. ``blocking`` holds one HTTP request, and
        the worker, until the run has ended; a gateway before Dify cuts such requests after 60 to 100 s.
    :param dify_conn_id: The Airflow connection. Templated.
    :param submit_timeout: Seconds to wait for the id of a streaming run.
    :param wait_for_termination: Whether to wait for the end. Otherwise the run's id is returned, for
        ``DifyWorkflowRunSensor`` or any other task to wait for.
    :param deferrable: Whether to wait in the triggerer. The default is ``[operators] default_deferrable``.
    :param defer_after: Seconds, or a timedelta, for which a deferrable task waits on its worker first: a run that ends
        meanwhile needs no second process. 0 defers at once. A task that has less than about 10 s left then stays
        on its worker, since a deferral lasts at least that long.
    :param poll_interval: Seconds before the first poll; the distance then doubles.
    :param max_poll_interval: Seconds between polls at most; 5, or ``poll_interval`` where that is more.
    :param timeout: Seconds, or a timedelta, from the submission to the deadline, in both modes the same; an
        earlier ``execution_timeout`` counts instead. A last poll is taken when it passes.
    :param durable: Whether a retry reattaches to the run of an earlier try: waits for it, or takes its outputs. A
        cleared task always starts a new run, and so does a retry after a failed or stopped one.
    :param cancel_on_kill: Whether the run is stopped when the task is killed, marked or cleared, on a worker or
        deferred.
    :param cancel_on_timeout: Whether the run is stopped when the deadline passes.
    :param fail_on_partial_success: Whether a run that succeeded only partially fails the task, instead of a
        warning in its log.
    :param on_pause: A run that asks a human: ``wait`` until the deadline, ``fail``, or ``ask`` in Airflow. A required
        action then shows the form's text, actions and fields (Airflow 3.1 and later), and its answer is sent to Dify
        once, unless somebody answers in Dify before. The task is deferred meanwhile, whatever ``deferrable`` says, and
        ``timeout`` goes on: give people time. Before Airflow 3.1 it is as ``wait``.
    :param assigned_users: Who may answer, as ``HITLOperator`` takes it: ``{"id": …, "name": …}``, or a list of these.
        Everybody who may edit the task's required actions where left out.
    :param notifiers: A notifier of Airflow, or a list, called when the action is open. Its templates may name
        ``dify_question``, a mapping with ``subject``, ``body`` and ``options``.
    :param response_timeout: Seconds, or a timedelta, for an answer; then ``default_action`` is sent with the fields'
        defaults, or the task fails. None for no limit but ``timeout``.
    :param default_action: Id or title of the form's action for that case.
    :param on_rate_limit: A server that takes no further run: ``wait`` and submit again until the deadline
        (deferred, where that is so), or ``fail``.
    :param on_orphaned_intent: A submission that may have reached Dify, and whose run was not found by the deadline:
        ``fail``, since nobody can know whether there is a run, or ``resubmit``, once in each try, at the risk of paying
        for two runs.

    :param follow_events: Whether the log tells the run's steps as they happen (title, type, status, seconds,
        tokens, streamed text), a table of them at the end, and on failure the step that failed, which the exception
        then names too. It takes the events of Dify 1.14 and later and the ``service-api`` contract; elsewhere one
        line says that there are none. It needs ``wait_for_termination``, works on a worker and deferred alike,
        changes neither deadline nor result, and holds one of the server's connections for each task: at most
        4 at a time from one machine, tasks beyond that follow when one gets free. Texts and titles of the
        workflow then stand in the log. With ``response_mode="blocking"`` there is nothing to follow.
    :param allowed_upload_roots: Folders and prefixes of URIs below which every file to upload must be, besides those of
        the connection's extra of that name; links and ``..`` are resolved. With them a text in a file-typed input may
        be a path. Left out, any file may be named, by ``{"path": …}``, a path object or in ``files``.
    :param output_files_to: Folder in which the files among the run's outputs are saved, at whatever depth they stand:
        an object store's URI (``s3://bucket/{{ ds }}/``), a local path or an ``ObjectStoragePath``. A file is saved as
        ``<folder>/<run id>/<name>``, and its object in the outputs gets ``saved_to`` with that URI. Without it the
        outputs hold signed URLs, which expire after some minutes. At most 1,000 files of one run are saved. Local files
        and folders that are made can be read by the worker's user only. Templated.
    :param allowed_file_hosts: Hosts besides the connection's server that files may be fetched from, as ``host`` for the
        usual ports or ``host:port``; redirects lead nowhere else either.
    :param max_file_bytes: Largest file that is fetched, in bytes; 2 GiB. All files of one run together may have 10 GiB,
        or this where it is more.
    :param outputs_to: Folder, as for ``output_files_to``, for outputs of more than ``max_xcom_bytes``. They are saved
        as JSON in ``<folder>/<run id>.json``, and what the task returns is
        ``{"dify_outputs_saved_to": uri, "size_bytes": …, "workflow_run_id": …}``; ``load_outputs`` of
        ``operators.outputs`` takes either. Without it large outputs go through XCom with a warning. Templated.
    :param max_xcom_bytes: Largest outputs that go through XCom, as JSON in bytes; 48 KiB. With 0 all are offloaded.

    Type checkers may know what the workflow returns: ``DifyRunWorkflowOperator[Summary](…).outputs`` is a
    ``Summary`` to them, and the task's ``output`` for Airflow.

    XCom: ``workflow_run_id`` and ``task_id`` (Dify's id for a stop) as soon as they are known, and
    ``dify_run_url`` for the link: the page of the app's runs in the console, or the console where the server
    does not tell the app.
    """

    template_fields: Sequence[str] = (
        "inputs",
        "files",
        "query",
        "user",
        "workflow_id",
        "trace_id",
        "dify_conn_id",
        "output_files_to",
        "outputs_to",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"inputs": "json", "files": "json"}
    operator_extra_links = (DifyRunLink(),)
    ui_color = "#e8efff"

    def __init__(
        self,
        *,
        inputs: Mapping[str, Any] | str | XComArg | None = None,
        files: Sequence[Any] | str | XComArg | None = None,
        validate_inputs: bool = True,
        query: str | XComArg | None = None,
        user: str | XComArg | None = None,
        workflow_id: str | XComArg | None = None,
        trace: bool = True,
        trace_id: str | XComArg | None = None,
        response_mode: ResponseMode = "streaming",
        dify_conn_id: str = DEFAULT_CONN_NAME,
        submit_timeout: float = SUBMIT_TIMEOUT_SECONDS,
        wait_for_termination: bool = True,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        defer_after: float | timedelta = DEFER_AFTER_SECONDS,
        poll_interval: float = FIRST_POLL_SECONDS,
        max_poll_interval: float | None = None,
        timeout: float | timedelta = TIMEOUT_SECONDS,
        durable: bool = True,
        cancel_on_kill: bool = True,
        cancel_on_timeout: bool = True,
        fail_on_partial_success: bool = False,
        on_pause: OnPause = "wait",
        assigned_users: Any = None,
        notifiers: Any = None,
        response_timeout: float | timedelta | None = None,
        default_action: str | None = None,
        on_rate_limit: OnRateLimit = "wait",
        on_orphaned_intent: OnOrphanedIntent = "fail",
        follow_events: bool = False,
        allowed_upload_roots: Sequence[str] | None = None,
        output_files_to: Any = None,
        allowed_file_hosts: Sequence[str] = (),
        max_file_bytes: int = MAX_FILE_BYTES,
        outputs_to: Any = None,
        max_xcom_bytes: int = MAX_XCOM_BYTES,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # Airflow renders them: what a task has here is not what its parameter was.
        self.inputs: Any = inputs
        self.files: Any = files
        self.validate_inputs = check_bool(validate_inputs, "validate_inputs")
        self.query: Any = query
        self.user = cast("str | None", user)
        self.workflow_id: Any = workflow_id
        self.trace = check_bool(trace, "trace")
        self.trace_id: Any = trace_id
        self.response_mode = check_choice(response_mode, "response_mode", RESPONSE_MODES)
        self.dify_conn_id = dify_conn_id
        self.submit_timeout = seconds_of(submit_timeout, "submit_timeout")
        self.wait_for_termination = check_bool(wait_for_termination, "wait_for_termination")
        self.deferrable = check_bool(deferrable, "deferrable")
        self.defer_after = seconds_or_zero(defer_after, "defer_after")
        schedule = PollSchedule.checked(poll_interval, max_poll_interval)
        self.poll_interval = schedule.first
        self.max_poll_interval = schedule.longest
        self.timeout = schedule.checked_timeout(timeout, "timeout")
        self.durable = check_bool(durable, "durable")
        self.cancel_on_kill = check_bool(cancel_on_kill, "cancel_on_kill")
        self.cancel_on_timeout = check_bool(cancel_on_timeout, "cancel_on_timeout")
        self.fail_on_partial_success = check_bool(fail_on_partial_success, "fail_on_partial_success")
        self.on_pause = check_on_pause(on_pause)
        self.asking = Asking.checked(on_pause, assigned_users, notifiers, response_timeout, default_action)
        self.on_rate_limit = check_choice(on_rate_limit, "on_rate_limit", get_args(OnRateLimit))
        self.follow_events = check_bool(follow_events, "follow_events")
        self.on_orphaned_intent = check_choice(on_orphaned_intent, "on_orphaned_intent", get_args(OnOrphanedIntent))
        self.allowed_upload_roots = check_roots(allowed_upload_roots)
        self.output_files_to = output_files_to
        self.allowed_file_hosts = check_hosts(allowed_file_hosts)
        self.max_file_bytes = bytes_of(max_file_bytes, "max_file_bytes")
        self.outputs_to = outputs_to
        self.max_xcom_bytes = bytes_of(max_xcom_bytes, "max_xcom_bytes")
        self._execution: Execution | None = None
        self._returned: Any = None

    @property
    def outputs(self) -> OutputsT:
        """The task's ``output``, as type checkers are to see it: of the type in ``DifyRunWorkflowOperator[…]``."""
        return cast("OutputsT", self.output)

    @cached_property
    def hook(self) -> DifyHook:
        """The hook of the operator's connection."""
        # Importing it takes longer than parsing a whole DAG file, and parsing needs no HTTP client.
        from airflow_provider_dify.hooks.dify import DifyHook

        return DifyHook(self.dify_conn_id)

    def _executed(self, context: Context) -> Execution:
        # Airflow parses DAG files again and again: only a task that runs pays for what running needs.
        from airflow_provider_dify.runtime.task_run import Execution

        self._execution = Execution(self, context)
        return self._execution

    @reports_errors
    def execute(self, context: Context) -> Any:
        """Submit the run, or reattach to that of an earlier try; wait for it, or defer.

        :return: The outputs, or where they were offloaded, or the run's id with ``wait_for_termination=False``.
        :raises DifyError: The submission was refused or of unknown outcome, or the run did not end as asked.
        """
        self._returned = self._executed(context).begin()
        return self._returned

    @reports_errors
    def submit_again(self, context: Context, event: Any, submission: dict[str, Any] | None = None) -> Any:
        """Submit a run that found no room, or no server, before; called by Airflow when the trigger has fired."""
        self._returned = self._executed(context).submit_again(event, submission)
        return self._returned

    @reports_errors
    def execute_found(
        self, context: Context, event: Any, submission: dict[str, Any] | None = None, earlier: bool | None = None
    ) -> Any:
        """Go on with a run that was looked for in the triggerer; called by Airflow when the trigger has fired."""
        self._returned = self._executed(context).searched_in_triggerer(event, submission, earlier=earlier)
        return self._returned

    @reports_errors
    def execute_complete(
        self,
        context: Context,
        event: Any,
        workflow_run_id: str | None = None,
        task_id: str | None = None,
        end_time: float | None = None,
        user: str | None = None,
    ) -> Any:
        """Resume the task when the wait in the triggerer has ended.

        :param event: The trigger's event.
        :param workflow_run_id: The run; by default the event's.
        :param task_id: Dify's id for a stop.
        :param end_time: The deadline in unix seconds.
        :param user: The ``user`` of the submission.
        :return: The outputs.
        :raises DifyError: As a task that waits by itself.
        """
        execution = self._executed(context)
        self._returned = outputs = execution.waited_in_triggerer(event, workflow_run_id, task_id, end_time, user)
        return outputs

    @reports_errors
    def execute_answered(self, context: Context, event: Any, kept: dict[str, Any] | None = None) -> Any:
        """Send to Dify what a person has answered, and go on; called by Airflow when a question needs no more waiting.

        :param event: The trigger's event, or Airflow's own, which carries the answer and nothing else.
        :param kept: What the task knew when it was deferred.
        """
        self._returned = self._executed(context).answered(event, kept)
        return self._returned

    def on_kill(self) -> None:
        """Stop the run when the task is killed on a worker."""
        execution = self._execution or self._deferred()
        if execution is not None:
            execution.killed()

    def _deferred(self) -> Execution | None:
        """Return the try as it was deferred, where Airflow kills the task before it resumes it.

        Airflow 2 does so where ``execution_timeout`` passes between the trigger's event and the worker's start.
        """
        from airflow.providers.common.compat.sdk import get_current_context

        try:
            context = get_current_context()
        except Exception:
            # There is none before a task's process has got that far: nothing has been submitted then.
            return None
        kept = deferred_arguments(context["ti"])
        if kept is None:
            return None
        execution = self._executed(context)
        execution.recall(kept)
        return execution

    @property
    def known_run(self) -> StartedRun | None:
        """The run of this try, as far as it is known; with its row in ``run``, once the task has seen it end."""
        return None if self._execution is None else self._execution.known

    def get_openlineage_facets_on_start(self) -> OperatorLineage[Any, Any]:
        """Return which workflow is to run and which files go in; called by Airflow's OpenLineage provider."""
        from airflow_provider_dify.runtime.lineage import lineage_before

        return lineage_before(self)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """Return what the run was, which files went in and which were saved; called by Airflow's OpenLineage provider.

        :param task_instance: The task instance, of which nothing is needed.
        """
        from airflow_provider_dify.runtime.lineage import lineage_after

        return lineage_after(self, self._returned)

    def get_openlineage_facets_on_failure(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """Return what is known of the run of a task that failed; called by Airflow's OpenLineage provider."""
        return self.get_openlineage_facets_on_complete(task_instance)
