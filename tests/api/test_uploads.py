"""What names a file to upload, and what becomes of it in each place where a file can stand."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dify.api.forms import FormField, InputForm
from airflow_provider_dify.api.inputs import check_files_or_paths, check_inputs
from airflow_provider_dify.api.uploads import FileToUpload, shown, to_upload, with_uploads
from airflow_provider_dify.exceptions import DifyInvalidInputError

UPLOAD = "5cef34e0-e597-4002-81c3-d11dff183bec"

NAMED: list[tuple[Any, tuple[str, str, str, str]]] = [
    ("/data/a.pdf", ("/data/a.pdf", "a.pdf", "application/pdf", "document")),
    ("./a.PNG", ("./a.PNG", "a.PNG", "image/png", "image")),
    ("data/a.mp3", ("data/a.mp3", "a.mp3", "audio/mpeg", "audio")),
    (f"./{UPLOAD}", (f"./{UPLOAD}", UPLOAD, "application/octet-stream", "custom")),
    ("s3://bucket/dir/a b?.csv", ("s3://bucket/dir/a b?.csv", "a b?.csv", "text/csv", "document")),
    ("file:///data/clip.webm", ("file:///data/clip.webm", "clip.webm", "video/webm", "video")),
    ("GS://bucket/a.zip", ("GS://bucket/a.zip", "a.zip", "application/zip", "custom")),
    (Path("/data/a.md"), ("/data/a.md", "a.md", "text/markdown", "document")),
    (PurePosixPath("a.json"), ("a.json", "a.json", "application/json", "custom")),
    ({"path": "a.txt"}, ("a.txt", "a.txt", "text/plain", "document")),
    (
        {"path": "/x/part-0000", "name": "table.csv", "transfer_method": "local_file"},
        ("/x/part-0000", "table.csv", "text/csv", "document"),
    ),
    (
        {"path": "/x/a.txt", "type": "custom", "mime_type": "text/x-log"},
        ("/x/a.txt", "a.txt", "text/x-log", "custom"),
    ),
]


@pytest.mark.parametrize(("value", "expected"), NAMED, ids=[str(value) for value, _ in NAMED])
def test_what_names_a_file(value: Any, expected: tuple[str, str, str, str]) -> None:
    file = to_upload(value, "files[0]")
    assert file is not None
    assert (file.source, file.name, file.mime_type, file.type) == expected


@pytest.mark.parametrize(
    "value", ["https://example.com/a.pdf", "HTTP://example.com", UPLOAD, {"type": "image"}, {"upload_file_id": UPLOAD}]
)
def test_what_names_none(value: Any) -> None:
    assert to_upload(value, "files[0]") is None


REFUSED: list[tuple[Any, str]] = [
    ("report.pdf", "as a name alone it could be a file in any folder. Write an absolute path, ./ before the name"),
    ("s3:/bucket/a", "files[0] begins with 's3:', and is neither a path nor a URI: write s3://"),
    ("http:example.com/a", "files[0] begins with 'http:'"),
    ("/data/a\0b", "NUL"),
    ("/data/", "names a folder and no file"),
    ("s3://bucket", "names a folder and no file"),
    ("s3://bucket/dir/", "names a folder and no file"),
    ("", "must be a path or the URI of an object and is str of length 0"),
    (7, "must be a path or the URI of an object and is int"),
    ({"path": None}, "files[0]['path'] must be a path or the URI of an object and is null"),
    ({"path": "https://example.com/a"}, "files[0]['path'] is a URL, which Dify fetches itself"),
    ({"path": "/a.txt", "mime": "text/plain"}, "has the key 'mime': possible are path, type, mime_type, name"),
    ({"path": "/a.txt", "type": "pdf"}, "files[0]['type'] must be one of document, image"),
    ({"path": "/a.txt", "name": "a\nb"}, "files[0]['name'] must be a non-empty text on one line"),
    ({"path": "/a.txt", "mime_type": 7}, "files[0]['mime_type'] must be a non-empty text"),
    ({"path": "/a.txt", "transfer_method": "remote_url"}, "transfer_method can only be 'local_file'"),
]


@pytest.mark.parametrize(("value", "text"), REFUSED, ids=[str(value) for value, _ in REFUSED])
def test_what_names_a_file_in_no_possible_way(value: Any, text: str) -> None:
    with pytest.raises(DifyInvalidInputError) as caught:
        to_upload(value, "files[0]")
    assert text in str(caught.value)


TYPES: list[tuple[str, tuple[str, ...], str]] = [
    ("a.txt", ("document",), "document"),
    ("a.txt", ("image", "custom"), "custom"),
    ("a.json", ("document",), "document"),
    ("a.json", ("document", "custom"), "custom"),
    ("a.png", ("document",), "image"),
    ("a.png", ("custom",), "custom"),
]


@pytest.mark.parametrize(("name", "allowed", "expected"), TYPES)
def test_the_type_is_one_that_the_app_takes_where_it_can_be(name: str, allowed: tuple[str, ...], expected: str) -> None:
    file = to_upload(f"/{name}", "files[0]", allowed)
    assert file is not None
    assert file.type == expected


FORM = InputForm(
    {
        each.name: each
        for each in (
            FormField("text", "text-input"),
            FormField("object", "json_object"),
            FormField("doc", "file", file_types=("document",)),
            FormField("docs", "file-list", file_types=("document",)),
        )
    }
)
LOCAL = {"type": "document", "transfer_method": "local_file", "upload_file_id": UPLOAD}
REMOTE = {"type": "document", "transfer_method": "remote_url", "url": "https://example.com/a.pdf"}
EXPLICIT = {"path": "/data/a.txt", "transfer_method": "local_file"}
FILE = FileToUpload("/data/a.txt", "a.txt", "text/plain", "document")


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({"doc": "/data/a.txt"}, {"doc": FILE}),
        ({"doc": {"path": "/data/a.txt"}}, {"doc": FILE}),
        ({"doc": UPLOAD}, {"doc": LOCAL}),
        ({"doc": "https://example.com/a.pdf"}, {"doc": REMOTE}),
        ({"doc": LOCAL, "docs": [LOCAL, REMOTE]}, {"doc": LOCAL, "docs": [LOCAL, REMOTE]}),
        ({"doc": None, "docs": None}, {"doc": None, "docs": None}),
        ({"doc": "", "docs": ""}, {"doc": "", "docs": ""}),
        ({"docs": ["/data/a.txt", Path("/data/a.txt"), UPLOAD]}, {"docs": [FILE, FILE, LOCAL]}),
        ({"docs": "/data/a.txt"}, {"docs": "/data/a.txt"}),
        # In other inputs a text is a text, and an object an object.
        ({"text": "/data/a.txt", "object": {"path": "/x"}}, {"text": "/data/a.txt", "object": {"path": "/x"}}),
        ({"object": EXPLICIT}, {"object": EXPLICIT}),
    ],
    ids=str,
)
def test_files_in_inputs_with_a_form(inputs: dict[str, Any], expected: dict[str, Any]) -> None:
    assert with_uploads(inputs, FORM) == expected


def test_without_a_form_only_what_can_be_nothing_else_is_uploaded() -> None:
    inputs = {
        "a": "/data/a.txt",
        "b": {"path": "/data/a.txt"},
        "c": Path("/data/a.txt"),
        "d": EXPLICIT,
        "e": [EXPLICIT, 1],
    }
    assert with_uploads(inputs, None) == {**inputs, "c": FILE, "d": FILE, "e": [FILE, 1]}


def test_files_of_a_run_may_be_of_every_kind() -> None:
    assert check_files_or_paths(["/data/a.txt", UPLOAD, REMOTE["url"], LOCAL, {"path": "/data/a.txt"}]) == [
        FILE, LOCAL, REMOTE, LOCAL, FILE,
    ]  # fmt: skip
    assert check_files_or_paths('["/data/a.txt"]') == [FILE]
    assert check_files_or_paths(None) == []
    with pytest.raises(DifyInvalidInputError, match=r"files\[1\] .* name alone"):
        check_files_or_paths(["/data/a.txt", "a.txt"])


def test_a_path_object_is_no_input_where_nothing_is_uploaded() -> None:
    with pytest.raises(DifyInvalidInputError, match="JSON cannot carry"):
        check_inputs({"a": Path("/x")})
    assert check_inputs({"a": Path("/x")}, paths=True) == {"a": Path("/x")}


def test_limits_go_by_the_extension() -> None:
    limits = {"image": 1, "video": 2, "audio": 3, "document": 4}
    names = {"a.png": 1, "a.MOV": 2, "a.wav": 3, "a.pdf": 4, "a.zip": 4, "a": 4}
    for name, limit in names.items():
        assert FileToUpload("/x", name, "image/png", "custom").limit(limits) == limit


def test_a_password_in_a_uri_is_not_shown() -> None:
    assert shown("sftp://me:s3cret@host/a") == "sftp://me:***@host/a"
    assert shown("s3://conn@bucket/a@b:c") == "s3://conn@bucket/a@b:c"


@given(st.text(max_size=40) | st.fixed_dictionaries({"path": st.text(max_size=40)}))
def test_any_text_is_a_file_or_an_error_of_ours(value: Any) -> None:
    try:
        file = to_upload(value, "files[0]")
    except DifyInvalidInputError:
        return
    if file is not None:
        assert file.name
        assert "/" not in file.name
