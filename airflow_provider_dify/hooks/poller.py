"""The shared poller of a triggerer: one connection, one session and one look at the logs for all that wait."""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from copy import copy
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakKeyDictionary

from airflow_provider_dify.api.batching import Await, Known, RollCall, Sweep
from airflow_provider_dify.api.calls import Operation, contract
from airflow_provider_dify.api.errors import Answer
from airflow_provider_dify.api.polling import Deadline, Look
from airflow_provider_dify.api.runs import LogPage, RunStatus, WorkflowRun
from airflow_provider_dify.exceptions import (
    DifyAuthenticationError,
    DifyError,
    DifyPermissionError,
    DifyRateLimitError,
    DifyServerError,
    DifyTransportError,
)
from airflow_provider_dify.fields import MAX_CONNECTIONS
from airflow_provider_dify.hooks.dify import DifyHook
from airflow_provider_dify.hooks.gate import Gate
from airflow_provider_dify.hooks.limits import is_too_late
from airflow_provider_dify.hooks.sizes import TOO_LARGE, TRIGGERER_SIZE, Size
from airflow_provider_dify.names import WORKFLOW_RUNS

if TYPE_CHECKING:
    from airflow_provider_dify.connection import DifyConnection
    from airflow_provider_dify.hooks.http_async import AsyncTransport

READ_AGAIN_SECONDS = 300.0
"""How often the Airflow connection is read anew, so that a rotated key is noticed before the old one is refused."""

SHARED_SECONDS = 2.0
"""How long the outcome of reading it counts for all, after a failure and after a refused key."""

LAST_LOOK_SECONDS = 0.5
"""A look this short before the deadline is the last one: it is a GET of the run whatever pages say."""

SWEEP_SECONDS = 60.0
"""A look waits no longer than this for a sweep."""

SPREAD_SECONDS = 5.0
"""Over how long those are woken that were watched, when nobody asks for pages any more."""

TICK_SECONDS = 0.1
TOGETHER_SECONDS = 1.0
LONG_TICK_SECONDS = 1.0
LONG_SECONDS = 10.0
"""Long sleeps end together, each second: Airflow's triggerer asks the database anew whenever something was logged, and
once for all that was logged together."""

# They concern the server, not the one request that met them.
_SERVER_IS_AWAY = frozenset({"timeout", "refused", "name", "certificate", "tls"})

_log = logging.getLogger(__name__)
_pollers: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Poller]] = WeakKeyDictionary()

T = TypeVar("T")


