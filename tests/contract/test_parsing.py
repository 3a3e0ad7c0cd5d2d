"""Every recording of a real server, read by ``api`` with the outcome that is written down here."""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_dify.api.errors import Answer
from airflow_provider_dify.api.events import EventDecoder
from airflow_provider_dify.api.operations import Call, Operation, Upload, read_json
from airflow_provider_dify.api.pauses import PauseReader
from airflow_provider_dify.api.refusals import Refusal
from airflow_provider_dify.api.service_api import ServiceApi
from airflow_provider_dify.exceptions import (
    DifyError,
    DifyInvalidInputError,
    DifyTransportError,
)
from airflow_provider_dify.rules.streaming import StreamReader
from airflow_provider_dify.rules.submission import SubmissionReader

RECORDINGS = Path(__file__).parent / "recordings"
# Those of the knowledge API are read in test_knowledge_parsing.
FILES = sorted(
    f"{path.parent.name}/{path.stem}" for path in RECORDINGS.glob("*/*.json") if "knowledge" not in path.parent.name
)

# What is to come out of each recording, by its name or by version/name where versions differ:
#   run S            GET run shows status S                   unknown run     the server shows no such run
#   ended S          a blocking answer with status S          logs S...       the statuses of the page's first rows
#   streams S        a stream read to its first end: S of that event, or "nothing" where none is an end
#   silent           a stream that never names its run        stream error E  an error event, as the exception E
#   E STATUS CODE    an HTTP answer, as the exception E       nothing         no answer was read
EXPECTED: dict[str, str] = {
    "api-disabled": "DifyPermissionError 403 forbidden",
    "api-killed-blocking": "nothing",
    "api-killed-blocking-logs": "logs running",
    "api-killed-get-stream-run": "run succeeded",
    "api-killed-stream": "streams nothing",
    "app-max-time-blocking": "ended stopped",
    "app-max-time-get": "run running",
    "app-max-time-get-final": "run succeeded",
    "app-max-time-stream": "streams stopped",
    "auth-bad-key": "DifyAuthenticationError 401 unauthorized",
    "auth-lowercase-bearer": "info",
    "auth-missing": "DifyAuthenticationError 401 unauthorized",
    "auth-wrong-scheme": "DifyAuthenticationError 401 unauthorized",
    "bad-graph-blocking": "DifyInvalidInputError 400 invalid_param",
    "bad-graph-logs": "logs",
    "bad-graph-streaming": "stream error DifyInvalidInputError 400 invalid_param",
    "body-invalid-json": "DifyInvalidInputError 400 bad_request",
    "body-json-list": "DifyServerError 500 unknown",
    "content-type-missing": "DifyResponseError 415 unsupported_media_type",
    "disconnect-after-ping-logs-after": "logs succeeded",
    "disconnect-after-ping-stream": "silent",
    "disconnect-after-started-get-final": "run succeeded",
    "1.9.1/disconnect-after-started-get-final": "run running",
    "disconnect-after-started-logs": "logs succeeded",
    "1.9.1/disconnect-after-started-logs": "logs",
    "disconnect-after-started-stream": "streams nothing",
    "disconnect-before-first-byte": "nothing",
    "disconnect-before-first-byte-logs": "logs succeeded",
    "disconnect-blocking-call": "nothing",
    "disconnect-blocking-get-final": "run succeeded",
    "disconnect-blocking-logs-after": "logs succeeded",
    "disconnect-blocking-logs-running": "logs running",
    "1.9.1/disconnect-blocking-logs-running": "logs",
    "events-bad-uuid": "DifyServerError 500 unknown",
    "events-blocking-run-running": "streams nothing",
    "events-finished": "streams succeeded",
    "events-no-user": "DifyInvalidInputError 400 invalid_param",
    "events-other-user": "DifyNotFoundError 404 not_found",
    "events-paused-live": "silent",
    "events-paused-snapshot": "streams paused",
    "events-resume": "streams paused",
    "events-running-live": "streams succeeded",
    "events-running-snapshot": "streams succeeded",
    "events-task-id": "DifyNotFoundError 404 not_found",
    "file-get-run": "run succeeded",
    "file-run": "ended succeeded",
    "file-run-other-user": "ended succeeded",
    "1.14.2/file-run-other-user": "DifyInvalidInputError 400 invalid_param",
    "file-run-other-user-streaming": "stream error DifyInvalidInputError 500 None",
    "file-run-remote": "ended succeeded",
    "file-run-toplevel-files": "ended succeeded",
    "file-run-type-mismatch": "DifyInvalidInputError 400 invalid_param",
    "file-run-unknown-id": "DifyInvalidInputError 400 invalid_param",
    "file-upload": "upload",
    "file-upload-no-file": "DifyInvalidInputError 400 no_file_uploaded",
    "file-upload-no-user": "upload",
    "file-upload-too-big": "DifyInvalidInputError 413 file_too_large",
    "get-run-failed": "run failed",
    "get-run-multi-end": "run failed",
    "get-run-not-a-uuid": "DifyServerError 500 unknown",
    "get-run-other-app": "unknown run",
    "get-run-partial-succeeded": "run partial-succeeded",
    "get-run-running": "run running",
    "get-run-succeeded": "run succeeded",
    "get-run-unknown-id": "unknown run",
    "human-blocking": "ended paused",
    "human-form-get": "a form",
    "human-form-post": "accepted",
    "human-form-post-again": "DifyInvalidInputError 412 human_input_form_submitted",
    "human-form-post-bad-action": "DifyInvalidInputError 400 invalid_form_data",
    "human-form-post-missing-input": "DifyInvalidInputError 400 invalid_form_data",
    "human-get-final": "run succeeded",
    "human-get-paused": "run paused",
    "human-logs-paused": "logs paused",
    "human-stream": "streams paused",
    "info": "info",
    "inputs-missing": "DifyInvalidInputError 400 invalid_param",
    "1.9.1/inputs-missing": "DifyInvalidInputError 400 None",
    "logs-account-unknown": "DifyInvalidInputError 400 invalid_param",
    "1.9.1/logs-account-unknown": "logs",
    "logs-after-epoch": "DifyInvalidInputError 400 invalid_param",
    "logs-after-iso": "logs succeeded succeeded succeeded",
    "1.14.2/logs-after-iso": "logs running succeeded",
    "logs-by-user": "logs succeeded succeeded succeeded",
    "1.14.2/logs-by-user": "logs running succeeded",
    "logs-by-user-after": "logs succeeded",
    "logs-by-user-running": "logs running",
    "1.9.1/logs-by-user-running": "logs",
    "logs-keyword-run-id": "logs succeeded",
    "1.14.2/logs-keyword-run-id": "logs running",
    "logs-limit-0": "DifyInvalidInputError 400 invalid_param",
    "1.9.1/logs-limit-0": "DifyInvalidInputError 400 None",
    "logs-limit-101": "DifyInvalidInputError 400 invalid_param",
    "1.9.1/logs-limit-101": "DifyInvalidInputError 400 None",
    "logs-no-filter": "logs running succeeded succeeded",
    "logs-page-2": "logs succeeded",
    "1.14.2/logs-page-2": "logs succeeded succeeded succeeded",
    "logs-partial-row": "logs partial-succeeded partial-succeeded",
    "logs-status-partial": "DifyInvalidInputError 400 invalid_param",
    "1.9.1/logs-status-partial": "DifyInvalidInputError 400 None",
    "logs-status-running": "DifyInvalidInputError 400 invalid_param",
    "1.9.1/logs-status-running": "DifyInvalidInputError 400 None",
    "logs-status-succeeded": "logs succeeded",
    "1.14.2/logs-status-succeeded": "logs succeeded succeeded",
    "lost-all-but-finished-stream": "streams succeeded",
    "lost-all-events-stream": "silent",
    "lost-start-events-stream": "streams succeeded",
    "method-not-allowed": "DifyResponseError 405 method_not_allowed",
    "missing-required-blocking": "DifyInvalidInputError 400 invalid_param",
    "missing-required-streaming": "DifyInvalidInputError 400 invalid_param",
    "1.14.2/missing-required-streaming": "stream error DifyInvalidInputError 500 None",
    "no-worker-logs-after": "logs succeeded",
    "no-worker-stream": "silent",
    "number-list": "DifyServerError 500 internal_server_error",
    "number-numeric-string": "ended succeeded",
    "object-json-string": "DifyInvalidInputError 400 invalid_param",
    "options-run": "DifyResponseError 200 None",
    "parameters": "an object",
    "path-api-workflow-runs": "DifyNotFoundError 404 None",
    "path-api-workflows-id-run": "DifyNotFoundError 404 None",
    "path-api-workflows-run": "DifyAuthenticationError 401 unauthorized",
    "plugin-daemon-down-blocking": "DifyProviderError 400 invalid_param",
    "queued-blocking": "ended succeeded",
    "queued-disconnected-logs-after": "logs succeeded",
    "queued-disconnected-stream": "silent",
    "queued-logs": "logs",
    "queued-logs-after": "logs succeeded",
    "queued-over-300s-logs-after": "logs succeeded",
    "queued-over-300s-stream": "silent",
    "queued-stream": "streams succeeded",
    "rate-limit-blocking": "DifyRateLimitError 400 invalid_param",
    "rate-limit-get-run": "run running",
    "rate-limit-one-single-stream": "DifyRateLimitError 400 invalid_param",
    "rate-limit-streaming": "DifyRateLimitError 400 invalid_param",
    "rate-limit-streams-not-counted": "ended succeeded",
    "required-empty": "ended succeeded",
    "response-mode-invalid": "DifyInvalidInputError 400 invalid_param",
    "1.9.1/response-mode-invalid": "DifyInvalidInputError 400 None",
    "run-blocking-echo": "ended succeeded",
    "run-blocking-failing": "ended failed",
    "run-blocking-partial-default": "ended partial-succeeded",
    "run-blocking-partial-failbranch": "ended partial-succeeded",
    "run-by-id-bad-uuid": "DifyInvalidInputError 400 bad_request",
    "run-by-id-blocking": "ended succeeded",
    "run-by-id-draft": "DifyInvalidInputError 400 bad_request",
    "run-by-id-older-version": "ended succeeded",
    "run-by-id-other-app": "DifyNotFoundError 404 not_found",
    "run-by-id-unknown": "DifyNotFoundError 404 not_found",
    "run-default-mode": "ended succeeded",
    "run-idempotency-header-ignored": "ended succeeded",
    "run-streaming-echo": "streams succeeded",
    "run-streaming-failing": "streams failed",
    "run-streaming-iteration": "streams succeeded",
    "run-streaming-loop": "streams succeeded",
    "run-streaming-partial-default": "streams partial-succeeded",
    "run-streaming-retry": "streams failed",
    "run-streaming-slow-pings": "streams succeeded",
    "select-bad-option": "DifyInvalidInputError 400 invalid_param",
    "slots-full-info": "info",
    "stop-after-finish": "accepted",
    "stop-after-finish-get": "run succeeded",
    "stop-blocking-run": "ended stopped",
    "stop-blocking-run-get-final": "run stopped",
    "1.11.2/stop-blocking-run-get-final": "run running",
    "stop-call": "accepted",
    "stop-detached-call": "accepted",
    "stop-detached-get-final": "run running",
    "1.14.2/stop-detached-get-final": "run stopped",
    "stop-detached-stream": "streams nothing",
    "stop-get-final": "run stopped",
    "1.11.2/stop-get-final": "run running",
    "stop-missing-user": "DifyInvalidInputError 400 invalid_param",
    "stop-multi-node-get-final": "run stopped",
    "stop-multi-node-stream": "streams stopped",
    "stop-other-app-key-call": "accepted",
    "stop-other-app-key-get-final": "run stopped",
    "1.11.2/stop-other-app-key-get-final": "run running",
    "stop-other-app-key-stream": "streams nothing",
    "stop-other-user-call": "accepted",
    "stop-other-user-get-final": "run stopped",
    "1.11.2/stop-other-user-get-final": "run running",
    "stop-paused-call": "accepted",
    "stop-paused-get": "run paused",
    "stop-race-failed-stream": "streams failed",
    "stop-race-stopped-stream": "streams stopped",
    "stop-stream": "streams stopped",
    "stop-stuck-running-call": "accepted",
    "stop-stuck-running-get": "run running",
    "stop-stuck-running-stream": "streams stopped",
    "stop-unknown-task": "accepted",
    "stop-with-run-id": "accepted",
    "stop-wrong-app-mode": "DifyAppError 400 not_workflow_app",
    "text-too-long": "DifyInvalidInputError 400 invalid_param",
    "unknown-path": "DifyNotFoundError 404 None",
    "unpublished-blocking": "DifyAppError 400 invalid_param",
    "unpublished-parameters": "DifyAppError 400 app_unavailable",
    "unpublished-streaming": "DifyAppError 400 invalid_param",
    "user-300-chars": "DifyServerError 500 unknown",
    "user-integer": "ended succeeded",
    "user-missing": "DifyInvalidInputError 400 invalid_param",
    "v1-no-slash": "DifyResponseError 308 None",
    "wf-max-time-blocking": "ended failed",
    "wf-max-time-get-final": "run stopped",
    "wf-max-time-stream": "streams failed",
    "worker-killed-get-after-stop": "run running",
    "worker-killed-stop": "accepted",
    "worker-killed-stream": "streams nothing",
    "wrong-app-mode-blocking": "DifyAppError 400 not_workflow_app",
    "wrong-app-mode-logs": "logs",
    "wrong-app-mode-streaming": "DifyAppError 400 not_workflow_app",
}
# A refusal that Dify 1.15 and later tell by a synthetic pair of events.
EXPECTED |= dict.fromkeys(
    (
        "file-run-bad-id-streaming",
        "file-run-bad-method-streaming",
        "file-run-no-type-streaming",
        "file-run-remote-not-http-streaming",
        "file-run-remote-unreachable-streaming",
        "file-run-string-streaming",
        "file-run-type-mismatch-streaming",
        "file-run-unknown-id-streaming",
        "null-required-streaming",
        "number-list-streaming",
        "number-text-streaming",
        "object-json-string-streaming",
        "object-list-streaming",
        "queued-refused-stream",
        "select-bad-option-streaming",
        "text-not-string-streaming",
        "text-too-long-streaming",
        "1.16.1/file-run-other-user-streaming",
        "1.16.1/missing-required-streaming",
    ),
    "stream error DifyInvalidInputError 400 None",
)
EXPECTED |= {
    "human-form-get-other-app": "DifyNotFoundError 404 not_found",
    "human-select-events-resume": "streams paused",
    "plugin-daemon-down-streaming": "stream error DifyProviderError 400 invalid_param",
}
EXPECTED |= dict.fromkeys(
    (
        "file-list-not-list",
        "file-list-too-many",
        "file-run-bad-id",
        "file-run-bad-method",
        "file-run-no-type",
        "file-run-no-type-release",
        "file-run-remote-not-http",
        "file-run-string",
        "missing-required-blocking-release",
        "null-required-blocking",
        "number-text-blocking",
        "object-list-blocking",
        "select-empty",
        "text-not-string-blocking",
    ),
    "DifyInvalidInputError 400 invalid_param",
)
EXPECTED |= dict.fromkeys(
    (
        "checkbox-list-release",
        "checkbox-word-blocking",
        "checkbox-word-release",
        "checkbox-yes",
        "checkbox-yes-release",
        "file-list-run",
        "file-run-release",
        "input-undeclared",
        "number-empty-string",
        "run-blocking-echo-release",
    ),
    "ended succeeded",
)
# The 1.14.2 release refuses inputs of a stream with a ping, and silence after it.
EXPECTED |= dict.fromkeys(
    (
        "missing-required-streaming-release",
        "null-required-streaming-release",
        "number-list-streaming-release",
        "number-text-streaming-release",
        "object-json-string-streaming-release",
        "select-bad-option-streaming-release",
        "text-not-string-streaming-release",
        "text-too-long-streaming-release",
    ),
    "silent",
)
EXPECTED |= {
    "number-list-release": "DifyServerError 500 internal_server_error",
    "parameters-release": "an object",
    "run-streaming-echo-release": "streams succeeded",
}
# Seen on Dify 1.16.1 and on the 1.14.2 release only, or other than on the servers above.
EXPECTED |= {
    "1.16.1/app-max-time-get-final": "run stopped",
    "auth-bad-key-streaming": "DifyAuthenticationError 401 unauthorized",
    "auth-dataset-key": "DifyAuthenticationError 401 unauthorized",
    "auth-empty-key": "DifyAuthenticationError 401 unauthorized",
    "bad-graph-blocking-release": "DifyInvalidInputError 400 invalid_param",
    "bad-graph-streaming-get": "unknown run",
    "bad-graph-streaming-release": "stream error DifyInvalidInputError 400 invalid_param",
    "body-empty": "DifyInvalidInputError 400 bad_request",
    "checkbox-word-streaming": "streams succeeded",
    "code-sandbox-down-blocking": "ended failed",
    "events-finished-resumed": "streams stopped",
    "events-other-app": "DifyNotFoundError 404 not_found",
    "events-resume-no-snapshot": "streams succeeded",
    "file-output-blocking": "ended succeeded",
    "file-output-get": "run succeeded",
    "file-preview": "DifyNotFoundError 404 file_not_found",
    "file-preview-after-run-release": "DifyNotFoundError 404 file_not_found",
    "file-preview-release": "DifyNotFoundError 404 file_not_found",
    "1.16.1/file-run-other-user": "DifyInvalidInputError 400 invalid_param",
    "file-run-other-user-streaming-get": "unknown run",
    "file-run-other-user-streaming-release": "silent",
    "file-run-remote-unreachable": "DifyInvalidInputError 400 invalid_param",
    "file-run-remote-unreachable-streaming-get": "unknown run",
    "file-run-toplevel-files-streaming": "streams succeeded",
    "file-run-unknown-id-streaming-release": "silent",
    "file-upload-empty": "upload",
    "file-upload-exe": "upload",
    "file-upload-exe-release": "upload",
    "file-upload-json": "DifyInvalidInputError 400 no_file_uploaded",
    "file-upload-release": "upload",
    "file-upload-two": "upload",
    "file-upload-two-release": "upload",
    "file-upload-unicode": "upload",
    "health": "an object",
    "human-blocking-form-post": "accepted",
    "human-blocking-get-final": "run succeeded",
    "human-blocking-release": "ended paused",
    "human-form-get-after": "DifyInvalidInputError 412 human_input_form_submitted",
    "human-form-post-no-inputs": "DifyInvalidInputError 400 invalid_param",
    "human-form-post-no-user": "DifyInvalidInputError 400 invalid_param",
    "human-form-unknown": "DifyNotFoundError 404 not_found",
    "human-form-unknown-release": "DifyNotFoundError 404 not_found",
    "human-select-events-finished": "streams succeeded",
    "human-select-form-get": "a form",
    "human-select-form-get-after": "DifyInvalidInputError 412 human_input_form_submitted",
    "human-select-form-post": "accepted",
    "human-select-form-post-bad-option": "DifyInvalidInputError 400 invalid_form_data",
    "human-select-form-post-comment-number": "accepted",
    "human-select-form-post-file-list": "DifyInvalidInputError 400 invalid_form_data",
    "human-select-form-post-file-missing": "DifyInvalidInputError 400 invalid_form_data",
    "human-select-form-post-file-remote-unreachable": "DifyInvalidInputError 400 invalid_form_data",
    "human-select-form-post-file-string": "DifyInvalidInputError 400 invalid_form_data",
    "human-select-form-post-file-unknown-id": "DifyInvalidInputError 400 invalid_form_data",
    "human-select-form-post-file-wrong-type": "DifyInvalidInputError 400 invalid_form_data",
    "human-select-form-post-other-user-file": "accepted",
    "human-select-form-post-select-list": "DifyInvalidInputError 400 invalid_form_data",
    "human-select-form-post-select-missing": "DifyInvalidInputError 400 invalid_form_data",
    "human-select-form-post-submitter-file": "accepted",
    "human-select-form-post-undeclared": "accepted",
    "human-select-get-final": "run succeeded",
    "human-select-stream": "streams paused",
    "human-select-undeclared-get-final": "run succeeded",
    "human-select-upload": "upload",
    "info-release": "info",
    "inputs-list": "DifyInvalidInputError 400 invalid_param",
    "inputs-null": "DifyInvalidInputError 400 invalid_param",
    "1.16.1/logs-after-iso": "logs succeeded succeeded",
    "logs-before-iso": "logs",
    "1.16.1/logs-by-user": "logs stopped",
    "1.16.1/logs-no-filter": "logs succeeded succeeded succeeded",
    "logs-page-0": "DifyInvalidInputError 400 invalid_param",
    "1.16.1/logs-page-2": "logs succeeded succeeded stopped",
    "1.16.1/logs-partial-row": "logs partial-succeeded",
    "logs-status-stopped": "logs stopped stopped",
    "1.16.1/logs-status-succeeded": "logs succeeded succeeded",
    "logs-unknown-parameter": "logs succeeded",
    "logs-user-unknown": "logs",
    "meta": "an object",
    "missing-required-streaming-events": "DifyNotFoundError 404 not_found",
    "missing-required-streaming-get": "unknown run",
    "missing-required-streaming-get-later": "unknown run",
    "missing-required-streaming-logs": "logs",
    "missing-required-streaming-logs-after-release": "logs",
    "missing-required-streaming-logs-release": "logs",
    "missing-required-streaming-stop": "accepted",
    "multi-end-blocking": "ended failed",
    "nginx-502-get-run": "DifyServerError 502 None",
    "nginx-502-info": "DifyServerError 502 None",
    "nginx-502-no-key": "DifyServerError 502 None",
    "nginx-502-run-blocking": "DifyServerError 502 None",
    "nginx-502-run-streaming": "DifyServerError 502 None",
    "nginx-502-stop": "DifyServerError 502 None",
    "nginx-api-killed-blocking": "DifyServerError 502 None",
    "nginx-api-killed-stream": "streams nothing",
    "nginx-info": "info",
    "nginx-run-streaming-echo": "streams succeeded",
    "nginx-unknown-path": "DifyServerError 502 None",
    "number-list-streaming-get": "unknown run",
    "number-list-streaming-logs": "logs",
    "parameters-chatflow-release": "an object",
    "parameters-human-select": "an object",
    "path-openapi-v1": "DifyNotFoundError 404 None",
    "path-openapi-v1-apps": "DifyNotFoundError 404 None",
    "path-openapi-v1-health": "DifyNotFoundError 404 None",
    "path-openapi-v1-version": "DifyNotFoundError 404 None",
    "1.16.1/rate-limit-get-run": "unknown run",
    "refused-streams-starve-server-release": "nothing",
    "root": "DifyNotFoundError 404 None",
    "select-bad-option-streaming-get": "unknown run",
    "select-bad-option-streaming-logs": "logs",
    "site": "an object",
    "site-release": "an object",
    "1.16.1/stop-blocking-run": "ended succeeded",
    "stop-blocking-run-call": "accepted",
    "stop-call-release": "accepted",
    "stop-detached-call-release": "accepted",
    "1.16.1/stop-detached-get-final": "run stopped",
    "stop-detached-get-final-release": "run running",
    "stop-detached-stream-release": "streams nothing",
    "stop-get-final-release": "run running",
    "stop-get-right-after": "run stopped",
    "stop-get-right-after-release": "run running",
    "stop-multi-node-call": "accepted",
    "stop-no-body": "DifyResponseError 415 unsupported_media_type",
    "stop-other-user-stream": "streams stopped",
    "stop-paused-resume-events": "streams paused",
    "stop-paused-resume-form-post": "accepted",
    "stop-paused-resume-get": "run running",
    "stop-paused-resume-get-final": "run stopped",
    "stop-stream-release": "streams stopped",
    "stop-stuck-get-release": "run running",
    "stop-with-run-id-get": "run succeeded",
    "text-too-long-streaming-get": "unknown run",
    "text-too-long-streaming-logs": "logs",
    "trace-bad": "ended succeeded",
    "trace-session": "ended succeeded",
    "trace-session-too-long": "DifyInvalidInputError 400 bad_request",
    "user-300-chars-streaming": "DifyServerError 500 unknown",
    "user-empty": "DifyInvalidInputError 400 invalid_param",
    "1.16.1/wf-max-time-blocking": "ended stopped",
    "1.16.1/wf-max-time-stream": "streams stopped",
    "worker-killed-get-later": "run running",
    "worker-terminated-get-after": "run stopped",
    "worker-terminated-get-final": "run stopped",
    "worker-terminated-get-right-after": "run stopped",
    "worker-terminated-logs-after": "logs stopped",
    "worker-terminated-multi-get-after": "run stopped",
    "worker-terminated-multi-get-final": "run stopped",
    "worker-terminated-multi-stream": "streams stopped",
    "worker-terminated-queued-logs-after": "logs stopped",
    "worker-terminated-queued-logs-before": "logs stopped",
    "worker-terminated-queued-stream": "streams stopped",
    "worker-terminated-stream": "streams stopped",
}
_COMMENT = ("comment", "paragraph", "dflt", (), False)
FORM_FIELDS = {
    "1.14.2/human-form-get": [_COMMENT],
    "1.16.1/human-form-get": [_COMMENT],
    "1.16.1/human-select-form-get": [
        _COMMENT,
        ("pick", "select", None, ("red", "green"), False),
        ("att", "file", None, (), True),
    ],
}
PAUSE_QUESTIONS = {
    "1.14.2/events-paused-snapshot": "Approve",
    "1.14.2/human-stream": "Approve",
    "1.16.1/events-paused-snapshot": "Approve",
    "1.16.1/human-select-stream": "Please approve doc3",
    "1.16.1/human-stream": "Approve",
}


