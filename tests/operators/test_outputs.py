"""What a run puts out is saved where asked, under safe names, from nowhere else, and again by the next try."""

from __future__ import annotations

import json
import logging
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_dify.exceptions import (
    DifyError,
    DifyFileError,
    DifyFileRefusedError,
    DifyInvalidInputError,
    DifyOutputsError,
)
from airflow_provider_dify.hooks.dify import DifyHook
from airflow_provider_dify.operators.workflow import DifyRunWorkflowOperator
from airflow_provider_dify.runtime import input_form_cache as forms
from airflow_provider_dify.runtime.outputs import Destination, deliver, load_outputs
from airflow_provider_dify.sensors.workflow import DifyWorkflowRunSensor
from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.server import DifyServer
from airflow_provider_dify.testing.workflows import Input, OutputFile, Workflow
from tests.faults.tries import Task, connect, modes, requests_to, stores, submissions
from tests.hooks.support import VERSIONS, http, serving, texts_of
from tests.operators.storing import attached

MEBIBYTE = 1024 * 1024
FILES = Workflow(
    "files",
    inputs=[Input("doc", type="file", required=False)],
    outputs={
        "report": OutputFile("report.pdf", b"%PDF"),
        "parts": [OutputFile("part.csv", b"1"), {"deep": [[OutputFile("part.csv", b"22")]]}],
        "doc": "{doc}",
        "text": "done",
    },
    duration=0.1,
)
LARGE = Workflow("large", outputs={"text": "x" * 60_000}, duration=0.1)


def workflow(*files: OutputFile) -> Workflow:
    return Workflow("files", outputs={"files": list(files), "text": "done"}, duration=0.1)


@pytest.fixture(autouse=True)
def no_forms() -> None:
    forms.forget_forms()


@pytest.fixture
def server() -> Iterator[DifyServer]:
    with DifyServer([FILES, LARGE], time_scale=0.01) as server:
        yield server


def task(monkeypatch: pytest.MonkeyPatch, server: DifyServer, app: str = "files", **parameters: Any) -> Task:
    connect(monkeypatch, server, app)
    return Task(**{"store": True, "deferrable": False, "inputs": {}, **parameters})


def content_of(uri: str) -> bytes:
    assert uri.startswith("file:///"), uri
    return Path(uri.removeprefix("file://")).read_bytes()


def everything_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def failing(given: Task, kind: type[DifyError], *texts: str) -> DifyError:
    with pytest.raises(kind) as caught:
        given.run()
    for text in texts:
        assert text in str(caught.value), caught.value
    return caught.value


@modes
@pytest.mark.parametrize("version", VERSIONS)
def test_every_file_is_saved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, deferrable: bool) -> None:
    (tmp_path / "in.txt").write_text("hello", encoding="utf-8")
    with DifyServer([FILES], emulate=version, time_scale=0.01) as server:
        outputs = task(
            monkeypatch,
            server,
            inputs={"doc": {"path": str(tmp_path / "in.txt")}},
            output_files_to=str(tmp_path / "out"),
            deferrable=deferrable,
        ).run()
        run_id = server.runs[0].id
        files = [outputs["report"], outputs["parts"][0], outputs["parts"][1]["deep"][0][0], outputs["doc"]]
        assert [content_of(each["saved_to"]) for each in files] == [b"%PDF", b"1", b"22", b"hello"]
        folder = tmp_path / "out" / run_id
        assert files[0]["saved_to"] == f"file://{folder}/report.pdf"
        assert everything_in(folder) == {"report.pdf", "part.csv", "part-2.csv", "in.txt"}
        assert (files[0]["filename"], files[0]["size"]) == ("report.pdf", 4)
        assert outputs["text"] == "done"
        assert len(server.runs) == 1


def test_files_are_saved_in_an_object_store(monkeypatch: pytest.MonkeyPatch, server: DifyServer) -> None:
    store, folder = attached()
    outputs = task(monkeypatch, server, output_files_to=f"{folder}/{{{{ ds }}}}/".replace("{{ ds }}", "day")).run()
    saved = outputs["report"]["saved_to"]
    assert saved.startswith("memory://")
    assert saved.endswith(f"@/bucket/day/{server.runs[0].id}/report.pdf")
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    assert ObjectStoragePath(saved).read_bytes() == b"%PDF"
    assert len(store.find("/bucket")) == 3


