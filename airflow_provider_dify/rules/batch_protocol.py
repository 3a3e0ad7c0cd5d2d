"""The order of reads and writes by which each row of a batch has one run, whoever is killed, frozen or thawed.

Written as generators, so that the same order is followed by worker and triggerer and held against a model in tests:

- A window is written before its owner asks whether it still owns the batch, and only then are its rows submitted. Who
  takes the batch over claims it first, and reads the windows then. So either the former owner sees the claim, and
  submits nothing, or the next one sees the window, and looks for its runs.
- A window is removed when the results of all its rows are written, and windows are read before results. So a row is in
  a window, or its result is there, or it was never submitted.
- What a former owner has written after the claim is not among the results that the next one has read: that one has
  collected these rows itself, and removes such files at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from airflow_provider_dify.exceptions import DifyError
from airflow_provider_dify.rules.batch_outcome import RowStatus, Tally
from airflow_provider_dify.rules.batch_records import Intent, Owner, ResultLine, Window, part_owner
from airflow_provider_dify.rules.batch_rows import key_digest

T = TypeVar("T")


class BatchTakenOverError(DifyError):
    """Another process goes on with the batch; this one submits and writes nothing more."""


@dataclass(frozen=True)
class Claim:
    """Become the owner; answered with the ``Owner`` that it is then."""


@dataclass(frozen=True)
class CheckOwner:
    """Ask whether the batch is still owned; answered with a truth value."""


@dataclass(frozen=True)
class ReadWindows:
    """Read all windows; answered with them."""


@dataclass(frozen=True)
class ReadResults:
    """Read the results; answered with the names of their files and an iterable of ``ResultLine``."""


@dataclass(frozen=True)
class ListParts:
    """List the files of results; answered with their names."""


@dataclass(frozen=True)
class WriteWindow:
    """Write a window, whole or not at all."""

    window: Window


@dataclass(frozen=True)
class RemoveWindows:
    """Remove windows; those that are gone already count as removed."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class WritePart:
    """Write a file of results, whole or not at all."""

    name: str
    lines: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class RemovePart:
    """Remove a file of results."""

    name: str


@dataclass(frozen=True)
class RewritePart:
    """Write a file of results again, without the lines of rows whose later result is elsewhere.

    :param superseded: For the digest of each such key its attempts up to which lines are left out.
    """

    name: str
    superseded: Mapping[int, int]


Step = (
    Claim
    | CheckOwner
    | ReadWindows
    | ReadResults
    | ListParts
    | WriteWindow
    | RemoveWindows
    | WritePart
    | RemovePart
    | RewritePart
)


@dataclass
class Progress:
    """How far a batch is, as its folder tells it.

    :param owner: Who goes on with it.
    :param done: Digests of the keys of rows that are done.
    :param attempts: For rows that are submitted again, by digest: their submissions so far.
    :param intents: Submissions without a result, by digest, and when they were recorded.
    :param windows: The windows that are there, with the digests of their rows that have no result yet.
    :param parts: The files of results that count.
    :param tally: Counts and sums of the rows that are done.
    :param superseded: Lines of earlier tries whose rows are submitted again: file to digest to attempts.
    :param unsuccessful: The statuses of those rows, which stand where this try does not get to them.
    :param duplicates: Lines of rows that have another one which counts, as ``superseded`` has them.
    """

    owner: Owner = field(default_factory=Owner)
    done: set[int] = field(default_factory=set)
    attempts: dict[int, int] = field(default_factory=dict)
    intents: dict[int, tuple[Intent, float]] = field(default_factory=dict)
    windows: dict[str, set[int]] = field(default_factory=dict)
    parts: list[str] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    superseded: dict[str, dict[int, int]] = field(default_factory=dict)
    unsuccessful: dict[int, RowStatus] = field(default_factory=dict)
    duplicates: dict[str, dict[int, int]] = field(default_factory=dict)

    def next_attempt(self, digest: int) -> int:
        """Return the number of the next submission of a row."""
        return self.attempts.get(digest, 0) + 1

    def settle(self, digest: int) -> None:
        """Note that a row is done."""
        self.done.add(digest)
        self.attempts.pop(digest, None)


def resumed(number: int, marker: Callable[[str | int, int], str]) -> Generator[Step, Any, Progress]:
    """Take a batch over, and return how far it is.

    Rows that an earlier try has left failed are submitted again, and for those that it has left unknown is searched.

    :param number: The try of the task.
    :param marker: Returns the marker of a row's attempt.
    """
    owner: Owner = yield Claim()
    windows: list[Window] = yield ReadWindows()
    parts, lines = yield ReadResults()
    progress = Progress(owner=owner, parts=list(parts))
    unsuccessful: dict[int, ResultLine] = {}
    found: dict[int, tuple[Intent, float]] = {}
    for window in windows:
        for intent in window.intents:
            known = found.get(intent.digest)
            if known is None or known[0].attempt <= intent.attempt:
                found[intent.digest] = (intent, window.at)
    for line in lines:
        _take_line(progress, line, unsuccessful, found, number)
    for digest, line in unsuccessful.items():
        _again(progress, digest, line)
        if line.status == RowStatus.UNKNOWN and digest not in found:
            user = marker(line.key, line.attempts)
            found[digest] = (Intent(line.key, line.position, line.attempts, user), 0.0)
    progress.intents = found
    for digest, (intent, _) in found.items():
        progress.attempts[digest] = max(progress.attempts.get(digest, 0), intent.attempt)
    progress.windows = {
        window.name: {intent.digest for intent in window.intents if intent.digest in found} for window in windows
    }
    return progress


