"""Faults on demand: each is what a client sees, and the books tell what is true."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from airflow_provider_dify.testing.faults import INDEXING_FAULTS, KINDS, Fault
from airflow_provider_dify.testing.server import DifyServer
from tests.testing.local_client import Client, names, wait_for


@pytest.fixture
def server() -> Iterator[DifyServer]:
    """Return a server of 1.16.1, fifty times as fast as a real one."""
    with DifyServer(time_scale=0.02) as server:
        yield server


def statuses(server: DifyServer, user: str = "me") -> list[str]:
    """Return the true statuses of a user's runs."""
    return [run.status for run in server.runs_of(user)]


class TestRefusals:
    """Faults that happen before anything is accepted."""

    def test_status_with_a_dify_error(self, server: DifyServer) -> None:
        """Code, message and headers as wanted."""
        server.inject(Fault("submit", "status", status=503, code="busy", message="later", headers={"Retry-After": "7"}))
        answer = Client(server).run(text="x")
        assert answer.status_code == 503
        assert answer.json() == {"code": "busy", "message": "later", "status": 503}
        assert answer.headers["Retry-After"] == "7"
        assert server.runs == []

    def test_status_with_a_gateway_page(self, server: DifyServer) -> None:
        """HTML, and none of Dify's headers."""
        server.inject(Fault("get_run", "status", status=504))
        answer = Client(server).get("/workflows/run/00000000-0000-0000-0000-000000000000")
        assert (answer.status_code, answer.headers["Content-Type"]) == (504, "text/html")
        assert "504 Gateway Time-out" in answer.text
        assert "X-Version" not in answer.headers

    @pytest.mark.parametrize(("status", "code"), [(None, "invalid_param"), (429, "too_many_requests")])
    def test_too_many_requests(self, server: DifyServer, status: int | None, code: str) -> None:
        """Dify's 400, or what was meant."""
        fault = Fault("submit", "too_many_requests", status=status, headers={"Retry-After": "1"})
        server.inject(fault)
        answer = Client(server).run(text="x")
        assert (answer.status_code, answer.json()["code"]) == (status or 400, code)
        assert answer.headers["Retry-After"] == "1"
        assert server.runs == []

    def test_reset_before(self, server: DifyServer) -> None:
        """Connection reset, nothing accepted."""
        server.inject(Fault("submit", "reset_before"))
        with pytest.raises(requests.ConnectionError):
            Client(server).run(text="x")
        assert server.runs == []
        assert server.requests[0].status == 0

    def test_hang(self, server: DifyServer) -> None:
        """No answer until the client gives up; its slot is free soon after."""
        server.inject(Fault("info", "hang"))
        with pytest.raises(requests.ReadTimeout):
            Client(server).get("/info", timeout=0.2)
        wait_for(lambda: server.busy_connections == 0)

    def test_login_page(self, server: DifyServer) -> None:
        """HTML with 200, as from a single sign-on."""
        server.inject(Fault("any", "login_page"))
        answer = Client(server).get("/info")
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert "Sign in" in answer.text

    def test_redirect(self, server: DifyServer) -> None:
        """To wherever."""
        server.inject(Fault("submit", "redirect", url="https://login.example/"))
        answer = Client(server).run(text="x")
        assert (answer.status_code, answer.headers["Location"]) == (302, "https://login.example/")

    def test_body(self, server: DifyServer) -> None:
        """Any bytes of any type."""
        server.inject(Fault("get_run", "body", body=b"\x00{", content_type="application/json"))
        answer = Client(server).get("/workflows/run/x")
        assert (answer.status_code, answer.content) == (200, b"\x00{")


