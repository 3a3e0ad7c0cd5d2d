"""What a release does to version and changelog, and what its metadata say."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest
import yaml

from scripts.release import ReleaseError, with_release, with_version

pytestmark = pytest.mark.any_airflow

ROOT = Path(__file__).resolve().parent.parent
CHANGELOG = "# Changelog\n\n## [Unreleased]\n\n### Added\n\n- A thing.\n\n## [0.1.0] - 2026-01-01\n\n- First.\n"


def test_what_is_unreleased_becomes_the_release() -> None:
    assert with_release(CHANGELOG, "0.2.0", date(2026, 2, 3)) == (
        "# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2026-02-03\n\n### Added\n\n- A thing.\n\n"
        "## [0.1.0] - 2026-01-01\n\n- First.\n"
    )


@pytest.mark.parametrize(
    ("changelog", "text"),
    [
        (CHANGELOG.replace("- A thing.\n", ""), "nothing under"),
        ("# Changelog\n", "nothing under"),
        (CHANGELOG.replace("0.1.0", "0.2.0"), "has a section 0.2.0 already"),
    ],
)
def test_a_release_without_changes_or_of_a_known_version_is_refused(changelog: str, text: str) -> None:
    with pytest.raises(ReleaseError, match=text):
        with_release(changelog, "0.2.0", date(2026, 2, 3))


def test_the_version_is_set_in_one_place() -> None:
    source = (ROOT / "airflow_provider_dify" / "__init__.py").read_text(encoding="utf-8")
    assert '__version__ = "9.8.7"' in with_version(source, "9.8.7")


def test_the_changelog_of_the_repository_can_be_released() -> None:
    assert "## [99.0.0] - 2026-02-03" in with_release(
        (ROOT / "CHANGELOG.md").read_text("utf-8"), "99.0.0", date(2026, 2, 3)
    )


def test_the_project_s_addresses_stand_in_one_place() -> None:
    """Its owner fills them in once, in pyproject.toml; nothing else names them."""
    named = [
        str(path.relative_to(ROOT))
        for pattern in ("*.md", "docs/**/*.md", "mkdocs.yml", "airflow_provider_dify/**/*.py", ".github/**/*")
        for path in ROOT.glob(pattern)
        if path.is_file() and "example.invalid" in path.read_text(encoding="utf-8")
    ]
    assert named == []
    assert len(re.findall(r'^\w+ = "https://', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)) >= 4


def test_the_publishing_workflow_holds_no_secret_and_runs_for_tags_alone() -> None:
    text = (ROOT / ".github" / "workflows" / "publish.yml").read_text(encoding="utf-8")
    # YAML reads the key "on" as true.
    workflow = yaml.safe_load(text)
    assert workflow[True] == {"push": {"tags": ["v*"]}}
    assert "secrets." not in text
    assert workflow["jobs"]["publish"]["permissions"]["id-token"] == "write"