def test_without_a_folder_outputs_stay_as_they_are(monkeypatch: pytest.MonkeyPatch, server: DifyServer) -> None:
    outputs = task(monkeypatch, server).run()
    assert "saved_to" not in outputs["report"]
    assert requests_to(server, "GET", ".pdf") == []


HOSTILE = [
    "../../../etc/passwd",
    "/etc/passwd",
    "..",
    "",
    "x" * 10_000,
    "C:\\win.ini",
    "~/.bashrc",
    "s3://other/a",
    "%2e%2e%2fx",
    ".hidden",
    "a/../../b",
    "same",
    "SAME",
]


def test_hostile_names_write_nowhere_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = [OutputFile(name, str(number).encode()) for number, name in enumerate(HOSTILE)]
    with DifyServer([workflow(*files)], time_scale=0.01) as server:
        folder = tmp_path / "a" / "b"
        given = task(monkeypatch, server, output_files_to=str(folder))
        outputs = given.run()
        assert [content_of(each["saved_to"]) for each in outputs["files"]] == [each.content for each in files]
        inside = f"a/b/{server.runs[0].id}/"
        found = everything_in(tmp_path)
        assert len(found) == len(files)
        assert all(each.startswith(inside) and "/" not in each.removeprefix(inside) for each in found)


def test_a_name_that_xcom_cannot_carry_is_saved_all_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with DifyServer([workflow(OutputFile("a\0b", b"content"))], time_scale=0.01) as server:
        folders = {"output_files_to": str(tmp_path / "files"), "outputs_to": str(tmp_path / "outputs")}
        (file,) = load_outputs(task(monkeypatch, server, **folders).run())["files"]
        assert file["filename"] == "a\0b"
        assert content_of(file["saved_to"]) == b"content"


def foreign(url: str) -> OutputFile:
    return OutputFile("a.txt", b"x", url=url)


@modes
@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "http://127.0.0.1:{port}/a", "//127.0.0.1:{port}/a", "ftp://x/a"]
)
def test_other_places_are_not_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, deferrable: bool
) -> None:
    with serving() as serve:
        other = serve(http(200, "x"))
        with DifyServer([workflow(foreign(url.format(port=other.port)))], time_scale=0.01) as server:
            given = task(monkeypatch, server, output_files_to=str(tmp_path), deferrable=deferrable)
            error = failing(given, DifyFileRefusedError, "outputs['files'][0] ('a.txt')", "has succeeded")
            assert error.workflow_run_id == server.runs[0].id
            assert server.runs[0].id in str(error)
        assert other.requests == []
    assert everything_in(tmp_path) == set()


def test_an_allowed_host_gets_nothing_that_is_the_connections_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serving() as serve:
        other = serve(http(200, "x"))
        with DifyServer([workflow(foreign(f"http://127.0.0.1:{other.port}/a?sign=1"))], time_scale=0.01) as server:
            given = task(
                monkeypatch, server, output_files_to=str(tmp_path), allowed_file_hosts=[f"127.0.0.1:{other.port}"]
            )
            connect(monkeypatch, server, "files", headers={"X-Gateway": "g4teway-t0ken"})
            assert content_of(given.run()["files"][0]["saved_to"]) == b"x"
        (request,) = other.requests
        assert request.line == "GET /a?sign=1 HTTP/1.1"
        assert "authorization" not in request.headers
        assert "x-gateway" not in request.headers


def test_the_own_server_gets_the_gateways_headers_and_no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with DifyServer([FILES], time_scale=0.01) as server:
        given = task(monkeypatch, server, output_files_to=str(tmp_path))
        connect(monkeypatch, server, "files", headers={"X-Gateway": "g4teway-t0ken"})
        given.run()
        (asked,) = [each for each in server.requests if each.path.endswith(".pdf")]
        assert asked.headers["X-Gateway"] == "g4teway-t0ken"
        assert "Authorization" not in asked.headers


