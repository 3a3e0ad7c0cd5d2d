"""The apps of the recordings as workflows of the local server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from airflow_provider_dify.testing.workflows import HumanInput, Input, OutputFile, Step, Workflow
from tests.contract.server_compare import load

REFUSED = "[Errno 111] Connection refused"
BAD_URL = "url should start with http:// or https://"
OLD_GRAPH_ERROR = (
    "1 validation error for HttpRequestNodeData\nurl\n  Field required [type=missing, "
    "input_value={'type': 'http-request', ...: 500}, 'variables': []}, input_type=dict]\n"
    "    For further information visit https://errors.pydantic.dev/2.11/v/missing"
)
GRAPH_ERRORS = {
    version: str(load(version, "bad-graph-blocking")["response"]["json"]["message"])
    for version in ("1.14.2", "1.14.2-release", "1.16.1")
}
NO_SANDBOX = (
    "Failed to execute code, which is likely a network issue, please check if the sandbox service is running. "
    f"( Error: {REFUSED} )"
)
_HUMAN_OUTPUTS = {"comment": "{human.comment}", "action": "{human.__action_id}"}
PLUGIN_DOWN = "Failed to request plugin daemon, url: plugin/00000000-0000-0000-0000-000000000000/management/models"


def workflows(version: str, limit: int = 1, human_end: str = "end_ok") -> list[Workflow]:
    """Return the apps that were recorded on a version.

    :param limit: `max_active_requests` of the limited app.
    :param human_end: the end node of the app that asks a human: `end_ok` or `end_rej`, by the answer.
    """
    return _old_workflows() if version in ("1.9.1", "1.11.2") else _new_workflows(version, limit, human_end)


def _answer(body: str) -> dict[str, Any]:
    headers = {
        "server": "BaseHTTP/0.6 Python/3.12.1",
        "date": "Mon, 23 Nov 2026 02:43:52 GMT",
        "content-type": "application/json",
        "content-length": str(len(body)),
    }
    return {"status_code": 200, "body": body, "headers": headers, "files": []}


def _request(path: str) -> dict[str, str]:
    return {"request": f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:8090\r\n\r\n"}


def _new_sleep(name: str) -> Step:
    return Step(
        name,
        seconds="{seconds}",
        outputs=lambda scope: _answer(json.dumps({"slept": float(scope["seconds"])})),
        process_data=lambda scope: _request(f"/sleep?s={scope['seconds']}"),
    )


def _old_sleep(name: str, title: str, suffix: str = "") -> Step:
    def outputs(scope: Mapping[str, Any]) -> dict[str, Any]:
        tag = f"{scope['tag'] or ''}{suffix}"
        return _answer(json.dumps({"slept": float(scope["seconds"]), "tag": tag}))

    def process_data(scope: Mapping[str, Any]) -> dict[str, str]:
        return _request(f"/sleep?s={scope['seconds']}&tag={scope['tag'] or ''}{suffix}")

    return Step(title, id=name, seconds="{seconds}", outputs=outputs, process_data=process_data)


def _new_workflows(version: str, limit: int, human_end: str) -> list[Workflow]:
    text = Input("text", max_length=48)
    optional_text = Input("text", required=False, max_length=48)
    seconds = Input("seconds", type="number", max_length=48)
    refused = Step(
        "http",
        error=REFUSED,
        process_data={"request": "GET /closed HTTP/1.1\r\nHost: 127.0.0.1:8091\r\n\r\n"},
    )
    default = {"body": "DEFAULT", "status_code": 0, "headers": {}}
    middle = [Step("e1", type="template-transform")] if version == "1.14.2" else []
    upload = {
        "allowed_file_extensions": [".txt"],
        "allowed_file_types": ["document", "image"],
        "allowed_file_upload_methods": ["local_file", "remote_url"],
        "enabled": True,
        "fileUploadConfig": {"file_size_limit": 15},
        "number_limits": 5,
    }
    echo_inputs = [
        text,
        Input("num", type="number", required=False, max_length=48),
        Input("choice", type="select", required=False, max_length=48, options=["a", "b", "c"]),
        Input("para", type="paragraph", required=False, max_length=2000),
        Input("flag", type="checkbox", required=False, max_length=48),
        Input("obj", type="json_object", required=False, max_length=48),
        Input("doc", type="file", required=False, max_length=48),
        Input("docs", type="file-list", required=False, max_length=3),
    ]
    echo_outputs = {item.name: f"{{{item.name}}}" for item in echo_inputs}
    return [
        Workflow(
            "echo",
            description="echo test app",
            inputs=echo_inputs,
            outputs=echo_outputs | {"user_id": "{sys.user_id}", "run_id": "{sys.workflow_run_id}"},
            older_versions=1,
            parameters={"file_upload": upload},
        ),
        Workflow(
            "slow",
            inputs=[seconds],
            steps=[_new_sleep("http")],
            outputs={"body": "{http.body}", "status_code": "{http.status_code}"},
        ),
        Workflow(
            "slow_multi",
            inputs=[seconds],
            steps=[_new_sleep("http0"), _new_sleep("http1"), _new_sleep("http2")],
            outputs={"b0": "{http0.body}", "b2": "{http2.body}"},
        ),
        Workflow("failing", inputs=[optional_text], steps=[refused], outputs={"body": "{http.body}"}),
        Workflow(
            "failing_retry",
            inputs=[optional_text],
            steps=[Step("http", error=REFUSED, retries=2, process_data=refused.process_data)],
            outputs={"body": "{http.body}"},
        ),
        Workflow(
            "partial_default",
            inputs=[optional_text],
            steps=[
                Step(
                    "http",
                    error=REFUSED,
                    on_error="default-value",
                    default=default,
                    process_data=refused.process_data,
                )
            ],
            outputs={"body": "{http.body}"},
        ),
        Workflow(
            "partial_failbranch",
            inputs=[optional_text],
            steps=[Step("http", error=REFUSED, on_error="fail-branch")],
            outputs={"err": "{http.error_message}", "etype": "{http.error_type}"},
            end=Step("end_fail", type="end"),
        ),
        Workflow(
            "human_input",
            inputs=[text],
            steps=[
                Step(
                    "human",
                    human_input=HumanInput(
                        form_content="Please approve {{#start.text#}}: {{#$output.comment#}}",
                        fields={"comment": "dflt"},
                    ),
                )
            ],
            outputs=_HUMAN_OUTPUTS if human_end == "end_ok" else {"comment": "{human.comment}"},
            end=Step(human_end, type="end"),
        ),
        Workflow(
            "human_select",
            inputs=[text],
            steps=[
                Step(
                    "human",
                    human_input=HumanInput(
                        form_content=(
                            "Please approve {{#start.text#}}: "
                            "{{#$output.comment#}} {{#$output.pick#}} {{#$output.att#}}"
                        ),
                        fields={
                            "comment": "dflt",
                            "pick": {"type": "select", "options": ["red", "green"]},
                            "att": {"type": "file", "allowed_file_types": ["document"]},
                        },
                    ),
                )
            ],
            outputs=_HUMAN_OUTPUTS,
            end=Step("end_ok", type="end"),
            parameters={"file_upload": upload},
        ),
        _loop(),
        _iteration(),
        Workflow(
            "multi_end",
            inputs=[optional_text],
            steps=[Step("h1"), *middle, Step("h2", error=REFUSED)],
            # Which of the branches ends first was a matter of rng.
            failure_outputs={"a": '{"ok": true, "path": "/a"}'} if version == "1.14.2" else {},
        ),
        Workflow("chatflow", mode="advanced-chat", parameters={"file_upload": upload}),
        Workflow("unpublished", inputs=[text], published=False),
        Workflow("api_disabled", inputs=[optional_text], api_enabled=False),
        Workflow(
            "ratelimited",
            inputs=[seconds],
            steps=[_new_sleep("http")],
            outputs={"body": "{http.body}", "status_code": "{http.status_code}"},
            max_active_requests=limit,
        ),
        Workflow("bad_graph", graph_error=GRAPH_ERRORS[version]),
        Workflow("code_node_no_sandbox", steps=[Step("code", type="code", error=NO_SANDBOX)]),
        Workflow(
            "fileout",
            inputs=[seconds],
            steps=[Step("http")],
            outputs=lambda scope: {
                "files": [OutputFile("00000000000000000000000000000000.pdf", b"x" * 2026)],
                "status_code": 200,
            },
        ),
        Workflow("llm_no_provider", graph_error=PLUGIN_DOWN),
    ]


def _loop() -> Workflow:
    def updated(scope: Mapping[str, Any]) -> dict[str, Any]:
        value = scope["round"] + 2
        variable = {"name": "num", "selector": ["loop", "num"], "value_type": "integer", "new_value": value}
        return {"num": value, "__updated_variables": [variable]}

    assignment = {
        "variable_selector": ["loop", "num"],
        "input_type": "constant",
        "operation": "+=",
        "value": 1,
    }
    child = Step(
        "asg",
        type="assigner",
        inputs={
            "type": "assigner",
            "title": "asg",
            "desc": "",
            "version": "2",
            "error_strategy": None,
            "default_value": None,
            "retry_config": {"max_retries": 0, "retry_interval": 0, "retry_enabled": False},
            "items": [assignment],
            "isInLoop": True,
            "loop_id": "loop",
        },
        process_data=updated,
    )
    loop = Step(
        "loop",
        type="loop",
        rounds=2,
        steps=[child],
        inputs={"loop_count": 10, "num": 1},
        outputs={"num": 3, "loop_round": 2},
        collect=lambda scope: {"num": scope["round"] + 2},
    )
    return Workflow(
        "loop",
        inputs=[Input("n", type="number", required=False)],
        steps=[loop],
        outputs={"num": "{loop.num}"},
    )


def _iteration() -> Workflow:
    child = Step(
        "ihttp",
        outputs=lambda scope: _answer(json.dumps({"ok": True, "path": f"/echo/{scope['item']}"})),
        process_data=lambda scope: _request(f"/echo/{scope['item']}"),
    )
    iteration = Step("iter", type="iteration", items="{obj.arr}", steps=[child], collect="{ihttp.body}")
    return Workflow(
        "iteration",
        inputs=[Input("obj", type="json_object")],
        steps=[iteration],
        outputs={"out": "{iter.output}"},
    )


def _old_workflows() -> list[Workflow]:
    nodes: dict[str, Any] = {
        "start": Step("Start", type="start", id="start"),
        "end": Step("End", type="end", id="end"),
    }
    seconds = [Input("seconds", type="number"), Input("tag", required=False, max_length=80)]
    url = [Input("url", required=False, max_length=200)]
    slow = {
        "inputs": seconds,
        "steps": [_old_sleep("http1", "HTTP")],
        "outputs": {
            "body": "{http1.body}",
            "status_code": "{http1.status_code}",
            "headers": "{http1.headers}",
        },
        **nodes,
    }
    broken: dict[str, Any] = {"id": "http1", "error": BAD_URL, "error_type": "InvalidURLError"}
    body = {"outputs": {"body": "{http1.body}", "status_code": "{http1.status_code}"}, **nodes}
    upload = {
        "enabled": True,
        "allowed_file_types": ["document", "image"],
        "allowed_file_extensions": [],
        "allowed_file_upload_methods": ["local_file", "remote_url"],
        "number_limits": 3,
    }
    return [
        Workflow(
            "echo",
            description="echo test app",
            inputs=[
                Input("text", max_length=48),
                Input("number", type="number", required=False),
                Input("choice", type="select", required=False, options=["a", "b"]),
            ],
            **nodes,
        ),
        Workflow("slow", **slow),
        Workflow(
            "slow2",
            inputs=seconds,
            steps=[_old_sleep("http1", "HTTP1", "-1"), _old_sleep("http2", "HTTP2", "-2")],
            outputs={"body": "{http2.body}"},
            **nodes,
        ),
        Workflow("failing", inputs=url, steps=[Step("HTTP", **broken)], **body),
        Workflow("retry", inputs=url, steps=[Step("HTTP", **broken, retries=2)], **body),
        Workflow(
            "partial",
            inputs=url,
            steps=[
                Step(
                    "HTTP",
                    **broken,
                    on_error="default-value",
                    default={"body": "fallback", "status_code": 0, "headers": {}},
                )
            ],
            **body,
        ),
        Workflow(
            "failbranch",
            inputs=url,
            steps=[Step("HTTP", **broken, on_error="fail-branch")],
            outputs={"error": "{http1.error_message}", "error_type": "{http1.error_type}"},
            **nodes,
        ),
        Workflow(
            "files",
            inputs=[
                Input("doc", type="file", required=False),
                Input(
                    "docs",
                    type="file-list",
                    required=False,
                    max_length=3,
                    allowed_file_types=["document"],
                ),
                Input("para", type="paragraph", required=False, max_length=2000),
                Input("flag", type="checkbox", required=False),
            ],
            parameters={"file_upload": upload, "retriever_resource": {"enabled": True}},
            **nodes,
        ),
        Workflow("limited", max_active_requests=1, **slow),
        Workflow("chatflow", mode="advanced-chat"),
        Workflow("unpublished", inputs=[Input("text")], published=False),
        Workflow("apidisabled", inputs=[Input("text")], api_enabled=False),
        Workflow("badgraph", graph_error=OLD_GRAPH_ERROR),
    ]
