"""Holds the knowledge API of the local server against every recording of a real one."""

from __future__ import annotations

import copy
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import requests

from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.server import DifyServer
from tests.contract.server_compare import Exchange, differences
from tests.contract.test_knowledge_parsing import NAMES, load

LIMIT = 20.0
_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_BATCH = re.compile(r"\b\d{20}\b")
_HALF_ID = re.compile(r"[0-9a-f-]{18}'\]")
_SECONDS = re.compile(r"^\d{10}\.\d+$")
_TIMES = re.compile(r"(_at|latency)$")

NOT_COMPARED: dict[str, str] = {}
"""Recordings that the local server does not agree with, each with the reason."""


def plain(value: Any, key: str = "") -> Any:
    """Return a body with times, batches and hashes made alike; null stays null."""
    if isinstance(value, dict):
        return {name: plain(item, name) for name, item in value.items()}
    if isinstance(value, list):
        items = [plain(item, key) for item in value]
        # The order in which Dify's segmenter finds words is its own.
        return sorted(items) if key == "keywords" else items
    if isinstance(value, str):
        text = _HALF_ID.sub("HALF']", _BATCH.sub("BATCH", value))
        text = re.sub(r"kb[hn]? \d{10}", "NAME", text)
        if key == "index_node_hash":
            return "HASH"
        if key == "dataset_process_rule_id":
            # Without a rule the latest counts, and which of several within one second that is, is rng.
            return "RULE"
        return "SECONDS" if _SECONDS.match(text) else text
    if isinstance(value, (int, float)) and not isinstance(value, bool) and _TIMES.search(key):
        return "TIME"
    return value


