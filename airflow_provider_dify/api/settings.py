"""The settings of a task that are fixed when its DAG is parsed: intervals, time-outs, choices. Cheap to import."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from airflow_provider_dify.api.values import shape_of
from airflow_provider_dify.exceptions import DifyInvalidInputError

FIRST_LOOK_SECONDS = 1.0
MAX_INTERVAL_SECONDS = 5.0
TIMEOUT_SECONDS = 300.0
FAILURE_INTERVAL_SECONDS = 30.0
SUBMIT_TIMEOUT_SECONDS = 10.0
DEFER_AFTER_SECONDS = 3.0

RESPONSE_MODES = ("streaming", "blocking")

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
    if value not in choices:
        shown = repr(value[:40]) if isinstance(value, str) else shape_of(value)
        raise DifyInvalidInputError(f"{field_name} must be one of {', '.join(choices)} and is {shown}.")
    return str(value)


def check_bool(value: Any, field_name: str) -> bool:
    """Return a boolean as it is: Python counts the text ``"false"`` as true.

    :raises DifyInvalidInputError: It is another value.
    """
    if isinstance(value, bool):
        return value
    shown = repr(value[:40]) if isinstance(value, str) else shape_of(value)
    hint = f" Write {value.strip().title()} without quotes." if _is_bool_text(value) else ""
    raise DifyInvalidInputError(f"{field_name} must be True or False and is {shown}.{hint}")


def _is_bool_text(value: Any) -> bool:
    return isinstance(value, str) and value.strip().lower() in ("true", "false")


def bytes_of(value: Any, field_name: str) -> int:
    """Return a number of bytes.

    :raises DifyInvalidInputError: It is no whole number, or negative.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        shown = str(value) if isinstance(value, int) else shape_of(value)
        raise DifyInvalidInputError(f"{field_name} must be a whole number of bytes, 0 or more, and is {shown}.")
    return value


def seconds_of(value: Any, field_name: str) -> float:
    """Return a duration as positive seconds.

    :param value: Seconds as a number, or a timedelta.
    :raises DifyInvalidInputError: It is neither, not finite, zero or negative.
    """
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise DifyInvalidInputError(f"{field_name} must be seconds or a timedelta and is {shape_of(value)}.")
    if not math.isfinite(seconds) or seconds <= 0:
        raise DifyInvalidInputError(f"{field_name} must be more than 0 seconds and is {seconds:g}.")
    return float(seconds)


def seconds_or_zero(value: Any, field_name: str) -> float:
    """Return a duration as seconds, 0 or more.

    :raises DifyInvalidInputError: It is neither a number nor a timedelta, not finite, or negative.
    """
    is_zero = not isinstance(value, bool) and value in (0, timedelta(0))
    return 0.0 if is_zero else seconds_of(value, field_name)


@dataclass(frozen=True)
class PollSchedule:
    """The distances between looks at a run.

    :param first: Seconds to the first look.
    :param longest: Seconds between looks at most, as long as looks succeed.
    :param factor: What each distance grows by.
    :param jitter: Share by which a distance varies at random to either side, so that many waiting tasks
        do not ask at the same moment.
    """

    first: float = FIRST_LOOK_SECONDS
    longest: float = MAX_INTERVAL_SECONDS
    factor: float = 2.0
    jitter: float = 0.1

    @classmethod
    def checked(
        cls, first: Any, longest: Any, names: tuple[str, str] = ("poll_interval", "max_poll_interval")
    ) -> PollSchedule:
        """Build a schedule from what a DAG author passes.

        :param first: Seconds, or a timedelta, to the first look.
        :param longest: Seconds, or a timedelta, between looks at most; None for 5 s, or the first where that is more.
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
        """Return the distance between looks after so many seconds, for who cannot count them; without jitter."""
        looks, spent = 0, self.first
        while spent <= elapsed and self.first * self.factor**looks < self.longest:
            looks += 1
            spent += min(self.first * self.factor**looks, self.longest)
        return self.delay(looks, 0, None, 0.5)

    def checked_timeout(self, timeout: Any, field_name: str) -> float:
        """Return a time-out in seconds.

        :raises DifyInvalidInputError: It is not positive, or strikes before the first look.
        """
        seconds = seconds_of(timeout, field_name)
        if seconds < self.first:
            raise DifyInvalidInputError(
                f"{field_name} ({seconds:g} s) must not be below the first interval ({self.first:g} s): "
                "the run would never be looked at in time."
            )
        return seconds

    def delay(self, looks: int, failures: int, retry_after: float | None, chance: float) -> float:
        """Return the seconds to wait before the next look.

        :param looks: Looks already taken.
        :param failures: The last looks that failed, in a row.
        :param retry_after: What the server asked for with the last failure.
        :param chance: A random number from 0 to 1.
        """
        wait = min(self.first * self.factor ** min(looks, 32), self.longest)
        if failures:
            limit = max(self.longest, FAILURE_INTERVAL_SECONDS)
            wait = min(wait * self.factor ** min(failures, 32), limit)
        wait *= 1 + self.jitter * (2 * chance - 1)
        return max(wait, retry_after or 0.0)


def check_roots(value: Any) -> tuple[str, ...] | None:
    """Return the folders and prefixes of URIs below which files may be uploaded; None where nothing is limited.

    :raises DifyInvalidInputError: It is no list of absolute paths and URIs.
    """
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Collection) or isinstance(value, (bytes, Mapping)):
        raise DifyInvalidInputError(
            "allowed_upload_roots must be a list of folders and URI prefixes "
            f"and is {shape_of(value)}: put it into a list."
        )
    roots = [os.fspath(each) if isinstance(each, os.PathLike) else each for each in value]
    for each in roots:
        if not isinstance(each, str) or not (each.startswith(("/", "~")) or "://" in each) or not each.isprintable():
            raise DifyInvalidInputError(
                "allowed_upload_roots must hold absolute paths such as '/data' and URI prefixes such as "
                f"'s3://bucket/folder'; one is {shape_of(each)}."
            )
    return tuple(roots)
