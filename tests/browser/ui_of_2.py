"""The user interface of Airflow 2.11."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from playwright.sync_api import Locator, expect

from tests.browser.ui import Ui
from tests.integration.airflow_rest import PASSWORD, USER

SCREEN_HEIGHT, SCREEN_WIDTH = 900, 1500
STANDARD = ("conn_id", "description", "host", "password")


class UiOf2(Ui):
    prefix = "airflow-2.11"
    pictures = frozenset({"connection-form", "test-good-key"})

    def sign_in(self) -> None:
        self.open("/login/")
        if self.page.locator("#username").count():
            self.page.locator("#username").fill(USER)
            self.page.locator("#password").fill(PASSWORD)
            self.page.get_by_role("button", name="Sign In").or_(self.page.locator("input[type=submit]")).first.click()
            expect(self.page.locator("#username")).to_have_count(0)

    def begin_connection(self) -> None:
        self.open("/connection/list/")
        self.page.locator("a[href$='/connection/add']").first.click()
        self.page.locator("#select2-conn_type-container").click()
        self.page.locator(".select2-search__field").fill("Dify")
        self.page.locator(".select2-results__option", has_text="Dify").click()

    def open_connection(self, conn_id: str) -> None:
        self.open("/connection/list/")
        row = self.page.get_by_role("row").filter(has=self.page.get_by_role("cell", name=conn_id, exact=True))
        row.locator("a[href*='/connection/edit/']").click()
        expect(self._field("conn_id")).to_have_value(conn_id)

    def labels(self) -> list[str]:
        shown = [each for each in self.page.locator("#model_form label").all() if each.is_visible()]
        return [each.inner_text().replace("*", "").strip() for each in shown]

    def _field(self, name: str) -> Locator:
        return self.page.locator(f"#{name}" if name in STANDARD else f"#extra__dify__{name}")

    def unfold(self, part: str) -> None:
        """Nothing: everything is shown."""

    def fill(self, **fields: str) -> None:
        for name, value in fields.items():
            if name != "port":
                self._field(name).fill(value)

    def values(self) -> dict[str, str]:
        # All at once, since the form is drawn anew when its type is known.
        fields = self.page.locator("#model_form input[type=text], #model_form input[type=password]")
        held: dict[str, str] = fields.evaluate_all("all => Object.fromEntries(all.map(each => [each.id, each.value]))")
        return {name.removeprefix("extra__dify__"): value for name, value in held.items()}

    def is_masked(self, name: str) -> bool:
        return self._field(name).get_attribute("type") == "password"

    def save(self) -> None:
        self.page.get_by_role("button", name="Save").click()
        self.page.wait_for_url("**/connection/list/")

    def test(self, conn_id: str, key: str) -> tuple[bool, str]:
        self.open_connection(conn_id)
        self.fill(password=key)
        with self.posting("/connections/test") as answers:
            self.page.get_by_role("button", name="Test").click()
        answer = answers[0].json()
        expect(self.page.get_by_text(answer["message"])).to_be_visible()
        return answer["status"], answer["message"]

    def trigger(self, dag_id: str) -> str:
        before = set(self._runs(dag_id))
        self.open(f"/dags/{dag_id}/grid")
        self.page.get_by_label("Trigger DAG").first.click()
        # A DAG with parameters asks for them first; any other one is started by the first click.
        form = self.page.get_by_role("button", name="Trigger", exact=True)
        while not (new := set(self._runs(dag_id)) - before):
            if form.is_visible():
                form.click()
            self.page.wait_for_timeout(500)
        (run_id,) = new
        return run_id

    def _runs(self, dag_id: str) -> list[str]:
        answer = self.page.request.get(f"{self.address}/api/v1/dags/{dag_id}/dagRuns")
        return [run["dag_run_id"] for run in answer.json()["dag_runs"]]

    def open_run(self, dag_id: str, run_id: str) -> None:
        self.open(f"/dags/{dag_id}/grid?{urlencode({'dag_run_id': run_id})}")

    def state_of_run(self, dag_id: str, run_id: str) -> str:
        return self._status()

    def open_task(self, dag_id: str, run_id: str, task_id: str) -> None:
        query = {"dag_run_id": run_id, "task_id": task_id, "tab": "details"}
        self.open(f"/dags/{dag_id}/grid?{urlencode(query, quote_via=quote)}")

    def state_of_task(self) -> str:
        return self._status()

    def _status(self) -> str:
        # The page asks for news only while it believes that something runs.
        self.page.reload()
        return self.page.get_by_role("row").filter(has_text="Status").first.inner_text().replace("Status", "").strip()

    def dify_link(self) -> Locator:
        return self.page.get_by_role("link", name="Dify run").or_(self.page.get_by_role("button", name="Dify run"))

    def log(self, dag_id: str, run_id: str, task_id: str) -> str:
        query = {"dag_run_id": run_id, "task_id": task_id, "tab": "logs"}
        self.open(f"/dags/{dag_id}/grid?{urlencode(query, quote_via=quote)}")
        code = self.page.locator("code").first
        expect(code).to_contain_text("Dify run")
        return code.inner_text()

    def first_screen_of_log(self, dag_id: str, run_id: str, task_id: str, awaited: str) -> str:
        self.resize(SCREEN_HEIGHT, SCREEN_WIDTH)
        query = {"dag_run_id": run_id, "task_id": task_id, "tab": "logs"}
        self.open(f"/dags/{dag_id}/grid?{urlencode(query, quote_via=quote)}")
        code = self.page.locator("code").first
        expect(code).to_contain_text(awaited)
        # The whole log is one element, which has a window of its own: it must not be higher than that.
        height, window = code.evaluate("each => [each.scrollHeight, each.parentElement.clientHeight]")
        return code.inner_text() if height <= max(window, SCREEN_HEIGHT) else ""
