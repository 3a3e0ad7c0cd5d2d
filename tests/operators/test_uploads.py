"""Files that a task passes in: uploaded first, once, and under the run's own user, or a clear error and no run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_dify.exceptions import DifyError, DifyFileError, DifyInvalidInputError
from airflow_provider_dify.hooks.dify import DifyHook
from airflow_provider_dify.runtime import input_form_cache as forms
from airflow_provider_dify.testing.faults import Fault
from airflow_provider_dify.testing.server import DifyServer
from airflow_provider_dify.testing.workflows import Input, OutputFile, Workflow
from tests.client.test_object_stores import UNFIT
from tests.faults.tries import Killed, Task, connect, death, modes, requests_to, submissions
from tests.hooks.support import VERSIONS
from tests.operators.storing import attached

WORKFLOW = Workflow(
    "files",
    inputs=[
        Input("text", required=False),
        Input("doc", type="file", required=False),
        Input("docs", type="file-list", required=False, max_length=5),
    ],
    outputs={"doc": "{doc}", "docs": "{docs}", "files": "{sys.files}", "text": "{text}"},
    duration=0.1,
)
MEBIBYTE = 1024 * 1024


@pytest.fixture(autouse=True)
def no_forms() -> None:
    forms.forget_forms()


Make = Callable[..., Task]


@pytest.fixture
def server() -> Iterator[DifyServer]:
    with DifyServer([WORKFLOW], time_scale=0.01) as server:
        yield server


def task(monkeypatch: pytest.MonkeyPatch, server: DifyServer, **parameters: Any) -> Task:
    connect(monkeypatch, server, "files")
    return Task(**{"store": True, "deferrable": False, "inputs": {}, **parameters})


def uploads(server: DifyServer) -> int:
    return len(requests_to(server, "POST", "/files/upload"))


def named(files: list[dict[str, Any]]) -> list[tuple[str, str, str, int]]:
    return [(each["filename"], each["type"], each["mime_type"], each["size"]) for each in files]


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "report.md"
    path.write_text("# Report", encoding="utf-8")
    return path


@modes
@pytest.mark.parametrize("version", VERSIONS)
def test_files_from_everywhere(monkeypatch: pytest.MonkeyPatch, document: Path, version: str, deferrable: bool) -> None:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    store, folder = attached()
    store.pipe("/bucket/table.csv", b"a,b")
    with DifyServer([WORKFLOW], emulate=version, time_scale=0.01) as server:
        inputs = {
            "text": "/no/file",
            "doc": {"path": document.as_uri()},
            "docs": [
                document,
                {"path": f"{folder}/table.csv"},
                {"path": str(document), "name": "b.html", "mime_type": "text/x"},
            ],
        }
        files = [str(document), ObjectStoragePath(f"{folder}/table.csv"), "https://files.example/a.png"]
        outputs = task(monkeypatch, server, inputs=inputs, files=files, deferrable=deferrable).run()
        assert outputs["text"] == "/no/file"
        assert named([outputs["doc"]]) == [("report.md", "document", "text/markdown", 8)]
        assert named(outputs["docs"]) == [
            ("report.md", "document", "text/markdown", 8),
            ("table.csv", "document", "text/csv", 3),
            ("b.html", "document", "text/x", 8),
        ]
        assert [each[0] for each in named(outputs["files"])] == ["report.md", "table.csv", "a.png"]
        # The same file under the same name is uploaded once: by path, by URI, for one more place.
        assert uploads(server) == 4
        assert len(server.runs) == 1


def test_a_template_may_name_files(monkeypatch: pytest.MonkeyPatch, server: DifyServer, document: Path) -> None:
    outputs = task(monkeypatch, server, inputs=f'{{"doc": {{"path": "{document}"}}}}', files=f'["{document}"]').run()
    assert named([outputs["doc"], *outputs["files"]]) == [("report.md", "document", "text/markdown", 8)] * 2


def test_without_a_form_files_are_uploaded_all_the_same(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, document: Path
) -> None:
    server.inject(Fault("parameters", "status", status=500, times=None))
    inputs = {"doc": {"path": str(document), "transfer_method": "local_file"}, "docs": [document]}
    outputs = task(monkeypatch, server, inputs=inputs).run()
    assert named([outputs["doc"], *outputs["docs"]]) == [("report.md", "document", "text/markdown", 8)] * 2
    forms.forget_forms()
    server.clear_faults()
    assert task(monkeypatch, server, inputs=inputs, validate_inputs=False).run()["doc"]["filename"] == "report.md"


def refused(given: Task, kind: type[DifyError], text: str) -> None:
    """Run a try that must end before there is a run."""
    with pytest.raises(kind) as caught:
        given.run()
    assert text in str(caught.value), caught.value


@modes
@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda path: str(path / "none.txt"), "none.txt' cannot be read: No such file or directory"),
        (lambda path: f"file://{path}/none.txt", "none.txt' cannot be read"),
        (lambda path: str(path), "cannot be read: Is a directory"),
        (lambda path: f"file://{path}", "cannot be read: Is a directory"),
        (lambda path: "/dev/zero", "'/dev/zero' is no regular file"),
        (lambda path: "nope://bucket/a.txt", "'nope://bucket/a.txt' cannot be used"),
        (lambda path: "report.md", "files[1] is a string of 9 characters that is neither an http(s) URL"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch,
    server: DifyServer,
    document: Path,
    tmp_path: Path,
    make: Callable[[Path], str],
    text: str,
    deferrable: bool,
) -> None:
    given = task(monkeypatch, server, files=[str(document), make(tmp_path)], deferrable=deferrable)
    refused(given, DifyInvalidInputError, text)
    assert uploads(server) == 0
    assert submissions(server) == []


def saved(path: Path) -> dict[str, Any]:
    """Return a file of an earlier run's outputs that its task has saved."""
    return {
        "dify_model_identity": "__dify__file__", "type": "document", "transfer_method": "tool_file", "size": 7,
        "filename": "x.txt", "mime_type": "text/plain", "url": "/files/tools/x.txt?sign=x", "saved_to": f"file://{path}",
    }  # fmt: skip


