"""Records how the bodies of successful answers end.

A body is watched if its end changes an outcome: it belongs to a call, or it is an event stream. Its
attempt has been reported as a success before. If the body fails, one error more is counted.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Protocol

from opentelemetry import trace

from assisters_otel.api.event_stream import EventStreamScanner
from assisters_otel.api.headers import CONTENT_ENCODING
from assisters_otel.attempts.clock import Moment
from assisters_otel.fail_safe import fail_safe
from assisters_otel.outcomes import FIRST_REDIRECT
from assisters_otel.recording import body_outcomes
from assisters_otel.recording.response_body import ResponseBody
from assisters_otel.recording.unparsed_answers import UnparsedAnswers
from assisters_otel.semconv import attributes as names
from assisters_otel.sinks import stream_span

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import Span, Tracer

    from assisters_otel.api.error_body import Envelope
    from assisters_otel.attempts.attempt import Attempt
    from assisters_otel.attempts.call import Call
    from assisters_otel.outcomes import AttemptOutcome
    from assisters_otel.recording.deferred import Deferred
    from assisters_otel.recording.process_sinks import ProcessSinks

_SUCCESS: Final = 200


class Abandonable(Protocol):
    """A call or a body that is open."""

    def abandon(self) -> None:
        """End it: its reader will not do so."""

    def forked(self) -> None:
        """Report nothing of it in this forked child: the parent does."""


class OpenBodies:
    """The calls that have returned and not ended, and the open streams outside of calls.

    Attributes:
        unparsed: The calls whose answers the app parses itself.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._open: set[Abandonable] = set()
        self.unparsed = UnparsedAnswers()

    def has_any(self) -> bool:
        """Return True if there is one, after ending those that have waited too long."""
        self.unparsed.settle_old()
        return bool(self._open)

    def add(self, one: Abandonable) -> None:
        """Add a call or body that is open."""
        self._open.add(one)

    def discard(self, one: Abandonable) -> None:
        """Remove a call or body that has ended."""
        self._open.discard(one)

    def forked(self) -> None:
        """Forget all of them in a forked child: the parent ends them."""
        opened, self._open = self._open, set()
        self.unparsed.forked()
        for one in opened:
            one.forked()

    def abandon_all(self) -> None:
        """End all of them."""
        for one in list(self._open):
            one.abandon()


