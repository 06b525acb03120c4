"""The records of a request under way: the exchange of a hop, and the `Session.send` around it."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from assisters_otel.attempts import control_flow
from assisters_otel.clients.exchange import Exchange
from assisters_otel.clients.patching import as_function
from assisters_otel.clients.requests.exceptions import is_transient
from assisters_otel.clients.requests.read_ahead import READ_AHEAD_S, peek
from assisters_otel.clients.requests.request_reader import RequestsRequestReader
from assisters_otel.fail_safe import fail_safe
from assisters_otel.foreign_exceptions import is_cancellation
from assisters_otel.sinks import foreign_span

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import ContextVar

    from opentelemetry.trace import Span

    from assisters_otel.api.request import ApiRequest
    from assisters_otel.clients.http_span import HttpSpans
    from assisters_otel.clients.routes import Route
    from assisters_otel.recording.recorder import Recorder

SCOPE: Final = "opentelemetry.instrumentation.requests"
"""The HTTP instrumentation's module, which is the scope of its spans."""

HTTP_VERSIONS: Final = {10: "1.0", 11: "1.1", 20: "2", 30: "3"}
"""The versions of HTTP: urllib3's numbers, and the text that the conventions ask for."""


_HEADERS: Final = 3
"""The place of the headers among the arguments of `urlopen`, without the pool."""


class SessionSend:
    """One `Session.send` under way.

    Attributes:
        outer: The `Session.send` that called this one, for a redirect or by a hook of the app; None
            without one.
        failed: The exchanges of failed attempts, with their responses. They are reported when the
            method returns.
    """

    __slots__ = ("failed", "outer")

    def __init__(self, outer: SessionSend | None) -> None:
        self.outer = outer
        self.failed: list[tuple[Exchange, Any]] = []

    def with_failed(self) -> list[SessionSend]:
        """Return this and the outer ones, of which each has failed attempts to report."""
        found, one = [], self if self.failed or self.outer is not None else None
        while one is not None:
            if one.failed:
                found.append(one)
            one = one.outer
        return found

    def report(self) -> None:
        """Report the failed attempts."""
        while self.failed:
            self.failed[0][0].end(None)
            del self.failed[0]

    @fail_safe
    def leave_unread(self, error: BaseException) -> None:
        """Read no body ahead in `report` if the app gives up: *error* has to leave at once."""
        if self.failed and is_cancellation(error):
            for exchange, response in self.failed:
                exchange.read_beginning = partial(_read_by_requests, response)

    @fail_safe
    def abandon(self) -> None:
        """Leave nothing behind where an exception has interrupted `report`."""
        while self.failed:
            exchange, response = self.failed[0]
            exchange.abandon()
            response.close()  # the caller will not get the response
            del self.failed[0]


