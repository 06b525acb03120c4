"""Records the calls of SDKs.

An adapter of an SDK starts a `Call` here. The call itself decides when it ends, and reports that to
the `CallRecorder`, once. Between the two, the recorder assigns attempts to it.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from opentelemetry import trace

from assisters_otel.api import endpoints, redaction
from assisters_otel.api.gen_ai_request import request_attributes
from assisters_otel.attempts.attempt import read_baggage
from assisters_otel.attempts.call import Call
from assisters_otel.attempts.call_request import CallRequest
from assisters_otel.recording.watched_hosts import HTTP_PORT, HTTPS_PORT
from assisters_otel.sinks.call_span import end_call_span, start_or_adopt_call_span
from assisters_otel.sinks.known_attempts import remember_attempt

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.trace import Tracer

    from assisters_otel.attempts.attempt import CallerSettings
    from assisters_otel.outcomes import CallOutcome
    from assisters_otel.recording.bodies import OpenBodies
    from assisters_otel.recording.deferred import Deferred
    from assisters_otel.recording.process_sinks import ProcessSinks
    from assisters_otel.recording.watched_hosts import WatchedHosts

# The characters that clients do not encode in a path: those that RFC 3986 reserves, and "%".
_UNQUOTED: Final = "%/:=&?~#+!$,;'@()*[]"


class CallRecorder:
    """Starts calls, and writes their outcomes to the sinks."""

    def __init__(  # noqa: PLR0913, PLR0917 - made in one place, by the recorder
        self,
        tracer: Tracer,
        watched: WatchedHosts,
        sinks: ProcessSinks,
        open_bodies: OpenBodies,
        deferred: Deferred,
        callers: CallerSettings,
        *,
        capture_message: bool,
    ) -> None:
        """Start without a call.

        Args:
            tracer: The tracer for the spans of calls.
            watched: The hosts that are watched.
            sinks: The receivers of the outcomes.
            open_bodies: The set of calls whose bodies are open.
            deferred: The runner of steps that come up inside the garbage collector.
            callers: The settings of `read_baggage`.
            capture_message: True if the envelope's message is wanted on spans.
        """
        self._tracer = tracer
        self._watched = watched
        self._open = open_bodies
        self._deferred = deferred
        self._callers = callers
        self._sinks = sinks
        self._capture_message = capture_message

    def start(self, asked: CallRequest) -> Call:
        """Start a call, in a span of the library's or in the one that a GenAI instrumentation made.

        Args:
            asked: The arguments of the call.
        """
        parent_span = trace.get_current_span()
        nothing = trace.INVALID_SPAN, False
        span, is_ours = start_or_adopt_call_span(self._tracer, asked) or nothing
        above = parent_span if span is not parent_span else getattr(parent_span, "parent", None)
        context = above.get_span_context() if isinstance(above, trace.Span) else above
        if context is None:
            context = trace.INVALID_SPAN_CONTEXT
        return Call(asked, span, context, self, is_ours=is_ours)

    def start_for_url(  # noqa: PLR0913, PLR0917 - a URL has that many parts
        self,
        method: str,
        scheme: str,
        host: str,
        port: int | None,
        path: str,
        body: Mapping[str, object] = MappingProxyType({}),
    ) -> Call | None:
        """Start a call if its URL goes to a watched host. Return None if not.

        Args:
            method: The method, in upper or lower case.
            scheme: ``https`` or ``http``.
            host: The host, in lower case.
            port: The port, or None for the scheme's default.
            path: The path without the query. The client may still encode some of it.
            body: The members of the JSON object or form that will be sent.
        """
        hosts = self._watched.named(host)
        if hosts is None:
            return None
        port = port or (HTTPS_PORT if scheme == "https" else HTTP_PORT)
        target = quote(path, safe=_UNQUOTED).encode()
        request = self._watched.request(hosts, method.upper(), port, target)
        if request is None:
            return None
        operation = endpoints.OPERATIONS.get(request.template or "")
        if request.template is None:
            operation = endpoints.gateway_operation(request.path)
        model = body.get("model")
        name = redaction.clean(model) or None if isinstance(model, str) else None
        attributes = request_attributes(operation, body)
        baggage = read_baggage(self._callers)
        return self.start(CallRequest(request, operation, name, attributes, baggage))

    # -- the reports of a call, as its `Watcher` ----------------------------------------------

    @staticmethod
    def raised(call: Call, error: BaseException) -> None:
        """Remember a call's last attempt by the exception that the SDK raises, for `explain`."""
        if call.last is not None:
            remember_attempt(error, call.last, call.span)

    def waits(self, call: Call) -> None:
        """Record that a call has returned with an open body, whose end ends the call."""
        self._open.add(call)
        self._deferred.expect()

    def ended(self, call: Call, outcome: CallOutcome, end_ns: int | None) -> None:
        """Write a call's outcome to each sink."""
        self._open.discard(call)
        self._sinks.metrics.calls.record_call(outcome, call.context)
        if outcome.failed:
            self._sinks.log_call(outcome, call.span)
        end_call_span(call, outcome, end_ns, capture_message=self._capture_message)

    def is_collecting(self) -> bool:
        """Return True if this runs inside the garbage collector."""
        return self._deferred.is_collecting()

    def put_off(self, step: Callable[[], object]) -> None:
        """Run a step soon, outside the garbage collector."""
        self._deferred.put(step)
