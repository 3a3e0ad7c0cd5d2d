"""Requests that the recordings do not show: inputs, files, logs, lesser routes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import requests

from airflow_provider_dify.testing.server import DifyServer
from airflow_provider_dify.testing.versions import VERSIONS
from airflow_provider_dify.testing.workflows import Input, Workflow
from tests.testing.local_client import Client

FORM = Workflow(
    "form",
    inputs=[
        Input("text", required=False),
        Input("number", type="number", required=False),
        Input("flag", type="checkbox", required=False),
        Input("object", type="json_object", required=False),
        Input("doc", type="file", required=False),
        Input("docs", type="file-list", required=False, max_length=1),
        Input("preset", required=False, default="as ever"),
    ],
)


@pytest.fixture(scope="module")
def server() -> Iterator[DifyServer]:
    """Return a server with a form of every type."""
    with DifyServer([FORM], time_scale=0.01) as server:
        yield server


@pytest.fixture
def client(server: DifyServer) -> Client:
    """Return a client of the form."""
    return Client(server, "form")


class TestInputs:
    """Checks and coercions."""

    @pytest.mark.parametrize(
        ("sent", "seen"),
        [
            ({"number": "4.5"}, {"number": 4.5}),
            ({"number": " "}, {"number": None}),
            ({"flag": "yes"}, {"flag": True}),
            ({"flag": "off"}, {"flag": False}),
            ({"flag": True}, {"flag": True}),
            ({"flag": "perhaps"}, {"flag": "perhaps"}),
            ({"object": {"a": [1]}}, {"object": {"a": [1]}}),
            ({"undeclared": 1}, {}),
            ({}, {"preset": "as ever"}),
            ({"preset": "other"}, {"preset": "other"}),
        ],
    )
    def test_coerces(self, client: Client, sent: dict[str, Any], seen: dict[str, Any]) -> None:
        """Numeric texts, words for true and false, defaults; undeclared names are dropped."""
        expected = {item.name: None for item in FORM.inputs} | {"preset": "as ever"} | seen
        assert client.run(**sent).json()["data"]["outputs"] == expected

    @pytest.mark.parametrize(
        ("sent", "message"),
        [
            ({"text": 5}, "(type 'text-input') text in input form must be a string"),
            ({"number": "many"}, "number in input form must be a valid number"),
            ({"object": [1]}, "object in input form must be a dict"),
            ({"doc": "a.txt"}, "doc in input form must be a file"),
            ({"docs": {"type": "document"}}, "docs in input form must be a list of files"),
            ({"docs": [{}, {}]}, "docs in input form must be less than 1 files"),
            ({"doc": {}}, "Invalid file type: None"),
            ({"doc": {"type": "document"}}, "None is not a valid FileTransferMethod"),
            ({"doc": {"type": "document", "transfer_method": "remote_url"}}, "Invalid file url"),
            (
                {"doc": {"type": "audio", "transfer_method": "remote_url", "url": "http://x/a.mp3"}},
                "File validation failed for file: type audio is not allowed",
            ),
        ],
    )
    def test_refuses(self, client: Client, sent: dict[str, Any], message: str) -> None:
        """400 in blocking mode, a pair of events under 200 in streaming mode; no run either way."""
        runs = len(client.server.runs)
        answer = client.run(**sent)
        assert (answer.status_code, answer.json()) == (
            400,
            {"code": "invalid_param", "message": message, "status": 400},
        )
        with client.stream(**sent) as stream:
            ended = stream.until("workflow_finished")
        assert (ended["data"]["error"], ended["task_id"]) == (message, ended["workflow_run_id"])
        assert len(client.server.runs) == runs

    @pytest.mark.parametrize("emulate", [*VERSIONS])
    def test_crashes_on_a_list_for_a_number(self, emulate: str) -> None:
        """A 500 in blocking mode on every version."""
        with DifyServer([FORM], emulate=emulate) as server:
            answer = Client(server, "form").run(number=[1])
        assert (answer.status_code, answer.json()["code"]) == (500, "internal_server_error")

    def test_1_14_2_refuses_a_stream_with_silence(self) -> None:
        """A ping, and then nothing until the idle limit, at which the stream ends cleanly; no run either way."""
        with DifyServer([FORM], emulate="1.14.2", time_scale=0.002) as server:
            assert Client(server, "form").run(mode="streaming", text=5).text == "event: ping\n\n"
            assert server.runs == []

    @pytest.mark.parametrize(("emulate", "status"), [("1.11.2", 400), ("1.14.2", 200)])
    def test_takes_any_checkbox_of_late(self, emulate: str, status: int) -> None:
        """What is neither true nor false was refused before."""
        with DifyServer([FORM], emulate=emulate) as server:
            assert Client(server, "form").run(flag="perhaps").status_code == status

    def test_refuses_top_level_files(self, client: Client) -> None:
        """They are looked up too."""
        body = {"inputs": {}, "user": "me", "files": [{"type": "document", "transfer_method": "local_file"}]}
        assert client.post("/workflows/run", body).json()["message"] == "Invalid upload file"

    def test_lists_what_is_wrong_with_the_body(self, client: Client) -> None:
        """As pydantic does."""
        body = {"inputs": None, "files": "a", "user": "me", "response_mode": "blocking"}
        message = client.post("/workflows/run", body).json()["message"]
        assert message.startswith("2 validation errors for WorkflowRunPayload\ninputs\n")
        assert "Input should be a valid dictionary [type=dict_type, input_value=None, input_type=NoneType]" in message
        assert "files\n  Input should be a valid list [type=list_type, input_value='a', input_type=str]" in message

    def test_a_long_trace_session_is_refused(self, client: Client) -> None:
        """On 1.16.1."""
        answer = requests.post(
            f"{client.server.api_url}/workflows/run",
            json={"inputs": {}, "user": "me"},
            headers=client.headers | {"X-Trace-Session-Id": "x" * 201},
            timeout=5,
        )
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


class TestLogs:
    """Filters of the logs."""

    @pytest.mark.parametrize("emulate", [*VERSIONS])
    def test_filters(self, emulate: str) -> None:
        """Status, keyword, time; unknown parameters are ignored; a page past the end is empty."""
        workflows = [Workflow("echo", inputs=[Input("text")]), Workflow("bad", failure="no")]
        with DifyServer(workflows, emulate=emulate, time_scale=0.01) as server:
            client = Client(server)
            for user, text in (("user-1", "Apples and pears"), ("user-2", "cherries")):
                client.run(user=user, text=text)
            Client(server, "bad").run(user="user-1")
            now = datetime.now(timezone.utc)

            def found(**query: str) -> list[str]:
                page = client.get("/workflows/logs", params=query).json()
                return [row["created_by_end_user"]["session_id"] for row in page["data"]]

            assert sorted(found()) == ["user-1", "user-2"]
            assert found(keyword="APPLES") == ["user-1"]
            assert found(keyword="user-2") == ["user-2"]
            assert found(status="failed") == []
            assert found(status="succeeded", created_by_end_user_session_id="user-1") == ["user-1"]
            assert found(created_at__before=(now - timedelta(hours=1)).isoformat()) == []
            assert len(found(created_at__before=(now + timedelta(hours=1)).isoformat())) == 2
            assert len(found(created_at__after=(now - timedelta(hours=1)).isoformat())) == 2
            assert len(found(nonsense="x")) == 2
            assert found(page="99") == []
            failed = Client(server, "bad").get("/workflows/logs").json()["data"][0]["workflow_run"]
            assert (failed["status"], failed["error"], failed["exceptions_count"]) == ("failed", "no", 1)

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            ({"page": "0"}, "greater than or equal to 1"),
            ({"page": "x"}, "unable to parse string as an integer"),
            ({"created_at__before": "yesterday"}, "unknown ISO components"),
        ],
    )
    def test_refuses(self, client: Client, query: dict[str, str], message: str) -> None:
        """With a 400."""
        answer = client.get("/workflows/logs", params=query)
        assert answer.status_code == 400
        assert message in answer.json()["message"]

    def test_refuses_as_flask_restx_did(self) -> None:
        """On 1.9.1."""
        with DifyServer([FORM], emulate="1.9.1") as server:
            client = Client(server, "form")
            assert client.get("/workflows/logs", params={"page": "x"}).json() == {
                "errors": {"page": "x is not a valid integer"},
                "message": "Input payload validation failed",
            }
            body = client.post("/workflows/run", {"inputs": None, "user": "me"}).json()
            assert body["errors"] == {"inputs": "Must not be null!"}


class TestRoutes:
    """Lesser routes."""

    def test_meta_and_site(self, client: Client) -> None:
        """What the web app asks for."""
        assert client.get("/meta").json() == {"tool_icons": {}}
        assert client.get("/site").json()["title"] == "form"

    def test_chat_routes_refuse_a_workflow_app(self, client: Client) -> None:
        """Each with its own code."""
        for route, code in (("/chat-messages", "not_chat_app"), ("/completion-messages", "app_unavailable")):
            answer = client.post(route, {"inputs": {}, "query": "hi", "user": "me"})
            assert (answer.status_code, answer.json()["code"]) == (400, code)

    def test_unknown_files_and_forms(self, client: Client) -> None:
        """404."""
        assert client.get("/files/nope/preview").status_code == 404
        assert client.get("/form/human_input/nope").status_code == 404

    def test_events_follow_a_run_that_pauses(self) -> None:
        """The live stream ends at the pause."""
        with DifyServer(time_scale=0.02) as server:
            client = Client(server, "human_input")
            with client.stream(text="x") as stream:
                run_id = stream.until("workflow_paused")["workflow_run_id"]
            begin = time.monotonic()
            options: dict[str, Any] = {"params": {"user": "me", "include_state_snapshot": "true"}}
            text = client.get(f"/workflow/{run_id}/events", **options).text
            assert "workflow_paused" in text
            assert time.monotonic() - begin < 5
