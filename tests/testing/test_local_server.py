"""The local server as an object: life, books, outages, connections, queues."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.server import DifyServer
from airflow_provider_dify.testing.versions import VERSIONS, get_version
from airflow_provider_dify.testing.workflows import Input, Step, Workflow, builtin_workflows
from tests.testing.local_client import Client, names, wait_for


@pytest.fixture
def server() -> Iterator[DifyServer]:
    """Return a server of 1.16.1, fifty times as fast as a real one."""
    with DifyServer(time_scale=0.02) as server:
        yield server


class TestLife:
    """Starting and stopping."""

    def test_stop_may_be_called_again_and_refuses_connections(self) -> None:
        """A stopped server is gone; its books stay."""
        server = DifyServer().start()
        assert Client(server).run(text="x").json()["data"]["outputs"] == {"text": "x"}
        server.stop()
        server.stop()
        with pytest.raises(requests.ConnectionError):
            Client(server).get("/info")
        assert [run.status for run in server.runs] == ["succeeded"]
        assert [request.status for request in server.requests] == [200]

    def test_starts_again_after_a_stop(self) -> None:
        """The same books, the same keys."""
        server = DifyServer()
        for _ in range(2):
            with server:
                assert Client(server).run(text="x").status_code == 200
        assert len(server.runs) == 2

    def test_leaves_no_thread_behind_even_with_open_streams(self) -> None:
        """Stopping ends every stream and every run."""
        with DifyServer() as server:
            stream = Client(server, "slow").stream(seconds=600)
            stream.until("workflow_started")
            (run,) = server.active_runs()
        assert "local-dify-server" not in [thread.name for thread in threading.enumerate()]
        assert [(lost.id, lost.status, lost.row_status) for lost in server.runs] == [(run.id, "lost", "running")]
        with pytest.raises(requests.RequestException):
            stream.until("workflow_finished")

    def test_says_that_the_port_is_taken(self) -> None:
        """A taken port is an error that says what to do."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(RuntimeError, match=rf"cannot listen on 127.0.0.1:{port} .*port 0"):
                DifyServer(port=port).start()

    def test_refuses_to_start_twice(self, server: DifyServer) -> None:
        """One object, one server."""
        with pytest.raises(RuntimeError, match="runs already"):
            server.start()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"emulate": "1.0"}, "emulate must be one of 1.9.1, 1.11.2, 1.14.2"),
            ({"api_contract": "rest"}, "api_contract must be one of service-api, workflow-runs"),
            ({"host": "0.0.0.0"}, "host must be a loopback address"),
            ({"port": 70000}, "port must be"),
            ({"time_scale": 0}, "time_scale must be greater than 0"),
            ({"connections": 0}, "connections must be 1 or more"),
            ({"worker_slots": -1}, "worker_slots must be 1 or more"),
            ({"emulate": "1.11.2", "stop_outcome": "failed"}, "stop_outcome of 1.11.2 must be one of stuck"),
            ({"workflows": [Workflow("a"), Workflow("a")]}, "two have the same name"),
        ],
    )
    def test_refuses_options_that_cannot_be(self, options: dict[str, Any], message: str) -> None:
        """The message says what can be."""
        with pytest.raises(ValueError, match=message):
            DifyServer(**options)

    def test_keys_are_the_same_in_every_server(self) -> None:
        """So that a connection outlives a restart of the quickstart."""
        one, two = DifyServer(), DifyServer()
        assert one.api_key("summarize") == two.api_key("summarize")
        assert len(one.api_key("summarize")) == len("app-") + 24
        with pytest.raises(KeyError, match="no app 'nope'; there are summarize"):
            one.app("nope")


