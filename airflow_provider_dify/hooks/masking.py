"""Secrets that no log may show: told to Airflow, or kept out of the records of the HTTP client."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

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


_masked: set[str] = set()
_hidden = threading.local()


def mask_secrets(secrets: Iterable[str]) -> None:
    """Have Airflow replace secrets in everything that it logs from now on.

    Each is told to Airflow once for each process: Airflow 3 hands it on to the task's supervisor, over a connection
    that only the main thread may use.
    """
    for secret in secrets:
        if secret not in _masked:
            _masked.add(secret)
            mask_secret(secret)


class _WithoutSecrets(logging.Filter):
    """Replaces the secrets of the request that its thread sends."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        secrets: Collection[str] = getattr(_hidden, "secrets", ())
        if secrets:
            message = record.getMessage()
            for secret in secrets:
                message = message.replace(secret, "***")
            record.msg, record.args = message, ()
        return True


_FILTER = _WithoutSecrets()
# These log the URLs that they ask for where logging is set to debug.
_HTTP_LOGGERS = ("urllib3.connectionpool", "urllib3.util.retry")


@contextmanager
def hidden_in_http_logs(secrets: Collection[str]) -> Iterator[None]:
    """Keep secrets of one request out of what the HTTP client logs meanwhile in this thread.

    For what is used once, such as the signature of a URL: Airflow's own masking compiles one pattern of all secrets
    for each that it is told, which takes minutes for the files of a run that has a thousand.
    """
    for name in _HTTP_LOGGERS:
        logging.getLogger(name).addFilter(_FILTER)
    _hidden.secrets = secrets
    try:
        yield
    finally:
        _hidden.secrets = ()
