"""Compressed answers that expand to gigabytes: what they cost in memory and time, and what is lines of them."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from contextlib import suppress
from functools import cache
from typing import Any

import pytest

from tests.hooks.hostile_answers import Case, cases
from tests.hooks.support import ANSWER, RawRequest, http, serving

# One process measures, and no other test of this file beside it.
pytestmark = pytest.mark.xdist_group("hostile answers")

CASES = cases()
MAX_GROWTH_MEBIBYTES = 100
MAX_BLOCKED_SECONDS = 0.05

TOO_LARGE = "has more than 33,554,432 bytes"
REFUSED = "which was not requested and cannot be read. A gateway in front of Dify is the likely cause"
UNREAD = "its text is compressed as"
EXPECTED = {
    "gzip": ("DifyResponseError", TOO_LARGE),
    "x-gzip": ("DifyResponseError", TOO_LARGE),
    "deflate": ("DifyResponseError", TOO_LARGE),
    "deflate without header": ("DifyResponseError", TOO_LARGE),
    "br": ("DifyResponseError", f"is compressed as 'br', {REFUSED}"),
    "zstd": ("DifyResponseError", REFUSED),
    "gzip, gzip": ("DifyResponseError", f"is compressed as 'gzip, gzip', {REFUSED}"),
    "gzip of nothing, again and again": ("DifyTransportError", "its gzip data hold next to nothing"),
    "gzip of a letter, again and again": ("DifyTransportError", "its gzip data hold next to nothing"),
    "a header without end": ("DifyTransportError", "its gzip data hold next to nothing"),
    **dict.fromkeys([f"{status} gzip" for status in (400, 401, 429, 500, 502)], ("DifyResponseError", TOO_LARGE)),
    **{f"400 {coding}": ("DifyInvalidInputError", UNREAD) for coding in ("br", "gzip, gzip")},
    **{f"401 {coding}": ("DifyAuthenticationError", UNREAD) for coding in ("br", "gzip, gzip")},
    **{f"429 {coding}": ("DifyRateLimitError", UNREAD) for coding in ("br", "gzip, gzip")},
    **{f"{status} {coding}": ("DifyServerError", UNREAD) for status in (500, 502) for coding in ("br", "gzip, gzip")},
    "redirect gzip": ("DifyResponseError", TOO_LARGE),
    "redirect without end": ("DifyResponseError", TOO_LARGE),
    "submission gzip": ("DifySubmissionUnknownError", TOO_LARGE),
    "stream gzip of comments": ("DifySubmissionUnknownError", "fell silent, before it named the run"),
    "stream gzip of a line": ("DifySubmissionUnknownError", "larger than 33,554,432 bytes"),
    "stream deflate of a line": ("DifySubmissionUnknownError", "larger than 33,554,432 bytes"),
    "stream br": ("DifySubmissionUnknownError", REFUSED),
    "stream gzip, gzip": ("DifySubmissionUnknownError", REFUSED),
    "stream gzip of nothing": ("DifySubmissionUnknownError", "its gzip data hold next to nothing"),
    "events gzip of comments": ("NoneType", ""),
    # A triggerer reads less of an event than a worker.
    "events gzip of a line": ("DifyResponseError", "An event of the stream is larger than"),
    "file gzip": ("DifyFileRefusedError", "max_file_bytes allows 1,048,576 bytes"),
    "file deflate": ("DifyFileRefusedError", "max_file_bytes allows 1,048,576 bytes"),
    "file br": ("DifyFileError", REFUSED),
    "file gzip, gzip": ("DifyFileError", REFUSED),
    "file gzip of nothing": ("DifyFileError", "its gzip data hold next to nothing"),
    "file 502 gzip": ("DifyFileError", TOO_LARGE),
}


def answer_of(case: Case, connection: socket.socket) -> None:
    lines = {"Content-Type": case.kind, "Connection": "close"}
    if case.coding:
        lines["Content-Encoding"] = case.coding
    if case.location:
        lines["Location"] = case.location
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    connection.sendall(f"HTTP/1.1 {case.status} Text\r\n{head}\r\n".encode())
    connection.sendall(case.body)
    # Far more than any client should take.
    for _ in range(256 * 1024 * 1024 // len(case.body) if case.endless else 0):
        connection.sendall(case.body)


@pytest.fixture(params=["sync", "async"])
def reports(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return what a process that has met all answers has measured."""
    return reports_of(request.param)


# Not a fixture of the module, which ends and begins anew where its tests are handed out one by one.
@cache
def reports_of(mode: str) -> dict[str, Any]:
    """Let a process of its own meet all answers, and return what it measured."""
    names = [name for name in CASES if mode == "sync" or CASES[name].operation != "download"]

    def answer(asked: RawRequest, connection: socket.socket) -> bytes | None:
        number = asked.line.split("/")[1]
        if number == "honest":
            return http(200, ANSWER)
        with suppress(OSError):
            answer_of(CASES[names[int(number)]], connection)
        return None

    with serving() as serve:
        numbered = [f"{number}={CASES[name].operation}" for number, name in enumerate(names)]
        done = subprocess.run(
            [sys.executable, "-m", "tests.hooks.hostile_answers", serve(answer).url, mode, *numbered],
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("honest")["result"] == "NoneType"
    return {names[int(number)]: report for number, report in found.items()}


def test_every_case_has_an_expectation() -> None:
    assert set(EXPECTED) == set(CASES)


def test_no_answer_takes_much_memory(reports: dict[str, Any]) -> None:
    grown = {name: report["grown"] for name, report in reports.items()}
    assert {name: mebibytes for name, mebibytes in grown.items() if mebibytes > MAX_GROWTH_MEBIBYTES} == {}


def test_no_answer_blocks_the_event_loop(reports: dict[str, Any]) -> None:
    blocked = {name: report.get("blocked", 0.0) for name, report in reports.items()}
    assert {name: seconds for name, seconds in blocked.items() if seconds > MAX_BLOCKED_SECONDS} == {}


def test_every_answer_is_given_up_with_a_clear_text(reports: dict[str, Any]) -> None:
    for name, report in reports.items():
        result, text = EXPECTED[name]
        assert (name, report["result"]) == (name, result), report["message"]
        assert text in report["message"], name