class TestBuiltinWorkflows:
    """The workflows that a server offers of itself."""

    def test_summarize_streams_its_text(self, server: DifyServer) -> None:
        """The quickstart's workflow: words first, then the summary and its cost."""
        client = Client(server, "summarize")
        events = names(client.run(mode="streaming", text="Dify thinks. Airflow plans.").text)
        assert events[0] == "ping"
        assert events.count("text_chunk") == 2
        assert events.count("node_started") == 5
        run = client.run(text="Dify thinks. Airflow plans.").json()
        assert run["data"]["outputs"] == {"summary": "Dify thinks.", "word_count": 4}
        assert run["data"]["total_tokens"] == 128

    @pytest.mark.parametrize(
        ("app", "status"), [("failing", "failed"), ("partial", "partial-succeeded"), ("limited", "succeeded")]
    )
    def test_ends_as_its_name_says(self, server: DifyServer, app: str, status: str) -> None:
        """Each has its end."""
        assert Client(server, app).run().json()["data"]["status"] == status

    @pytest.mark.parametrize("emulate", [*VERSIONS])
    def test_every_version_offers_them(self, emulate: str) -> None:
        """A human is asked only where Dify can; elsewhere the graph is refused."""
        with DifyServer(emulate=emulate, time_scale=0.01) as server:
            for workflow in builtin_workflows():
                file = {"type": "document", "transfer_method": "remote_url", "url": "https://files.example/a.txt"}
                inputs = {item.name: file if item.type == "file" else "1" for item in workflow.inputs}
                answer = Client(server, workflow.name).run(**inputs)
                asks = workflow.asks_human() and not get_version(emulate).human_input
                assert answer.status_code == (400 if asks else 200), answer.text


class TestBooks:
    """The record of runs and requests."""

    def test_tells_runs_of_a_user(self, server: DifyServer) -> None:
        """One run per submission; a second submission is a second run."""
        client = Client(server)
        for _ in range(2):
            client.run(user="twice", text="x")
        client.run(user="once", text="y")
        assert [len(server.runs_of(user)) for user in ("once", "twice", "never")] == [1, 2, 0]
        (run,) = server.runs_of("once")
        assert (run.app, run.inputs, run.outputs) == ("echo", {"text": "y"}, {"text": "y"})
        times = [run.created_at, run.started_at or 0.0, run.finished_at or 0.0]
        assert times == sorted(times)
        assert server.active_runs() == []

    def test_true_status_and_row_differ_where_real_servers_lie(self) -> None:
        """An abandoned stream on 1.9.1: the run succeeds, the row stays running, no log."""
        with DifyServer(emulate="1.9.1", time_scale=0.02) as server:
            client = Client(server, "slow")
            with client.stream(user="left", seconds=3) as stream:
                run_id = stream.until("workflow_started")["workflow_run_id"]
            wait_for(lambda: server.runs_of("left")[0].status == "succeeded")
            wait_for(lambda: server.busy_connections == 0)
            (run,) = server.runs_of("left")
            assert (run.id, run.row_status, run.listed) == (run_id, "running", False)
            assert client.row(run_id)["status"] == "running"
            assert client.logged("left") == 0

    def test_notes_requests_in_order(self, server: DifyServer) -> None:
        """Method, path, query, headers, body, status."""
        client = Client(server)
        client.run(user="noted", text="x")
        client.get("/workflows/logs", params={"limit": "0"})
        first, second = server.requests
        assert (first.method, first.path, first.status) == ("POST", "/v1/workflows/run", 200)
        assert first.json["user"] == "noted"
        assert first.headers["Authorization"].endswith(server.api_key())
        assert (second.path, second.query, second.json, second.status) == (
            "/v1/workflows/logs",
            {"limit": "0"},
            None,
            400,
        )
        assert first.at <= second.at

    def test_a_workflow_that_raises_is_a_failed_run(self) -> None:
        """A bug in a test's own workflow does not hang the test."""
        broken = Workflow("broken", outputs=lambda inputs: {"x": inputs["missing"]})
        with DifyServer([broken]) as server:
            data = Client(server, "broken").run().json()["data"]
        assert (data["status"], data["error"]) == ("failed", "KeyError: 'missing'")


