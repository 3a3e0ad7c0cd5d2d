"""What follows an upload of a document that did not succeed, and how often it is sent again."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from http import HTTPStatus

from airflow_provider_dify.api.knowledge import Document
from airflow_provider_dify.exceptions import (
    DifyError,
    DifyFileError,
    DifyInvalidInputError,
    DifyProviderError,
    DifyRateLimitError,
    DifyServerError,
    DifyTransportError,
)

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
MAX_ATTEMPTS = 60
"""How often one document is sent at most: with growing pauses more than any deadline that makes sense."""

_TOO_LARGE = "file_too_large"
_NO_MESSAGE = "no message"
_OF_THE_DOCUMENT = frozenset(
    {HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNSUPPORTED_MEDIA_TYPE}
)
_MISTAKES = frozenset({"certificate", "tls", "plain_http", "name"})


class Follows(Enum):
    """What follows a failed upload.

    - ``REFUSED``: Dify does not take this document; others may succeed.
    - ``AGAIN``: the server was not reached, or took nothing: it is sent again after a pause.
    - ``UNKNOWN``: the answer was lost. A document that was there before is replaced again, which is harmless; one that
      was not is looked for first, since of two uploads that arrive together both make one.
    - ``STOP``: nothing else would succeed either.
    """

    REFUSED = "refused"
    AGAIN = "again"
    UNKNOWN = "unknown"
    STOP = "stop"


def follows_failure(error: DifyError) -> Follows:
    """Decide what follows an upload that failed."""
    if isinstance(error, DifyRateLimitError):
        return Follows.AGAIN
    if isinstance(error, DifyTransportError):
        if error.cause in _MISTAKES or error.status_code is not None:
            return Follows.STOP
        return Follows.UNKNOWN if error.sent else Follows.AGAIN
    if isinstance(error, DifyServerError):
        return Follows.UNKNOWN
    if isinstance(error, (DifyFileError, DifyProviderError)):
        return Follows.REFUSED
    if error.status_code in _OF_THE_DOCUMENT or (
        isinstance(error, DifyInvalidInputError) and error.status_code is None
    ):
        return Follows.REFUSED
    return Follows.STOP


def pause_before_next(attempt: int, error: DifyError, jitter: float) -> float:
    """Return the seconds to wait before a document is looked for, or sent again.

    :param attempt: How often it was sent.
    :param jitter: A random number from 0 to 1.
    """
    asked: float | None = error.retry_after if isinstance(error, (DifyRateLimitError, DifyServerError)) else None
    pause = min(FIRST_PAUSE_SECONDS * 2.0 ** min(attempt - 1, 16), LONGEST_PAUSE_SECONDS)
    return float(max(pause * (0.75 + 0.5 * jitter), asked or 0.0))


def made_by_lost_upload(documents: Iterable[Document], name: str) -> Document | None:
    """Return the document that an upload has made whose answer was lost; None where none is listed.

    :param documents: What a search by the mark has brought.
    :param name: The name that it was given, which no other document has.
    """
    matching = [each for each in documents if each.name == name and each.enabled and not each.archived]
    return max(matching, key=lambda each: (each.created_at or 0.0, each.id), default=None)


def reason_of_refusal(error: DifyError, title: str) -> str:
    """Return why a document is not in the knowledge base, as a line of the manifest."""
    if error.code == _TOO_LARGE or error.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return too_large(None)
    _, dot, extension = title.rpartition(".")
    if error.status_code == HTTPStatus.UNSUPPORTED_MEDIA_TYPE or _NO_MESSAGE in error.message:
        kind = f"files of the type .{extension}" if dot else "files without an extension"
        return f"Dify does not index {kind}: convert it to one such as txt, md, html, pdf, docx, xlsx or csv."
    return error.message_without_retry


def too_large(limit: int | None) -> str:
    """Return the line of the manifest for a file that is too large.

    :param limit: Bytes, of ``max_file_bytes``; None where Dify has refused it, or one that was smaller.
    """
    if limit is not None:
        return f"it is larger than max_file_bytes ({limit:,} bytes), so it was not sent: split it, or raise that."
    return (
        "it is larger than the Dify server takes: split it, or raise UPLOAD_FILE_SIZE_LIMIT (15 MB by default) of the "
        "server."
    )