@pytest.mark.any_airflow
def test_redirects_lead_nowhere_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with serving() as serve:
        other = serve(http(200, "%PDF"))
        target = f"http://127.0.0.1:{other.port}/a"
        one_file = workflow(OutputFile("a.pdf", b"%PDF"))
        with DifyServer([one_file], time_scale=0.01) as server:
            given = task(monkeypatch, server, output_files_to=str(tmp_path))
            server.inject(Fault("file", "redirect", url=target, times=None))
            failing(given, DifyFileRefusedError, "not the connection's server")
            assert other.requests == []
            server.clear_faults()
            server.inject(Fault("file", "redirect", url="/files/again", times=None))
            failing(given, DifyFileError)
            server.clear_faults()
            server.inject(Fault("file", "redirect", url=target))
            given.parameters["allowed_file_hosts"] = [f"127.0.0.1:{other.port}"]
            assert content_of(given.run()["files"][0]["saved_to"]) == b"%PDF"
            assert len(other.requests) == 1


@modes
@stores
def test_a_signature_that_has_expired_is_renewed_once(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, tmp_path: Path, deferrable: bool, store: bool
) -> None:
    server.inject(Fault("file", "status", status=403, code="forbidden", message="Invalid request."))
    given = task(monkeypatch, server, output_files_to=str(tmp_path), deferrable=deferrable, store=store)
    assert content_of(given.run()["report"]["saved_to"]) == b"%PDF"
    signs = [each.query["nonce"] for each in server.requests if each.path.startswith("/files/tools/")]
    assert len(signs) == len(set(signs)) == 4


@modes
@stores
def test_files_that_are_not_given_keep_the_run_for_the_next_try(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, deferrable: bool, store: bool
) -> None:
    with DifyServer([FILES], time_scale=0.01, file_url_seconds=-1) as server:
        given = task(monkeypatch, server, output_files_to=str(tmp_path), deferrable=deferrable, store=store)
        error = failing(given, DifyFileError, "also with a new signature", "A retry of the task reattaches to this run")
        run_id = server.runs[0].id
        assert error.workflow_run_id == run_id
        assert run_id in str(error)
        assert everything_in(tmp_path) == set()
        server._service.files._url_seconds = 300
        assert content_of(given.retry()["report"]["saved_to"]) == b"%PDF"
        assert len(server.runs) == 1
        assert len(submissions(server)) == 1


def test_a_sensor_collects_what_a_cleared_task_would_lose(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, tmp_path: Path
) -> None:
    run_id = task(monkeypatch, server, wait_for_termination=False).run()
    sensor = DifyWorkflowRunSensor(
        task_id="collect", workflow_run_id=run_id, output_files_to=str(tmp_path), poke_interval=0.05, timeout=20
    )
    context: Any = {"ti": task(monkeypatch, server).ti}
    assert content_of(sensor.execute(context)["report"]["saved_to"]) == b"%PDF"


@pytest.mark.parametrize(
    ("file", "options", "kind", "text"),
    [
        (OutputFile("a.txt", b"xyz", size=2), {}, DifyFileError, "it has more than 2 bytes, and 2 were reported"),
        (OutputFile("a.txt", b"xyz", size=4), {}, DifyFileError, "it has 3 bytes, and 4 were reported"),
        (OutputFile("a.txt", b"xyz"), {"max_file_bytes": 2}, DifyFileRefusedError, "it has 3 bytes, and max_fi"),
        (OutputFile("a.txt", b"xyz", size=-1), {"max_file_bytes": 2}, DifyFileRefusedError, "it has more, and max_f"),
    ],
)  # fmt: skip
def test_sizes_are_checked(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    file: OutputFile,
    options: dict[str, Any],
    kind: type[DifyError],
    text: str,
) -> None:
    with DifyServer([workflow(file)], time_scale=0.01) as server:
        failing(task(monkeypatch, server, output_files_to=str(tmp_path), **options), kind, text)
    assert everything_in(tmp_path) == set()


