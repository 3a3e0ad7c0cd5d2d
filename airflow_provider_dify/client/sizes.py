"""How large an answer may be: of what is larger nothing is decoded."""

from __future__ import annotations

from dataclasses import dataclass

from airflow_provider_dify.api.operations import Call
from airflow_provider_dify.connection import DifyConnection
from airflow_provider_dify.exceptions import DifyResponseError

MAX_ANSWER_BYTES = 32 * 1024 * 1024
"""Size of an answer's body, decompressed, beyond which it is given up; a stream's lines have a limit of their own."""


TOO_LARGE = "answer_too_large"
"""Code of the error for an answer that is larger than whoever asked reads."""


@dataclass(frozen=True)
class Size:
    """How large an answer may be.

    :param most_bytes: Bytes of its body, decompressed.
    :param most_containers: Objects and lists in it; None for any number.
    """

    most_bytes: int = MAX_ANSWER_BYTES
    most_containers: int | None = None


TRIGGERER_SIZE = Size(2 * 1024 * 1024, 20_000)
"""What a triggerer reads: while JSON is decoded all other triggers stand still. A worker reads what is larger."""


def check_bytes(size: Size, count: int, connection: DifyConnection, call: Call, status: int) -> None:
    """Refuse a body that has become too large, while it is read.

    :raises DifyResponseError: It has.
    """
    if count > size.most_bytes:
        raise DifyResponseError(
            f"{call.what}: the answer of {connection.base_url} (HTTP {status}) has more than {size.most_bytes:,} bytes "
            "and was given up. Let the workflow return less, or a file.",
            status_code=status,
            code=TOO_LARGE,
        )


def check_containers(size: Size, body: bytes, connection: DifyConnection, call: Call, status: int) -> None:
    """Refuse a body that takes long to decode although it is not large.

    :raises DifyResponseError: It does.
    """
    if size.most_containers is not None and body.count(b"[") + body.count(b"{") > size.most_containers:
        raise DifyResponseError(
            f"{call.what}: the answer of {connection.base_url} (HTTP {status}) has more than "
            f"{size.most_containers:,} objects and lists.",
            status_code=status,
            code=TOO_LARGE,
        )
