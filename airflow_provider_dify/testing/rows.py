"""What GET run and the workflow logs say, by version."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from airflow_provider_dify.testing.apps import PUBLISHED_AT, App
from airflow_provider_dify.testing.errors import ApiError, invalid_param
from airflow_provider_dify.testing.files import FileStore
from airflow_provider_dify.testing.runs import ENDED, Run
from airflow_provider_dify.testing.validation import check_query
from airflow_provider_dify.testing.versions import Version

_KEYS = (
    "id", "workflow_id", "status", "inputs", "outputs", "error", "total_steps", "total_tokens", "created_at",
    "finished_at", "elapsed_time",
)  # fmt: skip
_KEYWORD_LENGTH = 30


def run_body(run: Run | None, version: Version, files: FileStore) -> dict[str, Any]:
    """Return the body of GET run.

    :param run: the run; None for an unknown one, one of another app, and one that has no row yet.
    :param files: what signs the URLs of files, again for each answer.
    :raises ApiError: the 404 of versions that have one.
    """
    row = run.row if run else None
    if run is None or row is None or run.is_hidden():
        if version.unknown_run_is_null:
            return dict.fromkeys(_KEYS)
        raise ApiError(404, "not_found", "Workflow run not found.")
    inputs = files.renewed(run.inputs | run.system_variables(version.row_timestamp))
    stale = run.is_stale()
    ended = row.finished_at is not None and not stale
    return {
        "id": run.id,
        "workflow_id": run.workflow_id,
        "status": "running" if stale else row.status,
        "inputs": json.dumps(inputs),
        "outputs": _outputs("running" if stale else row.status, files.renewed(row.outputs) if ended else {}, version),
        "error": row.error if ended else None,
        "total_steps": 0 if stale else row.total_steps,
        "total_tokens": row.total_tokens if ended else 0,
        "created_at": int(row.created_at),
        "finished_at": int(row.finished_at) if ended and row.finished_at else None,
        "elapsed_time": row.elapsed if ended else 0.0,
    }


def _outputs(status: str, outputs: Mapping[str, Any], version: Version) -> Any:
    if not version.row_outputs_are_text:
        return dict(outputs)
    if status in ("failed", "stopped"):
        return None
    return json.dumps(outputs)


def logs_body(runs: list[Run], app: App, query: Mapping[str, str], version: Version) -> dict[str, Any]:
    """Return a page of the workflow logs.

    :raises ApiError: for parameters that the version refuses.
    """
    page, limit = check_query(query, version)
    before, after = (
        parse_time(query[name]) if query.get(name) else None for name in ("created_at__before", "created_at__after")
    )
    if query.get("created_by_account"):
        if version.unknown_account_refused:
            raise invalid_param(f"Account not found: {query['created_by_account']}")
        runs = []
    found = []
    for run in runs:
        if run.app is not app or run.logged_at is None or not _matches(run, query):
            continue
        logged_at = int(run.logged_at)
        if (before is None or logged_at <= before) and (after is None or logged_at >= after):
            found.append(run)
    found.sort(key=lambda run: run.logged_at or 0.0, reverse=True)
    shown = found[(page - 1) * limit : page * limit]
    return {
        "page": page,
        "limit": limit,
        "total": len(found),
        "has_more": len(found) > page * limit,
        "data": [_log_row(run, version) for run in shown],
    }


def _matches(run: Run, query: Mapping[str, str]) -> bool:
    row = run.row
    assert row is not None
    if query.get("status") and row.status != query["status"]:
        return False
    user = query.get("created_by_end_user_session_id")
    if user and run.end_user.session_id != user:
        return False
    keyword = query.get("keyword")
    if not keyword or keyword == run.id:
        return True
    wanted = keyword[:_KEYWORD_LENGTH].lower()
    texts = (json.dumps(run.inputs), json.dumps(row.outputs), run.end_user.session_id)
    return any(wanted in text.lower() for text in texts)


def parse_time(text: str) -> float:
    """Return the unix time of an ISO 8601 text.

    :raises ApiError: the 400 that a real server gives for anything else.
    """
    if text.isdigit():
        raise invalid_param("ISO time too short")
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise invalid_param(f"String contains unknown ISO components: {text!r}") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


def _log_row(run: Run, version: Version) -> dict[str, Any]:
    row = run.row
    assert row is not None
    ended = row.status in ENDED
    workflow_run: dict[str, Any] = {
        "id": run.id,
        "version": PUBLISHED_AT,
        "status": row.status,
        **({"triggered_from": "app-run"} if version.logs_details else {}),
        "error": row.error,
        "elapsed_time": row.elapsed if ended else 0.0,
        "total_tokens": row.total_tokens,
        "total_steps": row.total_steps,
        "created_at": int(row.created_at),
        "finished_at": int(row.finished_at) if ended and row.finished_at else None,
        "exceptions_count": row.exceptions,
    }
    return {
        "id": run.log_id,
        "workflow_run": workflow_run,
        **({"details": None} if version.logs_details else {}),
        "created_from": "service-api",
        "created_by_role": "end_user",
        "created_by_account": None,
        "created_by_end_user": {
            "id": run.end_user.id,
            "type": version.end_user_type,
            "is_anonymous": False,
            "session_id": run.end_user.session_id,
        },
        "created_at": int(run.logged_at or row.created_at),
    }
