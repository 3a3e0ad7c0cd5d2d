"""The shared poller of a triggerer: one connection, one session and one reading of the logs for all that wait."""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from copy import copy
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from airflow_provider_dify.api.contracts import contract
from airflow_provider_dify.api.errors import Answer
from airflow_provider_dify.api.operations import Operation
from airflow_provider_dify.api.runs import LogPage, RunStatus, WorkflowRun
from airflow_provider_dify.client.bodies import TOO_LARGE, TRIGGERER_SIZE
from airflow_provider_dify.client.deadlines import is_too_late
from airflow_provider_dify.client.limiter import Limiter
from airflow_provider_dify.connection_fields import MAX_CONNECTIONS
from airflow_provider_dify.exceptions import (
    DifyAuthenticationError,
    DifyError,
    DifyPermissionError,
    DifyRateLimitError,
    DifyServerError,
    DifyTransportError,
)
from airflow_provider_dify.names import WORKFLOW_RUNS
from airflow_provider_dify.rules.batching import Await, Known, PollRegistry, Sweep
from airflow_provider_dify.rules.driver_requests import Send
from airflow_provider_dify.rules.polling import Deadline, PollResult
from airflow_provider_dify.runtime.alarms import LONG_TICK_SECONDS, Alarms, wake
from airflow_provider_dify.runtime.loop_client import LoopClient
from airflow_provider_dify.runtime.metrics import Metrics

if TYPE_CHECKING:
    from airflow_provider_dify.client.aiohttp_transport import AsyncTransport
    from airflow_provider_dify.connection import DifyConnection

READ_AGAIN_SECONDS = 300.0
"""How often the Airflow connection is read again, so that a rotated key is noticed before the old one is refused."""

SHARED_SECONDS = 2.0
"""How long the outcome of reading it counts for all, after a failure and after a refused key."""

LAST_POLL_SECONDS = 0.5
"""A poll this short before the deadline is the last one: it is a GET of the run whatever pages say."""

SWEEP_SECONDS = 60.0
"""A poll waits no longer than this for a sweep."""

SPREAD_SECONDS = 5.0
"""Over how long those are woken that were watched, when nobody asks for pages any more."""


# They concern the server, not the one request that met them.
_SERVER_IS_AWAY = frozenset({"timeout", "refused", "name", "certificate", "tls"})

_log = logging.getLogger(__name__)
_pollers: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Poller]] = WeakKeyDictionary()

T = TypeVar("T")


