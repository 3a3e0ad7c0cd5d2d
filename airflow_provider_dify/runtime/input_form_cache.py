"""The input forms of apps, asked for once in each process and for some minutes."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, replace

from airflow_provider_dify.api.input_form import InputForm
from airflow_provider_dify.connection import DifyConnection

FORM_SECONDS = 300.0
"""How long a form is taken for current; an app that is published again may have another one."""

UNREADABLE_SECONDS = 60.0
"""How long a form that could not be read is not asked for again: mapped tasks would each wait for the answer."""


@dataclass(frozen=True)
class KnownForm:
    """What is known of an app's form.

    :param form: The form; None where it could not be read.
    :param reason: Why it could not be read.
    :param read_at: Seconds of the monotonic clock.
    :param is_new: Whether it was asked for just now, and not for an earlier task.
    """

    form: InputForm | None
    reason: str | None
    read_at: float
    is_new: bool = False

    @property
    def is_current(self) -> bool:
        """Whether it need not be asked for again yet."""
        age = time.monotonic() - self.read_at
        return age < (UNREADABLE_SECONDS if self.form is None else FORM_SECONDS)


_known: dict[str, KnownForm] = {}


def known_form(connection: DifyConnection) -> KnownForm | None:
    """Return what this process has found out of the form of a connection's app, while it is current."""
    known = _known.get(_key(connection))
    return known if known is not None and known.is_current else None


def remember_form(connection: DifyConnection, form: InputForm | None, reason: str | None = None) -> KnownForm:
    """Keep what was found out for the next tasks of this process."""
    known = KnownForm(form, reason, time.monotonic())
    _known[_key(connection)] = known
    return replace(known, is_new=True)


def forget_forms() -> None:
    """Forget every form, so that the next task asks for it."""
    _known.clear()


def _key(connection: DifyConnection) -> str:
    # The key selects the app. It is not kept itself, and neither is what could tell it.
    parts = (connection.base_url, connection.api_contract, connection.api_key)
    return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()
