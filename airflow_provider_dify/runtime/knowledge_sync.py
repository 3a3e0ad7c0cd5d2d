"""One try of a sync of a knowledge base, from its start or from where the triggerer has handed it back."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, cast

from airflow_provider_dify.api import knowledge_operations as operations
from airflow_provider_dify.api.knowledge import Dataset, Document
from airflow_provider_dify.api.knowledge_operations import NAME_TAKEN, check_dataset_name, check_technique, check_uuid
from airflow_provider_dify.client.deadlines import ending_by
from airflow_provider_dify.exceptions import (
    DifyError,
    DifyIndexingError,
    DifyIndexingTimeoutError,
    DifyInvalidInputError,
    DifyNotFoundError,
    DifyPermissionError,
    DifyResponseError,
    DifyTriggerEventError,
)
from airflow_provider_dify.names import DATASET_URL_XCOM_KEY, MANIFEST_XCOM_KEY
from airflow_provider_dify.rules.deferring import leaves_worker_at
from airflow_provider_dify.rules.knowledge_indexing import NO_WORKER, Waited, wait_for_sync
from airflow_provider_dify.rules.knowledge_manifest import Manifest, document_id_of, failed_documents, planned, summary
from airflow_provider_dify.rules.knowledge_names import SYNC_FIELD, document_name, settings_digest
from airflow_provider_dify.rules.knowledge_sync import (
    MOVED,
    TWICE,
    Delete,
    Outcome,
    Plan,
    check_source,
    has_content,
    plan_sync,
)
from airflow_provider_dify.rules.polling import COLLECT_SECONDS, Deadline
from airflow_provider_dify.rules.settings import PollSchedule
from airflow_provider_dify.runtime.deferral import defer
from airflow_provider_dify.runtime.knowledge_source import find_pieces, read_pieces, source_settings
from airflow_provider_dify.runtime.knowledge_uploads import Uploaded, Uploader
from airflow_provider_dify.runtime.knowledge_wait import follow
from airflow_provider_dify.runtime.run_link import dataset_url, push_url

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


PROGRESS_SECONDS = 30.0
RESUME = "resume"
_TAGGING_ROUNDS = 3


class KnowledgeSync:
    """One try of a sync.

    :param task: The operator, with its templates rendered.
    :param context: Airflow's context of the try.
    """

    def __init__(self, task: Any, context: Context) -> None:
        self._task = task
        self._context = context
        self._hook = task.hook
        self._log = task.log
        self._uploader: Uploader | None = None
        ti = context["ti"]
        self.sync_id = task.sync_id or f"{ti.dag_id}.{ti.task_id}"
        self.dataset_id: str | None = None

    def stop(self) -> None:
        """Send nothing more: the task is killed."""
        if self._uploader is not None:
            self._uploader.stop()

    def begin(self) -> dict[str, Any]:
        """Sync: plan, write, and wait here or in the triggerer.

        :return: The manifest.
        :raises DifyError: The sync did not succeed; what it has written stays, and the next try goes on from there.
        """
        now, task = time.time(), self._task
        deadline = Deadline.after(now, task.timeout, started_at=now, execution_timeout=task.execution_timeout)
        with ending_by(deadline):
            settings = source_settings(
                task.pattern, task.metadata, task.max_file_bytes, self._hook.connection.allowed_upload_roots
            )
            pieces = find_pieces(task.source, settings)
            check_source([piece.item for piece in pieces])
            dataset = self._dataset()
            indexing = self._indexing(dataset)
            items = read_pieces(pieces, settings_digest(indexing), task.max_active_uploads)
            documents = [] if dataset is None else list(self._hook.list_documents(dataset.id))
            plan = plan_sync(
                items, documents, sync_id=self.sync_id, delete=task.delete, max_deletions=task.max_deletions
            )
            self._log.info(
                "%s", summary(planned(plan, self.dataset_id, self.sync_id)).replace("Would be (dry run)", "To do")
            )
            if task.report_only:
                return self._reported(planned(plan, self.dataset_id, self.sync_id))
            assert dataset is not None
            self._uploader = Uploader(
                self._hook,
                dataset.id,
                self.sync_id,
                indexing,
                {piece.item.source: piece for piece in pieces},
                task.max_active_uploads,
            )
            manifest, moved = self._write(plan)
        state = {"manifest": manifest.as_dict(), "moved": moved, "end_time": deadline.at, "limit": deadline.limit}
        if not plan.uploads and not plan.pending:
            return self._finish(manifest, moved, Waited())
        return self._wait(state, deadline)

    def resume(self, event: Any) -> dict[str, Any]:
        """Go on where the triggerer has handed the task back.

        What the triggerer has seen is asked for again: the list of documents is the authority.
        """
        state = event.get(RESUME) if isinstance(event, Mapping) else None
        if not isinstance(state, Mapping) or not {"manifest", "moved", "end_time", "limit"} <= state.keys():
            raise DifyTriggerEventError(
                "The event that resumed the task is none of this version's trigger. The documents are uploaded: clear "
                "the task, and it finds them."
            )
        self.dataset_id, self.sync_id = state["manifest"]["dataset_id"], state["manifest"]["sync_id"]
        return self._wait(state, Deadline(state["end_time"], state["limit"]))

    # --- The knowledge base

    def _dataset(self) -> Dataset | None:
        """Return the knowledge base; None where a dry run would create it."""
        task = self._task
        if bool(task.dataset_id) is bool(task.dataset_name):
            raise DifyInvalidInputError("Either dataset_id or dataset_name must be given. Nothing was written.")
        if task.dataset_id:
            dataset_id = check_uuid(task.dataset_id, "dataset_id")
            # Without a plugin daemon Dify shows no knowledge base, though its documents can be worked with.
            found: Dataset | None = (
                Dataset(dataset_id, "") if task.indexing_technique else self._hook.get_dataset(dataset_id)
            )
        else:
            found = self._named(check_dataset_name(task.dataset_name, "dataset_name"))
        if found is not None:
            self.dataset_id = found.id
            url = dataset_url(self._hook.connection.console_url, found.id)
            if url is not None:
                push_url(self._context["ti"], DATASET_URL_XCOM_KEY, url)
        return found

    def _found(self, name: str) -> Dataset | None:
        return cast("Dataset | None", self._hook.find_dataset(name))

    def _named(self, name: str) -> Dataset | None:
        found = self._found(name)
        if found is not None:
            return found
        if not self._task.create_dataset:
            raise DifyInvalidInputError(
                f"There is no knowledge base named {name!r} in the workspace of the key. Nothing was written. Correct "
                "dataset_name, or set create_dataset=True."
            )
        if self._task.report_only:
            return None
        try:
            made: Dataset = self._hook.create_dataset(name, indexing_technique=self._task.indexing_technique)
            self._log.info("Created the knowledge base %s (%s).", name, made.id)
            return made
        except DifyResponseError as error:
            if error.code != NAME_TAKEN:
                raise
        # Another task, or a request of this one whose answer was lost, has just created it.
        return self._found(name)

    def _indexing(self, dataset: Dataset | None) -> dict[str, Any]:
        """Return the settings of indexing that go with each upload."""
        task = self._task
        technique = task.indexing_technique or (dataset.indexing_technique if dataset is not None else None)
        if not technique:
            raise DifyInvalidInputError(
                "indexing_technique must be given, since the knowledge base has none yet: 'high_quality' needs an "
                "embedding model, 'economy' finds by keywords. Nothing was written."
            )
        settings: dict[str, Any] = {"indexing_technique": check_technique(technique)}
        if task.process_rule is not None:
            settings["process_rule"] = operations.check_process_rule(task.process_rule)
        optional = {"doc_form": task.doc_form, "doc_language": task.doc_language}
        return settings | {name: value for name, value in optional.items() if value is not None}

    # --- Writing

    def _write(self, plan: Plan) -> tuple[Manifest, list[list[str]]]:
        """Do what the plan says, but for what waits until other documents are indexed."""
        manifest = Manifest(self.dataset_id, self.sync_id)
        for note in plan.notes:
            manifest.add(note.outcome, note.source, note.name, note.document.id if note.document else None, note.reason)
            if note.outcome in (Outcome.FAILED, Outcome.SKIPPED):
                self._log.warning("%s: %s", note.source, note.reason)
        # First, since an upload finds its document by the name, which these have too.
        self._delete([each for each in plan.deletes if each.reason == TWICE], manifest)
        uploaded = self._upload(plan, manifest)
        assert self._uploader is not None
        self._uploader.tag([(each.item, str(each.item.content), each.document) for each in plan.tags])
        for tag in plan.tags:
            manifest.add(Outcome.UPDATED, tag.item.source, tag.document.name, tag.document.id, "its metadata")
        if uploaded:
            self._check_tags(uploaded, manifest)
        self._delete([each for each in plan.deletes if each.reason not in (TWICE, MOVED)], manifest)
        made = {each.upload.item.source: each.document.id for each in uploaded if each.document is not None}
        unchanged = {note.source: note.document.id for note in plan.notes if note.document is not None}
        moved = [
            [each.document.id, each.source, each.document.name, {**unchanged, **made}.get(str(each.moved_to), "")]
            for each in plan.deletes
            if each.reason == MOVED
        ]
        return manifest, moved

    def _upload(self, plan: Plan, manifest: Manifest) -> list[Uploaded]:
        assert self._uploader is not None
        uploaded: list[Uploaded] = []
        line_at = time.monotonic() + PROGRESS_SECONDS
        try:
            for number, each in enumerate(self._uploader.upload(plan.uploads), start=1):
                item, name = each.upload.item, each.upload.name
                if each.document is None:
                    self._log.warning("%s: %s", item.source, each.reason)
                    manifest.add(Outcome.FAILED, item.source, name, document_id_of(each.upload), each.reason)
                else:
                    uploaded.append(each)
                    manifest.add(each.upload.outcome, item.source, each.document.name, each.document.id)
                if time.monotonic() >= line_at:
                    line_at = time.monotonic() + PROGRESS_SECONDS
                    self._log.info("%s of %s documents are uploaded.", f"{number:,}", f"{len(plan.uploads):,}")
        except DifyError:
            self._log.warning(
                "%s of %s documents were uploaded; the next try goes on with the others.",
                f"{len(uploaded):,}",
                f"{len(plan.uploads):,}",
            )
            raise
        return uploaded

    def _check_tags(self, uploaded: Sequence[Uploaded], manifest: Manifest) -> None:
        """See that every uploaded document is tagged, and that none is there twice.

        Dify says success, too, where it could not set metadata since something else was setting it at that moment; and
        of two uploads that arrive together, of which one was given up, both make a document.
        """
        own = {each.document.id: each for each in uploaded if each.document is not None}
        # Of names that people gave, others may have documents too.
        names = {
            name: each
            for each in own.values()
            if (name := document_name(self.sync_id, each.upload.item.source, each.upload.item.title))
            == each.upload.name
        }
        for _ in range(_TAGGING_ROUNDS):
            rows = list(self._hook.list_documents(str(self.dataset_id)))
            twice = [
                Delete(row, names[row.name].upload.item.source, TWICE)
                for row in rows
                if row.name in names
                and row.id not in own
                and row.enabled
                and not row.archived
                and row.metadata.get(SYNC_FIELD) in (None, "", self.sync_id)
            ]
            self._delete(twice, manifest)
            missing = [
                (own[row.id].upload.item, own[row.id].content, row)
                for row in rows
                if row.id in own and not self._is_tagged(row, own[row.id])
            ]
            if not missing:
                return
            assert self._uploader is not None
            self._uploader.tag(missing)
        self._log.warning("%d documents could not be tagged, so the next sync will upload them again.", len(missing))

    def _is_tagged(self, row: Document, uploaded: Uploaded) -> bool:
        return row.metadata.get(SYNC_FIELD) == self.sync_id and has_content(row, uploaded.content)

    def _delete(self, deletes: Sequence[Delete], manifest: Manifest) -> None:
        for each in deletes:
            reason = self._deleted(each.document.id)
            outcome = Outcome.KEPT if reason else Outcome.DELETED
            manifest.add(outcome, each.source, each.document.name, each.document.id, reason or each.reason)

    def _deleted(self, document_id: str) -> str | None:
        """Delete a document; return why it stays, or None."""
        try:
            self._hook.delete_document(str(self.dataset_id), document_id)
        except DifyNotFoundError:
            # By somebody else, or by a request whose answer was lost.
            return None
        except DifyPermissionError as error:
            if error.code != operations.ARCHIVED:
                raise
            return "archived in Dify meanwhile, where it cannot be deleted."
        return None

    # --- Waiting

    def _wait(self, state: Mapping[str, Any], deadline: Deadline) -> dict[str, Any]:
        task, now = self._task, time.time()
        leaves_at = leaves_worker_at(now, task.defer_after, deadline) if task.deferrable else None
        here = deadline if leaves_at is None else Deadline(min(deadline.at, leaves_at), deadline.limit)
        waited = follow(self._hook, str(self.dataset_id), self._flow(here), self._log.info, here)
        if waited.error is not None:
            raise waited.error
        if waited.pending:
            if leaves_at is None or deadline.left(time.time()) <= 0:
                raise self._timed_out(waited, deadline)
            self._defer(state, deadline)
        with ending_by(deadline.at_least(time.time() + COLLECT_SECONDS)):
            return self._finish(Manifest.from_dict(state["manifest"]), state["moved"], waited)

    def _flow(self, deadline: Deadline) -> Any:
        schedule = PollSchedule(self._task.poll_interval, self._task.max_poll_interval)
        return wait_for_sync(self.sync_id, schedule=schedule, deadline=deadline, clock=time.time, jitter=random.random)

    def _defer(self, state: Mapping[str, Any], deadline: Deadline) -> NoReturn:
        defer(
            self._task,
            "DifyIndexingTrigger",
            "execute_complete",
            {
                "dify_conn_id": self._task.dify_conn_id,
                "dataset_id": str(self.dataset_id),
                "sync_id": self.sync_id,
                "end_time": deadline.at,
                "poll_interval": self._task.poll_interval,
                "max_poll_interval": self._task.max_poll_interval,
                "resume": dict(state),
            },
        )

    def _timed_out(self, waited: Waited, deadline: Deadline) -> DifyIndexingTimeoutError:
        pending = len(waited.pending)
        what = NO_WORKER if waited.stuck else "Dify goes on with them."
        return DifyIndexingTimeoutError(
            f"{pending} documents were not indexed by {deadline} ({deadline.limit}). {what} A retry of the task "
            "uploads none of them again, and goes on waiting."
        )

    def _finish(self, manifest: Manifest, moved: Sequence[Sequence[str]], waited: Waited) -> dict[str, Any]:
        for document_id, reason in waited.errors.items():
            self._log.warning("Document %s: %s", document_id, reason)
            manifest.fail(document_id, reason, {})
        for document_id, source, name, target in moved:
            # What replaces it must be there first.
            if target in waited.errors or not target:
                manifest.add(Outcome.KEPT, source, name, document_id, "what it was moved to could not be indexed.")
            elif (reason_kept := self._deleted(document_id)) is not None:
                manifest.add(Outcome.KEPT, source, name, document_id, reason_kept)
        return self._reported(manifest)

    def _reported(self, manifest: Manifest) -> dict[str, Any]:
        """Log and return the manifest, or fail with it where documents have failed."""
        self._log.info("%s", summary(manifest))
        result = manifest.as_dict()
        failed = manifest.counts[str(Outcome.FAILED)]
        if failed and self._task.fail_on_document_error and not manifest.dry_run:
            # A task that fails has no return value.
            self._context["ti"].xcom_push(key=MANIFEST_XCOM_KEY, value=result)
            raise DifyIndexingError(
                f"{failed} documents are not in the knowledge base: {failed_documents(manifest)}. All others are. The "
                f"XCom {MANIFEST_XCOM_KEY} has the manifest. A retry of the task sends only these again; "
                "fail_on_document_error=False lets the task succeed without them."
            )
        return result
