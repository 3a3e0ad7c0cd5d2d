"""The one place where the error of an operator or sensor reaches the task's log, before Airflow prints it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

from airflow_provider_dify.exceptions import DifyError

Method = TypeVar("Method", bound=Callable[..., Any])


def reports_errors(method: Method) -> Method:
    """Let a method by which Airflow starts or resumes a task log the record of its error.

    The exception is then raised without the frames and causes inside of this package, which would push the record off
    the screen. They are in the log of the level DEBUG.

    :param method: ``execute`` or one of its siblings, of a class with ``log`` and ``task_id``.
    """

    @functools.wraps(method)
    def reporting(task: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(task, *args, **kwargs)
        except DifyError as error:
            _report(task, error)
            failure = error
        failure.__cause__ = failure.__context__ = None
        raise failure.with_traceback(None)

    # Airflow wraps what it calls as well, and keeps this.
    reporting.reports_errors = True  # type: ignore[attr-defined]
    return cast("Method", reporting)


def _report(task: Any, error: DifyError) -> None:
    if error.is_reported:
        return
    # Parsing a DAG file needs none of it.
    from airflow_provider_dify.rules.error_record import error_record

    error.is_reported = True
    task.log.debug("Where the error was raised:", exc_info=error)
    for line in error_record(error, task=task.task_id, conn_id=getattr(task, "dify_conn_id", None)):
        # As an argument: a text with a % in it is no format.
        task.log.error("%s", line)
