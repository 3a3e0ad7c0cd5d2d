"""Each row has one run and one result, in any order of answers, losses, kills, freezes and thaws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_dify.rules.batch_outcome import RowResult, RowStatus
from airflow_provider_dify.rules.batch_protocol import (
    BatchTakenOverError,
    CheckOwner,
    Claim,
    ListParts,
    Progress,
    ReadResults,
    ReadWindows,
    RemovePart,
    RemoveWindows,
    RewritePart,
    WritePart,
    WriteWindow,
    driven,
    finished,
    flushed,
    recorded,
    released,
    resumed,
)
from airflow_provider_dify.rules.batch_records import (
    BatchIdentity,
    Intent,
    Owner,
    ResultLine,
    Window,
    newest_owner,
    parts_in_order,
)
from airflow_provider_dify.rules.batch_rows import key_digest

IDENTITY = BatchIdentity("dag", "task", "run", -1, 2)


@dataclass
class ModelStore:
    """A folder in an object store: each operation is whole, and seen by everybody at once."""

    owners: set[str] = field(default_factory=set)
    windows: dict[str, Window] = field(default_factory=dict)
    parts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


@dataclass
class StoreOf:
    """The folder as one process sees it."""

    shared: ModelStore
    token: str
    owner: Owner = field(default_factory=Owner)

    def perform(self, step: Any) -> Any:
        shared = self.shared
        if isinstance(step, Claim):
            self.owner = Owner(newest_owner(shared.owners).epoch + 1, self.token)
            shared.owners.add(self.owner.name)
            return self.owner
        if isinstance(step, CheckOwner):
            return newest_owner(shared.owners) == self.owner
        if isinstance(step, ReadWindows):
            return list(shared.windows.values())
        if isinstance(step, ReadResults):
            names = parts_in_order(shared.parts)
            return names, [ResultLine.read(line, name) for name in names for line in shared.parts[name]]
        if isinstance(step, ListParts):
            return list(shared.parts)
        if isinstance(step, WriteWindow):
            shared.windows[step.window.name] = step.window
        elif isinstance(step, RemoveWindows):
            for name in step.names:
                shared.windows.pop(name, None)
        elif isinstance(step, WritePart):
            shared.parts[step.name] = [dict(line) for line in step.lines]
        elif isinstance(step, RemovePart):
            shared.parts.pop(step.name, None)
        elif isinstance(step, RewritePart):
            kept = [
                line
                for line in shared.parts.get(step.name, [])
                if line["attempts"] > step.superseded.get(key_digest(line["key"]), -1)
            ]
            if kept:
                shared.parts[step.name] = kept
            else:
                shared.parts.pop(step.name, None)
        return None


@dataclass
class ModelRun:
    user: str
    row: int
    fails: bool
    visible: bool


@dataclass
class ModelServer:
    """Dify: a submission starts a run, whether its answer arrives or not; a queued run is not listed."""

    runs: list[ModelRun] = field(default_factory=list)

    def post(self, intent: Intent, outcome: str) -> str:
        """Return what the client learns: the run, nothing, or a refusal that is certain."""
        if outcome == "refused":
            return "refused"
        if outcome == "lost on its way":
            return "unknown"
        self.runs.append(ModelRun(intent.user, intent.position, outcome == "fails", outcome != "queued"))
        return "started" if outcome in ("started", "fails") else "unknown"

    def find(self, user: str) -> ModelRun | None:
        return next((run for run in self.runs if run.user == user and run.visible), None)


@dataclass(frozen=True)
class Post:
    intent: Intent


@dataclass(frozen=True)
class Poll:
    user: str


def process(rows: int, number: int, width: int, part_rows: int) -> Generator[Any, Any, list[str]]:
    """One process as the engine is one: the same flows, in the same order around submissions."""
    progress: Progress = yield from resumed(number, IDENTITY.marker)
    pending = {name: set(digests) for name, digests in progress.windows.items()}
    redone: set[int] = set()
    lines: list[dict[str, Any]] = []
    windows = parts = 0

    def settle(intent: Intent, status: RowStatus) -> None:
        result = RowResult(intent.key, intent.position, status, intent.attempt, number)
        lines.append(result.as_json())
        if intent.digest in progress.unsuccessful:
            redone.add(intent.digest)

    def flush() -> Generator[Any, Any, None]:
        nonlocal parts
        taken = list(lines)
        for line in taken:
            for digests in pending.values():
                digests.discard(key_digest(line["key"]))
        done = [name for name, digests in pending.items() if not digests]
        name = progress.owner.part_name(parts + 1, "jsonl")
        yield from flushed(name, taken, done)
        if taken:
            parts += 1
            progress.parts.append(name)
        for window in done:
            del pending[window]
        del lines[: len(taken)]

    def collect(intent: Intent) -> Generator[Any, Any, None]:
        run = yield Poll(intent.user)
        if run is None:
            settle(intent, RowStatus.UNKNOWN)
        else:
            settle(intent, RowStatus.FAILED if run.fails else RowStatus.SUCCEEDED)

    for intent, _ in list(progress.intents.values()):
        yield from collect(intent)
    known = set(progress.intents) | progress.done
    todo = [position for position in range(rows) if key_digest(f"k{position}") not in known]
    while todo:
        taken, todo = todo[:width], todo[width:]
        intents = []
        for position in taken:
            attempt = progress.next_attempt(key_digest(f"k{position}"))
            intents.append(Intent(f"k{position}", position, attempt, IDENTITY.marker(f"k{position}", attempt)))
        windows += 1
        window = Window(progress.owner, windows, 0.0, tuple(intents))
        yield from recorded(window)
        pending[window.name] = {intent.digest for intent in intents}
        refused = []
        for intent in intents:
            if (yield Post(intent)) == "refused":
                refused.append(intent)
            else:
                yield from collect(intent)
        if refused:
            kept = tuple(each for each in intents if each not in refused)
            yield from released(Window(progress.owner, windows, 0.0, kept))
            pending[window.name] -= {each.digest for each in refused}
            todo += [each.position for each in refused]
        if len(lines) >= part_rows:
            yield from flush()
    yield from flush()
    return (yield from finished(progress, redone))


class Process:
    """A process that can be advanced by one operation, killed, and frozen in the middle."""

    def __init__(self, store: ModelStore, server: ModelServer, token: str, **arguments: int) -> None:
        self._store = StoreOf(store, token)
        self._server = server
        self._flow = process(**arguments)
        self._answer: Any = None
        self.ended = False
        self.taken_over = False
        self.parts: list[str] = []

    def advance(self, outcomes: Iterator[str]) -> None:
        try:
            step = self._flow.send(self._answer)
        except StopIteration as end:
            self.ended, self.parts = True, end.value
            return
        except BatchTakenOverError:
            self.ended = self.taken_over = True
            return
        if isinstance(step, Post):
            self._answer = self._server.post(step.intent, next(outcomes))
        elif isinstance(step, Poll):
            self._answer = self._server.find(step.user)
        else:
            self._answer = self._store.perform(step)


OUTCOMES = ("started", "started", "fails", "lost answer", "lost on its way", "queued", "refused")


@settings(max_examples=300, deadline=None)
@given(
    rng=st.randoms(use_true_random=False),
    rows=st.integers(1, 6),
    width=st.integers(1, 3),
    part_rows=st.integers(1, 4),
    steps=st.integers(0, 80),
)
def test_each_row_has_one_run_and_one_result(rng: Random, rows: int, width: int, part_rows: int, steps: int) -> None:
    rng = Random(rng.getrandbits(64))
    store, server = ModelStore(), ModelServer()
    number = 1

    def outcomes() -> Iterator[str]:
        while True:
            yield rng.choice(OUTCOMES)

    def begin(index: int) -> Process:
        started = Process(store, server, f"{index:08x}", rows=rows, number=number, width=width, part_rows=part_rows)
        # Whoever has not claimed the batch yet would be a newer owner.
        started.advance(iter(()))
        started.advance(iter(()))
        return started

    drawn = outcomes()
    processes = [begin(0)]
    for _ in range(steps):
        what = rng.choice(["advance"] * 20 + ["another", "next try", "kill", "dequeue"])
        if what == "dequeue":
            for run in server.runs:
                run.visible = True
        elif what in ("another", "next try") and len(processes) < 4:
            # The one before may be frozen, or dead: whoever is not advanced any more cannot be reported from the dead.
            number += what == "next try"
            processes.append(begin(len(processes)))
        elif what == "kill" and len(processes) > 1:
            processes.pop(0)
        else:
            chosen = rng.choice(processes)
            if not chosen.ended:
                chosen.advance(drawn)

    # Nobody is killed any more: the last process goes on, and those that thaw meanwhile do as they may.
    last = begin(9)
    processes.append(last)

    def calm() -> Iterator[str]:
        while True:
            yield rng.choice(["started", "fails", "lost answer", "lost on its way", "queued"])

    quiet = calm()
    while not last.ended:
        last.advance(quiet)
        thawed = rng.choice(processes)
        if not thawed.ended and rng.random() < 0.5:
            thawed.advance(quiet)
    assert not last.taken_over

    lines = [line for name in last.parts for line in store.parts.get(name, [])]
    counted = Counter(line["key"] for line in lines)
    assert set(counted) == {f"k{position}" for position in range(rows)}
    assert set(counted.values()) == {1}, counted
    for position in range(rows):
        runs = [run for run in server.runs if run.row == position]
        useful = [run for run in runs if not run.fails]
        line = next(line for line in lines if line["key"] == f"k{position}")
        assert len(useful) <= 1, runs
        assert len({run.user for run in runs}) == len(runs)
        if line["status"] == "succeeded":
            assert len(useful) == 1
        if useful and line["status"] != "succeeded":
            # It is named as unknown, since its run was not to be seen.
            assert line["status"] == "unknown"


def test_who_was_taken_over_submits_nothing_after_the_record() -> None:
    store, server = ModelStore(), ModelServer()
    frozen = Process(store, server, "00000001", rows=2, number=1, width=2, part_rows=1)
    for _ in range(4):
        frozen.advance(iter(["started"] * 9))
    assert len(store.windows) == 1
    assert not server.runs
    StoreOf(store, "00000002").perform(Claim())
    while not frozen.ended:
        frozen.advance(iter(["started"] * 9))
    assert frozen.taken_over
    assert not server.runs
    assert not store.windows


def test_a_row_that_was_certainly_not_accepted_leaves_no_record() -> None:
    store = ModelStore()
    mine = StoreOf(store, "00000001")
    owner = mine.perform(Claim())
    intent = Intent("k", 0, 1, "user")
    driven(recorded(Window(owner, 1, 0.0, (intent,))), mine.perform)
    assert len(store.windows) == 1
    driven(released(Window(owner, 1, 0.0, ())), mine.perform)
    assert not store.windows
