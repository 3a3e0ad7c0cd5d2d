"""A connection's secrets in what a server says: found in whatever form they are echoed, and replaced.

Servers, gateways and proxies echo what they were sent: in an error, a header, an event, even a run's outputs. The
answer is cleaned when it is read, so that nothing that is made of it later (a message, an exception's cause, an XCom, a
log line) has to be.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable
from functools import cached_property, lru_cache
from urllib.parse import quote, quote_plus

MASK = "***"
SHORTEST = 4
"""Characters from which on a text is a secret: to hide each ``1`` would only spoil what is reported."""

_MASK_BYTES = MASK.encode()
# A run of backslashes is searched once, from its start: a body may consist of them.
_BEFORE_SIGN = re.compile(rb"(?<!\\)\\+(?=[\"'/])")
# One printable ASCII character as JSON, a URL or a page of HTML may write it, in bytes; but for the above.
_ESCAPED = re.compile(
    rb"(?<!\\)\\+(?:u00|x)([2-7][0-9a-f])|%(?:25)*([2-7][0-9a-f])|&#x0{0,4}([2-7][0-9a-f]);|&#0{0,4}([0-9]{2,3});"
    rb"|&(amp|lt|gt|quot|apos);",
    re.IGNORECASE,
)
_ENTITIES = {b"amp": b"&", b"lt": b"<", b"gt": b">", b"quot": b'"', b"apos": b"'"}
_NAMED = {character: name for name, character in _ENTITIES.items()}
# Longer texts would take seconds.
_ESCAPED_UP_TO = 64 * 1024
# All characters of a secret in the same way.
_STYLES = ("\\u{:04x}", "\\\\u{:04x}", "\\x{:02x}", "%{:02x}", "&#{};", "&#x{:x};")
# Bytes that one character takes in the longest of these ways, with some backslashes to spare.
_ESCAPED_BYTES = 16

# Forms in lower case, by the sign without which none of them is in a text.
_Literals = tuple[tuple[bytes, list[bytes]], ...]


class Redactor:
    """Replaces secrets in texts and bytes, in whatever form they are echoed.

    Upper and lower case count as the same. Besides the text itself: base64 of it and of whatever it is a part of,
    hexadecimal digits, and all of its characters escaped as JSON, URLs and HTML do; in up to 64 KiB also any of them.
    ``longest`` is how many bytes a form has at most.

    :param secrets: The secrets; those of less than four characters are none.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        ordered = sorted({each for each in secrets if len(each) >= SHORTEST})
        self._secrets = sorted(ordered, key=len, reverse=True)
        found: set[bytes] = set()
        self.longest = 0
        for secret in self._secrets:
            found |= _forms_of(secret)
            self.longest = max(self.longest, _ESCAPED_BYTES * len(secret.encode()))
        self._forms = sorted(sorted(found), key=len, reverse=True)
        # Most answers have none of the signs, and so none of the forms that are escaped throughout.
        self._literals: _Literals = ((b"\\", []), (b"%", []), (b"&", []), (b"", []))
        for form in self._forms:
            self.longest = max(self.longest, len(form))
            for sign, literals in self._literals:
                if sign in form:
                    literals.append(form.lower())
                    break

    # Compiled at the first secret that is echoed: nearly no server does.
    @cached_property
    def _pattern(self) -> re.Pattern[bytes]:
        return re.compile(b"|".join(map(re.escape, self._forms)), re.IGNORECASE)

    @cached_property
    def _escaped(self) -> re.Pattern[bytes]:
        return re.compile(b"|".join(map(_escaped, self._secrets)), re.IGNORECASE)

    def bytes(self, data: bytes) -> bytes:
        """Return bytes without the secrets."""
        if not self.longest:
            return data
        if _any_in(data.lower(), self._literals):
            data = self._pattern.sub(_MASK_BYTES, data)
        # Escapes of single characters are searched for only where there are some that hide a secret.
        if len(data) <= _ESCAPED_UP_TO and (b"\\" in data or b"%" in data or b"&" in data):
            plain = _ESCAPED.sub(_unescaped, _BEFORE_SIGN.sub(b"", data))
            if _any_in(plain.lower(), self._literals):
                data = self._escaped.sub(_MASK_BYTES, data)
        return data

    def text(self, text: str) -> str:
        """Return a text without the secrets."""
        data = text.encode("utf-8", "surrogatepass")
        clean = self.bytes(data)
        return text if clean is data else clean.decode("utf-8", "surrogatepass")

    def values(self, texts: dict[str, str]) -> dict[str, str]:
        """Return texts by name without the secrets."""
        together = "\n".join(texts.values()).encode("utf-8", "surrogatepass")
        # Most have none, which one search tells; a longer text would not be searched for single escaped characters.
        if len(together) <= _ESCAPED_UP_TO and self.bytes(together) == together:
            return texts
        return {name: self.text(text) for name, text in texts.items()}