def object_storage(path: Path) -> Any:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    return ObjectStoragePath(f"file://{path}")


PLACES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "files[0]": lambda path: {"files": [str(path)]},
    "files[0] ": lambda path: {"files": [f"file://{path}"]},
    "files[1]": lambda path: {"files": ["https://files.example/a.png", path]},
    "files[0]  ": lambda path: {"files": [object_storage(path)]},
    "files[0]   ": lambda path: {"files": [{"path": str(path), "name": "b.txt"}]},
    "inputs['doc']": lambda path: {"inputs": {"doc": {"path": f"file://{path}"}}},
    "inputs['doc'] ": lambda path: {"inputs": {"doc": str(path)}, "allowed_upload_roots": ["/"]},
    "inputs['doc']  ": lambda path: {"inputs": {"doc": f"file://{path}"}, "allowed_upload_roots": ["file:///"]},
    "inputs['doc']   ": lambda path: {"inputs": {"doc": saved(path)}, "allowed_upload_roots": ["/"]},
    "inputs['docs'][1]": lambda path: {"inputs": {"docs": [UPLOAD, path]}},
    "inputs['docs'][0]": lambda path: {"inputs": {"docs": [object_storage(path)]}, "validate_inputs": False},
}
UPLOAD = "5cef34e0-e597-4002-81c3-d11dff183bec"


