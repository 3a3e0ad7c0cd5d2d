"""Drives the wait for indexing: in a worker, and in a triggerer, where those that wait for one dataset share it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from airflow_provider_dify.api import knowledge_operations as operations
from airflow_provider_dify.api.operations import Operation
from airflow_provider_dify.client.deadlines import ending_by
from airflow_provider_dify.client.limiter import Limiter
from airflow_provider_dify.exceptions import DifyError
from airflow_provider_dify.rules.exchanges import one
from airflow_provider_dify.rules.knowledge_indexing import AskBatch, ListPage, Waited, WaitFlow
from airflow_provider_dify.rules.polling import Deadline
from airflow_provider_dify.rules.waiting import Say, Sleep
from airflow_provider_dify.runtime.loop_client import LoopClient

SHARED_SECONDS = 1.0
"""A page that was asked for so recently answers for all that wait for the knowledge base."""


def operation_for(request: ListPage | AskBatch, dataset_id: str) -> Operation[Any]:
    """Return what a request of a wait asks the server."""
    if isinstance(request, AskBatch):
        return operations.indexing_status(dataset_id, request.batch)
    return operations.list_documents(dataset_id, status=request.status, page=request.page)


def follow(hook: Any, dataset_id: str, flow: WaitFlow, log: Callable[[str], None], deadline: Deadline) -> Waited:
    """Do in the worker what a wait asks for, until it returns.

    :param deadline: The flow's deadline, which no request of it outlasts.
    """
    answer: Any = None
    with ending_by(deadline):
        while True:
            try:
                request = flow.send(answer)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            answer = None
            if isinstance(request, Sleep):
                time.sleep(request.seconds)
            elif isinstance(request, Say):
                log(request.line)
            else:
                try:
                    answer = hook.call(operation_for(request, dataset_id))
                except DifyError as error:
                    answer = error


_pollers: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, str], DatasetPoller]] = WeakKeyDictionary()


class DatasetPoller:
    """What the triggers of one event loop share that wait for one knowledge base: a session, and the pages.

    :param conn_id: The Airflow connection.
    :param dataset_id: The knowledge base.
    """

    def __init__(self, conn_id: str, dataset_id: str) -> None:
        self._key = (conn_id, dataset_id)
        self._dataset_id = dataset_id
        self._members = 0
        self._client = LoopClient(conn_id, for_knowledge=True)
        self._limiter: Limiter | None = None
        self._answers: dict[ListPage | AskBatch, tuple[float, asyncio.Task[Any]]] = {}

    @classmethod
    def join(cls, conn_id: str, dataset_id: str) -> DatasetPoller:
        """Return the running loop's poller of a knowledge base, with one member more; ``leave`` ends it."""
        pollers = _pollers.setdefault(asyncio.get_running_loop(), {})
        poller = pollers.get((conn_id, dataset_id))
        if poller is None:
            poller = pollers[conn_id, dataset_id] = cls(conn_id, dataset_id)
        poller._members += 1
        return poller

    async def leave(self) -> None:
        """Leave; with the last member goes the session."""
        self._members -= 1
        if self._members:
            return
        _pollers.get(asyncio.get_running_loop(), {}).pop(self._key, None)
        tasks = [task for _, task in self._answers.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._limiter is not None:
            self._limiter.close()
        await self._client.close()

    async def follow(self, flow: WaitFlow, log: Callable[[str], None], deadline: Deadline) -> Waited:
        """Do what a wait asks for, until it returns; see ``follow``."""
        answer: Any = None
        while True:
            try:
                request = flow.send(answer)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            answer = None
            if isinstance(request, Sleep):
                await asyncio.sleep(request.seconds)
            elif isinstance(request, Say):
                log(request.line)
            else:
                answer = await self._answer(request, deadline)

    async def _answer(self, request: ListPage | AskBatch, deadline: Deadline) -> Any:
        now = asyncio.get_running_loop().time()
        at, task = self._answers.get(request, (0.0, None))
        if task is None or task.cancelled() or (task.done() and now - at > SHARED_SECONDS):
            with ending_by(deadline):
                task = asyncio.ensure_future(self._ask(request))
            self._answers[request] = (now, task)
            self._forget(now)
        # Whoever is cancelled does not take the answer away from the others.
        return await asyncio.shield(task)

    def _forget(self, now: float) -> None:
        old = [key for key, (at, task) in self._answers.items() if task.done() and now - at > SHARED_SECONDS]
        for key in old:
            del self._answers[key]

    async def _ask(self, request: ListPage | AskBatch) -> Any:
        try:
            if self._limiter is None:
                self._limiter = Limiter((await self._client.connection()).max_connections)
            clock = asyncio.get_running_loop().time
            await self._limiter.enter()
            began = clock()
            try:
                return await self._client.run_exchange(one(operation_for(request, self._dataset_id), retry=False))
            finally:
                self._limiter.leave(clock() - began)
        except DifyError as error:
            return error
