"""What the log says of a waiting run."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_dify.api.runs import RunStatus, WorkflowRun
from airflow_provider_dify.exceptions import DifyServerError, DifyTransportError
from airflow_provider_dify.rules.log_lines import LINE_EVERY_SECONDS, Opening, Progress, closing_line, status_words
from airflow_provider_dify.rules.polling import Deadline, PollResult

RUN = "6b454183-889f-4bc9-8060-764be1cb16ea"


def look(status: RunStatus | None = None, error: Any = None) -> PollResult:
    return PollResult(run=WorkflowRun(RUN, status)) if status else PollResult(error=error)


def lines(*polls: tuple[float, PollResult]) -> list[str]:
    progress = Progress(RUN, since=1000.0)
    reported = [progress.line(each, 1000.0 + second) for second, each in polls]
    return [line.removeprefix(f"Dify run {RUN} ") for line in reported if line]


RUNNING, PAUSED = look(RunStatus.RUNNING), look(RunStatus.PAUSED)


def test_a_state_is_reported_once_and_then_once_a_minute() -> None:
    assert lines(*[(second, RUNNING) for second in range(1, 130, 5)]) == [
        "is running after 1 s.",
        "is still running after 61 s.",
        "is still running after 121 s.",
    ]


def test_a_change_is_reported_at_once() -> None:
    assert lines((1, RUNNING), (2, PAUSED), (3, PAUSED), (4, RUNNING)) == [
        "is running after 1 s.",
        "is paused after 2 s.",
        "is running after 4 s.",
    ]


def test_an_outage_is_reported_once() -> None:
    errors = [look(error=DifyServerError(f"HTTP 502 ({number})")) for number in range(3)]
    reported = lines((1, RUNNING), *[(2 + number, each) for number, each in enumerate(errors)], (9, RUNNING))
    assert reported == ["is running after 1 s.", "could not be read: HTTP 502 (0) after 2 s.", "is running after 9 s."]
    assert len(lines((1, errors[0]), (2, look(error=DifyTransportError("refused"))))) == 2


def test_an_outage_that_lasts_is_reported_once_a_minute() -> None:
    reported = lines(
        *[(1 + number * 10.0, look(error=DifyServerError(f"HTTP 502 ({number})"))) for number in range(13)]
    )
    assert reported == [f"could not be read: HTTP 502 ({number}) after {1 + number * 10} s." for number in (0, 6, 12)]


def test_the_minute_counts_from_the_last_line() -> None:
    later = 30 + LINE_EVERY_SECONDS
    assert lines((1, RUNNING), (30, PAUSED), (later - 0.1, PAUSED), (later, PAUSED)) == [
        "is running after 1 s.",
        "is paused after 30 s.",
        "is still paused after 90 s.",
    ]


def test_a_clock_that_was_set_back_gives_no_negative_time() -> None:
    assert lines((-5, RUNNING)) == ["is running after 0 s."]


@pytest.mark.parametrize("status", [status for status in RunStatus if status.is_terminal])
def test_the_end_is_left_to_the_closing_line(status: RunStatus) -> None:
    assert lines((1, look(status))) == []


def test_the_opening_tells_what_is_known() -> None:
    deadline = Deadline(1_900_000_000.4)
    opening = Opening(
        RUN,
        "https://dify.example.com/v1",
        "1.14.2",
        "39291739-8d00-4db6-9134-5072ec569333",
        "airflow/dag/task/run/0/1",
        "https://dify.example.com/app/39291739-8d00-4db6-9134-5072ec569333/logs",
        deadline,
    )
    assert opening.lines(1_899_999_700.0) == [
        f"Dify run {RUN}",
        "  server:   Dify 1.14.2 at https://dify.example.com/v1",
        "  app:      39291739-8d00-4db6-9134-5072ec569333",
        "  user:     airflow/dag/task/run/0/1",
        "  link:     https://dify.example.com/app/39291739-8d00-4db6-9134-5072ec569333/logs",
        f"  deadline: {deadline}, in 300 s",
    ]


def test_the_opening_of_a_run_of_which_little_is_known() -> None:
    assert Opening(RUN, "https://gateway.example.com/v1", "1\n\x1b[2J", "a\nb").lines(0.0) == [
        f"Dify run {RUN}",
        "  server:   Dify 1 \ufffd[2J at https://gateway.example.com/v1",
        "  app:      a b",
    ]
    late = Opening(RUN, "https://x/v1", deadline=Deadline(1000.0)).lines(2000.0)
    assert late[1] == "  server:   Dify (version unknown) at https://x/v1"
    assert late[2].endswith(", in 0 s")


def test_the_opening_tells_of_a_server_that_is_newer_than_any_tested() -> None:
    line = Opening(RUN, "https://x/v1", "1.18.0").lines(0.0)[1]
    assert line == "  server:   Dify 1.18.0 (newer than 1.16.1, the newest that was tested) at https://x/v1"


CLOSING = [
    ({"elapsed_time": 1.53, "total_steps": 5, "total_tokens": 128}, "succeeded (1.5 s, 5 steps, 128 tokens)"),
    ({"elapsed_time": 0.0, "total_steps": 1, "total_tokens": 1}, "succeeded (0.0 s, 1 step, 1 token)"),
    ({"total_tokens": 0}, "succeeded (0 tokens)"),
    # 1.9.1 counts no steps.
    ({"elapsed_time": 61.25, "total_steps": 0, "total_tokens": 2}, "succeeded (61.2 s, 2 tokens)"),
    ({"total_steps": 3}, "succeeded (3 steps)"),
    ({"error": ""}, "succeeded"),
    ({"error": "a\n  b", "total_steps": 2}, "succeeded (2 steps): a b"),
    ({}, "succeeded"),
]


@pytest.mark.parametrize(("fields", "text"), CLOSING)
def test_the_closing_line(fields: dict[str, Any], text: str) -> None:
    assert closing_line(WorkflowRun(RUN, RunStatus.SUCCEEDED, **fields)) == f"Dify run {RUN} ended: {text}"


@pytest.mark.parametrize("status", list(RunStatus))
def test_every_status_has_its_words(status: RunStatus) -> None:
    assert closing_line(WorkflowRun(RUN, status)) == f"Dify run {RUN} ended: {status.value}"
    assert (status_words(status), status_words(None)) == (status.value, "of unknown status")


def test_the_closing_line_of_a_failure_bounds_its_error() -> None:
    line = closing_line(WorkflowRun(RUN, RunStatus.FAILED, error="x" * 5000))
    assert line.startswith(f"Dify run {RUN} ended: failed: xxx")
    assert len(line) < 1200
