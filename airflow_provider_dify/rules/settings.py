"""The settings of a task that are fixed when its DAG is parsed: intervals, time-outs, choices. Cheap to import."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, get_args

from airflow_provider_dify.api.checks import guarded, plain_int, plain_text, preview
from airflow_provider_dify.api.values import shape_of
from airflow_provider_dify.exceptions import DifyInvalidInputError

FIRST_POLL_SECONDS = 1.0
MAX_INTERVAL_SECONDS = 5.0
TIMEOUT_SECONDS = 300.0
FAILURE_INTERVAL_SECONDS = 30.0
SUBMIT_TIMEOUT_SECONDS = 10.0
DEFER_AFTER_SECONDS = 3.0

ResponseMode = Literal["streaming", "blocking"]
RESPONSE_MODES: tuple[str, ...] = get_args(ResponseMode)
OnPause = Literal["wait", "fail", "ask"]
OnRateLimit = Literal["wait", "fail"]
OnOrphanedIntent = Literal["fail", "resubmit"]

MAX_SECONDS = 100 * 365.25 * 24 * 3600
"""Longest time that a task can be given; beyond it clocks, sockets and databases have their ends."""

MAX_REQUEST_SECONDS = 20 * 24 * 3600.0
"""Longest time that one request waits: a socket counts milliseconds in 31 bits."""

MAX_FILE_BYTES = 2 * 1024**3
"""Largest file of a run's outputs that is fetched, unless a DAG says otherwise."""

MAX_OUTPUT_FILES = 1000
"""Most files of one run's outputs that are saved."""

MAX_OUTPUT_FILES_BYTES = 10 * 1024**3
"""Most bytes that the saved files of one run have together; ``max_file_bytes`` where that is more."""

MAX_XCOM_BYTES = 48 * 1024
"""Largest outputs that go through XCom, as JSON: a little less than the smallest text column of a database holds."""


def check_choice(value: Any, field_name: str, choices: tuple[str, ...]) -> str:
    """Return one of the allowed words.

    :raises DifyInvalidInputError: It is another value.
    """
    text = plain_text(value)
    if text is None or text not in choices:
        raise DifyInvalidInputError(f"{field_name} must be one of {', '.join(choices)}, got {_previewed(value)}.")
    return text


def check_bool(value: Any, field_name: str) -> bool:
    """Return a boolean as it is: Python counts the text ``"false"`` as true.

    :raises DifyInvalidInputError: It is another value.
    """
    if type(value) is bool:
        return value
    word = (plain_text(value) or "").strip().title()
    hint = f" Write {word} without quotes." if word in ("True", "False") else ""
    raise DifyInvalidInputError(f"{field_name} must be True or False, got {_previewed(value)}.{hint}")


def _previewed(value: Any) -> str:
    return preview(value) if plain_text(value) is not None else shape_of(value)


def bytes_of(value: Any, field_name: str) -> int:
    """Return a number of bytes.

    :raises DifyInvalidInputError: It is no whole number, or negative.
    """
    number = plain_int(value)
    if number is None or number < 0:
        shown = str(value) if type(value) is bool else shape_of(value) if number is None else preview(number)
        raise DifyInvalidInputError(f"{field_name} must be a whole number of bytes, 0 or more, got {shown}.")
    # More than any file has; whoever writes a longer number means: no limit.
    return min(number, sys.maxsize)


def seconds_of(value: Any, field_name: str) -> float:
    """Return a duration as positive seconds.

    :param value: Seconds as a number, or a timedelta.
    :raises DifyInvalidInputError: It is neither, not finite, zero, negative, or more than a hundred years.
    """
    seconds = _number_of(value, field_name)
    if math.isnan(seconds) or seconds <= 0 or (math.isinf(seconds) and type(value) is float):
        raise DifyInvalidInputError(f"{field_name} must be more than 0 seconds, got {seconds:g}.")
    if seconds > MAX_SECONDS:
        # Clocks, time-outs of sockets and dates have ends, and Airflow's database does too.
        shown = preview(value) if plain_int(value) is not None else f"{seconds:g}"
        raise DifyInvalidInputError(
            f"{field_name} must be at most {MAX_SECONDS:,.0f} seconds (a hundred years), got {shown}: pass the "
            "longest time that makes sense."
        )
    return seconds


def _number_of(value: Any, field_name: str) -> float:
    """Return seconds as a number that may be anything but no number."""
    kind = type(value)
    if issubclass(kind, timedelta):
        return timedelta.total_seconds(value)
    if issubclass(kind, float):
        return float.__float__(value)
    number = plain_int(value)
    if number is None:
        raise DifyInvalidInputError(f"{field_name} must be seconds or a timedelta, got {shape_of(value)}.")
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def seconds_or_zero(value: Any, field_name: str) -> float:
    """Return a duration as seconds, 0 or more.

    :raises DifyInvalidInputError: It is neither a number nor a timedelta, not finite, or negative.
    """
    return 0.0 if _number_of(value, field_name) == 0 else seconds_of(value, field_name)


