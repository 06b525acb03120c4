"""Redaction of secrets: keys, tokens, passwords, and the prompt in the agent's URL. Pure.

Each text from outside that reaches a span, a log line or an error message passes through `redact`:
error messages, exceptions, URLs, header values. `clean` also bounds its length and replaces what
cannot be encoded. `shown` quotes a wrong setting, and hides more than `redact`, because a user may
have put a key into the wrong variable.

A pattern costs time for each text, so `redact` runs it only if a substring of it occurs. No text
may make a pattern slow (test_what_looks_like_many_keys_is_masked_in_no_time).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from assisters_otel.api.limits import MAX_BYTES, MAX_VALUE
from assisters_otel.api.patterns import pattern

if TYPE_CHECKING:
    from collections.abc import Iterable

REDACTED: Final = "REDACTED"
# A key that was configured with the word before it is sent as "Bearer Bearer …". So a token that
# ends in the word is followed by another token.
_WORD: Final = r"(?i:bearer)(?:[\s+]|%20)+['\"]?"
_CHARACTER: Final = r"[^\s'\",;\\]"
_BEARER: Final = pattern(rf"{_WORD}(?:{_CHARACTER}*?{_WORD})*{_CHARACTER}+")
# A key does not start inside a word, but it may follow an escape, as in %3D, \n and \x00.
_KEY_BOUNDARY: Final = (
    r"(?<![A-Za-z0-9])|(?<=%[0-9A-Fa-f]{2})|(?<=%25[0-9A-Fa-f]{2})"
    r"|(?<=\\[abfnrtv0])|(?<=\\x[0-9A-Fa-f]{2})|(?<=\\u[0-9A-Fa-f]{4})"
)
# A key starts with "as" or "sk". That is tested first, because it rules out most positions.
_KEY: Final = pattern(rf"(?=as|sk)(?:{_KEY_BOUNDARY})(?:asst_sk_|ask_|sk-)[A-Za-z0-9_\-]{{6,}}")
_JWT: Final = pattern(r"eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?")
_PROMPT: Final = pattern(r"(/agent/stream/?)\?[^\s\"<>]+")
# h11 and http.client quote a header that they refuse. Most often it is a key with a line break at
# its end.
_H11_HEADER_ERROR: Final = pattern(
    r"((?:Illegal|Invalid) header (?:value|name) |in header value: ?).*", re.IGNORECASE
)
# The user and password of a URL, with or without its scheme. OpenTelemetry's conventions write
# "REDACTED:REDACTED@" in their place, which stays.
_USERINFO: Final = pattern(
    r"(?<=://)(?!REDACTED:REDACTED@(?![^/?#\s\"'<>]*@))[^/?#\s\"'<>]{0,256}@"
    r"|(?<![\w/@.:%-])[^\s:/@\"'<>=]{1,64}:[^\s/@\"'<>]{1,128}@(?=[\w\[])"
)
# A name and its value: in a query, a header, JSON, and the repr of a dictionary or of pairs.
_PAIR: Final = pattern(
    r"((?:api[-_ ]?key|secret|passw(?:or)?d|passwd|pwd|authorization|cookie|credentials?"
    r"|(?:access|auth|id|refresh|session)[-_]token)"
    r"(?:[\"']\s{0,3},|[\"']?\s{0,3}[=:])\s{0,3}b?[\"']?(?:(?:basic|digest|token)\s{1,3})?"
    r"|(?<![a-z])(?:key|token|sig|signature|auth)=)"
    r"[^\s\"'&,;<>]+",
    re.IGNORECASE,
)
_PAIRS: Final = ("=", ":", "',", '",')
_SECRET_NAME: Final = pattern(
    r"authorization|cookie|api[-_]?key|token(?!s)|secret|passw|credential|signature|[-_]key$"
)
# A generated key: mixed letters and digits, or long hexadecimal. A host's name has no capitals.
_TOKEN: Final = pattern(
    r"(?<![\w.-])(?:(?=[\w-]*\d)(?=[\w-]*[a-z])(?=[\w-]*[A-Z])[\w-]{12,}|[0-9a-fA-F]{32,})(?![\w.])"
)
_QUERY: Final = pattern(r"(/[^?#]*[?#]).+", re.DOTALL)
_MAX_SHOWN: Final = 80
MIN_SECRET: Final = 6
"""The characters of the shortest text that `without` replaces. A shorter one is in many words."""


def redact(text: str) -> str:
    """Return a text with keys, tokens, passwords and the agent's prompt replaced by `REDACTED`."""
    if text.isalnum():  # each pattern has another character
        return text
    # Each key contains "sk". Two searches for it cost a tenth of the patterns.
    lower = text.lower()
    if "bearer" in lower:  # first, or "sk-Bearer …" would match as a key, and its token would stay
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


def encodable(text: str) -> str:
    """Return a text that UTF-8 can encode, with ``?`` for each character that it cannot.

    One lone surrogate loses an exporter its whole batch.
    """
    return text if text.isascii() else text.encode(errors="replace").decode()


def without(text: str, secrets: Iterable[str]) -> str:
    """Return a text with each of *secrets* replaced by `REDACTED`, whatever its form."""
    for secret in secrets:
        if len(secret) >= MIN_SECRET:
            text = text.replace(secret, REDACTED)
    return text


def clean(text: str, limit: int = MAX_VALUE) -> str:
    """Return a text from outside in a form that is fit for an attribute.

    Args:
        text: Any text: with lone surrogates, NUL, line breaks, a key.
        limit: The number of characters that are kept.

    Returns:
        The text, redacted, of *limit* characters at most. White space is a space. A character that
        cannot be shown or encoded is a replacement character.
    """
    # Redacted before the final cut, which could leave a part of a key that no pattern matches. Cut
    # roughly before that, so that no megabyte is searched.
    text = redact(text[: limit + MAX_BYTES])[:limit]
    return text if text.isprintable() else "".join(map(_printable, text))


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else "\N{REPLACEMENT CHARACTER}"


def shown(text: str) -> str:
    """Return the quoted value of an argument or variable, for the message that it is wrong.

    The value may be a key in the wrong place, or a URL with one. So the user, password, query and
    fragment of a URL are left out, and everything that looks generated.
    """
    stripped = text.strip()
    if "@" in stripped:  # a password may contain a slash, a question mark or a number sign
        stripped = f"…@{stripped.rpartition('@')[2]}"
    stripped = _QUERY.sub(r"\1…", stripped)
    return repr(clean(_TOKEN.sub("…", stripped), _MAX_SHOWN))


def is_secret(name: str) -> bool:
    """Return True if the value of a header of this name is secret."""
    return _SECRET_NAME.search(name.lower()) is not None
