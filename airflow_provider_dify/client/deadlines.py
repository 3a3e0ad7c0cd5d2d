"""How long one exchange with a server may take: its own limit, and the deadline of whoever asked for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from airflow_provider_dify.rules.polling import Deadline

LAST_SECONDS = 0.9
"""What an exchange has at least: the last poll of a wait begins when the deadline passes."""

_deadline: ContextVar[Deadline | None] = ContextVar("dify_caller_deadline", default=None)


@contextmanager
def ending_by(deadline: Deadline | None) -> Iterator[None]:
    """Let every exchange in the block end by a deadline, however short its own limit falls.

    :param deadline: The caller's deadline; None lets the exchanges have their own limits again.
    """
    before = _deadline.set(deadline)
    try:
        yield
    finally:
        _deadline.reset(before)


def caller_left() -> float | None:
    """Return the seconds until the caller's deadline, negative after it; None without one."""
    deadline = _deadline.get()
    return None if deadline is None else deadline.left(time.time())


def is_too_late() -> bool:
    """Tell whether the caller's deadline has passed, which says nothing of the server that was asked."""
    left = caller_left()
    return left is not None and left <= 0


def seconds_for(own: float) -> float:
    """Return the seconds that an exchange may take: its own limit, or what the caller's deadline leaves.

    :param own: The limit of the exchange itself.
    """
    left = caller_left()
    return own if left is None else min(own, max(left, LAST_SECONDS))


class Limit:
    """The moment by which an exchange must have ended, on the clock that it is measured with.

    A server that sends a byte now and then never falls silent: no limit on silence ends that, so this one is absolute.

    :param seconds: Seconds from now.
    :param clock: A monotonic clock.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self.at = clock() + seconds
        self.on_renewal: Callable[[float], None] | None = None

    def left(self) -> float:
        """Return the seconds left, negative when it has passed."""
        return self.at - self._clock()

    def renew(self) -> None:
        """Count from now on again, since a piece of a file was sent; never beyond the caller's deadline."""
        self.at = self._clock() + seconds_for(self._seconds)
        if self.on_renewal is not None:
            self.on_renewal(self.at)