class TestOutage:
    """Down and up again."""

    def test_refuses_connections_and_returns_on_the_same_port(self, server: DifyServer) -> None:
        """Runs go on meanwhile; open streams break."""
        client = Client(server, "slow")
        stream = client.stream(user="during", seconds=5)
        run_id = stream.until("workflow_started")["workflow_run_id"]
        url = server.base_url
        server.down()
        with pytest.raises(requests.ConnectionError):
            client.get("/info")
        with pytest.raises(requests.RequestException):
            stream.until("workflow_finished")
        server.up()
        assert server.base_url == url
        assert client.get("/info").status_code == 200
        wait_for(lambda: client.row(run_id)["status"] == "succeeded")

    @pytest.mark.parametrize(
        ("mode", "status", "content_type"), [("500", 500, "application/json"), ("502-html", 502, "text/html")]
    )
    def test_answers_errors(self, server: DifyServer, mode: str, status: int, content_type: str) -> None:
        """As Dify or the gateway in front of it does."""
        server.down(mode)
        answer = Client(server).run(text="x")
        assert (answer.status_code, answer.headers["Content-Type"]) == (status, content_type)
        assert server.runs == []
        server.up()
        assert Client(server).run(text="x").status_code == 200

    def test_refuses_though_a_child_was_forked_before(self, server: DifyServer) -> None:
        """A task process that inherits the port does not keep it open."""
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.read(reader, 1)
            os._exit(0)
        try:
            assert Client(server).get("/info").status_code == 200
            server.down()
            with pytest.raises(requests.ConnectionError):
                Client(server).get("/info", timeout=2)
            server.up()
            assert Client(server).get("/info").status_code == 200
        finally:
            os.write(writer, b"x")
            os.waitpid(child, 0)
            os.close(reader)
            os.close(writer)

    def test_refuses_an_unknown_mode(self, server: DifyServer) -> None:
        """The message says what can be."""
        with pytest.raises(ValueError, match="refuse, 500, 502-html"):
            server.down("slow")

    def test_restart_loses_runs(self, server: DifyServer) -> None:
        """Rows of lost runs stay running for ever; queued ones come later."""
        client = Client(server, "slow")
        with client.stream(user="lost", seconds=60) as stream:
            stream.until("workflow_started")
            server.restart()
        (run,) = server.runs_of("lost")
        assert (run.status, run.row_status) == ("lost", "running")
        assert server.active_runs() == []
        assert client.run(user="after", mode="streaming", seconds=0).status_code == 200

    @pytest.mark.parametrize("emulate", [*VERSIONS])
    def test_killed_workers_lose_their_runs(self, emulate: str) -> None:
        """On every version; on 1.14.2 and 1.16.1 others wait until workers are back."""
        with DifyServer(emulate=emulate, time_scale=0.02) as server:
            client = Client(server, "slow")
            with client.stream(user="lost", seconds=60) as stream:
                stream.until("workflow_started")
                server.kill_workers()
            assert server.runs_of("lost")[0].status == "lost"
            if emulate in ("1.14.2", "1.16.1"):
                with client.stream(user="waits", seconds=0):
                    wait_for(lambda: server.runs_of("waits"))
                    assert server.runs_of("waits")[0].status == "queued"
                    server.start_workers()
                    wait_for(lambda: server.runs_of("waits")[0].status == "succeeded")


