"""Response headers: bytes in, numbers and text out.

`known_headers` selects the headers that the library uses, in one pass. The other functions parse
their values. A value that is not in the documented form is None.
"""

from __future__ import annotations

from datetime import timezone
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from assisters_otel.api.limits import MAX_BYTES, MAX_VALUE
from assisters_otel.api.patterns import pattern
from assisters_otel.api.redaction import clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

REQUEST_ID: Final = b"x-request-id"
PROCESSING_TIME_MS: Final = b"x-processing-time-ms"
RETRY_AFTER: Final = b"retry-after"
CONTENT_TYPE: Final = b"content-type"
CONTENT_LENGTH: Final = b"content-length"
CONTENT_ENCODING: Final = b"content-encoding"
TRANSFER_ENCODING: Final = b"transfer-encoding"
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
        TRANSFER_ENCODING,
        LOCATION,
        *RATELIMITS.values(),
    }
)
_ID: Final = "req_"
"""The start of the API's ids of requests."""

_MAX_DIGITS: Final = 15
"""The digits of a number that is read without a pattern."""

_EVENT_STREAM: Final = b"text/event-stream"
_JSON: Final = b"application/json"

_NUMBER: Final = pattern(rb"\s*(\d{1,15}(?:\.\d{1,15})?)\s*\Z")
_INT64: Final = 2**63
_INTEGER: Final = pattern(rb"\s*(\d{1,19})\s*\Z")
# The first second of 2001. A smaller number is no reset, which the API documents as Unix seconds.
_FIRST_UNIX_TIME: Final = 978_307_200


def is_event_stream(headers: Mapping[bytes, bytes]) -> bool:
    """Return True if a response's body is an event stream.

    Args:
        headers: The headers that `known_headers` selected.
    """
    sent_as = headers.get(CONTENT_TYPE, _JSON)
    return sent_as != _JSON and sent_as.partition(b";")[0].strip().lower() == _EVENT_STREAM


def is_delimited(headers: Mapping[bytes, bytes]) -> bool:
    """Return True if a response's headers show where its body ends: by its length or by chunks.

    Args:
        headers: The headers that `known_headers` selected.
    """
    sent_in = headers.get(TRANSFER_ENCODING, b"").lower()
    return CONTENT_LENGTH in headers or sent_in.rstrip().endswith(b"chunked")


def may_be_read_ahead(headers: Mapping[bytes, bytes]) -> bool:
    """Return True if the body of a failed response may be read before the caller reads it.

    An event stream may never end, and a body longer than `MAX_BYTES` is not parsed.

    Args:
        headers: The headers that `known_headers` selected.
    """
    if is_event_stream(headers):
        return False
    length = header_integer(headers.get(CONTENT_LENGTH))
    return length is None or length <= MAX_BYTES


def known_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return the headers that the library uses, by their names in lower case.

    Args:
        headers: The names and values as sent. A name may be in any case and be repeated.

    Returns:
        For each name its first value. For Content-Encoding all values, joined with commas, because
        a body may have several.
    """
    # A flood of others takes no memory (test_no_input_takes_much_memory).
    used = [(name, low, value) for name, value in headers if (low := name.lower()) in _PICKED]
    return known_lower_headers(used)


def with_lower_names(
    headers: Iterable[tuple[bytes, bytes]],
) -> list[tuple[bytes, bytes, bytes]]:
    """Return the names as sent, the names in lower case, and the values."""
    return [(name, name.lower(), value) for name, value in headers]


def known_lower_headers(headers: Sequence[tuple[bytes, bytes, bytes]]) -> dict[bytes, bytes]:
    """Return what `known_headers` does, of names that the client has converted already.

    Args:
        headers: The names as sent, the names in lower case, and the values.
    """
    # From the last to the first, so that the first value stays.
    picked = {lower: value for _, lower, value in reversed(headers) if lower in _PICKED}
    if CONTENT_ENCODING in picked:
        codings = [value for _, lower, value in headers if lower == CONTENT_ENCODING]
        picked[CONTENT_ENCODING] = b",".join(codings)
    return picked


@lru_cache(64)  # an attempt and its call both write the id of the request (``openai, alone``)
def header_text(value: bytes | None) -> str | None:
    """Return a header as clean text, or None if it is absent or empty."""
    if not value:
        return None
    text = value.decode("latin-1").strip()
    if text.startswith(_ID) and text[len(_ID) :].isalnum() and len(text) <= MAX_VALUE:
        return text  # an id of the API's: it is clean, as it can hold no key
    return clean(text) or None


def header_number(value: bytes | None) -> float | None:
    """Return a header as a finite number of 0 or more, or None if it is no such number."""
    if value is None:
        return None
    if value.isdigit() and len(value) <= _MAX_DIGITS:  # a pattern costs four times as much
        return float(value)
    found = _NUMBER.match(value)
    return None if found is None else float(found[1])


def header_integer(value: bytes | None) -> int | None:
    """Return a header as an integer that fits an int64, or None if it is no such number.

    The OTLP encoder raises for a larger integer, and the whole batch would be lost.
    """
    if not value:
        return None
    if value.isdigit() and len(value) <= _MAX_DIGITS:
        return int(value)
    found = _INTEGER.match(value)
    if found is None:
        return None
    parsed = int(found[1])
    return parsed if parsed < _INT64 else None


def retry_after_s(value: bytes | None, now: float) -> float | None:
    """Return the wait that a Retry-After asks for, in seconds from *now*, 0 or more.

    Args:
        value: The header as sent, a number of seconds or an HTTP date; or None.
        now: The current time in Unix seconds.

    Returns:
        The seconds, or None if *value* is neither.
    """
    seconds = header_number(value)
    if seconds is not None or value is None:
        return seconds
    try:
        date = parsedate_to_datetime(value[:MAX_VALUE].decode("ascii"))
        if date.tzinfo is None:
            date = date.replace(tzinfo=timezone.utc)
        return max(date.timestamp() - now, 0.0)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def rate_limit_reset_s(value: bytes | None, now: float) -> float | None:
    """Return the time until a rate limit's reset, in seconds from *now*, 0 or more.

    Args:
        value: The header as sent, in Unix seconds; or None.
        now: The current time in Unix seconds.

    Returns:
        The seconds, or None if *value* is no Unix time.
    """
    unix = header_number(value)
    return None if unix is None or unix < _FIRST_UNIX_TIME else max(unix - now, 0.0)


def rate_limits(headers: Mapping[bytes, bytes], now: float) -> dict[tuple[str, str], float]:
    """Return the rate limits of a response by their keys in `RATELIMITS`, as far as it has them.

    Args:
        headers: The headers that `known_headers` selected.
        now: The current time in Unix seconds.

    Returns:
        The limits and what remains of them as integers, and the resets in seconds from *now*.
    """
    found: dict[tuple[str, str], float] = {}
    for key, header in RATELIMITS.items():
        sent = headers.get(header)
        if sent is None:
            continue
        limit = rate_limit_reset_s(sent, now) if key[1] == "reset" else header_integer(sent)
        if limit is not None:
            found[key] = limit
    return found