def test_a_size_that_nobody_tells_is_no_hindrance(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with DifyServer(
        [workflow(OutputFile("a.txt", b"xyz", size=-1), OutputFile("b.txt", b""))], time_scale=0.01
    ) as server:
        outputs = task(monkeypatch, server, output_files_to=str(tmp_path)).run()
    assert [content_of(each["saved_to"]) for each in outputs["files"]] == [b"xyz", b""]


def test_a_login_page_is_not_taken_for_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = workflow(OutputFile("a.csv", b"1", size=-1))
    with DifyServer([files], time_scale=0.01) as server:
        server.inject(Fault("file", "login_page", times=None))
        failing(task(monkeypatch, server, output_files_to=str(tmp_path)), DifyFileError, "answered a page of text/html")


@modes
def test_a_store_that_fails_in_the_middle_leaves_nothing_and_keeps_the_run(
    monkeypatch: pytest.MonkeyPatch, deferrable: bool
) -> None:
    store, folder = attached()
    with DifyServer([workflow(OutputFile("a.bin", b"x" * MEBIBYTE))], time_scale=0.01) as server:
        given = task(monkeypatch, server, output_files_to=folder, deferrable=deferrable)
        store.fail_writing_after = MEBIBYTE // 2
        failing(given, DifyFileError, "/a.bin' could not be written (OSError: [Errno 5] the store is gone)")
        assert store.find("/bucket") == []
        store.fail_writing_after, store.fail_moving = None, True
        given.ti.try_number += 1
        failing(given, DifyFileError, "could not be written")
        assert store.find("/bucket") == []
        store.fail_moving = False
        assert given.retry()["files"][0]["saved_to"].endswith("/a.bin")
        assert len(server.runs) == 1


@pytest.mark.any_airflow
def test_a_connection_that_breaks_in_the_middle_is_asked_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    content = b"x" * MEBIBYTE

    def answer(request: Any, connection: socket.socket) -> bytes | None:
        whole = http(200, content)
        if len(raw.requests) == 1:
            connection.sendall(whole[: MEBIBYTE // 2])
            return None
        return whole

    with serving() as serve:
        raw = serve(answer)
        monkeypatch.setenv(
            "AIRFLOW_CONN_DIFY_DEFAULT", json.dumps({"conn_type": "dify", "host": raw.url, "password": "app-x"})
        )
        monkeypatch.setattr("airflow_provider_dify.client.exchange.FIRST_RETRY_SECONDS", 0.01)
        saved = DifyHook().download_file({"url": "/files/a", "size": MEBIBYTE}, tmp_path / "a.bin")
        assert (saved.size, len(raw.requests)) == (MEBIBYTE, 2)
        assert content_of(saved.uri) == content
    assert everything_in(tmp_path) == {"a.bin"}


def test_no_signature_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: Any
) -> None:
    sign = "jkjVYau2o0dO5JeY0_9CsNYGRUQfl0g6wJCjUzifq6c"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    monkeypatch.setenv(
        "AIRFLOW_CONN_DIFY_DEFAULT",
        json.dumps({"conn_type": "dify", "host": f"http://127.0.0.1:{port}", "password": "app-x"}),
    )
    monkeypatch.setattr("airflow_provider_dify.client.exchange.FIRST_RETRY_SECONDS", 0.01)
    caplog.set_level(logging.INFO)
    with pytest.raises(DifyFileError) as caught:
        DifyHook().download_file(f"/files/a?sign={sign}", tmp_path / "a")
    assert f"127.0.0.1:{port}" in str(caught.value)
    assert sign not in texts_of(caught.value)
    assert sign not in caplog.text
    assert sign not in "".join(capsys.readouterr())


@pytest.mark.any_airflow
def test_no_signature_is_reported_in_the_debug_log_of_the_http_client(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.inject(Fault("file", "redirect", url="/files/again?sign=jkjVYau2o0dO5JeY0_9CsNYGRUQfl0g6wJCjUzifq6c"))
    task(monkeypatch, server, output_files_to=str(tmp_path)).run()
    signs = [each.query["sign"] for each in server.requests if each.path.startswith("/files/")]
    assert len(signs) > 1
    reported = [each.getMessage() for each in caplog.records if each.name.startswith("urllib3")]
    assert [text for text in reported if "/files/" in text and "sign=***" in text]
    assert not [text for text in reported if any(sign in text for sign in signs)]


# --- Limits of all files together


@modes
def test_a_run_of_too_many_files_saves_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, deferrable: bool) -> None:
    with DifyServer([workflow(*[OutputFile("a.csv", b"1")] * 1001)], time_scale=0.01) as server:
        given = task(monkeypatch, server, output_files_to=str(tmp_path), deferrable=deferrable)
        text = "there are 1,001 files among the outputs, and at most 1,000 are saved of one run. Let the workflow put"
        error = failing(given, DifyFileRefusedError, text, "has succeeded")
        assert error.workflow_run_id == server.runs[0].id
        assert requests_to(server, "GET", ".csv") == []
    assert everything_in(tmp_path) == set()


@pytest.mark.any_airflow
@pytest.mark.timeout(120)
def test_as_many_files_as_allowed_take_no_longer_for_each(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with DifyServer([workflow(*[OutputFile("a.csv", b"1")] * 1000)], time_scale=0.01) as server:
        outputs = task(monkeypatch, server, output_files_to=str(tmp_path)).run()
    saved = [each["saved_to"].rpartition("/")[2] for each in outputs["files"]]
    assert (saved[:2], saved[-1]) == (["a.csv", "a-2.csv"], "a-1000.csv")
    assert len(everything_in(tmp_path)) == 1000


@modes
def test_files_that_are_too_large_together_are_not_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, deferrable: bool
) -> None:
    files = [OutputFile(f"{number}.csv", b"1", size=6 * 1024**3) for number in range(2)]
    with DifyServer([workflow(*files)], time_scale=0.01) as server:
        common: dict[str, Any] = {"output_files_to": str(tmp_path), "deferrable": deferrable}
        given = task(monkeypatch, server, max_file_bytes=6 * 1024**3, **common)
        text = "more than 10,737,418,240 bytes together, which is the most that is saved of one run. Raise max_file_by"
        failing(given, DifyFileRefusedError, text)
        assert requests_to(server, "GET", ".csv") == []
        # One alone is too large: none of the others is asked for either.
        failing(task(monkeypatch, server, **common), DifyFileRefusedError, "outputs['files'][0] ('0.csv'): it has 6,44")
        assert requests_to(server, "GET", ".csv") == []


def test_files_that_turn_out_too_large_together_leave_no_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("airflow_provider_dify.rules.output_files.MAX_OUTPUT_FILES_BYTES", MEBIBYTE)
    files = [OutputFile(f"{number}.csv", b"x" * (MEBIBYTE // 4), size=-1) for number in range(5)]
    with DifyServer([workflow(*files)], time_scale=0.01) as server:
        given = task(monkeypatch, server, output_files_to=str(tmp_path), max_file_bytes=MEBIBYTE)
        failing(given, DifyFileRefusedError, "outputs['files']", "more than 1,048,576 bytes together")
        assert {each.rpartition("/")[2] for each in everything_in(tmp_path)} <= {f"{number}.csv" for number in range(5)}
        # What a retry overwrites does not count twice.
        given.parameters["max_file_bytes"] = 2 * MEBIBYTE
        assert len(given.retry()["files"]) == 5
        assert len(server.runs) == 1


# --- What is in the way, and ends in the middle


@modes
def test_a_folder_at_the_place_of_a_file_fails_the_task_and_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, deferrable: bool
) -> None:
    with DifyServer([workflow(OutputFile("a.csv", b"1"))], time_scale=0.01) as server:
        given = task(monkeypatch, server, output_files_to=str(tmp_path), deferrable=deferrable, durable=True)
        monkeypatch.setattr("airflow_provider_dify.runtime.outputs.safe_name", lambda *_: "run")
        (tmp_path / "run" / "a.csv").mkdir(parents=True)
        failing(
            given,
            DifyFileError,
            "/run/a.csv' could not be written: a folder is at that place",
            "reattaches to this run",
        )
        assert [str(each.relative_to(tmp_path)) for each in sorted(tmp_path.rglob("*"))] == ["run", "run/a.csv"]
        (tmp_path / "run" / "a.csv").rmdir()
        assert content_of(given.retry()["files"][0]["saved_to"]) == b"1"
        assert len(server.runs) == 1


@pytest.mark.parametrize("hangs", [False, True])
@pytest.mark.parametrize("end", ["error", "kill"])
def test_what_is_under_way_when_the_task_ends_leaves_no_part(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, end: str, hangs: bool
) -> None:
    """A process of Airflow 3 ends right after its task: what its threads have begun would stay as it is."""
    whole = http(200, b"x" * MEBIBYTE)
    ended = threading.Event()

    def answer(request: Any, connection: socket.socket) -> bytes | None:
        if "/files/0" in request.line:
            while len([each for each in everything_in(tmp_path) if each.endswith(".part")]) < 3:
                ended.wait(0.01)
            if end == "error":
                return http(302, "", Location="http://elsewhere.example/")
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
        connection.sendall(whole[: MEBIBYTE // 2])
        while not hangs and not ended.wait(0.05):
            connection.sendall(b"x" * 10_000)
        ended.wait(60)
        return None

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, killed)
    file = {"dify_model_identity": "__dify__file__"}
    outputs = {"files": [{**file, "url": f"/files/{number}", "filename": f"{number}"} for number in range(6)]}
    with serving() as serve:
        monkeypatch.setenv(
            "AIRFLOW_CONN_DIFY_DEFAULT",
            json.dumps({"conn_type": "dify", "host": serve(answer).url, "password": "app-x"}),
        )
        try:
            began = time.monotonic()
            with pytest.raises(DifyFileRefusedError if end == "error" else KeyboardInterrupt):
                deliver(
                    outputs,
                    workflow_run_id="run",
                    hook=DifyHook(),
                    to=Destination(files_to=str(tmp_path)),
                    on_retry="",
                )
            assert everything_in(tmp_path) == set()
            assert time.monotonic() - began < 20
        finally:
            ended.set()
            signal.signal(signal.SIGUSR1, before)


@modes
@pytest.mark.parametrize("version", VERSIONS)
def test_large_outputs_are_offloaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, deferrable: bool
) -> None:
    with DifyServer([LARGE], emulate=version, time_scale=0.01) as server:
        returned = task(monkeypatch, server, "large", outputs_to=str(tmp_path), deferrable=deferrable).run()
        run_id = server.runs[0].id
    assert returned == {
        "dify_outputs_saved_to": f"file://{tmp_path}/{run_id}.json",
        "size_bytes": 60_012,
        "workflow_run_id": run_id,
    }
    assert load_outputs(returned) == {"text": "x" * 60_000}
    assert everything_in(tmp_path) == {f"{run_id}.json"}


def test_small_outputs_are_returned_unless_all_are_to_be_offloaded(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer
) -> None:
    store, folder = attached()
    small = task(monkeypatch, server, outputs_to=folder).run()
    assert small["text"] == "done"
    assert load_outputs(small) == small
    assert store.find("/bucket") == []
    aside = task(monkeypatch, server, outputs_to=folder, max_xcom_bytes=0).run()
    assert load_outputs(aside)["text"] == "done"


def test_without_a_folder_large_outputs_pass_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, caplog: pytest.LogCaptureFixture
) -> None:
    assert task(monkeypatch, server, "large").run() == {"text": "x" * 60_000}
    (warning,) = [each.getMessage() for each in caplog.records if "as JSON" in each.getMessage()]
    assert "60,012 bytes" in warning
    assert "outputs_to" in warning


@modes
@stores
def test_outputs_that_cannot_be_offloaded_keep_the_run(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, deferrable: bool, store: bool
) -> None:
    place, folder = attached()
    place.fail_writing_after = 10
    given = task(monkeypatch, server, "large", outputs_to=folder, deferrable=deferrable, store=store)
    failing(given, DifyFileError, "could not be written", "reattaches to this run")
    place.fail_writing_after = None
    assert load_outputs(given.retry()) == {"text": "x" * 60_000}
    assert len(server.runs) == 1


def test_without_durable_the_message_names_the_way_out(monkeypatch: pytest.MonkeyPatch, server: DifyServer) -> None:
    place, folder = attached()
    place.fail_writing_after = 10
    given = task(monkeypatch, server, "large", outputs_to=folder, durable=False)
    failing(given, DifyFileError, "A retry of the task starts a new run; a DifyWorkflowRunSensor")


@pytest.mark.parametrize("name", ["output_files_to", "outputs_to"])
def test_an_unknown_store_is_noticed_before_there_is_a_run(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, name: str
) -> None:
    failing(
        task(monkeypatch, server, **{name: "nope://bucket"}), DifyInvalidInputError, "'nope://bucket' cannot be used"
    )
    assert submissions(server) == []


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"max_file_bytes": -1}, "max_file_bytes must be a whole number of bytes, 0 or more, got -1"),
        ({"max_xcom_bytes": "1"}, "max_xcom_bytes must be a whole number of bytes"),
        ({"allowed_file_hosts": "a.example"}, "allowed_file_hosts must be a list"),
        ({"allowed_file_hosts": ["https://a.example"]}, "allowed_file_hosts must hold hosts"),
    ],
)
def test_a_wrong_parameter_is_refused_while_the_dag_is_parsed(parameters: dict[str, Any], text: str) -> None:
    with pytest.raises(DifyInvalidInputError, match=text):
        DifyRunWorkflowOperator(task_id="a", **parameters)
    with pytest.raises(DifyInvalidInputError, match=text):
        DifyWorkflowRunSensor(task_id="a", workflow_run_id="x", **parameters)