class KnowledgeLab:
    """One server, and the exchanges with it, by the recordings' names."""

    def __init__(self, **options: Any) -> None:
        self.server = DifyServer(**{"datasets": (), "plugin_daemon": False, "time_scale": 0.3, **options})
        self.exchanges: dict[str, Exchange] = {}
        self.ids: dict[str, str] = {}

    def replay(self, name: str, *, content: bytes | None = None) -> dict[str, Any]:
        """Send a recorded request, with the ids of this server in place of the recorded ones; return what came."""
        recording = load(name)
        request = recording["request"]
        headers = dict(request["headers"])
        if "app-" in headers.get("Authorization", ""):
            headers["Authorization"] = f"Bearer {self.server.api_key('echo')}"
        elif name != "dataset-key-wrong" and "Authorization" in headers:
            headers["Authorization"] = f"Bearer {self.server.dataset_key}"
        body = json.dumps(request["json"]) if "json" in request else request.get("body")
        data = content if content is not None else None if body is None else self._here(body).encode()
        response = requests.request(
            request["method"],
            self.server.base_url + self._here(request["path"]),
            params=request["query"],
            headers=headers,
            data=data,
            timeout=LIMIT,
        )
        exchange = Exchange(response.status_code, {k.lower(): v for k, v in response.headers.items()}, response.text)
        self.exchanges[name] = exchange
        reported = recording["response"]
        if response.ok and response.text:
            self._learn(reported.get("json"), exchange.json())
        return exchange.json() if response.text.startswith(("{", "[")) else {}

    def until(self, name: str, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Send a recorded request again until its answer is the wanted one."""
        end = time.monotonic() + LIMIT
        while not wanted(self.replay(name)):
            assert time.monotonic() < end, f"{name} never came: {self.exchanges[name].body}"

    def _here(self, text: str) -> str:
        for recorded, own in self.ids.items():
            text = text.replace(recorded, own)
        return text

    def _learn(self, recorded: Any, own: Any) -> None:
        if isinstance(recorded, dict) and isinstance(own, dict):
            for key in ("id", "batch"):
                if isinstance(recorded.get(key), str) and isinstance(own.get(key), str) and recorded[key] != "built-in":
                    self.ids[recorded[key]] = own[key]
            self._learn(recorded.get("document"), own.get("document"))


def state_is(state: str, completed: int | None = None) -> Callable[[dict[str, Any]], bool]:
    """Return what tells that the indexing has come so far."""

    def reached(body: dict[str, Any]) -> bool:
        (row,) = body["data"]
        return row["indexing_status"] == state and completed in (None, row["completed_segments"])

    return reached


@contextmanager
def serving(**options: Any) -> Iterator[KnowledgeLab]:
    lab = KnowledgeLab(**options)
    with lab.server:
        yield lab


SCENARIOS: dict[str, Callable[[], dict[str, Exchange]]] = {}


def covers(*names: str) -> Callable[[Any], Any]:
    def register(scenario: Any) -> Any:
        cached = cache(scenario)
        for name in names:
            assert name not in SCENARIOS, name
            SCENARIOS[name] = cached
        return cached

    return register


_MAIN = (
    "dataset-create", "dataset-create-same-name", "dataset-create-no-name", "dataset-create-no-technique",
    "dataset-create-name-41", "dataset-create-high-quality", "dataset-list", "dataset-get", "dataset-get-unknown",
    "dataset-get-bad-uuid", "dataset-key-wrong", "dataset-app-key", "dataset-key-missing", "dataset-tags",
    "document-create-by-text", "document-text-indexing-status-waiting", "document-text-indexing-status-indexing",
    "document-text-indexing-status-completed", "document-get", "document-segments", "document-create-same-name",
    "document-same-name-indexing-status-indexing", "document-same-name-indexing-status-completed",
    "document-create-underscore", "document-alias-indexing-status-indexing",
    "document-alias-indexing-status-completed", "document-create-by-file", "document-file-indexing-status-completed",
    "document-create-by-file-no-file", "document-create-by-file-unsupported", "document-create-by-file-empty",
    "document-empty-indexing-status-completed", "document-create-by-file-too-big", "document-create-by-file-no-rule",
    "document-create-by-file-pdf-broken", "document-list", "document-broken-get", "document-list-keyword",
    "document-list-status-available", "document-list-status-error", "document-list-status-unknown",
    "document-list-limit-200", "document-create-unknown-dataset", "document-create-no-text",
    "document-create-text-empty", "document-create-no-rule", "document-create-other-technique",
    "document-create-bad-form", "indexing-status-unknown-batch", "document-get-unknown",
    "document-create-no-technique", "metadata-create", "metadata-create-again", "metadata-list", "metadata-set",
    "document-get-metadata-only", "document-list-after-metadata", "metadata-set-unknown-document",
    "retrieve-keyword", "retrieve-metadata-filter", "retrieve-no-model", "document-update-by-text",
    "document-get-right-after-update", "document-update-indexing-status-completed", "document-segments-after-update",
    "document-update-text-no-name", "document-update-unknown", "segment-add", "document-status-disable-again",
    "document-status-archive", "document-get-archived", "document-update-archived", "document-delete-archived",
    "document-status-un_archive", "document-status-unknown", "document-status-unknown-document", "document-delete",
    "document-delete-again", "document-get-deleted", "document-busy-create", "document-delete-while-indexing",
    "document-update-disabled",
)  # fmt: skip


@covers(*_MAIN)
def main_scenario() -> dict[str, Exchange]:
    """The second recording session, step by step."""
    with serving() as lab:
        for name in _MAIN[:15]:
            lab.replay(name)
        lab.replay("document-text-indexing-status-waiting")
        lab.until("document-text-indexing-status-indexing", state_is("indexing"))
        lab.until("document-text-indexing-status-completed", state_is("completed", 1))
        for name in ("document-get", "document-segments", "document-create-same-name"):
            lab.replay(name)
        for name in ("indexing", "completed"):
            lab.until(f"document-same-name-indexing-status-{name}", state_is("completed", 1))
        lab.replay("document-create-underscore")
        for name in ("indexing", "completed"):
            lab.until(f"document-alias-indexing-status-{name}", state_is("completed", 1))
        lab.replay("document-create-by-file")
        lab.until("document-file-indexing-status-completed", state_is("completed", 1))
        lab.replay("document-create-by-file-no-file")
        lab.replay("document-create-by-file-unsupported")
        lab.replay("document-create-by-file-empty")
        lab.until("document-empty-indexing-status-completed", state_is("completed"))
        lab.replay("document-create-by-file-too-big", content=big_file("document-create-by-file-too-big"))
        lab.replay("document-create-by-file-no-rule")
        time_out = time.monotonic() + LIMIT
        while lab.server.documents("kb 1795583422")[-1].state != "completed":
            assert time.monotonic() < time_out
        lab.replay("document-create-by-file-pdf-broken")
        lab.until("document-list", lambda body: body["data"][0]["indexing_status"] == "parsing")
        lab.until("document-broken-get", lambda body: body["indexing_status"] == "error")
        for name in _MAIN[_MAIN.index("document-list-keyword") : _MAIN.index("document-create-unknown-dataset")]:
            lab.replay(name)
        for name in _MAIN[_MAIN.index("document-create-unknown-dataset") : _MAIN.index("document-update-by-text")]:
            lab.replay(name)
        lab.replay("document-update-by-text")
        lab.until("document-get-right-after-update", lambda body: body["indexing_status"] == "indexing")
        lab.until("document-update-indexing-status-completed", state_is("completed", 1))
        for name in _MAIN[_MAIN.index("document-segments-after-update") :]:
            lab.replay(name)
        return lab.exchanges


_FIRST = (
    "document-text-indexing-status-splitting", "document-same-name-indexing-status-splitting",
    "document-file-indexing-status-indexing", "document-status-disable", "indexing-status-waiting-no-worker",
)  # fmt: skip


@covers(*_FIRST)
def first_scenario() -> dict[str, Exchange]:
    """What was recorded in earlier sessions, whose uploads are not among the recordings."""
    with serving() as lab:
        lab.replay("dataset-create")
        (dataset,) = lab.server.datasets.values()
        uploaded = lab.replay("document-create-by-text")
        _place(lab, "document-text-indexing-status-splitting", dataset, uploaded)
        lab.until("document-text-indexing-status-splitting", state_is("indexing"))
        _place(lab, "document-text-indexing-status-splitting", dataset, uploaded)
        lab.until("document-text-indexing-status-completed", state_is("completed", 1))
        again = lab.replay("document-create-same-name")
        _place(lab, "document-same-name-indexing-status-splitting", dataset, again)
        lab.until("document-same-name-indexing-status-splitting", state_is("splitting"))
        file = lab.replay("document-create-by-file")
        _place(lab, "document-file-indexing-status-indexing", dataset, file)
        lab.until("document-file-indexing-status-indexing", state_is("completed", 0))
        _place(lab, "document-status-disable", dataset, again)
        lab.replay("document-status-disable")
        lab.server.stop_indexing()
        stuck = lab.replay("document-create-underscore")
        _place(lab, "indexing-status-waiting-no-worker", dataset, stuck)
        lab.replay("indexing-status-waiting-no-worker")
        return {name: lab.exchanges[name] for name in _FIRST}


def _place(lab: KnowledgeLab, name: str, dataset: str, uploaded: dict[str, Any]) -> None:
    """Let the ids of a recording stand for a document of this server."""
    path = load(name)["request"]["path"].split("/")
    lab.ids[path[3]] = dataset
    if path[-1] == "indexing-status":
        lab.ids[path[5]] = uploaded["batch"]
    for document_id in (load(name)["request"].get("json") or {}).get("document_ids", ()):
        lab.ids[document_id] = uploaded["document"]["id"]


def big_file(name: str) -> bytes:
    boundary = load(name)["request"]["headers"]["Content-Type"].partition("boundary=")[2]
    content = "x" * 15728650
    return (
        f'--{boundary}\r\nContent-Disposition: form-data; name="data"\r\n\r\n{{"indexing_technique": "economy"}}\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="big.txt"\r\n'
        f"Content-Type: text/plain\r\n\r\n{content}\r\n--{boundary}--\r\n"
    ).encode()


def compared(name: str, exchange: Exchange) -> list[str]:
    recording = copy.deepcopy(load(name))
    response = recording["response"]
    own = copy.copy(exchange)
    if "json" in response:
        response["json"] = plain(response["json"])
        own.body = json.dumps(plain(exchange.json()))
    return differences(recording, own)


def test_every_recording_has_a_scenario() -> None:
    assert sorted(SCENARIOS) == NAMES
    assert set(NOT_COMPARED) <= set(NAMES)


@pytest.mark.xdist_group("knowledge")
@pytest.mark.parametrize("name", NAMES)
def test_answers_as_recorded(name: str) -> None:
    """The local server says what the real one lines."""
    assert compared(name, SCENARIOS[name]()[name]) == []


TAMPERINGS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another status": lambda recording: recording["response"].update(status=500),
    "another state": lambda recording: recording["response"]["json"]["data"][0].update(indexing_status="waiting"),
    "a key more": lambda recording: recording["response"]["json"]["data"][0].update(more=1),
    "a key less": lambda recording: recording["response"]["json"]["data"][0].pop("error"),
    "null for a time": lambda recording: recording["response"]["json"]["data"][0].update(completed_at=None),
    "another count": lambda recording: recording["response"]["json"]["data"][0].update(total_segments=7),
}


@pytest.mark.xdist_group("knowledge")
@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_a_tampered_answer_is_detected(tampering: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison can fail."""
    name = "document-text-indexing-status-completed"
    tampered = copy.deepcopy(load(name))
    TAMPERINGS[tampering](tampered)
    monkeypatch.setattr("tests.contract.test_knowledge_server.load", lambda _: tampered)
    assert compared(name, SCENARIOS[name]()[name]) != []


# --- What no recording shows


def headers(server: DifyServer) -> dict[str, str]:
    return {"Authorization": f"Bearer {server.dataset_key}"}


def upload(server: DifyServer, name: str = "a", text: str = "one two") -> requests.Response:
    return requests.post(
        f"{server.api_url}/datasets/{server.datasets['handbook']}/document/create-by-text",
        json={"name": name, "text": text, "indexing_technique": "economy"},
        headers=headers(server),
        timeout=LIMIT,
    )


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_disabled_namesake_is_not_replaced() -> None:
    with DifyServer(time_scale=0.01) as server:
        first = upload(server).json()["document"]["id"]
        url = f"{server.api_url}/datasets/{server.datasets['handbook']}/documents/status/disable"
        requests.patch(url, json={"document_ids": [first]}, headers=headers(server), timeout=LIMIT)
        assert upload(server).json()["document"]["id"] != first
        assert upload(server).json()["document"]["id"] != first
        assert [document.uploads for document in server.documents("handbook")] == [1, 2]


@pytest.mark.parametrize(
    ("fault", "ends_as"),
    [
        (Fault(on="document_upload", kind="parse_error", message="no text"), "error"),
        (Fault(on="document_upload", kind="slow_indexing", seconds=0.2), "completed"),
    ],
)
def test_faults_of_indexing(fault: Fault, ends_as: str) -> None:
    with DifyServer(time_scale=0.001) as server:
        server.inject(fault)
        began = time.monotonic()
        upload(server)
        wait_for(lambda: server.documents("handbook")[0].state == ends_as)
        if fault.seconds:
            assert time.monotonic() - began > fault.seconds


def test_a_document_that_is_stuck_in_the_queue() -> None:
    with DifyServer(time_scale=0.001) as server:
        server.inject(Fault(on="document_upload", kind="stuck_in_queue"))
        upload(server, "a")
        upload(server, "b")
        wait_for(lambda: server.documents("handbook")[1].state == "completed")
        assert server.documents("handbook")[0].state == "waiting"
        server.start_indexing()
        wait_for(lambda: server.documents("handbook")[0].state == "completed")


def test_an_answer_that_is_lost_after_the_document_was_made() -> None:
    with DifyServer(time_scale=0.001) as server:
        server.inject(Fault(on="document_upload", kind="accept_then_reset"))
        with pytest.raises(requests.ConnectionError):
            upload(server)
        assert [document.name for document in server.documents("handbook")] == ["a"]


def test_knowledge_bases_are_listed_where_the_plugin_daemon_runs() -> None:
    with DifyServer(datasets=("one", "two"), time_scale=0.001) as server:
        body = requests.get(
            f"{server.api_url}/datasets", params={"keyword": "TW"}, headers=headers(server), timeout=LIMIT
        ).json()
        assert [(row["name"], row["id"]) for row in body["data"]] == [("two", server.datasets["two"])]


def test_versions_of_which_nothing_was_recorded_have_no_knowledge_api() -> None:
    with DifyServer(emulate="1.11.2") as server:
        url = f"{server.api_url}/datasets"
        assert requests.get(url, headers=headers(server), timeout=LIMIT).status_code == 404
