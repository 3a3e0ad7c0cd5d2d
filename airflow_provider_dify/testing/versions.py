"""What differs between the Dify versions that the local server can stand in for, as one table."""

from __future__ import annotations

from dataclasses import dataclass, replace

PING_INTERVAL = 10.0
"""Seconds between the pings of a stream."""

STOP_DELAY = 0.2
"""Seconds from a stop request until the engine gives up."""

STOP_NOTICE_DELAY = 0.3
"""Further seconds until a listener that has seen the stop flag tells its stream."""

LATE_ROW_DELAY = 1.0
"""Seconds for which a row says `running` after its stream was informed of a limit, or of a stop while it was paused."""

MEBIBYTE = 1024 * 1024

UPLOAD_LIMIT = 15
"""Largest accepted upload in MiB, unless a server is set up otherwise."""

USER_LIMIT = 255
"""Longest `user` that the database column holds; a longer one makes a real server answer 500."""


@dataclass(frozen=True, slots=True)
class Version:
    """One Dify version, seen through its Service API.

    :param number: what the `X-Version` header says.
    :param worker_queue: streaming runs wait for a worker slot and execute there; blocking ones never do.
    :param listener_persists: a run's row is written by whoever reads its events, so that the row of an
        abandoned stream stays `running` permanently. Otherwise the engine writes it.
    :param stop_outcome: what a stop does unless the server is set up otherwise (see `engine.STOP_OUTCOMES`).
    :param stop_outcomes: the outcomes that were observed on this version.
    :param first_ping: a stream starts with a ping, before anything is known.
    :param close_delay: seconds between the last event of a stream and its end.
    :param idle_limit: seconds without any message after which a stream ends, None for no limit.
    :param errors_keep_stream: after an `error` event the stream stays open, silent, until the idle limit.
    :param refuses_inputs_in_stream: wrong inputs of a streaming run are refused under HTTP 200: by a pair of events, or
        by silence until the idle limit.
    :param limit_counts_streams: open streams count against an app's `max_active_requests`.
    :param started_reason: `workflow_started` carries a `reason`.
    :param parallel_keys: node events carry `parallel_id` and its companions.
    :param start_shows_system: the start node's inputs and outputs include the `sys.*` variables.
    :param early_start_chunks: text that needs only the inputs precedes the start node's `node_started`.
    :param late_default_chunks: text of a node that fell back to its default comes within the end node.
    :param empty_metadata: what `execution_metadata` is when there is nothing to say.
    :param success_error: `error` of a succeeded run in a stream or blocking answer.
    :param row_timestamp: place of `sys.timestamp` in a row's inputs: `"none"`, `"middle"` or `"last"`.
    :param row_outputs_are_text: GET run gives inputs and outputs as JSON text, not as an object.
    :param row_counts_steps: `total_steps` is real, not always 0.
    :param unknown_run_is_null: GET of an unknown run is 200 with every key null, not 404.
    :param overtime_keeps_outputs: a run that exceeded its execution time keeps its outputs in the answer.
    :param overtime_row_status: what the row of such a run says.
    :param pydantic: pydantic's version in the links of its messages; None where flask-restx checks the body.
    :param run_content_type: content type of a blocking answer.
    :param logs_running: a run is listed from its start, not from its end.
    :param logs_details: log rows have `triggered_from` and `details`.
    :param end_user_type: `created_by_end_user.type`.
    :param unknown_account_refused: an unknown `created_by_account` is 400, not an empty list.
    :param human_input: human-input nodes, forms and the events route exist.
    :param strict_checkboxes: what is no boolean is refused for a checkbox; otherwise it is taken as it is.
    :param previews_uploads: an upload can be fetched with the app's key, though no chat message has it.
    :param foreign_files: a run may use a file that another user uploaded.
    :param too_large_message: message of the 413 answer.
    :param synthetic_refusals: what a worker refuses is reported as `workflow_started` and `workflow_finished` of a run
        that never gets a row, and the stream ends.
    :param shutdown_stops_runs: a worker that is asked to terminate stops its runs; otherwise it finishes them.
    :param approval_channels: a pause tells by which channels it may be answered.
    :param tells_filled_forms: the event `human_input_form_filled` is sent.
    :param file_references: file objects have a `reference` and no `tenant_id`; uploads have further keys.
    :param overtime_status: what the stream and the blocking answer say of a run that exceeded its execution time.
    :param app_limit_stops_runs: a run whose listeners were informed that it exceeded the app's limit is stopped too.
    :param stop_reaches_paused_runs: a stop of a paused run takes effect once its form is answered.
    :param upload_references: the answer to an upload has a `reference`, null.
    :param trace_sessions: `X-Trace-Session-Id` is read, and refused where it is too long.
    :param site_placeholder: `/site` has an `input_placeholder`.
    :param form_upload_tokens: the web app has a route for uploads of a form, which messages of a 404 name.
    :param forms_are_nodes: a form has the id of its node's execution, and is replayed with its text filled in.
    :param resumed_live_events_stay_open: the events route with `continue_on_pause` and no snapshot tells the end and
        stays open.
    :param knowledge: the knowledge API is offered, as it was recorded on 1.16.1. 1.14.2 is known to replace documents
        by name as it does; of older versions nothing is known.
    """

    number: str
    worker_queue: bool
    listener_persists: bool
    stop_outcome: str
    stop_outcomes: tuple[str, ...]
    first_ping: bool
    close_delay: float
    idle_limit: float | None
    errors_keep_stream: bool
    refuses_inputs_in_stream: bool
    limit_counts_streams: bool
    started_reason: bool
    parallel_keys: bool
    start_shows_system: bool
    early_start_chunks: bool
    late_default_chunks: bool
    empty_metadata: bool
    success_error: str | None
    row_timestamp: str
    row_outputs_are_text: bool
    row_counts_steps: bool
    unknown_run_is_null: bool
    overtime_keeps_outputs: bool
    overtime_row_status: str
    pydantic: str | None
    run_content_type: str
    logs_running: bool
    logs_details: bool
    end_user_type: str
    unknown_account_refused: bool
    human_input: bool
    strict_checkboxes: bool
    previews_uploads: bool
    foreign_files: bool
    too_large_message: str
    file_references: bool
    synthetic_refusals: bool = False
    shutdown_stops_runs: bool = False
    approval_channels: bool = False
    tells_filled_forms: bool = True
    overtime_status: str = "failed"
    app_limit_stops_runs: bool = False
    stop_reaches_paused_runs: bool = False
    upload_references: bool = False
    trace_sessions: bool = False
    site_placeholder: bool = False
    form_upload_tokens: bool = False
    forms_are_nodes: bool = False
    resumed_live_events_stay_open: bool = False
    knowledge: bool = False


