"""httpx and httpx2, sync and async: whatever goes through their `HTTPTransport`.

Our layer lies innermost on the transport, so an HTTP span that the app has
switched on is open and current when we get there. Where it has not, we send the
request through a transport of OpenTelemetry's own instrumentation, made for us:
its singleton stays free for the app, and other hosts never see it.
"""

from __future__ import annotations

import importlib
import sys
import time
from functools import partial
from importlib.util import find_spec
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from opentelemetry import baggage, trace

from assisters_otel.causes import is_of_dead_loop
from assisters_otel.clients.adapter import BAGGAGE, Adapter
from assisters_otel.clients.classes import CLIENTS, find_base, is_a
from assisters_otel.clients.httpx.request_reader import _Message
from assisters_otel.clients.httpx.streams import async_replay, replay
from assisters_otel.clients.httpx.watched_streams import async_watched, watched
from assisters_otel.clients.patching import Target, unbound
from assisters_otel.fail_safe import fail_safe, own_errors
from assisters_otel.sinks import attempt_span
from assisters_otel.variables.corrections import corrected

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

    from assisters_otel.api.request import ApiRequest
    from assisters_otel.clients.httpx.streams import Ahead
    from assisters_otel.recording.attempt import Attempt
    from assisters_otel.recording.recorder import Observer

SCOPE: Final = "opentelemetry.instrumentation.httpx"
"""The HTTP instrumentation's module, which is the scope of its spans."""

# With the caller's read timeout switched off: how long reading ahead goes on with a peer that
# drips. One that stalls is waited for, as the caller would wait for it.
_READ_AHEAD_S: Final = 5.0


class _Flavour(NamedTuple):
    """How OpenTelemetry names its parts for one of the two modules."""

    instrumentor: str
    sync_transport: str
    async_transport: str


_FLAVOURS: Final = {
    "httpx": _Flavour(
        "HTTPXClientInstrumentor", "SyncOpenTelemetryTransport", "AsyncOpenTelemetryTransport"
    ),
    "httpx2": _Flavour(
        "HTTPX2ClientInstrumentor",
        "SyncOpenTelemetryTransportHttpx2",
        "AsyncOpenTelemetryTransportHttpx2",
    ),
}
MODULES: Final = tuple(_FLAVOURS)


class _Progress:
    """How far a request has come inside OpenTelemetry's transport."""

    __slots__ = ("error", "response")

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.response: Any = None


class _Inner:
    """What OpenTelemetry's transport takes for the real one: it sends with what it is given."""

    @staticmethod
    def handle_request(raw: Any, send: Any) -> Any:
        return send(raw)

    @staticmethod
    async def handle_async_request(raw: Any, send: Any) -> Any:
        return await send(raw)


