"""README and documentation against the code: examples, parameters, messages, links, commands, the tested versions."""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException, BaseOperator, BaseSensorOperator

import airflow_provider_dify
from airflow_provider_dify import exceptions
from airflow_provider_dify.connection_fields import EXTRA_NAMES
from airflow_provider_dify.hooks.dify import DifyHook
from airflow_provider_dify.hooks.human_input import HumanInputCalls
from airflow_provider_dify.operators.batch import DifyRunWorkflowBatchOperator
from airflow_provider_dify.operators.knowledge import DifyKnowledgeSyncOperator
from airflow_provider_dify.operators.workflow import DifyRunWorkflowOperator
from airflow_provider_dify.sensors.knowledge import DifyDocumentIndexingSensor
from airflow_provider_dify.sensors.workflow import DifyWorkflowRunSensor

pytestmark = pytest.mark.any_airflow

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(airflow_provider_dify.__file__).parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *(ROOT / "docs").rglob("*.md")])
TASKS = {
    DifyRunWorkflowOperator: BaseOperator,
    DifyRunWorkflowBatchOperator: BaseOperator,
    DifyWorkflowRunSensor: BaseSensorOperator,
    DifyKnowledgeSyncOperator: BaseOperator,
    DifyDocumentIndexingSensor: BaseSensorOperator,
}
BY_NAME = {
    "DifyRunWorkflowOperator": DifyRunWorkflowOperator,
    "DifyRunWorkflowOperator.partial": DifyRunWorkflowOperator,
    "DifyWorkflowRunSensor": DifyWorkflowRunSensor,
    "DifyKnowledgeSyncOperator": DifyKnowledgeSyncOperator,
    "DifyDocumentIndexingSensor": DifyDocumentIndexingSensor,
    "task.dify_workflow": DifyRunWorkflowOperator,
    "dify_workflow_task": DifyRunWorkflowOperator,
    "DifyRunWorkflowBatchOperator": DifyRunWorkflowBatchOperator,
    "DifyRunWorkflowBatchOperator.partial": DifyRunWorkflowBatchOperator,
    "task.dify_workflow_batch": DifyRunWorkflowBatchOperator,
}
OF_A_DECORATOR = {"multiple_outputs"}
# The page says that it needs Airflow 3.3.
OF_NEWER_AIRFLOWS = {"retry_policy"}
# So many characters fit a line of code in a window 1,280 pixels wide: see docs/assets/wide.css.
WIDEST = 97
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def examples(page: Path) -> list[str]:
    return [code for language, code in FENCE.findall(page.read_text(encoding="utf-8")) if language == "python"]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def rows(text: str) -> list[list[str]]:
    """Return the cells of all tables, headings and rulers left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [row for row in cells if not set("".join(row)) <= set("-: ")]


def parameters(task: type) -> dict[str, Any]:
    own = inspect.signature(inspect.unwrap(task.__init__)).parameters
    return {name: each.default for name, each in own.items() if each.kind is inspect.Parameter.KEYWORD_ONLY}


@cache
def known_to_airflow(base: type) -> frozenset[str]:
    names: set[str] = set()
    for each in base.__mro__:
        names |= set(inspect.signature(inspect.unwrap(each.__init__)).parameters) if each is not object else set()
    return frozenset(names)


@pages
def test_the_examples_call_what_there_is(page: Path) -> None:
    for code in examples(page):
        for node in ast.walk(ast.parse(code)):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            given = {keyword.arg for keyword in node.keywords if keyword.arg}
            if task := BY_NAME.get(name):
                unknown = (
                    given - set(parameters(task)) - known_to_airflow(TASKS[task]) - OF_A_DECORATOR - OF_NEWER_AIRFLOWS
                )
                assert unknown == set(), f"{name} in {code}"
            elif re.fullmatch(r"hook\.\w+", name):
                method = getattr(DifyHook, name.partition(".")[2])
                inspect.signature(method).bind(None, *node.args, **dict.fromkeys(given))


@pages
def test_the_examples_of_dags_are_dags(page: Path) -> None:
    for code in examples(page):
        compile(code, str(page), "exec")
        if "with DAG(" not in code:
            continue
        made: dict[str, Any] = {}
        exec(code, made)
        (dag,) = {id(value): value for value in made.values() if isinstance(value, DAG)}.values() or [None]
        if dag is None:
            tasks = [value for value in made.values() if isinstance(value, BaseOperator)]
            dag = tasks[0].dag
        assert [task for task in dag.tasks if task.task_type.startswith("Dify")]


@pytest.mark.parametrize(
    ("page", "task"),
    [
        ("docs/operator.md", DifyRunWorkflowOperator),
        ("docs/batches.md", DifyRunWorkflowBatchOperator),
        ("docs/sensor.md", DifyWorkflowRunSensor),
        ("docs/knowledge.md", DifyKnowledgeSyncOperator),
    ],
)
def test_every_parameter_is_documented_with_its_default(page: str, task: type) -> None:
    reported = {row[0].strip("`"): row[1] for row in rows(text_of(page)) if len(row) == 3 and row[0].startswith("`")}
    for name, default in parameters(task).items():
        assert name in reported
        if name == "deferrable":
            assert reported[name] == "from Airflow"
        elif default is inspect.Parameter.empty:
            assert reported[name] == "required"
        else:
            assert ast.literal_eval(reported[name].strip("`")) == default, name


def test_the_methods_of_the_hook_are_documented() -> None:
    reported = {row[0].strip("`") for row in rows(text_of("docs/hook.md"))} - {"Method"}
    operations = {
        name.removeprefix("a")
        for kind in (DifyHook, HumanInputCalls)
        for name, method in vars(kind).items()
        if name.startswith("a") and hasattr(DifyHook, name[1:]) and callable(method)
    }
    # For the operator and its triggers, and what is no operation.
    operations -= {"close", "connection", "api", "get_conn", "poll", "look", "follow", "find_started", "find_task_id"}
    operations -= {"check_server"}
    only_for_workers = {"test_connection", "download_file"}
    assert reported == operations | only_for_workers
    assert [name for name in only_for_workers if hasattr(DifyHook, f"a{name}")] == []


@pytest.mark.parametrize("page", ["README.md", "docs/connection.md"])
def test_every_extra_of_the_connection_is_documented(page: str) -> None:
    for name in EXTRA_NAMES:
        assert f"`{name}`" in text_of(page)


def test_every_error_has_its_paragraph() -> None:
    found = dict(re.findall(r"^## ([\w, ]+?)( \(final\))?$", text_of("docs/troubleshooting.md"), re.MULTILINE))
    reported = {name: bool(final) for names, final in found.items() for name in names.split(", ") if "Error" in name}
    known = {
        name: issubclass(kind, AirflowFailException)
        for name, kind in vars(exceptions).items()
        if isinstance(kind, type) and issubclass(kind, exceptions.DifyError)
    }
    assert reported == known


@cache
def messages_of_the_package() -> str:
    """Return all texts in the code, with … for each value in them."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        if "testing" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [str(each.value) if isinstance(each, ast.Constant) else "…" for each in node.values]
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value.replace("%s", "…"))
    return "\n".join(found)