@pytest.mark.any_airflow
@pytest.mark.timeout(60)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["FIFO", "socket", "link to a device", "link to a folder", "dangling link"])
def test_what_is_no_file_is_refused_with_the_field_that_names_it(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, document: Path, tmp_path: Path, kind: str, place: str
) -> None:
    make, reason, remedy = UNFIT[kind]
    parameters = PLACES[place](make(tmp_path))
    # Nothing of a run is uploaded, also not the files that are fit.
    parameters["files"] = [*parameters.get("files", []), document]
    given = task(monkeypatch, server, **parameters)
    with pytest.raises(DifyInvalidInputError) as caught:
        given.run()
    assert str(caught.value).startswith(f"{place.strip()}: '")
    assert reason in str(caught.value)
    assert remedy in str(caught.value)
    assert uploads(server) == 0
    assert submissions(server) == []


def test_a_file_that_may_not_be_read(monkeypatch: pytest.MonkeyPatch, server: DifyServer) -> None:
    store, folder = attached()
    store.fail_info = PermissionError(13, "Permission denied")
    given = task(monkeypatch, server, files=[f"{folder}/a.txt"])
    refused(given, DifyInvalidInputError, "/a.txt' cannot be read: Permission denied. Nothing was submitted.")
    assert submissions(server) == []


def test_a_file_that_is_too_large_is_not_even_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, size in (("a.txt", 3), ("b.txt", 1), ("c.png", 11)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size * MEBIBYTE)
    with DifyServer([WORKFLOW], time_scale=0.01, upload_limit=2) as server:
        files = [str(tmp_path / name) for name in ("a.txt", "b.txt", "c.png")]
        given = task(monkeypatch, server, files=files)
        refused(given, DifyInvalidInputError, "a.txt' has 3,145,728 bytes, and the server takes 2,097,152")
        refused(given, DifyInvalidInputError, "c.png' has 11,534,336 bytes, and the server takes 10,485,760")
        assert uploads(server) == 0
        assert submissions(server) == []
        assert task(monkeypatch, server, files=files[1:2]).run()["files"][0]["size"] == MEBIBYTE


def test_a_store_that_fails_in_the_middle(monkeypatch: pytest.MonkeyPatch, server: DifyServer) -> None:
    store, folder = attached()
    store.pipe("/bucket/big.txt", b"x" * MEBIBYTE)
    given = task(monkeypatch, server, files=[f"{folder}/big.txt"])
    store.fail_reading_after = MEBIBYTE // 2
    refused(given, DifyFileError, "'big.txt' could not be read to its end (OSError: [Errno 5] the store is gone)")
    store.fail_reading_after, store.fail_info = None, TimeoutError("no answer")
    refused(given, DifyFileError, "big.txt' could not be opened (TimeoutError: no answer)")
    assert submissions(server) == []
    store.fail_info = None
    assert given.retry()["files"][0]["size"] == MEBIBYTE
    assert len(server.runs) == 1


@pytest.mark.parametrize(("change", "text"), [(10, "longer"), (-10, "shorter")])
def test_a_file_that_changes_while_it_is_sent(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, tmp_path: Path, change: int, text: str
) -> None:
    path = tmp_path / "growing.txt"
    path.write_bytes(b"x" * MEBIBYTE)

    def measured(self: Any) -> None:
        original(self)
        os.truncate(path, MEBIBYTE + change)

    from airflow_provider_dify.api.operations import Upload

    original = Upload.__post_init__
    monkeypatch.setattr(Upload, "__post_init__", measured)
    refused(
        task(monkeypatch, server, files=[str(path)]),
        DifyFileError,
        f"'growing.txt' became {text} than 1,048,576 bytes while it was read",
    )
    assert submissions(server) == []


