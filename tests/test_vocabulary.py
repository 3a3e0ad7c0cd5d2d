"""The words of this project: one for each thing, in documentation, messages and docstrings, and in names."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

pytestmark = pytest.mark.any_airflow

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "airflow_provider_dify"
PAGES = sorted([ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
LIVES = r"\b(?:former|new|same|this|of a|another) (?:life|lives)\b"
LOOKS = (
    r"\b(?:first|last|next|one|second|each|a|the|between|between two|of|further|no|every|take one) looks?\b(?!-up)"
    r"|\blook(?:s|ed|ing)? at\b"
)
TOLD = r"\b(?:is|are|was|were|be|been|not|has|have|had) (?:told|heard|said)\b|\b(?:tells|told) (?:of|nobody)\b"
PERSON = r"\b(?:ended|marked|cleared|stopped|failed) by a person\b|\ba person (?:ends|marked|cleared|ended)\b"
STRIKES = r"\b(?:deadline|timeout|time-out|it|one) (?:strikes|struck)\b"
WORDS = {
    r"\b(?:take|takes|taken|taking|took)(?: \w+)? up\b|\badopt\w*": "reattach",
    LIVES: "clear generation",
    LOOKS: "poll",
    r"\bno news\b": "transient error",
    TOLD: "reported, or a name for the thing",
    r"\bdeeds?\b": "operation",
    r"\bundisturbed\b": "shielded",
    PERSON: "cancelled by a user",
    STRIKES: "passes",
    r"\bfor ever\b": "permanently",
    r"\banew\b": "again",
    r"\bof (?:no )?use\b": "reusable",
    r"\b(?:unknown|whose) fate\b|\bfate of\b": "outcome unknown",
    r"\b(?:put|puts|putting)(?: \w+){0,2} aside\b": "offload",
    r"\blife of\b|\blife and\b|\bAirflow's life\b": "generation, run or task",
    r"\bharm\b(?<!no harm)": "fault",
    r"\bledgers?\b": "record",
    r"\broll calls?\b|\benrol\w*\b|\bbarren\b": "poll registry",
    r"\bkeepers?\b": "sweeper",
    r"\bturn(?:s|ed)? away\b": "reject",
}
NAMES = re.compile(
    r"(?:^|_)(?:looks?|life|lives|chance|deeds?|undisturbed|ledger|roll|roll_call|barren|keeper|fate_of|take_up|takes_up"
    r"|taken_up|takeup|turn_away|put_aside|fitting|understood|side_by_side|introducing|preparing|watching|told|untold"
    r"|heard|said|adopts?|of_use|lookat|gate|rollcall|harms?|strikes?|disturber)(?:_|$)|^_?(?-i:Submitted)$",
    re.IGNORECASE,
)
# The hook's methods of version 0.1.0.
KEPT = {"look", "alook"}
FOUND = re.compile("|".join(f"(?:{word})" for word in WORDS), re.IGNORECASE)


def texts_of(path: Path) -> list[tuple[int, str]]:
    """Return the docstrings, messages and comments of a module, or the paragraphs of a page, with their lines."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return [(1 + source[: m.start()].count("\n"), m[0]) for m in re.finditer(r"(?:[^\n]+\n?)+", source)]
    tree = ast.parse(source)
    texts = [
        (node.lineno, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value
    ]
    comments = [
        (token.start[0], token.string)
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    ]
    return texts + comments


def offences(path: Path) -> list[str]:
    found = []
    for line, text in texts_of(path):
        for match in FOUND.finditer(" ".join(text.split())):
            word = next(to for rule, to in WORDS.items() if re.search(rule, match[0], re.IGNORECASE))
            found.append(f"{path.relative_to(ROOT)}:{line}: {match[0]!r}, write {word!r}")
    return found


def names_of(path: Path) -> set[str]:
    """Return the names that a module uses: of variables, functions, classes, parameters and attributes."""
    with path.open("rb") as file:
        return {token.string for token in tokenize.tokenize(file.readline) if token.type == tokenize.NAME}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_uses_the_words_of_the_project(page: Path) -> None:
    assert offences(page) == []


@pytest.mark.parametrize("module", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_uses_the_words_of_the_project(module: Path) -> None:
    assert offences(module) == []
    named = {name for name in names_of(module) - KEPT if NAMES.search(name)}
    assert named == set(), "rename them"


@pytest.mark.parametrize("module", sorted((ROOT / "tests").rglob("*.py")), ids=lambda path: path.name)
def test_a_test_module_uses_the_words_of_the_project(module: Path) -> None:
    names = names_of(module)
    named = {name for name in names - KEPT if NAMES.search(name)} if module != Path(__file__) else set()
    assert named == set(), "rename them"
    assert [name for name in names if name.startswith("test_") and len(name) > 70] == [], "shorten them"
