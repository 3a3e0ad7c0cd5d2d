"""Links to other hosts: how they are found, asked for and judged, and what can be lines of ours without a network."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from scripts import check_links
from scripts.check_links import Outcome, check, is_elsewhere, links_of, pages, verdict

pytestmark = pytest.mark.any_airflow

# Add a host here when a page is to link to it.
HOSTS = {"airflow.apache.org", "dify.ai", "keepachangelog.com", "semver.org", "www.mkdocs.org"}


@pytest.mark.parametrize(
    ("text", "links"),
    [
        ("See [this](https://a.net/x).", ["https://a.net/x"]),
        ('See [this](https://a.net/x "A title").', ["https://a.net/x"]),
        ("See [this](https://a.net/x#part), [that](https://a.net/x#other).", ["https://a.net/x"]),
        ("[name]: https://a.net/x?y=1&z=2\n", ["https://a.net/x?y=1&z=2"]),
        ("See <https://a.net/x> and http://b.net.", ["https://a.net/x", "http://b.net"]),
        ("[wiki](https://a.net/Thing_(other))", ["https://a.net/Thing_(other)"]),
        ("[![badge](https://a.net/b.svg)](https://a.net/c)", ["https://a.net/b.svg", "https://a.net/c"]),
        ("**https://a.net/x**, https://b.net/y;", ["https://a.net/x", "https://b.net/y"]),
        ("| https://a.net/x | https://b.net/y|", ["https://a.net/x", "https://b.net/y"]),
        ("Code `https://a.net/x` and ``a ` https://b.net``.", []),
        ("```console\n$ curl https://a.net/x\n```\n\n[c](https://c.net)\n", ["https://c.net"]),
        ("- item\n\n  ```text\n  https://a.net/x\n  ```\n", []),
        ("<!-- https://a.net/x -->", []),
        ("[page](other.md) and mailto:a@b.net", []),
    ],
)
def test_links_are_found_in_markdown(text: str, links: list[str]) -> None:
    assert links_of(text) == links


@pytest.mark.parametrize("host", ["a.net", "8.8.8.8", "[2606:4700::1]", "examples.com", "example.com.a.net"])
def test_a_link_to_another_host_is_checked(host: str) -> None:
    assert is_elsewhere(f"https://{host}/x")


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:8080",
        "[::1]:80",
        "localhost",
        "10.0.0.1",
        "example.org",
        "dify.example.com",
        "a.example",
        "b.invalid",
    ],
)
def test_a_link_to_this_machine_or_an_example_is_left_out(host: str) -> None:
    assert not is_elsewhere(f"http://{host}/x")


class Handler(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.answer("HEAD")

    def do_GET(self) -> None:
        self.answer("GET")

    def answer(self, method: str) -> None:
        status = {"/fine": 200, "/moved": 301, "/gone": 410, "/only-get": 200 if method == "GET" else 405}
        self.send_response(status.get(self.path, 404))
        self.send_header("Location", "/fine")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(check_links, "PAUSE", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("path", "status"), [("/fine", 200), ("/moved", 200), ("/only-get", 200), ("/gone", 410), ("/not-there", 404)]
)
def test_a_link_is_asked_for(address: str, path: str, status: int) -> None:
    assert check(f"{address}{path}") == Outcome(f"{address}{path}", status)


def test_a_host_that_does_not_answer_gives_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_links, "PAUSE", 0.0)
    outcome = check("http://nowhere.invalid/")
    assert outcome.status is None
    assert outcome.problem.startswith("no answer: ")


def test_without_a_network_no_link_is_called_broken() -> None:
    fine, gone, silent = Outcome("a", 200), Outcome("b", 404), Outcome("c", problem="no answer: unknown host")
    assert verdict([fine]) == ([], [])
    assert verdict([fine, gone, silent]) == ([gone, silent], [])
    assert verdict([gone, silent]) == ([gone, silent], [])
    assert verdict([silent]) == ([], [silent])


def test_the_links_of_the_pages_are_encrypted_and_lead_to_known_hosts() -> None:
    links = {link for page in pages() for link in links_of(page.read_text(encoding="utf-8")) if is_elsewhere(link)}
    assert {urlsplit(link).scheme for link in links} == {"https"}
    assert {urlsplit(link).hostname for link in links} == HOSTS
