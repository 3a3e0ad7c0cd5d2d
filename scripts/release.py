"""Prepare a release: check, set version and changelog, build, check what was built, commit and tag. ``make release``.

Nothing leaves the machine: pushing the tag is what publishes, by the workflow in ``.github/workflows/publish.yml``.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSION_FILE = ROOT / "airflow_provider_dify" / "__init__.py"
CHANGELOG = ROOT / "CHANGELOG.md"
VERSION = re.compile(r"\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?")


class ReleaseError(Exception):
    """What stands in the way of a release, for the person who has typed the command."""


def with_version(source: str, version: str) -> str:
    """Return the package's ``__init__`` with another version."""
    return re.sub(r'__version__ = "[^"]+"', f'__version__ = "{version}"', source)


def with_release(changelog: str, version: str, day: date) -> str:
    """Return the changelog with what is unreleased under the version, and an empty section for what comes.

    :raises ReleaseError: Nothing is unreleased, or the version is there already.
    """
    if f"## [{version}]" in changelog:
        raise ReleaseError(f"CHANGELOG.md has a section {version} already.")
    head, heading, rest = changelog.partition("## [Unreleased]\n")
    entries = re.split(r"^(?=## \[|<!-- --8<-- \[end)", rest, maxsplit=1, flags=re.MULTILINE)[0]
    if not heading or not re.search(r"^- ", entries, re.MULTILINE):
        raise ReleaseError("CHANGELOG.md has nothing under [Unreleased]: there is nothing to release.")
    return f"{head}{heading}\n## [{version}] - {day.isoformat()}\n{rest}"


def run(*command: str, capture: bool = False) -> str:
    done = subprocess.run(command, cwd=ROOT, text=True, check=False, stdout=subprocess.PIPE if capture else None)
    if done.returncode:
        raise ReleaseError(f"{' '.join(command)} failed with exit code {done.returncode}.")
    return done.stdout or ""


def placeholders() -> list[str]:
    """Return the project's addresses that its owner has not filled in yet."""
    return re.findall(r'^\w+ = "(https://example\.invalid/[^"]*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)


def release(version: str, *, dry: bool) -> None:
    if not VERSION.fullmatch(version):
        raise ReleaseError(f"{version!r} is not a version such as 1.2.0 or 1.2.0rc1.")
    tag = f"v{version}"
    if run("git", "tag", "--list", tag, capture=True).strip():
        raise ReleaseError(f"The tag {tag} exists already.")
    if not dry and run("git", "status", "--porcelain", capture=True).strip():
        raise ReleaseError("The working tree has changes: commit them first.")
    if found := placeholders():
        message = f"[project.urls] in pyproject.toml still has {len(found)} placeholders, the first is {found[0]}."
        if not dry:
            raise ReleaseError(message)
        print(f"Note: {message}")
    changelog = with_release(CHANGELOG.read_text(encoding="utf-8"), version, date.today())
    source = with_version(VERSION_FILE.read_text(encoding="utf-8"), version)
    if dry:
        print(f"Would release {version}: the changelog has entries, and the tag {tag} is free.")
    else:
        run("make", "lint")
        CHANGELOG.write_text(changelog, encoding="utf-8")
        VERSION_FILE.write_text(source, encoding="utf-8")
    run("rm", "-rf", "dist")
    run(sys.executable, "-m", "build", "--installer", "uv", "--outdir", "dist")
    run(sys.executable, "-m", "twine", "check", "--strict", *map(str, sorted((ROOT / "dist").iterdir())))
    if dry:
        print("Built and checked: " + ", ".join(path.name for path in sorted((ROOT / "dist").iterdir())))
        return
    run("make", "wheel")
    run("git", "commit", "--quiet", "--all", "--message", f"Release {version}")
    run("git", "tag", "--annotate", tag, "--message", f"Release {version}")
    print(f"Tagged {tag}. Publish it with: git push origin HEAD {tag}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("version", help="for example 1.2.0")
    parser.add_argument("--dry-run", action="store_true", help="build and check, and change nothing in the repository")
    options = parser.parse_args()
    try:
        release(options.version, dry=options.dry_run)
    except ReleaseError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
