"""The record of one `ClientSession._request`, and what the adapter reads from aiohttp's objects."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from assisters_otel.api.headers import with_lower_names
from assisters_otel.clients.aiohttp import stream_reader
from assisters_otel.fail_safe import fail_safe
from assisters_otel.outcomes import FIRST_ERROR
from assisters_otel.sinks import foreign_span

_ENCODING: Final = b"content-encoding"
_SCOPE: Final = "opentelemetry.instrumentation.aiohttp_client"

_NO_OPTIONS: Final[Mapping[str, Any]] = MappingProxyType({})

_SOONER_S: Final = 0.05
"""The seconds by which the wait for a failed body ends before the caller's limit for it all."""

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextvars import Token

    from opentelemetry.trace import Span

    from assisters_otel.clients.exchange import Exchange


class SessionRequest:
    """One request of the app's, with all attempts that its session makes of it.

    Attributes:
        session: The session; None for an attempt after a redirect from a host that is not watched.
        is_told_of: True if the session reports how it ends.
        timeout: The limits of this request, as the app has given them; None for the session's.
        decodes: True or False if the app has said so of this request; None for the session's.
        hop: The client's request object of the last attempt.
        response: The response of the last attempt, until its headers have been read.
        exchange: The exchange of the last attempt, until that has ended.
        last: The exchange of the last attempt, also after its end.
        error: The exception of the last attempt, as long as the session may still send it again.
        task: The task that makes the last attempt.
        span: The app's HTTP span around all attempts, or None.
        app_makes_spans: True if the app's HTTP instrumentation covers the attempts, also where it
            has sampled its span out.
        injected: The headers to send with the last attempt, if its span is the library's.
        began_s: When its coroutine started to run, by `time.monotonic`.
        token: The token by which an attempt that no session reports leaves the context, or None.
    """

    __slots__ = (
        "app_makes_spans",
        "began_s",
        "decodes",
        "error",
        "exchange",
        "hop",
        "injected",
        "is_told_of",
        "last",
        "response",
        "session",
        "span",
        "task",
        "timeout",
        "token",
    )

    def __init__(self, session: Any = None, options: Mapping[str, Any] = _NO_OPTIONS) -> None:
        """Prepare.

        Args:
            session: The session, or None.
            options: The keyword arguments of its method. They refer to the body, and are not kept.
        """
        self.session = session
        self.is_told_of = session is not None
        self.timeout = options.get("timeout")
        self.decodes = options.get("auto_decompress")
        self.hop: Any = None
        self.response: Any = None
        self.exchange: Exchange | None = None
        self.last: Exchange | None = None
        self.error: BaseException | None = None
        self.task: asyncio.Task[Any] | None = None
        self.span: Span | None = None
        self.app_makes_spans = False
        self.injected: dict[str, str] = {}
        self.began_s = 0.0
        self.token: Token[SessionRequest | None] | None = None

    def forget(self) -> None:
        """Refer to nothing of the app's, as the request has ended.

        Whatever is created within a request copies its context, and this record with it: asyncio's
        handles of a pooled connection, and the app's own tasks.
        """
        span, self.span = self.span, None
        if span is not None and self.is_told_of:  # an attempt beside it has no hook of its own
            foreign_span.on_recorded_exception(span, None)
        self.is_told_of = False
        self.session = self.timeout = self.hop = self.response = self.task = None
        self.exchange = self.last = self.error = self.token = None

    def start(self, hop: Any) -> None:
        """Keep the client's request object of an attempt that starts."""
        self.hop, self.response, self.task = hop, None, asyncio.current_task()

    def for_another(self) -> SessionRequest:
        """Return what another attempt is in flight in: this, or one for an attempt beside it."""
        exchange = self.exchange
        if exchange is None:
            return self
        if self.task is asyncio.current_task():
            # It was answered, by a request or response class that does it all itself.
            self.exchange = None
            exchange.end(None)
            return self
        # A middleware sends another one while this one's is under way.
        other = SessionRequest(self.session)
        other.is_told_of = False
        other.timeout, other.decodes = self.timeout, self.decodes
        other.span, other.app_makes_spans, other.last = self.span, self.app_makes_spans, self.last
        other.began_s = self.began_s
        return other

    @fail_safe
    def abandon(self, response: Any) -> None:
        """Leave nothing behind where an exception has interrupted a step of the library.

        Args:
            response: The response that the app will not get, or None.
        """
        if self.last is not None:
            self.last.abandon()
        if response is not None:
            response.close()

    @fail_safe
    def end(self, response: Any) -> None:
        """End the last attempt with the app's response, if no wrapped method has ended it."""
        exchange, self.exchange = self.exchange, None
        if exchange is None:
            return
        if self.error is not None:  # a middleware has answered in its place
            exchange.end(self.error)
            return
        try:  # of a request or response class that does it all itself
            headers = with_lower_names(headers_of(response))
            exchange.answered(response, response.status, None, headers)
        finally:
            exchange.end(None)


