"""requests: whatever goes through its `HTTPAdapter`, and what urllib3's `Retry` sends again in it.

An attempt starts and is answered in `HTTPAdapter.send`. What the app finds on a response
(`elapsed`, and the body unless it has asked for a stream) is there only as `Session.send` returns.
So a failed attempt is reported then: nothing is read ahead that requests reads by itself. The HTTP
span of OpenTelemetry's instrumentation is around `Session.send`. The library's own is around the
send of the adapter, once a hop of a redirect.
"""

from __future__ import annotations

import sys
import time
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from weakref import ref as weakref

from assisters_otel.attempts import control_flow
from assisters_otel.causes import OF_FILES
from assisters_otel.clients.adapter import Adapter
from assisters_otel.clients.classes import is_a
from assisters_otel.clients.exchange import Exchange
from assisters_otel.clients.patching import Target, unbound
from assisters_otel.clients.requests.outgoing import Outgoing
from assisters_otel.clients.requests.read_ahead import READ_AHEAD_S, beginning
from assisters_otel.clients.requests.request_reader import _Message
from assisters_otel.clients.requests.urllib3_response import watch
from assisters_otel.fail_safe import fail_safe
from assisters_otel.sinks import attempt_span, foreign_span

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import Span, TracerProvider

    from assisters_otel.api.request import ApiRequest
    from assisters_otel.clients.http_span import HttpSpans, OwnSpan
    from assisters_otel.recording.recorder import Observer
    from assisters_otel.recording.response_body import Body

MODULE: Final = "requests"
SCOPE: Final = "opentelemetry.instrumentation.requests"
"""The HTTP instrumentation's module, which is the scope of its spans."""

_HTTPS: Final = 443
_VERSIONS: Final = {10: "1.0", 11: "1.1", 20: "2", 30: "3"}
"""As urllib3 counts them, and as the conventions write them."""

# Source: `Response.iter_content` of requests.
_SAYS: Final = {
    "ProtocolError": "ChunkedEncodingError",
    "IncompleteRead": "ChunkedEncodingError",
    "InvalidChunkLength": "ChunkedEncodingError",
    "ReadTimeoutError": "ConnectionError",
    "SSLError": "SSLError",
}


class _SessionSend:
    """One `Session.send` under way.

    Attributes:
        outer: The one that this was called in, by a hook of the app's or for a redirect; or None.
        failed: The failed attempts which are reported as it returns, with their responses.
    """

    __slots__ = ("failed", "outer")

    def __init__(self, outer: _SessionSend | None) -> None:
        self.outer = outer
        self.failed: list[tuple[Exchange, Any]] = []

    def with_failed(self) -> list[_SessionSend]:
        """Return those of this and of the outer ones that have failed attempts to report."""
        found, one = [], self if self.failed or self.outer is not None else None
        while one is not None:
            if one.failed:
                found.append(one)
            one = one.outer
        return found

    def report(self) -> None:
        """Report what has failed."""
        while self.failed:
            exchange, response = self.failed.pop(0)
            try:
                exchange.end(None)
            except BaseException:  # what is not the library's, met while reading ahead
                response.close()  # the caller will not get it
                raise


class _Exchange(Exchange):
    """An exchange of an adapter's, with the attempts that urllib3 makes of it.

    Attributes:
        raw: What the adapter was given.
        outgoing: What is sent in its place, with the propagator's headers; or None.
        read_limit: Returns the caller's own limit for a read, in seconds, or None.
    """

    __slots__ = ("outgoing", "raw", "read_limit")

    def __init__(  # noqa: PLR0913, PLR0917 - all of it is of one request
        self,
        observer: Observer,
        spans: HttpSpans,
        request: ApiRequest,
        raw: Any,
        app_span: Span | None,
        own: OwnSpan | None,
        read_limit: Callable[[], float | None],
    ) -> None:
        reader = _Message(raw)
        super().__init__(observer, spans, request, reader, _is_transient, app_span, own)
        self.raw = raw
        self.outgoing = None if own is None else Outgoing.of(raw, own.headers)
        self.read_limit = read_limit


