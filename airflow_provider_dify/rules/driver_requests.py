"""What an exchange asks its driver for; the drivers are ``runtime.worker_client`` and ``runtime.loop_client``."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from airflow_provider_dify.api.operations import Call, Operation

T = TypeVar("T")


class GetApi:
    """Asks for the operations of the connection's API contract."""


GET_API = GetApi()


@dataclass(frozen=True)
class Send(Generic[T]):
    """Asks for the value of an operation.

    :param operation: What is sent.
    :param timeout: Seconds for the whole exchange; None means the connection's time-outs together.
    :param retry: Whether network errors and 5xx are tried again where that is safe.
    :param past_deadline: Whether it has its own time also after the caller's deadline.
    """

    operation: Operation[T]
    timeout: float | None = None
    retry: bool = True
    past_deadline: bool = False


@dataclass(frozen=True)
class Open:
    """Asks for the head of an answer whose body is read piece by piece.

    :param call: What is sent.
    :param timeout: Seconds until the head; None means the connection's time-outs together.
    :param retry: Whether network errors are tried again where that is safe.
    :param before_send: Called once a connection stands, before the body of the request leaves.
    :param within_connection: Whether the head has the connection's own time-outs at most.
    :param past_deadline: Whether it has its own time also after the caller's deadline.
    """

    call: Call
    timeout: float | None = None
    retry: bool = True
    before_send: Callable[[], None] | None = None
    within_connection: bool = False
    past_deadline: bool = False


class ReadAnswer:
    """Asks for the whole answer that was opened."""


@dataclass(frozen=True)
class ReadChunks:
    """Begins to read the body of the answer that was opened.

    :param seconds: Seconds for all of it.
    :param by_deadline: Whether the caller's deadline ends it too.
    """

    seconds: float
    by_deadline: bool = False


class NextChunk:
    """Asks for the next bytes of the body; None at its end and when the time is over."""


@dataclass(frozen=True)
class Give(Generic[T]):
    """Hands a value to whoever iterates."""

    value: T


READ_ANSWER = ReadAnswer()
NEXT_CHUNK = NextChunk()
Flow = Generator[Any, Any, T]
"""An exchange: it yields requests, also an operation by itself, and is sent what came of them, errors included."""