def test_the_messages_that_are_explained_are_those_of_the_code() -> None:
    page = text_of("docs/troubleshooting.md")
    quoted = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE) + re.findall(r"^`([^`]+ [^`]+)`", page, re.MULTILINE)
    assert len(quoted) > 40
    assert [text for text in quoted if text not in messages_of_the_package()] == []


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.name)
def test_lines_of_code_fit_the_page(page: Path) -> None:
    lines = [line for _, code in FENCE.findall(page.read_text(encoding="utf-8")) for line in code.splitlines()]
    assert [line for line in lines if len(line) > WIDEST] == []


@pages
def test_links_and_images_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if not re.match(r"https?://|mailto:|#", target):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_every_page_is_in_the_navigation() -> None:
    named = re.findall(r"^ +- .*?([\w/-]+\.md)$", text_of("mkdocs.yml"), re.MULTILINE)
    assert sorted(named) == sorted(str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md"))


def test_the_sections_that_comments_cite_are_on_the_page_about_dify() -> None:
    there = set(re.findall(r"^#+ (N?\d+(?:\.\d+)?)\.? ", text_of("docs/dify-behaviour.md"), re.MULTILINE))
    cited: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        text = " ".join(
            line.strip().removeprefix("#").strip() for line in path.read_text(encoding="utf-8").splitlines()
        )
        for numbers in re.findall(r"dify-behaviour\.md, sections? (N?\d[\d., andto]*)", text):
            cited |= set(re.findall(r"N?\d+(?:\.\d+)?", numbers))
    assert len(cited) > 10
    assert cited <= there


def test_every_file_of_a_layer_has_its_line_in_the_architecture() -> None:
    for layer in ("api", "rules", "client", "runtime"):
        named = set(re.findall(rf"`{layer}/(\w+)\.py`", text_of("docs/architecture.md")))
        assert named == {path.stem for path in (PACKAGE / layer).glob("*.py")} - {"__init__"}


@pytest.mark.parametrize("source", sorted((ROOT / "docs/diagrams").glob("*.mmd")), ids=lambda path: path.name)
def test_a_diagram_is_drawn_of_its_source(source: Path) -> None:
    picture = (ROOT / "docs/images" / f"{source.stem}.svg").read_text(encoding="utf-8")
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert picture.rstrip().endswith(f"<!-- drawn of docs/diagrams/{source.name}, sha256 {digest} -->"), "make diagrams"


def targets() -> set[str]:
    return set(re.search(r"^\.PHONY:(.*)$", text_of("Makefile"), re.MULTILINE)[1].split())


@pages
def test_the_commands_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"^\$ make ([a-z]+)", text, re.MULTILINE)) | set(re.findall(r"`make ([a-z]+)", text))
    assert named <= targets()


