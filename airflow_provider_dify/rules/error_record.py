"""The record of an error in a task's log: a few short lines, so that cause and remedy are on the screen together."""

from __future__ import annotations

import textwrap
from typing import Any

from airflow_provider_dify.api.checks import preview
from airflow_provider_dify.exceptions import DifyError, is_final

WIDTH = 100
"""Characters of a line, without what Airflow puts before it: a log that is 1,500 pixels wide shows it whole."""

_CONN_ID_CHARS = 250
_FINAL = "Does not help: the same call would be answered the same way, so the task is not retried."
_HELPS = "May succeed."


def error_record(error: DifyError, *, task: str, conn_id: Any) -> list[str]:
    """Return the lines of the record: what failed, where, what to do, and whether a retry helps.

    :param error: What the task fails with.
    :param task: The task's id.
    :param conn_id: The id of its Airflow connection, which may be anything that a template renders; None without one.
    """
    places = [
        error.where,
        f"connection {preview(conn_id, _CONN_ID_CHARS)}" if conn_id is not None else "",
        f"Dify run {error.workflow_run_id}" if error.workflow_run_id else "",
    ]
    facts = {
        "What": error.problem,
        "Where": ", ".join(filter(None, places)),
        "To do": error.advice,
        "Retry": error.on_retry or (_FINAL if is_final(error) else _HELPS),
    }
    lines = [f"Task {task!r} failed with {type(error).__name__}."]
    for name, text in facts.items():
        if text:
            lines += _block(f"  {name + ':':<7}", text)
    return lines


def _block(begin: str, text: str) -> list[str]:
    # Ids and addresses stay whole: they are copied out of the log.
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=begin,
        subsequent_indent=" " * len(begin),
        break_long_words=False,
        break_on_hyphens=False,
    )
