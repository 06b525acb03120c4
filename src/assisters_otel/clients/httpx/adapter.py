"""httpx and httpx2, sync and async: each request that goes through their `HTTPTransport`.

The library's function is innermost on the transport. So the span of the app's HTTP instrumentation
is open and current in it, in whatever order the two were switched on. Without such a span the
exchange has one of the library's. It stands below httpx's redirects and auth flows, and each of
their requests is an attempt.

A successful answer gets a stream that watches it. A failed one gets a stream that has read the
beginning of the body, and replays it. Its class is a subclass of the client's own stream class.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace

from assisters_otel.api.headers import CONTENT_LENGTH, header_integer, may_be_read_ahead
from assisters_otel.causes import is_of_connection, is_of_dead_loop
from assisters_otel.clients.adapter import ClientAdapter
from assisters_otel.clients.classes import CLIENTS, find_base, is_a
from assisters_otel.clients.exchange import Exchange
from assisters_otel.clients.httpx.request_reader import HttpxRequestReader, lower_headers, route_key
from assisters_otel.clients.httpx.streams import async_stream_class, sync_stream_class
from assisters_otel.clients.patching import Target, as_function
from assisters_otel.fail_safe import fail_safe
from assisters_otel.sinks import foreign_span

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from types import FrameType

    from opentelemetry.trace import Span, TracerProvider

    from assisters_otel.clients.http_variables import HttpVariables
    from assisters_otel.clients.httpx.streams import Stream
    from assisters_otel.clients.routes import Route
    from assisters_otel.hosts import Host
    from assisters_otel.recording.recorder import Recorder
    from assisters_otel.recording.response_body import ResponseBody

SCOPE: Final = "opentelemetry.instrumentation.httpx"
"""The HTTP instrumentation's module, which is the scope of its spans."""

# The limit of reading ahead in seconds, with a peer that sends slowly, if the caller has no read
# timeout. A peer that stalls is waited for, as the caller would wait for it.
_READ_AHEAD_S: Final = 5.0

INSTRUMENTORS: Final = {
    "httpx": "HTTPXClientInstrumentor",
    "httpx2": "HTTPX2ClientInstrumentor",
}
"""The class of the HTTP instrumentation that an app switches on, for each of the two modules."""

MODULES: Final = tuple(INSTRUMENTORS)


class _Exchange(Exchange):
    """An exchange of httpx or httpx2.

    Attributes:
        raw: The app's request.
        outgoing: The request that is sent: *raw*, or a copy with the propagator's headers.
    """

    __slots__ = ("outgoing", "raw")

    raw: Any
    outgoing: Any


