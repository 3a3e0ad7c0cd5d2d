"""Faults on demand: what goes wrong, where, how often and for whom."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

POINTS = (
    "submit",
    "get_run",
    "stop",
    "logs",
    "events",
    "upload",
    "info",
    "parameters",
    "file",
    "datasets",
    "document_upload",
    "document_list",
    "document_metadata",
    "document_status",
    "document_delete",
    "indexing_status",
    "any",
)
"""Where a fault can happen. `file` is a signed URL; those from `datasets` on are of the knowledge API; `any` is every
route, forms and files included."""

REFUSALS = frozenset({"status", "too_many_requests", "login_page", "redirect", "body", "reset_before", "hang"})
"""Kinds that happen before the request is acted on."""

LOST_ANSWERS = frozenset({"accept_then_status", "accept_then_reset", "stall"})
"""Kinds by which the request is acted on and its answer is lost, replaced or late."""

STREAM_FAULTS = frozenset({"cut", "lose_events"})
"""Kinds that break a stream."""

ROW_FAULTS = frozenset({"stale_row", "unknown_row"})
"""Kinds that falsify what GET says of a run. They are counted by run, not by request."""

INDEXING_FAULTS = frozenset({"stuck_in_queue", "parse_error", "slow_indexing"})
"""Kinds that happen to a document of a knowledge base after its upload."""

KINDS = INDEXING_FAULTS | REFUSALS | LOST_ANSWERS | STREAM_FAULTS | ROW_FAULTS | {"queue_delay", "stop_without_effect"}

_PLACES: Mapping[str, tuple[str, ...]] = {
    "cut": ("submit", "events", "any"),
    "lose_events": ("submit", "events", "any"),
    "stale_row": ("get_run", "any"),
    "unknown_row": ("get_run", "any"),
    "queue_delay": ("submit", "any"),
    "stop_without_effect": ("stop", "any"),
    **dict.fromkeys(INDEXING_FAULTS, ("document_upload", "any")),
}

_TIMED = ("stall", "queue_delay", "stale_row", "unknown_row", "slow_indexing")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.

    :param on: where, one of `POINTS`.
    :param kind: what:

        - `status`: an error answer; nothing was accepted. `status`, `code`, `message`, or `body` and
          `content_type`; `headers` such as Retry-After.
        - `accept_then_status`: the request is really acted on, the client gets an error page, as from a
          gateway.
        - `reset_before`: the connection is reset; nothing was accepted.
        - `accept_then_reset`: the request is really acted on, then the connection is reset before any byte.
        - `stall`: the request is acted on, and no byte comes for `seconds`.
        - `hang`: no answer at all, nothing accepted; without end unless `seconds` is given.
        - `cut`: a stream breaks after `after_events` events (pings do not count), or after `after_bytes`
          bytes; with a reset, or with a clean end (`clean=True`).
        - `lose_events`: the events named in `events`, and the first `first_events` of any name, are not
          delivered; `events=("*",)` leaves only pings.
        - `queue_delay`: a streaming submission waits `seconds` before it even queues for a worker: no row, no
          log. Only on a version that queues; elsewhere the run begins that much later.
        - `too_many_requests`: Dify's 400 of that text, or with `status=429` a real 429.
        - `stale_row`: GET run says `running` for `seconds` after the end.
        - `unknown_row`: GET run does not know the run for `seconds` after its submission.
        - `login_page`: a page of HTML with 200, as from a gateway that wants a login.
        - `redirect`: a 302 to `url`.
        - `stop_without_effect`: a stop says success and changes nothing.
        - `stuck_in_queue`: the uploaded document stays `waiting`, until `start_indexing`.
        - `parse_error`: the uploaded document ends as `error`, with `message`.
        - `slow_indexing`: the indexing of the uploaded document takes `seconds`.
        - `body`: `body` with `content_type`, status 200 unless given.

    :param times: how many requests it applies to, None for all.
    :param after: how many matching requests it lets pass first.
    :param user: concerns only requests of this `user`.
    :param seconds: wall-clock seconds, never scaled by `time_scale`.
    """

    on: str
    kind: str
    times: int | None = 1
    after: int = 0
    user: str | None = None
    seconds: float | None = None
    status: int | None = None
    code: str = ""
    message: str = ""
    body: str | bytes | None = None
    content_type: str = "text/html; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)
    events: Collection[str] = ()
    first_events: int = 0
    after_events: int | None = None
    after_bytes: int | None = None
    clean: bool = False
    url: str = ""

    def __post_init__(self) -> None:
        """Refuse a fault that could never happen or would lack something."""
        if self.kind not in KINDS:
            raise ValueError(f"fault: kind must be one of {', '.join(sorted(KINDS))}, not {self.kind!r}")
        places = _PLACES.get(self.kind, POINTS)
        if self.on not in places:
            raise ValueError(f"fault {self.kind!r}: on must be one of {', '.join(places)}, not {self.on!r}")
        if self.kind in _TIMED and self.seconds is None:
            raise ValueError(f"fault {self.kind!r}: seconds is missing; say how long it lasts")
        if self.kind in ("status", "accept_then_status") and self.status is None:
            raise ValueError(f"fault {self.kind!r}: status is missing; give the HTTP status")
        if self.kind == "cut" and self.after_events is None and self.after_bytes is None:
            raise ValueError("fault 'cut': give after_events or after_bytes")
        if self.kind == "lose_events" and not self.events and not self.first_events:
            raise ValueError("fault 'lose_events': give events (('*',) for all) or first_events")
        if self.kind == "redirect" and not self.url:
            raise ValueError("fault 'redirect': url is missing")
        if isinstance(self.events, str):
            raise ValueError("fault 'lose_events': events must be a collection of names, not one text")
        if self.times is not None and self.times < 1:
            raise ValueError("fault: times must be 1 or more, or None for no limit")


@dataclass(slots=True)
class _Armed:
    fault: Fault
    passed: int = 0
    struck: int = 0


class FaultBox:
    """The faults of one server, oldest first."""

    def __init__(self) -> None:
        self._armed: list[_Armed] = []

    def add(self, fault: Fault) -> None:
        """Arm a fault."""
        self._armed.append(_Armed(fault))

    def clear(self) -> None:
        """Disarm every fault."""
        self._armed.clear()

    def take(self, point: str, user: str | None, kinds: Collection[str]) -> Fault | None:
        """Return the oldest fault of these kinds that concerns this request, and count it; None for none."""
        struck = None
        for armed in self._armed:
            fault = armed.fault
            if fault.kind not in kinds or fault.on not in (point, "any"):
                continue
            if fault.user is not None and fault.user != user:
                continue
            if fault.times is not None and armed.struck >= fault.times:
                continue
            if armed.passed < fault.after:
                armed.passed += 1
            elif struck is None:
                armed.struck += 1
                struck = fault
        return struck