class Poller:
    """What the triggers of one event loop share that wait over one Airflow connection.

    Whatever fails here costs requests and never an answer: each trigger keeps its own schedule and makes its polls
    by itself where no page has spared them.

    :param conn_id: The Airflow connection.
    """

    def __init__(self, conn_id: str) -> None:
        self._conn_id = conn_id
        self._members = 0
        self._client: LoopClient | None = None
        self._former: LoopClient | None = None
        self._connection: DifyConnection | None = None
        self._read_at = 0.0
        self._failure: DifyError | None = None
        self._reading: asyncio.Task[DifyError | None] | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._limiter = Limiter(MAX_CONNECTIONS)
        self._registry = PollRegistry()
        self._pages: dict[int, tuple[bytes, str | None, LogPage]] = {}
        self._alarms = Alarms()
        self.metrics = Metrics(conn_id, in_triggerer=True)
        self._waiting: dict[str, list[PolledClient]] = {}
        self._awaiting: set[PolledClient] = set()

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
        self._limiter.close()
        self._alarms.close()
        tasks = [task for task in (self._sweeper, self._reading) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for client in (self._client, self._former):
            if client is not None:
                await client.close()

    def add(self, member: PolledClient, run_id: str, *, since: float, longest: float) -> None:
        """Count one more trigger that waits for a run; see ``PollRegistry.join``."""
        self._registry.join(run_id, since=since, longest=longest)
        self._waiting.setdefault(run_id, []).append(member)

    def remove(self, member: PolledClient, run_id: str) -> None:
        """Count one trigger less."""
        self._registry.leave(run_id)
        self._waiting[run_id].remove(member)
        if not self._waiting[run_id]:
            del self._waiting[run_id]

    async def connection(self) -> DifyConnection:
        """Return the connection, which all members read once.

        :raises DifyError: It could not be read.
        """
        await self.client()
        assert self._connection is not None
        return self._connection

    async def client(self) -> LoopClient:
        """Return the client that holds the session; another one after the connection has changed.

        :raises DifyError: The connection could not be read.
        """
        age = asyncio.get_running_loop().time() - self._read_at
        if self._client is None:
            if self._failure is None or age > SHARED_SECONDS:
                self._failure = await self._read()
            if self._failure is not None:
                raise copy(self._failure)
        elif age > READ_AGAIN_SECONDS:
            # Who cannot be asked now is asked again later; the connection in use stays good.
            await self._read()
        assert self._client is not None
        return self._client

    async def _read(self) -> DifyError | None:
        """Read the connection; all that ask meanwhile share the answer, and none that is cancelled takes it away."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.ensure_future(self._read_now())
        return await asyncio.shield(self._reading)

    async def _read_now(self) -> DifyError | None:
        client = LoopClient(self._conn_id, size=TRIGGERER_SIZE, metrics=self.metrics)
        self._read_at = asyncio.get_running_loop().time()
        try:
            connection = await client.connection()
        except DifyError as error:
            return error
        if connection == self._connection:
            return None
        former, self._former = self._former, self._client
        self._client, self._connection = client, connection
        self._limiter.limit(connection.max_connections)
        self._registry.forget(serves=connection.api_contract != WORKFLOW_RUNS)
        if former is not None:
            await former.close()
        return None

    async def _has_changed(self, client: LoopClient) -> bool:
        """Tell, after a refusal, whether the connection has changed since."""
        if self._client is client and asyncio.get_running_loop().time() - self._read_at > SHARED_SECONDS:
            await self._read()
        return self._client is not client

    async def send(self, request: Send[T], *, urgent: bool = False) -> T:
        """Send a call when it is its turn, and again where a refused key turns out to be an old one.

        :param urgent: Whether it goes before others, also while the server asks for a rest.
        :raises DifyError: As the client's own calls.
        """
        clock = asyncio.get_running_loop().time
        is_repeated = False
        while True:
            client = await self.client()
            await self._limiter.enter(urgent=urgent)
            began = clock()
            try:
                return await client.send(request)
            except (DifyAuthenticationError, DifyPermissionError) as error:
                refusal = error
            except DifyError as error:
                self._heed(error)
                raise
            finally:
                self._limiter.leave(clock() - began)
            if is_repeated or not await self._has_changed(client):
                raise refusal
            is_repeated = True

    def _heed(self, error: DifyError) -> None:
        if isinstance(error, (DifyRateLimitError, DifyServerError)) and error.retry_after:
            self._limiter.pause(error.retry_after)
        elif isinstance(error, DifyTransportError) and error.cause in _SERVER_IS_AWAY and not is_too_late():
            self._limiter.reject_waiters(error)

    async def status(self, member: PolledClient, run_id: str, left: float) -> RunStatus | None:
        """Return the status that answers a poll; None where the run is to be read by GET run.

        :param left: Seconds until the last poll, which is always taken.
        """
        clock = asyncio.get_running_loop().time
        answer = self._registry.answer(run_id, clock())
        if isinstance(answer, Await):
            until = clock() + left
            self._awaiting.add(member)
            self._call_sweeper()
            try:
                await self.nap(member, min(left, SWEEP_SECONDS))
            finally:
                self._awaiting.discard(member)
            if clock() >= until:
                return None
            answer = self._registry.answer(run_id, clock(), patient=False)
        return answer.status if isinstance(answer, Known) else None

    def learn(self, run_id: str, run: WorkflowRun) -> None:
        """Take what GET run has returned."""
        self._registry.learn(run, run_id, asyncio.get_running_loop().time())

    def nap(self, member: PolledClient, seconds: float) -> asyncio.Future[None]:
        """Return what is done after so many seconds, or fewer where a page has news of the member's run."""
        member.asleep = self._alarms.set(seconds, exact=member.left() < seconds + LONG_TICK_SECONDS)
        return member.asleep

    def _call_sweeper(self) -> None:
        """See that somebody asks for pages, also after the last one has failed."""
        if self._sweeper is None or self._sweeper.done():
            # Of no trigger: what is logged here belongs into no task's log.
            self._sweeper = contextvars.Context().run(asyncio.ensure_future, self._keep())
            self._sweeper.add_done_callback(self._kept)

    def _kept(self, sweeper: asyncio.Task[None]) -> None:
        error = None if sweeper.cancelled() else sweeper.exception()
        if error is not None:
            _log.warning("Runs over the connection %r are polled one by one: %r", self._conn_id, error)
            self._registry.fail(error, asyncio.get_running_loop().time())
        self._wake_awaiting()
        if not sweeper.cancelled():
            self._watch_no_longer()

    def _watch_no_longer(self) -> None:
        """Let each poll its run itself, though not all at the same moment."""
        loop = asyncio.get_running_loop()
        for members in self._waiting.values():
            for member in members:
                if member.asleep is not None and not member.asleep.done():
                    loop.call_later(random.random() * SPREAD_SECONDS, wake, member.asleep)

    async def _keep(self) -> None:
        clock = asyncio.get_running_loop().time
        while (at := self._registry.next_sweep(clock())) is not None:
            left = at - clock()
            if left > 0:
                await asyncio.sleep(left)
            else:
                await self._sweep()

    async def _sweep(self) -> None:
        clock = asyncio.get_running_loop().time
        try:
            at_once = (await self.connection()).max_connections
            sweep, asked = self._registry.begin(clock()), 0
            while numbers := self._registry.pages(sweep, at_once):
                if len(numbers) == 1:
                    pages = [await self._page(sweep, numbers[0])]
                else:
                    pages = await asyncio.gather(*(self._page(sweep, number) for number in numbers))
                asked = numbers[-1]
                for asked_at, page in pages:
                    self._call(self._registry.take(sweep, page, asked_at), page)
            for run_id in self._registry.end(sweep, clock(), random.random()):
                for member in self._waiting[run_id]:
                    wake(member.asleep)
            self._pages = {number: page for number, page in self._pages.items() if number <= asked}
        except DifyError as error:
            _log.debug("Runs over the connection %r are polled one by one: %s", self._conn_id, error)
            self._registry.fail(error, clock())
        finally:
            self._wake_awaiting()

    async def _page(self, sweep: Sweep, number: int) -> tuple[float, LogPage]:
        asked_at = asyncio.get_running_loop().time()
        after, before = (
            None if moment is None else datetime.fromtimestamp(moment, timezone.utc)
            for moment in (sweep.created_after, sweep.created_before)
        )
        api = contract((await self.connection()).api_contract)
        logs = api.logs(created_after=after, created_before=before, page=number)
        operation = Operation(logs.call, partial(self._page_in, number, logs.parse))
        try:
            page = await self.send(Send(operation, retry=False))
        except DifyError as error:
            self.metrics.polled(error)
            raise
        self.metrics.polled(page)
        return asked_at, page

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
                wake(member.asleep)
        if self._awaiting:
            for row in page.runs:
                for member in self._waiting.get(row.workflow_run_id.lower(), ()):
                    if member in self._awaiting:
                        wake(member.asleep)

    def _wake_awaiting(self) -> None:
        for member in self._awaiting:
            wake(member.asleep)


class RowTooLargeError(Exception):
    """The row of a run is too large to be decoded while other triggers wait."""


def _readable(poll_result: PollResult) -> PollResult:
    if poll_result.error is not None and poll_result.error.code == TOO_LARGE:
        raise RowTooLargeError
    return poll_result


class PolledClient(LoopClient):
    """The client of one trigger: its calls go through the poller that it shares, and its polls may be spared by it.

    To be made in a running event loop, and closed there by ``aclose``.

    :param dify_conn_id: The Airflow connection.
    """

    def __init__(self, dify_conn_id: str) -> None:
        self._shared = Poller.join(dify_conn_id)
        super().__init__(dify_conn_id, metrics=self._shared.metrics)
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
        """Say which run is waited for, before its first poll.

        :param since: Unix seconds at which it was submitted, as far as is known.
        :param longest: Seconds between polls at most.
        :param deadline: When waiting ends; the poll at this moment is always a GET of the run.
        :param whole: Whether the first poll must bring the run with its inputs.
        :param watched: Whether the sleeps of the wait are slept here, and can be cut short.
        """
        self._is_watched = watched
        self._run_id, self._deadline, self._wants_whole_run = workflow_run_id.lower(), deadline, whole
        self._shared.add(self, self._run_id, since=since, longest=longest)

    async def connection(self) -> DifyConnection:
        """Return the connection that all members share."""
        self._connection = await self._shared.connection()
        return self._connection

    async def transport(self) -> AsyncTransport:
        """Return what sends the requests of all members."""
        return await (await self._shared.client()).transport()

    def send(self, request: Send[T]) -> Coroutine[Any, Any, T]:
        """Return the value of an operation, when it is its turn."""
        return self._shared.send(request, urgent=self._is_last_poll())

    async def poll(self, workflow_run_id: str) -> PollResult:
        """Poll a run once, which a page may spare.

        :raises RowTooLargeError: Its row is too large to be decoded while others wait: a worker must read it.
        """
        run_id = workflow_run_id.lower()
        if run_id != self._run_id:
            return _readable(await super().poll(workflow_run_id))
        if not self._wants_whole_run and (left := self.left()) > 0:
            status = await self._shared.status(self, run_id, left)
            if status is not None:
                return PollResult(run=WorkflowRun(workflow_run_id, status), watched=self._is_watched)
        poll_result = _readable(await super().poll(workflow_run_id))
        if poll_result.run is not None:
            self._wants_whole_run = False
            self._shared.learn(run_id, poll_result.run)
        return poll_result

    def left(self) -> float:
        """Return the seconds until the last poll, which is always taken."""
        return self._deadline.left(time.time()) - LAST_POLL_SECONDS

    def _is_last_poll(self) -> bool:
        return self._run_id is not None and self.left() <= 0

    def sleep(self, seconds: float) -> Awaitable[None]:
        """Return what is done after so many seconds, or fewer where a page has news of the run."""
        return super().sleep(seconds) if self._run_id is None else self._shared.nap(self, seconds)

    async def close(self) -> None:
        """Leave the poller; may be called again, and is done to its end although its caller is cancelled."""
        if self._leaving is None:
            if self._run_id is not None:
                self._shared.remove(self, self._run_id)
            self._leaving = asyncio.ensure_future(self._shared.leave())
        await asyncio.shield(self._leaving)
