"""Records attempts. It alone writes an `Attempt`, and it alone writes outcomes to the sinks.

The steps of an attempt, in the order in which an exchange calls them:

1. `start` before the send. It finds the call and the resend, and starts the clock.
2. `answered` with the response's headers. It stops the clock, and returns True for a failure.
3. `report` with the beginning of a failed answer's body. Without an answer, `raised` replaces both.
4. `bodies.watch` for the body of a successful answer.

`_finish` is the only way to the sinks. Each sink is fail-safe by itself: a sink that fails costs
what it would have written. A lock here must be reentrant, for a signal handler may send.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Final

from opentelemetry import trace
from opentelemetry.trace import StatusCode

from assisters_otel import causes, foreign_exceptions
from assisters_otel.api import error_body
from assisters_otel.api import headers as response_headers
from assisters_otel.attempts.attempt import Attempt, CallerSettings, current_call, read_caller
from assisters_otel.fail_safe import fail_safe
from assisters_otel.outcomes import FIRST_ERROR, AttemptOutcome
from assisters_otel.recording.bodies import BodyRecorder, OpenBodies
from assisters_otel.recording.calls import CallRecorder
from assisters_otel.recording.deferred import Deferred
from assisters_otel.recording.process_sinks import ProcessSinks
from assisters_otel.recording.watched_hosts import WatchedHosts
from assisters_otel.semconv import attributes as names
from assisters_otel.sinks import foreign_span, known_attempts
from assisters_otel.sinks.attempt_span import AttemptSpans
from assisters_otel.sinks.known_attempts import find_attempt, remember_attempt
from assisters_otel.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

    from assisters_otel.api.request import ApiRequest, RequestReader
    from assisters_otel.config import Config

_SUCCESS: Final = 200


class Recorder:
    """Records the attempts that the clients report.

    Attributes:
        watched: The hosts that are watched.
        calls: The recorder of the calls of SDKs.
        bodies: The recorder of the bodies of successful answers.
        sinks: The metrics, log and resends of this process.
        deferred: The runner of steps that come up inside the garbage collector.
    """

    def __init__(
        self,
        config: Config,
        tracer_provider: TracerProvider | None,
        meter_provider: MeterProvider,
    ) -> None:
        """Start without an attempt.

        Args:
            config: The settings.
            tracer_provider: The provider of call and stream spans; None for the global one.
            meter_provider: The provider for the library's metrics.
        """
        self._spans = AttemptSpans(config)
        self._callers = CallerSettings(config.key_fingerprint, config.baggage, {})
        self._open = OpenBodies()
        self.deferred = Deferred(self._open.has_any)
        self.watched = WatchedHosts(config, self.deferred)
        tracer = trace.get_tracer(names.SCOPE, __version__, tracer_provider, names.SCHEMA_URL)
        self.sinks = sinks = ProcessSinks(meter_provider, self.deferred.run_all)
        shared = sinks, self._open, self.deferred
        capture = config.capture_message
        self.bodies = BodyRecorder(tracer, *shared, capture_message=capture)
        self.calls = CallRecorder(
            tracer, self.watched, *shared, self._callers, capture_message=capture
        )

    def forked(self, before_next: Callable[[], object] | None) -> None:
        """Start anew in a forked child, where other threads' locks stay held for ever.

        Args:
            before_next: A function that is called once before the child's first attempt, or None.
        """
        self.sinks.forked()
        self._open.forked()
        self.deferred.forked()
        self.watched.forked(before_next)

    def settle(self, timeout_s: float) -> None:
        """Run the deferred steps, and log the storms of failures that are over, before a flush.

        Args:
            timeout_s: The seconds to wait while another thread runs steps.
        """
        self.deferred.run_all(timeout_s)
        self.sinks.log.sum_up_ended()

    @fail_safe
    def stop(self) -> None:
        """Watch no host any more, end open bodies, and log the failures not logged yet."""
        self.watched.stop()
        self.deferred.run_all()  # what the collector has found, with the moment of that
        self._open.abandon_all()
        self.deferred.stop()
        self.sinks.stop()

    # -- an attempt ---------------------------------------------------------------------------

    def start(
        self,
        request: ApiRequest,
        reader: RequestReader,
        span: Span | None,
        parent_span: Span | None = None,
        *,
        is_own: bool = False,
    ) -> Attempt:
        """Start an attempt.

        Args:
            request: The request that is about to be sent.
            reader: The reader of the client's own request object.
            span: The attempt's client span, open, or None for an attempt without a span.
            parent_span: The span that was current before that one, if it is known.
            is_own: True if the span is the library's. It has its name and its URL already, and
                needs no hook at its end.
        """
        call = current_call()
        if call is not None and not call.includes(request, reader):
            call = None
        place = parent_span if call is None else call.parent_span
        attempt = Attempt(request, reader, span, place, call)
        attempt.is_own = is_own
        attempt.caller = read_caller(attempt, self._callers)
        resend = self.sinks.resends.started(attempt)
        self._spans.started(attempt)
        if resend is not None and resend.is_retry:
            self.sinks.metrics.record_retry(request, resend)
        attempt.sent_s = time.perf_counter()
        return attempt

    @staticmethod
    def answered(
        attempt: Attempt, status: int, headers: Sequence[tuple[bytes, bytes, bytes]]
    ) -> bool:
        """Record the response's headers, which end the attempt's duration.

        Args:
            attempt: The attempt.
            status: The HTTP status.
            headers: The names as sent, the names in lower case, and the values.

        Returns:
            True if it has failed. Then `report` wants the beginning of the body.
        """
        attempt.duration_s = time.perf_counter() - attempt.sent_s
        attempt.status = status
        attempt.headers = known = response_headers.known_lower_headers(headers)
        attempt.is_event_stream = response_headers.is_event_stream(known)
        return status >= FIRST_ERROR

    def report(self, attempt: Attempt, body: bytes | None = None) -> None:
        """Report an answer.

        Args:
            attempt: The attempt, after `answered`.
            body: The beginning of a failed answer's body, as sent or as its client has decoded
                it; None if it was not read.
        """
        envelope = _envelope(body, attempt.headers) if body else None
        # Not by the id's form, which any opaque token has (test_a_request_id_that_quotes_…).
        if envelope is not None or attempt.may_be_quoted():
            envelope = attempt.hide_secrets(envelope)
        if attempt.status < FIRST_ERROR:
            outcome = AttemptOutcome.of_success(
                attempt.request,
                attempt.duration_s,
                attempt.status,
                attempt.headers,
                attempt.caller,
            )
        else:
            outcome = AttemptOutcome.of(
                attempt.request,
                attempt.duration_s,
                status=attempt.status,
                headers=attempt.headers,
                envelope=envelope,
                caller=attempt.caller,
            )
        self._finish(attempt, outcome)

    def raised(self, attempt: Attempt, error: BaseException, *, transient: bool) -> None:
        """Report that an exception came in place of an answer. The caller raises it again.

        Args:
            attempt: The attempt.
            error: The exception. The caller may have cancelled the attempt by it.
            transient: True if the connection or the peer failed, or a time limit was reached.
        """
        duration_s = time.perf_counter() - attempt.sent_s
        cancelled = foreign_exceptions.is_cancellation(error)
        cause = None if cancelled else causes.of(error)
        outcome = AttemptOutcome.of(
            attempt.request,
            duration_s,
            exception=type(error).__qualname__,
            cancelled=cancelled,
            transient=transient and (cause is None or cause.is_transient),
            cause=cause,
            caller=attempt.caller,
        )
        self._finish(attempt, outcome)
        self.remember(attempt, error)
        if attempt.span is not None and isinstance(error, Exception) and not attempt.is_own:
            if cancelled:  # a failure has done it
                foreign_span.before_end(attempt.span, foreign_span.mask_status)
            foreign_span.mask_recorded_exception(attempt.span, error)

    def not_followed(self, attempt: Attempt) -> None:
        """Write the outcome of an attempt to its span after all: no other one is sent in that."""
        attempt.is_followed, outcome = False, attempt.outcome
        if outcome is not None:
            self._spans.ended(attempt, outcome)
            if attempt.span is not None and attempt.is_own and outcome.status is None:
                # What it met is not the exception that the client raises.
                attempt.span.set_status(StatusCode.ERROR, outcome.error_type)

    @staticmethod
    def remember(attempt: Attempt, thing: object) -> None:
        """Remember a failed attempt by the app's response or exception, for `explain`."""
        if attempt.outcome is not None:
            remember_attempt(thing, attempt.outcome, attempt.span)

    @staticmethod
    @fail_safe
    def raised_for(response: object, error: BaseException) -> None:
        """Remember an attempt also by the exception that the client raises for its response."""
        found = find_attempt(response)
        if found is not None:
            known_attempts.keep(error, found)

    def _finish(self, attempt: Attempt, outcome: AttemptOutcome) -> None:
        attempt.outcome = outcome
        # The garbage collector closes a coroutine that is not awaited.
        if self.deferred.running and self.deferred.is_collecting():
            self.deferred.put(partial(self._to_sinks, attempt, outcome))
        else:
            self._to_sinks(attempt, outcome)

    def _to_sinks(self, attempt: Attempt, outcome: AttemptOutcome) -> None:
        failed, span, call = outcome.failed, attempt.span, attempt.call
        self.sinks.count(1, int(failed))
        self._spans.ended(attempt, outcome)
        self.sinks.metrics.record_attempt(outcome)
        if call is not None:
            call.last = outcome
        elif failed:
            self.sinks.log.record_failure(outcome, span)
        if failed or outcome.cancelled:
            self.sinks.resends.failed(attempt, outcome, time.time())
            return
        is_watched = call is not None or attempt.is_event_stream
        self.sinks.resends.answered(attempt, is_open=is_watched and not outcome.is_redirect)
        if response_headers.LOCATION in outcome.headers and outcome.is_redirect:
            location = outcome.headers[response_headers.LOCATION].decode("latin-1")
            self.sinks.resends.redirected(attempt, location)


@fail_safe
def _envelope(body: bytes, headers: Mapping[bytes, bytes]) -> error_body.Envelope | None:
    return error_body.parse_sent_body(body, headers)
