"""How an answer goes over the wire, with its faults."""

from __future__ import annotations

import asyncio
import time
import uuid
from gzip import compress
from typing import TYPE_CHECKING, Any, Final

from assisters_otel import catalog
from assisters_otel.testing.answers import BODILESS, EVENTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Receive, Scope, Send

    from assisters_otel.testing.answers import Answer, SampleBody

# The key in the ASGI scope's state where the server leaves the connection's protocol.
CONNECTION: Final = "connection"

_GARBAGE: Final = b"\x00\xff this is no HTTP \r\n\r\n"
_PIECES: Final = 4
_LIMITS: Final = {"rpm": 1000, "tpm": 100_000}
_RETRY_AFTER_S: Final = 1
_TOO_MANY: Final = 429


def headers(answer: Answer, content: SampleBody, elapsed_s: float, now_s: float) -> dict[str, str]:
    """Write the documented headers, under what the script says.

    Args:
        answer: Its `headers` win, and take away where they are None.
        content: The body and its status. A 429 has no headroom, a Retry-After and a reset, but for
            an error that no retry helps, such as a month's tokens.
        elapsed_s: Since the request came in.
        now_s: Unix time.
    """
    row = catalog.find(answer.code) if answer.code else None
    limited = content.status == _TOO_MANY and (row is None or row.retryable)
    named: dict[str, str | None] = {
        "content-type": content.content_type,
        "x-request-id": f"req_{uuid.uuid4().hex}",
        "x-processing-time-ms": str(max(1, round(elapsed_s * 1000))),
    }
    for what, limit in _LIMITS.items():
        named[f"x-ratelimit-limit-{what}"] = str(limit)
        named[f"x-ratelimit-remaining-{what}"] = "0" if limited else str(limit - 1)
        if limited:
            named[f"x-ratelimit-reset-{what}"] = str(int(now_s) + _RETRY_AFTER_S)
    if limited:
        named["retry-after"] = str(_RETRY_AFTER_S)
    named.update(answer.headers)
    return {name: value for name, value in named.items() if value is not None}


def split_body(body: bytes, content_type: str) -> list[bytes]:
    """Cut a body into chunks: one for each event of an event stream, else four."""
    if content_type == EVENTS:
        *events, rest = body.split(b"\n\n")
        cut = [event + b"\n\n" for event in events]
        return [*cut, rest] if rest or not cut else cut
    step = max(1, -(-len(body) // _PIECES))
    return [body[at : at + step] for at in range(0, len(body), step)] or [b""]


def _parts(answer: Answer, body: bytes, content_type: str, *, partial: bool) -> list[bytes] | None:
    """Return the chunks of a chunked body, or None if it is sent with a length."""
    if answer.parts is not None and not answer.gzip:
        return list(answer.parts)
    if answer.chunked or content_type == EVENTS:
        parts = split_body(body, content_type)
        return parts[: len(parts) // 2] if partial else parts
    return None


class ResponseWriter:
    """The way back to the client for one request.

    Every wait ends when the client goes away or the server stops, so a stalled
    answer holds nothing up.
    """

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, before_end: Callable[[], object]
    ) -> None:
        """Prepare for one request.

        Args:
            scope: The ASGI scope of the request.
            receive: The ASGI function that receives.
            send: The ASGI function that sends.
            before_end: Called before the last bytes of a body that is sent to its end. Later is
                too late: the client may look at the books as soon as it has them.
        """
        self._before_end = before_end
        self._scope = scope
        self._receive = receive
        self._send = send

    async def put(self, answer: Answer, content: SampleBody, began_s: float) -> bool:
        """Send the answer, or as much of it as its fault allows.

        Args:
            answer: How to send.
            content: The body to send.
            began_s: When the request came in, by `time.perf_counter`.

        Returns:
            False if the client went away before it was answered.
        """
        if await self._gone(None if answer.fault == "silence" else answer.delay_s):
            return False
        if answer.fault == "drop":
            await self._cut()
        elif answer.fault == "garbage":
            await self._cut(answer.body or _GARBAGE)
        else:
            named = headers(answer, content, time.perf_counter() - began_s, time.time())
            await self._respond(answer, content, named)
        return True

    async def _respond(self, answer: Answer, content: SampleBody, named: dict[str, str]) -> None:
        body, content_type = content.body, content.content_type
        if answer.gzip:
            body, content_type = compress(body, mtime=0), ""
            named["content-encoding"] = "gzip"
        partial = answer.fault not in (None, "unfinished")
        parts = _parts(answer, body, content_type, partial=partial)
        if parts is None:
            parts = [body[: len(body) // 2] if partial else body]
            if content.status not in BODILESS:
                # Of an empty body a byte is missing, too.
                named["content-length"] = str(len(body) or int(partial))
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in named.items()]
        await self._send({"type": "http.response.start", "status": content.status, "headers": raw})
        for number, part in enumerate(parts, 1):
            more = partial or number < len(parts)
            if not more and answer.fault is None:
                self._report_end()
            await self._send({"type": "http.response.body", "body": part, "more_body": more})
            if more and await self._gone(answer.chunk_delay_s):
                return
        if answer.fault == "stall":
            await self._gone(None)
        elif answer.fault == "truncate":
            await self._cut()

    def _connection(self) -> Any:
        """Return the connection's protocol, or None under a server that is not the fake API's."""
        return self._scope.get("state", {}).get(CONNECTION)

    def _report_end(self) -> None:
        connection = self._connection()
        if connection is None or not connection.transport.is_closing():
            self._before_end()

    async def _cut(self, raw: bytes = b"") -> None:
        """Write *raw* past the protocol, and close the connection."""
        connection = self._connection()
        if connection is None:
            raise ConnectionAbortedError("the script ends the connection here")
        connection.transport.write(raw)
        connection.transport.close()
        # The server takes an app that returns before its client is gone for a broken one.
        await self._gone(None)

    async def _gone(self, within_s: float | None) -> bool:
        """Wait. Return True when the client has gone, False when the time is over."""
        if within_s == 0:
            return False
        try:
            # The body has been read, so the next message can only be http.disconnect.
            # Source: ASGI, HTTP & WebSocket message format, "Disconnect - receive event".
            await asyncio.wait_for(self._receive(), within_s)
        except asyncio.TimeoutError:
            return False
        return True
