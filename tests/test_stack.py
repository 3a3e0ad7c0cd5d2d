"""``make up`` where it is up already."""

from __future__ import annotations

import os
from pathlib import Path

import airflow
import pytest

from scripts.stack import Stack, StackError, State, born, up

pytestmark = pytest.mark.any_airflow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder whose state says that this process is what has been started."""
    folder = tmp_path / "up"
    folder.mkdir()
    started = {"scheduler": (os.getpid(), born(os.getpid()))}
    Stack(folder).save(State(airflow.__version__, "http://127.0.0.1:8080", "http://127.0.0.1:5001", [], started))
    return folder


def folders_of_dags(folder: Path) -> list[Path]:
    return [link.resolve() for link in sorted((folder / "dags").iterdir())]


def test_a_folder_of_dags_can_be_added_later(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examples, mine, others = (tmp_path / name for name in ("examples", "mine", "others"))
    for each in (examples, mine, others):
        each.mkdir()
    up(folder, 0, [examples], [mine])
    assert capsys.readouterr().out.startswith(f"It is up already, now with the DAGs in {mine}.\n")
    assert folders_of_dags(folder) == [examples, mine]
    up(folder, 0, [examples], [])
    assert capsys.readouterr().out.startswith("It is up already.\n")
    assert folders_of_dags(folder) == [examples, mine]
    link = folder / "dags" / "0-examples"
    before = link.lstat()
    up(folder, 0, [examples], [others])
    assert folders_of_dags(folder) == [examples, others]
    assert link.lstat() == before, "Airflow may read it meanwhile"


def test_another_version_is_ended_first(folder: Path) -> None:
    state = Stack(folder).state()
    assert state is not None
    state.version = "2.0.0"
    Stack(folder).save(state)
    with pytest.raises(StackError, match=r"Airflow 2\.0\.0 is up at http://127\.0\.0\.1:8080: `make down` ends it\."):
        up(folder, 0, [], [])
