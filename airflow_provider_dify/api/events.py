"""Server-Sent Events: bytes in, typed events out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from airflow_provider_dify.api.errors import error_for_event
from airflow_provider_dify.api.values import decode_json, id_or_none, text_or_none
from airflow_provider_dify.exceptions import DifyError, DifyResponseError

MAX_EVENT_BYTES = 32 * 1024 * 1024

PING = "ping"
ERROR = "error"
WORKFLOW_STARTED = "workflow_started"
WORKFLOW_FINISHED = "workflow_finished"
WORKFLOW_PAUSED = "workflow_paused"
HUMAN_INPUT_REQUIRED = "human_input_required"
TEXT_CHUNK = "text_chunk"
# The server may keep the connection open and silent after these: about 1 s after the end, 300 s after an
# error (dify-behaviour.md, section 4). Whoever reads on waits for nothing.
LAST_EVENTS = frozenset({ERROR, WORKFLOW_FINISHED, WORKFLOW_PAUSED})


@dataclass(frozen=True)
class Event:
    """One event of a run's stream.

    :param event: Dify's name of the event; ``ping`` for a block that only keeps the connection alive.
    :param data: The event's ``data``; for an ``error`` event its ``code``, ``status`` and ``message``.
    :param workflow_run_id: The run; None on pings and errors.
    :param task_id: The id that a stop needs; events replayed by the events route may carry the run id here.
    """

    event: str
    data: dict[str, Any]
    workflow_run_id: str | None = None
    task_id: str | None = None

    def error(self, what: str) -> DifyError:
        """Return the exception that an ``error`` event stands for."""
        return error_for_event(self.data, what)


class EventDecoder:
    """Incremental decoder of a stream of server-sent events.

    Chunks may be cut anywhere, also within a UTF-8 sequence or between CR and LF. A block without data
    lines (``event: ping``) is an event too. What follows the last complete line at the end of the stream
    is a broken event and is dropped.

    :param max_event_bytes: Size at which an unfinished line or event is given up.
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max = max_event_bytes
        self._line = bytearray()
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._name: str | None = None
        self._after_cr = False
        self._at_start = True

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Take the next bytes and yield the events that they complete.

        :raises DifyResponseError: A data block is no JSON object with a name, or an event is too large.
        """
        # bytes.splitlines cuts at CR, LF and CRLF only, which are just the line ends of the protocol.
        for piece in chunk.splitlines(keepends=True):
            was_cr, self._after_cr = self._after_cr, False
            if was_cr and piece == b"\n":
                continue
            body = piece.rstrip(b"\r\n")
            self._line += body
            if len(self._line) + self._data_bytes > self._max:
                raise DifyResponseError(
                    f"An event of the stream is larger than {self._max:,} bytes and was given up. "
                    "The run itself goes on: read its outputs with GET run."
                )
            if len(body) == len(piece):
                continue
            self._after_cr = piece.endswith(b"\r")
            line = bytes(self._line)
            self._line.clear()
            event = self._end_line(line)
            if event is not None:
                yield event

    def close(self) -> Iterator[Event]:
        """Yield the event whose closing empty line got lost with the end of the stream, if it is whole."""
        if self._data:
            try:
                event = self._end_block()
            except DifyResponseError:
                return
            if event is not None:
                yield event

    def _end_line(self, line: bytes) -> Event | None:
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line:
            return self._end_block()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._data_bytes += len(value) + 1
        elif name == b"event":
            self._name = value.decode("utf-8", "replace")
        return None

    def _end_block(self) -> Event | None:
        name, data = self._name, b"\n".join(self._data)
        had_data = bool(self._data)
        self._name, self._data_bytes = None, 0
        self._data.clear()
        if had_data:
            return parse_event(data, name)
        return Event(name, {}) if name else None


def parse_event(text: bytes | str, name: str | None = None) -> Event:
    """Read the data of one event.

    :param text: The block's data lines.
    :param name: The block's ``event`` field, which Dify leaves out where there is data.
    :raises DifyResponseError: It is no JSON object that names its event.
    """
    payload = decode_json(text, "An event of the stream")
    event = text_or_none(payload.get("event")) if isinstance(payload, dict) else None
    event = event or name
    if event is None or not isinstance(payload, dict):
        raise DifyResponseError("An event of the stream is no JSON object with the key event.")
    if event == ERROR:
        data = {key: payload.get(key) for key in ("code", "status", "message")}
    else:
        inner = payload.get("data")
        data = inner if isinstance(inner, dict) else {}
    return Event(
        event=event,
        data=data,
        workflow_run_id=id_or_none(payload.get("workflow_run_id")),
        task_id=id_or_none(payload.get("task_id")),
    )


def task_id_in(events: Iterable[Event], workflow_run_id: str) -> str | None:
    """Return the first task id that events of a run tell; replayed ones carry the run id in its place."""
    ids = (event.task_id for event in events if event.workflow_run_id == workflow_run_id)
    return next((task_id for task_id in ids if task_id not in (None, workflow_run_id)), None)
