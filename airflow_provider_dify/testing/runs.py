"""The books of the local server: each run, what its row says, and who listens to it."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_dify.testing.apps import App
from airflow_provider_dify.testing.textstream import TextStream
from airflow_provider_dify.testing.workflows import HumanInput, Step

Event = dict[str, Any]
"""One event of a stream: `event`, `workflow_run_id`, `task_id`, `data`."""

PING: Event = {"event": "ping"}
"""The one message that has no data line."""

ACTIVE = ("queued", "running", "paused")
ENDED = ("succeeded", "partial-succeeded", "failed", "stopped")
LAST_EVENTS = ("workflow_finished", "workflow_paused", "error")


@dataclass(frozen=True, slots=True)
class EndUser:
    """Who asked for a run: the `user` of the request, within one app."""

    id: str
    session_id: str


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run as the server's books have it, whatever its clients were sent.

    :param id: the run id. It exists from submission, though a client may learn it much later, or never.
    :param task_id: the task id, by which the run is stopped.
    :param app: name of the app.
    :param user: the `user` of the submission.
    :param inputs: the inputs as sent.
    :param status: what is true: `queued`, `running`, `paused`, `succeeded`, `partial-succeeded`, `failed`,
        `stopped`, or `lost` when its worker or server died.
    :param row_status: what GET run says, which may be `running` permanently; None while there is no row.
    :param listed: whether the workflow logs show it.
    :param created_at: unix time of the submission, float seconds.
    :param started_at: unix time at which it began to execute, None while queued.
    :param finished_at: unix time of its true end.
    :param response_mode: `blocking` or `streaming`.
    :param outputs: its outputs, once ended.
    :param error: its error text, if any.
    """

    id: str
    task_id: str
    app: str
    user: str
    inputs: Mapping[str, Any]
    status: str
    row_status: str | None
    listed: bool
    created_at: float
    started_at: float | None
    finished_at: float | None
    response_mode: str
    outputs: Mapping[str, Any]
    error: str | None


@dataclass(slots=True)
class Row:
    """What the database says of a run: the only thing that GET run and the logs know."""

    status: str
    created_at: float
    outputs: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    total_steps: int = 0
    total_tokens: int = 0
    exceptions: int = 0
    finished_at: float | None = None
    elapsed: float = 0.0


@dataclass(slots=True)
class Execution:
    """One node of one run at work."""

    step: Step
    id: str
    started_at: float
    status: str = "running"
    inputs: Any = None
    outputs: Mapping[str, Any] = field(default_factory=dict)
    process_data: Mapping[str, Any] | None = field(default_factory=dict)
    error: str | None = None
    metadata: Mapping[str, Any] | None = None
    files: list[Any] = field(default_factory=list)
    finished_at: float | None = None
    elapsed: float = 0.0
    iteration_id: str | None = None
    loop_id: str | None = None

    def end(self, status: str, now: float) -> None:
        """Note the node's end."""
        self.status = status
        self.finished_at = now
        self.elapsed = round(now - self.started_at, 6)


@dataclass(slots=True)
class Form:
    """A human-input form that waits for its answer, or had it.

    :param answer: action and values, once there are some.
    :param done: whether the run has taken the answer.
    :param expired: whether its time is over, which is an answer too.
    """

    definition: HumanInput
    run: Run
    execution: Execution
    id: str
    token: str
    expires_at: int
    answer: tuple[str, Mapping[str, Any]] | None = None
    done: bool = False
    expired: bool = False


class Listener:
    """One reader of a run's events.

    :param alive: tells whether the reader's client is still connected, as far as is known.
    """

    def __init__(self, alive: Callable[[], bool]) -> None:
        self.queue: asyncio.Queue[Event] = asyncio.Queue()
        self.alive = alive


class Run:
    """One run: what is true of it, its row, and its listeners. Belongs to the server's event loop."""

    def __init__(
        self,
        app: App,
        end_user: EndUser,
        inputs: Mapping[str, Any],
        response_mode: str,
        workflow_id: str,
        *,
        run_id: str | None = None,
        task_id: str | None = None,
    ) -> None:
        self.id = run_id or str(uuid.uuid4())
        self.task_id = task_id or str(uuid.uuid4())
        self.app = app
        self.end_user = end_user
        self.sent_inputs = dict(inputs)
        self.files: list[Any] = []
        self.pending_files: list[Any] = []
        self.response_mode = response_mode
        self.workflow_id = workflow_id
        self.status = "queued"
        self.created_at = time.time()
        self.started_at: float | None = None
        self.segment_started_at: float | None = None
        self.finished_at: float | None = None
        self.inputs: dict[str, Any] = {}
        self.outputs: Mapping[str, Any] = {}
        self.error: str | None = None
        self.row: Row | None = None
        self.log_id = str(uuid.uuid4())
        self.logged_at: float | None = None
        self.listeners: list[Listener] = []
        self.muted = False
        self.steps = 0
        self.tokens = 0
        self.exceptions = 0
        self.position = 0
        self.executions: list[Execution] = []
        self.scope: dict[str, Any] = {}
        self.text = TextStream(app.workflow)
        self.yielded: dict[str, Any] = {}
        self.overtime: str | None = None
        self.forms: list[Form] = []
        self.has_paused = self.is_resuming = False
        self.aborted = asyncio.Event()
        self.stopping = False
        self.stopped_in_pause = False
        self.app_overtime: str | None = None
        self.shut_down = False
        self.task: asyncio.Task[None] | None = None
        self.stale_seconds = 0.0
        self.unknown_seconds = 0.0

    def listen(self, alive: Callable[[], bool]) -> Listener:
        """Add a reader, who gets every event from now on."""
        listener = Listener(alive)
        self.listeners.append(listener)
        return listener

    def publish(self, event: Event) -> None:
        """Hand an event to every reader, unless the readers know already that the run is over."""
        if self.muted:
            return
        for listener in self.listeners:
            listener.queue.put_nowait(event)

    def is_stale(self) -> bool:
        """Whether a fault makes the ended run look as if it were running."""
        return self.finished_at is not None and time.time() < self.finished_at + self.stale_seconds

    def is_hidden(self) -> bool:
        """Whether a fault makes the run look unknown."""
        return time.time() < self.created_at + self.unknown_seconds

    def has_audience(self) -> bool:
        """Whether a client is still connected to the run."""
        return any(listener.alive() for listener in self.listeners)

    def system_variables(self, timestamp: str = "none") -> dict[str, Any]:
        """Return the `sys.*` variables; `timestamp` says where `sys.timestamp` goes: none, middle or last."""
        moment = {"sys.timestamp": int(self.started_at or self.created_at)}
        return {
            "sys.files": self.files,
            "sys.user_id": self.end_user.session_id,
            "sys.app_id": self.app.app_id,
            **(moment if timestamp == "middle" else {}),
            "sys.workflow_id": self.workflow_id,
            "sys.workflow_run_id": self.id,
            **(moment if timestamp == "last" else {}),
        }

    def record(self) -> RunRecord:
        """Return a snapshot for the books."""
        return RunRecord(
            id=self.id,
            task_id=self.task_id,
            app=self.app.name,
            user=self.end_user.session_id,
            inputs=dict(self.sent_inputs),
            status=self.status,
            row_status=self.row.status if self.row else None,
            listed=self.logged_at is not None,
            created_at=self.created_at,
            started_at=self.started_at,
            finished_at=self.finished_at,
            response_mode=self.response_mode,
            outputs=dict(self.outputs),
            error=self.error,
        )
