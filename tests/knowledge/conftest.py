"""Fixtures of the tests of knowledge bases."""

from collections.abc import Iterator
from typing import Any

import pytest

from airflow_provider_dify.testing.server import DifyServer
from tests.hooks.support import clean_environment, deferrals_of_any_length, naps
from tests.knowledge.support import connect

__all__ = ["clean_environment", "deferrals_of_any_length", "naps"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, request: Any) -> Iterator[DifyServer]:
    """Give a server with a knowledge base, and the connection to it."""
    marker = request.node.get_closest_marker("dify_server")
    with DifyServer(**{"time_scale": 0.01, **(marker.kwargs if marker else {})}) as server:
        connect(monkeypatch, server)
        yield server
