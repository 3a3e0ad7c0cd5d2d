"""The local Dify server as an object: start it, ask it, break it, read its books."""

from __future__ import annotations

import asyncio
import copy
import ipaddress
import os
import socket
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

from aiohttp import web

from airflow_provider_dify.testing.answering import Forms
from airflow_provider_dify.testing.app import API_CONTRACTS, build_app
from airflow_provider_dify.testing.apps import App, make_app
from airflow_provider_dify.testing.connections import ConnectionSlots, reset
from airflow_provider_dify.testing.engine import Engine
from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.files import URL_SECONDS, FileStore
from airflow_provider_dify.testing.gateway import Gateway
from airflow_provider_dify.testing.knowledge import KnowledgeBases
from airflow_provider_dify.testing.knowledge_controls import KnowledgeControls
from airflow_provider_dify.testing.runs import RunRecord
from airflow_provider_dify.testing.service import Request, Service
from airflow_provider_dify.testing.versions import UPLOAD_LIMIT, get_version
from airflow_provider_dify.testing.workflows import Workflow, builtin_workflows

OUTAGES = ("refuse", "500", "502-html")
"""Ways to be down: no listener at all, an error of Dify's own, an error page of a gateway."""

_LISTENING: weakref.WeakSet[DifyServer] = weakref.WeakSet()

_START_TIMEOUT = 30.0
_CALL_TIMEOUT = 30.0

_T = TypeVar("_T")


