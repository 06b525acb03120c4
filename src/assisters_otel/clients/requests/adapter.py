"""requests: whatever goes through its `HTTPAdapter`, and what urllib3's `Retry` sends again in it.

Our layer is on the adapter, below the app's sessions. The HTTP span is one level higher, around
`Session.send`, where OpenTelemetry's instrumentation puts it; where the app has not switched
that on, a router of ours sends what is watched, and only that, through the same function.
"""

from __future__ import annotations

import importlib
import sys
import time
from contextvars import ContextVar
from functools import partial
from threading import RLock
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit
from weakref import ref as weakref

from opentelemetry import context, trace

from assisters_otel.attempts import control_flow
from assisters_otel.causes import OF_FILES
from assisters_otel.clients.adapter import Adapter
from assisters_otel.clients.classes import is_a
from assisters_otel.clients.patching import Patches, Target, unbound
from assisters_otel.clients.requests.read_ahead import READ_AHEAD_S, beginning
from assisters_otel.clients.requests.request_copy import Routed, routed_as
from assisters_otel.clients.requests.request_reader import _Message
from assisters_otel.clients.requests.urllib3_response import watch
from assisters_otel.fail_safe import fail_safe
from assisters_otel.otel_api import http_spans
from assisters_otel.sinks import attempt_span, foreign_span
from assisters_otel.variables.corrections import corrected
from assisters_otel.weak_identity import WeakIdentityDict

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

    from assisters_otel.api.request import ApiRequest
    from assisters_otel.clients.requests.request_copy import Wire
    from assisters_otel.recording.attempt import Attempt
    from assisters_otel.recording.recorder import Observer
    from assisters_otel.recording.response_body import Body

MODULE: Final = "requests"
SCOPE: Final = "opentelemetry.instrumentation.requests"
"""The HTTP instrumentation's module, which is the scope of its spans."""

# Source: `Response.iter_content` of requests.
_SAYS: Final = {
    "ProtocolError": "ChunkedEncodingError",
    "IncompleteRead": "ChunkedEncodingError",
    "InvalidChunkLength": "ChunkedEncodingError",
    "ReadTimeoutError": "ConnectionError",
    "SSLError": "SSLError",
}


class _Sent(NamedTuple):
    """What the adapter was given, for the attempts that urllib3 makes of it.

    Attributes:
        request: What is sent.
        raw: The client's own form of it.
        span: The HTTP span around all of them, or None.
        read_limit: Gives the caller's own limit for a read, in seconds, or None.
        attempts: Of them the last one is on its way; empty once that has been reported.
        refused: The last one, reported, where urllib3 raises in place of its answer.
    """

    request: ApiRequest
    raw: Any
    span: Span | None
    read_limit: Callable[[], float | None]
    attempts: list[Attempt]
    refused: list[Attempt]