class TestLostAnswers:
    """Faults by which a request is acted on and its answer is lost."""

    @pytest.mark.parametrize("mode", ["blocking", "streaming"])
    def test_accepted_but_bad_gateway(self, server: DifyServer, mode: str) -> None:
        """The run is real, though the client sees a 502."""
        server.inject(Fault("submit", "accept_then_status", status=502))
        assert Client(server).run(mode=mode, text="x").status_code == 502
        wait_for(lambda: statuses(server) == ["succeeded"])
        assert Client(server).logged("me") == 1

    @pytest.mark.parametrize(("mode", "row"), [("blocking", "succeeded"), ("streaming", "running")])
    def test_accepted_but_bad_gateway_on_1_9(self, mode: str, row: str) -> None:
        """There an abandoned stream's row is never settled; a blocking call's is."""
        with DifyServer(emulate="1.9.1", time_scale=0.02) as server:
            server.inject(Fault("submit", "accept_then_status", status=502))
            assert Client(server).run(mode=mode, text="x").status_code == 502
            wait_for(lambda: statuses(server) == ["succeeded"])
            wait_for(lambda: server.runs[0].row_status == row)

    @pytest.mark.parametrize("mode", ["blocking", "streaming"])
    def test_accepted_but_reset(self, server: DifyServer, mode: str) -> None:
        """The run is real, though the connection broke before any byte."""
        server.inject(Fault("submit", "accept_then_reset"))
        with pytest.raises(requests.ConnectionError):
            Client(server).run(mode=mode, text="x")
        wait_for(lambda: statuses(server) == ["succeeded"])

    @pytest.mark.parametrize("mode", ["blocking", "streaming"])
    def test_stall(self, server: DifyServer, mode: str) -> None:
        """No byte for a while, then everything."""
        server.inject(Fault("submit", "stall", seconds=0.3))
        begin = time.monotonic()
        answer = Client(server).run(mode=mode, text="x")
        assert time.monotonic() - begin >= 0.3
        assert answer.status_code == 200
        assert statuses(server) == ["succeeded"]

    def test_a_stop_whose_answer_is_lost(self, server: DifyServer) -> None:
        """The run stops all the same."""
        client = Client(server, "slow")
        server.inject(Fault("stop", "accept_then_status", status=504))
        with client.stream(seconds=60) as stream:
            task_id = stream.until("workflow_started")["task_id"]
            assert client.post(f"/workflows/tasks/{task_id}/stop", {"user": "me"}).status_code == 504
            wait_for(lambda: statuses(server) == ["stopped"])


class TestStreamFaults:
    """Faults that happen a stream."""

    def test_cut_after_an_event(self, server: DifyServer) -> None:
        """The events so far arrive, then the connection breaks; the run goes on."""
        server.inject(Fault("submit", "cut", after_events=1))
        with Client(server, "slow").stream(seconds=1) as stream:
            stream.until("workflow_started")
            with pytest.raises(requests.RequestException):
                stream.until("node_started")
        wait_for(lambda: statuses(server) == ["succeeded"])

    def test_cut_within_the_first_event(self, server: DifyServer) -> None:
        """In the middle of workflow_started: no id can be read."""
        server.inject(Fault("submit", "cut", after_bytes=60))
        with Client(server).stream(text="x") as stream:
            received: list[bytes] = []
            with pytest.raises(requests.RequestException):
                received.extend(stream.response.iter_content(None))
        assert sum(map(len, received)) == 60
        wait_for(lambda: statuses(server) == ["succeeded"])

    def test_cut_cleanly(self, server: DifyServer) -> None:
        """A clean end without a terminal event."""
        server.inject(Fault("submit", "cut", after_events=2, clean=True))
        assert names(Client(server).run(mode="streaming", text="x").text) == [
            "ping",
            "workflow_started",
            "text_chunk",
        ]

    def test_cut_before_any_event(self, server: DifyServer) -> None:
        """Only the head arrives."""
        server.inject(Fault("submit", "cut", after_events=0, clean=True))
        answer = Client(server).run(mode="streaming", text="x")
        assert (answer.status_code, answer.text) == (200, "")
        wait_for(lambda: statuses(server) == ["succeeded"])

    def test_cut_of_the_events_route(self, server: DifyServer) -> None:
        """That stream breaks too."""
        client = Client(server)
        run_id = client.run(text="x").json()["workflow_run_id"]
        server.inject(Fault("events", "cut", after_bytes=10))
        with pytest.raises(requests.RequestException):
            client.get(f"/workflow/{run_id}/events", params={"user": "me"})

    def test_lose_named_events(self, server: DifyServer) -> None:
        """workflow_started never comes; the others do."""
        server.inject(Fault("submit", "lose_events", events=("workflow_started", "text_chunk")))
        found = names(Client(server).run(mode="streaming", text="x").text)
        assert found[:2] == ["ping", "node_started"]
        assert found[-1] == "workflow_finished"

    def test_lose_the_end(self) -> None:
        """On 1.14.2 and 1.16.1 the stream then stays open until the idle limit, and ends without a terminal event."""
        with DifyServer(time_scale=0.002) as server:
            server.inject(Fault("submit", "lose_events", events=("workflow_finished",)))
            begin = time.monotonic()
            found = names(Client(server).run(mode="streaming", text="x").text)
            assert found[-1] == "node_finished"
            assert time.monotonic() - begin > 0.5

    def test_lose_everything_but_pings(self, server: DifyServer) -> None:
        """Pings for as long as the run goes on."""
        server.inject(Fault("submit", "lose_events", events=("*",)))
        with Client(server, "slow").stream(seconds=25) as stream:
            for _ in range(3):
                stream.until("ping")
        wait_for(lambda: statuses(server) == ["succeeded"])

    def test_older_versions_end_the_stream_all_the_same(self) -> None:
        """They close it with the run."""
        with DifyServer(emulate="1.11.2") as server:
            server.inject(Fault("submit", "lose_events", events=("*",)))
            assert Client(server).run(mode="streaming", text="x").text == ""


