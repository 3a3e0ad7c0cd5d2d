"""Fetches one file of a server's, into a file that is open or one that is yet to be made."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from airflow_provider_dify.api.errors import error_for_answer
from airflow_provider_dify.api.operations import Call
from airflow_provider_dify.client.exchange import retried
from airflow_provider_dify.client.masking import hidden_in_http_logs
from airflow_provider_dify.exceptions import (
    DifyError,
    DifyFileError,
    DifyFileExpiredError,
    DifyFileRefusedError,
)
from airflow_provider_dify.rules.output_files import MAX_REDIRECTS, Address, address_of, too_large

if TYPE_CHECKING:
    from airflow_provider_dify.client.requests_transport import SyncExchange, SyncTransport
    from airflow_provider_dify.client.store_writing import Writable

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_GONE = frozenset({400, 401, 403, 404, 410})
_QUERY = re.compile(r"\?\S*")


@dataclass(frozen=True)
class Wanted:
    """One file to fetch.

    :param address: Where it is.
    :param size: Its size in bytes as it was reported; None where nobody has.
    :param limit: Bytes that are read at most.
    :param is_page: Whether a page of HTML may be what is wanted.
    :param allowed_hosts: Hosts that may be asked besides the server; a redirect may lead there too.
    """

    address: Address
    size: int | None
    limit: int
    is_page: bool = True
    allowed_hosts: Collection[str] = ()


@dataclass(frozen=True)
class SavedFile:
    """A file that was fetched.

    :param uri: Where it is now.
    :param size: Its bytes.
    """

    uri: str
    size: int


def download(transport: SyncTransport, wanted: Wanted, writing: Callable[[], AbstractContextManager[Writable]]) -> int:
    """Fetch a file and return its size in bytes; again from its start where the network fails.

    :param transport: The connection's transport.
    :param wanted: The file.
    :param writing: Gives what it is written to, opened again for each attempt.
    :raises DifyFileRefusedError: It is larger than allowed, or a redirect leads to a host that is not.
    :raises DifyFileExpiredError: The server does not give it, or not any more.
    :raises DifyFileError: It could not be fetched, or has another size than was reported.
    """
    if wanted.size is not None and wanted.size > wanted.limit:
        raise too_large(wanted.size, wanted.limit)
    call = Call("GET", "", "Fetching the file")

    def attempt() -> int:
        with _answered(transport, wanted, call) as exchange, writing() as sink:
            return _copied(exchange, wanted, sink)

    try:
        return retried(call, attempt)
    except DifyFileError:
        raise
    except DifyError as error:
        # The client's own words name the URL, and with it the signature.
        message = _QUERY.sub("?***", error.message_without_retry)
        failure = DifyFileError(message, status_code=error.status_code)
    raise failure


def _answered(transport: SyncTransport, wanted: Wanted, call: Call) -> SyncExchange:
    """Ask for a file, and follow where the answer leads within what is allowed."""
    address = wanted.address
    for _ in range(MAX_REDIRECTS + 1):
        with hidden_in_http_logs(address.secrets):
            exchange = transport.fetch(address, call)
        head = exchange.head
        if head.status in _REDIRECTS:
            with exchange:
                address = address_of(head.headers.get("location"), transport.base_url, wanted.allowed_hosts)
            continue
        if head.status == HTTPStatus.OK and (wanted.is_page or head.content_type != "text/html"):
            return exchange
        with exchange:
            if head.status in _GONE:
                raise DifyFileExpiredError(
                    f"{address.origin} does not give it (HTTP {head.status}): its signed URL has expired, or the file "
                    "was deleted.",
                    status_code=head.status,
                )
            if head.ok:
                raise DifyFileError(
                    f"{address.origin} answered a page of {head.content_type or 'no type'} (HTTP {head.status}) in its "
                    "place, as a gateway does that wants a login.",
                    status_code=head.status,
                )
            raise error_for_answer(exchange.read(), call.what)
    raise DifyFileRefusedError(f"{wanted.address.origin} redirects more than {MAX_REDIRECTS} times.")


def _copied(exchange: SyncExchange, wanted: Wanted, sink: Writable) -> int:
    size, most = 0, wanted.limit if wanted.size is None else wanted.size
    for chunk in exchange.content():
        size += len(chunk)
        if size > most:
            break
        sink.write(chunk)
    if wanted.size is not None and size != wanted.size:
        more = "more than " if size > wanted.size else ""
        raise DifyFileError(f"it has {more}{min(size, most):,} bytes, and {wanted.size:,} were reported.")
    if size > most:
        raise too_large(None, wanted.limit)
    return size
