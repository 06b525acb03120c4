"""Writes an attempt to its client span, the library's or the app's.

The library's span has its name and its URL from the start, and is written to at once. The app's
span is redacted and named first. A failure is written to it just before it ends, because its HTTP
instrumentation writes ``error.type`` and the status after the transport has returned.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from assisters_otel.fail_safe import fail_safe
from assisters_otel.sinks import attempt_span, foreign_span

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.trace import Span
    from opentelemetry.util.types import AttributeValue

    from assisters_otel.attempts.attempt import Attempt
    from assisters_otel.config import Config
    from assisters_otel.outcomes import AttemptOutcome, Resend


class AttemptSpans:
    """Writes attempts to spans, according to the settings."""

    def __init__(self, config: Config) -> None:
        """Read the settings."""
        self._capture_message = config.capture_message
        self._captures_headers = config.captures_headers

    @staticmethod
    def started(attempt: Attempt) -> None:
        """Write what is known when an attempt starts, if it has a span."""
        span = attempt.span
        if span is None:
            return
        if not attempt.is_own:
            _redact_and_name(span, attempt)
        if attempt.caller.baggage:
            _write_baggage(span, attempt)
        if attempt.resend is not None:
            _write_resend(span, attempt.resend)

    def ended(self, attempt: Attempt, outcome: AttemptOutcome) -> None:
        """Write how an attempt ended, if it has a span that is not used for another attempt."""
        span, now = attempt.span, time.time()  # the time of the answer, not of the span's end
        if span is None:
            return
        if attempt.is_own:
            if not attempt.is_followed:
                self._describe(span, now, outcome, attempt.answer_attributes or {})
        elif outcome.failed:
            describe = partial(self._describe, now=now, outcome=outcome)
            if self._captures_headers:
                describe = partial(self._describe_captured, describe, attempt)
            foreign_span.before_end(span, describe)
        else:
            foreign_span.cancel_before_end(span)
            self._describe(span, now, outcome)
            if self._captures_headers:
                foreign_span.before_end(span, partial(_redact_answer, attempt))

    @fail_safe
    def _describe(
        self,
        span: Span,
        now: float,
        outcome: AttemptOutcome,
        further: Mapping[str, AttributeValue] | None = None,
    ) -> None:
        attempt_span.write_outcome(
            span, outcome, now, further, capture_message=self._capture_message
        )

    @staticmethod
    def _describe_captured(
        describe: Callable[[Span], object], attempt: Attempt, span: Span
    ) -> None:
        describe(span)
        _redact_answer(attempt, span)


@fail_safe
def _redact_and_name(span: Span, attempt: Attempt) -> None:
    attempt_span.redact_request(span, attempt.request)
    attempt_span.set_span_name(span, attempt.request)


@fail_safe
def _write_baggage(span: Span, attempt: Attempt) -> None:
    span.set_attributes(dict(attempt.caller.baggage))


@fail_safe
def _write_resend(span: Span, resend: Resend) -> None:
    attempt_span.write_resend(span, resend)


@fail_safe
def _redact_answer(attempt: Attempt, span: Span) -> None:
    attempt_span.redact_answer(span, attempt.secrets())
