"""What a server of a version can do, from the ``x-version`` header of its answers."""

from __future__ import annotations

import re
from dataclasses import dataclass

_VERSION = re.compile(r"\s*v?(\d{1,9})\.(\d{1,9})(?:\.(\d{1,9}))?(?!\d)")

NEWEST_TESTED = "1.16.1"
"""The newest version that this package was tested with."""


@dataclass(frozen=True)
class Server:
    """Capabilities of one Dify server.

    A version that is not known (a gateway may strip the header) or not understood counts as a current one:
    the older ones are the exception, and each of their quirks costs a current server something.

    :param version: The version as the server names it; None when unknown.
    """

    version: str | None = None

    @property
    def number(self) -> tuple[int, int, int] | None:
        """The version as three numbers, or None when unknown."""
        match = _VERSION.match(self.version or "")
        return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else None

    def _since(self, *least: int) -> bool:
        number = self.number
        return number is None or number >= least

    @property
    def is_newer_than_tested(self) -> bool:
        """Whether the server is of a later minor version than any that was tested.

        It is treated as the newest that was; what it adds to its answers is passed over.
        """
        number, newest = self.number, Server(NEWEST_TESTED).number
        return number is not None and newest is not None and number[:2] > newest[:2]

    @property
    def survives_closed_stream(self) -> bool:
        """Whether a run settles when its stream is closed early.

        Before 1.9.2 the reader of the stream writes the run's row: a run whose stream was closed stays
        ``running`` permanently (dify-behaviour.md, section 6).
        """
        return self._since(1, 9, 2)

    @property
    def lists_running_runs(self) -> bool:
        """Whether the workflow logs show a run before it has ended (dify-behaviour.md, section 8)."""
        return self._since(1, 11, 0)

    @property
    def queues_runs(self) -> bool:
        """Whether a streaming run can wait for a worker, listed nowhere (dify-behaviour.md, section 5).

        Seen on 1.14 and not on 1.11; between them the doubt counts.
        """
        return self._since(1, 12, 0)

    @property
    def may_refuse_silently(self) -> bool:
        """Whether refused inputs of a streaming run may be answered with silence (dify-behaviour.md, section 2.1).

        Seen on a release of 1.14, reported about 1.13, and over with 1.15. It is only ever part of a message: builds
        of one number differ.
        """
        number = self.number
        return number is None or (1, 13, 0) <= number < (1, 15, 0)

    @property
    def has_run_events(self) -> bool:
        """Whether ``GET /workflow/{run_id}/events`` exists (dify-behaviour.md, section 1)."""
        return self._since(1, 14, 0)

    @property
    def has_human_input(self) -> bool:
        """Whether a run can ask a human, who answers by a form (dify-behaviour.md, section 9)."""
        return self._since(1, 14, 0)

    @property
    def stops_resumed_runs(self) -> bool:
        """Whether the release stops each run that is resumed after a pause.

        Only ever part of a message: builds of the number 1.16.1 that are later than the release do not.
        """
        return self.number in ((1, 16, 0), (1, 16, 1))

    @property
    def refuses_json_text(self) -> bool:
        """Whether the JSON text of an object is known to be refused for a ``json_object`` input (dify-behaviour.md,
        section 2.1).

        Unlike the others False for a version that is not known: an input is only refused where the server would.
        """
        number = self.number
        return number is not None and number >= (1, 14, 0)
