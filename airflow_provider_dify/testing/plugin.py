"""Pytest fixtures: a local Dify server for each test that asks for one.

The server and its dependencies are imported only then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from airflow_provider_dify.testing.server import DifyServer
    from airflow_provider_dify.testing.workflows import Workflow

TIME_SCALE = 0.01
"""Factor on every duration in the fixtures' servers, unless a test gives another."""


class DifyServerFactory(Protocol):
    """Starts servers, each with the options of `DifyServer`."""

    def __call__(self, **options: Any) -> DifyServer:
        """Return a server that has started and ends with the test."""


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers",
        "dify_server(**options): options of the dify_server fixture's server, such as emulate='1.11.2' "
        "(see airflow_provider_dify.testing.server.DifyServer)",
    )


@pytest.fixture
def dify_workflows() -> Iterable[Workflow] | None:
    """Workflows that the server of `dify_server` offers. Override it; by default the built-in ones."""
    return None


@pytest.fixture
def dify_server_factory() -> Iterator[DifyServerFactory]:
    """Return a function that starts servers, `factory(emulate="1.9.1")`, which end with the test."""
    from airflow_provider_dify.testing.server import DifyServer

    servers: list[DifyServer] = []

    def start(**options: Any) -> DifyServer:
        server = DifyServer(**{"time_scale": TIME_SCALE, **options})
        server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def dify_server(
    request: pytest.FixtureRequest,
    dify_server_factory: DifyServerFactory,
    dify_workflows: Iterable[Workflow] | None,
) -> DifyServer:
    """Return a local Dify server of the test's own, a hundred times as fast as a real one.

    Give it options with `@pytest.mark.dify_server(emulate="1.11.2", time_scale=1.0)`, and other workflows by
    overriding the fixture `dify_workflows`.
    """
    marker = request.node.get_closest_marker("dify_server")
    if marker is not None and marker.args:
        raise pytest.UsageError("the marker dify_server takes keyword arguments only, as DifyServer does")
    options: dict[str, Any] = {"workflows": dify_workflows, **(marker.kwargs if marker else {})}
    return dify_server_factory(**options)
