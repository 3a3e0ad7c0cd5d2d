"""The asynchronous form of the hook's methods: the same code, done by the event loop's client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

P = ParamSpec("P")
T = TypeVar("T")


def asynchronous(method: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """Return the form of a method that is awaited in an event loop.

    It is called with the hook's ``in_loop`` in place of the hook, and may use nothing but what both have: ``log`` and
    what runs an exchange, whose result it returns.
    """

    @wraps(method)
    async def twin(self: Any, *args: P.args, **kwargs: P.kwargs) -> T:
        return await cast("Coroutine[Any, Any, T]", method(self.in_loop, *args, **kwargs))

    _name(twin, method)
    return cast("Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]", twin)


def asynchronous_iterator(
    method: Callable[Concatenate[Any, P], Iterator[T]],
) -> Callable[Concatenate[Any, P], AsyncIterator[T]]:
    """Return the form of a method that is iterated over in an event loop."""

    @wraps(method)
    async def twin(self: Any, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        given: Any = method(self.in_loop, *args, **kwargs)
        try:
            async for value in given:
                yield value
        finally:
            await given.aclose()

    _name(twin, method)
    return cast("Callable[Concatenate[Any, P], AsyncIterator[T]]", twin)


def _name(twin: Any, method: Any) -> None:
    twin.__name__ = f"a{method.__name__}"
    twin.__qualname__ = method.__qualname__.replace(method.__name__, twin.__name__)
    twin.__doc__ = f"Do in an event loop what ``{method.__name__}`` does; see there."
