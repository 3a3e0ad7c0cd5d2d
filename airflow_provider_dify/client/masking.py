"""Secrets that no log may show: passed to Airflow, or kept out of the records of the HTTP client."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import cache

from airflow_provider_dify.api.redaction import redactor_of
from airflow_provider_dify.compat import mask_secret

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
_hidden = threading.local()


class _WithoutSecrets(logging.Filter):
    """Replaces secrets in what other libraries log: of all connections, and of the request that the thread sends."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Clean a record; none is dropped."""
        text = record.getMessage()
        clean = _cleaned(text)
        if clean != text:
            record.msg, record.args = clean, ()
        if record.exc_info and record.exc_text is None:
            trace = _format.formatException(record.exc_info)
            clean = _cleaned(trace)
            if clean != trace:
                record.exc_info, record.exc_text = None, clean
        return True


def _cleaned(text: str) -> str:
    for secret in getattr(_hidden, "secrets", ()):
        text = text.replace(secret, "***")
    return redactor_of(tuple(sorted(_masked))).text(text)


_format = logging.Formatter()
_filter = _WithoutSecrets()


@cache
def _watch_clients() -> None:
    """Add the filter to the loggers, once for each process."""
    for name in _CLIENT_LOGGERS:
        logging.getLogger(name).addFilter(_filter)


def mask_secrets(secrets: Iterable[str]) -> None:
    """Have Airflow replace secrets in everything that it logs from now on, and the HTTP clients in what they log.

    Each is reported to Airflow once for each process: Airflow 3 hands it on to the task's supervisor, over a connection
    that only the main thread may use.
    """
    _watch_clients()
    for secret in secrets:
        if secret not in _masked:
            _masked.add(secret)
            mask_secret(secret)


@contextmanager
def hidden_in_http_logs(secrets: Collection[str]) -> Iterator[None]:
    """Keep secrets of one request out of what the HTTP client logs meanwhile in this thread.

    For what is used once, such as the signature of a URL: Airflow's own masking compiles one pattern of all secrets
    for each secret, which takes minutes for the files of a run that has a thousand.
    """
    _watch_clients()
    _hidden.secrets = secrets
    try:
        yield
    finally:
        _hidden.secrets = ()
