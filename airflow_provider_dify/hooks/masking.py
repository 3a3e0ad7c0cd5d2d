"""Airflow's masking of secrets in logs, wherever the version at hand keeps it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from airflow_provider_dify.api.redaction import redactor_of

if TYPE_CHECKING:
    from airflow.sdk.log import mask_secret
else:
    try:
        from airflow.sdk.log import mask_secret
    except ImportError:
        try:
            # Airflow 3.0
            from airflow.sdk.execution_time.secrets_masker import mask_secret
        except ImportError:
            # Airflow 2
            from airflow.utils.log.secrets_masker import mask_secret


# What HTTP clients and the event loop log may quote what a server has sent: at the level DEBUG, and in warnings.
_CLIENT_LOGGERS = (
    "urllib3.connection",
    "urllib3.connectionpool",
    "urllib3.response",
    "urllib3.util.retry",
    "aiohttp.client",
    "aiohttp.internal",
    "asyncio",
)
_masked: set[str] = set()


class _WithoutSecrets(logging.Filter):
    """Replaces the secrets of all connections in what other libraries log, in whatever form they are echoed."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Clean a record; none is dropped."""
        redactor = redactor_of(tuple(sorted(_masked)))
        text = record.getMessage()
        clean = redactor.text(text)
        if clean != text:
            record.msg, record.args = clean, ()
        if record.exc_info and record.exc_text is None:
            trace = _format.formatException(record.exc_info)
            clean = redactor.text(trace)
            if clean != trace:
                record.exc_info, record.exc_text = None, clean
        return True


_format = logging.Formatter()
_filter = _WithoutSecrets()


def mask_secrets(secrets: Iterable[str]) -> None:
    """Have Airflow replace secrets in everything that it logs from now on, and the HTTP clients in what they log.

    Each is told to Airflow once for each process: Airflow 3 hands it on to the task's supervisor, over a connection
    that only the main thread may use.
    """
    for name in _CLIENT_LOGGERS:
        # A filter that is there already is not added again.
        logging.getLogger(name).addFilter(_filter)
    for secret in secrets:
        if secret not in _masked:
            _masked.add(secret)
            mask_secret(secret)