class TestConnections:
    """Connection slots."""

    def test_all_taken_makes_everything_wait(self) -> None:
        """Not even /info is looked at; it is answered once a stream ends."""
        with DifyServer(connections=2, time_scale=0.02) as server, ThreadPoolExecutor() as threads:
            client = Client(server, "slow")
            for _ in range(2):
                threads.submit(client.run, mode="streaming", seconds=15)
            wait_for(lambda: server.busy_connections == 2)
            info = threads.submit(client.get, "/info")
            wait_for(lambda: server.waiting_requests == 1)
            assert server.requests[-1].status is None
            assert info.result().status_code == 200

    def test_an_abandoned_stream_holds_its_slot_until_the_server_writes(self) -> None:
        """The next write is the ping after 10 s, here 0.2 s."""
        with DifyServer(connections=1, time_scale=0.02) as server:
            client = Client(server, "slow")
            with client.stream(seconds=50) as stream:
                stream.until("node_finished")
                stream.until("node_started")
            assert server.busy_connections == 1
            assert client.get("/info").status_code == 200
            assert len(server.active_runs()) == 1

    def test_a_request_that_waited_is_executed_though_its_client_left(self) -> None:
        """As from a full accept queue: the client gives up, the run comes all the same, once."""
        with DifyServer(connections=1, time_scale=0.02) as server, ThreadPoolExecutor() as threads:
            client = Client(server, "slow")
            threads.submit(client.run, mode="streaming", seconds=15)
            wait_for(lambda: server.busy_connections == 1)
            with pytest.raises(requests.ReadTimeout):
                client.post(
                    "/workflows/run",
                    {"inputs": {"seconds": 0}, "user": "gave-up", "response_mode": "streaming"},
                    timeout=0.1,
                )
            assert server.runs_of("gave-up") == []
            wait_for(lambda: [run.status for run in server.runs_of("gave-up")] == ["succeeded"])

    def test_none_is_no_limit(self) -> None:
        """Thirty streams at a time, and /info at once."""
        with (
            DifyServer(connections=None, worker_slots=None, time_scale=0.02) as server,
            ThreadPoolExecutor(30) as threads,
        ):
            client = Client(server, "slow")
            for _ in range(30):
                threads.submit(client.run, mode="streaming", seconds=50)
            wait_for(lambda: server.busy_connections == 30)
            assert client.get("/info").elapsed.total_seconds() < 0.9


class TestQueue:
    """Worker slots of 1.14.2 and 1.16.1."""

    def test_a_queued_run_is_invisible(self) -> None:
        """No row, no log, one ping; the books know it."""
        with DifyServer(worker_slots=1, time_scale=0.05) as server, ThreadPoolExecutor() as threads:
            client = Client(server, "slow")
            threads.submit(client.run, mode="streaming", seconds=10)
            wait_for(lambda: len(server.active_runs()) == 1)
            wait_for(lambda: server.active_runs()[0].status == "running")
            queued = threads.submit(client.run, user="queued", mode="streaming", seconds=1)
            wait_for(lambda: server.runs_of("queued"))
            (run,) = server.runs_of("queued")
            assert (run.status, run.row_status, run.started_at) == ("queued", None, None)
            assert client.logged("queued") == 0
            assert client.get(f"/workflows/run/{run.id}").status_code == 404
            assert names(queued.result().text)[:2] == ["ping", "workflow_started"]
            assert client.logged("queued") == 1

    def test_other_versions_do_not_queue(self) -> None:
        """Every run executes at once."""
        options: dict[str, Any] = {"emulate": "1.11.2", "worker_slots": 1, "time_scale": 0.02}
        with DifyServer(**options) as server, ThreadPoolExecutor() as threads:
            for _ in range(5):
                threads.submit(Client(server, "slow").run, mode="streaming", seconds=20)
            wait_for(lambda: [run.status for run in server.runs] == ["running"] * 5)


class TestLimits:
    """`max_active_requests`."""

    @pytest.mark.parametrize("emulate", [*VERSIONS])
    def test_refuses_the_fourth_blocking_run(self, emulate: str) -> None:
        """With Dify's 400; a place is given back at the end."""
        with DifyServer(emulate=emulate, time_scale=0.02) as server, ThreadPoolExecutor() as threads:
            client = Client(server, "limited")
            runs = [threads.submit(client.run, seconds=20) for _ in range(3)]
            wait_for(lambda: len(server.active_runs()) == 3)
            refused = client.run(seconds=0)
            assert refused.status_code == 400
            assert refused.json()["message"].startswith("Too many requests. Please try again later.")
            assert [run.result().status_code for run in runs] == [200] * 3
            assert client.run(seconds=0).status_code == 200
            assert len(server.runs) == 4


