"""A run from its start to its end: waiting for a worker, executing, pausing, stopping, and what its row says of it."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from airflow_provider_dify.testing.apps import App
from airflow_provider_dify.testing.events import EventBodies
from airflow_provider_dify.testing.files import FileStore, InvalidFileError
from airflow_provider_dify.testing.inputs import CrashingInputs, RefusedInputs, check_inputs
from airflow_provider_dify.testing.pausing import Pause, Pauses
from airflow_provider_dify.testing.runs import ACTIVE, PING, EndUser, Event, Execution, Form, Row, Run
from airflow_provider_dify.testing.templates import as_text, render
from airflow_provider_dify.testing.versions import LATE_ROW_DELAY, PING_INTERVAL, STOP_DELAY, STOP_NOTICE_DELAY, Version
from airflow_provider_dify.testing.workflows import Step, Workflow, evaluate

STOP_OUTCOMES = ("failed", "stopped", "stuck", "aborted")
"""How a stop may end.

`failed`: the stream says `failed`, `Aborted: User requested stop`; `stopped`: it says `stopped`, `Stopped by
user.`; `stuck`: it says `stopped`, and the row stays `running` permanently. 1.14.2 as released is always `stuck`; a
later build of the same number mostly says one of the first two, and its row `stopped`. `aborted`, of 1.16.1: stream
and row say `stopped`, `Aborted: User requested stop`.
"""

_ABORTED = "Aborted: User requested stop"
_STOPPED = "Stopped by user."
_SHUT_DOWN = "Aborted: Workflow stopped because the worker is shutting down."


class TooManyRuns(Exception):
    """The app's `max_active_requests` is reached."""


class RefusedGraph(ValueError):
    """The workflow's graph cannot be built; the text is the server's message."""


class _StepFailed(Exception):
    """A node failed and nothing handles it."""


class _Aborted(Exception):
    """Somebody stopped the run."""


class _Paused(Exception):
    """The run waits for a human."""