def _take_line(
    progress: Progress,
    line: ResultLine,
    unsuccessful: dict[int, ResultLine],
    found: dict[int, tuple[Intent, float]],
    number: int,
) -> None:
    digest, status = key_digest(line.key), RowStatus(line.status)
    earlier = unsuccessful.pop(digest, None)
    if earlier is not None:
        # A retry has submitted the row again, and its process ended before the older line was removed.
        progress.duplicates.setdefault(earlier.part, {})[digest] = earlier.attempts
        progress.tally.remove(RowStatus(earlier.status))
    elif digest in progress.done:
        # A former owner that thawed has written what the next one had collected itself.
        progress.duplicates.setdefault(line.part, {})[digest] = line.attempts
        return
    progress.tally.add(status, line.tokens, line.seconds)
    intent = found.get(digest)
    if intent is not None and intent[0].attempt <= line.attempts:
        del found[digest]
    if status.is_success or line.final:
        progress.done.add(digest)
    elif line.number >= number and digest not in found:
        # Of this try itself, whose process was replaced: what it has found out stands.
        progress.done.add(digest)
    else:
        unsuccessful[digest] = line


def _again(progress: Progress, digest: int, line: ResultLine) -> None:
    progress.attempts[digest] = line.attempts
    progress.unsuccessful[digest] = RowStatus(line.status)
    progress.superseded.setdefault(line.part, {})[digest] = line.attempts
    progress.tally.remove(RowStatus(line.status))


def recorded(window: Window) -> Generator[Step, Any, None]:
    """Record submissions; when it returns they may be sent.

    :raises BatchTakenOverError: Another process owns the batch, and none of them may be sent.
    """
    yield WriteWindow(window)
    if not (yield CheckOwner()):
        # Its rows were not submitted. Where it stays, they count as submissions that nobody finds.
        yield RemoveWindows((window.name,))
        raise taken_over()


def released(window: Window) -> Generator[Step, Any, None]:
    """Take submissions out of a window that certainly were not accepted, so that nobody looks for their runs.

    :param window: The window without them.
    """
    if not (yield CheckOwner()):
        raise taken_over()
    yield WriteWindow(window) if window.intents else RemoveWindows((window.name,))


def flushed(name: str, lines: Collection[Mapping[str, Any]], windows: Iterable[str]) -> Generator[Step, Any, None]:
    """Write results, and then remove the windows whose rows all have one.

    :raises BatchTakenOverError: Another process owns the batch, and has to find the windows.
    """
    if lines:
        if not (yield CheckOwner()):
            raise taken_over()
        yield WritePart(name, tuple(lines))
    names = tuple(windows)
    if names:
        if not (yield CheckOwner()):
            raise taken_over()
        yield RemoveWindows(names)


def finished(progress: Progress, redone: Collection[int]) -> Generator[Step, Any, list[str]]:
    """Leave one line for each row, and return the files of results that count.

    A former owner that was frozen right before it wrote may add one more file when it thaws, even after this. Its lines
    are also in files that count, so who reads the results goes by these.

    :param redone: Digests of rows that were submitted again and have a newer line.
    """
    if not (yield CheckOwner()):
        raise taken_over()
    for name in {**progress.superseded, **progress.duplicates}:
        superseded = progress.superseded.get(name, {})
        gone = {digest: attempts for digest, attempts in superseded.items() if digest in redone}
        gone |= progress.duplicates.get(name, {})
        if gone:
            yield RewritePart(name, gone)
    names: list[str] = yield ListParts()
    for name in names:
        owner = part_owner(name)
        if name not in progress.parts and owner is not None and owner < progress.owner:
            yield RemovePart(name)
    return [name for name in names if name in progress.parts]


def driven(flow: Generator[Step, Any, T], perform: Callable[[Step], Any]) -> T:
    """Do what a flow asks for, until it returns.

    :param perform: Does a step and returns the answer to it.
    """
    answer: Any = None
    while True:
        try:
            step = flow.send(answer)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        answer = perform(step)


def taken_over() -> BatchTakenOverError:
    """Return the error of a process that has lost its batch."""
    return BatchTakenOverError(
        "Another process has taken this batch over, as after a missed heartbeat. This one submits and writes nothing "
        "more; the other one goes on."
    )
