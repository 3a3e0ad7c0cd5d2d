"""Files and object stores beside an event loop, in threads in which Airflow's connections may be asked for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def in_thread(function: Callable[..., T], *args: Any) -> T:
    """Call a function in a thread.

    By ``sync_to_async``, since Airflow's triggerer lets only such threads ask for connections; not by its one thread
    for all, which would let a slow store hold up every trigger.
    """
    from asgiref.sync import sync_to_async

    return await sync_to_async(function, thread_sensitive=False)(*args)


def run_to_end(run: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine in an event loop of its own, wherever the caller is.

    No event loop runs inside an ``except`` block: ``sync_to_async`` raises the exception that is being handled again in
    each of its threads, and so its traceback would keep what each of them has returned.
    """
    if _is_in_loop():
        return in_own_loop(run)
    return asyncio.run(run())


def _is_in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def in_own_loop(run: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine in a thread with an event loop of its own, where the caller's thread has one that runs."""
    found: list[T] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            found.append(asyncio.run(run()))
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work, name="dify-batch")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return found[0]