class TestRowFaults:
    """Faults of what GET and the queue say."""

    def test_queue_delay(self, server: DifyServer) -> None:
        """Invisible, then executed."""
        server.inject(Fault("submit", "queue_delay", seconds=0.4))
        client = Client(server)
        with client.stream(text="x") as stream:
            stream.until("ping")
            assert statuses(server) == ["queued"]
            assert client.logged("me") == 0
            stream.until("workflow_finished")
        assert client.logged("me") == 1

    @pytest.mark.parametrize("mode", ["blocking", "streaming"])
    def test_queue_delay_elsewhere(self, mode: str) -> None:
        """Versions that do not queue begin later."""
        with DifyServer(emulate="1.11.2") as server:
            server.inject(Fault("submit", "queue_delay", seconds=0.2))
            begin = time.monotonic()
            assert Client(server).run(mode=mode, text="x").status_code == 200
            assert time.monotonic() - begin >= 0.2

    def test_stale_row(self, server: DifyServer) -> None:
        """The end is reported late."""
        server.inject(Fault("get_run", "stale_row", seconds=0.4))
        client = Client(server)
        run_id = client.run(text="x").json()["workflow_run_id"]
        row = client.row(run_id)
        assert (row["status"], row["finished_at"], row["outputs"]) == ("running", None, {})
        wait_for(lambda: client.row(run_id)["status"] == "succeeded")
        assert client.row(run_id)["outputs"] == {"text": "x"}

    @pytest.mark.parametrize(("emulate", "status"), [("1.11.2", 200), ("1.14.2", 404)])
    def test_unknown_row(self, emulate: str, status: int) -> None:
        """The beginning is reported late: all null, or 404."""
        with DifyServer(emulate=emulate, time_scale=0.02) as server:
            server.inject(Fault("get_run", "unknown_row", seconds=0.4))
            client = Client(server)
            run_id = client.run(text="x").json()["workflow_run_id"]
            answer = client.get(f"/workflows/run/{run_id}")
            assert (answer.status_code, answer.json().get("id")) == (status, None)
            wait_for(lambda: client.row(run_id).get("status") == "succeeded")

    def test_row_faults_are_counted_by_run(self, server: DifyServer) -> None:
        """Two looks at one run use up one fault."""
        server.inject(Fault("get_run", "stale_row", seconds=60, times=1))
        client = Client(server)
        first, second = (client.run(text="x").json()["workflow_run_id"] for _ in range(2))
        assert [client.row(run_id)["status"] for run_id in (first, first, second)] == [
            "running",
            "running",
            "succeeded",
        ]

    def test_stop_without_effect(self, server: DifyServer) -> None:
        """Success, and the run goes on to its end."""
        server.inject(Fault("stop", "stop_without_effect"))
        client = Client(server, "slow")
        with client.stream(seconds=10) as stream:
            task_id = stream.until("workflow_started")["task_id"]
            answer = client.post(f"/workflows/tasks/{task_id}/stop", {"user": "me"})
            assert answer.json() == {"result": "success"}
            assert stream.until("workflow_finished")["data"]["status"] == "succeeded"