class Engine:
    """Executes runs and keeps the books. Belongs to the server's event loop.

    :param version: whose behaviour is shown.
    :param files: where file inputs are looked up.
    :param worker_slots: streaming runs that execute at a time where the version queues them, None for no
        limit.
    :param time_scale: factor on every duration.
    :param stop_outcome: one of `STOP_OUTCOMES`.
    :param app_max_execution_time: seconds, before `time_scale`, after which whoever listens to a run is informed
        that it was stopped.
    :param workflow_max_execution_time: seconds, before `time_scale`, after which a run fails when a node
        ends.
    :param resume_stops: whether a run that is resumed ends `stopped`.
    """

    def __init__(
        self,
        version: Version,
        files: FileStore,
        *,
        worker_slots: int | None,
        time_scale: float,
        stop_outcome: str,
        app_max_execution_time: float,
        workflow_max_execution_time: float,
        resume_stops: bool = False,
    ) -> None:
        self._version = version
        self._files = files
        self._worker_slots = worker_slots
        self._scale = time_scale
        self._stop_outcome = stop_outcome
        self._app_limit = app_max_execution_time
        self._workflow_limit = workflow_max_execution_time
        self.bodies = EventBodies(version)
        self.pauses = Pauses(version, self.bodies, resume_stops=resume_stops)
        self.runs: dict[str, Run] = {}
        self._end_users: dict[tuple[str, str], EndUser] = {}
        self._active: Counter[str] = Counter()
        self._waiting: deque[Run] = deque()
        self._in_workers: set[Run] = set()
        self._workers_alive = True
        self._shutting_down = False
        self._background: set[asyncio.Task[Any]] = set()

    def end_user(self, app: App, session_id: str) -> EndUser:
        """Return the end user of that name, the same one each time."""
        key = (app.name, session_id)
        if key not in self._end_users:
            self._end_users[key] = EndUser(str(uuid.uuid4()), session_id)
        return self._end_users[key]

    def admit(self, app: App, streaming: bool) -> Callable[[], None]:
        """Take a place under the app's `max_active_requests` and return what gives it back.

        Where open streams are not counted, a streaming request still counts itself twice, so that a limit of
        1 refuses every one.

        :raises TooManyRuns: if the limit is reached.
        """
        limit = app.workflow.max_active_requests
        counted = not streaming or self._version.limit_counts_streams
        if limit and self._active[app.name] + (1 if counted else 2) > limit:
            raise TooManyRuns
        if not counted:
            return lambda: None
        self._active[app.name] += 1
        return lambda: self._active.subtract([app.name])

    async def prepare(self, run: Run, files: list[Any]) -> None:
        """Check a run's inputs and top-level files, then its graph.

        :raises RefusedInputs: for wrong inputs.
        :raises CrashingInputs: for inputs that crash this version.
        :raises RefusedGraph: for a graph that cannot be built.
        """
        workflow = run.app.workflow
        run.inputs = await check_inputs(workflow, run.sent_inputs, self._version, self._files, run.end_user)
        try:
            run.files = [
                await self._files.resolve(item, self._version, run.end_user, ("document", "image", "audio", "video"))
                for item in files
            ]
        except InvalidFileError as error:
            raise RefusedInputs(str(error)) from error
        if workflow.graph_error:
            raise RefusedGraph(workflow.graph_error)
        if workflow.asks_human() and not self._version.human_input:
            raise RefusedGraph("'human-input' is not a valid NodeType")

    def execute(self, run: Run, delay: float = 0.0) -> None:
        """Execute a prepared run without a worker.

        :param delay: wall-clock seconds before it begins.
        """
        self.runs[run.id] = run
        run.task = self._spawn(self._play_later(run, delay))

    def enqueue(self, run: Run, files: list[Any], delay: float = 0.0) -> None:
        """Hand a run to the workers, which check it and execute it when one is free.

        :param delay: wall-clock seconds before it even gets in line.
        """
        self.runs[run.id] = run
        self._spawn(self._in_line(run, files, delay))

    def resume(self, form: Form, action: str, values: Mapping[str, Any]) -> None:
        """Continue a paused run with the answer of a human: a value for each field."""
        if self.pauses.answer(form, action, values):
            self._spawn(self._in_line(form.run, [], 0.0))

    def expire(self, form: Form) -> None:
        """Continue a paused run since nobody has answered its form in time."""
        if self.pauses.expire(form):
            self._spawn(self._in_line(form.run, [], 0.0))

    def stop(self, task_id: str) -> None:
        """Stop the running run of that task; a paused one is stopped when it resumes, where the version does so."""
        for run in self.runs.values():
            if run.task_id != task_id or run.stopping:
                continue
            if run.status == "running":
                run.stopping = True
                self._spawn(self._abort_later(run))
            elif run.status == "paused" and self._version.stop_reaches_paused_runs:
                run.stopping = run.stopped_in_pause = True

    def witness(self, run: Run, event: Event) -> None:
        """Note that a listener has seen an event; where listeners keep the rows, the last one settles it."""
        row = run.row
        if self._version.listener_persists and event["event"] == "workflow_finished" and row:
            data = event["data"]
            self._settle(run, data["status"], data["outputs"], data["error"] or None, time.time())

    def kill_workers(self) -> None:
        """Kill the workers and what they execute. Queued runs wait for new ones."""
        self._workers_alive = False
        self._lose(self._in_workers)

    def shut_down_workers(self) -> None:
        """Ask the workers to terminate; until `start_workers` they still take runs, and stop them as those at work."""
        if not self._version.shutdown_stops_runs:
            return
        self._shutting_down = True
        for run in self._in_workers:
            run.shut_down = True
            run.aborted.set()

    def start_workers(self) -> None:
        """Start workers again after `kill_workers` or `shut_down_workers`."""
        self._workers_alive, self._shutting_down = True, False
        self._dispatch()

    def lose_runs(self, *, workers_too: bool) -> None:
        """Let the runs in flight die: all, or those that execute in the API process."""
        lost = {run for run in self.runs.values() if run.status == "running"}
        self._lose(lost if workers_too else lost - self._in_workers)

    async def close(self) -> None:
        """Cancel everything that is under way and wait for it. What was queued or at work is lost."""
        self._workers_alive = False
        self._waiting.clear()
        while self._background:
            tasks, self._background = self._background, set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self._in_workers.clear()
        for run in self.runs.values():
            if run.status in ("queued", "running"):
                run.status = "lost"

    def _lose(self, runs: set[Run]) -> None:
        for run in list(runs):
            if run.status == "running":
                run.status = "lost"
            if run.task:
                run.task.cancel()
        self._in_workers -= runs

    def in_background(self, work: Coroutine[Any, Any, Any]) -> None:
        """Let something go on without anybody waiting for it."""
        self._spawn(work)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def _in_line(self, run: Run, files: list[Any], delay: float) -> None:
        if delay:
            await asyncio.sleep(delay)
        run.pending_files = files
        self._waiting.append(run)
        self._dispatch()

    def _dispatch(self) -> None:
        while self._workers_alive and self._waiting:
            if self._worker_slots is not None and len(self._in_workers) >= self._worker_slots:
                return
            run = self._waiting.popleft()
            self._in_workers.add(run)
            run.task = self._spawn(self._work(run))

    async def _work(self, run: Run) -> None:
        try:
            if run.row is None:
                await self.prepare(run, run.pending_files)
            await self._play(run)
        except (RefusedInputs, CrashingInputs) as error:
            self.runs.pop(run.id, None)
            for event in self.bodies.refused_inputs(run, str(error)):
                run.publish(event)
        except RefusedGraph as error:
            self.runs.pop(run.id, None)
            for event in self.bodies.refused_graph(run, str(error)):
                run.publish(event)
        finally:
            self._in_workers.discard(run)
            self._dispatch()

    async def _play_later(self, run: Run, delay: float) -> None:
        if delay:
            await asyncio.sleep(delay)
        await self._play(run)

    async def _play(self, run: Run) -> None:
        self._begin(run)
        if self._shutting_down and run in self._in_workers:
            run.shut_down = True
            run.aborted.set()
        loop = asyncio.get_running_loop()
        pings = self._spawn(self._ping(run))
        limit = loop.call_later(self._app_limit * self._scale, self._give_up_listening, run)
        try:
            for step in run.app.workflow.plan()[run.position :]:
                overtime = run.overtime
                if run.position and run.aborted.is_set():
                    raise _Aborted
                await self._node(run, step)
                run.position += 1
                if overtime:
                    break
            self._finish_ended(run)
        except _Paused:
            return
        except _StepFailed as failure:
            self._finish(run, "failed", run.app.workflow.failure_outputs, str(failure))
        except _Aborted:
            await self._finish_stopped(run)
        except Exception as error:
            self._finish(run, "failed", {}, f"{type(error).__name__}: {error}")
        finally:
            pings.cancel()
            limit.cancel()

    def _begin(self, run: Run) -> None:
        now = time.time()
        run.segment_started_at = now
        run.status = "running"
        if run.row is None:
            run.started_at = now
            run.row = Row("running", now)
            system = {name.removeprefix("sys."): value for name, value in run.system_variables("middle").items()}
            run.scope = run.inputs | {"sys": system}
            if self._version.logs_running:
                run.logged_at = now
        run.row.status, run.row.total_steps = "running", 0
        run.publish(self.bodies.workflow_started(run, "resumption" if run.forms else "initial"))

    async def _ping(self, run: Run) -> None:
        while True:
            await asyncio.sleep(PING_INTERVAL * self._scale)
            run.publish(PING)

    def _give_up_listening(self, run: Run) -> None:
        error = f"App execution exceeded {self._app_limit:g} seconds"
        message = error if self._version.app_limit_stops_runs else _STOPPED
        run.publish(self.bodies.workflow_finished(run, "stopped", {}, message, time.time()))
        run.muted = True
        if self._version.app_limit_stops_runs:
            run.app_overtime = f"Aborted: {error}"
            self._spawn(self._abort_later(run, LATE_ROW_DELAY))

    async def _abort_later(self, run: Run, delay: float = STOP_DELAY) -> None:
        await asyncio.sleep(delay * self._scale)
        run.aborted.set()

    async def _sleep(self, run: Run, seconds: float) -> None:
        if run.aborted.is_set():
            raise _Aborted
        try:
            await asyncio.wait_for(run.aborted.wait(), max(0.0, seconds) * self._scale)
        except asyncio.TimeoutError:
            return
        raise _Aborted

    async def _node(self, run: Run, step: Step) -> None:
        if step.asks_human():
            self._human_nodes(run, step.steps if step.type == "parallel" else [step])
            return
        workflow = run.app.workflow
        is_start = step is workflow.start or step.type == "start"
        execution = Execution(step, str(uuid.uuid4()), time.time())
        run.steps += 1
        if is_start and self._version.early_start_chunks:
            self._publish_text(run)
        if step.type not in ("iteration", "loop"):
            run.executions.append(execution)
            run.publish(self.bodies.node_started(run, execution))
        if is_start:
            self._end_start_node(run, execution)
        elif step.type == "end":
            self._publish_text(run)
            yielded = evaluate(run.app.workflow.output_template(), run.scope)
            run.yielded = self._files.placed(yielded, self._version, run.end_user)
            execution.inputs = execution.outputs = run.yielded
            execution.end("succeeded", time.time())
        elif step.type in ("iteration", "loop"):
            await self._rounds(run, execution)
            return
        else:
            await self._attempts(run, execution)
        if execution.status == "succeeded" or not self._version.late_default_chunks:
            self._publish_text(run)
        run.publish(self.bodies.node_finished(run, execution))
        if execution.status == "failed":
            raise _StepFailed(execution.error)
        self._check_overtime(run, step)

    def _end_start_node(self, run: Run, execution: Execution) -> None:
        shown = dict(run.inputs)
        if self._version.start_shows_system:
            shown |= run.system_variables(self._version.row_timestamp)
        execution.inputs = execution.outputs = shown
        execution.end("succeeded", time.time())

    async def _attempts(self, run: Run, execution: Execution) -> None:
        """Let a node work, fail and try again, up to its end."""
        step = execution.step
        for attempt in range(step.retries + 1):
            execution.inputs = evaluate(step.inputs, run.scope)
            execution.process_data = evaluate(step.process_data, run.scope)
            await self._work_and_speak(run, step)
            if step.error is None:
                self._succeed(run, execution)
                return
            run.exceptions += 1
            if attempt < step.retries:
                await self._sleep(run, step.retry_interval)
                execution.error = step.error
                execution.end("retry", time.time())
                run.steps += 1
                run.publish(self.bodies.node_retry(run, execution, attempt + 1))
        self._fail(run, execution)

    def _succeed(self, run: Run, execution: Execution) -> None:
        step = execution.step
        execution.outputs = run.scope[step.node_id] = evaluate(step.outputs, run.scope)
        execution.error = None
        if step.tokens:
            run.tokens += step.tokens
            execution.metadata = {"total_tokens": step.tokens, "total_price": "0", "currency": "USD"}
        execution.end("succeeded", time.time())

    def _fail(self, run: Run, execution: Execution) -> None:
        step = execution.step
        if step.on_error is None:
            execution.error = step.error
            execution.end("failed", time.time())
            return
        default = dict(step.default) if step.on_error == "default-value" else {}
        execution.outputs = default | {"error_message": step.error, "error_type": step.error_type}
        run.scope[step.node_id] = dict(execution.outputs)
        execution.error = "Unknown error"
        execution.metadata = {"error_strategy": step.on_error}
        execution.end("exception", time.time())

    async def _work_and_speak(self, run: Run, step: Step) -> None:
        seconds = _seconds(render(step.seconds, run.scope))
        words = self._spoken_words(run, step)
        for word in words:
            await self._sleep(run, seconds / len(words))
            run.publish(self.bodies.text_chunk(run, word, [step.node_id, "text"]))
        if not words:
            await self._sleep(run, seconds)

    def _spoken_words(self, run: Run, step: Step) -> list[str]:
        workflow = run.app.workflow
        if workflow.stream_text is None or step.node_id != _speaker(workflow).node_id:
            return []
        scope = run.scope | {step.node_id: evaluate(step.outputs, run.scope)}
        words = as_text(render(workflow.stream_text, scope)).split(" ")
        return [word if number == 0 else f" {word}" for number, word in enumerate(words)]

    async def _rounds(self, run: Run, execution: Execution) -> None:
        """Execute an iteration or a loop: its nodes once for each item or round."""
        step = execution.step
        iterates = step.type == "iteration"
        items = list(render(step.items, run.scope) or []) if iterates else list(range(step.rounds))
        execution.inputs = {"iterator_selector": items} if iterates else evaluate(step.inputs, run.scope)
        length = len(items) if iterates else int(execution.inputs.get("loop_count", len(items)))
        run.publish(self.bodies.round_started(run, execution, length))
        collected, durations = [], {}
        for index, item in enumerate(items):
            if iterates or index:
                run.publish(self.bodies.round_next(run, execution, index, time.time()))
            begun = time.time()
            run.scope |= {"item": item, "round": index}
            for child in step.steps:
                await self._child(run, execution, child, index)
            collected.append(step.collect(run.scope) if callable(step.collect) else render(step.collect, run.scope))
            durations[str(index)] = round(time.time() - begun, 6)
        outputs = {"output": collected} if iterates else evaluate(step.outputs, run.scope)
        execution.outputs = run.scope[step.node_id] = outputs
        execution.metadata = _rounds_metadata(step, durations, collected)
        execution.end("succeeded", time.time())
        run.publish(self.bodies.round_completed(run, execution, length))
        self._publish_text(run)
        self._check_overtime(run, step)

    async def _child(self, run: Run, container: Execution, step: Step, index: int) -> None:
        execution = Execution(step, str(uuid.uuid4()), time.time())
        kind = container.step.type
        if kind == "iteration":
            execution.iteration_id = container.step.node_id
        else:
            execution.loop_id = container.step.node_id
        run.publish(self.bodies.node_started(run, execution))
        steps = run.steps
        await self._attempts(run, execution)
        run.steps = steps
        execution.metadata = {f"{kind}_id": container.step.node_id, f"{kind}_index": index}
        run.publish(self.bodies.node_finished(run, execution))
        if execution.status == "failed":
            raise _StepFailed(execution.error)

    def _human_nodes(self, run: Run, steps: Sequence[Step]) -> None:
        came = self.pauses.visit(run, steps, self._publish_text)
        if came is Pause.WAITS:
            raise _Paused
        if came is Pause.STOPPED:
            raise _Aborted

    def _publish_text(self, run: Run) -> None:
        for text, selector in run.text.ready(run.scope):
            run.publish(self.bodies.text_chunk(run, text, selector))

    def _check_overtime(self, run: Run, step: Step) -> None:
        elapsed = (time.time() - (run.segment_started_at or run.created_at)) / self._scale
        if elapsed > self._workflow_limit and run.overtime is None and step.type not in ("start", "end"):
            run.overtime = f"Aborted: Maximum execution time exceeded: {elapsed:.2f}s > {self._workflow_limit:g}s"

    def _finish_ended(self, run: Run) -> None:
        if run.overtime:
            kept = run.yielded if self._version.overtime_keeps_outputs else {}
            status, row_status = self._version.overtime_status, self._version.overtime_row_status
            self._finish(run, status, kept, run.overtime, row_status=row_status)
        elif run.exceptions and any(item.status == "exception" for item in run.executions):
            self._finish(run, "partial-succeeded", run.yielded, None)
        else:
            self._finish(run, "succeeded", run.yielded, None)

    def _finish(
        self,
        run: Run,
        status: str,
        outputs: Mapping[str, Any],
        error: str | None,
        *,
        row_status: str | None = None,
    ) -> None:
        now = time.time()
        run.status, run.finished_at, run.outputs, run.error = status, now, outputs, error
        if not self._version.listener_persists:
            self._settle(run, row_status or status, outputs, error, now)
        run.publish(self.bodies.workflow_finished(run, status, outputs, error, now))

    async def _finish_stopped(self, run: Run) -> None:
        now = time.time()
        outcome = self._stop_outcome
        if run.stopped_in_pause:
            run.publish(self.bodies.workflow_finished(run, "stopped", {}, _STOPPED, now))
            run.muted = True
            await asyncio.sleep(LATE_ROW_DELAY * self._scale)
        if run.shut_down or run.app_overtime or outcome == "aborted":
            self._finish(run, "stopped", {}, _SHUT_DOWN if run.shut_down else run.app_overtime or _ABORTED)
            return
        run.status, run.finished_at, run.error = "stopped", now, _ABORTED
        if outcome != "stuck" and not self._version.listener_persists:
            self._settle(run, "stopped", {}, _ABORTED, now)
        if outcome == "failed":
            run.publish(self.bodies.workflow_finished(run, "failed", {}, _ABORTED, now))
            return
        await asyncio.sleep(STOP_NOTICE_DELAY * self._scale)
        run.publish(self.bodies.workflow_finished(run, "stopped", {}, _STOPPED, time.time()))

    def _settle(self, run: Run, status: str, outputs: Mapping[str, Any], error: str | None, now: float) -> None:
        assert run.row is not None
        row = run.row
        row.status, row.outputs, row.error, row.finished_at = status, outputs, error, now
        row.total_steps = run.steps if self._version.row_counts_steps else 0
        row.total_tokens, row.exceptions = run.tokens, run.exceptions
        row.elapsed = round(now - (run.segment_started_at or row.created_at), 6)
        if run.logged_at is None:
            run.logged_at = now

    def active_runs(self) -> list[Run]:
        """Return the runs that are queued, at work or paused."""
        return [run for run in self.runs.values() if run.status in ACTIVE]


def _speaker(workflow: Workflow) -> Step:
    steps = workflow.plan()[1:-1]
    return next((step for step in steps if step.type == "llm"), steps[-1])


def _seconds(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0


def _rounds_metadata(step: Step, durations: Mapping[str, float], collected: list[Any]) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "total_tokens": 0,
        "total_price": "0.0",
        "currency": "USD",
        f"{step.type}_duration_map": dict(durations),
    }
    if step.type == "loop":
        metadata |= {
            "loop_variable_map": {str(index): value for index, value in enumerate(collected)},
            "completed_reason": "loop_break",
        }
    return metadata
