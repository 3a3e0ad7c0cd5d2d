"""Compressed answers that expand to gigabytes, and a client that measures what they cost it.

Run as a module, with the address of a server, ``sync`` or ``async``, and cases as ``number=operation``; prints what
became of each as JSON.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
import zlib
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.memory import Growth

GIBIBYTES = 4
RAW = -zlib.MAX_WBITS
GZIP = 16 + zlib.MAX_WBITS
RUN = "6b454183-889f-4bc9-8060-764be1cb16ea"
FOLLOWED_SECONDS = {"follow": 1.0, "follow to the end": 30.0}
KEY = "app-S3cretKeyThatNobodyMaySee"


def bomb(text: bytes, wbits: int, gibibytes: int = GIBIBYTES) -> bytes:
    """Return a compressed body that repeats a text for gigabytes, and whose end is missing."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, wbits)
    begin = compressor.compress(b'"') + compressor.flush(zlib.Z_FULL_FLUSH)
    block = compressor.compress(text * (1024 * 1024 // len(text))) + compressor.flush(zlib.Z_FULL_FLUSH)
    return begin + block * (gibibytes * 1024)


def packed(content: bytes, wbits: int) -> bytes:
    """Return content as it is compressed by an honest server."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, wbits)
    return compressor.compress(content) + compressor.flush()


@dataclass(frozen=True)
class Case:
    """One hostile answer.

    :param operation: ``poll``, ``submit``, ``download``, ``follow`` or ``follow to the end``.
    :param body: Its body; sent again and again where it is endless.
    """

    operation: str
    coding: str
    body: bytes
    status: int = 200
    kind: str = "application/json"
    endless: bool = False
    location: str = ""


def cases() -> dict[str, Case]:
    """Return all hostile answers by their names."""
    gzipped, deflated, raw = bomb(b"x" * 64, GZIP), bomb(b"x" * 64, zlib.MAX_WBITS), bomb(b"x" * 64, RAW)
    # A second layer makes a kilobyte of the whole.
    nested = packed(gzipped[: 1024 * 1024], GZIP)
    comments, line = bomb(b":\n", GZIP), bomb(b"data: x", GZIP)
    found = {
        "gzip": Case("poll", "gzip", gzipped),
        "x-gzip": Case("poll", "X-GZip", gzipped),
        "deflate": Case("poll", "deflate", deflated),
        "deflate without header": Case("poll", "deflate", raw),
        "br": Case("poll", "br", b"\x5b\xff\xff" * 300),
        "zstd": Case("poll", "zstd", b"\x28\xb5\x2f\xfd" * 300),
        "gzip, gzip": Case("poll", "gzip, gzip", nested),
        "gzip of nothing, again and again": Case("poll", "gzip", packed(b"", GZIP) * 500, endless=True),
        "gzip of a letter, again and again": Case("poll", "gzip", packed(b"x", GZIP) * 500, endless=True),
        "a header without end": Case("poll", "gzip", b"\x1f\x8b\x08\x10" + b"x" * 60_000, endless=True),
    }
    for status in (400, 401, 429, 500, 502):
        found[f"{status} gzip"] = Case("poll", "gzip", gzipped, status)
        found[f"{status} br"] = Case("poll", "br", b"\x5b\xff\xff" * 300, status)
        found[f"{status} gzip, gzip"] = Case("poll", "gzip, gzip", nested, status)
    found |= {
        "redirect gzip": Case("poll", "gzip", gzipped, 302, location="/elsewhere"),
        "redirect without end": Case("poll", "", b"x" * 65536, 302, location="/elsewhere", endless=True),
        "submission gzip": Case("submit", "gzip", gzipped),
        "stream gzip of comments": Case("submit", "gzip", comments, kind="text/event-stream"),
        "stream gzip of a line": Case("submit", "gzip", line, kind="text/event-stream"),
        "stream deflate of a line": Case("submit", "deflate", bomb(b"data: x", RAW), kind="text/event-stream"),
        "stream br": Case("submit", "br", b"\x5b\xff\xff" * 300, kind="text/event-stream"),
        "stream gzip, gzip": Case("submit", "gzip, gzip", nested, kind="text/event-stream"),
        "stream gzip of nothing": Case(
            "submit", "gzip", packed(b"", GZIP) * 500, kind="text/event-stream", endless=True
        ),
        "events gzip of comments": Case("follow", "gzip", comments, kind="text/event-stream"),
        "events gzip of a line": Case("follow to the end", "gzip", line, kind="text/event-stream"),
        "file gzip": Case("download", "gzip", gzipped, kind="image/png"),
        "file deflate": Case("download", "deflate", deflated, kind="image/png"),
        "file br": Case("download", "br", b"\x5b\xff\xff" * 300, kind="image/png"),
        "file gzip, gzip": Case("download", "gzip, gzip", nested, kind="image/png"),
        "file gzip of nothing": Case("download", "gzip", packed(b"", GZIP) * 500, kind="image/png", endless=True),
        "file 502 gzip": Case("download", "gzip", gzipped, 502, kind="text/plain"),
    }
    return found


class Ticker:
    """Measures for how long the event loop's thread computes without giving others their turn."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def run(self) -> None:
        """Tick until cancelled. Time that the machine gave to others does not count."""
        while True:
            began = time.thread_time()
            await asyncio.sleep(0.001)
            self.longest = max(self.longest, time.thread_time() - began)


def follow(hook: Any, seconds: float) -> Any:
    """Read the events of a run for a while, as a task does beside its wait."""
    from airflow_provider_dify.rules.event_log import ReadEvents
    from airflow_provider_dify.runtime.event_stream import SyncFollowing

    with closing(SyncFollowing(hook)) as following:
        return following.read(ReadEvents(RUN, "me", seconds)).error


async def afollow(hook: Any, seconds: float) -> Any:
    """Read the events of a run for a while; see ``follow``."""
    from airflow_provider_dify.rules.event_log import ReadEvents
    from airflow_provider_dify.runtime.event_stream import AsyncFollowing

    following = AsyncFollowing(hook.in_loop)
    try:
        return (await following.read(ReadEvents(RUN, "me", seconds))).error
    finally:
        await following.close()


def download(hook: Any, url: str) -> Any:
    """Fetch a file, of which nothing may be left behind when that fails."""
    with TemporaryDirectory() as folder:
        try:
            return hook.download_file(f"{url}/file", Path(folder) / "file", max_bytes=1024 * 1024)
        finally:
            assert list(Path(folder).iterdir()) == []


def call(hook: Any, operation: str, url: str) -> Any:
    """Do what a case is about as a worker does it."""
    if operation == "poll":
        return hook.poll(RUN).error
    if operation == "submit":
        return hook.create_workflow_run({}, user="me", submit_timeout=6.0)
    return download(hook, url) if operation == "download" else follow(hook, FOLLOWED_SECONDS[operation])


async def acall(hook: Any, operation: str) -> Any:
    """Do what a case is about as a triggerer does it."""
    if operation == "poll":
        return (await hook.apoll(RUN)).error
    if operation == "submit":
        return await hook.acreate_workflow_run({}, user="me", submit_timeout=6.0)
    return await afollow(hook, FOLLOWED_SECONDS[operation])


def outcome(result: Any, began: float) -> dict[str, Any]:
    """Return what became of a case."""
    message = getattr(result, "message", "")
    return {"result": type(result).__name__, "message": message, "seconds": time.monotonic() - began}


async def measured_in_a_loop(operation: str) -> dict[str, Any]:
    """Meet one hostile answer in an event loop."""
    from airflow_provider_dify.exceptions import DifyError
    from airflow_provider_dify.hooks.dify import DifyHook

    hook, ticker = DifyHook(), Ticker()
    await hook.aconnection()
    await hook.in_loop.transport()
    ticking = asyncio.create_task(ticker.run())
    began = time.monotonic()
    try:
        result = await acall(hook, operation)
    except DifyError as error:
        result = error
    found = outcome(result, began)
    ticking.cancel()
    await hook.aclose()
    return {**found, "blocked": ticker.longest}


def measured(operation: str, url: str) -> dict[str, Any]:
    """Meet one hostile answer in a worker."""
    from airflow_provider_dify.exceptions import DifyError
    from airflow_provider_dify.hooks.dify import DifyHook

    with DifyHook() as hook:
        began = time.monotonic()
        try:
            result = call(hook, operation, url)
        except DifyError as error:
            result = error
        return outcome(result, began)


def main(url: str, mode: str, names: list[str]) -> None:
    """Meet all cases, an honest one first, which loads whatever is loaded."""
    from airflow_provider_dify.client import exchange as http

    http.FIRST_RETRY_SECONDS = 0.01
    reports: dict[str, Any] = {}
    for name, operation in [pair.split("=") for pair in ["honest=poll", *names]]:
        content = {"conn_type": "dify", "host": f"{url}/{name}", "password": KEY, "extra": {"read_timeout": 5}}
        os.environ["AIRFLOW_CONN_DIFY_DEFAULT"] = json.dumps(content)
        memory = Growth()
        run = measured(operation, f"{url}/{name}") if mode == "sync" else asyncio.run(measured_in_a_loop(operation))
        reports[name] = {**run, "grown": memory.mib()}
        # What Airflow has made is not to be gone through again within a case.
        gc.collect()
        gc.freeze()
    print(json.dumps(reports))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