def read_limit_s(asked: SessionRequest) -> float:
    """Return the seconds for which a failed body is waited for: the caller's limit for a read.

    The wait ends before the caller's limit for the whole request: that rings in its own read.
    """
    timeout = asked.timeout
    if not hasattr(timeout, "sock_read") and not isinstance(timeout, (int, float)):
        timeout = getattr(asked.session, "timeout", None)
    read_s = getattr(timeout, "sock_read", None)
    if not isinstance(read_s, (int, float)) or read_s <= 0:  # 0 is no limit
        read_s = stream_reader.READ_AHEAD_S
    whole_s = getattr(timeout, "total", timeout)
    if isinstance(whole_s, (int, float)) and whole_s > 0:
        read_s = min(read_s, whole_s - (time.monotonic() - asked.began_s) - _SOONER_S)
    return float(read_s)


def headers_of(response: Any) -> Sequence[tuple[bytes, bytes]]:
    """Return the headers as they were sent, or those of a response class of the app's own."""
    raw: Sequence[tuple[bytes, bytes]] | None = response.raw_headers
    if raw is not None:
        return raw
    how = "utf-8", "surrogateescape"  # aiohttp decodes them so
    return [(name.encode(*how), value.encode(*how)) for name, value in response.headers.items()]


def http_version_of(response: Any) -> str | None:
    """Return the version of HTTP, ``1.1``, or None if the response does not know it."""
    version = response.version
    return None if version is None else f"{version.major}.{version.minor}"


@fail_safe
def put_headers(headers: Any, injected: dict[str, str]) -> list[tuple[str, str]]:
    """Add headers until the request is written. Return the app's own headers of these names."""
    own: list[tuple[str, str]] = []
    if any(name in headers for name in injected):
        names = {name.lower() for name in injected}
        own = [header for header in headers.items() if header[0].lower() in names]
    headers.update(injected)
    return own


@fail_safe
def put_headers_back(
    headers: Any, injected: dict[str, str], own: list[tuple[str, str]] | None
) -> None:
    """Restore the app's headers, which it finds in the response's `request_info`."""
    for name in injected:
        headers.popall(name, None)
    for name, value in own or ():
        headers.add(name, value)


def is_instrumented(session: Any) -> bool:
    """Return True if the app has given a session OpenTelemetry's trace configuration."""
    return any(
        getattr(told, "__module__", None) == _SCOPE
        for config in session._trace_configs  # noqa: SLF001 - the property is newer
        for told in config.on_request_start
    )


@fail_safe
def has_failed(asked: SessionRequest, exchange: Exchange, response: Any) -> bool:
    """Record an answer's headers, and watch a successful one's body. Return True if it failed."""
    headers = headers_as_read(asked, response)
    if exchange.answered(response, response.status, http_version_of(response), headers):
        if exchange.may_be_read_ahead():
            exchange.read_beginning = partial(stream_reader.peek, response.content)
        return True
    exchange.watch_body(response, stream_reader.watch, response)
    return False


@fail_safe
def read_ahead_s(asked: SessionRequest, exchange: Exchange, response: Any) -> float | None:
    """Return the seconds for which a failed body is waited for; None if it is not read ahead."""
    may_be_read = exchange.may_be_read_ahead() and stream_reader.can_be_waited_for(response.content)
    return read_limit_s(asked) if may_be_read else None


def headers_as_read(asked: SessionRequest, response: Any) -> list[tuple[bytes, bytes, bytes]]:
    """Return the headers that describe a body as it will be read.

    A stream is read as the client has decoded it. A failed answer's body is read ahead as sent.
    """
    headers = with_lower_names(headers_of(response))
    decodes = asked.decodes
    if decodes is None:
        decodes = getattr(asked.session, "_auto_decompress", True)
    if decodes and response.status < FIRST_ERROR:
        return [header for header in headers if header[1] != _ENCODING]
    return headers
