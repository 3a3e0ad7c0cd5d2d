"""The trace that a run belongs to, so that a tracing backend shows a task and its workflow as one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_dify.api.checks import plain_text
from airflow_provider_dify.api.values import shape_of
from airflow_provider_dify.exceptions import DifyInvalidInputError

# What Dify takes; it drops others without a word (dify-behaviour.md, section 2).
_TRACE_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
# The first version of W3C Trace Context, and what of a later one can be read as it.
_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


@dataclass(frozen=True)
class Trace:
    """What a submission reports about its trace.

    :param trace_id: Dify's own ``trace_id``, which its tracing integrations take over.
    :param traceparent: The W3C header of the same name, which also says what in the trace has asked.
    """

    trace_id: str | None = None
    traceparent: str | None = None

    @property
    def key(self) -> str | None:
        """Dify's ``trace_id``: the one that was set, else that of the header.

        Sent beside the header, since a server that traces itself prefers its own trace to the header's.
        """
        return self.trace_id or (self.traceparent.split("-")[1] if self.traceparent else None)

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the submission."""
        return {"traceparent": self.traceparent} if self.traceparent else {}


def check_trace_id(value: Any) -> str | None:
    """Return a trace id that Dify takes.

    :raises DifyInvalidInputError: It is none; Dify would drop it without a word.
    """
    text = plain_text(value)
    if value is None or (text is not None and _TRACE_ID.fullmatch(text)):
        return text
    raise DifyInvalidInputError(
        f"trace_id must have 1 to 128 letters, digits, '-' or '_', got {shape_of(value)}. "
        "Dify would drop it silently, so nothing was sent."
    )


def read_traceparent(value: Any) -> str | None:
    """Return a W3C ``traceparent``, or None for what is none; later versions are cut to what the first one has."""
    text = (plain_text(value) or "").strip()
    match = _TRACEPARENT.match(text)
    if match is None or not int(match[2], 16) or not int(match[3], 16):
        return None
    rest = text[match.end() :]
    if rest and (match[1] == "00" or not rest.startswith("-")):
        return None
    return f"00-{match[2]}-{match[3]}-{match[4]}"


def check_traceparent(value: Any) -> str | None:
    """Return a W3C ``traceparent``.

    :raises DifyInvalidInputError: It is none.
    """
    read = read_traceparent(value)
    if value is not None and read is None:
        raise DifyInvalidInputError(
            "traceparent must be a W3C trace context such as 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01, "
            f"got {shape_of(value)}."
        )
    return read


def traceparent_of(trace_id: int, span_id: int, flags: int) -> str | None:
    """Return the ``traceparent`` of a span, or None for numbers that no span has."""
    if not (0 < trace_id < 1 << 128 and 0 < span_id < 1 << 64):
        return None
    return f"00-{trace_id:032x}-{span_id:016x}-{flags & 0xFF:02x}"


def traceparent_in(carrier: Any) -> str | None:
    """Return the ``traceparent`` of a carrier, in which Airflow hands a trace on; None without a readable one."""
    return read_traceparent(carrier.get("traceparent")) if isinstance(carrier, Mapping) else None