class TestStop:
    """Stopping runs."""

    @pytest.mark.parametrize(
        ("emulate", "outcome", "stream", "row"),
        [
            ("1.9.1", None, "failed", "failed"),
            ("1.9.1", "stopped", "stopped", "stopped"),
            ("1.11.2", None, "stopped", "running"),
            ("1.14.2", None, "stopped", "running"),
            ("1.14.2", "failed", "failed", "stopped"),
            ("1.14.2", "stopped", "stopped", "stopped"),
            ("1.16.1", None, "stopped", "stopped"),
        ],
    )
    def test_ends_as_the_version_does(self, emulate: str, outcome: str | None, stream: str, row: str) -> None:
        """The stream and GET may disagree; the books say stopped."""
        with DifyServer(emulate=emulate, stop_outcome=outcome, time_scale=0.05) as server:
            client = Client(server, "slow")
            with client.stream(user="stopped", seconds=60) as response:
                event = response.until("workflow_started")
                client.post(f"/workflows/tasks/{event['task_id']}/stop", {"user": "anybody"})
                finished = response.until("workflow_finished")
            assert finished["data"]["status"] == stream
            assert client.row(event["workflow_run_id"])["status"] == row
            assert server.runs_of("stopped")[0].status == "stopped"


class TestHumanInput:
    """Pausing for a human."""

    def test_pauses_and_resumes(self, server: DifyServer) -> None:
        """The form's answer becomes an output."""
        client = Client(server, "human_input")
        paused = client.run(user="asks", text="ship it").json()["data"]
        assert (paused["status"], paused["finished_at"]) == ("paused", None)
        assert server.active_runs()[0].status == "paused"
        form = paused["reasons"][0]["form_token"]
        assert client.get(f"/form/human_input/{form}").json()["form_content"].startswith("Please approve ship it")
        answer = {"inputs": {"comment": "fine"}, "action": "approve", "user": "boss"}
        assert client.post(f"/form/human_input/{form}", answer).json() == {}
        wait_for(lambda: client.row(paused["id"])["status"] == "succeeded")
        assert client.row(paused["id"])["outputs"] == {"comment": "fine", "action": "approve"}


