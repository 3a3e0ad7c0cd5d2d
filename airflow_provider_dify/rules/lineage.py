"""What of a run is lineage: the files that went in and came out, named as OpenLineage names data."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_dify.api.runs import WorkflowRun
from airflow_provider_dify.api.values import text_or_none
from airflow_provider_dify.names import OUTPUTS_SAVED_TO, SAVED_TO
from airflow_provider_dify.rules.uploads import is_path_object

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_WEB = ("http", "https")
_SCHEMES = {"s3a": "s3", "s3n": "s3", "gcs": "gs"}
# Here the part before the @ is a container, and elsewhere Airflow's connection.
_AZURE_HOST = ".core.windows.net"
_MAX_DEPTH = 100

Dataset = tuple[str, str]
"""Namespace and name."""


def dataset_of(location: str) -> Dataset | None:
    """Return the data set that a URL, a URI or a local path names, without anything that gives access to it.

    Neither the query of a URL (a signature may stand in it) nor user, password or Airflow connection are part of a
    name, so that one file is one data set whoever reads it.

    :param location: Where the data is.
    :return: Namespace and name; None for what names nothing.
    """
    text = location.strip()
    if "://" not in text:
        return ("file", os.path.abspath(os.path.expanduser(text))) if text else None
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return None
    scheme = _SCHEMES.get(parts.scheme, parts.scheme)
    if scheme in ("file", "local"):
        # A file's name may have a ? or a #, which are no query there.
        path = text.partition("://")[2][len(parts.netloc) :]
        return (f"file://{host}" if host else "file", path) if path else None
    if not host:
        return None
    if scheme not in _WEB:
        # Names of buckets are not to be changed, so neither their case.
        host = parts.netloc.rpartition("@")[2].partition(":")[0]
        if host.endswith(_AZURE_HOST) and "@" in parts.netloc:
            host = parts.netloc.partition(":")[0]
    namespace = f"{scheme}://{host}" + (f":{port}" if port is not None else "")
    return namespace, (parts.path or "/") if scheme in _WEB else (parts.path.lstrip("/") or "/")


def input_datasets(inputs: Any, files: Any) -> list[Dataset]:
    """Return the data sets that go into a run, each once.

    Those are the run's files that are URLs, URIs or paths, and among the inputs the files in Dify's form, paths, and
    texts that are the URI of an object. A text that is a web address may be anything, and is none.

    :param inputs: The task's inputs; anything but a mapping has none.
    :param files: The task's files; anything but a list has none.
    """
    found = [_location(file, bare=True) for file in files] if isinstance(files, (list, tuple)) else []
    for value in inputs.values() if isinstance(inputs, Mapping) else ():
        found += [_location(each, bare=False) for each in (value if isinstance(value, (list, tuple)) else (value,))]
    return _named(found)


def output_datasets(*values: Any) -> list[Dataset]:
    """Return the data sets that a task has written, each once: saved files of the outputs, and saved outputs.

    :param values: The outputs, and what the task returned.
    """
    return _named(location for value in values for location in _saved_in(value))


def run_properties(run_id: str, run: WorkflowRun | None, app_id: str | None) -> dict[str, Any]:
    """Return what a facet reports about a run, without what is not known.

    :param run_id: The run.
    :param run: How it ended; None for a run that is not known to have.
    :param app_id: The app, where the submission has named it.
    """
    properties: dict[str, Any] = {"workflowRunId": run_id, "appId": app_id}
    if run is not None:
        properties |= {
            "appId": run.app_id or app_id,
            "workflowId": run.workflow_id,
            "status": str(run.status),
            "error": run.error,
            "elapsedTime": run.elapsed_time,
            "totalTokens": run.total_tokens,
            "totalSteps": run.total_steps,
            "createdAt": _moment(run.created_at),
            "finishedAt": _moment(run.finished_at),
            "serverVersion": run.server_version,
        }
    return {name: value for name, value in properties.items() if value is not None}


def _moment(seconds: int | None) -> str | None:
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, timezone.utc).isoformat()
    except (ValueError, OverflowError, OSError):
        return None


def _location(value: Any, *, bare: bool) -> str | None:
    if isinstance(value, Mapping):
        found = value.get("path") if "path" in value else value.get("url")
        return _location(found, bare=True)
    if isinstance(value, str):
        text = value.strip()
        if _URI.fullmatch(text):
            return text if bare or urlsplit(text).scheme not in _WEB else None
        return text if bare and "/" in text else None
    return str(value) if is_path_object(value) else None


def _saved_in(value: Any, depth: int = 0) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        return
    if isinstance(value, Mapping):
        for key in (SAVED_TO, OUTPUTS_SAVED_TO):
            location = text_or_none(value.get(key))
            # An output of a workflow may have that name and be anything.
            if location is not None and (_URI.fullmatch(location) or os.path.isabs(location)):
                yield location
        for item in value.values():
            yield from _saved_in(item, depth + 1)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _saved_in(item, depth + 1)


def _named(locations: Iterable[str | None]) -> list[Dataset]:
    found = (dataset_of(location) for location in locations if location)
    return list(dict.fromkeys(dataset for dataset in found if dataset is not None))
