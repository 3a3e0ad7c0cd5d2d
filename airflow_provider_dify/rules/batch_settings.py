"""The settings of a batch as plain values, which its trigger is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from airflow_provider_dify.rules.batch_records import BatchIdentity

RUN_TIMEOUT_SECONDS = 600.0
BATCH_TIMEOUT_SECONDS = 24 * 3600.0
MAX_ACTIVE_RUNS = 8
MAX_ACTIVE_RUNS_LIMIT = 1000
ROWS_PER_PART = 500
FLUSH_SECONDS = 30.0
"""Results wait so long for others before they are written: until then their runs would be read again after a kill."""


@dataclass(frozen=True)
class BatchSettings:
    """What of the operator's parameters the process needs that submits and collects; see there."""

    source: str
    location: str
    identity: BatchIdentity
    number: int
    end_time: float
    limit: str = "timeout"
    rows: int | None = None
    checked: bool = True
    key: str | None = None
    columns: dict[str, str] | None = None
    result_format: str = "jsonl"
    rows_per_part: int = ROWS_PER_PART
    workflow_id: str | None = None
    max_active_runs: int = MAX_ACTIVE_RUNS
    submit_timeout: float = 10.0
    run_timeout: float = RUN_TIMEOUT_SECONDS
    max_poll_interval: float = 5.0
    max_failures: int | float | None = None
    max_tokens: int | None = None
    retries_per_request: int = 0
    on_orphaned_intent: str = "fail"
    cancel_on_timeout: bool = True
    allowed_upload_roots: tuple[str, ...] | None = None
    only: tuple[str, ...] | None = None
    earlier: str | None = None
    shown_source: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return what Airflow keeps while the task is deferred."""
        kept = asdict(self)
        for name in ("allowed_upload_roots", "only"):
            kept[name] = None if kept[name] is None else list(kept[name])
        return kept

    @classmethod
    def read(cls, kept: Mapping[str, Any]) -> BatchSettings:
        """Return what was kept, maybe by a newer version of this package."""
        known = {field.name for field in fields(cls)}
        values = {name: value for name, value in kept.items() if name in known}
        values["identity"] = BatchIdentity(**values["identity"])
        for name in ("allowed_upload_roots", "only"):
            if values.get(name) is not None:
                values[name] = tuple(values[name])
        return cls(**values)
