"""What the reference of version 0.1.0 offered is still there: names, parameters, their order and their defaults."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import griffe
import pytest

import airflow_provider_dify
from airflow_provider_dify.rules.settings import FIRST_POLL_SECONDS

RELEASED = Path(__file__).parent / "package-0.1.0.tar.xz"
PACKAGE = "airflow_provider_dify"
PUBLIC = (
    "hooks.dify.DifyHook",
    "operators.workflow.DifyRunWorkflowOperator",
    "operators.outputs.load_outputs",
    "sensors.workflow.DifyWorkflowRunSensor",
    "triggers.workflow.DifyWorkflowRunTrigger",
    "triggers.workflow.DifyFindRunTrigger",
    "decorators.workflow",
    "links.dify.DifyRunLink",
    "exceptions",
)
# No page has ever named them.
GONE = {f"{PACKAGE}.hooks.dify.DifyHook.{name}" for name in ("aapi", "aget_conn", "afollow")}

# A default that is written as a constant, which has another name now and the same value.
RENAMED = {"FIRST_LOOK_SECONDS": "FIRST_POLL_SECONDS"}


@pytest.fixture
def packages(tmp_path: Path) -> tuple[Any, Any]:
    """Read the released package and this one, without importing either."""
    with tarfile.open(RELEASED) as package:
        package.extractall(tmp_path, filter="data")
    here = Path(airflow_provider_dify.__file__).parents[1]
    old, new = (
        griffe.load(where / PACKAGE, search_paths=[where], try_relative_path=True) for where in (tmp_path, here)
    )
    assert Path(old.filepath).is_relative_to(tmp_path)
    return old, new


def test_nothing_that_is_used_breaks(packages: tuple[Any, Any]) -> None:
    released, now = packages
    breakages = {}
    for name in PUBLIC:
        new = now[name].final_target if isinstance(now[name], griffe.Alias) else now[name]
        for breakage in griffe.find_breaking_changes(released[name], new):
            path, kind = breakage.obj.path, breakage.kind
            # The forms for an event loop are made out of the others, and have their parameters.
            twin = kind is griffe.BreakageKind.OBJECT_CHANGED_KIND and breakage.obj.name.startswith("a")
            if twin or path in GONE or _is_renamed_default(breakage):
                continue
            breakages[path] = kind
    assert breakages == {}


def _is_renamed_default(breakage: Any) -> bool:
    if breakage.kind is not griffe.BreakageKind.PARAMETER_CHANGED_DEFAULT:
        return False
    before, now = (str(value.default) for value in (breakage.old_value, breakage.new_value))
    return RENAMED.get(before) == now


def test_the_constants_that_were_renamed_have_their_values() -> None:
    assert FIRST_POLL_SECONDS == 1.0


def test_a_parameter_that_is_renamed_is_found(packages: tuple[Any, Any]) -> None:
    released, now = (package["hooks.dify.DifyHook"] for package in packages)
    now["stop_workflow_run"].parameters[1].name = "another"
    kinds = {each.kind for each in griffe.find_breaking_changes(released, now) if each.obj.name == "stop_workflow_run"}
    assert griffe.BreakageKind.PARAMETER_REMOVED in kinds