class BodyRecorder:
    """Records how bodies end, each once.

    Attributes:
        deferred: The runner of steps that come up inside the garbage collector.
    """

    def __init__(
        self,
        tracer: Tracer,
        sinks: ProcessSinks,
        open_bodies: OpenBodies,
        deferred: Deferred,
        *,
        capture_message: bool,
    ) -> None:
        """Start without a body.

        Args:
            tracer: The tracer for the spans of event streams outside of calls.
            sinks: The receivers of the outcomes.
            open_bodies: The set of event streams outside of calls that are open.
            deferred: The runner of steps that come up inside the garbage collector.
            capture_message: True if the envelope's message is wanted on spans.
        """
        self._tracer = tracer
        self._sinks = sinks
        self._open = open_bodies
        self.deferred = deferred
        self._capture_message = capture_message

    def watch(
        self, attempt: Attempt, is_transient: Callable[[BaseException], bool | None], sent: object
    ) -> ResponseBody | None:
        """Start the record of a successful answer's body. `report` has reported the answer.

        Args:
            attempt: The attempt.
            is_transient: A function that returns True if an exception means that the connection or
                the peer failed, or that a time limit was reached.
            sent: The app's request or response. `explain` finds a body's failure by it.

        Returns:
            The record, or None if the end of the body changes no outcome: it is no event stream,
            and belongs to no call.
        """
        call = attempt.call
        if not _SUCCESS <= attempt.status < FIRST_REDIRECT or attempt.outcome is None:
            return None
        # An SDK reads an event stream in whatever it gets, and some gateways name another type.
        is_stream = attempt.is_event_stream or (call is not None and call.expected.is_event_stream)
        if call is None and not is_stream:
            return None
        events = None
        if is_stream:
            events = EventStreamScanner(attempt.headers.get(CONTENT_ENCODING, b""))
        body = ResponseBody(self, attempt, events, is_transient, sent)
        try:
            if not body.is_plain:
                attempt.origin()  # determined now, as another task or thread may read the body
            if call is not None:
                call.body = body
            else:
                body.span = self._start_stream_span(attempt)
                self._open.add(body)
                self.deferred.expect()
            body.read_s = time.perf_counter()  # a span must not end before its start
        except BaseException:  # an interrupt's: no reader will get the body
            self.gave_up(body)
            raise
        return body

    @fail_safe
    def _start_stream_span(self, attempt: Attempt) -> Span | None:
        return stream_span.start_stream_span(self._tracer, attempt)

    def body_failed(self, body: ResponseBody, outcome: AttemptOutcome) -> None:
        """Record that an event stream has an error event. A resend may come before its end."""
        self._sinks.resends.failed(body.attempt, outcome, time.time())

    def body_unusable(
        self, body: ResponseBody, error: Envelope | None, exception: Exception | None
    ) -> None:
        """Record that a body that has ended well is no success, once.

        Args:
            body: The body.
            error: The error in place of the result, or None.
            exception: The exception with which the SDK has refused to parse it, or None.
        """
        attempt, call = body.attempt, body.attempt.call
        # The exception is of another attempt if that has ended since.
        if call is None or call.last is not body.reported or body.made != names.OK:
            return
        body.made = names.FAILED
        if error is None:
            error = body_outcomes.error_in_place(attempt, body.beginning)
        outcome = body_outcomes.of_unusable(attempt, error, exception)
        if error is not None:
            call.last = outcome
            body.report(outcome, exception)
        if error is not None or call.is_ended:
            self._sinks.count(0, 1)
            self._sinks.metrics.record_late_error(outcome, call.context)
        self._sinks.resends.failed(attempt, _known_of(outcome), time.time())
        if call.is_ended:
            self._sinks.log.record_failure(outcome, call.span)

    def body_ended(self, body: ResponseBody, outcome: AttemptOutcome, at: Moment | None) -> None:
        """Record the end of a body, after its attempt.

        Args:
            body: The body.
            outcome: The outcome of the attempt, with that of the body.
            at: The moment when it ended, or None for now.
        """
        attempt, call = body.attempt, body.attempt.call
        shown = attempt.span if body.span is None else body.span
        context = None
        if call is not None:
            call.last = outcome
            context = call.context
        elif shown is not None:
            context = trace.set_span_in_context(shown)
        if outcome.failed:
            self._sinks.count(0, 1)
            self._sinks.metrics.record_late_error(outcome, context)
        if (outcome.failed or outcome.cancelled) and not body.has_failed:
            self._sinks.resends.failed(attempt, _known_of(outcome), time.time())
        else:
            self._sinks.resends.closed(attempt)
        if call is not None:
            if outcome.stream is not None and not call.is_ours:
                self._record_apart(call, body, outcome, at or Moment.now())
            call.body_ended(body, at)
            return
        if outcome.stream is not None:
            self._sinks.metrics.calls.record_stream(outcome, body.made, context)
        self._open.discard(body)
        if outcome.failed:
            self._sinks.log.record_failure(outcome, shown)
        if body.span is not None:
            stream_span.end_stream_span(
                body.span,
                outcome,
                end_ns=None if at is None else at.unix_ns,
                capture_message=self._capture_message,
            )

    def gave_up(self, body: ResponseBody) -> None:
        """Leave nothing open of a body whose end was interrupted."""
        call = body.attempt.call
        if call is not None:
            body.made = names.CANCELLED_CALL
            call.body_ended(body, None)
            return
        self._open.discard(body)
        if body.span is not None and body.span.is_recording():
            body.span.end()

    def _record_apart(
        self, call: Call, body: ResponseBody, outcome: AttemptOutcome, end: Moment
    ) -> None:
        """Record a stream that has ended after the call's span, which is not the library's."""
        # A span of a call is not recording either if instrumentation is suppressed.
        if call.span.is_recording() or not call.span.get_span_context().is_valid:
            return
        stream_span.record_stream_of_call(
            self._tracer,
            call.span,
            body.attempt,
            outcome,
            end=end,
            capture_message=self._capture_message,
        )


def _known_of(outcome: AttemptOutcome) -> AttemptOutcome:
    """Return an outcome after which no repeat is called futile unless that is known.

    Whether a retry helps against an exception that a body was read or parsed with is not known.
    """
    return outcome if outcome.exception is None else outcome._replace(retryable=True)
