"""Airflow's masking of secrets in logs, wherever the version at hand keeps it."""

from __future__ import annotations

from collections.abc import Iterable
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


def mask_secrets(secrets: Iterable[str]) -> None:
    """Have Airflow replace secrets in everything that it logs from now on.

    Each is told to Airflow once for each process: Airflow 3 hands it on to the task's supervisor, over a connection
    that only the main thread may use.
    """
    for secret in secrets:
        if secret not in _masked:
            _masked.add(secret)
            mask_secret(secret)
