"""What a batch knows of its server: whether it is away, and which app and version answer."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from airflow_provider_dify.rules.batch_pacing import Outage, Throttle


class ServerState:
    """What is known of the server of a batch.

    :param logger: Takes the lines for the task's log.
    :param on_change: Called when the server is away, or back.
    """

    def __init__(self, logger: Any, on_change: Callable[[], None]) -> None:
        self._log = logger
        self._on_change = on_change
        self.outage = Outage()
        self.app_id: str | None = None
        self.version: str | None = None

    def learn(self, app_id: str | None, version: str | None) -> None:
        """Keep the app and the server that an answer names."""
        self.app_id = self.app_id or app_id
        self.version = self.version or version

    def away(self) -> None:
        """Take note of a request that no server has answered."""
        if self.outage.began(time.time(), random.random()):
            self._log.info("No Dify server answers: nothing is submitted until one does.")
        self._on_change()

    def answered(self) -> None:
        """Take note of an answer."""
        if self.outage.ended():
            self._log.info("The Dify server answers again.")
            self._on_change()

    def shut_down(self, throttle: Throttle) -> None:
        """Take note of a run that the server's own shutdown has stopped: nothing is submitted for a while."""
        pause = throttle.shut_down(time.time(), random.random())
        if pause is not None:
            self._log.info("Dify's workers shut down and stop their runs: nothing is submitted for %.0f s.", pause)
