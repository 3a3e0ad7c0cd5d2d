"""What a batch keeps in its folder, so that any other process can go on: windows, results, owners, and their names.

A window is the record of submissions that is written before the first of them leaves. Files of two owners never have
the same name, so that no owner overwrites what another one has written.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from airflow_provider_dify.api.operations import USER_MAX_CHARS
from airflow_provider_dify.exceptions import DifyFileError
from airflow_provider_dify.rules.batch_rows import key_digest

_EPOCH_NAME = re.compile(r"^owner-(\d{6,})-([0-9a-f]{8,32})\.json$")
_WINDOW_NAME = re.compile(r"^window-(\d{6,})-([0-9a-f]{8,32})-(\d{6,})\.json$")
_PART_NAME = re.compile(r"^part-(\d{6,})-([0-9a-f]{8,32})-(\d{6,})\.(jsonl|parquet)$")
_DIGEST_CHARS = 24
_SAFE = re.compile(r"[^A-Za-z0-9_.:@+-]")


@dataclass(frozen=True)
class BatchIdentity:
    """The task instance whose batch it is.

    :param generation: ``max_tries`` of the task instance: it grows when the task is cleared, and stays for a retry.
    """

    dag_id: str
    task_id: str
    run_id: str
    map_index: int
    generation: int

    @property
    def _digest(self) -> str:
        fields = (self.dag_id, self.task_id, self.run_id, str(self.map_index))
        return hashlib.sha256("\0".join(fields).encode()).hexdigest()

    @property
    def folder(self) -> str:
        """Name of the folder of all generations: batches of other tasks and DAG runs may share the result path."""
        return f"batch-{self._digest[:16]}"

    @property
    def generation_folder(self) -> str:
        """Name of the folder of this generation."""
        return generation_folder(self.generation)

    def marker(self, key: str | int, attempt: int) -> str:
        """Return the ``user`` of one submission of one row: the same in every process, at most 255 characters.

        It names DAG, task and run where they fit. The digest alone tells it from all others.
        """
        whole = hashlib.sha256(f"{self._digest}\0{self.generation}\0{key}\0{attempt}".encode()).hexdigest()[
            :_DIGEST_CHARS
        ]
        tail = f"~{whole}/{self.generation}/{_readable(str(key), 60)}/{attempt}"
        head = f"airflow-batch/{self.dag_id}/{self.task_id}/{self.run_id}"
        if self.map_index >= 0:
            head += f"/{self.map_index}"
        return _readable(head, USER_MAX_CHARS - len(tail), "/") + tail


@dataclass(frozen=True, order=True)
class Owner:
    """A process that has claimed the batch; of two, the greater one owns it.

    :param epoch: One more than that of any owner that it knew of.
    :param token: What tells two that claimed at once apart.
    """

    epoch: int = 0
    token: str = ""

    @property
    def label(self) -> str:
        """What the names of its files begin with."""
        return f"{self.epoch:06d}-{self.token}"

    @property
    def name(self) -> str:
        """Name of the file by which it claims the batch."""
        return f"owner-{self.label}.json"

    def part_name(self, number: int, form: str) -> str:
        """Return the name of a file of its results."""
        return f"part-{self.label}-{number:06d}.{form}"


def generation_folder(generation: int) -> str:
    """Return the name of a generation's folder."""
    return f"generation-{generation}"


def generation_of(name: str) -> int | None:
    """Return the generation that a folder is of; None for another folder."""
    found = re.fullmatch(r"generation-(\d{1,9})", name)
    return int(found[1]) if found else None


def _readable(text: str, limit: int, extra: str = "") -> str:
    cleaned = "".join("_" if char not in extra and _SAFE.match(char) else char for char in text)
    return cleaned[:limit]


@dataclass(frozen=True, slots=True)
class Intent:
    """A submission that was about to be sent.

    :param key: The row's key.
    :param position: The row's position.
    :param attempt: Submissions of the row so far, this one included.
    :param user: Its marker.
    :param retries: Submissions of the row in this try that followed a failed run.
    :param shutdowns: Submissions of the row that followed a shutdown of the server.
    """

    key: str | int
    position: int
    attempt: int
    user: str
    retries: int = 0
    shutdowns: int = 0

    @property
    def digest(self) -> int:
        """The key as a number."""
        return key_digest(self.key)


