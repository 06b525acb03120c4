"""The error envelope: the body of an error response in, its fields out."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from assisters_otel import catalog
from assisters_otel.api.limits import MAX_BYTES
from assisters_otel.api.redaction import clean, without

if TYPE_CHECKING:
    from collections.abc import Sequence

_JSON: Final = json.JSONDecoder()
_BEGINNING: Final = re.compile(rb'\s*\{\s*"error"\s*:\s*\{')
# A quotation mark in a string has a backslash before it, so these are no part of one.
_ENVELOPE_FIELDS: Final = tuple(
    re.compile(rb'(?<!\\)"%s"\s*:\s*"([\w.\[\]-]{1,128})"' % name)
    for name in (b"type", b"code", b"param")
)
# What needs no cleaning.
_DOCUMENTED: Final = frozenset(
    {*(error.code for error in catalog.ERRORS), *(row.type for row in catalog.TYPES)}
)


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


def parse_error_body(body: bytes) -> Envelope | None:
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


def parse_error_event(data: bytes, *, is_named: bool = False) -> Envelope | None:
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


def parse_truncated_event(data: bytes) -> Envelope | None:
    """Find the error in the beginning of an event that is too long to be read.

    Its message may quote what somebody typed, however long that was.

    Args:
        data: So much of the event's data as was kept.

    Returns:
        The envelope, as far as its words are there; None if *data* begins with none.
    """
    if _BEGINNING.match(data) is None:
        return None
    said = (pattern.search(data) for pattern in _ENVELOPE_FIELDS)
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