class Httpx(Adapter):
    """The adapter for one of the two modules."""

    scope = SCOPE

    def __init__(
        self,
        module: str,
        observer: Observer,
        tracer_provider: TracerProvider | None,
        meter_provider: MeterProvider | None,
    ) -> None:
        """Prepare for ``httpx`` or ``httpx2``, as `Adapter` does."""
        self._flavour = flavour = _FLAVOURS[module]
        super().__init__(module, flavour.instrumentor, observer, tracer_provider, meter_provider)

    def targets(self) -> tuple[Target, ...]:
        """Say what to wrap."""
        return (
            Target(self.module, "HTTPTransport.handle_request", self._wrap),
            Target(self.module, "AsyncHTTPTransport.handle_async_request", self._wrap_async),
        )

    def switch_on(self) -> None:
        """Make OpenTelemetry's transports now, if that imports no client of itself.

        Its module imports both of the two, and `httpx2.alias_httpx` refuses to work once
        httpx is imported. Otherwise they are made for the first request that is watched.
        """
        if all(name in sys.modules or find_spec(name) is None for name in MODULES) and hasattr(
            importlib.import_module(SCOPE), self._flavour.async_transport
        ):
            super().switch_on()

    def is_on(self) -> bool:
        """Say whether spans of ours are made; what makes them comes with this library."""
        return True

    # -- one request ------------------------------------------------------------------------

    def _wrap(self, original: Callable[..., Any]) -> Callable[..., Any]:
        call = unbound(original)

        def handle_request(transport: Any, *args: Any, **kwargs: Any) -> Any:
            request = self._request(args, kwargs)
            if request is None:
                return call(transport, *args, **kwargs)
            raw = args[0] if args else kwargs["request"]
            wrapped = partial(call, transport)
            span = self._span(raw)
            method = "handle_request"
            ours = None if span is not None else self._ours(raw, transport, method)
            if ours is None:
                return self._send(wrapped, request, raw, span)
            progress = _Progress()
            around = trace.get_current_span()

            def send(copy: Any) -> Any:
                _keep_baggage(copy, raw)
                span = self._span(copy)
                try:
                    progress.response = self._send(wrapped, request, copy, span, around, raw)
                except Exception as error:
                    progress.error = error
                    raise
                return progress.response

            try:
                return ours[0].handle_request(_copy(raw), send)
            except Exception as error:
                if error is progress.error:
                    progress.error = None  # its traceback knows this frame
                    raise
                own_errors.record(error)
            if progress.error is not None:
                raise progress.error
            if progress.response is not None:
                return progress.response
            return self._send(wrapped, request, raw, None)

        return handle_request

    def _wrap_async(self, original: Callable[..., Any]) -> Callable[..., Any]:
        call = unbound(original)

        async def handle_async_request(transport: Any, *args: Any, **kwargs: Any) -> Any:
            request = self._request(args, kwargs)
            if request is None:
                return await call(transport, *args, **kwargs)
            raw = args[0] if args else kwargs["request"]
            wrapped = partial(call, transport)
            span = self._span(raw)
            method = "handle_async_request"
            ours = None if span is not None else self._ours(raw, transport, method)
            if ours is None:
                return await self._send_async(wrapped, request, raw, span)
            progress = _Progress()
            around = trace.get_current_span()

            async def send(copy: Any) -> Any:
                _keep_baggage(copy, raw)
                span = self._span(copy)
                try:
                    sent = self._send_async(wrapped, request, copy, span, around, raw)
                    progress.response = await sent
                except Exception as error:
                    progress.error = error
                    raise
                return progress.response

            try:
                return await ours[1].handle_async_request(_copy(raw), send)
            except Exception as error:
                if error is progress.error:
                    progress.error = None  # its traceback knows this frame
                    raise
                own_errors.record(error)
            if progress.error is not None:
                raise progress.error
            if progress.response is not None:
                return progress.response
            return await self._send_async(wrapped, request, raw, None)

        return handle_async_request

    def _send(  # noqa: PLR0913, PLR0917 - all of it is of one request
        self,
        wrapped: Any,
        request: ApiRequest,
        raw: Any,
        span: Span | None,
        around: Span | None = None,
        own: Any = None,
    ) -> Any:
        attempt = self._start(request, raw, span, around)
        if attempt is None:
            return wrapped(raw)
        try:
            response = wrapped(raw)
        except BaseException as error:
            self._raised(attempt, error)
            raise
        if not _answered(attempt, response):
            self._succeeded(attempt, response, watched, own or raw)
            return response
        ahead = self._ahead(response, attempt, replay, raw)
        try:
            if ahead is not None:
                response.stream = ahead
                ahead.read()
        except BaseException:
            response.close()  # as the client does, which has not got it yet
            raise
        finally:
            _failed(attempt, response, ahead)
        return response

    async def _send_async(  # noqa: PLR0913, PLR0917 - all of it is of one request
        self,
        wrapped: Any,
        request: ApiRequest,
        raw: Any,
        span: Span | None,
        around: Span | None = None,
        own: Any = None,
    ) -> Any:
        attempt = self._start(request, raw, span, around)
        if attempt is None:
            return await wrapped(raw)
        try:
            response = await wrapped(raw)
        except BaseException as error:
            self._raised(attempt, error)
            raise
        if not _answered(attempt, response):
            self._succeeded(attempt, response, async_watched, own or raw)
            return response
        ahead = self._ahead(response, attempt, async_replay, raw)
        try:
            if ahead is not None:
                response.stream = ahead
                await ahead.read()
        except BaseException:
            await response.aclose()  # as the client does, which has not got it yet
            raise
        finally:
            _failed(attempt, response, ahead)
        return response

    # -- what the two have in common ----------------------------------------------------------

    @fail_safe
    def _request(self, args: Any, kwargs: Any) -> ApiRequest | None:
        raw = args[0] if args else kwargs["request"]
        url = raw.url
        hosts = self._observer.hosts(url.host)
        if hosts is None:
            return None
        port = url.port or (443 if url.scheme == "https" else 80)
        return self._observer.request(hosts, raw.method, port, url.raw_path)

    @staticmethod
    @fail_safe
    def _span(raw: Any) -> Span | None:
        url = raw.url
        return attempt_span.find_app_span(SCOPE, raw.method, url.raw_host.decode("ascii"), url)

    @fail_safe
    def _ours(self, raw: Any, transport: Any, method: str) -> tuple[Any, Any] | None:
        """Give the transports that make a request's span, or None if the app's would."""
        if self.theirs_is_on() or _is_instrumented(transport, method) or _is_injected(raw):
            return None
        transports: tuple[Any, Any] | None = self._maker
        if transports is None or not isinstance(raw, transports[0]._module.Request):  # noqa: SLF001 - as below
            self._maker = transports = self._make(raw)
        return transports

    @corrected()
    def _make(self, raw: Any = None) -> tuple[Any, Any]:
        """Make OpenTelemetry's transports, the sync one and the async one.

        Args:
            raw: A request of a client that was imported anew; None for the one that OpenTelemetry
                has met.
        """
        otel = importlib.import_module(SCOPE)
        providers = {
            "tracer_provider": self._tracer_provider,
            "meter_provider": self._meter_provider,
        }
        flavour = self._flavour
        transports = (
            getattr(otel, flavour.sync_transport)(_Inner, **providers),
            getattr(otel, flavour.async_transport)(_Inner, **providers),
        )
        if raw is not None and not isinstance(raw, transports[0]._module.Request):  # noqa: SLF001 - it has no other way
            for transport in transports:
                transport._module = _client_of(raw)  # noqa: SLF001 - as above
        return transports

    @staticmethod
    @fail_safe
    def _is_transient(error: BaseException) -> bool:
        # An OSError as such is the app's own body's: httpx maps those of the network.
        if is_a(error, CLIENTS, "TransportError"):
            return not is_a(error, CLIENTS, "UnsupportedProtocol", "LocalProtocolError")
        return is_of_dead_loop(error)

    @fail_safe
    def _start(
        self, request: ApiRequest, raw: Any, span: Span | None, around: Span | None
    ) -> Attempt:
        return self._observer.start(request, _Message(raw), span, around)

    @fail_safe
    def _raised(self, attempt: Attempt, error: BaseException) -> None:
        transient = self._is_transient(error)
        attempt.raised(error, transient=bool(transient))

    @fail_safe
    def _succeeded(
        self, attempt: Attempt, response: Any, watched: Callable[[Any], Any], raw: Any
    ) -> None:
        """Report an answer that is no failure; how its body ends, a stream in it tells."""
        attempt.ended()
        if attempt.is_to_be_watched:
            body = attempt.body(self._is_transient, raw)
            if body is not None:
                kind = watched(self._stream(response, is_async=watched is async_watched))
                response.stream = kind(response.stream, body)

    @fail_safe
    def _ahead(
        self, response: Any, attempt: Attempt, replay: Callable[[Any], type[Ahead]], raw: Any
    ) -> Any:
        """Make a stream that can be read ahead, to be put in the response, if it may be."""
        if not attempt.body_may_be_read() or raw.method == "HEAD":
            return None
        length = attempt.length()
        kind = replay(self._stream(response, is_async=replay is async_replay))
        return kind(response.stream, length, _deadline(raw))

    def _stream(self, response: Any, *, is_async: bool) -> Any:
        """Return the client's class of which a response's stream must be."""
        name = "AsyncByteStream" if is_async else "SyncByteStream"
        return find_base(response.stream, name, None) or getattr(sys.modules[self.module], name)