class RequestsExchange(Exchange):
    """The exchange of one `HTTPAdapter.send`, with all attempts that urllib3 makes of it.

    Attributes:
        adapter: The adapter that sends the request.
        raw: The request that the adapter got.
        injected: The propagator's headers, which are added to what is sent.
        is_identified: True if the very headers of *raw* have been sent. Others are another's.
        awaited: The object that identifies urllib3's resends of the request, while it waits for one
            (`control_flow.one_send`); else None.
        read_limit: A function that returns the caller's limit for a read, in seconds, or None.
    """

    __slots__ = ("adapter", "awaited", "injected", "is_identified", "raw", "read_limit")

    def __init__(  # noqa: PLR0913, PLR0917 - all of it is of one request
        self,
        recorder: Recorder,
        spans: HttpSpans,
        request: ApiRequest,
        adapter: Any,
        raw: Any,
        app_span: Span | None,
        read_limit: Callable[[], float | None],
    ) -> None:
        reader = RequestsRequestReader(raw)
        super().__init__(recorder, spans, request, reader, is_transient, app_span)
        self.adapter = adapter
        self.raw = raw
        self.injected: dict[str, str] = {}
        self.is_identified = False
        self.awaited: object = None
        self.read_limit = read_limit

    def start_span(self, route: Route) -> None:
        """Start the library's span. `with_headers` adds the propagator's headers."""
        self.own = self._spans.start(route, self._reader)
        if self.own is not None:
            self.injected = self.own.headers

    def answered(self, *told: Any) -> bool:
        """Record the response's headers, as `Exchange` does."""
        if self.awaited is not None:  # a pool of the app's own has sent it
            self.end_wait(is_sent=True)
        return super().answered(*told)

    def end(self, error: BaseException | None) -> None:
        """End the exchange, as `Exchange` does, also while urllib3 waits."""
        if self.awaited is not None:
            self.end_wait(is_sent=False)
        super().end(error)

    @fail_safe
    def end_wait(self, *, is_sent: bool) -> None:
        """Start the attempt that urllib3 has waited for, or leave the one before it as the last."""
        send, self.awaited = self.awaited, None
        if is_sent:
            with control_flow.one_send(send):
                self.start_again()
        elif self.attempt is not None:
            self.refuse()  # its Retry-After is none, or the app has interrupted the wait
            self._recorder.not_followed(self.attempt)

    @fail_safe
    def with_headers(self, pool: Any, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        """Return the arguments of `urlopen` with the propagator's headers in a copy of the headers.

        urllib3 hands its headers on to its own resends, which so have them already. What the app
        sends meanwhile by urllib3 itself gets none.

        Returns:
            The arguments and the keyword arguments. None if it is not this request that is sent.
        """
        is_by_place = len(args) > _HEADERS
        headers = args[_HEADERS] if is_by_place else kwargs.get("headers")
        if not hasattr(headers, "copy"):
            return None
        if headers is self.raw.headers:
            self.is_identified = True
        elif self.is_identified or self._are_told(headers) or not self.sends_through(pool):
            return None  # otherwise the app's own adapter sends something in the request's place
        made = headers.copy()
        made.update(self.injected)
        if is_by_place:
            return (*args[:_HEADERS], made, *args[_HEADERS + 1 :]), kwargs
        return args, {**kwargs, "headers": made}

    def _are_told(self, headers: Any) -> bool:
        """Return True if headers have a trace already: the library's, or another tracer's."""
        own = self.raw.headers
        return any(headers.get(name) not in {None, own.get(name)} for name in self.injected)

    @fail_safe
    def sends_through(self, pool: Any) -> bool:
        """Return True if this is sent through a pool of urllib3's.

        The app may send something else meanwhile by urllib3 itself: in the iterator that is this
        one's body, or in a `Retry` of its own.

        Args:
            pool: The pool that urllib3 names to a `Retry`; None if it names none.
        """
        if pool is None:
            return True
        url = urlsplit(self.raw.url)
        port = url.port or (443 if url.scheme == "https" else 80)
        if (pool.host.strip("[]").lower(), pool.port or port) == (url.hostname, port):
            return True
        # Of a proxy, or of an adapter which sends to another address.
        managers = (self.adapter.poolmanager, *self.adapter.proxy_manager.values())
        for manager in managers:
            with manager.pools.lock:
                if any(one is pool for one in manager.pools._container.values()):  # noqa: SLF001 - its `get` counts as a use
                    return True
        return False


def wrap_urlopen(
    sending: ContextVar[RequestsExchange | None], original: Callable[..., Any]
) -> Callable[..., Any]:
    """Wrap `HTTPConnectionPool.urlopen`: what the exchange of *sending* sends has more headers."""
    call = as_function(original)

    def urlopen(pool: Any, /, *args: Any, **kwargs: Any) -> Any:
        exchange = sending.get()
        if exchange is not None and exchange.awaited is not None and exchange.sends_through(pool):
            exchange.end_wait(is_sent=True)
        if exchange is not None and exchange.injected:
            args, kwargs = exchange.with_headers(pool, args, kwargs) or (args, kwargs)
        return call(pool, *args, **kwargs)

    return urlopen


def beginning_of(response: Any, exchange: RequestsExchange) -> bytes | None:
    """Return a failed answer's body if requests has read it, else its beginning, read ahead."""
    read = _read_by_requests(response)
    return read_ahead(response.raw, exchange) if read is None else read


def _read_by_requests(response: Any) -> bytes | None:
    read = getattr(response, "_content", False)
    return read if isinstance(read, bytes) else None


def read_ahead(raw: Any, exchange: RequestsExchange) -> bytes | None:
    """Return the beginning of an unread body; urllib3 still reads all of it afterwards."""
    if not exchange.may_be_read_ahead() or getattr(raw, "_fp_bytes_read", True):
        return None
    if getattr(raw, "_original_response", None) is None:
        return None
    read_s = exchange.read_limit()
    return peek(raw, time.perf_counter, READ_AHEAD_S if read_s is None else read_s)


def headers_of(response: Any) -> list[tuple[bytes, bytes]]:
    """Return the headers of a response of requests or of urllib3, one pair for each line."""
    how = "latin-1", "replace"  # as urllib3 has decoded them; the app's own adapter may not
    headers = getattr(getattr(response, "raw", response), "headers", None)
    lines = getattr(headers, "iteritems", None)  # urllib3's, each by itself if there are two
    pairs = response.headers.items() if lines is None else lines()
    return [(name.encode(*how), value.encode(*how)) for name, value in pairs]


def read_limit_s(_stream: object = False, timeout: Any = None, *_: Any, **__: Any) -> float | None:  # noqa: FBT002 - as `HTTPAdapter.send`
    """Return the caller's limit for a read, in seconds, from the arguments of the adapter."""
    if isinstance(timeout, tuple):
        timeout = timeout[-1]
    if hasattr(timeout, "_read"):  # urllib3's `Timeout`, whose `read_timeout` needs a running clock
        given = timeout._read, timeout.total  # noqa: SLF001 - as above
        timeout = next((one for one in given if isinstance(one, (int, float))), None)
    return float(timeout) if isinstance(timeout, (int, float)) else None


@fail_safe
def mask_redirect_target(span: Span) -> None:
    """Mask the exception that the app's span records if a redirect's target is not reached."""
    # If the redirect's target cannot be reached, this span records the exception, which quotes the
    # URL. The hook masks it then, and is removed when the span ends.
    foreign_span.on_recorded_exception(
        span, lambda _: foreign_span.before_end(span, foreign_span.mask_status)
    )
    foreign_span.before_end(span, lambda _: None)


@fail_safe
def find_app_span(raw: Any) -> Span | None:
    """Return the app's HTTP span around a request, or None."""
    host = urlsplit(raw.url).hostname or ""
    return foreign_span.find_app_span(SCOPE, raw.method, host, raw.url, is_inside=True)


def is_export(raw: Any) -> bool:
    """Return True if the app's exporter sends a request to a collector on a watched host."""
    # Source: the OTLP exporters.
    return str(raw.headers.get("user-agent")).startswith("OTel-OTLP-Exporter-Python")
