"""What an answer of the API says: bytes and headers in, clean values out. Pure.

Nothing here raises on bytes from outside: a proxy's HTML page, a decompression
bomb and half a JSON document are ordinary, so they are values.
"""

from __future__ import annotations

import json
import re
from datetime import timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from assisters_otel import catalog
from assisters_otel.coding import MAX_BYTES
from assisters_otel.masking import MAX_VALUE, clean, without

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

REQUEST_ID: Final = b"x-request-id"
PROCESSING_TIME_MS: Final = b"x-processing-time-ms"
RETRY_AFTER: Final = b"retry-after"
CONTENT_TYPE: Final = b"content-type"
CONTENT_LENGTH: Final = b"content-length"
CONTENT_ENCODING: Final = b"content-encoding"
LOCATION: Final = b"location"
RATELIMITS: Final[Mapping[tuple[str, str], bytes]] = {
    ("requests", "limit"): b"x-ratelimit-limit-rpm",
    ("requests", "remaining"): b"x-ratelimit-remaining-rpm",
    ("requests", "reset"): b"x-ratelimit-reset-rpm",
    ("tokens", "limit"): b"x-ratelimit-limit-tpm",
    ("tokens", "remaining"): b"x-ratelimit-remaining-tpm",
    ("tokens", "reset"): b"x-ratelimit-reset-tpm",
}
_PICKED: Final = frozenset(
    {
        REQUEST_ID,
        PROCESSING_TIME_MS,
        RETRY_AFTER,
        CONTENT_TYPE,
        CONTENT_LENGTH,
        CONTENT_ENCODING,
        LOCATION,
        *RATELIMITS.values(),
    }
)
_EVENT_STREAM: Final = b"text/event-stream"
_JSON: Final = json.JSONDecoder()
_BEGINNING: Final = re.compile(rb'\s*\{\s*"error"\s*:\s*\{')
# A quotation mark in a string has a backslash before it, so these are no part of one.
_WORDS: Final = tuple(
    re.compile(rb'(?<!\\)"%s"\s*:\s*"([\w.\[\]-]{1,128})"' % name)
    for name in (b"type", b"code", b"param")
)
# What needs no cleaning.
_DOCUMENTED: Final = frozenset(
    {*(error.code for error in catalog.ERRORS), *(row.type for row in catalog.TYPES)}
)

_NUMBER: Final = re.compile(rb"\s*(\d{1,15}(?:\.\d{1,15})?)\s*\Z")
_INT64: Final = 2**63
_INTEGER: Final = re.compile(rb"\s*(\d{1,19})\s*\Z")
# The first second of 2001: a reset below it is no Unix time of ours. Source: docs, Unix seconds.
_FIRST_UNIX_TIME: Final = 978_307_200


class Envelope(NamedTuple):
    """The error that a body holds.

    Attributes:
        type: The category, as sent, or None.
        code: The machine-readable code, as sent, or None.
        param: The parameter that caused the error, or None.
        message: For people, or None, as sent: to be cleaned before it goes anywhere,
            and it goes nowhere unless it is asked for. May quote what somebody typed.
    """

    type: str | None = None
    code: str | None = None
    param: str | None = None
    message: str | None = None

    def __repr__(self) -> str:
        return f"Envelope(type={self.type!r}, code={self.code!r}, param={self.param!r})"


def parse(body: bytes) -> Envelope | None:
    """Parse the body of an error response.

    Args:
        body: The body, decompressed. Beyond `MAX_BYTES` it is not looked at.

    Returns:
        The envelope, or None if *body* holds none. ``{"error": "text"}`` has a
        message only. A field of the wrong type is as if it were not there.
    """
    error = _document(body).get("error")
    return _envelope(error) if isinstance(error, str | dict) else None


def without_keys(found: Envelope, secrets: Sequence[str]) -> Envelope:
    """Take what the request's own headers hold out of an envelope that quotes it."""
    return Envelope(*(None if text is None else without(text, secrets) for text in found))


def of_event(data: bytes, *, is_named: bool = False) -> Envelope | None:
    """Parse the data of an event of a stream, which may be anything.

    Args:
        data: One event's data. Beyond `MAX_BYTES` it is not looked at.
        is_named: Whether it is an ``event: error``, whose fields may stand without an envelope.

    Returns:
        The envelope, an empty one if *data* says that there is an error and not which;
        None if there is none: ``"error"`` is absent, null or empty, as in the parts of
        a stream that is fine.
    """
    document = _document(data)
    error = document.get("error")
    if error:
        return _envelope(error) if isinstance(error, str | dict) else Envelope()
    return _envelope(document) if is_named else None