def expected(file: str) -> str:
    return EXPECTED.get(file) or EXPECTED[file.partition("/")[2]]


def of_kind(*kinds: str) -> list[str]:
    return [file for file in FILES if expected(file).startswith(kinds)]


@cache
def load(file: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((RECORDINGS / f"{file}.json").read_text())
    return content


def answer_of(file: str) -> Answer:
    response = load(file)["response"]
    body = json.dumps(response["json"]) if "json" in response else response.get("text", "")
    return Answer(response["status"], response["headers"], body.encode())


def operation_of(file: str) -> Operation[Any]:
    """Return the operation that asks what was asked; a bare one for what ``api`` never asks."""
    request = load(file)["request"]
    method, path = request["method"], request["path"].removeprefix("/v1")
    api, parts = ServiceApi(), request["path"].split("/")
    submission: dict[str, Any] = {"inputs": {}, "user": "u", "response_mode": "blocking"}
    if method == "POST" and path.startswith("/workflows") and path.endswith("/run"):
        return api.run(**submission)
    if method == "POST" and path.endswith("/stop"):
        return api.stop(parts[4], "u")
    if method == "POST" and path == "/files/upload":
        return api.upload(Upload(BytesIO(b""), "a.txt", "text/plain"), "u")
    if method == "GET" and path.startswith("/workflows/run/") and parts[4] != "not-a-uuid":
        return api.get_run(parts[4])
    if path.startswith("/form/human_input/"):
        answer: dict[str, Any] = {"action": "approve", "inputs": {}, "user": "u"}
        token = path.rpartition("/")[2]
        return api.human_input_form(token) if method == "GET" else api.submit_human_input(token, **answer)
    fixed: dict[str, Operation[Any]] = {
        "/workflows/logs": api.logs(),
        "/info": api.info(),
        "/parameters": api.parameters(),
    }
    if method == "GET" and path in fixed:
        return fixed[path]
    return Operation(Call(method, path, "Asking"), lambda answer: read_json(answer, "Asking"))


def chunks_of(file: str) -> list[bytes]:
    return [item["raw"].encode() for item in load(file)["response"]["sse"]]


def payloads_of(file: str) -> list[dict[str, Any]]:
    """Read a recorded stream without ``api``: its complete blocks, pings among them."""
    blocks = b"".join(chunks_of(file)).decode().split("\n\n")[:-1]
    return [
        {"event": "ping"} if block == "event: ping" else json.loads(block.removeprefix("data: ")) for block in blocks
    ]


def test_every_recording_has_an_expected_outcome_and_none_is_stale() -> None:
    assert len(FILES) > 700
    names = {file.partition("/")[2] for file in FILES}
    assert {key for key in EXPECTED if "/" not in key} == names
    assert {key for key in EXPECTED if "/" in key} <= set(FILES)
    assert set(PAUSE_QUESTIONS) <= set(FILES)
    assert set(FORM_FIELDS) == set(of_kind("a form"))


def test_every_kind_of_outcome_is_tested() -> None:
    tested = [
        *of_kind("nothing"),
        *of_kind("run "),
        *of_kind("unknown run"),
        *of_kind("ended "),
        *of_kind("logs"),
        *of_kind("streams "),
        *of_kind("silent"),
        *of_kind("stream error "),
        *of_kind("Dify"),
        *of_kind("upload", "info", "accepted", "an object", "a form"),
    ]
    assert sorted(tested) == FILES


@pytest.mark.parametrize("file", of_kind("nothing"))
def test_no_answer(file: str) -> None:
    assert load(file)["response"] is None


@pytest.mark.parametrize("file", of_kind("Dify"))
def test_errors(file: str) -> None:
    kind, status, code = expected(file).split()
    with pytest.raises(DifyError) as caught:
        operation_of(file).read(answer_of(file))
    assert type(caught.value).__name__ == kind
    assert caught.value.status_code == int(status)
    assert caught.value.code == (None if code == "None" else code)
    reported = load(file)["response"].get("json", {}).get("message") or ""
    # The token of a form is shown nowhere.
    reported = re.sub(r"/human_input/\w+", "/human_input/***", reported)
    assert " ".join(reported.split())[:100].rstrip(". ") in str(caught.value)


@pytest.mark.parametrize("file", of_kind("unknown run"))
def test_unknown_runs(file: str) -> None:
    with pytest.raises(DifyError) as caught:
        operation_of(file).read(answer_of(file))
    assert type(caught.value).__name__ == "DifyRunNotFoundError"


@pytest.mark.parametrize("file", of_kind("run "))
def test_runs(file: str) -> None:
    reported = load(file)["response"]["json"]
    outputs, inputs = reported["outputs"], json.loads(reported["inputs"])
    run = operation_of(file).read(answer_of(file))
    assert run.workflow_run_id == load(file)["request"]["path"].split("/")[-1] == reported["id"]
    assert str(run.status) == expected(file).split()[1]
    assert run.outputs == ((json.loads(outputs) if isinstance(outputs, str) else outputs) or {})
    assert run.error == (reported["error"] or None)
    assert run.app_id == inputs["sys.app_id"]
    assert run.user == inputs["sys.user_id"]
    assert run.workflow_id == reported["workflow_id"]
    assert (run.total_steps, run.total_tokens) == (reported["total_steps"], reported["total_tokens"])
    assert (run.created_at, run.finished_at) == (reported["created_at"], reported["finished_at"])
    assert (run.finished_at is None) == (not run.status.is_terminal)
    assert run.elapsed_time == pytest.approx(reported["elapsed_time"])


@pytest.mark.parametrize("file", of_kind("ended "))
def test_blocking_answers(file: str) -> None:
    reported = load(file)["response"]["json"]
    started = operation_of(file).read(answer_of(file))
    assert (started.workflow_run_id, started.task_id) == (reported["workflow_run_id"], reported["task_id"])
    assert started.server_version == file.partition("/")[0]
    assert str(started.run.status) == expected(file).split()[1]
    assert started.settled == (expected(file) != "ended paused")
    assert started.run.outputs == (reported["data"]["outputs"] or {})
    assert started.run.error == (reported["data"]["error"] or None)
    assert list(started.run.reasons) == reported["data"].get("reasons", [])


@pytest.mark.parametrize("file", of_kind("logs"))
def test_logs(file: str) -> None:
    reported = load(file)["response"]["json"]
    page = operation_of(file).read(answer_of(file))
    statuses = expected(file).split()[1:]
    assert [str(run.status) for run in page.runs][:3] == statuses
    assert [run.workflow_run_id for run in page.runs] == [row["workflow_run"]["id"] for row in reported["data"]]
    assert [run.user for run in page.runs] == [
        (row["created_by_end_user"] or {}).get("session_id") for row in reported["data"]
    ]
    rows = [row["workflow_run"] for row in reported["data"]]
    assert [(run.total_steps, run.total_tokens, run.version) for run in page.runs] == [
        (row["total_steps"], row["total_tokens"], row["version"]) for row in rows
    ]
    assert [(run.elapsed_time, run.exceptions_count) for run in page.runs] == [
        (pytest.approx(row["elapsed_time"]), row["exceptions_count"]) for row in rows
    ]
    assert (page.page, page.has_more) == (reported["page"], reported["has_more"])
    assert page.server_version == file.partition("/")[0]


@pytest.mark.parametrize("file", of_kind("upload", "info", "accepted", "an object", "a form"))
def test_other_answers(file: str) -> None:
    reported = load(file)["response"]["json"]
    value = operation_of(file).read(answer_of(file))
    if expected(file) == "upload":
        assert (value.upload_file_id, value.name, value.size) == (reported["id"], reported["name"], reported["size"])
    elif expected(file) == "info":
        assert (value.name, value.mode) == (reported["name"], reported["mode"])
        assert (value.description, list(value.tags)) == (reported["description"], reported["tags"])
        assert value.author_name == reported["author_name"]
    elif expected(file) == "a form":
        assert (value.content, value.expires_at) == (reported["form_content"], reported["expiration_time"])
        fields = [(each.name, each.type, each.default, each.options, each.is_file) for each in value.fields]
        assert fields == FORM_FIELDS[file]
        assert [(each.id, each.title) for each in value.actions] == [("approve", "Approve"), ("reject", "Reject")]
    else:
        assert value == (None if expected(file) == "accepted" else reported)


STREAMS = of_kind("streams ", "silent", "stream error ")


@pytest.mark.parametrize("file", STREAMS)
def test_events_of_streams(file: str) -> None:
    decoder = EventDecoder()
    events = [event for chunk in chunks_of(file) for event in decoder.feed(chunk)]
    reported = payloads_of(file)
    assert [event.event for event in events] == [payload["event"] for payload in reported]
    assert [event.workflow_run_id for event in events] == [payload.get("workflow_run_id") for payload in reported]
    assert [event.task_id for event in events] == [payload.get("task_id") for payload in reported]
    data = [event.data for event in events if event.event not in ("error", "ping")]
    assert data == [payload["data"] for payload in reported if payload["event"] not in ("error", "ping")]


@pytest.mark.parametrize("file", of_kind("streams "))
def test_streams_that_name_their_run(file: str) -> None:
    reported = [payload for payload in payloads_of(file) if payload["event"] != "ping"]
    reader = SubmissionReader(answer_of(file))
    for chunk in chunks_of(file):
        reader.feed(chunk)
        if reader.names_run:
            break
    started = reader.started()
    assert (started.workflow_run_id, started.task_id) == (reported[0]["workflow_run_id"], reported[0]["task_id"])
    assert started.server_version == file.partition("/")[0]
    first = reported[0]["data"].get("inputs") if reported[0]["event"] == "workflow_started" else None
    assert started.app_id == (first or {}).get("sys.app_id")


@pytest.mark.parametrize("file", of_kind("streams "))
def test_streams_read_to_their_end(file: str) -> None:
    reader = StreamReader("u")
    events = []
    for chunk in chunks_of(file):
        events += list(reader.feed(chunk))
        if reader.ended:
            break
    end = expected(file).split()[1]
    assert reader.ended is (end != "nothing")
    assert reader.workflow_run_id == events[0].workflow_run_id
    assert "ping" not in {event.event for event in events}
    if reader.ended:
        assert events[-1].event == ("workflow_paused" if end == "paused" else "workflow_finished")
        assert events[-1].data["status"] == end


@pytest.mark.parametrize("file", of_kind("silent"))
def test_streams_that_name_no_run(file: str) -> None:
    reader = SubmissionReader(answer_of(file))
    for chunk in chunks_of(file):
        reader.feed(chunk)
    assert not reader.names_run
    with pytest.raises(DifyTransportError) as caught:
        reader.started()
    assert caught.value.sent


@pytest.mark.parametrize("file", of_kind("stream error "))
def test_streams_that_refuse(file: str) -> None:
    _, _, kind, status, code = expected(file).split()
    for reader in (SubmissionReader(answer_of(file)), StreamReader("u")):
        with pytest.raises(Refusal) as caught:
            list(reader.feed(b"".join(chunks_of(file))) or ())
        error = caught.value.error
        assert (type(error).__name__, str(error.status_code), str(error.code)) == (kind, status, code)


@pytest.mark.parametrize("file", PAUSE_QUESTIONS)
def test_what_a_paused_run_asks(file: str) -> None:
    reader = PauseReader()
    more = [reader.feed(chunk) for chunk in chunks_of(file)]
    assert more[-1] is False
    assert PAUSE_QUESTIONS[file] in reader.questions()[0]
    tokens = [p["data"]["form_token"] for p in payloads_of(file) if "form_token" in p.get("data", {})]
    assert tokens
    assert all(token not in text for token in tokens for text in reader.questions())


NEWER = ["1.17.1", "1.20.0"]
ADDED = {"news": {"list": [1, None], "text": "x"}}


@pytest.mark.parametrize("version", NEWER)
@pytest.mark.parametrize(
    "file",
    [file for file in of_kind("run ", "ended ", "logs", "upload", "info", "accepted", "a form") if "1.16.1" in file],
)
def test_answers_of_newer_servers(file: str, version: str) -> None:
    """What a newer server adds to an answer is passed over."""
    response, operation = load(file)["response"], operation_of(file)
    body = {**response["json"], **ADDED}
    if isinstance(body.get("data"), dict):
        body["data"] = {**body["data"], **ADDED}
    answer = Answer(response["status"], {**response["headers"], "x-version": version}, json.dumps(body).encode())
    assert repr(operation.read(answer)).replace(version, "1.16.1") == repr(operation.read(answer_of(file)))


@pytest.mark.parametrize("version", NEWER)
@pytest.mark.parametrize("file", [file for file in of_kind("streams ", "stream error ") if "1.16.1" in file])
def test_streams_of_newer_servers(file: str, version: str) -> None:
    """An event of an unknown name is passed over wherever it comes, and so is what is added to known ones."""

    def outcome(answer: Answer, stream: bytes) -> tuple[Any, ...]:
        submission, reader = SubmissionReader(answer), StreamReader("u")
        try:
            submission.feed(stream)
            events = [event.event for event in reader.feed(stream)]
        except Refusal as refusal:
            return type(refusal.error), str(refusal.error)
        started = submission.started()
        return started.workflow_run_id, started.task_id, started.app_id, reader.ended, events

    reported = payloads_of(file)
    unknown = {"event": "news_chunk", "data": ADDED}
    named = {key: reported[-1][key] for key in ("workflow_run_id", "task_id") if key in reported[-1]}
    stream = "event: ping\n\n"
    for payload in reported:
        if payload["event"] == "ping":
            continue
        data = {"data": payload["data"] | ADDED} if isinstance(payload.get("data"), dict) else {}
        for each in (payload | data | ADDED, unknown | named):
            stream += f"data: {json.dumps(each)}\n\n"
    recorded = answer_of(file)
    answer = Answer(recorded.status, {**recorded.headers, "x-version": version}, b"")
    found, expected_outcome = outcome(answer, stream.encode()), outcome(recorded, b"".join(chunks_of(file)))
    without = [event for event in found[-1] if event != "news_chunk"] if isinstance(found[-1], list) else found[-1]
    assert (*found[:-1], without) == expected_outcome


def test_an_id_that_is_no_uuid_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(DifyInvalidInputError, match="nothing was sent"):
        ServiceApi().get_run("not-a-uuid")


@pytest.mark.parametrize(
    "file", [file for file in FILES if "logs-after-iso" in file or "logs-by-user" in file or "logs-status-s" in file]
)
def test_the_logs_are_asked_as_recorded(file: str) -> None:
    query = load(file)["request"]["query"]
    moment = query.get("created_at__after")
    call = (
        ServiceApi()
        .logs(
            user=query.get("created_by_end_user_session_id"),
            status=query.get("status"),
            created_after=datetime.fromisoformat(moment.replace("Z", "+00:00")) if moment else None,
            limit=int(query.get("limit", 20)),
        )
        .call
    )
    asked = {name: value for name, value in query.items() if name not in ("limit", "page", "created_at__after")}
    assert call.path == load(file)["request"]["path"].removeprefix("/v1")
    assert asked.items() <= call.query.items()
    if moment:
        sent = datetime.fromisoformat(call.query["created_at__after"])
        assert sent == datetime.fromisoformat(moment.replace("Z", "+00:00")).astimezone(timezone.utc).replace(
            microsecond=0
        )
