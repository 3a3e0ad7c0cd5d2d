"""The user interface of Airflow 3.3."""

from __future__ import annotations

from urllib.parse import quote

from playwright.sync_api import Locator, expect

from tests.browser.ui import Ui

SCREEN_HEIGHT, SCREEN_WIDTH = 900, 1500
STANDARD = ("description", "host", "password", "port")


class UiOf3(Ui):
    prefix = "airflow-3.3"
    pictures = frozenset(
        {
            "connection-extras",
            "connection-form",
            "log",
            "log-of-failure",
            "mistake-wrong-input",
            "required-action",
            "required-action-answered",
            "run",
            "task-with-link",
            "test-bad-key",
            "test-good-key",
        }
    )

    def sign_in(self) -> None:
        """Nothing: everybody is an admin."""

    @property
    def _dialog(self) -> Locator:
        return self.page.get_by_role("dialog")

    def begin_connection(self) -> None:
        self.open("/connections")
        self.page.get_by_role("button", name="Add Connection").click()
        self._dialog.get_by_role("combobox").first.fill("Dify")
        self.page.get_by_role("option", name="Dify", exact=True).click()

    def open_connection(self, conn_id: str) -> None:
        self.open("/connections")
        self._row(conn_id).get_by_role("button", name="Edit Connection").click()
        expect(self._dialog.locator("input[name=connection_id]")).to_have_value(conn_id)

    def _row(self, conn_id: str) -> Locator:
        return self.page.get_by_role("row").filter(has=self.page.get_by_role("cell", name=conn_id, exact=True))

    def labels(self) -> list[str]:
        return [text.split("\n")[0] for text in self._dialog.locator("label").all_inner_texts()]

    def _field(self, name: str) -> Locator:
        if name == "conn_id":
            return self._dialog.locator("input[name=connection_id]")
        return self._dialog.locator(f"[name={name}]" if name in STANDARD else f"[name=element_{name}]")

    def unfold(self, part: str) -> None:
        button = self._dialog.get_by_role("button", name=part, exact=True)
        if button.get_attribute("aria-expanded") != "true":
            button.click()
            expect(button).to_have_attribute("aria-expanded", "true")

    def fill(self, **fields: str) -> None:
        for name, value in fields.items():
            if name != "conn_id":
                self.unfold("Standard Fields" if name in STANDARD else "Extra Fields")
            self._field(name).fill(value)
            self._field(name).blur()

    def values(self) -> dict[str, str]:
        found = {}
        for element in self._dialog.locator("input[name], textarea[name]").all():
            name = element.get_attribute("name") or ""
            found[name.removeprefix("element_").replace("connection_id", "conn_id")] = element.input_value()
        return found

    def is_masked(self, name: str) -> bool:
        return self._field(name).get_attribute("type") == "password"

    def save(self) -> None:
        with self.posting("/api/v2/connections") as answers:
            self._dialog.get_by_role("button", name="Save").click()
        assert answers[0].ok, answers[0].text()
        expect(self._dialog).to_have_count(0)

    def test(self, conn_id: str, key: str) -> tuple[bool, str]:
        self.open_connection(conn_id)
        self.fill(password=key)
        self.save()
        with self.posting("/connections/test") as answers:
            self._row(conn_id).get_by_role("button", name="Test Connection").click()
        answer = answers[0].json()
        expect(self.page.get_by_text(answer["message"])).to_be_visible()
        return answer["status"], answer["message"]

    def trigger(self, dag_id: str) -> str:
        self.open(f"/dags/{dag_id}")
        self.page.get_by_test_id("trigger-dag-button").click()
        with self.posting("/dagRuns") as answers:
            self._dialog.get_by_role("button", name="Trigger").click()
        run_id: str = answers[0].json()["dag_run_id"]
        return run_id

    def open_run(self, dag_id: str, run_id: str) -> None:
        self.open(f"/dags/{dag_id}/runs/{quote(run_id, safe='')}")

    def state_of_run(self, dag_id: str, run_id: str) -> str:
        return self._state()

    def open_task(self, dag_id: str, run_id: str, task_id: str) -> None:
        self.open(f"/dags/{dag_id}/runs/{quote(run_id, safe='')}/tasks/{task_id}/details")

    def state_of_task(self) -> str:
        return self._state()

    def _state(self) -> str:
        """Return the state in the page's header; the badges of the grid and of the path have no text."""
        badges = self.page.get_by_test_id("header-card").locator("[data-testid$=state-badge]")
        return next((text for badge in badges.all_inner_texts() if (text := badge.strip().lower())), "")

    def dify_link(self) -> Locator:
        return self.page.get_by_role("link", name="Dify run")

    def log(self, dag_id: str, run_id: str, task_id: str) -> str:
        self.open(f"/dags/{dag_id}/runs/{quote(run_id, safe='')}/tasks/{task_id}")
        # Only the lines in the window exist.
        self.resize(3000)
        lines = self.page.get_by_test_id("virtualized-list")
        expect(lines).to_contain_text("Dify run")
        return lines.inner_text()

    def first_screen_of_log(self, dag_id: str, run_id: str, task_id: str, awaited: str) -> str:
        self.resize(SCREEN_HEIGHT, SCREEN_WIDTH)
        self.open(f"/dags/{dag_id}/runs/{quote(run_id, safe='')}/tasks/{task_id}")
        lines = self.page.get_by_test_id("virtualized-list")
        expect(lines).to_contain_text(awaited)
        self.page.wait_for_timeout(1000)
        boxes = [(row, row.bounding_box()) for row in lines.locator("[data-index]").all()]
        visible = [row for row, box in boxes if box and box["y"] >= 0 and box["y"] + box["height"] <= SCREEN_HEIGHT]
        return "\n".join(row.inner_text() for row in visible)
