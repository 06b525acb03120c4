"""Keys and the like are taken out of every text that quotes what came from outside. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from assisters_otel.api.limits import MAX_BYTES, MAX_VALUE

if TYPE_CHECKING:
    from collections.abc import Iterable

REDACTED: Final = "REDACTED"
# "Bearer Bearer …" is what comes of a key that was configured with the word before it; a token
# that ends in the word is followed by another one.
_WORD: Final = r"(?i:bearer)(?:[\s+]|%20)+['\"]?"
_CHARACTER: Final = r"[^\s'\",;\\]"
_BEARER: Final = re.compile(rf"{_WORD}(?:{_CHARACTER}*?{_WORD})*{_CHARACTER}+")
# What stands before a key is no part of a word: or it ends an escape, as in %3D, \n and \x00.
_KEY_BOUNDARY: Final = (
    r"(?<![A-Za-z0-9])|(?<=%[0-9A-Fa-f]{2})|(?<=%25[0-9A-Fa-f]{2})"
    r"|(?<=\\[abfnrtv0])|(?<=\\x[0-9A-Fa-f]{2})|(?<=\\u[0-9A-Fa-f]{4})"
)
# Most places are no beginning of one, which is asked first.
_KEY: Final = re.compile(rf"(?=as|sk)(?:{_KEY_BOUNDARY})(?:asst_sk_|ask_|sk-)[A-Za-z0-9_\-]{{6,}}")
_JWT: Final = re.compile(r"eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?")
_PROMPT: Final = re.compile(r"(/agent/stream/?)\?[^\s\"<>]+")
# h11 and http.client quote a header that they refuse, and the one that they refuse most is a key
# with a line break at its end.
_H11_HEADER_ERROR: Final = re.compile(
    r"((?:Illegal|Invalid) header (?:value|name) |in header value: ?).*", re.IGNORECASE
)
# Of a URL; at the beginning of one, or without its scheme.
_USERINFO: Final = re.compile(
    r"(?<=://)[^/?#\s\"'<>]{0,256}@"
    r"|(?<![\w/@.:%-])[^\s:/@\"'<>=]{1,64}:[^\s/@\"'<>]{1,128}@(?=[\w\[])"
)
# As in a query, a header, JSON, and Python's text of a dictionary or of pairs.
_PAIR: Final = re.compile(
    r"((?:api[-_ ]?key|secret|passw(?:or)?d|passwd|pwd|authorization|cookie|credentials?"
    r"|(?:access|auth|id|refresh|session)[-_]token)"
    r"(?:[\"']\s{0,3},|[\"']?\s{0,3}[=:])\s{0,3}b?[\"']?(?:(?:basic|digest|token)\s{1,3})?"
    r"|(?<![a-z])(?:key|token|sig|signature|auth)=)"
    r"[^\s\"'&,;<>]+",
    re.IGNORECASE,
)
_PAIRS: Final = ("=", ":", "',", '",')
_SECRET_NAME: Final = re.compile(
    r"authorization|cookie|api[-_]?key|token(?!s)|secret|passw|credential|signature|[-_]key$"
)
# As generators of keys make them: a host's name has no capitals, and is not that long.
_TOKEN: Final = re.compile(
    r"(?<![\w.-])(?:(?=[\w-]*\d)(?=[\w-]*[a-z])(?=[\w-]*[A-Z])[\w-]{12,}|[0-9a-fA-F]{32,})(?![\w.])"
)
_QUERY: Final = re.compile(r"(/[^?#]*[?#]).+", re.DOTALL)
_MAX_SHOWN: Final = 80
_MIN_SECRET: Final = 6


def redact(text: str) -> str:
    """Take keys, tokens, passwords and the agent's prompt out of a text."""
    # Each key has "sk" in it; two searches for it cost a tenth of the patterns'.
    lower = text.lower()
    if "bearer" in lower:  # first, or "sk-Bearer …" would be a key, and what follows it none
        text = _BEARER.sub(REDACTED, text)
    if "sk" in lower:
        text = _KEY.sub(REDACTED, text)
    if "eyj" in lower:
        text = _JWT.sub(REDACTED, text)
    if "/agent/stream" in text:
        text = _PROMPT.sub(rf"\1?{REDACTED}", text)
    if " header " in lower:
        text = _H11_HEADER_ERROR.sub(rf"\1{REDACTED}", text)
    if "@" in text:
        text = _USERINFO.sub(f"{REDACTED}@", text)
    if any(mark in text for mark in _PAIRS):
        text = _PAIR.sub(rf"\1{REDACTED}", text)
    return text


def without(text: str, secrets: Iterable[str]) -> str:
    """Take what is known to be secret out of a text, whatever it looks like."""
    for secret in secrets:
        if len(secret) >= _MIN_SECRET:
            text = text.replace(secret, REDACTED)
    return text


def clean(text: str, limit: int = MAX_VALUE) -> str:
    """Make a text from outside fit to be an attribute.

    Args:
        text: Anything: lone surrogates, NUL, line breaks, a key.
        limit: Characters that are kept.

    Returns:
        It, masked, of *limit* characters at most, with a space for each
        white space and a replacement character for each that cannot be shown or encoded.
    """
    # Masked before it is cut, or the cut would hide a key's end from the pattern;
    # cut roughly before that, or a megabyte would be searched.
    text = redact(text[: limit + MAX_BYTES])[:limit]
    return text if text.isprintable() else "".join(map(_printable, text))


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else "\N{REPLACEMENT CHARACTER}"


def shown(text: str) -> str:
    """Quote what a user wrote into an argument or a variable, for the message that it is wrong.

    It may be a key, in the wrong place, or a URL with one: user, password, query and fragment,
    and what looks as if nobody had made it up, are left out.
    """
    stripped = text.strip()
    if "@" in stripped:  # a password may have a slash, a question mark or a number sign in it
        stripped = f"…@{stripped.rpartition('@')[2]}"
    stripped = _QUERY.sub(r"\1…", stripped)
    return repr(clean(_TOKEN.sub("…", stripped), _MAX_SHOWN))


def is_secret(name: str) -> bool:
    """Return True if what a header of this name holds is secret."""
    return _SECRET_NAME.search(name.lower()) is not None