def test_every_command_is_explained_to_contributors() -> None:
    assert set(re.findall(r"`make ([a-z]+)", text_of("CONTRIBUTING.md"))) == targets() - {"help", "setup"}


def test_the_table_of_versions_is_what_ci_runs() -> None:
    """All tests where ``.ci/run`` says ``make test``, those of ``oldest`` and ``matrix`` on the Makefile's others."""
    ci = re.findall(r"^step make (\S+)", text_of(".ci/run"), re.MULTILINE)
    makefile = text_of("Makefile")
    assert {"test", "oldest", "lowest", "matrix"} <= set(ci)
    newest, oldest, some = (
        re.search(rf"^{name} \??:?= ?(.+)$", makefile, re.MULTILINE)[1].split()
        for name in ("AIRFLOW_VERSION", "OLDEST", "MATRIX")
    )
    ran = dict.fromkeys(newest, "all") | dict.fromkeys(oldest, "all that use Airflow, HTTP included")
    ran |= dict.fromkeys(some, "those that depend on Airflow")
    for page in ("README.md", "docs/compatibility.md"):
        found = ((re.match(r"\d+\.\d+\.\d+\w*(?= \(pre-release|$)", row[0]), row[1]) for row in rows(text_of(page)))
        reported = {version[0]: tests for version, tests in found if version}
        assert reported == ran
    assert {path.stem.removeprefix("airflow-") for path in (ROOT / "constraints").glob("*.txt")} == set(ran)
    assert set(
        re.search(r"^for version in (.+); do", text_of("scripts/resolve_constraints.sh"), re.MULTILINE)[1].split()
    ) == set(ran)
