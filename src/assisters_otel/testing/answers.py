"""The requests that the fake API has received, and its answers: records. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus
from json import dumps, loads
from typing import TYPE_CHECKING, Final, Literal

from assisters_otel import catalog
from assisters_otel.records import Record

if TYPE_CHECKING:
    from collections.abc import Mapping

Fault = Literal["drop", "stall", "truncate", "unfinished", "garbage", "silence"]

JSON: Final = "application/json"
EVENTS: Final = "text/event-stream"

# These have no body. Source: RFC 9110, sections 15.3.5 and 15.4.5.
BODILESS: Final = frozenset({204, 304})

_FIRST_SERVER_ERROR: Final = 500

# The parameter that each of these codes is about, unless the script names another.
_PARAMS: Final = {
    "invalid_model": "model",
    "missing_parameter": "messages",
    "invalid_parameter": "temperature",
}


@dataclass(frozen=True)
class Received:
    """One request as it came in.

    Attributes:
        method: For example ``"POST"``.
        path: Decoded, with the prefix: ``"/v1/chat/completions"``.
        query: As sent, without the question mark; ``""`` if there is none.
        headers: By lower-case name; values of a repeated header joined by ``", "``.
        body: As sent, not decompressed.
        at_s: When all of it was there, by `time.monotonic`.
    """

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    at_s: float = field(default=0.0, compare=False)


def sent_json(received: Received) -> dict[str, object]:
    """Return the JSON object that was sent; an empty one for anything else."""
    try:
        value = loads(received.body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


class SampleBody(Record):
    """A status and a body: what an endpoint answers when nothing else is asked of it."""

    status: int
    content_type: str
    body: bytes


@dataclass(frozen=True)
class Answer:
    """One answer of the script.

    Attributes:
        status: None means the status of the endpoint's own content.
        body: None means the endpoint's own body.
        content_type: None means the endpoint's own, or JSON where there is a body.
        headers: Over the documented ones, by lower-case name; None takes one away.
        delay_s: Before the first byte.
        chunked: Several chunks, no content-length.
        chunk_delay_s: Between two chunks.
        gzip: The body is compressed.
        size: The least number of bytes in the body, before compression.
        fault: The fault on the wire, or None.
        parts: The chunks in which the body is sent, or None for the usual ones.
        event: Data of an error event, which takes the place of an event stream's second half.
        code: The error code, documented or not; None for an answer without one.
    """

    status: int | None = None
    body: bytes | None = None
    content_type: str | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)
    delay_s: float = 0
    chunked: bool = False
    chunk_delay_s: float = 0
    gzip: bool = False
    size: int = 0
    fault: Fault | None = None
    parts: tuple[bytes, ...] | None = None
    event: bytes | None = None
    code: str | None = None

    def with_defaults(self, sample: SampleBody) -> SampleBody:
        """Fill what this answer leaves open from the endpoint's own content.

        A body below `size` gets blanks at its end, which JSON allows. An event stream that
        fails ends after half of its events.
        """
        status = self.status or sample.status
        own = sample.content_type if self.body is None else JSON
        body = sample.body if self.body is None else self.body
        content_type = self.content_type or own
        if content_type == EVENTS and (self.event is not None or self.fault == "unfinished"):
            events = body.split(b"\n\n")
            half = events[: len(events) // 2]
            body = b"".join(event + b"\n\n" for event in half)
            body += b"" if self.event is None else b"data: " + self.event + b"\n\n"
        return SampleBody(
            status,
            content_type,
            b"" if status in BODILESS else body.ljust(self.size),
        )


def type_of(status: int) -> str:
    """Name the documented type that goes with a status, for an envelope that says none."""
    for row in catalog.ERRORS:
        if row.status == status:
            return row.type
    return "server_error" if status >= _FIRST_SERVER_ERROR else "invalid_request_error"


def envelope(  # noqa: PLR0913 - the fields of the envelope, and its length
    status: int,
    code: str | None = None,
    *,
    type_: str | None = None,
    message: str | None = None,
    param: str | None = None,
    size: int = 0,
) -> bytes:
    """Write an error body as the API does: what does not apply is absent, not null.

    Args:
        status: The HTTP status, 400 or above; names the type of an unknown code.
        code: Documented or not; None leaves it out.
        type_: None means the documented code's, else the status's.
        message: None means the code in words, else the status's phrase.
        param: None means what the documented code is about, else it is left out.
        size: The message is padded until the body has this many bytes.
    """
    row = catalog.find(code) if code else None
    param = param or _PARAMS.get(code or "")
    text = message if message is not None else _words(status, code)
    error = {"message": text, "type": type_ or (row.type if row else type_of(status))}
    if code is not None:
        error["code"] = code
    if param is not None:
        error["param"] = param
    missing = size - len(dumps({"error": error}))
    error["message"] = text + "x" * missing
    return dumps({"error": error}).encode()


def _words(status: int, code: str | None) -> str:
    if code is not None:
        return code.replace("_", " ").capitalize() + "."
    try:
        return HTTPStatus(status).phrase + "."
    except ValueError:
        return f"Status {status}."
