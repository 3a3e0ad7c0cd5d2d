"""What the Test button says: what is wrong with a connection and what to do, or what it leads to."""

from __future__ import annotations

from airflow_provider_dify.api.errors import USE_WORKFLOW_APP, is_unpublished
from airflow_provider_dify.api.runs import AppInfo
from airflow_provider_dify.api.server_versions import Server
from airflow_provider_dify.api.values import excerpt
from airflow_provider_dify.exceptions import (
    DifyAppError,
    DifyAuthenticationError,
    DifyError,
    DifyNotFoundError,
    DifyPermissionError,
    DifyResponseError,
    DifyServerError,
    DifyTransportError,
)

_NAME_CHARS = 80
_CODE_OF_DISABLED_APP = "forbidden"


def success(info: AppInfo) -> str:
    """Return what is reported of an app that can be run, and of what its server's version allows."""
    mode = f"the {info.mode} app" if info.mode else "the app"
    server = f"Dify {excerpt(info.server_version, 20)}" if info.server_version else "a Dify server of unknown version"
    return f"Connected to {mode} {excerpt(info.name, _NAME_CHARS)!r} on {server}. {guarantee(info.server_version)}"


def success_of_gateway() -> str:
    """Return what is reported where the workflow-runs contract answers."""
    return (
        "The gateway knows the API key. Its workflow-runs contract tells nothing about the app. Runs are at most once: "
        "a submission that was interrupted cannot be found again, and is not sent twice."
    )


def success_of_knowledge(count: int | None) -> str:
    """Return the message for a key of the knowledge API.

    :param count: Knowledge bases of the workspace; None where the server cannot list them.
    """
    kind = (
        "The key is one of the knowledge API (dataset-…): DifyKnowledgeHook, DifyKnowledgeSyncOperator and "
        "DifyDocumentIndexingSensor use it. It runs no workflow; for that, make another connection with an app's key."
    )
    if count is None:
        return (
            f"Connected to Dify's knowledge bases. {kind} The server cannot list them, since its plugin daemon does "
            "not answer: name them by dataset_id and not by name."
        )
    return f"Connected to the {count} knowledge base{'' if count == 1 else 's'} of a workspace. {kind}"


def guarantee(version: str | None) -> str:
    """Return how often a submission of unknown outcome can run on a server of a version."""
    server = Server(version)
    if not server.survives_closed_stream:
        return (
            "Runs are at most once on this version, which forgets a run whose stream breaks: such a task fails and "
            "nothing is sent twice. From Dify 1.9.2 on runs are exactly once."
        )
    if not server.lists_running_runs:
        return (
            "Exactly-once submission is supported on this server; an interrupted submission is found once its run has "
            "ended."
        )
    return "Exactly-once submission is supported on this server."


def wrong_mode(info: AppInfo) -> str:
    """Return what is reported of an app of another type."""
    return (
        f"The key is of the app {excerpt(info.name, _NAME_CHARS)!r}, which is of the type "
        f"{excerpt(str(info.mode), 40)}: only apps of the type workflow can be run. {USE_WORKFLOW_APP}"
    )


def without_connection(message: str, conn_id: str) -> str:
    """Return what is wrong with a field, without the id that Airflow makes up for the time of the test."""
    text = message.removeprefix(f"Connection {conn_id!r}, ")
    return text[:1].upper() + text[1:]


def problem(error: DifyError, base_url: str, app: AppInfo | None = None) -> str:
    """Return what is wrong, as a headline for people who configure connections, and what to do.

    :param error: What the test ended with.
    :param base_url: Where the API's routes begin.
    :param app: The app, where it was learned before the error.
    """
    if isinstance(error, DifyTransportError):
        # Without a cause it is no error of the network: the proxy has answered, or Airflow's own store has not.
        return (
            " ".join(unreachable(error.cause, error.detail, base_url)) if error.cause else error.message_without_retry
        )
    detail = error.message_without_retry
    headline = _headline(error, base_url, app)
    return f"{headline} {detail}" if headline else detail


def _headline(error: DifyError, base_url: str, app: AppInfo | None) -> str:
    if isinstance(error, DifyAuthenticationError):
        return "The API key is refused."
    if isinstance(error, DifyPermissionError):
        known = error.code == _CODE_OF_DISABLED_APP
        return "The app's API access is switched off." if known else "The server refuses access."
    if isinstance(error, DifyAppError):
        name = f"The app {excerpt(app.name, _NAME_CHARS)!r}" if app else "The app"
        return f"{name} has not been published." if is_unpublished(error) else f"{name} is of another type."
    if isinstance(error, DifyNotFoundError):
        question = " Is /v1 missing?" if not base_url.endswith("/v1") else ""
        return f"There is no Dify API at {base_url}.{question}"
    if isinstance(error, DifyResponseError) and error.status_code is not None:
        if error.status_code < 300:
            return f"Not Dify but something else answers at {base_url}."
        if error.status_code < 400:
            return f"Dify's API is not at {base_url}."
    if isinstance(error, DifyServerError):
        return "The server returned an error (HTTP 5xx); the connection may be right."
    return ""


_CHECK_ADDRESS = "Check the Base URL and the port in it, the proxy, and that the machine of Airflow may reach it."
_WHY = {
    "name": "its host name is not known here",
    "refused": "nothing listens there: the connection was refused",
    "unreachable": "there is no way through the network to it",
    "timeout": "it did not answer in time",
    "closed": "the connection was closed before the answer was complete",
}


def unreachable(cause: str | None, detail: str, address: str) -> tuple[str, str]:
    """Return why there is no complete answer, and what to do: the one text for tasks, hooks and the Test button.

    :param cause: As that of ``DifyTransportError``.
    :param detail: What OpenSSL or the system says; of a proxy, its address.
    :param address: What was asked.
    """
    if cause == "certificate":
        return (
            f"The certificate of {address} is not trusted ({detail or 'no details'}).",
            "Put the path of the CA bundle that signs it into the connection's field Verify TLS (verify), or use the "
            "name that the certificate is for.",
        )
    if cause == "plain_http":
        return (
            f"No TLS connection with {address}: the server does not speak TLS.",
            "If it speaks plain http, let the connection's Base URL (host) begin with http://; a host without a scheme "
            "counts as https.",
        )
    if cause == "tls":
        return (
            f"No TLS connection with {address} ({detail or 'no details'}).",
            "If the server asks for a client certificate, name one in the connection's field Client certificate "
            "(client_cert).",
        )
    if cause == "proxy":
        return (
            f"There is no complete answer from {address}: the proxy {detail} cannot be reached, or does not let the "
            "request through.",
            "Check the connection's field Proxy (proxy), and the proxy variables of the environment.",
        )
    why = _WHY.get(cause or "") or f"the connection broke ({detail or 'no details'})"
    return f"There is no complete answer from {address}: {why}.", _CHECK_ADDRESS
