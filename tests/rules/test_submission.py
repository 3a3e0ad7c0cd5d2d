"""What a submission leaves behind: a run, nothing, or doubt."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dify import exceptions as ex
from airflow_provider_dify.api.errors import Answer
from airflow_provider_dify.api.refusals import Refusal
from airflow_provider_dify.rules.submission import (
    Fate,
    SubmissionReader,
    classify_failure,
    rate_limit_wait,
    submission_errors,
)

RUN = "53cb9102-12a3-433d-bebe-e9aacf2e6703"
KNOWN = {"text": "x"}

FATES: list[tuple[ex.DifyError, Fate, Fate]] = [
    # error, its fate in streaming mode, its fate in blocking mode
    (ex.DifyTransportError("connection refused", sent=False), Fate.REFUSED, Fate.REFUSED),
    (ex.DifyTransportError("time-out", sent=True), Fate.UNKNOWN, Fate.UNKNOWN),
    (ex.DifyRateLimitError("x", status_code=429), Fate.REFUSED, Fate.REFUSED),
    (ex.DifyQuotaError("x", status_code=429), Fate.REFUSED, Fate.REFUSED),
    (ex.DifyRateLimitError("x", status_code=400), Fate.REFUSED, Fate.REFUSED),
    (ex.DifyServerError("of a gateway", status_code=502), Fate.UNKNOWN, Fate.UNKNOWN),
    (ex.DifyServerError("of a gateway", status_code=503), Fate.UNKNOWN, Fate.UNKNOWN),
    (ex.DifyServerError("of a gateway", status_code=504), Fate.UNKNOWN, Fate.UNKNOWN),
    (ex.DifyServerError("a page", status_code=500), Fate.UNKNOWN, Fate.UNKNOWN),
    (ex.DifyServerError("Dify's", status_code=500, code="unknown"), Fate.REFUSED, Fate.UNKNOWN),
    (ex.DifyResponseError("login page", status_code=200), Fate.UNKNOWN, Fate.UNKNOWN),
    (ex.DifyResponseError("no JSON"), Fate.UNKNOWN, Fate.UNKNOWN),
    (ex.DifyResponseError("redirect", status_code=302), Fate.REFUSED, Fate.REFUSED),
    (ex.DifyResponseError("redirect", status_code=308), Fate.REFUSED, Fate.REFUSED),
    (ex.DifyResponseError("method", status_code=405), Fate.REFUSED, Fate.REFUSED),
    (ex.DifyResponseError("type", status_code=415), Fate.REFUSED, Fate.REFUSED),
    (ex.DifyResponseError("teapot", status_code=418), Fate.UNKNOWN, Fate.UNKNOWN),
    (ex.DifyConfigurationError("x"), Fate.REFUSED, Fate.REFUSED),
    (ex.DifyInvalidInputError("x", status_code=400), Fate.REFUSED, Fate.REFUSED),
    (ex.DifyUnsupportedError("x"), Fate.REFUSED, Fate.REFUSED),
    (ex.DifyAuthenticationError("x", status_code=401), Fate.REFUSED, Fate.REFUSED),
    (ex.DifyPermissionError("x", status_code=403), Fate.REFUSED, Fate.REFUSED),
    (ex.DifyNotFoundError("x", status_code=404), Fate.REFUSED, Fate.REFUSED),
    (ex.DifyAppError("x", status_code=400), Fate.REFUSED, Fate.REFUSED),
    (ex.DifyProviderError("x", status_code=400), Fate.REFUSED, Fate.REFUSED),
]


@pytest.mark.parametrize("row", FATES, ids=lambda row: f"{type(row[0]).__name__}-{row[0].status_code}-{row[0]}")
def test_what_an_error_leaves_behind(row: tuple[ex.DifyError, Fate, Fate]) -> None:
    error, streaming, blocking = row
    assert (classify_failure(error, "streaming"), classify_failure(error, "blocking")) == (streaming, blocking)


def test_every_class_that_an_http_exchange_can_end_with_is_in_the_table() -> None:
    never = {
        ex.DifyError, ex.DifySubmissionUnknownError, ex.DifyRunNotFoundError, ex.DifyTriggerEventError,
        # Of files and outputs, before a submission and after its run.
        ex.DifyFileError, ex.DifyFileExpiredError, ex.DifyFileRefusedError, ex.DifyOutputsError,
        # Of batches before a submission, and of knowledge bases, which have none.
        ex.DifyBatchRowsError, ex.DifyEmptySourceError, ex.DifyTooManyDeletionsError, ex.DifyIndexingError,
        ex.DifyIndexingTimeoutError, ex.DifyIndexingSensorTimeoutError,
    }  # fmt: skip
    kinds = {
        kind
        for kind in vars(ex).values()
        if isinstance(kind, type) and issubclass(kind, ex.DifyError) and not issubclass(kind, ex.DifyRunError)
    }
    assert {type(error) for error, _, _ in FATES} == kinds - never


@pytest.mark.parametrize("mode", ["streaming", "blocking"])
@pytest.mark.parametrize("row", FATES, ids=lambda row: f"{type(row[0]).__name__}-{row[0].status_code}-{row[0]}")
def test_doubt_comes_out_as_its_own_error_and_names_the_user(row: tuple[ex.DifyError, Fate, Fate], mode: str) -> None:
    error, fate = row[0], row[1 if mode == "streaming" else 2]
    with pytest.raises(ex.DifyError) as caught, submission_errors(mode, "airflow/dag/task"):
        raise error
    if fate is Fate.REFUSED:
        assert caught.value is error
    else:
        assert type(caught.value) is ex.DifySubmissionUnknownError
        assert caught.value.reason == error.message
        assert error.message in str(caught.value)
        assert "not sent a second time" in str(caught.value)
        assert "'airflow/dag/task'" in str(caught.value)
        assert "A retry may start a second run" in str(caught.value)
        assert not ex.is_final(caught.value)


def test_errors_after_the_run_was_named_concern_that_run() -> None:
    error = ex.DifyTransportError("the stream broke", sent=True)
    with pytest.raises(ex.DifyTransportError) as caught, submission_errors("streaming", "u", lambda: RUN):
        raise error
    assert caught.value.workflow_run_id == RUN


def test_a_refusal_in_the_stream_comes_out_as_what_dify_answered() -> None:
    error = ex.DifyServerError("boom", status_code=500)
    with pytest.raises(ex.DifyServerError) as caught, submission_errors("streaming", "u"):
        raise Refusal(error)
    assert caught.value is error


def block(event: str, **fields: Any) -> bytes:
    return b"data: " + json.dumps({"event": event} | fields).encode() + b"\n\n"


def started(**inputs: Any) -> bytes:
    return block("workflow_started", workflow_run_id=RUN, task_id="t", data={"inputs": inputs})


PING = b"event: ping\n\n"
HEAD = Answer(200, {"content-type": "text/event-stream", "x-version": "1.14.2"})


def test_the_first_event_that_names_the_run_is_enough() -> None:
    reader = SubmissionReader(HEAD)
    reader.feed(PING)
    assert not reader.names_run
    reader.feed(started(**{"sys.app_id": "app-1"}))
    assert reader.names_run
    run = reader.started()
    assert (run.workflow_run_id, run.task_id, run.app_id, run.server_version) == (RUN, "t", "app-1", "1.14.2")


@pytest.mark.parametrize("event", ["node_started", "text_chunk", "workflow_finished", "never_heard_of"])
def test_any_event_may_name_the_run(event: str) -> None:
    reader = SubmissionReader(HEAD)
    reader.feed(PING + block(event, workflow_run_id=RUN, task_id="t", data={}))
    assert reader.started().workflow_run_id == RUN
    assert reader.started().app_id is None


@pytest.mark.parametrize("inputs", [None, [], "broken", {}, {"sys.app_id": 7}])
def test_a_start_without_readable_inputs_still_names_the_run(inputs: Any) -> None:
    reader = SubmissionReader(HEAD)
    reader.feed(block("workflow_started", workflow_run_id=RUN, data={"inputs": inputs}))
    assert (reader.started().workflow_run_id, reader.started().app_id, reader.started().task_id) == (RUN, None, None)


def test_an_error_event_refuses() -> None:
    reader = SubmissionReader(HEAD)
    with pytest.raises(Refusal) as caught:
        reader.feed(PING + block("error", status=400, code="invalid_param", message="no"))
    assert isinstance(caught.value.error, ex.DifyInvalidInputError)
    assert reader.ended


def test_an_error_event_after_the_start_does_not_undo_it() -> None:
    reader = SubmissionReader(HEAD)
    reader.feed(started() + block("error", status=500, message="boom"))
    assert reader.started().workflow_run_id == RUN
    assert reader.ended


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        PING,
        PING * 9,
        block("node_started", data={}),
        block("node_started", workflow_run_id=None),
        b"data: {",
        b": c\n",
    ],
)
def test_a_stream_that_names_no_run_leaves_doubt(stream: bytes) -> None:
    reader = SubmissionReader(HEAD)
    reader.feed(stream)
    with pytest.raises(ex.DifyTransportError) as caught:
        reader.started()
    assert caught.value.sent


def test_a_start_whose_closing_line_was_cut_off_counts() -> None:
    reader = SubmissionReader(HEAD)
    reader.feed(started()[:-1])
    assert not reader.names_run
    assert reader.started().workflow_run_id == RUN


@pytest.mark.parametrize(
    ("last", "ended"), [("workflow_finished", True), ("workflow_paused", True), ("node_finished", False)]
)
def test_the_end_of_a_stream_is_its_last_event(last: str, ended: bool) -> None:
    reader = SubmissionReader(HEAD)
    reader.feed(started() + block(last, workflow_run_id=RUN, data={}))
    assert reader.ended is ended


def test_rate_limited_submissions_come_ever_later_up_to_thirty_seconds() -> None:
    assert [rate_limit_wait(attempts, None, 0.5) for attempts in (0, 1, 2, 3, 9, 10**6)] == [5, 10, 20, 30, 30, 30]


@given(st.integers(0, 10**9), st.none() | st.floats(0, 3600), st.floats(0, 1))
def test_a_rate_limited_submission_never_comes_back_too_early(
    attempts: int, retry_after: float | None, jitter: float
) -> None:
    wait = rate_limit_wait(attempts, retry_after, jitter)
    if retry_after is None:
        assert 4.5 <= wait <= 33
    else:
        assert retry_after <= wait <= 1.1 * retry_after