# --- What XCom cannot carry

UNFIT = {
    "NaN": {"x": float("nan")},
    "infinity": {"x": [float("-inf")]},
    "U+0000": {"x": "a\0b"},
    "a lone surrogate": {"x": "\ud800"},
    "a reserved key": {"x": {"__classname__": "a"}},
    "a huge number": {"x": 10**40},
}
unfit = pytest.mark.parametrize("outputs", UNFIT.values(), ids=UNFIT)


@modes
@stores
@unfit
def test_what_xcom_cannot_carry_fails_the_task_with_run_and_place(
    monkeypatch: pytest.MonkeyPatch, outputs: dict[str, Any], deferrable: bool, store: bool
) -> None:
    with DifyServer([Workflow("odd", outputs=outputs, duration=0.1)], time_scale=0.01) as server:
        given = task(monkeypatch, server, "odd", deferrable=deferrable, store=store)
        with pytest.raises(DifyOutputsError, match=r"outputs\['x'\].*\n.*outputs_to") as caught:
            given.run()
        assert server.runs[0].id in str(caught.value)
        # A retry that somebody starts all the same takes the outputs of this run again.
        with pytest.raises(DifyOutputsError):
            given.retry()
        assert len(submissions(server)) == 1


@modes
@unfit
def test_what_xcom_cannot_carry_is_saved_whole(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, outputs: dict[str, Any], deferrable: bool
) -> None:
    with DifyServer([Workflow("odd", outputs=outputs, duration=0.1)], time_scale=0.01) as server:
        returned = task(monkeypatch, server, "odd", deferrable=deferrable, outputs_to=str(tmp_path)).run()
        assert returned["workflow_run_id"] == server.runs[0].id
    assert repr(load_outputs(returned)) == repr(outputs)


@unfit
def test_a_sensor_saves_what_xcom_cannot_carry(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, outputs: dict[str, Any]
) -> None:
    with DifyServer([Workflow("odd", outputs=outputs, duration=0.1)], time_scale=0.01) as server:
        connect(monkeypatch, server, "odd")
        run_id = DifyHook().create_workflow_run({}, user="me").workflow_run_id
        common: dict[str, Any] = {"task_id": "it", "workflow_run_id": run_id, "poke_interval": 0.1}
        context: Any = {"ti": Task(store=False, deferrable=False).ti}
        with pytest.raises(DifyOutputsError, match=run_id):
            DifyWorkflowRunSensor(**common).execute(context)
        returned = DifyWorkflowRunSensor(**common, outputs_to=str(tmp_path)).execute(context)
    assert repr(load_outputs(returned)) == repr(outputs)
