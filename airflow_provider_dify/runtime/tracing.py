"""Which trace a task belongs to, as far as Airflow and OpenTelemetry tell."""

from __future__ import annotations

import logging
import sys
from typing import Any

from airflow_provider_dify.api.tracing import traceparent_in, traceparent_of
from airflow_provider_dify.compat import trace_carrier

log = logging.getLogger(__name__)


def current_traceparent(ti: Any) -> str | None:
    """Return the W3C ``traceparent`` of OpenTelemetry's current span, else of the task instance; None without one.

    A trace is nice to have: whatever goes wrong here, the task goes on without.

    :param ti: The task instance, which carries a trace from Airflow 3 on.
    """
    try:
        return _of_current_span() or traceparent_in(trace_carrier(ti))
    except Exception as error:
        log.debug("The trace of this task could not be read (%s): %s", type(error).__name__, error)
        return None


def _of_current_span() -> str | None:
    # A process that has not imported it has no span, and importing it takes time.
    opentelemetry = sys.modules.get("opentelemetry.trace")
    if opentelemetry is None:
        return None
    span = opentelemetry.get_current_span().get_span_context()
    return traceparent_of(span.trace_id, span.span_id, int(span.trace_flags))
