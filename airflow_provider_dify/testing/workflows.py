"""What a workflow of the local server does - inputs, steps, outputs - and how to load it from a file."""

from __future__ import annotations

import difflib
import runpy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from airflow_provider_dify.testing.templates import render

INPUT_TYPES = (
    "text-input",
    "paragraph",
    "number",
    "select",
    "checkbox",
    "json_object",
    "file",
    "file-list",
)
MODES = ("workflow", "advanced-chat")
ERROR_STRATEGIES = ("default-value", "fail-branch")
FORM_FIELD_TYPES = ("select", "file")
FILE_TYPES = ("document", "image", "audio", "video", "custom")

Outputs = Mapping[str, Any] | Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Outputs as a template, or as a function of the inputs (and of the steps' outputs, by step id)."""


class WorkflowError(ValueError):
    """A workflow definition that cannot work. The message names the place, what is wrong and the remedy."""


@dataclass(frozen=True, slots=True)
class Input:
    """One variable of a workflow's start form.

    :param name: the variable's name.
    :param type: one of `INPUT_TYPES`.
    :param required: whether a run is refused without it.
    :param max_length: longest text in characters, or most files of a file-list.
    :param options: what a select may be.
    :param default: value of an optional input that was left out.
    :param label: what the form shows; the name if left out.
    :param allowed_file_types: what a file input accepts.
    """

    name: str
    type: str = "text-input"
    required: bool = True
    max_length: int | None = None
    options: Sequence[str] | None = None
    default: Any = None
    label: str | None = None
    allowed_file_types: Sequence[str] = ("document", "image")

    def __post_init__(self) -> None:
        """Refuse what no Dify form can be."""
        where = _where("input", self.name)
        _check_text(where, "name", self.name)
        _check_choice(where, "type", self.type, INPUT_TYPES)
        _check_type(where, "required", self.required, bool, "true or false")
        if self.max_length is not None:
            _check_count(where, "max_length", self.max_length)
        if self.type == "select" and not self.options:
            raise WorkflowError(f"{where}: field 'options' is empty; a select needs a list of its options")
        if self.options is not None:
            _check_list(where, "options", self.options)
        _check_list(where, "allowed_file_types", self.allowed_file_types)
        for file_type in self.allowed_file_types:
            _check_choice(where, "allowed_file_types", file_type, FILE_TYPES)


@dataclass(frozen=True, slots=True)
class HumanInput:
    """What a human-input step asks.

    :param form_content: the text shown; `{{#start.text#}}` shows an input, `{{#$output.comment#}}` a field.
    :param fields: names of the fields to fill in, each with its proposal; or with a mapping, for what 1.16.1 knows
        besides text: `{"type": "select", "options": ["red", "green"]}`,
        `{"type": "file", "allowed_file_types": ["document"]}`.
    :param actions: the buttons, by id with their titles.
    :param hours: how long the form stays open. It is only shown: forms of the local server expire only when
        they are sent to (`DifyServer.forms`).
    :param channels: where the form may be answered. Without `console` the API has no token for it, as for a form that
        is sent by e-mail alone.
    """

    form_content: str = "Please decide."
    fields: Mapping[str, str | Mapping[str, Any]] = field(default_factory=dict)
    actions: Mapping[str, str] = field(default_factory=lambda: {"approve": "Approve", "reject": "Reject"})
    hours: float = 1.0
    channels: Sequence[str] = ("console",)

    def __post_init__(self) -> None:
        """Refuse a form that cannot be shown or sent."""
        where = "human_input"
        _check_text(where, "form_content", self.form_content)
        _check_mapping(where, "fields", self.fields)
        for name, value in self.fields.items():
            if not isinstance(value, Mapping):
                continue
            _check_choice(_where("field", name), "type", value.get("type"), FORM_FIELD_TYPES)
            if value["type"] == "select" and not value.get("options"):
                raise WorkflowError(f"{_where('field', name)}: field 'options' is empty; a select needs its options")
        _check_mapping(where, "actions", self.actions)
        if not self.actions:
            raise WorkflowError(f"{where}: field 'actions' is empty; a form needs at least one button")
        _check_number(where, "hours", self.hours)
        _check_list(where, "channels", self.channels)

    def type_of(self, name: str) -> str:
        """Return the type of a field: `paragraph`, `select` or `file`."""
        value = self.fields[name]
        return str(value["type"]) if isinstance(value, Mapping) else "paragraph"

    def options_of(self, name: str) -> list[str]:
        """Return what a select may be."""
        value = self.fields[name]
        return list(value["options"]) if isinstance(value, Mapping) else []

    def file_types_of(self, name: str) -> list[str]:
        """Return what a file may be."""
        value = self.fields[name]
        return list(value.get("allowed_file_types") or ("document", "image")) if isinstance(value, Mapping) else []


@dataclass(frozen=True, slots=True)
class Step:
    """One node of a workflow.

    :param title: what the node is called.
    :param type: the node's type, as Dify names it.
    :param seconds: how long it works, before `time_scale`; a template such as `"{seconds}"` takes it from an
        input.
    :param error: the text it fails with.
    :param on_error: what a failure leads to: None fails the run, `"default-value"` and `"fail-branch"` let it
        go on and end as `partial-succeeded`.
    :param retries: how often a failing step is tried again.
    :param retry_interval: seconds between the tries, before `time_scale`.
    :param tokens: what the step costs.
    :param human_input: makes this a human-input node, at which the run pauses; with `rounds`, one in a loop, which asks
        in each round, with `{round}` in its text. Several in the `steps` of a step of the type `parallel` are asked at
        the same time. No recording shows loops or parallel forms.
    :param id: the node's id, by which templates name its outputs; the title if left out.
    :param outputs: what it yields, as a template or a function.
    :param process_data: what the node's event shows of its work, as a template or a function.
    :param inputs: what the node's event shows as its inputs, as a template or a function.
    :param default: outputs that replace those of a failed step with `on_error="default-value"`.
    :param error_type: class of the error that a handled failure reports.
    :param steps: the nodes within an iteration or a loop.
    :param rounds: how often a loop turns.
    :param items: template of the list that an iteration walks; each round sees its own as `{item}`, and both
        kinds see `{round}`.
    :param collect: what one round yields, as a template or a function: an item of an iteration's `output`, or
        the variables of a loop's round.
    """

    title: str
    type: str = "http-request"
    seconds: float | str = 0.0
    error: str | None = None
    on_error: str | None = None
    retries: int = 0
    retry_interval: float = 0.5
    tokens: int = 0
    human_input: HumanInput | None = None
    id: str | None = None
    outputs: Outputs = field(default_factory=dict)
    process_data: Outputs = field(default_factory=dict)
    inputs: Outputs = field(default_factory=dict)
    default: Mapping[str, Any] = field(default_factory=dict)
    error_type: str = "HttpRequestNodeError"
    steps: Sequence[Step] = ()
    rounds: int = 0
    items: str | None = None
    collect: Any = None

    def __post_init__(self) -> None:
        """Refuse what cannot be executed."""
        where = _where("step", self.title)
        _check_text(where, "title", self.title)
        _check_text(where, "type", self.type)
        if not isinstance(self.seconds, str):
            _check_number(where, "seconds", self.seconds)
        _check_optional_text(where, "error", self.error)
        if self.on_error is not None:
            _check_choice(where, "on_error", self.on_error, ERROR_STRATEGIES)
        _check_count(where, "retries", self.retries)
        _check_number(where, "retry_interval", self.retry_interval)
        _check_count(where, "tokens", self.tokens)
        _check_count(where, "rounds", self.rounds)
        for name in ("outputs", "process_data", "inputs"):
            _check_outputs(where, name, getattr(self, name))
        _check_mapping(where, "default", self.default)
        if self.human_input is not None:
            _check_type(where, "human_input", self.human_input, HumanInput, "a HumanInput")
        _check_items(where, "steps", self.steps, Step)

    @property
    def node_id(self) -> str:
        """The node's id within its workflow."""
        return self.id or self.title

    @property
    def node_type(self) -> str:
        """The node's type; a step that asks a human is always a human-input node."""
        return "human-input" if self.human_input else self.type

    def asks_human(self) -> bool:
        """Whether a run pauses here."""
        return self.human_input is not None or (self.type == "parallel" and bool(self.steps))

    def rounds_of_questions(self) -> list[Step]:
        """Return the step as often as it asks: one that asks a human in a loop has a form in each round."""
        if self.human_input is None or self.rounds < 2:
            return [self]
        content = self.human_input.form_content
        texts = [content.replace("{round}", str(number)) for number in range(self.rounds)]
        return [_with(self, human_input=replace(self.human_input, form_content=text), rounds=0) for text in texts]


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file that a workflow makes, as a value in its `outputs`, at any depth.

    A run's outputs then hold a file object with a signed URL, as those of a real server do.

    :param name: its name as the workflow gives it.
    :param content: its content.
    :param mime_type: by default guessed from the name.
    :param type: Dify's type of the file; by default that of the name's extension.
    :param size: the size that is reported; by default the true one.
    :param url: a URL to tell in place of the server's own, which nothing then answers for.
    """

    name: str
    content: bytes = b""
    mime_type: str | None = None
    type: str | None = None
    size: int | None = None
    url: str | None = None

    def __str__(self) -> str:
        """Return its name, which is what streamed text shows of it."""
        return self.name


@dataclass(frozen=True, slots=True)
class Workflow:
    """One app of the local server and what its runs do.

    :param name: the app's name; ids and API key are derived from it.
    :param inputs: the start form.
    :param steps: the nodes between start and end, one after the other.
    :param duration: shorthand for one step of that many seconds, before `time_scale`.
    :param outputs: what a run yields. None echoes the inputs. Strings may hold placeholders: inputs by name,
        step outputs as `{step.output}`, `{sys.user_id}` and the like. A function gets the inputs.
    :param failure: every run fails with this error.
    :param partial: every run ends as `partial-succeeded`.
    :param failure_outputs: what a failed run has yielded all the same (real ones with two ends can).
    :param stream_text: text that is streamed word by word while the last step works, as an LLM would.
    :param mode: `"workflow"` or `"advanced-chat"`; runs of the latter are refused, as the route is wrong.
    :param published: whether the app was published.
    :param api_enabled: whether API access is switched on.
    :param max_active_requests: limit on simultaneous runs, 0 for none.
    :param older_versions: number of earlier published versions that can be run by id.
    :param graph_error: the graph cannot be built, and runs are refused with this text.
    :param description: what `/info` says.
    :param start: the start node; `seconds` and the like are ignored.
    :param end: the end node.
    :param parameters: overrides of what `/parameters` says.
    """

    name: str
    inputs: Sequence[Input] = ()
    steps: Sequence[Step] = ()
    duration: float = 0.0
    outputs: Outputs | None = None
    failure: str | None = None
    partial: bool = False
    failure_outputs: Mapping[str, Any] = field(default_factory=dict)
    stream_text: str | None = None
    mode: str = "workflow"
    published: bool = True
    api_enabled: bool = True
    max_active_requests: int = 0
    older_versions: int = 0
    graph_error: str | None = None
    description: str = ""
    start: Step = field(default_factory=lambda: Step("start", type="start"))
    end: Step = field(default_factory=lambda: Step("end", type="end"))
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a definition that cannot be run."""
        where = _where("workflow", self.name)
        _check_text(where, "name", self.name)
        _check_items(where, "inputs", self.inputs, Input)
        _check_items(where, "steps", self.steps, Step)
        _check_number(where, "duration", self.duration)
        if self.outputs is not None:
            _check_outputs(where, "outputs", self.outputs)
        for name in ("failure", "stream_text", "graph_error"):
            _check_optional_text(where, name, getattr(self, name))
        for name in ("partial", "published", "api_enabled"):
            _check_type(where, name, getattr(self, name), bool, "true or false")
        _check_choice(where, "mode", self.mode, MODES)
        for name in ("max_active_requests", "older_versions"):
            _check_count(where, name, getattr(self, name))
        _check_type(where, "description", self.description, str, "a text")
        for name in ("failure_outputs", "parameters"):
            _check_mapping(where, name, getattr(self, name))
        if self.steps and self.duration:
            raise WorkflowError(
                f"{where}: fields 'steps' and 'duration' exclude each other; give the step its 'seconds'"
            )
        if self.failure and self.partial:
            raise WorkflowError(f"{where}: fields 'failure' and 'partial' exclude each other; leave one out")
        _check_unique(where, "inputs", [item.name for item in self.inputs])
        ids = {step.node_id: step for step in self.steps if step.rounds_of_questions() != [step]}
        _check_unique(where, "steps", [step.node_id for step in self.plan() if step.node_id not in ids] + list(ids))

    def plan(self) -> list[Step]:
        """Return the nodes in the order in which they execute, start and end included."""
        steps = list(self.steps)
        if not steps and (self.duration or self.failure or self.partial or self.stream_text):
            steps = [Step("work", type="llm" if self.stream_text else "code", seconds=self.duration)]
        if self.failure:
            steps[-1] = _with(steps[-1], error=self.failure, on_error=None)
        if self.partial:
            error = steps[-1].error or "a handled error"
            steps[-1] = _with(steps[-1], error=error, on_error=steps[-1].on_error or "default-value")
        return [self.start, *(each for step in steps for each in step.rounds_of_questions()), self.end]

    def asks_human(self) -> bool:
        """Whether a run pauses for somebody's answer."""
        return any(step.asks_human() for step in self.steps)

    def output_template(self) -> Outputs:
        """Return the outputs as a template or function; the echo of the inputs where none were given."""
        if self.outputs is None:
            return {item.name: f"{{{item.name}}}" for item in self.inputs}
        return self.outputs


def evaluate(outputs: Outputs, scope: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a template or function in a scope."""
    if callable(outputs):
        return dict(outputs(scope))
    return {key: render(value, scope) for key, value in outputs.items()}


def load_workflows(path: str | Path) -> list[Workflow]:
    """Load workflows from a `.py` file that defines `WORKFLOWS` or a `.yaml` file with a list `workflows`.

    A Python file is executed, so load only what you would run.

    :raises WorkflowError: if the file is missing or unreadable or a definition is wrong; the message names
        the file, the workflow, the field and the remedy.
    """
    path = Path(path)
    if not path.is_file():
        raise WorkflowError(f"{path}: no such file; give the path of a .py or .yaml file with workflows")
    try:
        if path.suffix == ".py":
            workflows = _load_python(path)
        elif path.suffix in (".yaml", ".yml"):
            workflows = _load_yaml(path)
        else:
            raise WorkflowError(f"unknown kind of file {path.suffix!r}; use .py or .yaml")
        _check_unique("file", "workflows", [workflow.name for workflow in workflows])
    except WorkflowError as error:
        raise WorkflowError(f"{path}: {error}") from error
    return workflows


def _load_python(path: Path) -> list[Workflow]:
    try:
        content = runpy.run_path(str(path))
    except WorkflowError:
        raise
    except Exception as error:
        raise WorkflowError(
            f"the file raised {type(error).__name__}: {error}; run it with python to see where"
        ) from error
    workflows = content.get("WORKFLOWS")
    if not isinstance(workflows, (list, tuple)) or not workflows:
        raise WorkflowError("no list 'WORKFLOWS'; define WORKFLOWS = [Workflow(...), ...]")
    for workflow in workflows:
        _check_type("WORKFLOWS", "item", workflow, Workflow, "a Workflow")
    return list(workflows)


def _load_yaml(path: Path) -> list[Workflow]:
    try:
        import yaml
    except ImportError:
        raise WorkflowError("a YAML file needs PyYAML; pip install pyyaml, or use a .py file") from None
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise WorkflowError(f"not valid YAML: {error}") from error
    workflows = content.get("workflows") if isinstance(content, dict) else None
    if not isinstance(workflows, list) or not workflows:
        raise WorkflowError("no list 'workflows' at the top; begin the file with 'workflows:' and a list of mappings")
    return [_build(Workflow, item, f"workflow {number}") for number, item in enumerate(workflows, 1)]


_T = TypeVar("_T")


def _build(kind: type[_T], content: Any, where: str) -> _T:
    if not isinstance(content, Mapping):
        raise WorkflowError(f"{where}: must be a mapping of fields, not {content!r}")
    name = content.get("name", content.get("title"))
    if isinstance(name, str):
        where = f"{where.split(' ')[0]} {name!r}"
    known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            remedy = f"did you mean {near[0]!r}?" if near else f"known fields are {', '.join(known)}"
            raise WorkflowError(f"{where}: unknown field {key!r}; {remedy}")
    for key, item in known.items():
        if item.default is MISSING and item.default_factory is MISSING and key not in content:
            raise WorkflowError(f"{where}: field {key!r} is missing; add it")
    values = dict(content)
    for key, part in (("inputs", Input), ("steps", Step)):
        if key in values and (kind is Workflow or key == "steps"):
            if not isinstance(values[key], list):
                raise WorkflowError(f"{where}: field {key!r} must be a list of mappings, not {values[key]!r}")
            singular = key[:-1]
            values[key] = [_build_part(part, item, where, singular, n) for n, item in enumerate(values[key], 1)]
    for key, single in (("start", Step), ("end", Step), ("human_input", HumanInput)):
        if values.get(key) is not None:
            values[key] = _build_part(single, values[key], where, key, 1)
    return kind(**values)


def _build_part(kind: type[_T], content: Any, where: str, what: str, number: int) -> _T:
    try:
        return _build(kind, content, f"{what} {number}")
    except WorkflowError as error:
        raise WorkflowError(f"{where}: {error}") from error


def _with(step: Step, **changes: Any) -> Step:
    return Step(**{item.name: getattr(step, item.name) for item in fields(Step)} | changes)


def _where(what: str, name: object) -> str:
    return f"{what} {name!r}"


def _check_type(where: str, name: str, value: object, kind: type, wanted: str) -> None:
    if not isinstance(value, kind):
        raise WorkflowError(f"{where}: field {name!r} must be {wanted}, not {value!r}")


def _check_text(where: str, name: str, value: object) -> None:
    if not isinstance(value, str) or not value:
        raise WorkflowError(f"{where}: field {name!r} must be a text that is not empty, not {value!r}")


def _check_optional_text(where: str, name: str, value: object) -> None:
    if value is not None:
        _check_text(where, name, value)


def _check_choice(where: str, name: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise WorkflowError(f"{where}: field {name!r} must be one of {', '.join(choices)}, not {value!r}")


def _check_number(where: str, name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise WorkflowError(f"{where}: field {name!r} must be a number, 0 or more, not {value!r}")


def _check_count(where: str, name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise WorkflowError(f"{where}: field {name!r} must be a whole number, 0 or more, not {value!r}")


def _check_mapping(where: str, name: str, value: object) -> None:
    _check_type(where, name, value, Mapping, "a mapping")


def _check_outputs(where: str, name: str, value: object) -> None:
    if not callable(value):
        _check_type(where, name, value, Mapping, "a mapping or a function")


def _check_list(where: str, name: str, value: object) -> None:
    _check_type(where, name, value, (list, tuple), "a list")  # type: ignore[arg-type]


def _check_items(where: str, name: str, value: object, kind: type) -> None:
    _check_list(where, name, value)
    for item in value:  # type: ignore[attr-defined]
        _check_type(where, name, item, kind, f"a list of {kind.__name__}")


def _check_unique(where: str, name: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for item in names:
        if item in seen:
            raise WorkflowError(f"{where}: field {name!r} has {item!r} twice; rename one")
        seen.add(item)


def _summary(scope: Mapping[str, Any]) -> dict[str, Any]:
    return {"summary": summarize(scope["text"]), "word_count": len(scope["text"].split())}


def summarize(text: str, words: int = 20) -> str:
    """Return the first sentence of a text, cut after so many words: what `summarize` calls a summary."""
    end = min((position for mark in ".!?" if (position := text.find(mark)) >= 0), default=len(text))
    first = text[: end + 1].split()
    return " ".join(first[:words]) + ("..." if len(first) > words else "")


def _review(scope: Mapping[str, Any]) -> dict[str, Any]:
    document = scope["document"]
    text = f"# {scope['title'] or document['filename']}\n\nThe document has {document['size']} bytes.\n"
    return {"document": document, "report": OutputFile("report.md", text.encode())}


def builtin_workflows() -> list[Workflow]:
    """Return the workflows that a server offers unless it is given others."""
    text = Input("text", type="paragraph")
    return [
        Workflow(
            "summarize",
            description="Summarizes a text: its first sentence.",
            inputs=[text],
            steps=[
                Step("prepare", type="template-transform", seconds=0.2, outputs={"output": "{text}"}),
                Step(
                    "llm",
                    type="llm",
                    seconds=1.0,
                    tokens=128,
                    outputs=lambda scope: {"text": summarize(scope["text"])},
                ),
                Step("count", type="code", seconds=0.3, outputs=_summary),
            ],
            outputs={"summary": "{llm.text}", "word_count": "{count.word_count}"},
            stream_text="{llm.text}",
        ),
        Workflow("echo", description="Gives back what it gets.", inputs=[Input("text", required=False)]),
        Workflow(
            "slow",
            description="Takes the given number of seconds.",
            inputs=[Input("seconds", type="number")],
            steps=[Step("wait", seconds="{seconds}", outputs={"body": "slept {seconds} s"})],
            outputs={"body": "{wait.body}"},
        ),
        Workflow(
            "failing",
            description="Fails.",
            inputs=[Input("text", required=False)],
            failure="[Errno 111] Connection refused",
        ),
        Workflow(
            "partial",
            description="Succeeds in part: one node fails and falls back to its default.",
            inputs=[Input("text", required=False)],
            steps=[
                Step(
                    "http",
                    error="[Errno 111] Connection refused",
                    on_error="default-value",
                    default={"body": "default"},
                )
            ],
            outputs={"body": "{http.body}"},
        ),
        Workflow(
            "human_input",
            description="Asks a human to approve.",
            inputs=[text],
            steps=[
                Step(
                    "human",
                    human_input=HumanInput(
                        form_content="Please approve {{#start.text#}}: {{#$output.comment#}}",
                        fields={"comment": ""},
                    ),
                )
            ],
            outputs={"comment": "{human.comment}", "action": "{human.__action_id}"},
        ),
        Workflow(
            "approval",
            description="Asks a human for a decision, a tone and a comment.",
            inputs=[text],
            steps=[
                Step("draft", seconds=0.2, outputs={"text": "{text}"}),
                Step(
                    "Editor",
                    id="editor",
                    human_input=HumanInput(
                        form_content="## May this go out?\n\n> {{#start.text#}}\n\nTone: {{#$output.tone#}}\n\n"
                        "Comment: {{#$output.comment#}}",
                        fields={
                            "tone": {"type": "select", "options": ["neutral", "friendly", "formal"]},
                            "comment": "",
                        },
                        hours=72,
                    ),
                ),
            ],
            outputs={
                "decision": "{editor.__action_id}",
                "tone": "{editor.tone}",
                "comment": "{editor.comment}",
            },
        ),
        Workflow(
            "limited",
            description="Allows three runs at a time.",
            inputs=[Input("seconds", type="number", required=False, default=0)],
            steps=[Step("wait", seconds="{seconds}", outputs={"body": "slept {seconds} s"})],
            outputs={"body": "{wait.body}"},
            max_active_requests=3,
        ),
        Workflow(
            "review",
            description="Reviews a document: gives back a report, as a file.",
            inputs=[Input("document", type="file"), Input("title", required=False)],
            outputs=_review,
            duration=1.0,
        ),
    ]
