"""Compares an exchange with the local server to a recorded one, strictly but for ids, times and places."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

RECORDINGS = Path(__file__).parent / "recordings"
VERSIONS = ("1.9.1", "1.11.2", "1.14.2", "1.16.1")
RELEASE = "1.14.2-release"
"""The recordings of the release, where those of 1.14.2 are of a later build of the same number."""

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TIMES = {"created_at", "finished_at", "sys.timestamp", "expiration_time"}
_NUMBERS = _TIMES | {"pid"}
_JSON_TEXTS = {"inputs", "outputs"}
_PLACES = (
    (re.compile(r"127\.0\.0\.1:\d+"), "HOST"),
    (re.compile(r"timestamp=\d+&nonce=[0-9a-f]{32}&sign=[\w%=-]+"), "SIGNATURE"),
    (re.compile(r"dify-file-ref:[\w-]+=*"), "FILE-REFERENCE"),
    (re.compile(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT"), "DATE"),
    (re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}$"), "VERSION"),
    (re.compile(r"human_input/[0-9A-Za-z]{22}\b"), "human_input/TOKEN"),
    # Which routes are spelled much like a path depends on the letters of its random token.
    (
        re.compile(r"human_input/TOKEN\] but did you mean /\S+(?: or /\S+)* \?"),
        "human_input/TOKEN] but did you mean ROUTES ?",
    ),
    (re.compile(r"Python/3\.\d+\.\d+"), "PYTHON"),
    (re.compile(r"nginx/[\d.]+"), "nginx"),
    (re.compile(r"\b[0-9a-f]{32}\.pdf$"), "NAME.pdf"),
    (re.compile(r"exceeded: \d+\.\d\ds >"), "exceeded: SECONDS >"),
)


@dataclass
class Exchange:
    """What a client saw of one exchange.

    `closed` says how it ended: `server` (clean end), `broken` (reset or missing end), `client` (it left).
    """

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    blocks: list[str] = field(default_factory=list)
    closed: str = "server"

    def json(self) -> Any:
        """Return the JSON body."""
        return json.loads(self.body)

    def events(self) -> list[dict[str, Any]]:
        """Return the data events of a stream."""
        return [json.loads(block[6:]) for block in self.blocks if block.startswith("data: ")]


@cache
def load(version: str, name: str) -> dict[str, Any]:
    """Return a recording."""
    number, mark, _ = version.partition("-")
    file = RECORDINGS / number / (f"{name}-release.json" if mark else f"{name}.json")
    recording: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return recording


def names(version: str) -> list[str]:
    """Return the names of a version's recordings."""
    number, mark, _ = version.partition("-")
    stems = [path.stem for path in (RECORDINGS / number).glob("*.json")]
    return sorted(stem.removesuffix("-release") for stem in stems if stem.endswith("-release") == bool(mark))


def recorded_blocks(recording: dict[str, Any]) -> list[str]:
    """Return the blocks of a recorded stream."""
    text = "".join(item["raw"] for item in recording["response"]["sse"])
    return [block for block in text.split("\n\n") if block]


def differences(recording: dict[str, Any], exchange: Exchange) -> list[str]:
    """Return in what an exchange differs from the recorded one; nothing means that they agree."""
    return _Comparison().exchanges(recording, exchange)


