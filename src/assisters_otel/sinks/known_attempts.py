"""Remembers the outcomes of failed attempts, by the response or the exception that the app has.

`explain` looks them up. An outcome is kept as long as the app keeps that object.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from opentelemetry import trace

from assisters_otel.fail_safe import fail_safe
from assisters_otel.records import Record
from assisters_otel.weak_identity import WeakIdentityDict

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext

    from assisters_otel.outcomes import AttemptOutcome


class KnownAttempt(Record):
    """The record of a failed attempt.

    Attributes:
        outcome: The outcome.
        span: The context of the attempt's span; not valid without one.
        at_s: The time of the end, in Unix seconds.
    """

    outcome: AttemptOutcome
    span: SpanContext
    at_s: float

    @property
    def trace_id(self) -> str | None:
        """The trace id of its span, in hexadecimal digits; None without a span."""
        return trace.format_trace_id(self.span.trace_id) if self.span.is_valid else None


# By the id of the app's object, with a weak reference. An attribute on it would be visible.
_attempts_by_object_id: Final[WeakIdentityDict[KnownAttempt]] = WeakIdentityDict()


def span_context_of(span: Span | None) -> SpanContext:
    """Return the context of a span, or of the current span for None."""
    return (trace.get_current_span() if span is None else span).get_span_context()


def find_attempt(thing: object) -> KnownAttempt | None:
    """Return the record of the failed attempt behind a response or an exception, or None."""
    return _attempts_by_object_id.get(thing)


@fail_safe
def remember_attempt(thing: object, outcome: AttemptOutcome, span: Span | None) -> None:
    """Remember a failed attempt by the response or the exception that the app gets of it.

    Args:
        thing: The app's object. Without weak references to it, nothing is remembered.
        outcome: The attempt's outcome.
        span: The attempt's span; None for the current one.
    """
    keep(thing, KnownAttempt(outcome, span_context_of(span), time.time()))


@fail_safe
def keep(thing: object, what: KnownAttempt) -> None:
    """Remember a record by one more object of the app's."""
    _attempts_by_object_id.put(thing, what)