class TestCounting:
    """How often and for whom."""

    def test_times_and_after(self, server: DifyServer) -> None:
        """Lets two pass, strikes two, then no more."""
        server.inject(Fault("info", "status", status=500, after=2, times=2))
        client = Client(server)
        assert [client.get("/info").status_code for _ in range(6)] == [200, 200, 500, 500, 200, 200]

    def test_for_ever_until_cleared(self, server: DifyServer) -> None:
        """None is no end."""
        server.inject(Fault("info", "status", status=500, times=None))
        client = Client(server)
        assert {client.get("/info").status_code for _ in range(5)} == {500}
        server.clear_faults()
        assert client.get("/info").status_code == 200

    def test_one_user_only(self, server: DifyServer) -> None:
        """Others are served."""
        server.inject(Fault("submit", "status", status=500, user="unlucky"))
        client = Client(server)
        assert [client.run(user=user, text="x").status_code for user in ("me", "unlucky", "unlucky")] == [
            200,
            500,
            200,
        ]

    def test_the_user_of_a_get_is_that_of_its_run(self, server: DifyServer) -> None:
        """So that polls of one run can be struck."""
        client = Client(server)
        mine, other = (client.run(user=user, text="x").json()["workflow_run_id"] for user in ("me", "other"))
        server.inject(Fault("get_run", "status", status=500, user="me"))
        assert [client.get(f"/workflows/run/{run_id}").status_code for run_id in (other, mine, mine)] == [
            200,
            500,
            200,
        ]

    def test_several_happen_in_order(self, server: DifyServer) -> None:
        """One fault a request, oldest first."""
        for status in (500, 503):
            server.inject(Fault("info", "status", status=status))
        client = Client(server)
        assert [client.get("/info").status_code for _ in range(3)] == [500, 503, 200]

    def test_a_blind_second_submission_shows_in_the_books(self, server: DifyServer) -> None:
        """What the exactly-once suite looks for."""
        server.inject(Fault("submit", "accept_then_reset", user="marker"))
        with ThreadPoolExecutor(1):
            with pytest.raises(requests.ConnectionError):
                Client(server).run(user="marker", text="x")
            Client(server).run(user="marker", text="x")
        assert len(server.runs_of("marker")) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"on": "submit", "kind": "explode"}, "kind must be one of accept_then_reset, "),
        ({"on": "everywhere", "kind": "hang"}, "on must be one of submit, get_run, "),
        ({"on": "logs", "kind": "cut", "after_events": 1}, "on must be one of submit, events, any"),
        ({"on": "submit", "kind": "stall"}, "seconds is missing"),
        ({"on": "submit", "kind": "status"}, "status is missing"),
        ({"on": "submit", "kind": "cut"}, "give after_events or after_bytes"),
        ({"on": "submit", "kind": "lose_events"}, "give events"),
        ({"on": "submit", "kind": "lose_events", "events": "ping"}, "not one text"),
        ({"on": "submit", "kind": "redirect"}, "url is missing"),
        ({"on": "submit", "kind": "hang", "times": 0}, "times must be 1 or more"),
    ],
)
def test_a_fault_that_could_never_happen_is_refused(arguments: dict[str, Any], message: str) -> None:
    """At once, with what is possible."""
    with pytest.raises(ValueError, match=message):
        Fault(**arguments)


def test_every_kind_is_tried_here() -> None:
    """No kind without a test; those of documents have theirs in test_knowledge_server."""
    with open(__file__, encoding="utf-8") as file:
        text = file.read()
    assert [kind for kind in sorted(KINDS - INDEXING_FAULTS) if f'"{kind}"' not in text] == []
