"""What a sync of a knowledge base writes, against a model of one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_dify.api.knowledge import Document, IndexingState
from airflow_provider_dify.api.knowledge_operations import check_document_name
from airflow_provider_dify.exceptions import DifyEmptySourceError, DifyInvalidInputError, DifyTooManyDeletionsError
from airflow_provider_dify.rules.knowledge_names import SOURCE_FIELD, SYNC_FIELD, document_name, mark_of, tags
from airflow_provider_dify.rules.knowledge_sync import (
    GONE,
    MOVED,
    TWICE,
    Outcome,
    Plan,
    allowed_deletions,
    check_max_deletions,
    plan_sync,
)
from tests.rules.knowledge_model import KnowledgeBase, item, steps

SYNC = "dag.task"


def plan_of(base: KnowledgeBase, *items: Any, **options: Any) -> Plan:
    return plan_sync(items, base.documents, **{"sync_id": SYNC, "max_deletions": 1.0, **options})


def synced(*items: Any) -> KnowledgeBase:
    """Return a knowledge base that a sync has filled."""
    base = KnowledgeBase()
    for _ in steps(plan_of(base, *items), base, SYNC):
        pass
    return base


def outcomes(plan: Plan) -> dict[str, str]:
    found = {note.source: str(note.outcome) for note in plan.notes}
    found |= {upload.item.source: str(upload.outcome) for upload in plan.uploads}
    found |= {tag.item.source: "tagged" for tag in plan.tags}
    return found | {delete.source: delete.reason for delete in plan.deletes}


def only(base: KnowledgeBase) -> Document:
    (document,) = base.documents
    return document


def test_new_changed_unchanged_and_gone() -> None:
    base = synced(item("a", "1"), item("b", "1"), item("c", "3"))
    plan = plan_of(base, item("a", "1"), item("b", "2"), item("d", "4"))
    assert outcomes(plan) == {"a": "unchanged", "b": "updated", "d": "created", "c": GONE}
    assert plan.writes == 3


def test_what_was_synced_is_not_written_again() -> None:
    base = synced(*(item(str(n), str(n)) for n in range(20)))
    plan = plan_of(base, *(item(str(n), str(n)) for n in range(20)))
    assert plan.writes == 0
    assert {note.outcome for note in plan.notes} == {Outcome.UNCHANGED}


def test_what_is_moved_is_uploaded_and_then_removed_where_it_was() -> None:
    base = synced(item("x/a", "1"), item("b", "2"))
    plan = plan_of(base, item("y/a", "1"), item("b", "2"), max_deletions=0)
    assert outcomes(plan) == {"y/a": "renamed", "b": "unchanged", "x/a": MOVED}
    assert plan.deletes[0].moved_to == "y/a"


def test_deletions_beyond_the_limit_prevent_all_writes() -> None:
    base = synced(*(item(str(n), str(n)) for n in range(20)))
    with pytest.raises(DifyTooManyDeletionsError, match=r"^3 of 20 documents .* allows 2 deletions.* Nothing was writ"):
        plan_of(base, *(item(str(n), str(n)) for n in range(17)), item("new"), max_deletions=0.1)
    assert plan_of(base, *(item(str(n), str(n)) for n in range(17)), max_deletions=3).writes == 3


def test_an_empty_source_is_an_error_whatever_is_tracked() -> None:
    with pytest.raises(DifyEmptySourceError, match="nothing deleted"):
        plan_of(synced(item("a")))


def test_two_rows_of_one_key_are_an_error() -> None:
    with pytest.raises(DifyInvalidInputError, match="'a' twice"):
        plan_of(KnowledgeBase(), item("a", "1"), item("a", "2"))


def test_delete_never_keeps_what_is_gone() -> None:
    plan = plan_of(synced(item("a", "1"), item("b", "2")), item("a", "1"), delete="never")
    assert (plan.writes, outcomes(plan)) == (0, {"a": "unchanged", "b": "kept"})


def test_what_cannot_be_read_stays() -> None:
    base = synced(item("a", "1"), item("b", "2"))
    plan = plan_of(base, item("a", None, problem="no permission"), item("b", "2"))
    assert (plan.writes, outcomes(plan)) == (0, {"a": "failed", "b": "unchanged"})


def test_what_an_earlier_try_uploaded_and_did_not_tag_is_replaced_in_place() -> None:
    base = KnowledgeBase()
    next(steps(plan_of(base, item("a", "1")), base, SYNC))
    (upload,) = plan_of(base, item("a", "2")).uploads
    assert (upload.document, upload.outcome) == (only(base), Outcome.CREATED)


def test_what_somebody_replaced_in_dify_is_uploaded_again() -> None:
    base = synced(item("a", "1"))
    base.upload(only(base).name, "something else")
    assert outcomes(plan_of(base, item("a", "1"))) == {"a": "updated"}


@pytest.mark.parametrize(("change", "state"), [({"enabled": False}, "disabled"), ({"archived": True}, "archived")])
def test_what_somebody_took_out_of_the_search_is_left_alone(change: dict[str, Any], state: str) -> None:
    base = synced(item("a", "1"))
    base.put(replace(only(base), **change), "1")
    assert outcomes(plan_of(base, item("a", "1"))) == {"a": "unchanged"}
    (note,) = plan_of(base, item("a", "2")).notes
    assert note.outcome is Outcome.SKIPPED
    assert f"{state} in Dify" in note.reason


def test_what_is_archived_cannot_be_deleted() -> None:
    base = synced(item("a", "1"))
    base.put(replace(only(base), archived=True), "1")
    assert outcomes(plan_of(base, item("b", "2"))) == {"a": "kept", "b": "created"}


def test_what_could_not_be_indexed_is_uploaded_again() -> None:
    base = synced(item("a", "1"))
    base.put(replace(only(base), state=IndexingState.ERROR), "1")
    assert outcomes(plan_of(base, item("a", "1"))) == {"a": "updated"}


def test_what_is_still_being_indexed_is_waited_for_and_not_uploaded() -> None:
    base = synced(item("a", "1"))
    base.put(replace(only(base), state=IndexingState.WAITING), "1")
    plan = plan_of(base, item("a", "1"))
    assert (plan.writes, plan.pending) == (0, (only(base),))


def test_other_metadata_is_set_without_an_upload_and_drops_nothing() -> None:
    base = synced(item("a", "1"))
    document = only(base)
    base.put(replace(document, metadata={**document.metadata, "reviewed": "yes"}), "1")
    for _ in steps(plan_of(base, item("a", "1", metadata={"team": "x"})), base, SYNC):
        pass
    assert only(base).metadata == {**tags(SYNC, "a", "1", document.file_id), "reviewed": "yes", "team": "x"}
    assert plan_of(base, item("a", "1", metadata={"team": "x"})).writes == 0


def test_a_document_renamed_in_dify_is_replaced_under_its_new_name() -> None:
    base = synced(item("a", "1"))
    base.put(replace(only(base), name="Handbook"), "1")
    (upload,) = plan_of(base, item("a", "2")).uploads
    assert upload.name == "Handbook"


def test_a_name_that_two_documents_have_is_not_uploaded() -> None:
    base = synced(item("a", "1"))
    base.put(replace(only(base), name="Handbook"), "1")
    base.upload("x", "other")
    base.put(Document("foreign", "Handbook", IndexingState.COMPLETED), "other")
    plan = plan_of(base, item("a", "2"))
    assert (plan.writes, outcomes(plan)) == (0, {"a": "failed"})


def test_documents_of_others_are_not_touched() -> None:
    base = synced(item("a", "1"))
    base.put(Document("f1", "a", IndexingState.COMPLETED), "x")
    base.put(Document("f2", "b", IndexingState.COMPLETED, metadata=tags("other.task", "b", "9", None)), "y")
    base.put(Document("f3", "b", IndexingState.COMPLETED, metadata={SOURCE_FIELD: "b"}), "z")
    assert outcomes(plan_of(base, item("b", "2"))) == {"b": "created", "a": GONE}


def test_of_two_documents_of_one_source_one_stays() -> None:
    base = synced(item("a", "1"))
    name = only(base).name
    base.put(Document("late", name, IndexingState.COMPLETED, created_at=99.0), "1")
    plan = plan_of(base, item("a", "1"), max_deletions=0)
    assert [(each.document.id, each.reason) for each in plan.deletes] == [("late", TWICE)]


@pytest.mark.parametrize(
    ("tracked", "limit", "allowed"),
    [(1000, 0.1, 100), (5, 0.1, 1), (5, 0.0, 0), (0, 0.1, 1), (1000, 7, 7), (30, 0.1, 3), (10, 1.0, 10)],
)
def test_allowed_deletions(tracked: int, limit: float, allowed: int) -> None:
    assert allowed_deletions(tracked, limit) == allowed


@pytest.mark.parametrize("wrong", [-1, 1.5, -0.1, float("nan"), "0.1", True, None])
def test_a_limit_that_is_none_is_refused(wrong: Any) -> None:
    with pytest.raises(DifyInvalidInputError, match="max_deletions"):
        check_max_deletions(wrong)


# --- Names

TITLES = st.text(max_size=350) | st.from_regex(r"[a-z/]{0,400}\.[a-z]{1,30}")


@given(TITLES)
def test_any_title_gives_a_name_that_dify_takes(title: str) -> None:
    name = document_name(SYNC, f"s3://b/{title}", title)
    assert check_document_name(name, "name") == name
    assert name.isprintable()
    assert mark_of(SYNC, f"s3://b/{title}") in name


def test_the_extension_stays() -> None:
    assert document_name(SYNC, "u", "x" * 300 + ".pdf").endswith("].pdf")
    assert len(document_name(SYNC, "u", "x" * 300 + ".pdf")) == 200
    assert document_name(SYNC, "u", "docs/2026/a.md").startswith("docs - 2026 - a [")


def test_files_of_one_name_in_different_folders_have_different_names() -> None:
    names = {document_name(SYNC, f"s3://b/{folder}/readme.md", "readme.md") for folder in "abc"}
    assert len(names) == 3


# --- Any history

SOURCES = st.dictionaries(
    st.sampled_from([f"f{n}/x.md" for n in range(6)]), st.sampled_from(["1", "2", "3", "4"]), min_size=1
)
FOREIGN = st.lists(
    st.builds(
        Document,
        id=st.uuids().map(str),
        name=st.sampled_from(["x.md", "y.md", document_name("other", "f0/x.md", "x.md")]),
        state=st.sampled_from(list(IndexingState)),
        enabled=st.booleans(),
        archived=st.booleans(),
        metadata=st.sampled_from([{}, {"team": "a"}, tags("other", "f1/x.md", "1", None), {SYNC_FIELD: 7}]),
    ),
    max_size=4,
    unique_by=lambda document: document.id,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(SOURCES, st.integers(0, 30)), min_size=1, max_size=5), FOREIGN)
def test_after_any_history_the_knowledge_base_is_the_source(history: Any, foreign: list[Document]) -> None:
    """Syncs that are killed at any request, with any change of the source between them, then one that is not."""
    base = KnowledgeBase()
    for document in foreign:
        base.put(document, "foreign")
    for source, killed_after in history:
        plan = plan_of(base, *(item(name, content) for name, content in source.items()))
        for number, _ in enumerate(steps(plan, base, SYNC), start=1):
            if number > killed_after:
                break
    wanted = dict(history[-1][0])
    items = [item(name, content) for name, content in wanted.items()]
    for _ in steps(plan_of(base, *items), base, SYNC):
        pass
    assert plan_of(base, *items).writes == 0
    tracked = {row.document.id: row for row in base.rows.values() if row.document.metadata.get(SYNC_FIELD) == SYNC}
    assert sorted((row.document.metadata[SOURCE_FIELD], row.content) for row in tracked.values()) == sorted(
        wanted.items()
    )
    for document in foreign:
        row = base.rows[document.id]
        assert (row.document, row.content) == (document, "foreign")
    # Nothing is left of a killed sync that has uploaded and not tagged, and whose source went away before the next one.
    assert [row for row in base.rows.values() if row.document.id not in tracked and row.content != "foreign"] == []


@given(SOURCES, SOURCES)
def test_a_plan_writes_each_difference_once(before: dict[str, str], after: dict[str, str]) -> None:
    base = synced(*(item(name, content) for name, content in before.items()))
    plan = plan_of(base, *(item(name, content) for name, content in after.items()))
    changed = {name for name, content in after.items() if before.get(name) != content}
    assert sorted(upload.item.source for upload in plan.uploads) == sorted(changed)
    assert sorted(delete.source for delete in plan.deletes) == sorted(before.keys() - after.keys())
    assert {d.source for d in plan.deletes if d.reason == GONE} == {
        name for name in before.keys() - after.keys() if before[name] not in after.values()
    }