# The redactor of a tuple of secrets, made once.
redactor_of = lru_cache(maxsize=64)(Redactor)


def basic_login(user: str, password: str) -> str:
    """Return what stands for user and password in a header."""
    return base64.b64encode(f"{user}:{password}".encode()).decode("ascii")


def _any_in(folded: bytes, literals: _Literals) -> bool:
    # Plain loops: every answer is searched, and a generator costs more than the search.
    for sign, forms in literals:
        if sign in folded:
            for form in forms:
                if form in folded:
                    return True
    return False


def _forms_of(secret: str) -> set[bytes]:
    """Return the forms of a secret that are found by their bytes."""
    raw = secret.encode()
    forms = {raw, quote(secret, safe="").encode(), quote_plus(secret).encode(), html.escape(secret).encode()}
    forms |= {json.dumps(secret)[1:-1].encode(), secret.replace("/", "\\/").encode()}
    for style in _STYLES:
        forms.add("".join(map(style.format, raw)).encode())
    if len(raw) >= 2 * SHORTEST:
        forms.add(raw.hex().encode())
        forms |= _within_base64(raw)
    return forms


def _within_base64(raw: bytes) -> set[bytes]:
    """Return what base64 of any text that has the bytes in it must contain, for each of the three places to begin."""
    found = set()
    for before in range(3):
        # The first and the last character also depend on what stands around.
        encoded = base64.b64encode(b"\0" * before + raw)
        first, last = (0, 2, 3)[before], (len(raw) + before) * 8 // 6
        core = encoded[first:last]
        if len(core) >= 2 * SHORTEST:
            found |= {core, core.replace(b"+", b"-").replace(b"/", b"_")}
    return found


def _escaped(secret: str) -> bytes:
    """Return a pattern for a secret of which any character may be escaped.

    Before its first character a few backslashes belong to it, and before the others any number: else each backslash of
    a long run would be tried as the beginning of the whole run.
    """
    first, *others = secret.encode()
    return _escaped_character(first, rb"\\{0,16}", rb"\\{1,16}") + b"".join(map(_escaped_character, others))


@lru_cache(maxsize=512)
def _escaped_character(code: int, any_slashes: bytes = rb"\\*", slashes: bytes = rb"\\+") -> bytes:
    character = bytes([code])
    digits, number = character.hex().encode(), str(code).encode()
    ways = [
        any_slashes + re.escape(character),
        slashes + b"u00" + digits,
        slashes + b"x" + digits,
        rb"%(?:25)*" + digits,
        rb"&#x0{0,4}" + digits + b";",
        rb"&#0{0,4}" + number + b";",
    ]
    if character in _NAMED:
        ways.append(b"&" + _NAMED[character] + b";")
    return b"(?:" + b"|".join(ways) + b")"


def _unescaped(match: re.Match[bytes]) -> bytes:
    *digits, number, name = match.groups()
    if name is not None:
        return _ENTITIES[name.lower()]
    code = int(number) if number is not None else int(next(each for each in digits if each is not None), 16)
    return bytes([code]) if code < 128 else match[0]


class StreamRedaction:
    """Cleans a stream as it comes: a secret may be cut by the pieces in which it arrives.

    :param redactor: Replaces the secrets.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes and return those that are clean; the end of an unfinished line waits for what follows."""
        clean = self._redactor.bytes(self._held + chunk)
        lines_end = max(clean.rfind(b"\n"), clean.rfind(b"\r")) + 1
        end = max(lines_end, len(clean) - self._redactor.longest)
        self._held = clean[end:]
        return clean[:end]

    def rest(self) -> bytes:
        """Return what has come of a line whose end has not."""
        rest, self._held = self._held, b""
        return rest