class Requests(Adapter):
    """The adapter."""

    scope = SCOPE
    instrumentation = "requests"
    variable = "REQUESTS"
    instrumentor = "RequestsInstrumentor"
    suppresses_others = True  # it sends through urllib3
    has_user_agent = True

    def __init__(self, observer: Observer, tracer_provider: TracerProvider | None) -> None:
        """Prepare, as `Adapter` does."""
        super().__init__(MODULE, observer, tracer_provider)
        self._exchange: ContextVar[_Exchange | None] = ContextVar(
            "assisters_otel-requests", default=None
        )
        self._sending: ContextVar[_SessionSend | None] = ContextVar(
            "assisters_otel-session", default=None
        )

    def targets(self) -> tuple[Target, ...]:
        """Return what to wrap."""
        return (
            Target(MODULE, "Session.send", self._wrap_session),
            Target(MODULE, "adapters.HTTPAdapter.send", self._wrap),
            Target(MODULE, "adapters.Retry.increment", self._wrap_increment),
        )

    # -- one request ------------------------------------------------------------------------

    def _wrap_session(self, original: Callable[..., Any]) -> Callable[..., Any]:
        call = unbound(original)
        sending = self._sending

        def send(session: Any, *args: Any, **kwargs: Any) -> Any:
            one = _SessionSend(sending.get())
            token = sending.set(one)
            try:
                return call(session, *args, **kwargs)
            finally:
                sending.reset(token)
                if one.failed:
                    one.report()

        return send

    def _wrap(self, original: Callable[..., Any]) -> Callable[..., Any]:
        call = unbound(original)

        def send(adapter: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
            exchange = self._open(request, partial(_read_limit, *args, **kwargs))
            if exchange is None:
                return call(adapter, request, *args, **kwargs)
            outgoing = exchange.outgoing
            sent = request if outgoing is None else outgoing.copy
            self._start(exchange)
            token = self._exchange.set(exchange)
            try:
                response = call(adapter, sent, *args, **kwargs)
            except BaseException as error:
                if outgoing is not None:
                    outgoing.hand_back(error)
                exchange.end(error)
                raise
            finally:
                self._exchange.reset(token)
            if outgoing is not None:
                outgoing.hand_back(response)
            try:
                if self._is_reported_later(exchange, response):
                    exchange.leave()
                else:
                    exchange.end(None)
            except BaseException:  # what is not the library's, met while reading ahead
                response.close()  # the caller will not get it
                raise
            return response

        return send

    @fail_safe
    def _open(self, raw: Any, read_limit: Callable[[], float | None]) -> _Exchange | None:
        """Return the exchange of a request that is watched, or None."""
        request = self._request(raw)
        if request is None:
            return None
        app_span, own = _find_app_span(raw), None
        # The app's instrumentation is around `Session.send`: it does not see a call of an adapter.
        is_theirs = self.theirs_is_on() and self._sending.get() is not None
        if app_span is None and not is_theirs:
            port = request.port or _HTTPS
            own = self._spans.start(request, raw.url, port, _Message(raw))
        return _Exchange(self._observer, self._spans, request, raw, app_span, own, read_limit)

    @fail_safe
    def _start(self, exchange: _Exchange) -> None:
        sending = self._sending.get()
        failed = [] if sending is None else sending.with_failed()
        if not failed:
            exchange.start()
            return
        # A hook of the app's sends again, as an auth handler does: what was before has failed.
        with control_flow.one_send():
            for one in failed:
                one.report()
            exchange.start()

    @fail_safe
    def _is_reported_later(self, exchange: _Exchange, response: Any) -> bool:
        """Take an answer's headers; return True if it has failed, and its session reports it."""
        span = exchange.app_span
        if span is not None and response.is_redirect:
            _mask_what_follows(span)
        version = _VERSIONS.get(getattr(response.raw, "version", 0))
        headers = _headers_of(response)
        if not exchange.answered(response, response.status_code, version, headers):
            self._watch(exchange, response)
            return False
        exchange.read_beginning = partial(_beginning, response, exchange)
        one = self._sending.get()
        if one is None:  # the app's own call of an adapter
            return False
        one.failed.append((exchange, response))
        return True

    def _watch(self, exchange: Exchange, response: Any) -> None:
        body = exchange.body(response)
        if body is not None:
            watch(response.raw, body, partial(self._broke, body, weakref(response)))

    @fail_safe
    def _broke(self, body: Body, response: Callable[[], object], error: BaseException) -> None:
        # In the words that requests finds for it.
        kind = _SAYS.get(type(error).__name__)
        errors = sys.modules[MODULE].exceptions
        body.broke(error if kind is None else getattr(errors, kind)(error))
        self._observer.raised_for(response(), error)

    # -- what urllib3 sends again ---------------------------------------------------------------

    def _wrap_increment(self, original: Callable[..., Any]) -> Callable[..., Any]:
        call = unbound(original)

        def increment(retry: Any, *args: Any, **kwargs: Any) -> Any:
            exchange = self._exchange.get()
            if exchange is None:
                return call(retry, *args, **kwargs)
            told = dict(zip(("method", "url", "response", "error"), args, strict=False)) | kwargs
            response, error = told.get("response"), told.get("error")
            try:
                result = call(retry, *args, **kwargs)
            except Exception:
                # The last one. Its error is on its way out; its answer may be the app's.
                if response is not None and retry.raise_on_status:
                    self._hidden(exchange, response, None)
                    exchange.refuse()
                raise
            with control_flow.one_send():
                exchange.expect_another()
                self._hidden(exchange, response, error)
                exchange.start_again()
            return result

        return increment

    @fail_safe
    def _hidden(self, exchange: _Exchange, response: Any, error: Any) -> None:
        """Report an attempt of which urllib3 keeps the answer or the exception to itself."""
        attempt = exchange.attempt
        if attempt is None:
            return
        if response is not None:
            body = None
            if attempt.answered(response.status, _headers_of(response)):
                body = _read_ahead(response, exchange)
            attempt.ended(body)
        elif error is not None:
            attempt.raised(error, transient=True)

    # -- what they have in common -----------------------------------------------------------------

    @fail_safe
    def _request(self, raw: Any) -> ApiRequest | None:
        url = urlsplit(raw.url)
        hosts = self._observer.hosts(url.hostname or "")
        if hosts is None or _is_export(raw):
            return None
        port = url.port or (443 if url.scheme == "https" else 80)
        return self._observer.request(hosts, raw.method, port, (url.path or "/").encode())


@fail_safe
def _find_app_span(raw: Any) -> Span | None:
    host = urlsplit(raw.url).hostname or ""
    return attempt_span.find_app_span(SCOPE, raw.method, host, raw.url, is_inside=True)


@fail_safe
def _mask_what_follows(span: Span) -> None:
    # If the target of the redirect cannot be reached, this span records the exception, which
    # quotes the URL. It is masked then, and as the span ends the hook is taken away again.
    foreign_span.on_recorded_exception(
        span, lambda _: foreign_span.before_end(span, foreign_span.mask_status)
    )
    foreign_span.before_end(span, lambda _: None)


def _is_export(raw: Any) -> bool:
    # Of the app's own exporter, to a collector on a watched host. Source: the OTLP exporters.
    return str(raw.headers.get("user-agent")).startswith("OTel-OTLP-Exporter-Python")


def _headers_of(response: Any) -> list[tuple[bytes, bytes]]:
    how = "latin-1", "replace"  # as urllib3 has decoded them; the app's own adapter may not
    headers = getattr(getattr(response, "raw", response), "headers", None)
    lines = getattr(headers, "iteritems", None)  # urllib3's, each by itself if there are two
    pairs = response.headers.items() if lines is None else lines()
    return [(name.encode(*how), value.encode(*how)) for name, value in pairs]


@fail_safe
def _is_transient(error: BaseException) -> bool:
    # Not a bad URL, scheme or header, and not what the app's own body has raised.
    met = error.args[0] if error.args else None
    # urllib3 says of any OSError that the connection was aborted.
    within = (met, *getattr(met, "args", ()))
    is_transient = is_a(error, (MODULE,), "ConnectionError", "Timeout", "ChunkedEncodingError")
    return is_transient and not any(isinstance(one, OF_FILES) for one in within)


def _read_limit(_stream: object = False, timeout: Any = None, *_: Any, **__: Any) -> float | None:  # noqa: FBT002 - as `HTTPAdapter.send`
    """Read the caller's limit for a read, in seconds, out of what an adapter is called with."""
    if isinstance(timeout, tuple):
        timeout = timeout[-1]
    if hasattr(timeout, "_read"):  # urllib3's own form, whose `read_timeout` needs a running clock
        given = timeout._read, timeout.total  # noqa: SLF001 - as above
        timeout = next((one for one in given if isinstance(one, (int, float))), None)
    return float(timeout) if isinstance(timeout, (int, float)) else None


def _beginning(response: Any, exchange: _Exchange) -> bytes | None:
    """Return what the app has read of a failed answer's body, else what is read ahead of it."""
    read = getattr(response, "_content", False)
    return read if isinstance(read, bytes) else _read_ahead(response.raw, exchange)


def _read_ahead(raw: Any, exchange: _Exchange) -> bytes | None:
    """Read the beginning of an unread body, and put it back."""
    if not exchange.may_be_read_ahead() or getattr(raw, "_fp_bytes_read", True):
        return None
    if getattr(raw, "_original_response", None) is None:
        return None
    read_s = exchange.read_limit()
    return beginning(raw, time.perf_counter, READ_AHEAD_S if read_s is None else read_s)
