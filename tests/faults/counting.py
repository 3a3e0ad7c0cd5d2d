"""What the local server's books say of the runs of many tasks: which were started twice, and which never succeeded."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise

from airflow_provider_dify.testing.runs import RunRecord
from airflow_provider_dify.testing.server import DifyServer


@dataclass(frozen=True)
class Tally:
    """How many runs there were too many, and how many tasks have none that succeeded.

    :param duplicates: Runs of a task beside the one that it needs: a second one that succeeded, or one that was started
        while the run before it was alive. A run that was lost or stopped before the next one began is none.
    :param lost: Tasks without a run that succeeded.
    """

    duplicates: int
    lost: int


def tally(dify: DifyServer, tasks: int) -> Tally:
    by_task = runs_by_task(dify).values()
    duplicates = sum(max(len(succeeded(runs)) - 1, len(overlapping(runs)), 0) for runs in by_task)
    return Tally(duplicates, tasks - sum(bool(succeeded(runs)) for runs in by_task))


def succeeded(runs: list[RunRecord]) -> list[RunRecord]:
    return [run for run in runs if run.status == "succeeded"]


def faults_of(dify: DifyServer, tasks: int) -> list[str]:
    """Return what the server's books show that must not be."""
    by_task = runs_by_task(dify)
    wrong = [f"{run.id} ({run.user}) is still {run.status}" for run in dify.active_runs()]
    if len(by_task) != tasks:
        wrong.append(f"runs of {len(by_task)} tasks instead of {tasks}")
    for user, runs in by_task.items():
        rest = {run.status for run in runs} - {"succeeded"}
        if len(succeeded(runs)) != 1 or not rest <= {"lost", "stopped"}:
            wrong.append(f"{user}: {[run.status for run in runs]}")
        for earlier, later in overlapping(runs):
            wrong.append(f"{user}: {later.id} was started while {earlier.id} was {earlier.status}")
    return wrong


def runs_by_task(dify: DifyServer) -> dict[str, list[RunRecord]]:
    by_task: dict[str, list[RunRecord]] = defaultdict(list)
    for run in dify.runs:
        # A marker ends with its life and try; a life that was cleared has no run here.
        by_task["/".join(run.user.split("/")[:-2])].append(run)
    return by_task


def overlapping(runs: list[RunRecord]) -> list[tuple[RunRecord, RunRecord]]:
    """Return the runs of a task that were started before the one before them had ended, with that one."""
    found = []
    for earlier, later in pairwise(sorted(runs, key=lambda run: run.created_at)):
        # Nothing executes a lost run, whose row no stop changes. A stop of others takes Dify up to a second.
        has_ended_before = earlier.finished_at is not None and earlier.finished_at <= later.created_at + 1
        if earlier.status != "lost" and not has_ended_before:
            found.append((earlier, later))
    return found