def of_beginning(data: bytes) -> Envelope | None:
    """Find the error in the beginning of an event that is too long to be read.

    Its message may quote what somebody typed, however long that was.

    Args:
        data: So much of the event's data as was kept.

    Returns:
        The envelope, as far as its words are there; None if *data* begins with none.
    """
    if _BEGINNING.match(data) is None:
        return None
    said = (pattern.search(data) for pattern in _WORDS)
    return Envelope(*(None if word is None else clean(word[1].decode()) for word in said))


def _document(body: bytes) -> dict[str, object]:
    if len(body) > MAX_BYTES:
        return {}
    try:
        # The codec that knows a byte order mark is written in Python.
        document = _JSON.decode(body.decode("utf-8", "replace").removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _envelope(error: str | dict[str, object]) -> Envelope:
    if isinstance(error, str):
        return Envelope(message=error)
    return Envelope(
        type=_field(error, "type"),
        code=_field(error, "code"),
        param=_field(error, "param"),
        message=message if isinstance(message := error.get("message"), str) else None,
    )


def _field(error: dict[str, object], name: str) -> str | None:
    value = error.get(name)
    if not isinstance(value, str):
        return None
    return value if value in _DOCUMENTED else clean(value).strip() or None


def is_event_stream(headers: Mapping[bytes, bytes]) -> bool:
    """Say whether an answer's body is an event stream.

    Args:
        headers: What `pick` took.
    """
    return headers.get(CONTENT_TYPE, b"").lstrip().lower().startswith(_EVENT_STREAM)


def may_be_read(headers: Mapping[bytes, bytes]) -> bool:
    """Say whether a failed answer's body may be read before its caller asks for it.

    Not an event stream's, which may go on for ever, and not one that is too long anyway.

    Args:
        headers: What `pick` took.
    """
    if is_event_stream(headers):
        return False
    length = integer(headers.get(CONTENT_LENGTH))
    return length is None or length <= MAX_BYTES


def pick(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Take the headers that we know out of a response, in one pass.

    Args:
        headers: Names and values as sent, in any case, repeated or not.

    Returns:
        Lower-case name to value; the first one, where a name is repeated. But of encodings all,
        as they were applied.
    """
    picked: dict[bytes, bytes] = {}
    for name, value in headers:
        if (lower := name.lower()) in _PICKED:
            if lower == CONTENT_ENCODING and lower in picked:
                picked[lower] += b"," + value
            else:
                picked.setdefault(lower, value)
    return picked


def text(value: bytes | None) -> str | None:
    """Read a header as clean text, or None if it is absent or empty."""
    return (clean(value.decode("latin-1").strip()) or None) if value else None


def number(value: bytes | None) -> float | None:
    """Read a header as a finite number of 0 or more, or None if it is none."""
    if value is None:
        return None
    found = _NUMBER.match(value)
    return None if found is None else float(found[1])


def integer(value: bytes | None) -> int | None:
    """Read a header as an integer that fits an int64, or None if it is none.

    One integer beyond int64 would lose a whole batch in the OTLP encoder.
    """
    found = _INTEGER.match(value) if value else None
    if found is None:
        return None
    parsed = int(found[1])
    return parsed if parsed < _INT64 else None


def seconds_to_wait(value: bytes | None, now: float) -> float | None:
    """Read a Retry-After: seconds, or an HTTP date.

    Args:
        value: The header as sent, or None.
        now: Unix seconds.

    Returns:
        Seconds from *now*, 0 or more; None if it is neither.
    """
    seconds = number(value)
    if seconds is not None or value is None:
        return seconds
    try:
        date = parsedate_to_datetime(value[:MAX_VALUE].decode("ascii"))
        if date.tzinfo is None:
            date = date.replace(tzinfo=timezone.utc)
        return max(date.timestamp() - now, 0.0)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def seconds_to_reset(value: bytes | None, now: float) -> float | None:
    """Read a rate limit's reset, which is sent as Unix seconds.

    Args:
        value: The header as sent, or None.
        now: Unix seconds.

    Returns:
        Seconds from *now*, 0 or more; None if it is no Unix time.
    """
    unix = number(value)
    return None if unix is None or unix < _FIRST_UNIX_TIME else max(unix - now, 0.0)