class DifyServer(KnowledgeControls):
    """A Dify server on the loopback interface, in a daemon thread with its own event loop.

    It speaks the Service API as a real server of the emulated version does, quirks included, or the
    `workflow-runs` contract. Use it as a context manager, or call `start` and `stop`. Every method and
    property may be used from any thread. The books (`runs`, `requests`) outlive `stop`.

    :param workflows: the workflows to offer, one app each; default: `builtin_workflows()`.
    :param emulate: version, `1.9.1`, `1.11.2`, `1.14.2` or `1.16.1`.
    :param api_contract: `service-api` or `workflow-runs`.
    :param connections: request slots. With all taken, every further request waits before it is read, as
        with gunicorn's `SERVER_WORKER_CONNECTIONS`; None for no limit.
    :param worker_slots: streaming runs that execute at a time on 1.14.2 and 1.16.1, None for no limit. Others wait: no
        row, no log, one ping. Runs of other versions and blocking runs do not queue.
    :param time_scale: factor on every duration: steps, pings (10 s), idle limit (300 s), delays. 0.01 makes
        tests fast; timestamps and `elapsed_time` stay wall-clock. `seconds` of a fault are never scaled.
    :param host: a loopback address.
    :param port: 0 takes a free one at `start`; outages do not change it.
    :param stop_outcome: what a stop does where real servers vary: `failed`, `stopped` or `stuck` (see
        `engine.STOP_OUTCOMES`). Default: what was observed most often on the version. 1.9.1 knows no `stuck`,
        1.11.2 nothing else, and 1.16.1 only `aborted`.
    :param app_max_execution_time: seconds, before `time_scale`, after which a client is informed that its run was
        stopped, while the run goes on (1.11.2, 1.14.2); on 1.16.1 the run is stopped too, a moment later.
    :param workflow_max_execution_time: seconds, before `time_scale`, after which a run fails when a node
        ends.
    :param async_streaming: with the `workflow-runs` contract, answer a streaming submission with a stream.
    :param remote_files: contents of the URLs that exist for `remote_url` files. None: all exist, of unknown
        size. Nothing is ever fetched.
    :param upload_limit: largest accepted upload in MiB, which `/parameters` tells as the limit of documents.
    :param file_url_seconds: wall-clock seconds for which the signed URL of a file is good.
    :param datasets: names of the knowledge bases that there are from the start.
    :param plugin_daemon: whether the plugin daemon runs; without it knowledge bases can be neither listed nor read.
    :param resume_stops: whether a run that is answered ends `stopped`, as on the releases 1.16.0 and 1.16.1. The
        server of the recordings had the fix that follows them.
    :raises ValueError: for an option that cannot be; the message says what can.
    """

    def __init__(
        self,
        workflows: Iterable[Workflow] | None = None,
        emulate: str = "1.16.1",
        api_contract: str = "service-api",
        connections: int | None = 10,
        worker_slots: int | None = 4,
        time_scale: float = 1.0,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        stop_outcome: str | None = None,
        app_max_execution_time: float = 1200.0,
        workflow_max_execution_time: float = 1200.0,
        async_streaming: bool = False,
        remote_files: Mapping[str, bytes] | None = None,
        upload_limit: int = UPLOAD_LIMIT,
        file_url_seconds: float = URL_SECONDS,
        datasets: Sequence[str] = ("handbook",),
        plugin_daemon: bool = True,
        resume_stops: bool = False,
    ) -> None:
        version = get_version(emulate)
        outcome = stop_outcome or version.stop_outcome
        if outcome not in version.stop_outcomes:
            known = ", ".join(version.stop_outcomes)
            raise ValueError(f"stop_outcome of {emulate} must be one of {known}, not {stop_outcome!r}")
        if api_contract not in API_CONTRACTS:
            raise ValueError(f"api_contract must be one of {', '.join(API_CONTRACTS)}, not {api_contract!r}")
        if not _is_loopback(host):
            raise ValueError(f"host must be a loopback address such as 127.0.0.1, not {host!r}")
        if not 0 <= port <= 65535:
            raise ValueError(f"port must be from 0 (any free one) to 65535, not {port}")
        if time_scale <= 0:
            raise ValueError(f"time_scale must be greater than 0, not {time_scale}")
        for name, count in (("connections", connections), ("worker_slots", worker_slots)):
            if count is not None and count < 1:
                raise ValueError(f"{name} must be 1 or more, or None for no limit, not {count}")
        apps = [make_app(workflow) for workflow in (builtin_workflows() if workflows is None else workflows)]
        if len({app.name for app in apps}) < len(apps):
            raise ValueError("workflows: two have the same name; rename one")
        self.emulate = emulate
        self.api_contract = api_contract
        self.connections = connections
        self.worker_slots = worker_slots
        self.time_scale = time_scale
        self.stop_outcome = outcome
        self.host = host
        self._port = port
        self._wanted_port = port
        self._reserved: socket.socket | None = None
        if upload_limit < 1:
            raise ValueError(f"upload_limit must be 1 MiB or more, not {upload_limit}")
        files = FileStore(remote_files, time_scale, file_url_seconds)
        self._service = Service(
            version=version,
            apps={app.name: app for app in apps},
            engine=Engine(
                version,
                files,
                worker_slots=worker_slots,
                time_scale=time_scale,
                stop_outcome=outcome,
                app_max_execution_time=app_max_execution_time,
                workflow_max_execution_time=workflow_max_execution_time,
                resume_stops=resume_stops,
            ),
            files=files,
            upload_limit=upload_limit,
            time_scale=time_scale,
            async_streaming=async_streaming,
            slots=ConnectionSlots(connections),
            knowledge=KnowledgeBases(tuple(datasets), time_scale, plugin_daemon),
        )
        self._gateway: Gateway | None = None
        self._runner: web.AppRunner | None = None
        self._site: web.SockSite | None = None
        self._socket: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> DifyServer:
        """Start."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    def start(self) -> DifyServer:
        """Start to serve and return itself.

        :raises RuntimeError: if it runs already, or if the port is taken.
        """
        if self._thread is not None:
            raise RuntimeError("the local Dify server runs already; stop it first")
        self._port = self._wanted_port
        ready = threading.Event()
        failures: list[Exception] = []
        self._thread = threading.Thread(
            target=self._serve, args=(ready, failures), name="local-dify-server", daemon=True
        )
        self._thread.start()
        if not ready.wait(_START_TIMEOUT):
            raise RuntimeError(f"the local Dify server did not start within {_START_TIMEOUT:g} s")
        if failures:
            self._thread.join()
            self._thread = None
            if not isinstance(failures[0], OSError):
                raise failures[0]
            raise RuntimeError(
                f"the local Dify server cannot listen on {self.host}:{self._wanted_port} "
                f"({failures[0].strerror}); end what listens there, or use port 0 for any free port"
            ) from failures[0]
        return self

    def stop(self) -> None:
        """Stop serving: every connection is broken, every run ends where it is. May be called again."""
        thread, loop = self._thread, self._loop
        if thread is None or loop is None:
            return
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        self._thread = self._loop = None

    @property
    def port(self) -> int:
        """The port; 0 before the first start, if a free one is to be taken."""
        return self._port

    @property
    def base_url(self) -> str:
        """The URL without a path."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self._port}"

    @property
    def api_url(self) -> str:
        """The URL with the path `/v1`."""
        return f"{self.base_url}/v1"

    @property
    def apps(self) -> list[App]:
        """The apps, in the order of their workflows."""
        return list(self._service.apps.values())

    def app(self, name: str) -> App:
        """Return the app of that name.

        :raises KeyError: if there is none; the message lists those there are.
        """
        try:
            return self._service.apps[name]
        except KeyError:
            raise KeyError(f"no app {name!r}; there are {', '.join(self._service.apps)}") from None

    def api_key(self, app: str = "echo") -> str:
        """Return an app's key, the same in every process."""
        return self.app(app).api_key

    @property
    def runs(self) -> list[RunRecord]:
        """Every accepted run, oldest first, as it is now."""
        return self._call(lambda: [run.record() for run in self._service.engine.runs.values()])

    def runs_of(self, user: str) -> list[RunRecord]:
        """Return the runs of one `user`, oldest first. Two after one submission: it was sent twice."""
        return [run for run in self.runs if run.user == user]

    def active_runs(self) -> list[RunRecord]:
        """Return the runs that are truly queued, at work or paused. A `lost` one is not."""
        return self._call(lambda: [run.record() for run in self._service.engine.active_runs()])

    @property
    def forms(self) -> Forms:
        """What runs ask people, and what people in Dify answer."""
        return Forms(self._service, self._call, self._run)

    @property
    def requests(self) -> list[Request]:
        """Every request, in order of arrival."""
        return self._call(lambda: [copy.copy(request) for request in self._service.requests])

    @property
    def busy_connections(self) -> int:
        """Connection slots that are taken, abandoned streams included."""
        return self._call(lambda: self._service.slots.busy)

    @property
    def waiting_requests(self) -> int:
        """Requests that wait for a connection slot."""
        return self._call(lambda: self._service.slots.waiting)

    def inject(self, fault: Fault) -> None:
        """Let something go wrong from now on."""
        self._call(lambda: self._service.faults.add(fault))

    def clear_faults(self) -> None:
        """Let nothing go wrong any more. What was hit already stays as it is."""
        self._call(self._service.faults.clear)

    def down(self, mode: str = "refuse") -> None:
        """Begin an outage. Runs go on meanwhile.

        :param mode: `refuse` closes the port and breaks every connection, `500` and `502-html` answer every
            new request with an error.
        :raises ValueError: for another mode.
        """
        if mode not in OUTAGES:
            raise ValueError(f"mode must be one of {', '.join(OUTAGES)}, not {mode!r}")
        if mode == "refuse":
            self._run(self._close_port())
            self._reserve_port()
        else:
            self._call(lambda: setattr(self._service, "outage", mode))

    def up(self) -> None:
        """End an outage; the port is the same as before."""
        self._call(lambda: setattr(self._service, "outage", None))
        self._run(self._open_port())

    def kill_workers(self) -> None:
        """Kill what executes: those runs are `lost`, and their rows stay `running` permanently.

        On 1.14.2 and 1.16.1 the workers die; streams stay open, silent, and queued runs wait for `start_workers`. The
        other versions execute in the server process, so there this is `restart()`.
        """
        if self._service.version.worker_queue:
            self._call(self._service.engine.kill_workers)
        else:
            self.restart()

    def shut_down_workers(self) -> None:
        """Ask the workers to terminate, as an upgrade of Dify does.

        On 1.16.1 every run at work ends `stopped` at once, with an error that names the shutdown, and so does whatever
        is submitted until `start_workers`. Other versions finish their runs first: nothing is to be seen of it.
        """
        self._call(self._service.engine.shut_down_workers)

    def start_workers(self) -> None:
        """Start the workers again after `kill_workers` or `shut_down_workers`."""
        self._call(self._service.engine.start_workers)

    def restart(self, lose_runs: bool = True) -> None:
        """Kill the server process and start it again at once, on the same port, with the same books.

        :param lose_runs: whether the workers die too. If not, streaming runs of 1.14.2 and 1.16.1 survive; whatever
            executes in the server process is lost either way.
        """
        self._run(self._restart(lose_runs))

    def _forget_port(self) -> None:
        """In a forked child: close the inherited port, which else would outlive the parent's outage."""
        if self._socket is not None:
            os.close(self._socket.detach())

    def _serve(self, ready: threading.Event, failures: list[Exception]) -> None:
        loop = asyncio.new_event_loop()
        try:
            try:
                loop.run_until_complete(self._set_up())
            except Exception as error:
                failures.append(error)
                loop.run_until_complete(self._tear_down())
                ready.set()
                return
            self._loop = loop
            ready.set()
            loop.run_forever()
            loop.run_until_complete(self._tear_down())
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()

    async def _set_up(self) -> None:
        self._service.slots = ConnectionSlots(self.connections)
        app, self._gateway = build_app(self._service, self.api_contract)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.0)
        await self._runner.setup()
        self._service.engine.start_workers()
        await self._open_port()

    async def _tear_down(self) -> None:
        if self._gateway:
            self._gateway.cancel_all()
        await self._close_port()
        self._release_port()
        await self._service.engine.close()
        if self._runner:
            await self._runner.cleanup()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    async def _open_port(self) -> None:
        if self._site is not None or self._runner is None:
            return
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self._release_port()
        self._socket = socket.create_server((self.host, self._port), family=family)
        self._port = self._socket.getsockname()[1]
        self._site = web.SockSite(self._runner, self._socket)
        await self._site.start()
        _LISTENING.add(self)
        self._service.files.base_url = self.base_url

    async def _close_port(self) -> None:
        if self._site is not None:
            _LISTENING.discard(self)
            await self._site.stop()
            self._site = self._socket = None
        if self._runner is not None and self._runner.server is not None:
            for connection in self._runner.server.connections:
                reset(connection.transport)

    def _reserve_port(self) -> None:
        """Keep the port while nothing listens on it, lest another process gets it and answers in our place."""
        reserved = socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET)
        try:
            reserved.bind((self.host, self._port))
        except OSError:
            # A connection that is just ending still has it, which keeps it as well for a while.
            reserved.close()
        else:
            self._reserved = reserved

    def _release_port(self) -> None:
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None

    async def _restart(self, lose_runs: bool) -> None:
        assert self._gateway is not None
        self._gateway.cancel_all()
        await self._close_port()
        self._service.engine.lose_runs(workers_too=lose_runs)
        self._service.outage = None
        await self._open_port()

    def _call(self, function: Callable[[], _T]) -> _T:
        """Call a function in the server's loop, or here where there is none or this is its thread."""
        if self._loop is None or threading.current_thread() is self._thread:
            return function()

        async def call() -> _T:
            return function()

        return self._run(call())

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine in the server's loop and wait for it."""
        if self._loop is None:
            work.close()
            raise RuntimeError("the local Dify server does not run; start it first")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_CALL_TIMEOUT)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _forget_ports() -> None:
    for server in list(_LISTENING):
        server._forget_port()


os.register_at_fork(after_in_child=_forget_ports)
