"""The host of a web address, and an address taken to pieces."""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress
from urllib.parse import SplitResult, urlsplit

# Labels of at most 63 characters between dots; the last dot may be there or not.
_NAME = re.compile(r"[A-Za-z0-9_~-]{1,63}(?:\.[A-Za-z0-9_~-]{1,63})*\.?")
_ZONE = re.compile(r"[A-Za-z0-9._~-]+")
_MAX_HOST_CHARS = 253


def is_host(parts: SplitResult) -> bool:
    """Tell whether a URL's host is one that both HTTP clients, and name servers, can be asked for."""
    host = parts.hostname or ""
    if parts.netloc.rpartition("@")[2].startswith("["):
        address, _, zone = host.partition("%")
        with suppress(ValueError):
            return ipaddress.ip_address(address).version == 6 and (not zone or bool(_ZONE.fullmatch(zone)))
        return False
    if not host.isascii():
        # As the HTTP clients encode it, which need the package themselves.
        import idna

        with suppress(UnicodeError):
            return len(idna.encode(host.lower(), strict=True, std3_rules=True)) <= _MAX_HOST_CHARS
        return False
    return len(host) <= _MAX_HOST_CHARS and bool(_NAME.fullmatch(host))


def split_url(text: str) -> SplitResult | None:
    """Return the parts of a URL, None for what is no URL; Python's own error would quote it, secrets included."""
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 - reading it is what checks it
    except ValueError:
        return None
    return parts
