"""What a person does in Airflow's user interface, whichever it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page, Response


class Ui(ABC):
    """
    A person with a browser.

    :param page: The browser's window.
    :param address: Where Airflow is.
    :param screenshots: Folder for pictures.
    """

    prefix: str
    # What the documentation shows of this version.
    pictures: frozenset[str]

    def __init__(self, page: Page, address: str, screenshots: Path) -> None:
        self.page = page
        self.address = address
        self._screenshots = screenshots
        self.sign_in()

    def open(self, path: str) -> None:
        self.page.goto(f"{self.address}{path}")

    def picture(self, name: str, *, height: int = 900, width: int = 1280) -> None:
        """Take a picture of the window, once nothing moves in it."""
        if name not in self.pictures:
            return
        self.resize(height, width)
        self.page.evaluate("window.scrollTo(0, 0)")
        self.page.wait_for_timeout(500)
        self.page.screenshot(path=self._screenshots / f"{self.prefix}-{name}.png", animations="disabled")
        self.resize()

    def resize(self, height: int = 900, width: int = 1280) -> None:
        self.page.set_viewport_size({"width": width, "height": height})

    def follow_link(self, link: Locator) -> tuple[str, str]:
        """Click a link that opens a window of its own, and return the address and the text of what it shows."""
        with self.page.expect_popup() as popup:
            link.click()
        opened = popup.value
        opened.wait_for_load_state()
        found = opened.url, opened.inner_text("body")
        opened.close()
        return found

    @contextmanager
    def posting(self, path: str) -> Iterator[list[Response]]:
        """Wait for the answer to what a click posts, and give it."""
        answers: list[Response] = []
        with self.page.expect_response(lambda answer: answer.request.method != "GET" and path in answer.url) as waiting:
            yield answers
        answers.append(waiting.value)

    @abstractmethod
    def sign_in(self) -> None:
        """Sign in, where that is needed."""

    @abstractmethod
    def begin_connection(self) -> None:
        """Open Connections and the form of a new one of the type Dify."""

    @abstractmethod
    def open_connection(self, conn_id: str) -> None:
        """Open Connections and the form of a stored one."""

    @abstractmethod
    def unfold(self, part: str) -> None:
        """Show a part of the open form, "Standard Fields" or "Extra Fields", where it has parts."""

    @abstractmethod
    def labels(self) -> list[str]:
        """Return the labels of the form's fields."""

    @abstractmethod
    def fill(self, **fields: str) -> None:
        """Fill the open form's fields, by their names."""

    @abstractmethod
    def values(self) -> dict[str, str]:
        """Return what the open form's fields hold."""

    @abstractmethod
    def is_masked(self, name: str) -> bool:
        """Tell whether a field shows no more than dots."""

    @abstractmethod
    def save(self) -> None:
        """Save the open form."""

    @abstractmethod
    def test(self, conn_id: str, key: str) -> tuple[bool, str]:
        """Press Test for a connection, and return how the message looks and what it says."""

    @abstractmethod
    def trigger(self, dag_id: str) -> str:
        """Start a run of a DAG with the button, and return its id."""

    @abstractmethod
    def open_run(self, dag_id: str, run_id: str) -> None:
        """Open a run."""

    @abstractmethod
    def state_of_run(self, dag_id: str, run_id: str) -> str:
        """Return the state that the open run shows."""

    @abstractmethod
    def open_task(self, dag_id: str, run_id: str, task_id: str) -> None:
        """Open a task instance where its links are."""

    @abstractmethod
    def state_of_task(self) -> str:
        """Return the state that the open task instance shows."""

    @abstractmethod
    def dify_link(self) -> Locator:
        """Return the link of the open task instance."""

    @abstractmethod
    def log(self, dag_id: str, run_id: str, task_id: str) -> str:
        """Open a task's log, and return it as it is read."""

    @abstractmethod
    def first_screen_of_log(self, dag_id: str, run_id: str, task_id: str, awaited: str) -> str:
        """Open a task's log in a window 1,500 pixels wide, and return what is visible once a text has come."""