@dataclass(frozen=True)
class Window:
    """Submissions that are recorded together.

    :param owner: Who has recorded them.
    :param number: Its number among the windows of that owner.
    :param at: Unix seconds.
    :param intents: The submissions.
    """

    owner: Owner
    number: int
    at: float
    intents: tuple[Intent, ...]

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"window-{self.owner.label}-{self.number:06d}.json"

    def as_json(self) -> dict[str, Any]:
        """Return what is written."""
        return {
            "version": 1,
            "owner": asdict(self.owner),
            "number": self.number,
            "at": self.at,
            "intents": [asdict(each) for each in self.intents],
        }

    @classmethod
    def read(cls, name: str, content: Any) -> Window:
        """Read what was written.

        :raises DifyFileError: It is something else: nobody could say then which rows were submitted.
        """
        try:
            intents = tuple(
                Intent(
                    key=each["key"],
                    position=int(each["position"]),
                    attempt=int(each["attempt"]),
                    user=str(each["user"]),
                    retries=int(each.get("retries", 0)),
                    shutdowns=int(each.get("shutdowns", 0)),
                )
                for each in content["intents"]
            )
            owner = Owner(int(content["owner"]["epoch"]), str(content["owner"]["token"]))
            return cls(owner, int(content["number"]), float(content["at"]), intents)
        except (TypeError, KeyError, ValueError) as error:
            raise DifyFileError(
                f"The record {name!r} of the batch's submissions cannot be read, so nobody can say which rows were "
                "submitted. Restore the file, or clear the task, which starts a new batch."
            ) from error


def is_window(name: str) -> bool:
    """Tell whether a file is a window."""
    return _WINDOW_NAME.match(name) is not None


def newest_owner(names: Iterable[str]) -> Owner:
    """Return the owner, by the names of all files by which the batch was claimed."""
    owners = [Owner(int(found[1]), found[2]) for name in names if (found := _EPOCH_NAME.match(name))]
    return max(owners, default=Owner())


def part_owner(name: str) -> Owner | None:
    """Return who has written a file of results; None for another file."""
    found = _PART_NAME.match(name)
    return Owner(int(found[1]), found[2]) if found else None


def parts_in_order(names: Iterable[str]) -> list[str]:
    """Return the files of results, oldest first."""
    found = [(int(match[1]), match[2], int(match[3]), name) for name in names if (match := _PART_NAME.match(name))]
    return [name for *_, name in sorted(found)]


@dataclass(frozen=True, slots=True)
class ResultLine:
    """What of a result is needed to go on.

    :param key: The row's key.
    :param position: The row's position.
    :param status: Its status.
    :param attempts: Its submissions so far.
    :param tokens: Tokens used by its run.
    :param seconds: Seconds its run took.
    :param number: The try of the task that has written it.
    :param final: Whether another submission would end the same way.
    :param part: The file that it is in.
    """

    key: str | int
    position: int
    status: str
    attempts: int
    tokens: int = 0
    seconds: float = 0.0
    number: int = 1
    final: bool = False
    part: str = ""

    @classmethod
    def read(cls, line: Mapping[str, Any], part: str) -> ResultLine:
        """Read a line of results.

        :raises DifyFileError: It is something else.
        """
        try:
            return cls(
                key=line["key"],
                position=int(line["position"]),
                status=str(line["status"]),
                attempts=int(line["attempts"]),
                tokens=int(line.get("tokens") or 0),
                seconds=float(line.get("seconds") or 0.0),
                number=int(line.get("try") or 1),
                final=line.get("final") is True,
                part=part,
            )
        except (TypeError, KeyError, ValueError) as error:
            raise DifyFileError(
                f"The results {part!r} cannot be read, so nobody can say which rows are done. Restore the file, or "
                "clear the task, which starts a new batch."
            ) from error