def _client_of(raw: Any) -> Any:
    """Give what OpenTelemetry's transport asks of a client, of the import that a request is of."""
    kind = find_base(raw, "Request", type(raw))
    return SimpleNamespace(**kind.__init__.__globals__)


def message_of(raw: Any) -> _Message:
    """Return what can be said of a request, of either module."""
    return _Message(raw)


def _is_instrumented(transport: Any, method: str) -> bool:
    # What `instrument_client` leaves on a transport.
    wrapper = getattr(getattr(transport, "__dict__", {}).get(method), "_self_wrapper", None)
    return getattr(getattr(wrapper, "func", None), "__module__", None) == SCOPE


def _is_injected(raw: Any) -> bool:
    # The app has put OpenTelemetry's transport around this one. Its span is sampled out; or it is
    # recorded, and does not tell whose it is. Then the headers may be another tracer's.
    span = trace.get_current_span()
    context = span.get_span_context()
    is_told = span.is_recording() and getattr(span, "instrumentation_scope", None) is not None
    if is_told or not context.is_valid:
        return False
    if trace.format_span_id(context.span_id) not in raw.headers.get("traceparent", ""):
        return False
    return not span.is_recording() or _is_in_theirs()


def _is_in_theirs() -> bool:
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - documented
    while frame is not None and frame.f_globals.get("__name__") != SCOPE:
        frame = frame.f_back
    return frame is not None


def _copy(raw: Any) -> Any:
    """Copy a request, all but its headers as they are.

    The instrumentation adds headers. The app must not find them on its own request: a
    redirect to another host would carry them on.
    """
    copy = object.__new__(type(raw))
    copy.__dict__.update(raw.__dict__)
    # Not by its `copy`, which settles the encoding of the app's own for good.
    copy.headers = type(raw.headers)(raw.headers)
    return copy


@fail_safe
def _keep_baggage(copy: Any, raw: Any) -> None:
    """Take the app's baggage out of the headers that are about to be sent."""
    if not baggage.get_all():
        return
    headers = copy.headers
    for name in [name for name in headers if name.startswith(BAGGAGE)]:
        if name in raw.headers:
            headers[name] = raw.headers[name]
        else:
            del headers[name]


@fail_safe
def _answered(attempt: Attempt, response: Any) -> bool:
    return attempt.answered(response.status_code, response.headers.raw)


@fail_safe
def _failed(attempt: Attempt, response: Any, ahead: Ahead | None) -> None:
    attempt.ended(None if ahead is None else b"".join(ahead.parts))
    attempt.is_what_became_of(response)


def _deadline(raw: Any) -> float:
    timeout = raw.extensions.get("timeout") or {}
    read_s = timeout.get("read")
    return time.perf_counter() + (_READ_AHEAD_S if read_s is None else read_s)
