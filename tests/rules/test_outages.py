"""What counts as a server that is away, and the wait for its return."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_dify.exceptions import (
    DifyAuthenticationError,
    DifyError,
    DifyRateLimitError,
    DifyResponseError,
    DifyServerError,
    DifyTransportError,
)
from airflow_provider_dify.rules.outages import is_outage, wait_for_server
from airflow_provider_dify.rules.polling import Deadline
from airflow_provider_dify.rules.waiting import CheckServer, Sleep


@pytest.mark.parametrize(
    ("error", "away"),
    [
        *[(DifyServerError("x", status_code=status), True) for status in (502, 503, 504)],
        *[(DifyServerError("x", status_code=status), False) for status in (500, 501, 507)],
        *[(DifyTransportError("x", cause=cause), True) for cause in (None, "refused", "timeout")],
        *[(DifyTransportError("x", cause=cause), False) for cause in ("name", "certificate", "tls")],
        (DifyTransportError("the proxy refuses the password", status_code=407), False),
        (DifyAuthenticationError("x", status_code=401), False),
        (DifyRateLimitError("x", status_code=429), False),
        (DifyResponseError("a login page", status_code=200), False),
        (None, False),
    ],
)
def test_a_server_is_away_where_a_gateway_says_so_or_nothing_answers(error: DifyError | None, away: bool) -> None:
    assert is_outage(error) is away


def play(returns_at: float, *, deadline: float = 300.0, until: float | None = None) -> tuple[bool, list[float]]:
    clock, checks = [0.0], []
    flow = wait_for_server(Deadline(deadline), lambda: clock[0], lambda: 0.5, until)
    answer: Any = None
    while True:
        try:
            request = flow.send(answer)
        except StopIteration as end:
            return end.value, checks
        answer = None
        if isinstance(request, Sleep):
            clock[0] += request.seconds
        elif isinstance(request, CheckServer):
            checks.append(clock[0])
            answer = None if clock[0] >= returns_at else DifyServerError("x", status_code=502)


def test_it_is_asked_less_and_less_often() -> None:
    assert play(50.0) == (True, [1.0, 3.0, 7.0, 15.0, 30.0, 45.0, 60.0])


def test_the_wait_ends_with_the_deadline_or_where_somebody_else_goes_on() -> None:
    assert play(1000.0) == (False, pytest.approx([1, 3, 7, *range(15, 301, 15)]))
    assert play(1000.0, until=3.0)[0] is False
    assert play(1000.0, until=0.0) == (False, [])