def test_an_upload_that_is_sent_again_is_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A connection that breaks in the middle of an upload: the next one begins at the start of the file."""
    import socket

    from tests.hooks.support import http, serving

    path = tmp_path / "a.txt"
    # More than the buffers of both ends take: it cannot have left whole when the connection breaks.
    path.write_bytes(os.urandom(16 * MEBIBYTE))
    tries: list[int] = []

    def answer(request: Any, connection: socket.socket) -> bytes:
        tries.append(len(request.body))
        return http(201, {"id": "5cef34e0-e597-4002-81c3-d11dff183bec", "name": "a.txt"})

    # The first connection is closed before the body has left.
    listener = socket.create_server(("127.0.0.1", 0))
    with serving() as serve:
        whole = serve(answer)
        import threading

        def first_breaks() -> None:
            broken, _ = listener.accept()
            broken.recv(65536)
            broken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            broken.close()
            client, _ = listener.accept()
            upstream = socket.create_connection(("127.0.0.1", whole.port))
            from tests.hooks.support import _pump

            _pump(client, upstream)
            client.close()
            upstream.close()

        thread = threading.Thread(target=first_breaks, daemon=True)
        thread.start()
        monkeypatch.setenv(
            "AIRFLOW_CONN_DIFY_DEFAULT",
            f'{{"conn_type": "dify", "host": "http://127.0.0.1:{listener.getsockname()[1]}", "password": "app-x"}}',
        )
        DifyHook().upload_file(str(path), user="me")
        thread.join(20)
    listener.close()
    assert len(tries) == 1
    assert path.read_bytes() in whole.requests[0].body


def test_an_upload_that_dify_refuses_leaves_no_run(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, document: Path
) -> None:
    server.inject(Fault("upload", "status", status=413, code="file_too_large", message="too large"))
    refused(task(monkeypatch, server, files=[str(document)]), DifyInvalidInputError, "too large")
    assert submissions(server) == []


@modes
def test_a_worker_that_dies_between_upload_and_run_leaves_no_second_run(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, document: Path, deferrable: bool
) -> None:
    given = task(monkeypatch, server, files=[str(document)], deferrable=deferrable)

    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(DifyHook, "create_workflow_run", die)
        with pytest.raises(Killed):
            given.run()
    assert uploads(server) == 1
    assert given.retry()["files"][0]["filename"] == "report.md"
    assert len(server.runs) == 1


@modes
@pytest.mark.parametrize("moment", ["between POST and id", "between id and wait"])
def test_a_retry_that_takes_a_run_up_uploads_nothing(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, document: Path, deferrable: bool, moment: str
) -> None:
    given = task(monkeypatch, server, inputs={"doc": document}, deferrable=deferrable)
    with death(moment):
        given.run()
    document.unlink()
    assert given.retry()["doc"]["filename"] == "report.md"
    assert uploads(server) == 1
    assert len(server.runs) == 1


@pytest.mark.any_airflow
@modes
def test_waiting_for_a_turn_uploads_nothing_again(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, document: Path, deferrable: bool
) -> None:
    server.inject(Fault("submit", "too_many_requests", status=429, headers={"Retry-After": "0.1"}, times=2))
    given = task(monkeypatch, server, inputs={"doc": document, "text": "t"}, files=[document], deferrable=deferrable)
    outputs = given.run()
    assert named([outputs["doc"], *outputs["files"]]) == [("report.md", "document", "text/markdown", 8)] * 2
    assert outputs["text"] == "t"
    assert uploads(server) == 1
    assert len(server.runs) == 1


def test_a_task_that_waits_its_turn_keeps_only_what_was_made_of_its_files(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, document: Path
) -> None:
    from airflow.providers.common.compat.sdk import TaskDeferred

    server.inject(Fault("submit", "too_many_requests", status=429, times=2))
    for inputs, kept in (
        ('{"text": "long"}', set()),
        (f'{{"text": "long", "doc": {{"path": "{document}"}}}}', {"doc"}),
    ):
        given = task(monkeypatch, server, inputs=inputs, deferrable=True)
        context: Any = {"ti": given.ti}
        with pytest.raises(TaskDeferred) as deferred:
            given.operator.execute(context)
        prepared = (deferred.value.kwargs or {})["submission"]["prepared"]
        assert (prepared["inputs"].keys(), prepared["files"]) == (kept, [])


def test_uploads_run_in_parallel_within_bounds(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, tmp_path: Path
) -> None:
    import threading

    from airflow_provider_dify.runtime import upload as module

    paths = [tmp_path / f"{number}.txt" for number in range(12)]
    for path in paths:
        path.write_text("x", encoding="utf-8")
    busy, most, lock = 0, 0, threading.Lock()
    full = threading.Event()
    original = DifyHook.upload_file

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
            if busy == module.PARALLEL_UPLOADS:
                full.set()
        full.wait(20)
        try:
            return original(*args, **kwargs)
        finally:
            with lock:
                busy -= 1

    monkeypatch.setattr(DifyHook, "upload_file", counted)
    assert len(task(monkeypatch, server, files=[str(path) for path in paths]).run()["files"]) == 12
    assert most == module.PARALLEL_UPLOADS


def test_the_other_contract_has_no_upload(monkeypatch: pytest.MonkeyPatch, document: Path) -> None:
    with DifyServer([WORKFLOW], api_contract="workflow-runs", time_scale=0.01) as server:
        given = task(monkeypatch, server, files=[str(document)], workflow_id=server.app("files").workflow_id)
        refused(given, DifyInvalidInputError, "the workflow-runs contract has no upload")
        assert server.runs == []


DRAW = Workflow("draw", outputs={"chart": OutputFile("chart.md", b"# Chart")}, duration=0.1)


@modes
@pytest.mark.parametrize("version", VERSIONS)
def test_a_file_of_one_run_is_a_file_of_the_next(
    monkeypatch: pytest.MonkeyPatch, version: str, deferrable: bool
) -> None:
    with DifyServer([WORKFLOW, DRAW], emulate=version, time_scale=0.01) as server:
        connect(monkeypatch, server, "draw")
        chart = Task(store=True, deferrable=False, inputs={}).run()["chart"]
        given = task(monkeypatch, server, inputs={"doc": chart, "docs": [chart]}, files=[chart], deferrable=deferrable)
        outputs = given.run()
        assert (
            named([outputs["doc"], *outputs["docs"], *outputs["files"]])
            == [("chart.md", "document", "text/markdown", 7)] * 3
        )
        assert uploads(server) == 1


def test_a_file_of_one_run_that_has_expired_names_the_way_out(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer
) -> None:
    chart = {
        "dify_model_identity": "__dify__file__", "type": "document", "transfer_method": "tool_file", "size": 7,
        "filename": "chart.md", "mime_type": "text/markdown", "url": "/files/tools/gone.md?timestamp=1&sign=x",
    }  # fmt: skip
    refused(task(monkeypatch, server, inputs={"doc": chart}), DifyInvalidInputError, "output_files_to")
    assert not server.runs


def test_a_text_that_could_be_a_path_is_not_uploaded(
    monkeypatch: pytest.MonkeyPatch, server: DifyServer, document: Path
) -> None:
    for text in (str(document), document.as_uri()):
        refused(task(monkeypatch, server, inputs={"doc": text}), DifyInvalidInputError, "allowed_upload_roots")
    assert uploads(server) == 0
    roots = [str(document.parent)]
    assert task(monkeypatch, server, inputs={"doc": str(document)}, allowed_upload_roots=roots).run()["doc"]


def test_values_are_sent_as_what_the_form_says(monkeypatch: pytest.MonkeyPatch) -> None:
    workflow = Workflow(
        "values",
        inputs=[Input("text"), Input("object", type="json_object")],
        outputs={"text": "{text}", "object": "{object}"},
        duration=0.1,
    )
    with DifyServer([workflow], time_scale=0.01) as server:
        connect(monkeypatch, server, "values")
        outputs = Task(store=True, deferrable=False, inputs={"text": 42, "object": '{"a": 1}'}, user=12345).run()
    assert outputs == {"text": "42", "object": {"a": 1}}