_V1_9_1 = Version(
    number="1.9.1",
    worker_queue=False,
    listener_persists=True,
    stop_outcome="failed",
    stop_outcomes=("failed", "stopped"),
    first_ping=False,
    close_delay=0.0,
    idle_limit=None,
    errors_keep_stream=False,
    refuses_inputs_in_stream=False,
    limit_counts_streams=True,
    started_reason=False,
    parallel_keys=True,
    start_shows_system=True,
    early_start_chunks=False,
    late_default_chunks=True,
    empty_metadata=True,
    success_error="",
    row_timestamp="none",
    row_outputs_are_text=True,
    row_counts_steps=False,
    unknown_run_is_null=True,
    overtime_keeps_outputs=False,
    overtime_row_status="failed",
    pydantic=None,
    run_content_type="application/json",
    logs_running=False,
    logs_details=False,
    end_user_type="service_api",
    unknown_account_refused=False,
    human_input=False,
    strict_checkboxes=True,
    previews_uploads=True,
    foreign_files=True,
    too_large_message="File size exceeded. {message}",
    file_references=False,
)

_V1_11_2 = Version(
    number="1.11.2",
    worker_queue=False,
    listener_persists=False,
    stop_outcome="stuck",
    stop_outcomes=("stuck",),
    first_ping=False,
    close_delay=0.0,
    idle_limit=None,
    errors_keep_stream=False,
    refuses_inputs_in_stream=False,
    limit_counts_streams=True,
    started_reason=False,
    parallel_keys=False,
    start_shows_system=True,
    early_start_chunks=False,
    late_default_chunks=True,
    empty_metadata=False,
    success_error=None,
    row_timestamp="last",
    row_outputs_are_text=True,
    row_counts_steps=True,
    unknown_run_is_null=True,
    overtime_keeps_outputs=True,
    overtime_row_status="stopped",
    pydantic="2.11",
    run_content_type="application/json; charset=utf-8",
    logs_running=True,
    logs_details=True,
    end_user_type="service-api",
    unknown_account_refused=True,
    human_input=False,
    strict_checkboxes=True,
    previews_uploads=True,
    foreign_files=True,
    too_large_message="File size exceeded. {message}",
    file_references=False,
)

_V1_14_2 = Version(
    number="1.14.2",
    worker_queue=True,
    listener_persists=False,
    stop_outcome="stuck",
    stop_outcomes=("stuck", "failed", "stopped"),
    first_ping=True,
    close_delay=1.0,
    idle_limit=300.0,
    errors_keep_stream=True,
    refuses_inputs_in_stream=True,
    limit_counts_streams=False,
    started_reason=True,
    parallel_keys=False,
    start_shows_system=False,
    early_start_chunks=True,
    late_default_chunks=False,
    empty_metadata=False,
    success_error=None,
    row_timestamp="middle",
    row_outputs_are_text=False,
    row_counts_steps=True,
    unknown_run_is_null=False,
    overtime_keeps_outputs=True,
    overtime_row_status="stopped",
    pydantic="2.12",
    run_content_type="application/json; charset=utf-8",
    logs_running=True,
    logs_details=True,
    end_user_type="service-api",
    unknown_account_refused=True,
    human_input=True,
    strict_checkboxes=False,
    previews_uploads=False,
    foreign_files=False,
    too_large_message="",
    file_references=True,
    knowledge=True,
)

_V1_16_1 = replace(
    _V1_14_2,
    number="1.16.1",
    stop_outcome="aborted",
    stop_outcomes=("aborted",),
    close_delay=0.0,
    errors_keep_stream=False,
    synthetic_refusals=True,
    shutdown_stops_runs=True,
    approval_channels=True,
    tells_filled_forms=False,
    overtime_status="stopped",
    app_limit_stops_runs=True,
    stop_reaches_paused_runs=True,
    upload_references=True,
    trace_sessions=True,
    site_placeholder=True,
    form_upload_tokens=True,
    forms_are_nodes=True,
    resumed_live_events_stay_open=True,
)

VERSIONS: dict[str, Version] = {version.number: version for version in (_V1_9_1, _V1_11_2, _V1_14_2, _V1_16_1)}


def get_version(number: str) -> Version:
    """Return the version of that number.

    :raises ValueError: if the local server does not know it; the message lists those it knows.
    """
    try:
        return VERSIONS[number]
    except KeyError:
        raise ValueError(
            f"emulate must be one of {', '.join(VERSIONS)}, not {number!r}; choose the one nearest to your server"
        ) from None