@dataclass(frozen=True)
class PollSchedule:
    """The distances between polls of a run.

    :param first: Seconds to the first poll.
    :param longest: Seconds between polls at most, as long as polls succeed.
    :param factor: What each distance grows by.
    :param jitter: Share by which a distance varies at random to either side, so that many waiting tasks
        do not ask at the same moment.
    """

    first: float = FIRST_POLL_SECONDS
    longest: float = MAX_INTERVAL_SECONDS
    factor: float = 2.0
    jitter: float = 0.1

    @classmethod
    def checked(
        cls, first: Any, longest: Any, names: tuple[str, str] = ("poll_interval", "max_poll_interval")
    ) -> PollSchedule:
        """Build a schedule from what a DAG author passes.

        :param first: Seconds, or a timedelta, to the first poll.
        :param longest: Seconds, or a timedelta, between polls at most; None for 5 s, or the first where that is more.
        :param names: What the two are called on the operator or sensor.
        :raises DifyInvalidInputError: An interval is not positive, or the longest is below the first.
        """
        shortest = seconds_of(first, names[0])
        longest = max(MAX_INTERVAL_SECONDS, shortest) if longest is None else seconds_of(longest, names[1])
        schedule = cls(first=shortest, longest=longest)
        if schedule.longest < schedule.first:
            raise DifyInvalidInputError(
                f"{names[1]} ({schedule.longest:g} s) must not be below {names[0]} ({schedule.first:g} s)."
            )
        return schedule

    def delay_after(self, elapsed: float) -> float:
        """Return the distance between polls after so many seconds, for who cannot count them; without jitter."""
        polls, spent = 0, self.first
        while spent <= elapsed and self.first * self.factor**polls < self.longest:
            polls += 1
            spent += min(self.first * self.factor**polls, self.longest)
        return self.delay(polls, 0, None, 0.5)

    def checked_timeout(self, timeout: Any, field_name: str, interval_name: str = "poll_interval") -> float:
        """Return a time-out in seconds.

        :raises DifyInvalidInputError: It is not positive, or passes before the first poll.
        """
        seconds = seconds_of(timeout, field_name)
        if seconds < self.first:
            raise DifyInvalidInputError(
                f"{field_name} ({seconds:g} s) must not be below the first interval ({self.first:g} s): "
                f"the run would never be polled in time. Raise {field_name}, or lower {interval_name}."
            )
        return seconds

    def delay(self, polls: int, failures: int, retry_after: float | None, jitter: float) -> float:
        """Return the seconds to wait before the next poll.

        :param polls: Polls already made.
        :param failures: The last polls that failed, in a row.
        :param retry_after: What the server asked for with the last failure.
        :param jitter: A random number from 0 to 1.
        """
        wait = min(self.first * self.factor ** min(polls, 32), self.longest)
        if failures:
            limit = max(self.longest, FAILURE_INTERVAL_SECONDS)
            wait = min(wait * self.factor ** min(failures, 32), limit)
        wait *= 1 + self.jitter * (2 * jitter - 1)
        return max(wait, retry_after or 0.0)


def request_seconds(value: Any, field_name: str) -> float:
    """Return the seconds that a request waits, cut to what a socket can wait.

    :raises DifyInvalidInputError: As for ``seconds_of``.
    """
    return min(seconds_of(value, field_name), MAX_REQUEST_SECONDS)


def check_roots(value: Any) -> tuple[str, ...] | None:
    """Return the folders and prefixes of URIs below which files may be uploaded; None where nothing is limited.

    :raises DifyInvalidInputError: It is no list of absolute paths and URIs.
    """
    with guarded(value, "allowed_upload_roots"):
        return _roots(value)


def _roots(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Collection) or isinstance(value, (bytes, Mapping)):
        raise DifyInvalidInputError(
            "allowed_upload_roots must be a list of folders and URI prefixes, "
            f"got {shape_of(value)}: put it into a list."
        )
    roots = []
    for each in value:
        text = plain_text(os.fspath(each) if isinstance(each, os.PathLike) else each)
        if text is None or not (text.startswith(("/", "~")) or "://" in text) or not text.isprintable():
            raise DifyInvalidInputError(
                "allowed_upload_roots must hold absolute paths such as '/data' and URI prefixes such as "
                f"'s3://bucket/folder'; one is {shape_of(each)}."
            )
        roots.append(text)
    return tuple(roots)
