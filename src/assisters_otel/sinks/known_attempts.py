"""What became of a failed attempt, for whoever has its response or its exception in hand."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, NamedTuple

from opentelemetry import trace

from assisters_otel.fail_safe import fail_safe
from assisters_otel.sinks import foreign_span
from assisters_otel.weak_identity import WeakIdentityDict

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext

    from assisters_otel.outcomes import AttemptOutcome


class KnownAttempt(NamedTuple):
    """What became of an attempt, for whoever has its response or its exception in hand.

    Attributes:
        outcome: How it ended.
        span: Its span, whose context is not valid if it has none.
        at_s: When, in Unix seconds.
    """

    outcome: AttemptOutcome
    span: SpanContext
    at_s: float

    @property
    def trace_id(self) -> str | None:
        """Of its span, in hex; None if it has none."""
        return trace.format_trace_id(self.span.trace_id) if self.span.is_valid else None


# By the app's own object, and gone with it: an attribute of ours on it would show.
_attempts_by_object_id: Final[WeakIdentityDict[KnownAttempt]] = WeakIdentityDict()


def find_attempt(thing: object) -> KnownAttempt | None:
    """Give what became of the failed attempt that a response or an exception is from."""
    return _attempts_by_object_id.get(thing)


@fail_safe
def remember_attempt(thing: object, outcome: AttemptOutcome, span: Span | None) -> None:
    """Remember a failed attempt by the response or the exception that the app gets of it.

    Args:
        thing: That object. One that cannot be referred to weakly is not remembered.
        outcome: How the attempt ended.
        span: Where to find it; None for the current one.
    """
    keep(thing, KnownAttempt(outcome, foreign_span.span_context_of(span), time.time()))


@fail_safe
def keep(thing: object, what: KnownAttempt) -> None:
    """Remember by another object, too, what is known of one."""
    _attempts_by_object_id.put(thing, what)
