"""What names a file to upload, and what becomes of it in each place where a file can stand."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dify.api.input_form import FileRules, FormField, InputForm
from airflow_provider_dify.exceptions import DifyInvalidInputError
from airflow_provider_dify.rules.input_files import UploadPolicy, checked_file, with_uploads
from airflow_provider_dify.rules.inputs import check_files, check_files_or_paths, check_inputs
from airflow_provider_dify.rules.uploads import FileToUpload, shown, to_upload

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
    ("", "must be a path or the URI of an object, got str of length 0"),
    (7, "must be a path or the URI of an object, got int"),
    ({"path": None}, "files[0]['path'] must be a path or the URI of an object, got null"),
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
            FormField("doc", "file", files=FileRules(types=("document",))),
            FormField("docs", "file-list", files=FileRules(types=("document",))),
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
        ({"doc": {"path": "/data/a.txt"}}, {"doc": FILE}),
        ({"doc": UPLOAD}, {"doc": LOCAL}),
        ({"doc": "https://example.com/a.pdf"}, {"doc": REMOTE}),
        ({"doc": LOCAL, "docs": [LOCAL, REMOTE]}, {"doc": LOCAL, "docs": [LOCAL, REMOTE]}),
        ({"doc": None, "docs": None}, {"doc": None, "docs": None}),
        ({"doc": "", "docs": ""}, {"doc": "", "docs": ""}),
        ({"docs": [{"path": "/data/a.txt"}, Path("/data/a.txt"), UPLOAD]}, {"docs": [FILE, FILE, LOCAL]}),
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


def test_a_text_is_a_file_only_below_allowed_roots(tmp_path: Path) -> None:
    root, outside = tmp_path / "in", tmp_path / "out"
    root.mkdir()
    outside.mkdir()
    (root / "a.txt").touch()
    (outside / "a.txt").touch()
    (root / "link.txt").symlink_to(outside / "a.txt")
    policy = UploadPolicy("", ((str(root), "s3://bucket/in"),))
    for text in (f"{root}/a.txt", f"file://{root}/a.txt", "s3://bucket/in/a.txt", "S3://conn@bucket/in/b/../a.txt"):
        with pytest.raises(DifyInvalidInputError, match=r"inputs\['doc'\] is a text, and .* allowed_upload_roots"):
            with_uploads({"doc": text}, FORM)
        assert isinstance(with_uploads({"doc": text}, FORM, policy)["doc"], FileToUpload)
    for text in (
        f"{outside}/a.txt", f"{root}/link.txt", f"{root}/../out/a.txt", f"{root}-2/a.txt", f"file://{root}/../out/a.txt",
        "s3://bucket/in/../a.txt", "s3://other/in/a.txt", "s3://bucket/input.txt",
    ):  # fmt: skip
        # The roots limit every way to name a file.
        for value in (text, {"path": text}):
            with pytest.raises(DifyInvalidInputError, match="not below one of allowed_upload_roots"):
                with_uploads({"doc": value}, FORM, policy)
        with pytest.raises(DifyInvalidInputError, match=r"files\[0\] names the file"):
            check_files_or_paths([text], policy=policy)
    # Both of two lists count, and an empty one admits nothing.
    for second in ((), (str(outside),)):
        with pytest.raises(DifyInvalidInputError, match="not below"):
            with_uploads({"doc": root / "a.txt"}, FORM, UploadPolicy.of("", (str(root),), second))


OUTPUT = {
    "dify_model_identity": "__dify__file__", "type": "document", "transfer_method": "tool_file", "remote_url": None,
    "filename": "a.pdf", "extension": ".pdf", "mime_type": "application/pdf", "size": 2026, "related_id": UPLOAD,
    "url": "https://dify.example/files/tools/x.pdf?timestamp=1&sign=s3cret",
}  # fmt: skip


def test_a_file_of_an_earlier_run_is_uploaded_or_named_by_its_url() -> None:
    own = UploadPolicy("https://dify.example/v1")
    inputs = {"doc": OUTPUT, "docs": [OUTPUT, dict(OUTPUT, url="/files/tools/y.pdf?sign=s3cret")]}
    found = with_uploads(inputs, FORM, own)
    for file in (found["doc"], *found["docs"], *check_files_or_paths([OUTPUT], policy=own)):
        assert isinstance(file, FileToUpload)
        assert (file.name, file.type, file.mime_type) == ("a.pdf", "document", "application/pdf")
        assert "s3cret" not in file.shown
    foreign = {"type": "document", "transfer_method": "remote_url", "url": OUTPUT["url"]}
    assert with_uploads({"doc": OUTPUT}, FORM, UploadPolicy("https://other.example/v1")) == {"doc": foreign}
    assert check_files([OUTPUT]) == [foreign]
    with pytest.raises(DifyInvalidInputError, match="upload it with DifyHook"):
        check_files([dict(OUTPUT, url="/files/tools/y.pdf")])
    with pytest.raises(DifyInvalidInputError, match="output_files_to"):
        with_uploads({"doc": dict(OUTPUT, url="")}, FORM, own)


def test_a_server_cannot_name_a_local_file_by_an_output() -> None:
    named = dict(OUTPUT, saved_to="file:///etc/passwd")
    file = with_uploads({"doc": named}, FORM, UploadPolicy("https://dify.example/v1"))["doc"]
    assert "passwd" not in file.shown
    file = with_uploads({"doc": named}, FORM, UploadPolicy("https://dify.example/v1", (("/etc",),)))["doc"]
    assert file.shown == "file:///etc/passwd"


URL = "https://example.com/"
RULES = FileRules(types=("document", "custom"), extensions=(".log",), methods=("local_file",))
MISMATCHES: list[tuple[Any, FileRules, str]] = [
    ({"path": "/x.parquet"}, FileRules(types=("document",)), "takes it for 'custom' by its extension '.parquet'"),
    ({"path": "/x.log"}, FileRules(types=("document",)), "a 'mime_type' such as 'text/plain'"),
    ({"path": "/x"}, FileRules(types=("document",)), "its name without extension"),
    ({"path": "/x.png"}, FileRules(types=("document",)), "is of the type 'image'"),
    ({"path": "/x.txt", "type": "image"}, FileRules(), "takes it for 'document'"),
    (URL + "a.png", FileRules(types=("document",)), "is of the type 'image'"),
    ({"type": "document", "transfer_method": "remote_url", "url": URL + "a.png"}, FileRules(), "the right 'type'"),
    ({"path": "/x.parquet"}, RULES, "the app allows '.log'"),
    ({"type": "document", "transfer_method": "remote_url", "url": URL}, RULES, "the app allows 'local_file' there"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "rules", "text"), MISMATCHES, ids=[f"{text}-{v}" for v, _, text in MISMATCHES])
def test_a_file_that_the_app_does_not_allow_is_named_before_the_upload(value: Any, rules: FileRules, text: str) -> None:
    with pytest.raises(DifyInvalidInputError) as caught:
        checked_file(value, "files[0]", rules)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("value", "rules"),
    [
        ({"path": "/x.log", "mime_type": "text/plain"}, FileRules(types=("document",))),
        ({"path": "/x.parquet", "name": "x.csv"}, FileRules(types=("document",))),
        ({"path": "/x.log"}, RULES),
        ({"path": "/x.LOG", "type": "custom"}, RULES),
        ({"path": "/x.xml"}, FileRules(types=("document",))),
        (URL + "signed?x=1", FileRules(types=("image",))),
        (URL + "signed?x=1", FileRules(types=("document", "image"))),
    ],
    ids=str,
)
def test_a_file_that_some_server_takes_passes(value: Any, rules: FileRules) -> None:
    assert checked_file(value, "files[0]", rules)


def test_the_files_of_a_run_are_counted() -> None:
    with pytest.raises(DifyInvalidInputError, match="files has 2 files, and the app allows 1"):
        check_files_or_paths([URL, URL], FileRules(number=1))


KNOWN: list[tuple[dict[str, Any], str]] = [
    ({"type": "document", "transfer_method": "remote_url", "remote_url": URL}, "['url'] .* name of the key is 'url'"),
    ({"type": "document", "transfer_method": "remote_url"}, "['url'] must be"),
    ({"type": "document", "transfer_method": "remote_url", "url": "nope"}, "['url'] must be"),
    ({"type": "document", "transfer_method": "local_file"}, "['upload_file_id'] must be"),
    ({"type": "document", "transfer_method": "local_file", "upload_file_id": "x"}, "['upload_file_id'] must be"),
    ({"type": "document", "transfer_method": "carrier", "url": URL}, "['transfer_method'] must be one of"),
    ({"type": "document", "url": URL}, "['transfer_method'] must be one of"),
    ({"transfer_method": "remote_url", "url": URL}, "['type'] must be one of"),
    ({"type": "pdf", "transfer_method": "remote_url", "url": URL}, "['type'] must be one of"),
]


@pytest.mark.parametrize(("value", "text"), KNOWN, ids=[str(value) for value, _ in KNOWN])
def test_a_mapping_is_checked_alike_in_every_place(value: dict[str, Any], text: str) -> None:
    pattern = re.escape(text).replace(r"\.\*", ".*").replace(r"\ \.\* ", " .* ")
    for name in ("doc", "docs"):
        with pytest.raises(DifyInvalidInputError, match=pattern):
            with_uploads({name: value if name == "doc" else [value]}, FORM)
    for check in (check_files, check_files_or_paths):
        with pytest.raises(DifyInvalidInputError, match=pattern):
            check([value])
