"""What a task knows of its submission, also after it was deferred."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from airflow_provider_dify.runtime.resolve_inputs import Prepared

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Submission:
    """What a task knows of its submission, also after it was deferred.

    :param user: Dify's ``user``; the marker of this try, unless the DAG author has set one.
    :param submitted_at: Unix seconds of the first submission, from which the deadline follows.
    :param started_at: Unix seconds at which the try started.
    :param attempts: Submissions that were rate-limited.
    :param prepared: What was made of the task's files; None before the inputs were checked and the files uploaded.
    :param resubmissions: Submissions of this try that followed a run which the server's shutdown had stopped.
    :param ended: The runs that were stopped so, of the same user.
    :param doubtful: Whether a submission that was not found was sent again.
    :param hint: What a submission that was answered with silence may mean on this server.
    """

    user: str
    submitted_at: float
    started_at: float
    attempts: int = 0
    prepared: Prepared | None = None
    resubmissions: int = 0
    ended: tuple[str, ...] = ()
    doubtful: bool = False
    hint: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return what is kept while the task is deferred."""
        return {**asdict(self), "ended": list(self.ended)}

    @classmethod
    def read(cls, told: dict[str, Any]) -> Submission:
        """Return what was known before the task was deferred, maybe by a newer version of this package."""
        known = {field.name for field in fields(cls)}
        kept = {name: value for name, value in told.items() if name in known}
        if kept.get("prepared") is not None:
            kept["prepared"] = Prepared(**kept["prepared"])
        return cls(**{**kept, "ended": tuple(kept.get("ended") or ())})
