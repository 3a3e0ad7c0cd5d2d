"""Refusals inside a stream of HTTP 200, reported from real runs wherever the stream is cut."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dify import exceptions as ex
from airflow_provider_dify.api.errors import Answer
from airflow_provider_dify.api.events import Event
from airflow_provider_dify.api.refusals import Refusal, RunNaming, is_synthetic_end, is_synthetic_start
from airflow_provider_dify.rules.streaming import StreamReader
from airflow_provider_dify.rules.submission import SilentStream, SubmissionReader, silence_hint

RUN = "53cb9102-12a3-433d-bebe-e9aacf2e6703"
OTHER = "9401e60a-2fc0-4810-bdaf-8a23c2c46d3e"
TASK = "fd9f5b88-d435-46e4-8c1f-308e989f8888"
HEAD = Answer(200, {"content-type": "text/event-stream", "x-version": "1.16.1"})
SYSTEM = {"sys.user_id": "u", "sys.app_id": "app-1", "sys.workflow_run_id": RUN}
PING = b"event: ping\n\n"
MISSING = "text is required in input form"


def block(event: str, task_id: str | None, data: dict[str, Any], **fields: Any) -> bytes:
    payload = {"event": event, "task_id": task_id, "workflow_run_id": RUN, "data": data, **fields}
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


def synthetic_start(**inputs: Any) -> bytes:
    return block("workflow_started", RUN, {"id": RUN, "inputs": inputs, "reason": "initial"})


def end_data(**changes: Any) -> dict[str, Any]:
    return {
        "id": RUN, "status": "failed", "outputs": None, "error": MISSING, "elapsed_time": 0.0, "total_tokens": 0,
        "total_steps": 0, "created_by": {}, "exceptions_count": 1, "files": [], **changes,
    }  # fmt: skip


def synthetic_end(text: str | None = MISSING) -> bytes:
    return block("workflow_finished", RUN, end_data(error=text))


ERROR = (
    b'data: {"event": "error", "workflow_run_id": null, "code": "invalid_param", "status": 400, "message": "no"}\n\n'
)
REAL_START = block("workflow_started", TASK, {"id": RUN, "inputs": {"text": "x", **SYSTEM}})
REAL_NODE = block("node_started", TASK, {"id": "e1", "node_id": "n"})
REAL_END = block(
    "workflow_finished",
    TASK,
    end_data(outputs={}, created_by={"id": "1", "user": "u"}, total_steps=1, elapsed_time=0.1, error="broke"),
)


def submitted(stream: bytes) -> SubmissionReader:
    reader = SubmissionReader(HEAD)
    reader.feed(stream)
    return reader


def read_on(reader: StreamReader, stream: bytes, *, breaks: bool = False) -> None:
    """Read a stream of which no event may come out."""
    with reader.errors():
        assert list(reader.feed(stream)) == []
        if breaks:
            raise ex.DifyTransportError("reset", sent=True)
        reader.end(timed_out=False)


def refused(stream: bytes) -> ex.DifyError:
    """Return the error of a refusal, which both readers have to see."""
    errors = []
    with pytest.raises(Refusal) as caught:
        submitted(stream).started()
    errors.append(caught.value.error)
    reader = StreamReader("u")
    with pytest.raises(ex.DifyError) as raised:
        read_on(reader, stream)
    errors.append(raised.value)
    assert {(type(error), str(error)) for error in errors} == {(type(errors[0]), str(errors[0]))}
    assert reader.workflow_run_id is None
    return errors[0]


def test_a_synthetic_pair_is_a_refusal_with_the_text_of_its_second_event() -> None:
    error = refused(PING + synthetic_start(text="") + synthetic_end())
    assert type(error) is ex.DifyInvalidInputError
    assert MISSING in str(error)
    assert error.workflow_run_id is None


TEXTS: list[tuple[str, type[ex.DifyError]]] = [
    ("text in input form must be less than 48 characters", ex.DifyInvalidInputError),
    ("doc in input form must be a file", ex.DifyInvalidInputError),
    ("Invalid upload file", ex.DifyInvalidInputError),
    ("Invalid upload file id format", ex.DifyInvalidInputError),
    ("File validation failed for file: file.txt", ex.DifyInvalidInputError),
    ("'carrier' is not a valid FileTransferMethod", ex.DifyInvalidInputError),
    ("Reached maximum retries (3) for URL http://127.0.0.1:8091/file.txt", ex.DifyInvalidInputError),
    ("Reached maximum retries (3) for URL http://redis/file.txt", ex.DifyInvalidInputError),
    ("expected value type int, float or str, got <class 'list'>, value: [1]", ex.DifyInvalidInputError),
    ("2 validation errors for HttpRequestNodeData\nmethod", ex.DifyInvalidInputError),
    ("Too many requests. Please try again later. The current maximum is 1.", ex.DifyRateLimitError),
    ("Failed to request plugin daemon, url: plugin/62a2/management/models", ex.DifyProviderError),
    ("Workflow not published", ex.DifyAppError),
    ("(psycopg2.OperationalError) server closed the connection unexpectedly", ex.DifyServerError),
]


@pytest.mark.parametrize(("text", "kind"), TEXTS, ids=[text[:40] for text, _ in TEXTS])
def test_a_refusal_has_the_class_that_the_same_mistake_has_elsewhere(text: str, kind: type[ex.DifyError]) -> None:
    error = refused(synthetic_start() + synthetic_end(text))
    assert type(error) is kind
    assert " ".join(text.split()).rstrip(".") in str(error)
    assert type(refused(synthetic_end(text))) is kind, "its start may be lost"


@pytest.mark.parametrize(
    "text", [text for text, kind in TEXTS if kind is ex.DifyInvalidInputError and "\n" not in text]
)
def test_older_servers_have_the_same_class_for_the_same_text(text: str) -> None:
    event = b"data: " + json.dumps({"event": "error", "status": 500, "message": text}).encode() + b"\n\n"
    assert type(refused(event)) is ex.DifyInvalidInputError


def test_an_error_before_a_synthetic_pair_decides() -> None:
    error = refused(PING + ERROR + synthetic_start() + synthetic_end("2 validation errors"))
    assert (type(error), error.code) == (ex.DifyInvalidInputError, "invalid_param")


def test_the_signature_of_a_file_is_not_reported() -> None:
    text = "Reached maximum retries (3) for URL https://bucket.example/a.pdf?X-Amz-Signature=s3cret"
    error = refused(synthetic_start() + synthetic_end(text))
    assert "https://bucket.example/a.pdf?…" in str(error)
    assert "s3cret" not in str(error)


@pytest.mark.parametrize(
    "stream", [synthetic_start(), synthetic_start(text="x") + PING, synthetic_start() + b"data: {"]
)
def test_a_refusal_that_is_cut_off_says_that_its_reason_is_not_known(stream: bytes) -> None:
    error = refused(stream)
    assert not ex.is_final(error)
    assert "did not say why" in str(error)
    assert "starts no second run" in str(error)
    assert type(refused(synthetic_start() + synthetic_end(None))) is type(error)


def test_a_stream_that_breaks_between_the_two_events_is_a_refusal() -> None:
    reader = submitted(synthetic_start())
    with pytest.raises(Refusal), reader.reading():
        raise ex.DifyTransportError("reset", sent=True)
    streaming = StreamReader("u")
    with pytest.raises(ex.DifyServerError) as caught:
        read_on(streaming, synthetic_start(), breaks=True)
    assert "did not say why" in str(caught.value)


def test_what_came_before_a_break_counts() -> None:
    reader = submitted(REAL_START)
    with reader.reading():
        raise ex.DifyTransportError("reset", sent=True)
    assert reader.started().workflow_run_id == RUN
    reader = submitted(synthetic_start() + synthetic_end()[:-1])
    with pytest.raises(Refusal, match=MISSING), reader.reading():
        raise ex.DifyTransportError("reset", sent=True)


@pytest.mark.parametrize("stream", [REAL_START, REAL_NODE, REAL_END, PING + REAL_NODE + REAL_END])
def test_a_real_run_is_started_whichever_event_comes_first(stream: bytes) -> None:
    assert submitted(stream).started().workflow_run_id == RUN
    assert submitted(stream).started().task_id == TASK


@pytest.mark.parametrize(
    "second",
    [
        REAL_NODE,
        block("node_started", RUN, {"id": "e1", "node_id": "n"}),
        block("text_chunk", RUN, {"text": "x"}),
        block("workflow_finished", RUN, end_data(total_steps=3)),
        block("workflow_finished", RUN, end_data(created_by={"id": "1"})),
        block("workflow_finished", RUN, end_data(status="succeeded")),
        block("never_heard_of", TASK, {}),
    ],
    ids=lambda each: each[:60],
)
def test_a_start_that_only_seems_synthetic_is_settled_by_what_follows(second: bytes) -> None:
    stream = synthetic_start(text="x") + second
    assert submitted(stream).started().workflow_run_id == RUN
    reader = StreamReader("u")
    events = [event.event for event in reader.feed(stream)]
    assert events[0] == "workflow_started"
    assert len(events) == 2
    assert reader.workflow_run_id == RUN


def test_unknown_events_between_the_two_prove_nothing() -> None:
    stream = synthetic_start() + block("reasoning_chunk", RUN, {}) + block("warning", None, {}, workflow_run_id=None)
    assert MISSING in str(refused(stream + synthetic_end()))


@pytest.mark.parametrize(
    "changes",
    [{"outputs": {}}, {"created_by": {"id": "1"}}, {"total_steps": 1}, {"total_steps": None}, {"elapsed_time": 0.1}],
    ids=str,
)
def test_an_end_alone_is_synthetic_only_if_every_sign_agrees(changes: dict[str, Any]) -> None:
    event = Event("workflow_finished", end_data(**changes), RUN, RUN)
    assert not is_synthetic_end(event, after_start=False)
    assert is_synthetic_end(Event("workflow_finished", end_data(), RUN, RUN), after_start=False)
    assert not is_synthetic_end(Event("workflow_finished", end_data(), RUN, TASK), after_start=False)


@pytest.mark.parametrize(
    ("inputs", "task_id", "synthetic"),
    [
        ({}, RUN, True),
        ({"text": "x"}, RUN, True),
        (SYSTEM, RUN, False),
        ({}, TASK, False),
        ({}, None, False),
        (None, RUN, False),
    ],
)
def test_what_a_synthetic_start_is(inputs: Any, task_id: str | None, synthetic: bool) -> None:
    assert is_synthetic_start(Event("workflow_started", {"inputs": inputs}, RUN, task_id)) is synthetic


def test_an_end_of_another_run_does_not_confuse() -> None:
    naming = RunNaming()
    assert naming.take(Event("workflow_started", {"inputs": {}}, RUN, RUN)) == ()
    other = Event("node_started", {}, OTHER, TASK)
    assert naming.take(other) == (other,)
    assert naming.named is other


real_streams = st.lists(st.sampled_from([REAL_START, REAL_NODE, REAL_END]), unique=True).map(
    lambda events: sorted(events, key=[REAL_START, REAL_NODE, REAL_END].index)
)
synthetic_streams = st.sampled_from(
    [
        [synthetic_start(), synthetic_end()],
        [synthetic_start(text="ä"), synthetic_end("x is required in input form")],
        [synthetic_end()],
        [ERROR, synthetic_start(), synthetic_end("2 validation errors")],
    ]
)


@given(st.booleans(), st.data())
def test_no_cut_makes_a_run_of_a_refusal_or_a_refusal_of_a_run(is_real: bool, data: st.DataObject) -> None:
    events = data.draw(real_streams if is_real else synthetic_streams)
    stream = PING + b"".join(event + data.draw(st.sampled_from([b"", PING])) for event in events)
    cut = stream[: data.draw(st.integers(0, len(stream)))]
    breaks = data.draw(st.booleans())
    size = data.draw(st.integers(1, 200))
    chunks = [cut[start : start + size] for start in range(0, len(cut), size)]
    whole = b"data: " in cut and any(event.rstrip(b"\n") in cut for event in events)

    reader = SubmissionReader(HEAD)
    result: Any
    try:
        with reader.reading():
            for chunk in chunks:
                reader.feed(chunk)
            if breaks:
                raise ex.DifyTransportError("reset", sent=True)
        result = reader.started().workflow_run_id
    except Refusal as refusal:
        result = refusal.error
    except ex.DifyTransportError:
        result = None

    yielded: list[Event] = []
    streaming = StreamReader("u")
    with suppress(ex.DifyError), streaming.errors():
        for chunk in chunks:
            yielded += streaming.feed(chunk)
        if breaks:
            raise ex.DifyTransportError("reset", sent=True)
        streaming.end(timed_out=False)

    if is_real:
        assert result in (RUN, None)
    else:
        assert result is None or isinstance(result, ex.DifyError)
        assert not yielded
        assert streaming.workflow_run_id is None
    # What has arrived is certain; an event is complete without its closing empty line only where the stream ends.
    if whole and b"\n" in cut[-1:]:
        assert result is not None


def test_silence_is_distinguished_from_a_stream_with_events() -> None:
    with pytest.raises(SilentStream):
        submitted(PING).started()
    for other in (b"", PING + block("odd", None, {}, workflow_run_id=None)):
        with pytest.raises(ex.DifyTransportError) as caught:
            submitted(other).started()
        assert not isinstance(caught.value, SilentStream)


SUBMISSION = {"inputs": {"text": "s3cret", "doc": {"url": "https://s3cret"}}, "files": [{"url": "https://s3cret"}]}


@pytest.mark.parametrize("version", ["1.13.3", "1.14.0", "1.14.2"])
def test_silence_of_a_version_that_refuses_so_names_what_to_check(version: str) -> None:
    hint = silence_hint(version, SUBMISSION)
    assert hint.startswith(f"Dify {version} answers refused inputs with silence")
    assert "the inputs 'text', 'doc' and the files" in hint
    assert "s3cret" not in hint
    assert "no required input is missing" in silence_hint(version, {"inputs": {}})
    assert "'i11' and 8 more" in silence_hint(version, {"inputs": {f"i{number}": 1 for number in range(20)}})


@pytest.mark.parametrize("version", ["1.9.1", "1.11.2", "1.15.0", "1.16.1"])
def test_silence_of_other_versions_means_nothing(version: str) -> None:
    assert silence_hint(version, SUBMISSION) == ""


def test_a_server_that_hides_its_version_may_be_one_of_them() -> None:
    assert silence_hint(None, SUBMISSION).startswith("Dify 1.13 and 1.14 answer")