class TestRoutes:
    """What is not in the recordings."""

    def test_the_page_of_an_apps_runs(self, server: DifyServer) -> None:
        """What a task links to: one app's runs, with their users' names as text."""
        app = server.app("echo")
        run_id = Client(server).run(user="<b>me</b>", text="x").json()["workflow_run_id"]
        Client(server, "slow").run(user="other", seconds=0)
        page = requests.get(f"{server.base_url}/app/{app.app_id}/logs", timeout=5)
        assert page.headers["Content-Type"].startswith("text/html")
        assert f"<td>{run_id}</td><td>succeeded</td><td>&lt;b&gt;me&lt;/b&gt;</td>" in page.text
        assert "other" not in page.text
        unknown = requests.get(f"{server.base_url}/app/{app.workflow_id}/logs", timeout=5)
        assert (unknown.status_code, unknown.json()["code"]) == (404, "app_not_found")

    def test_the_page_of_forms_takes_an_answer_and_shows_what_is_left(self, server: DifyServer) -> None:
        """What a person does in a browser: reads the form, fills it in, presses a button, and is shown the rest."""
        client, page = Client(server, "approval"), f"{server.base_url}/console/forms"
        run_id = client.run(text="Sales went up.").json()["data"]["id"]
        (form,) = server.forms.open()
        shown = requests.get(page, timeout=5).text
        assert f'action="/console/forms/{form.id}"' in shown
        assert "Sales went up." in shown
        filled = {"action": "approve", "field.tone": "formal", "field.comment": "go"}
        after = requests.post(f"{page}/{form.id}", data=filled, timeout=5)
        assert (after.status_code, after.url) == (200, page)
        assert "No run waits for a human." in after.text
        wait_for(lambda: client.row(run_id)["status"] == "succeeded")
        again = requests.post(f"{page}/{form.id}", data=filled, timeout=5)
        assert "It was answered before." in again.text

    def test_head_and_health(self, server: DifyServer) -> None:
        """Health needs no key."""
        assert requests.get(f"{server.base_url}/health", timeout=5).json()["version"] == "1.16.1"
        assert requests.head(f"{server.api_url}/info", headers=Client(server).headers, timeout=5).status_code == 200

    def test_older_versions_lack_the_events_route(self) -> None:
        """HTML 404, as any unknown path."""
        with DifyServer(emulate="1.11.2") as server:
            answer = Client(server).get("/workflow/00000000-0000-0000-0000-000000000000/events")
            assert (answer.status_code, answer.headers["Content-Type"]) == (404, "text/html; charset=utf-8")

    def test_uploads_can_be_read_back(self, server: DifyServer) -> None:
        """Under the signed URL; through the API only on versions that do not ask for a chat message that has them."""
        client = Client(server)
        content = b"one\r\ntwo\x00\xff"
        stored = requests.post(
            f"{server.api_url}/files/upload",
            files={"file": ("a.txt", content, "text/plain")},
            data={"user": "me"},
            headers=client.headers,
            timeout=5,
        ).json()
        assert stored["size"] == len(content)
        assert requests.get(stored["source_url"], timeout=5).content == content
        assert client.get(f"/files/{stored['id']}/preview").json()["code"] == "file_not_found"

    def test_remote_files_are_never_fetched(self) -> None:
        """Only the URLs that were named exist."""
        workflow = Workflow("doc", inputs=[Input("doc", type="file")])
        known = {"http://files.example/a.txt": b"hello"}
        with DifyServer([workflow], remote_files=known, time_scale=0.01) as server:
            client = Client(server, "doc")
            value = {"type": "document", "transfer_method": "remote_url", "url": "http://files.example/a.txt"}
            assert client.run(doc=value).json()["data"]["outputs"]["doc"]["size"] == 5
            assert client.run(doc=value | {"url": "http://files.example/b.txt"}).status_code == 400

    def test_several_input_faults_are_listed(self, server: DifyServer) -> None:
        """As pydantic lists them."""
        message = Client(server).post("/workflows/run", {"user": "u", "response_mode": "x"}).json()["message"]
        assert message.startswith("2 validation errors for WorkflowRunPayload\ninputs\n  Field required")


def test_steps_take_their_time_by_time_scale() -> None:
    """Ten seconds at 0.01 are a tenth of a second."""
    workflow = Workflow("timed", steps=[Step("a", seconds=5), Step("b", seconds=5)])
    with DifyServer([workflow], time_scale=0.01) as server:
        elapsed = Client(server, "timed").run().json()["data"]["elapsed_time"]
    assert 0.1 <= elapsed < 5


def test_calls_from_many_threads(server: DifyServer) -> None:
    """Books, faults and requests from eight threads at once."""

    def work(number: int) -> int:
        server.inject(Fault("info", "status", status=503, user="nobody"))
        Client(server).run(user=f"thread-{number % 8}", text="x")
        return len(server.runs) + len(server.requests)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(40)))
    assert len(server.runs) == 40
    assert all(len(server.runs_of(f"thread-{number}")) == 5 for number in range(8))


def test_nobody_else_gets_the_port_during_an_outage() -> None:
    """Else another process could answer in the server's place."""
    with DifyServer() as server:
        server.down()
        with pytest.raises(OSError, match="in use"), socket.create_server(("127.0.0.1", server.port)):
            pass
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", server.port), timeout=5):
            pass
        server.up()
        socket.create_connection(("127.0.0.1", server.port), timeout=5).close()