class _Comparison:
    def __init__(self) -> None:
        self._found: list[str] = []
        self._ids: dict[str, str] = {}

    def exchanges(self, recording: dict[str, Any], exchange: Exchange) -> list[str]:
        response = recording["response"]
        if response is None:
            self._same("status", None, exchange.status)
            self._same("closed", _closed(recording), exchange.closed)
            return self._found
        self._same("status", response["status"], exchange.status)
        for name, value in response["headers"].items():
            if name == "allow":
                self._same(name, sorted(value.split(", ")), sorted(exchange.headers.get(name, "").split(", ")))
                continue
            self._text(f"header {name}", value, exchange.headers.get(name, "(none)"))
        if "sse" in response:
            self._same("closed", _closed(recording), exchange.closed)
            self._streams(recorded_blocks(recording), exchange.blocks)
        elif "json" in response:
            try:
                local = exchange.json()
            except ValueError:
                self._found.append(f"body: no JSON but {exchange.body[:200]!r}")
            else:
                self._values("body", response["json"], local)
        else:
            self._text("body", response.get("text", ""), exchange.body)
        return self._found

    def _streams(self, recorded: list[str], local: list[str]) -> None:
        """Compare all events, in order; of pings only whether one comes first and whether others follow."""
        self._same("first block is a ping", _is_ping(recorded[0]), bool(local) and _is_ping(local[0]))
        pings = [any(map(_is_ping, blocks[1:])) for blocks in (recorded, local)]
        self._same("later pings", *pings)
        bodies = [[block for block in blocks if not _is_ping(block)] for blocks in (recorded, local)]
        order = [[json.loads(block[6:])["event"] for block in blocks] for blocks in bodies]
        if order[0] != order[1]:
            self._found.append(f"order of events: {order[1]} instead of {order[0]}")
            return
        for number, (old, new) in enumerate(zip(*bodies, strict=True)):
            self._same(f"event {number} is spaced", '"event": ' in old, '"event": ' in new)
            self._same(f"event {number} is escaped", "\\u" in old, "\\u" in new)
            self._values(f"event {number}", json.loads(old[6:]), json.loads(new[6:]))

    def _values(self, where: str, recorded: Any, local: Any, key: str = "") -> None:
        if type(recorded) is not type(local):
            self._found.append(f"{where}: {local!r} instead of {recorded!r}")
        elif isinstance(recorded, dict):
            if recorded.keys() != local.keys():
                self._found.append(
                    f"{where}: extra keys {sorted(local.keys() - recorded.keys())}, "
                    f"missing keys {sorted(recorded.keys() - local.keys())}"
                )
            for name in recorded.keys() & local.keys():
                inner = key if key.endswith("duration_map") else name
                self._values(f"{where}.{name}", recorded[name], local[name], inner)
        elif isinstance(recorded, list):
            self._same(f"length of {where}", len(recorded), len(local))
            for number, (old, new) in enumerate(zip(recorded, local, strict=False)):
                self._values(f"{where}[{number}]", old, new, key)
        elif isinstance(recorded, str):
            self._texts(where, recorded, local, key)
        elif isinstance(recorded, float) and (key == "elapsed_time" or key.endswith("duration_map")):
            self._same(f"{where} is 0", recorded == 0, local == 0)
        elif key not in _NUMBERS:
            self._same(where, recorded, local)

    def _texts(self, where: str, recorded: str, local: str, key: str) -> None:
        if key in _JSON_TEXTS and recorded.startswith("{"):
            try:
                old, new = json.loads(recorded), json.loads(local)
            except ValueError:
                self._same(where, recorded, local)
                return
            self._same(f"{where} is escaped", "\\u" in recorded, "\\u" in local)
            self._values(where, old, new, key)
        elif key == "form_token":
            self._same(f"length of {where}", len(recorded), len(local))
        else:
            self._text(where, recorded, local)

    def _text(self, where: str, recorded: str, local: str) -> None:
        """Compare texts; where one has a UUID the other must have one too, always the same for the same."""
        old_ids, new_ids = _UUID.findall(recorded), _UUID.findall(local)
        self._same(where, _without_places(recorded), _without_places(local))
        for old, new in zip(old_ids, new_ids, strict=False):
            if self._ids.setdefault(old, new) != new:
                self._found.append(f"{where}: id {new} stands for {old}, elsewhere {self._ids[old]} does")

    def _same(self, where: str, recorded: Any, local: Any) -> None:
        if recorded != local:
            self._found.append(f"{where}: {local!r} instead of {recorded!r}")


def _without_places(text: str) -> str:
    text = _UUID.sub("UUID", text)
    for pattern, name in _PLACES:
        text = pattern.sub(name, text)
    return text


def _is_ping(block: str) -> bool:
    return block == "event: ping"


def _closed(recording: dict[str, Any]) -> str:
    if "broke" in (recording.get("note") or "") or "was reset" in (recording.get("note") or ""):
        return "broken"
    return str(recording["closed_by"])
