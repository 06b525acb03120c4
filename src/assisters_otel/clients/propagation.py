"""The headers that the app's propagator adds to a request of the library's own span."""

from __future__ import annotations

from contextvars import copy_context
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from opentelemetry import baggage, context
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.propagate import get_global_textmap
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from assisters_otel.api.patterns import pattern
from assisters_otel.fail_safe import fail_safe

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.propagators.textmap import TextMapPropagator

BAGGAGE: Final = ("baggage", "uberctx-", "ot-baggage-")
"""The starts of the names of headers with baggage: of W3C, Jaeger and OpenTracing. Source: the
propagators' `inject`."""

_HEADER_NAME: Final = pattern(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
"""The form of a header's name. Source: RFC 9110, section 5.1."""


def propagated_headers(within: Context) -> dict[str, str]:
    """Return the headers that the global propagator adds in a context.

    The app may plug in propagators. One that raises, or writes a header that no client can send,
    costs its own headers alone. The app's baggage is not sent, whichever propagator writes it.
    """
    carrier: dict[str, str] = {}
    propagator = get_global_textmap()
    is_composite = type(propagator) is CompositePropagator
    trace_context = _trace_context_of(propagator) if is_composite else None
    if trace_context is not None:
        _inject(trace_context, carrier, within)
        if len(carrier) <= 1:  # ``traceparent``, which is made of digits
            return carrier
    else:
        bare = baggage.clear(within) if baggage.get_all(within) else within
        # In a copy of the task's or thread's context: an interrupt leaves nothing entered behind.
        copy_context().run(_inject_within, propagator, bare, carrier)
    return {name: value for name, value in carrier.items() if _is_name(name) and _is_value(value)}


@lru_cache(maxsize=4)  # an app has one
def _trace_context_of(propagator: TextMapPropagator) -> TraceContextTextMapPropagator | None:
    """Return the member for W3C's trace context if *propagator* is OpenTelemetry's default.

    The default's other member writes the app's baggage alone, which is not sent. So the first is
    called by itself, and what it writes need not be looked through (``200, alone``). The members
    are private: see `_inject`.
    """
    match getattr(propagator, "_propagators", None):
        case [one, other] if (
            type(one) is TraceContextTextMapPropagator and type(other) is W3CBaggagePropagator
        ):
            return one
    return None


def _inject_within(propagator: TextMapPropagator, bare: Context, carrier: dict[str, str]) -> None:
    # A propagator may read the current context in place of the one that it gets.
    token = context.attach(bare)
    try:
        _inject(propagator, carrier, bare)
    finally:
        context.detach(token)


@fail_safe
def _inject(propagator: TextMapPropagator, carrier: dict[str, str], bare: Context) -> None:
    try:
        propagator.inject(carrier, bare)
    except Exception:
        # A composite one ends with its first member that raises. The members are private: read with
        # OpenTelemetry 1.44 and 1.45 (test_a_propagator_that_raises_costs_its_own_headers_alone).
        members = getattr(propagator, "_propagators", None)
        if not members:
            raise
        for member in members:
            _inject(member, carrier, bare)


@lru_cache(maxsize=64)  # a propagator has the same names each time
def _is_name(name: object) -> bool:
    """Return True if a client sends a header of this name, and it holds none of the app's baggage.

    A client would refuse the whole request for a wrong one.
    """
    if not isinstance(name, str) or name.lower().startswith(BAGGAGE):
        return False
    return _HEADER_NAME.fullmatch(name) is not None


def _is_value(value: object) -> bool:
    """Return True if every client sends a header of this value."""
    if not isinstance(value, str):
        return False
    return value.isascii() and value.isprintable() and value.strip() == value
