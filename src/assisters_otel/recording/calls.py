"""Records the calls of SDKs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from opentelemetry import trace

from assisters_otel.api import endpoints, redaction
from assisters_otel.attempts.call import Asked, Call
from assisters_otel.recording.watched_hosts import HTTP_PORT, HTTPS_PORT
from assisters_otel.sinks.call_span import end_call_span, start_or_adopt_call_span
from assisters_otel.sinks.known_attempts import remember_attempt

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import Tracer

    from assisters_otel.outcomes import CallOutcome
    from assisters_otel.recording.bodies import OpenBodies
    from assisters_otel.recording.deferred import Deferred
    from assisters_otel.recording.process_sinks import ProcessSinks
    from assisters_otel.recording.watched_hosts import WatchedHosts

# What clients leave as it is in a path: RFC 3986's reserved characters, and the sign of an escape.
_UNQUOTED: Final = "%/:=&?~#+!$,;'@()*[]"


class CallRecorder:
    """Records calls: each outcome to the sinks, once."""

    def __init__(  # noqa: PLR0913 - made in one place, by the recorder
        self,
        tracer: Tracer,
        watched: WatchedHosts,
        sinks: ProcessSinks,
        open_bodies: OpenBodies,
        deferred: Deferred,
        *,
        capture_message: bool,
    ) -> None:
        """Start without a call.

        Args:
            tracer: For the spans of calls.
            watched: The hosts that are watched.
            open_bodies: Gets the calls whose bodies are open.
            deferred: Gets what comes up inside the garbage collector.
            sinks: Get the outcomes.
            capture_message: True if the envelope's message is wanted on spans.
        """
        self._tracer = tracer
        self._watched = watched
        self._open = open_bodies
        self._deferred = deferred
        self._sinks = sinks
        self._capture_message = capture_message

    def start(self, asked: Asked) -> Call:
        """Return a call that starts, in a span of the library's or in the one around it.

        Args:
            asked: What the SDK is asked for.
        """
        around = trace.get_current_span()
        nothing = trace.INVALID_SPAN, False
        span, is_ours = start_or_adopt_call_span(self._tracer, asked) or nothing
        above = around if span is not around else getattr(around, "parent", None)
        context = above.get_span_context() if isinstance(above, trace.Span) else above
        if context is None:
            context = trace.INVALID_SPAN_CONTEXT
        return Call(asked, span, context, self, is_ours=is_ours)

    def start_for_url(  # noqa: PLR0913, PLR0917 - a URL has that many parts
        self, method: str, scheme: str, host: str, port: int | None, path: str, model: object = None
    ) -> Call | None:
        """Return a call that starts, if what the SDK is asked for goes to a watched host.

        Args:
            method: In any case.
            scheme: ``https`` or ``http``.
            host: In lower case.
            port: None for the scheme's own.
            path: As asked for, without the query; the client may still encode some of it.
            model: As the caller named it, or None.
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
        name = redaction.clean(model) or None if isinstance(model, str) else None
        return self.start(Asked(request, operation, name))

    # -- what a call reports, as its `Watcher` ------------------------------------------------

    @staticmethod
    def raised(call: Call, error: BaseException) -> None:
        """Let `explain` find a call's last attempt by what the SDK raises."""
        if call.last is not None:
            remember_attempt(error, call.last, call.span)

    def waits(self, call: Call) -> None:
        """Expect the end of a body: the call has returned with it open."""
        self._open.add(call)
        self._deferred.expect()

    def ended(self, call: Call, outcome: CallOutcome, end_ns: int | None) -> None:
        """Report a call's outcome to each sink."""
        self._open.discard(call)
        self._sinks.metrics.record_call(outcome, call.context)
        if outcome.failed:
            self._sinks.log_call(outcome, call.span)
        end_call_span(call, outcome, end_ns, capture_message=self._capture_message)

    def is_collecting(self) -> bool:
        """Return True if this runs inside the garbage collector."""
        return self._deferred.is_collecting()

    def put_off(self, step: Callable[[], object]) -> None:
        """Run a step soon, outside the garbage collector."""
        self._deferred.put(step)
