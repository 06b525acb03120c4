"""Records the calls of SDKs.

An adapter of an SDK starts a `Call` here. The call itself decides when it ends, and reports that to
the `CallRecorder`, once. Between the two, the recorder assigns attempts to it.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from opentelemetry import trace

from assisters_otel.api import endpoints
from assisters_otel.api.answer import clean_model
from assisters_otel.api.gen_ai_request import request_attributes
from assisters_otel.api.limits import MAX_VALUE
from assisters_otel.attempts.attempt import read_baggage
from assisters_otel.attempts.call import Call
from assisters_otel.attempts.call_request import RESULT, CallRequest, ExpectedAnswer
from assisters_otel.recording.watched_hosts import HTTP_PORT, HTTPS_PORT
from assisters_otel.records import Record
from assisters_otel.sinks.call_span import (
    end_call_span,
    start_or_adopt_call_span,
    write_returned_state,
)
from assisters_otel.sinks.known_attempts import remember_attempt

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.trace import Tracer

    from assisters_otel.api.request import ApiRequest
    from assisters_otel.attempts.attempt import CallerSettings
    from assisters_otel.hosts import Host
    from assisters_otel.outcomes import CallOutcome
    from assisters_otel.recording.bodies import OpenBodies
    from assisters_otel.recording.deferred import Deferred
    from assisters_otel.recording.process_sinks import ProcessSinks
    from assisters_otel.recording.watched_hosts import WatchedHosts

# The characters that clients do not encode in a path: those that RFC 3986 reserves, and "%".
_UNQUOTED: Final = "%/:=&?~#+!$,;'@()*[]"


_MAX_PLACES: Final = 256
"""The URLs of calls that are remembered. At this number all are forgotten: the app has no few."""


class _Place(Record):
    """The parts that all calls of one method to one URL have in common (``openai, alone``).

    Attributes:
        hosts: The watched hosts of its host's name. A place holds as long as these are watched.
        request: The request that the SDK will send.
        operation: The ``gen_ai.operation.name``, or None.
    """

    hosts: tuple[Host, ...]
    request: ApiRequest
    operation: str | None


class CallRecorder:
    """Starts calls, and writes their outcomes to the sinks.

    Attributes:
        unparsed: The calls whose answers the app parses itself.
    """

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
        self.unparsed = open_bodies.unparsed
        self._places: dict[tuple[str, str, str, int | None, str], _Place] = {}

    def start(self, asked: CallRequest, *, is_recorded_apart: bool = False) -> Call:
        """Start a call, in a span of the library's or in the one that a GenAI instrumentation made.

        Args:
            asked: The arguments of the call.
            is_recorded_apart: True if another instrumentation records the call in a span that is
                never current.
        """
        if self.unparsed.waits:
            self.unparsed.settle_previous()
        parent_span = trace.get_current_span()
        made = start_or_adopt_call_span(
            self._tracer, asked, parent_span, is_recorded_apart=is_recorded_apart
        )
        span = trace.INVALID_SPAN if made is None else made.span
        is_ours = made is not None and made.is_ours
        try:
            above = parent_span if span is not parent_span else getattr(parent_span, "parent", None)
            context = above.get_span_context() if isinstance(above, trace.Span) else above
            if context is None:
                context = trace.INVALID_SPAN_CONTEXT
            call = Call(asked, span, context, self, is_ours=is_ours)
        except BaseException:  # a foreign exception, which `fail_safe` lets pass
            if is_ours:
                span.end()
            raise
        if made is not None:
            call.is_inference, call.recorded_elsewhere = made.is_inference, made.recorded_elsewhere
        return call

    def start_for_url(  # noqa: PLR0913, PLR0917 - a URL has that many parts
        self,
        hosts: tuple[Host, ...],
        method: str,
        scheme: str,
        port: int | None,
        path: str,
        body: Mapping[str, object] = MappingProxyType({}),
        expected: ExpectedAnswer = RESULT,
        *,
        is_recorded_apart: bool = False,
    ) -> Call | None:
        """Start a call if its port and path are watched. Return None if not.

        Args:
            hosts: The watched hosts of its host's name.
            method: The method, in upper or lower case.
            scheme: ``https`` or ``http``.
            port: The port, or None for the scheme's default.
            path: The path without the query. The client may still encode some of it.
            body: The members of the JSON object or form that will be sent.
            expected: The answer that the caller expects.
            is_recorded_apart: True if another instrumentation records the call in a span that is
                never current.
        """
        key = hosts[0].name, method, scheme, port, path
        place = self._places.get(key)
        if place is None or place.hosts is not hosts:
            place = self._find_place(hosts, *key[1:])
        elif not self._watched.may_record():
            return None
        if place is None:
            return None
        request, operation = place.request, place.operation
        name = clean_model(body.get("model"))
        attributes = request_attributes(operation, body)
        asked = CallRequest(request, operation, name, attributes, read_baggage(self._callers))
        call = self.start(asked, is_recorded_apart=is_recorded_apart)
        call.expected = expected
        return call

    def _find_place(
        self, hosts: tuple[Host, ...], method: str, scheme: str, port: int | None, path: str
    ) -> _Place | None:
        """Return what all calls to a URL have in common, or None if it is not watched."""
        target = quote(path, safe=_UNQUOTED).encode()
        number = port or (HTTPS_PORT if scheme == "https" else HTTP_PORT)
        request = self._watched.request(hosts, method.upper(), number, target)
        if request is None:
            return None
        operation = endpoints.OPERATIONS.get(request.template or "")
        if request.template is None:
            operation = endpoints.gateway_operation(request.path)
        place = _Place(hosts, request, operation)
        if request.template is not None and len(path) <= MAX_VALUE and "?" not in path:
            if len(self._places) >= _MAX_PLACES:
                self._places.clear()
            self._places[hosts[0].name, method, scheme, port, path] = place
        return place

    # -- the reports of a call, as its `Watcher` ----------------------------------------------

    @staticmethod
    def raised(call: Call, error: BaseException) -> None:
        """Remember a call's last attempt by the exception that the SDK raises, for `explain`."""
        if call.last is not None:
            remember_attempt(error, call.last, call.span)

    def waits(self, call: Call) -> None:
        """Record that a call has returned, and that its body or its parse will end it."""
        if not call.is_ours:
            write_returned_state(call)
        self._open.add(call)
        self._deferred.expect()

    def awaits_parse(self, call: Call, answer: object) -> bool:
        """Return True if a call waits until the app has parsed the answer that it has returned."""
        # A GenAI instrumentation ends its span when the SDK returns. So its call waits only if the
        # body is open, which ends the call later than that in any case.
        may_wait = call.is_ours or (call.body is not None and not call.body.is_over)
        if not self.unparsed.remember(call, answer) or not may_wait:
            return False
        self.unparsed.wait(call, answer, self._deferred.put)
        self.waits(call)
        return True

    def ended(self, call: Call, outcome: CallOutcome, end_ns: int | None) -> None:
        """Write a call's outcome to each sink."""
        self._open.discard(call)
        if self.unparsed.waits:
            self.unparsed.discard(call)
        self._sinks.metrics.calls.record_call(outcome, call.context, call.recorded_elsewhere)
        if outcome.failed:
            self._sinks.log.record_call(outcome, call.span)
        end_call_span(call, outcome, end_ns, capture_message=self._capture_message)

    def gave_up(self, call: Call) -> None:
        """Leave nothing open of a call whose end was interrupted."""
        self._open.discard(call)
        self.unparsed.discard(call)
        if call.is_ours and call.span.is_recording():
            call.span.end()

    def is_collecting(self) -> bool:
        """Return True if this runs inside the garbage collector."""
        return bool(self._deferred.running) and self._deferred.is_collecting()

    def put_off(self, step: Callable[[], object]) -> None:
        """Run a step soon, outside the garbage collector."""
        self._deferred.put(step)