class Requests(Adapter):
    """The adapter."""

    scope = SCOPE

    def __init__(
        self,
        observer: Observer,
        tracer_provider: TracerProvider | None,
        meter_provider: MeterProvider | None,
    ) -> None:
        """Prepare, as `Adapter` does."""
        super().__init__(MODULE, "RequestsInstrumentor", observer, tracer_provider, meter_provider)
        self._sent: ContextVar[_Sent | None] = ContextVar("assisters_otel-requests", default=None)
        self._routed: ContextVar[Routed | None] = ContextVar("assisters_otel-routed", default=None)
        self._pending: WeakIdentityDict[Callable[[], object]] = WeakIdentityDict()
        self._sender: Any = None
        self._lock = RLock()  # a signal handler may send a request meanwhile

    def targets(self) -> tuple[Target, ...]:
        """Say what to wrap."""
        return (
            Target(MODULE, "adapters.HTTPAdapter.send", self._wrap),
            Target(MODULE, "adapters.Retry.increment", self._wrap_increment),
        )

    # -- the HTTP span ------------------------------------------------------------------------

    def switch_on(self) -> None:
        """Put the router in, and make what it sends with unless that is just being imported."""
        if self._maker is not None:
            return
        spec = self._find()
        if spec is None:
            return
        self._maker = self._make()
        if not getattr(spec, "_initializing", False):
            self._instrumented()

    def record_in(self, meter_provider: MeterProvider) -> None:
        """Make the HTTP metrics in another provider; the router stays, whoever is around it."""
        self._meter_provider = meter_provider
        self._sender = None

    def forked(self) -> None:
        """Take a new lock, in a forked child: a thread that is not there may hold the other."""
        self._lock = RLock()

    def _make(self) -> Patches:
        """Put the router in, as all else is: below other people's layers, and once."""
        targets = (Target(MODULE, "Session.send", self._route),)
        router = Patches(targets, lambda _: None)
        router.put_in()
        return router

    def _unmake(self, maker: Patches) -> None:
        """Take the router out; inside somebody else's function it stays, and passes on."""
        maker.take_out()
        self._sender = None

    @fail_safe
    def _instrumented(self) -> Any:
        """Give OpenTelemetry's `Session.send`, made once, around the one that was there."""
        sender = self._sender
        if sender is not None:
            return sender
        with self._lock, corrected():
            if self._sender is None:
                otel: Any = importlib.import_module(SCOPE)
                # Its instrumentors are singletons; one of our own leaves theirs to the app. And
                # it writes into the class that its module knows: sessions are in use meanwhile.
                # Of it no more than a function: what binds would not know a session by it.
                own = type("_Instrumentor", (otel.RequestsInstrumentor,), {"_instance": None})()
                session, stand_in = otel.Session, type("Session", (), {"send": self._original})
                otel.Session = stand_in
                try:
                    own.instrument(
                        skip_dep_check=True,
                        tracer_provider=self._tracer_provider,
                        meter_provider=self._meter_provider,
                    )
                finally:
                    otel.Session = session
                self._sender = vars(stand_in)["send"]
            return self._sender

    def _route(self, original: Any) -> Any:
        plain = unbound(original)

        def send(session: Any, request: Any, **kwargs: Any) -> Any:
            if not self._is_routed(session, request):
                return plain(session, request, **kwargs)
            instrumented = self._instrumented()
            if instrumented is None:
                return plain(session, request, **kwargs)
            # OpenTelemetry adds headers to a request. Of the app's own, an adapter that answers
            # by itself would show them, and a redirect carry them on.
            routed = _routed(request, plain)
            if routed is None:
                return plain(session, request, **kwargs)
            return instrumented(session, routed.copy, **kwargs)

        return send

    def _original(self, session: Any, copy: Any, **kwargs: Any) -> Any:
        """Send the app's own request in place of the copy that has got the headers."""
        routed = routed_as(copy)
        routed.take_injected()
        token = self._routed.set(routed)
        try:
            return routed.plain(session, routed.request, **kwargs)
        finally:
            self._routed.reset(token)

    # -- one request ------------------------------------------------------------------------

    def _wrap(self, original: Callable[..., Any]) -> Callable[..., Any]:
        call = unbound(original)

        def send(adapter: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
            asked = self._request(request)
            if asked is None:
                return call(adapter, request, *args, **kwargs)
            span = self._span(request)
            if span is None:
                self._without_span()
            wire = self._wire(request)
            sending = request if wire is None else wire.sent
            sent = _Sent(asked, sending, span, partial(_read_limit, *args, **kwargs), [], [])
            self._begin(sent)
            token = self._sent.set(sent)
            try:
                response = call(adapter, sending, *args, **kwargs)
            except BaseException as error:
                if wire is not None:
                    wire.hand_back(error)
                self._raised(sent, error)
                raise
            finally:
                self._sent.reset(token)
            if wire is not None:
                wire.hand_back(response)
            try:
                self._answered(sent, response)
            except BaseException:
                response.close()  # the caller has not got it
                raise
            return response

        return send

    @fail_safe
    def _wire(self, request: Any) -> Wire | None:
        routed = self._routed.get()
        return None if routed is None else routed.wire(request)

    @fail_safe
    def _raised(self, sent: _Sent, error: BaseException) -> None:
        for attempt in sent.attempts:
            transient = _is_transient(error)
            attempt.raised(error, transient=bool(transient))
        for attempt in sent.refused:
            attempt.is_what_became_of(error)

    @fail_safe
    def _without_span(self) -> None:
        self.switch_on_again()  # for the next one
        self.tell_of_no_span()

    @fail_safe
    def _begin(self, sent: _Sent) -> None:
        if sent.span is not None:
            # An auth handler sends again inside one span: what was before has failed.
            pending = self._pending.get(sent.span)
            if pending is not None:
                with control_flow.one_send():
                    pending()
                    self._start(sent)
                return
        self._start(sent)

    def _start(self, sent: _Sent) -> None:
        routed = self._routed.get()
        around = None if routed is None else routed.around
        attempt = self._observer.start(sent.request, _Message(sent.raw), sent.span, around)
        sent.attempts[:] = [attempt]

    @fail_safe
    def _answered(self, sent: _Sent, response: Any) -> None:
        headers, span = _headers_of(response), sent.span
        if span is not None and response.is_redirect:
            self._mask_what_follows(span)
        for attempt in sent.attempts:
            if not attempt.answered(response.status_code, headers):
                attempt.ended()
                if attempt.is_to_be_watched:
                    self._watch(attempt, response)
            elif sent.span is None:
                attempt.ended(_beginning(response.raw, attempt, sent.read_limit()))
                attempt.is_what_became_of(response)
            else:
                self._put_off(sent.span, attempt, response, sent.read_limit())

    @fail_safe
    def _mask_what_follows(self, span: Span) -> None:
        # Wherever it leads, what cannot be sent there is told to this span, URL and all.
        foreign_span.on_recorded_exception(
            span, lambda _: foreign_span.before_end(span, foreign_span.mask_status)
        )
        foreign_span.before_end(
            span, lambda _: None
        )  # which takes that away again at the span's end

    def _watch(self, attempt: Attempt, response: Any) -> None:
        body = attempt.body(_is_transient, response)
        if body is None:
            return
        watch(response.raw, body, partial(self._broke, body, weakref(response)))

    @fail_safe
    def _broke(self, body: Body, response: Callable[[], object], error: BaseException) -> None:
        # In the words that requests finds for it.
        kind = _SAYS.get(type(error).__name__)
        errors = sys.modules[MODULE].exceptions
        body.broke(error if kind is None else getattr(errors, kind)(error))
        self._observer.raised_for(response(), error)

    def _put_off(self, span: Span, attempt: Attempt, response: Any, read_s: float | None) -> None:
        """Report a failed answer when its span ends: `elapsed` and the app's reading come first."""

        def ended(_: object = None) -> None:
            try:
                self._ended(span, attempt, response, read_s)
            except BaseException:
                response.close()
                raise

        if self._pending.put(span, ended):
            foreign_span.before_end(span, ended)
        else:
            ended()

    @fail_safe
    def _ended(self, span: Span, attempt: Attempt, response: Any, read_s: float | None) -> None:
        if self._pending.pop(span) is None:
            return
        token = context.attach(trace.set_span_in_context(http_spans.made(span)))
        try:
            read = getattr(response, "_content", False)
            if isinstance(read, bytes):
                attempt.ended(read)
            else:
                attempt.ended(_beginning(response.raw, attempt, read_s))
            attempt.is_what_became_of(response)
        finally:
            context.detach(token)

    # -- what urllib3 sends again ---------------------------------------------------------------

    def _wrap_increment(self, original: Callable[..., Any]) -> Callable[..., Any]:
        call = unbound(original)

        def increment(retry: Any, *args: Any, **kwargs: Any) -> Any:
            sent = self._sent.get()
            if sent is None:
                return call(retry, *args, **kwargs)
            told = dict(zip(("method", "url", "response", "error"), args, strict=False)) | kwargs
            response, error = told.get("response"), told.get("error")
            try:
                result = call(retry, *args, **kwargs)
            except Exception:
                # The last one. Its error is on its way out; its answer may be the app's.
                if response is not None and retry.raise_on_status:
                    self._hidden(sent, response, None)
                    sent.refused[:] = sent.attempts
                    sent.attempts.clear()
                raise
            with control_flow.one_send():
                self._hidden(sent, response, error)
                self._begin(sent)
            return result

        return increment

    @fail_safe
    def _hidden(self, sent: _Sent, response: Any, error: Any) -> None:
        for attempt in sent.attempts:
            if response is not None:
                body = None
                if attempt.answered(response.status, _headers_of(response)):
                    read_s = sent.read_limit()
                    body = _beginning(response, attempt, read_s)
                attempt.ended(body)
            elif error is not None:
                attempt.raised(error, transient=True)

    # -- what they have in common -----------------------------------------------------------------

    @fail_safe
    def _is_routed(self, session: Any, raw: Any) -> bool:
        """Say whether a request goes through a span of ours."""
        if not self.is_on():
            return False
        return self._prepared(session, raw) is not None and not self.theirs_is_on()

    def _prepared(self, session: Any, raw: Any) -> ApiRequest | None:
        # What is not prepared is refused by the session, in its own words; headers of another
        # kind cannot be copied; and an adapter of the app's own would send what we add.
        if not is_a(raw, (MODULE,), "PreparedRequest") or not hasattr(raw.headers, "copy"):
            return None
        url = raw.url.lower()
        for prefix, adapter in session.adapters.items():  # as the session looks it up
            if url.startswith(prefix.lower()):
                return self._request(raw) if is_a(adapter, (MODULE,), "HTTPAdapter") else None
        return None

    @fail_safe
    def _request(self, raw: Any) -> ApiRequest | None:
        url = urlsplit(raw.url)
        hosts = self._observer.hosts(url.hostname or "")
        if hosts is None or _is_export(raw):
            return None
        port = url.port or (443 if url.scheme == "https" else 80)
        return self._observer.request(hosts, raw.method, port, (url.path or "/").encode())

    @staticmethod
    @fail_safe
    def _span(raw: Any) -> Span | None:
        host = urlsplit(raw.url).hostname or ""
        return attempt_span.find_app_span(SCOPE, raw.method, host, raw.url, is_inside=True)


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


@fail_safe
def _routed(request: Any, plain: Callable[..., Any]) -> Routed:
    return Routed(request, plain)


def _beginning(raw: Any, attempt: Attempt, read_s: float | None) -> bytes | None:
    """Read the beginning of an unread body, and put it back."""
    if not attempt.body_may_be_read() or getattr(raw, "_fp_bytes_read", True):
        return None
    if getattr(raw, "_original_response", None) is None:
        return None
    return beginning(raw, time.perf_counter, READ_AHEAD_S if read_s is None else read_s)
