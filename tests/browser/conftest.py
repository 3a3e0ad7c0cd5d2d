"""Airflow as ``make up`` starts it, a Dify server that the tests rule, and a browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from airflow_provider_dify.testing.server import DifyServer
from airflow_provider_dify.testing.workflows import Input, Step, Workflow, builtin_workflows
from tests.conftest import EXAMPLES
from tests.integration.airflow_dags import is_airflow_2
from tests.integration.made_up import made_up

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser.ui import Ui

ROOT = Path(__file__).resolve().parent.parent.parent
# make exports it empty where it is not set.
CHROMIUM = os.environ.get("CHROMIUM") or "/usr/bin/chromium"
FLAGS = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
    "--no-sandbox",
]
LIMIT_MS = 120_000
READ = [Input("text", type="paragraph"), Input("count", type="number", required=False)]
TRANSLATE = [
    Step("Split", type="code", seconds=0.2, outputs={"sentences": ["Good morning.", "How are you?"]}),
    Step(
        "Each sentence",
        type="iteration",
        items="{Split.sentences}",
        steps=[Step("Translate", type="llm", seconds=0.6, tokens=42, outputs={"text": "Guten Morgen."})],
        collect="{Translate.text}",
    ),
    Step("Improve", type="loop", rounds=2, steps=[Step("Compare", type="code", seconds=0.2)]),
    Step("Polish", type="llm", seconds=1.0, tokens=64, outputs={"text": "Guten Morgen. Wie geht es Ihnen?"}),
]
WORKFLOWS = [
    *builtin_workflows(),
    Workflow(
        "translate",
        inputs=[Input("text", type="paragraph")],
        steps=TRANSLATE,
        outputs={"translation": "{Polish.text}"},
        stream_text="{Polish.text}",
    ),
    Workflow("reader", READ, steps=[Step("read")], outputs={"body": "{text}"}),
    Workflow("draft", READ, steps=[Step("read")], outputs={"body": "{text}"}, published=False),
    Workflow("chatflow", READ, steps=[Step("read")], outputs={"body": "{text}"}, mode="advanced-chat"),
    Workflow(
        "broken",
        steps=[
            Step("Fetch", type="http-request", seconds=0.3, outputs={"body": "Good morning."}),
            Step("Translate", type="llm", seconds=0.5, error="[openai] Rate limit exceeded: quota of today is used up"),
        ],
    ),
]


@dataclass(frozen=True)
class Stack:
    """What is up.

    :param address: Airflow's user interface.
    :param dify: The Dify server that the connection ``dify_default`` leads to, its app ``summarize``.
    :param home: Airflow's home.
    :param scheduler_log: What the scheduler has printed.
    """

    address: str
    dify: DifyServer
    home: Path
    scheduler_log: Path


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    dags = folder / "dags"
    shutil.copytree(Path(__file__).parent / "dags", dags, ignore=shutil.ignore_patterns("__pycache__"))
    for example in ("dify_quickstart.py", "dify_human_input.py"):
        shutil.copy(EXAMPLES / example, dags)
    with DifyServer(WORKFLOWS) as dify:
        app = {"DIFY_BASE_URL": dify.base_url, "DIFY_API_KEY": dify.api_key("summarize")}
        with made_up(folder / "up", f"--dags={dags}", "--no-examples", **app) as up:
            yield Stack(up.address, dify, up.home, up.scheduler_log)


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    # Imported here: these tests are collected by every run, and a run without them needs no browser.
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(tmp_path_factory.mktemp("profile")),
            executable_path=CHROMIUM,
            headless=True,
            args=FLAGS,
            viewport={"width": 1280, "height": 900},
            locale="en-GB",
            timezone_id="UTC",
        )
        context.set_default_timeout(LIMIT_MS)
        yield context.pages[0]
        context.close()


@pytest.fixture
def ui(stack: Stack, page: Page, tmp_path: Path) -> Ui:
    from tests.browser.ui_of_2 import UiOf2
    from tests.browser.ui_of_3 import UiOf3

    screenshots = Path(os.environ.get("SCREENSHOTS") or tmp_path)
    screenshots.mkdir(parents=True, exist_ok=True)
    kind = UiOf2 if is_airflow_2() else UiOf3
    return kind(page, stack.address, screenshots)
