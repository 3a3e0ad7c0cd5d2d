"""Check that what the documentation links to on other hosts is still there. ``make links``.

Exits with 1 where a link is broken, and with 2 where none could be checked, since no host was reached at all.
"""

from __future__ import annotations

import ipaddress
import re
import sys
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urldefrag, urlsplit

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
AT_A_TIME = 4
TIMEOUT = 20.0
TRIES = 2
PAUSE = 3.0
FENCE = re.compile(r"^ *(```+|~~~+).*?^ *\1[`~]* *$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
# A closing bracket belongs to a link only where the link has its opening one.
LINK = re.compile(r"https?://(?:[^\s()<>\[\]\"'|]|\([^\s()<>]*\))+", re.IGNORECASE)
# Names that stand for any host: RFC 2606 and RFC 6761.
RESERVED = re.compile(r"(^|\.)(example(\.(com|net|org))?|invalid|test|localhost)$")


@dataclass(frozen=True)
class Outcome:
    """What became of a link.

    :param link: The link.
    :param status: HTTP status of the last answer; None where there was none.
    :param problem: Why there was no answer.
    """

    link: str
    status: int | None = None
    problem: str = ""

    @property
    def fine(self) -> bool:
        return self.status is not None and 200 <= self.status < 400

    def __str__(self) -> str:
        return f"HTTP {self.status}" if self.status is not None else self.problem


def links_of(text: str) -> list[str]:
    """Return the http(s) links of a Markdown text, each once and without its fragment; code shows addresses only."""
    prose = CODE.sub(" ", FENCE.sub("", COMMENT.sub("", text)))
    found = (urldefrag(match.rstrip(".,;:!?*_")).url for match in LINK.findall(prose))
    return list(dict.fromkeys(found))


def is_elsewhere(link: str) -> bool:
    """Tell whether a link leads to a host of its own, and not to this machine or to a name that is only an example."""
    host = (urlsplit(link).hostname or "").rstrip(".")
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return bool(host) and not RESERVED.search(host)


def verdict(outcomes: Sequence[Outcome]) -> tuple[list[Outcome], list[Outcome]]:
    """Return what is broken, and what says nothing.

    A host without an answer is one that is gone, unless no host at all has answered: then there is no network.
    """
    failed = [outcome for outcome in outcomes if not outcome.fine]
    if any(outcome.status is not None for outcome in outcomes):
        return failed, []
    return [], failed


def check(link: str) -> Outcome:
    """Ask for a link, with GET where the host does not take HEAD, and once more where it may have been busy."""
    outcome = Outcome(link)
    for number in range(TRIES):
        if number:
            time.sleep(PAUSE)
        outcome = ask(link, "HEAD")
        if outcome.status is not None and not outcome.fine:
            outcome = ask(link, "GET")
        if outcome.fine or outcome.status in (404, 410):
            break
    return outcome


def ask(link: str, method: str) -> Outcome:
    headers = {"User-Agent": "Mozilla/5.0 (compatible; link check)", "Accept": "*/*"}
    request = urllib.request.Request(link, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            return Outcome(link, answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return Outcome(link, error.code)
    except (OSError, ValueError) as error:
        return Outcome(link, problem=f"no answer: {getattr(error, 'reason', None) or error}")


def pages() -> list[Path]:
    return [*(ROOT / name for name in PAGES), *sorted((ROOT / "docs").rglob("*.md"))]


def main() -> int:
    places: dict[str, list[str]] = defaultdict(list)
    for page in pages():
        for link in filter(is_elsewhere, links_of(page.read_text(encoding="utf-8"))):
            places[link].append(str(page.relative_to(ROOT)))
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        outcomes = list(pool.map(check, places))
    broken, unchecked = verdict(outcomes)
    for outcome in broken or unchecked:
        print(f"{outcome.link} ({', '.join(places[outcome.link])}): {outcome}")
    if unchecked:
        print(f"No host was reached, so none of the {len(unchecked)} links was checked. Is there a network?")
        return 2
    print(f"{len(outcomes) - len(broken)} of {len(outcomes)} links lead somewhere.")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
