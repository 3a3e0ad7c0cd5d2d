"""The pages of the documentation in windows of two widths: nothing is cut off, and no name is broken."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.conftest import ROOT
from tests.integration.airflow_dags import is_airflow_2

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(900),
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(is_airflow_2(), reason="the pages are the same on every Airflow"),
]

# Returns a text for each part of a page that its reader cannot see without scrolling sideways, and for each name that
# a table breaks.
CUT = r"""() => {
  const wide = part => part.clientWidth > 0 && part.scrollWidth > part.clientWidth;
  const name = part => `${part.tagName.toLowerCase()} "${part.innerText.trim().slice(0, 60)}"`;
  const found = wide(document.documentElement) ? ["the page is wider than the window"] : [];
  for (const part of document.querySelectorAll("article :is(pre, pre code, table, .md-typeset__scrollwrap)"))
    if (wide(part)) found.push(`${name(part)} is ${part.scrollWidth} pixels wide in ${part.clientWidth}`);
  const right = document.querySelector("article").getBoundingClientRect().right;
  for (const part of document.querySelectorAll("article :is(img, svg, pre, table, :is(h1, h2, h3, h4, h5) code)"))
    if (part.getBoundingClientRect().right > right + 1) found.push(`${name(part)} reaches beyond the text`);
  for (const part of document.querySelectorAll("article table code"))
    if (/^[\w.="]+$/.test(part.innerText) && part.getClientRects().length > 1) found.push(`${name(part)} is broken`);
  return found;
}"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the built pages."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    return folder


@pytest.fixture
def window(page: Page) -> Iterator[Page]:
    size = page.viewport_size
    assert size is not None
    yield page
    page.set_viewport_size(size)
    page.goto("about:blank")


@pytest.mark.parametrize("width", [1280, 1920])
def test_nothing_is_cut_off(site: Path, window: Page, width: int) -> None:
    window.set_viewport_size({"width": width, "height": 900})
    paths = sorted(site.rglob("*.html"))
    assert len(paths) > 30
    found = {}
    for path in paths:
        window.goto(path.as_uri())
        if cut := window.evaluate(CUT):
            found[str(path.relative_to(site))] = cut
    assert found == {}