class Poller:
    """What the triggers of one event loop share that wait over one Airflow connection.

    Whatever fails here costs requests and never an answer: each trigger keeps its own schedule and takes its looks
    by itself where no page has spared them.

    :param conn_id: The Airflow connection.
    """

    def __init__(self, conn_id: str) -> None:
        self._conn_id = conn_id
        self._members = 0
        self._hook: DifyHook | None = None
        self._former: DifyHook | None = None
        self._connection: DifyConnection | None = None
        self._read_at = 0.0
        self._failure: DifyError | None = None
        self._reading: asyncio.Task[DifyError | None] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._gate = Gate(MAX_CONNECTIONS)
        self._roll = RollCall()
        self._pages: dict[int, tuple[bytes, str | None, LogPage]] = {}
        self._alarms = Alarms()
        self._waiting: dict[str, list[PolledHook]] = {}
        self._awaiting: set[PolledHook] = set()

    @classmethod
    def join(cls, conn_id: str) -> Poller:
        """Return the running loop's poller of a connection, with one member more; ``leave`` ends it."""
        pollers = _pollers.setdefault(asyncio.get_running_loop(), {})
        poller = pollers.get(conn_id)
        if poller is None:
            poller = pollers[conn_id] = cls(conn_id)
        poller._members += 1
        return poller

    async def leave(self) -> None:
        """Leave; with the last member goes everything."""
        self._members -= 1
        if self._members:
            return
        _pollers.get(asyncio.get_running_loop(), {}).pop(self._conn_id, None)
        self._gate.close()
        self._alarms.close()
        tasks = [task for task in (self._keeper, self._reading) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for hook in (self._hook, self._former):
            if hook is not None:
                await hook.aclose()

    def enrol(self, member: PolledHook, run_id: str, *, since: float, longest: float) -> None:
        """Count one more trigger that waits for a run; see ``RollCall.join``."""
        self._roll.join(run_id, since=since, longest=longest)
        self._waiting.setdefault(run_id, []).append(member)

    def strike(self, member: PolledHook, run_id: str) -> None:
        """Count one trigger less."""
        self._roll.leave(run_id)
        self._waiting[run_id].remove(member)
        if not self._waiting[run_id]:
            del self._waiting[run_id]

    async def connection(self) -> DifyConnection:
        """Return the connection, which all members read once.

        :raises DifyError: It could not be read.
        """
        await self.hook()
        assert self._connection is not None
        return self._connection

    async def hook(self) -> DifyHook:
        """Return the hook that holds the session; another one after the connection has changed.

        :raises DifyError: The connection could not be read.
        """
        age = asyncio.get_running_loop().time() - self._read_at
        if self._hook is None:
            if self._failure is None or age > SHARED_SECONDS:
                self._failure = await self._read()
            if self._failure is not None:
                raise copy(self._failure)
        elif age > READ_AGAIN_SECONDS:
            # Who cannot be asked now is asked again later; the connection in use stays good.
            await self._read()
        assert self._hook is not None
        return self._hook

    async def _read(self) -> DifyError | None:
        """Read the connection; all that ask meanwhile share the answer, and none that is cancelled takes it away."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.ensure_future(self._read_now())
        return await asyncio.shield(self._reading)

    async def _read_now(self) -> DifyError | None:
        hook = _SharedHook(self._conn_id)
        self._read_at = asyncio.get_running_loop().time()
        try:
            connection = await hook.aconnection()
        except DifyError as error:
            return error
        if connection == self._connection:
            return None
        former, self._former = self._former, self._hook
        self._hook, self._connection = hook, connection
        self._gate.limit(connection.max_connections)
        self._roll.forget(serves=connection.api_contract != WORKFLOW_RUNS)
        if former is not None:
            await former.aclose()
        return None

    async def _has_changed(self, hook: DifyHook) -> bool:
        """Tell, after a refusal, whether the connection has changed since."""
        if self._hook is hook and asyncio.get_running_loop().time() - self._read_at > SHARED_SECONDS:
            await self._read()
        return self._hook is not hook

    async def send(
        self, operation: Operation[T], *, timeout: float | None = None, retry: bool = True, urgent: bool = False
    ) -> T:
        """Send a call when it is its turn, and again where a refused key turns out to be an old one.

        :param urgent: Whether it goes before others, also while the server asks for a rest.
        :raises DifyError: As the hook's own calls.
        """
        hook = await self.hook()
        try:
            return await self._send(hook, operation, timeout, retry, urgent)
        except (DifyAuthenticationError, DifyPermissionError):
            if not await self._has_changed(hook):
                raise
        return await self._send(await self.hook(), operation, timeout, retry, urgent)

    async def _send(
        self, hook: DifyHook, operation: Operation[T], timeout: float | None, retry: bool, urgent: bool
    ) -> T:
        await self._gate.enter(urgent=urgent)
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            return await hook._asend(operation, timeout=timeout, retry=retry)
        except DifyError as error:
            self._heed(error)
            raise
        finally:
            self._gate.leave(clock() - began)

    def _heed(self, error: DifyError) -> None:
        if isinstance(error, (DifyRateLimitError, DifyServerError)) and error.retry_after:
            self._gate.shut(error.retry_after)
        elif isinstance(error, DifyTransportError) and error.cause in _SERVER_IS_AWAY and not is_too_late():
            self._gate.turn_away(error)

    async def status(self, member: PolledHook, run_id: str, left: float) -> RunStatus | None:
        """Return the status that answers a look; None where the look is to be taken by GET run.

        :param left: Seconds until the last look, which is always taken.
        """
        clock = asyncio.get_running_loop().time
        answer = self._roll.answer(run_id, clock())
        if isinstance(answer, Await):
            until = clock() + left
            self._awaiting.add(member)
            self._call_keeper()
            try:
                await self.nap(member, min(left, SWEEP_SECONDS))
            finally:
                self._awaiting.discard(member)
            if clock() >= until:
                return None
            answer = self._roll.answer(run_id, clock(), patient=False)
        return answer.status if isinstance(answer, Known) else None

    def learn(self, run_id: str, run: WorkflowRun) -> None:
        """Take what GET run has told."""
        self._roll.learn(run, run_id, asyncio.get_running_loop().time())

    def nap(self, member: PolledHook, seconds: float) -> asyncio.Future[None]:
        """Return what is done after so many seconds, or fewer where a page has news of the member's run."""
        member.asleep = self._alarms.set(seconds, exact=member.left() < seconds + LONG_TICK_SECONDS)
        return member.asleep

    def _call_keeper(self) -> None:
        """See that somebody asks for pages, also after the last one has failed."""
        if self._keeper is None or self._keeper.done():
            # Of no trigger: what is said here belongs into no task's log.
            self._keeper = contextvars.Context().run(asyncio.ensure_future, self._keep())
            self._keeper.add_done_callback(self._kept)

    def _kept(self, keeper: asyncio.Task[None]) -> None:
        error = None if keeper.cancelled() else keeper.exception()
        if error is not None:
            _log.warning("Runs over the connection %r are looked at one by one: %r", self._conn_id, error)
            self._roll.fail(error, asyncio.get_running_loop().time())
        self._wake_awaiting()
        if not keeper.cancelled():
            self._watch_no_longer()

    def _watch_no_longer(self) -> None:
        """Let each look at its run itself, though not all at the same moment."""
        loop = asyncio.get_running_loop()
        for members in self._waiting.values():
            for member in members:
                if member.asleep is not None and not member.asleep.done():
                    loop.call_later(random.random() * SPREAD_SECONDS, _wake, member.asleep)

    async def _keep(self) -> None:
        clock = asyncio.get_running_loop().time
        while (at := self._roll.next_sweep(clock())) is not None:
            left = at - clock()
            if left > 0:
                await asyncio.sleep(left)
            else:
                await self._sweep()

    async def _sweep(self) -> None:
        clock = asyncio.get_running_loop().time
        try:
            at_once = (await self.connection()).max_connections
            sweep, asked = self._roll.begin(clock()), 0
            while numbers := self._roll.pages(sweep, at_once):
                if len(numbers) == 1:
                    pages = [await self._page(sweep, numbers[0])]
                else:
                    pages = await asyncio.gather(*(self._page(sweep, number) for number in numbers))
                asked = numbers[-1]
                for asked_at, page in pages:
                    self._call(self._roll.take(sweep, page, asked_at), page)
            for run_id in self._roll.end(sweep, clock(), random.random()):
                for member in self._waiting[run_id]:
                    _wake(member.asleep)
            self._pages = {number: page for number, page in self._pages.items() if number <= asked}
        except DifyError as error:
            _log.debug("Runs over the connection %r are looked at one by one: %s", self._conn_id, error)
            self._roll.fail(error, clock())
        finally:
            self._wake_awaiting()

    async def _page(self, sweep: Sweep, number: int) -> tuple[float, LogPage]:
        asked_at = asyncio.get_running_loop().time()
        after = datetime.fromtimestamp(sweep.created_after, timezone.utc)
        logs = contract((await self.connection()).api_contract).logs(created_after=after, page=number)
        operation = Operation(logs.call, partial(self._page_in, number, logs.parse))
        return asked_at, await self.send(operation, retry=False)

    def _page_in(self, number: int, parse: Callable[[Answer], LogPage], answer: Answer) -> LogPage:
        """Read a page, unless it is the one of the last time, byte for byte: then nothing on it has changed."""
        digest = hashlib.blake2b(answer.body, digest_size=16).digest()
        version, before = answer.server_version, self._pages.get(number)
        if before is None or before[:2] != (digest, version):
            before = self._pages[number] = digest, version, parse(answer)
        return before[2]

    def _call(self, run_ids: Iterable[str], page: LogPage) -> None:
        for run_id in run_ids:
            for member in self._waiting.get(run_id, ()):
                _wake(member.asleep)
        if self._awaiting:
            for row in page.runs:
                for member in self._waiting.get(row.workflow_run_id.lower(), ()):
                    if member in self._awaiting:
                        _wake(member.asleep)

    def _wake_awaiting(self) -> None:
        for member in self._awaiting:
            _wake(member.asleep)


class RowTooLargeError(Exception):
    """The row of a run is too large to be decoded while other triggers wait."""


class _SharedHook(DifyHook):
    """The hook that holds the session: it reads no more of an answer than can be decoded while others wait."""

    def _answer_size(self) -> Size:
        return TRIGGERER_SIZE


class Alarms:
    """Wakes those that sleep a second or longer together, each tenth of a second, and so at a fraction of the cost."""

    def __init__(self) -> None:
        self._ticks: dict[int, tuple[asyncio.TimerHandle, list[asyncio.Future[None]]]] = {}

    def set(self, seconds: float, *, exact: bool) -> asyncio.Future[None]:
        """Return a future that is done after so many seconds, a tenth of a second more at most.

        :param exact: Whether that holds for long sleeps too, which may else take a second more.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        if seconds < TOGETHER_SECONDS:
            loop.call_later(max(seconds, 0.0), _wake, future)
            return future
        tick_seconds = TICK_SECONDS if exact or seconds < LONG_SECONDS else LONG_TICK_SECONDS
        tick = math.ceil((loop.time() + seconds) / tick_seconds) * round(tick_seconds / TICK_SECONDS)
        found = self._ticks.get(tick)
        if found is None:
            found = self._ticks[tick] = loop.call_at(tick * TICK_SECONDS, self._ring, tick), []
        found[1].append(future)
        return future

    def close(self) -> None:
        """Leave no timer behind."""
        for handle, _ in self._ticks.values():
            handle.cancel()

    def _ring(self, tick: int) -> None:
        for future in self._ticks.pop(tick)[1]:
            _wake(future)


def _readable(look: Look) -> Look:
    if look.error is not None and look.error.code == TOO_LARGE:
        raise RowTooLargeError
    return look


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)


class PolledHook(DifyHook):
    """The hook of one trigger: its calls go through the poller that it shares, and its looks may be spared by it.

    To be made in a running event loop, and closed there by ``aclose``.

    :param dify_conn_id: The Airflow connection.
    """

    def __init__(self, dify_conn_id: str) -> None:
        super().__init__(dify_conn_id)
        self._shared = Poller.join(dify_conn_id)
        self._leaving: asyncio.Task[None] | None = None
        self._run_id: str | None = None
        self._deadline = Deadline(0.0)
        self._wants_whole_run = False
        self._is_watched = False
        self.asleep: asyncio.Future[None] | None = None

    def wait_for(
        self,
        workflow_run_id: str,
        *,
        since: float,
        longest: float,
        deadline: Deadline,
        whole: bool = False,
        watched: bool = True,
    ) -> None:
        """Say which run is waited for, before the first look at it.

        :param since: Unix seconds at which it was submitted, as far as is known.
        :param longest: Seconds between looks at most.
        :param deadline: When waiting ends; the look at this moment is always a GET of the run.
        :param whole: Whether the first look must bring the run with its inputs.
        :param watched: Whether the sleeps of the wait are slept here, and can be cut short.
        """
        self._is_watched = watched
        self._run_id, self._deadline, self._wants_whole_run = workflow_run_id.lower(), deadline, whole
        self._shared.enrol(self, self._run_id, since=since, longest=longest)

    async def aconnection(self) -> DifyConnection:
        """Return the connection that all members share; see ``DifyHook.aconnection``."""
        self._async_connection = await self._shared.connection()
        return self._async_connection

    async def _atransport(self) -> AsyncTransport:
        return await (await self._shared.hook())._atransport()

    async def _asend(self, operation: Operation[T], *, timeout: float | None = None, retry: bool = True) -> T:
        return await self._shared.send(operation, timeout=timeout, retry=retry, urgent=self._is_last_look())

    async def alook(self, workflow_run_id: str, *, timeout: float | None = None) -> Look:
        """Take one look at a run, which a page may spare; see ``DifyHook.look``.

        :raises RowTooLargeError: Its row is too large to be decoded while others wait: a worker must look at it.
        """
        run_id = workflow_run_id.lower()
        if run_id != self._run_id:
            return _readable(await super().alook(workflow_run_id, timeout=timeout))
        if not self._wants_whole_run and not self._is_last_look():
            status = await self._shared.status(self, run_id, self.left())
            if status is not None:
                return Look(run=WorkflowRun(workflow_run_id, status), watched=self._is_watched)
        look = _readable(await super().alook(workflow_run_id, timeout=timeout))
        if look.run is not None:
            self._wants_whole_run = False
            self._shared.learn(run_id, look.run)
        return look

    def left(self) -> float:
        """Return the seconds until the last look, which is always taken."""
        return self._deadline.left(time.time()) - LAST_LOOK_SECONDS

    def _is_last_look(self) -> bool:
        return self._run_id is not None and self.left() <= 0

    def _anap(self, seconds: float) -> Awaitable[None]:
        return super()._anap(seconds) if self._run_id is None else self._shared.nap(self, seconds)

    async def aclose(self) -> None:
        """Leave the poller; may be called again, and is done to its end although its caller is cancelled."""
        if self._leaving is None:
            if self._run_id is not None:
                self._shared.strike(self, self._run_id)
            self._leaving = asyncio.ensure_future(self._shared.leave())
        await asyncio.shield(self._leaving)