class HttpxAdapter(ClientAdapter):
    """The adapter for one of the two modules."""

    scope = SCOPE

    def __init__(
        self,
        module: str,
        recorder: Recorder,
        tracer_provider: TracerProvider | None,
        variables: HttpVariables,
    ) -> None:
        """Prepare for ``httpx`` or ``httpx2``, as `ClientAdapter` does."""
        self.instrumentation, self.instrumentor = module, INSTRUMENTORS[module]
        super().__init__(module, recorder, tracer_provider, variables)

    def targets(self) -> tuple[Target, ...]:
        """Return the methods to wrap."""
        return (
            Target(self.module, "HTTPTransport.handle_request", self._wrap),
            Target(self.module, "AsyncHTTPTransport.handle_async_request", self._wrap_async),
        )

    def _wrap(self, original: Callable[..., Any]) -> Callable[..., Any]:
        call = as_function(original)

        def handle_request(transport: Any, /, *args: Any, **kwargs: Any) -> Any:
            exchange = self._open(transport, "handle_request", args, kwargs)
            if exchange is None:
                return call(transport, *args, **kwargs)
            response = None
            try:
                kwargs.pop("request", None)
                with exchange:
                    response = call(transport, exchange.outgoing, *args[1:], **kwargs)
                    stream = self._answered(exchange, response, sync_stream_class, "SyncByteStream")
                    if stream is not None:
                        stream.read_ahead()
            except BaseException:
                exchange.abandon()
                if response is not None:
                    response.close()  # the caller will not get the response
                raise
            return response

        return handle_request

    def _wrap_async(self, original: Callable[..., Any]) -> Callable[..., Any]:
        call = as_function(original)

        async def handle_async_request(transport: Any, /, *args: Any, **kwargs: Any) -> Any:
            exchange = self._open(transport, "handle_async_request", args, kwargs)
            if exchange is None:
                return await call(transport, *args, **kwargs)
            response = None
            try:
                kwargs.pop("request", None)
                with exchange:
                    response = await call(transport, exchange.outgoing, *args[1:], **kwargs)
                    stream = self._answered(
                        exchange, response, async_stream_class, "AsyncByteStream"
                    )
                    if stream is not None:
                        await stream.read_ahead()
            except BaseException:
                exchange.abandon()
                if response is not None:
                    await response.aclose()  # the caller will not get the response
                raise
            return response

        return handle_async_request

    @fail_safe
    def _open(self, transport: Any, method: str, args: Any, kwargs: Any) -> _Exchange | None:
        """Return the exchange of a request that is watched, or None."""
        raw = args[0] if args else kwargs["request"]
        url = raw.url
        hosts = self._recorder.watched.by_name.get(url.host)
        if hosts is None:
            return None
        key = route_key(raw.method, url)
        route = self._routes.find(key, hosts)
        if route is None:
            route = self._new_route(key, hosts, raw.method, url)
        elif not self._recorder.watched.may_record():
            return None
        if route is None:
            return None
        current, app_span = trace.get_current_span(), None
        if current.is_recording():
            app_span = _find_app_span(raw, route, current)
        exchange = _Exchange(
            self._recorder,
            self._spans,
            route.request,
            reader := HttpxRequestReader(raw),
            self._is_transient,
            app_span,
        )
        exchange.raw = exchange.outgoing = raw
        if app_span is None and not self._app_makes_spans(raw, transport, method, current):
            try:
                exchange.own = own = self._spans.start(route, reader, current)
                if own is not None and own.headers:
                    exchange.outgoing = reader.copy_with(own.headers)
            except BaseException:
                exchange.abandon()
                raise
        return exchange

    def _new_route(
        self, key: Hashable, hosts: tuple[Host, ...], method: str, url: Any
    ) -> Route | None:
        port = url.port or (443 if url.scheme == "https" else 80)
        request = self._recorder.watched.request(hosts, method, port, url.raw_path)
        if request is None:
            return None
        return self._make_route(key, hosts, request, str(url), port)

    @fail_safe
    def _app_makes_spans(self, raw: Any, transport: Any, method: str, current: Span) -> bool:
        """Return True if the app's HTTP instrumentation covers a request without a readable span.

        It has sampled the span out, or excludes the URL.
        """
        return (
            self.app_instrumentation_is_on()
            or _has_app_layer(transport, method)
            or _is_injected(raw, current)
        )

    @fail_safe
    def _answered(
        self,
        exchange: _Exchange,
        response: Any,
        class_for: Callable[[Any], type[Stream]],
        base: str,
    ) -> Any:
        """Record an answer's headers.

        Returns:
            The stream to be read ahead, which is set in the response; None if none is read.
        """
        version = response.http_version.removeprefix("HTTP/")
        headers = lower_headers(response.headers)
        if not exchange.answered(response, response.status_code, version, headers):
            exchange.watch_body(exchange.raw, self._set_stream, response, class_for, base)
            return None
        known = {} if exchange.attempt is None else exchange.attempt.headers
        if not may_be_read_ahead(known) or exchange.raw.method == "HEAD":
            return None
        kind, deadline = class_for(self._base(response, base)), _read_deadline(exchange.raw)
        length = header_integer(known.get(CONTENT_LENGTH))
        response.stream = stream = kind(response.stream, None, length, deadline)
        exchange.read_beginning = stream.beginning
        return stream

    def _set_stream(
        self, response: Any, class_for: Callable[[Any], type[Stream]], base: str, body: ResponseBody
    ) -> None:
        response.stream = class_for(self._base(response, base))(response.stream, body)

    @staticmethod
    @fail_safe
    def _is_transient(error: BaseException) -> bool:
        # httpx maps an OSError of the network to its own classes, but anyio's of TLS. Any other is
        # of the app's body.
        if is_of_connection(error) or is_a(error, ("ssl",), "SSLError"):
            return True
        if is_a(error, CLIENTS, "TransportError"):
            return not is_a(error, CLIENTS, "UnsupportedProtocol", "LocalProtocolError")
        return is_of_dead_loop(error)

    def _base(self, response: Any, name: str) -> Any:
        """Return the client's class *name*, which a response's stream must be an instance of."""
        return find_base(response.stream.__class__, name) or getattr(sys.modules[self.module], name)


@fail_safe
def _find_app_span(raw: Any, route: Route, current: Span) -> Span | None:
    if foreign_span.scope_of(current) != SCOPE:  # as that of a call
        return None
    host = raw.url.raw_host.decode("ascii")
    return foreign_span.find_app_span(SCOPE, raw.method, host, route.url)


def _has_app_layer(transport: Any, method: str) -> bool:
    # OpenTelemetry's `instrument_client` leaves a wrapper of wrapt on the transport itself.
    own = getattr(transport, "__dict__", {}).get(method)
    if own is None:
        return False
    wrapper = getattr(own, "_self_wrapper", None)
    return getattr(getattr(wrapper, "func", None), "__module__", None) == SCOPE


def _is_injected(raw: Any, span: Span) -> bool:
    # The app has put OpenTelemetry's transport around this one, and its span is sampled out. Or the
    # span is recorded, but has no scope: then the headers may be another tracer's.
    if span is trace.INVALID_SPAN:  # none is current
        return False
    if span.is_recording() and getattr(span, "instrumentation_scope", None) is not None:
        return False
    context = span.get_span_context()
    if not context.is_valid:
        return False
    if trace.format_span_id(context.span_id) not in raw.headers.get("traceparent", ""):
        return False
    return not span.is_recording() or _is_in_theirs()


def _is_in_theirs() -> bool:
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - documented
    while frame is not None and frame.f_globals.get("__name__") != SCOPE:
        frame = frame.f_back
    return frame is not None


def _read_deadline(raw: Any) -> float:
    timeout = raw.extensions.get("timeout") or {}
    read_s = timeout.get("read")
    return time.perf_counter() + (_READ_AHEAD_S if read_s is None else read_s)
