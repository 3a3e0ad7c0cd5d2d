"""One try of a task that runs a batch: rows are written down and checked, and then run here or in the triggerer."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_provider_dify.api.checks import guarded, plain_text
from airflow_provider_dify.api.values import shape_of
from airflow_provider_dify.client.batch_source import RowFile, format_of
from airflow_provider_dify.client.batch_store import CHECKED, INPUT, MANIFEST, BatchStore
from airflow_provider_dify.exceptions import (
    DifyBatchError,
    DifyBatchLimitError,
    DifyError,
    DifyInvalidInputError,
    DifyTriggerEventError,
)
from airflow_provider_dify.rules.batch_outcome import RowStatus
from airflow_provider_dify.rules.batch_records import BatchIdentity
from airflow_provider_dify.rules.batch_rows import RowCheck, RowRules
from airflow_provider_dify.rules.batch_settings import BatchSettings
from airflow_provider_dify.rules.outages import is_outage, wait_for_server
from airflow_provider_dify.rules.plain_values import is_list, plain
from airflow_provider_dify.rules.polling import Deadline
from airflow_provider_dify.rules.taskflow_inputs import without_path_objects
from airflow_provider_dify.rules.uploads import check_destination, is_path_object
from airflow_provider_dify.runtime.batch_process import Prepared, batch_store, prepare, run_batch, upload_policy
from airflow_provider_dify.runtime.batch_threads import run_to_end
from airflow_provider_dify.runtime.deferral import defer
from airflow_provider_dify.runtime.metrics import Metrics
from airflow_provider_dify.runtime.run_link import push_link

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_dify.runtime.batch_engine import BatchEngine
    from airflow_provider_dify.runtime.input_form_cache import KnownForm
    from airflow_provider_dify.runtime.task_protocols import TaskHook

ENDED, ERROR = "ended", "error"
_STOP_SECONDS = 4.0
_STOPS_AT_A_TIME = 8


class BatchTask:
    """One try of the task, from its start or from where the triggerer has handed it back.

    :param task: The operator, with its templates rendered.
    :param context: Airflow's context of the try.
    """

    def __init__(self, task: Any, context: Context) -> None:
        self._task = task
        self._context = context
        self._hook: TaskHook = task.hook
        self._log = task.log
        self._engine: BatchEngine | None = None
        ti: Any = context["ti"]
        self._number = int(ti.try_number)
        self._identity = BatchIdentity(
            str(ti.dag_id), str(ti.task_id), str(ti.run_id), int(ti.map_index), int(ti.max_tries or 0)
        )

    def begin(self) -> Any:
        """Check everything, and run the batch, or defer."""
        task = self._task
        if task.validate_only:
            return self._validate_only()
        settings = self._settings()
        store = batch_store(settings.location, settings)
        known = store.read_json(MANIFEST)
        if known is not None and self._failure(known) is None:
            self._log.info("This batch has ended already, in %s: nothing is submitted again.", store.location)
            return {name: value for name, value in known.items() if name != "part_names"}
        settings = self._with_rows(settings, store)
        prepared = prepare(settings)
        push_link(self._context["ti"], self._hook.connection.console_url, None)
        self._log.info(
            "The batch runs %s rows with at most %s active runs. Its folder is %s.",
            "all" if settings.rows is None else f"{settings.rows:,}",
            settings.max_active_runs,
            store.location,
        )
        if task.deferrable:
            self._defer(settings)
        return self.end(self._run_here(settings, prepared))

    def resume(self, event: Any) -> Any:
        """Go on where the batch has ended in the triggerer."""
        status = event.get("status") if isinstance(event, dict) else None
        if status == ENDED and isinstance(event.get("manifest"), dict):
            return self.end(event["manifest"])
        if status == ERROR:
            from airflow_provider_dify.runtime.report import SearchReport

            # Raises what the event tells.
            SearchReport.parse({"status": ERROR, "error": event.get("error")})
        raise DifyTriggerEventError(
            f"The task of a batch was resumed with {shape_of(event)} instead of this provider's event. Triggerer and "
            "worker may run different versions of airflow-provider-dify. A retry of the task goes on with the batch."
        )

    def end(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Return the manifest, or raise where rows have no outputs and that is to fail."""
        app = manifest.get("app") or {}
        push_link(self._context["ti"], self._hook.connection.console_url, app.get("id"))
        counts = ", ".join(f"{number:,} {status}" for status, number in manifest["counts"].items() if number)
        self._log.info(
            "The batch has ended: %s; %s tokens. Results: %s.", counts, f"{manifest['tokens']:,}", manifest["results"]
        )
        failure = self._failure(manifest)
        if failure is not None:
            raise failure
        return manifest

    def killed(self) -> None:
        """Submit nothing more, and stop the active runs, since the task is killed on the worker."""
        engine = self._engine
        if engine is None:
            return
        rows = engine.stop_submitting()
        if not self._task.cancel_on_kill:
            return
        known = [row for row in rows if row.run_id is not None]

        def stop(row: Any) -> None:
            with suppress(DifyError):
                task_id = row.task_id or self._hook.find_task_id(row.run_id, row.intent.user)
                if task_id is not None:
                    self._hook.stop_workflow_run(task_id)

        # Airflow kills the process some seconds after it has asked it to end.
        pool = ThreadPoolExecutor(_STOPS_AT_A_TIME, thread_name_prefix="dify-stop")
        done, _ = wait([pool.submit(stop, row) for row in known], _STOP_SECONDS)
        pool.shutdown(wait=False, cancel_futures=True)
        self._log.info("Dify was asked to stop %s of %s active runs.", len(done), len(rows))

    # --- What is passed in

    def _settings(self) -> BatchSettings:
        task = self._task
        now = time.time()
        deadline = Deadline.after(now, task.timeout, started_at=now, execution_timeout=task.execution_timeout)
        self._check_key()
        return BatchSettings(
            source="",
            location=str(check_destination(task.result_path, "result_path", required=True)),
            identity=self._identity,
            number=self._number,
            end_time=deadline.at,
            limit=deadline.limit,
            checked=task.validate_inputs,
            key=task.key,
            columns=self._columns(),
            result_format=task.result_format,
            rows_per_part=task.rows_per_part,
            workflow_id=task.workflow_id,
            max_active_runs=task.max_active_runs,
            submit_timeout=task.submit_timeout,
            run_timeout=task.run_timeout,
            max_poll_interval=task.max_poll_interval,
            max_failures=task.max_failures,
            max_tokens=task.max_tokens,
            retries_per_request=task.retries_per_request,
            on_orphaned_intent=task.on_orphaned_intent,
            cancel_on_timeout=task.cancel_on_timeout,
            allowed_upload_roots=task.allowed_upload_roots,
            only=task.only,
        )

    def _check_key(self) -> None:
        key = self._task.key
        if key is not None and not (plain_text(key) or "").strip():
            raise DifyInvalidInputError(f"key must be the name of a field and is {shape_of(key)}.")

    def _columns(self) -> dict[str, str] | None:
        columns = self._task.inputs
        if columns is None:
            return None
        if isinstance(columns, str):
            with suppress(ValueError):
                columns = json.loads(columns)
        if not isinstance(columns, Mapping) or not columns:
            raise DifyInvalidInputError(
                'inputs must map names of inputs to columns, such as {"text": "body"}, and is '
                f"{shape_of(columns)}. Leave it out where each row is the inputs."
            )
        for name, column in columns.items():
            if plain_text(name) is None or plain_text(column) is None:
                raise DifyInvalidInputError(
                    "inputs must map names of inputs to names of columns, both as texts; one is "
                    f"{shape_of(name if plain_text(name) is None else column)}."
                )
        return dict(columns)

    def _rules(self, settings: BatchSettings, *, is_csv: bool) -> RowRules:
        form = None
        if settings.workflow_id is None:
            known = self._known_form(settings)
            form = known.form
            if form is None:
                self._log.info("Rows are not held against the app's input form, which cannot be read: %s", known.reason)
        return RowRules(
            key=settings.key,
            columns=settings.columns,
            form=form,
            policy=upload_policy(self._hook.connection, settings.allowed_upload_roots),
            blanks_are_missing=is_csv,
        )

    def _known_form(self, settings: BatchSettings) -> KnownForm:
        """Return what is known of the app's form; a server that is away is waited for until the deadline."""
        deadline = Deadline(settings.end_time, settings.limit)
        try:
            return self._hook.known_form()
        except DifyError as error:
            if not is_outage(error) or deadline.left(time.time()) <= 0:
                raise
        self._log.info("No Dify server answers: nothing is submitted until one does.")
        self._hook.follow(wait_for_server(deadline, time.time, random.random), self._log.info, deadline)
        return self._hook.known_form()

    def _with_rows(self, settings: BatchSettings, store: BatchStore) -> BatchSettings:
        """Write down rows that are in no file, check them all, and return the settings with what is known of them.

        A retry has the rows of the try before, also where the function that made them would make others.
        """
        checked = store.read_json(CHECKED)
        if isinstance(checked, dict):
            known: dict[str, Any] = {name: checked.get(name) for name in _NOTED}
            return replace(settings, **known)
        earlier = self._earlier(store) if settings.only is not None else None
        given = self._task.rows()
        path = _path_in(given)
        check: RowCheck | None = None
        rows: int | None = None
        if path is not None:
            source, shown = str(path), str(path)
            if settings.checked:
                check = self._checked(settings, source)
                rows = check.rows
        else:
            source, shown = store.uri(INPUT), None
            if settings.checked:
                check = RowCheck(self._rules(settings, is_csv=False))
            rows = store.write_input(_written(_listed(given), check))
        settings = replace(settings, source=source, rows=rows, shown_source=shown, earlier=earlier)
        note = {name: value for name, value in asdict(settings).items() if name in _NOTED}
        store.write_json(note, CHECKED)
        return settings

    def _checked(self, settings: BatchSettings, source: str) -> RowCheck:
        began = time.monotonic()
        file = RowFile(source)
        check = RowCheck(self._rules(settings, is_csv=file.format == "csv"))
        for row in file.rows():
            check.take(row)
        check.finish()
        self._log.info("All %s rows were checked, in %.1f s.", f"{check.rows:,}", time.monotonic() - began)
        return check

    def _earlier(self, store: BatchStore) -> str:
        """Return the folder of the batch whose rows are run again."""
        given = self._task.manifest
        if given is None:
            found = store.earlier_generation(self._identity.generation)
            if found is None:
                raise DifyInvalidInputError(
                    "only is set, and this task has no earlier batch. Pass the manifest of one: what its task "
                    "returned, or the URI of its folder."
                )
            return found.location
        location = given.get("location") if isinstance(given, Mapping) else plain_text(given)
        if not isinstance(location, str) or not location:
            raise DifyInvalidInputError(
                f"manifest must be what the task of an earlier batch returned, or the URI of its folder, and is "
                f"{shape_of(given)}."
            )
        return location.removesuffix(f"/{MANIFEST}")

    def _validate_only(self) -> dict[str, Any]:
        settings = replace(self._settings_without_folder(), checked=True)
        given = self._task.rows()
        path = _path_in(given)
        if path is not None:
            check = self._checked(settings, str(path))
        else:
            check = RowCheck(self._rules(settings, is_csv=False))
            for _ in _written(_listed(given), check):
                pass
        requests = {
            "submissions": check.rows,
            "reads": check.rows,
            "uploads": check.files,
            # At least one page for each hundred rows; a batch of long runs asks more often.
            "log_pages": -(-check.rows // 100),
        }
        self._log.info(
            "All %s rows are right. A batch of them takes at least %s requests: %s. Nothing was submitted.",
            f"{check.rows:,}",
            f"{sum(requests.values()):,}",
            ", ".join(f"{number:,} {name.replace('_', ' ')}" for name, number in requests.items()),
        )
        return {"valid": True, "rows": check.rows, "requests": requests}

    def _settings_without_folder(self) -> BatchSettings:
        self._check_key()
        return BatchSettings(
            source="",
            location="",
            identity=self._identity,
            number=self._number,
            end_time=0.0,
            key=self._task.key,
            columns=self._columns(),
            workflow_id=self._task.workflow_id,
            allowed_upload_roots=self._task.allowed_upload_roots,
        )

    # --- Running

    def _run_here(self, settings: BatchSettings, prepared: Prepared) -> dict[str, Any]:
        metrics = Metrics(self._task.dify_conn_id)

        def began(engine: BatchEngine) -> None:
            self._engine = engine

        async def run() -> dict[str, Any]:
            return await run_batch(self._hook, settings, prepared, metrics, self._log, began)

        return run_to_end(run)

    def _defer(self, settings: BatchSettings) -> NoReturn:
        # No framework timeout: when one passes, neither this operator nor the trigger gets to stop the runs.
        defer(
            self._task,
            "DifyBatchTrigger",
            "execute_complete",
            {
                "settings": settings.as_json(),
                "dify_conn_id": self._task.dify_conn_id,
                "cancel_on_kill": self._task.cancel_on_kill,
            },
        )

    def _failure(self, manifest: Mapping[str, Any]) -> DifyBatchError | None:
        """Return the error of a batch that has ended so; None where the task succeeds."""
        counts = manifest["counts"]
        failed, unknown = counts[str(RowStatus.FAILED)], counts[str(RowStatus.UNKNOWN)]
        early = manifest.get("ended_early")
        where = f"The results are in {manifest['results']}."
        rows = f"{failed:,} rows failed and for {unknown:,} nobody can say whether there is a run"
        again = (
            "A retry of the task submits failed rows again, and searches again for those that are unknown; a clear "
            "starts a new batch."
        )
        if early is not None and early.startswith("max_tokens"):
            return DifyBatchLimitError(
                f"The batch ended before its last row: {early}. {where} Raise max_tokens; then a clear with "
                "only and the manifest, or a new batch, goes on.",
                manifest=dict(manifest),
            )
        if early is not None:
            return DifyBatchError(
                f"The batch ended before its last row: {early}. {rows}. {where} {again}", manifest=dict(manifest)
            )
        if (failed or unknown) and self._task.fail_on_partial_error:
            return DifyBatchError(
                f"Of {manifest['rows']:,} rows {rows}. {where} {again} With fail_on_partial_error=False such a batch "
                "succeeds.",
                manifest=dict(manifest),
            )
        return None


_NOTED = frozenset({"source", "rows", "shown_source", "earlier"})


def _path_in(given: Any) -> Any:
    """Return the file that rows are in; None where they are given themselves."""
    if is_path_object(given):
        return given
    text = plain_text(given)
    if text is None or text.lstrip().startswith("["):
        return None
    if not text.strip():
        raise DifyInvalidInputError("requests is an empty text: pass rows, or the path or URI of a file of rows.")
    format_of(text)
    return text.strip()


def _listed(given: Any) -> Iterable[Any]:
    """Return rows that are given themselves."""
    text = plain_text(given)
    if text is not None:
        try:
            given = json.loads(text)
        except ValueError:
            raise DifyInvalidInputError(
                "requests is a text that begins like a JSON list and is none. Render it with `| tojson`, or pass the "
                "upstream task's output."
            ) from None
    if is_list(given) or (isinstance(given, Iterator) and not isinstance(given, Mapping)):
        return given  # type: ignore[no-any-return]
    remedy = " Put it into a list." if isinstance(given, Mapping) else ""
    raise DifyInvalidInputError(
        "requests must be a list of rows, the output of an upstream task, or the path or URI of a .jsonl, .csv or "
        f".parquet file, and is {shape_of(given)}.{remedy}"
    )


def _written(rows: Iterable[Any], check: RowCheck | None) -> Iterator[dict[str, Any]]:
    """Yield rows as they are written down, checked on the way.

    :raises DifyBatchRowsError: Some are wrong; raised after the last one.
    :raises DifyInvalidInputError: One cannot be written down.
    """
    with guarded(rows, "requests"):
        for number, row in enumerate(rows):
            if check is not None:
                known = len(check.faults)
                check.take(row)
                if len(check.faults) > known or check.wrong_rows:
                    continue
            if not isinstance(row, Mapping):
                raise DifyInvalidInputError(
                    f"requests[{number}] must be a mapping of fields to values and is {shape_of(row)}."
                )
            yield without_path_objects(plain(row, f"requests[{number}]", paths=True))
    if check is not None:
        check.finish()
