"""The error envelope: the JSON object in the body of an error response.

A proxy's HTML page, an empty body and half a document are ordinary, so the parsers return None for
them and raise nothing. Fields are cleaned here, except the message: `capture_message` decides
whether it is used at all.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from assisters_otel import catalog
from assisters_otel.api.content_encoding import decode_body
from assisters_otel.api.headers import CONTENT_ENCODING
from assisters_otel.api.limits import MAX_BYTES
from assisters_otel.api.patterns import pattern
from assisters_otel.api.redaction import clean, without
from assisters_otel.records import Record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# With a byte order mark, zeros of UTF-16 or UTF-32, or blanks before it.
_BRACE: Final = pattern(rb"[\xef\xbb\xbf\xfe\xff\0]{0,7}\s*\{")
_FIRST: Final = 4
"""The bytes by which UTF-16 and UTF-32 are known. Source: `json.detect_encoding`."""

_JSON: Final = json.JSONDecoder()
_BEGINNING: Final = pattern(rb'\s*\{\s*"error"\s*:\s*\{')
# A quotation mark inside a string has a backslash before it, so these match outside strings alone.
_ENVELOPE_FIELDS: Final = tuple(
    pattern(rb'(?<!\\)"%s"\s*:\s*"([\w.\[\]-]{1,128})"' % name)
    for name in (b"type", b"code", b"param")
)
# The types of the two events that report an error of the `openai` SDK's `responses`.
_ERROR: Final = "error"
_FAILED_RESPONSE: Final = "response.failed"
# Values that need no cleaning.
_DOCUMENTED: Final = frozenset(
    {*(error.code for error in catalog.ERRORS), *(row.type for row in catalog.TYPES)}
)


class Envelope(Record):
    """The error in a body.

    Attributes:
        type: The type of the error, cleaned, or None.
        code: The machine-readable code, cleaned, or None.
        param: The parameter that caused the error, cleaned, or None.
        message: The message for people, or None. It is as sent and may quote the user's input, so
            it is in no repr, and a sink cleans it before it writes it.
    """

    type: str | None = None
    code: str | None = None
    param: str | None = None
    message: str | None = None

    def __repr__(self) -> str:
        return f"Envelope(type={self.type!r}, code={self.code!r}, param={self.param!r})"


def parse_sent_body(body: bytes, headers: Mapping[bytes, bytes]) -> Envelope | None:
    """Parse the beginning of an error response's body, as sent or as its client has decoded it.

    Args:
        body: The bytes.
        headers: The response's, from `known_headers`. They say how the body was sent.

    Returns:
        The envelope, or None if *body* holds none.
    """
    return envelope_of(_sent_document(body, headers).get("error"))


def _sent_document(body: bytes, headers: Mapping[bytes, bytes]) -> dict[str, object]:
    """Return the JSON object in the body of a response, as sent or as its client has decoded it.

    Args:
        body: The bytes. A body longer than `MAX_BYTES` is not parsed.
        headers: The response's, from `known_headers`. They say how the body was sent.

    Returns:
        The object; an empty one if *body* is none.
    """
    found = parse_object(body) if _BRACE.match(body) else {}
    encoding = headers.get(CONTENT_ENCODING)
    if found or encoding is None:
        return found
    plain = decode_body(body, encoding)
    return {} if plain is None else parse_object(plain)


def envelope_of(error: object) -> Envelope | None:
    """Return the envelope in the ``error`` of a document, or None if it is no object or text."""
    return _envelope(error) if isinstance(error, str | dict) else None


def parse_error_body(body: bytes) -> Envelope | None:
    """Parse the body of an error response.

    Args:
        body: The body, decompressed. One longer than `MAX_BYTES` is not parsed.

    Returns:
        The envelope, or None if *body* has none. ``{"error": "text"}`` has a message only. A field
        of the wrong type is None.
    """
    return envelope_of(parse_object(body).get("error"))


def without_keys(found: Envelope, secrets: Sequence[str]) -> Envelope:
    """Return an envelope with *secrets* redacted: it may quote a key from the request's headers."""
    texts = [text for text in found if text is not None]
    quoted = [secret for secret in secrets if any(secret in text for text in texts)]
    if not quoted:
        return found
    return Envelope(*(None if text is None else without(text, quoted) for text in found))


def parse_error_event(data: bytes, *, is_named: bool = False) -> Envelope | None:
    """Parse the data of one event of a stream.

    Args:
        data: The event's data. Data longer than `MAX_BYTES` is not parsed.
        is_named: True if the event's name is ``error``. Then the fields may stand without an
            envelope.

    Returns:
        The envelope. It is empty if *data* reports an error without any field. None if
        ``"error"`` is absent, null or empty, as in the events of a good stream.
    """
    document = parse_object(data)
    error = document.get("error")
    if error:
        return _envelope(error) if isinstance(error, str | dict) else Envelope()
    kind = document.get("type")
    if kind == _FAILED_RESPONSE:
        response = document.get("response")
        error = response.get("error") if isinstance(response, dict) else None
        return _envelope(error) if isinstance(error, str | dict) else Envelope()
    if kind == _ERROR and "message" in document:
        return _envelope(document)._replace(type=None)  # of the event, and not of the error
    return _envelope(document) if is_named else None


def parse_truncated_event(data: bytes) -> Envelope | None:
    """Search the error in the start of an event that is too long to be parsed.

    An error event is that long if its message quotes a long input of the user.

    Args:
        data: The part of the event's data that was kept.

    Returns:
        The envelope with those fields that are in *data*. None if *data* does not start with one.
    """
    if _BEGINNING.match(data) is None:
        return None
    matches = (pattern.search(data) for pattern in _ENVELOPE_FIELDS)
    return Envelope(*(None if match is None else clean(match[1].decode()) for match in matches))


def parse_object(body: bytes) -> dict[str, object]:
    """Parse a JSON object. Return an empty one if *body* is none, or is longer than `MAX_BYTES`."""
    if len(body) > MAX_BYTES:
        return {}
    try:
        # Not "utf-8-sig": that codec is written in Python and slower. The clients read UTF-16 and
        # UTF-32, too (`json.loads`).
        encoding = json.detect_encoding(body) if b"\0" in body[:_FIRST] else "utf-8"
        document = _JSON.decode(body.decode(encoding, "replace").removeprefix("\ufeff"))
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
