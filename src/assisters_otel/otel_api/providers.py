"""Stand-ins for what a provider, meter or span of the app may lack.

OpenTelemetry's API is all that they promise. logfire, ddtrace and others implement that alone, some
of them an earlier version of it.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Final, cast

from opentelemetry import trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.metrics import Histogram, Meter
    from opentelemetry.trace import Span, SpanContext

_BOUNDARIES: Final = "explicit_bucket_boundaries_advisory"


def is_stand_in(provider: object) -> bool:
    """Return True if a global provider is the one that the API has until a provider is set.

    Its class is known by name and package. logfire's tracer provider has the same class name.
    """
    kind = type(provider)
    names = {"ProxyTracerProvider", "_ProxyMeterProvider", "ProxyLoggerProvider"}
    return kind.__name__ in names and kind.__module__.startswith("opentelemetry.")


def flushes(given: Iterable[object]) -> list[Callable[[], object]]:
    """Return the ``force_flush`` of each provider that has one. The API promises none.

    A provider that the app has shut down is left out. The SDK's meter provider, 1.44 and 1.45,
    would export once more, and its exporter log a warning
    (test_what_the_app_has_ended_is_not_flushed).
    """
    alive = (one for one in given if getattr(one, "_shutdown", None) is not True)
    found = (getattr(provider, "force_flush", None) for provider in alive)
    return [flush for flush in found if flush is not None]


def without_exit_hook(given: Iterable[object]) -> list[object]:
    """Return the providers of the SDK that do not shut down at the interpreter's exit.

    They were made with ``shutdown_on_exit=False``. Source: the SDK, 1.44 and 1.45, where
    ``_atexit_handler`` is None then. Providers that are not the SDK's are left out: they have other
    ways to end.
    """
    return [one for one in given if getattr(one, "_atexit_handler", one) is None]


def are_same(one: SpanContext, other: SpanContext) -> bool:
    """Return True if two contexts are of one span. Their class may have no ``__eq__``."""
    return (one.span_id, one.trace_id) == (other.span_id, other.trace_id)


def add_link(span: Span, to: SpanContext) -> None:
    """Add a link to *span*, if it can have one added.

    A class without `add_link` inherits the API's, which only logs a warning.
    """
    if getattr(type(span), "add_link", None) is not trace.Span.add_link:
        span.add_link(to)


def meter(made: Meter) -> Meter:
    """Return a meter whose histograms accept boundaries.

    Args:
        made: A provider's meter. One that was written for an earlier API does not know the
            argument; then the boundaries are dropped.
    """
    try:
        taken = inspect.signature(made.create_histogram).parameters.values()
    except (TypeError, ValueError):  # written in C, without a signature
        return made
    if any(one.name == _BOUNDARIES or one.kind is one.VAR_KEYWORD for one in taken):
        return made
    return cast("Meter", _Meter(made))


class _Meter:
    """A meter that drops the boundaries of histograms."""

    def __init__(self, made: Meter) -> None:
        self._made = made

    def create_histogram(
        self,
        name: str,
        unit: str = "",
        description: str = "",
        *,
        explicit_bucket_boundaries_advisory: object = None,  # noqa: ARG002 - OpenTelemetry's
    ) -> Histogram:
        return self._made.create_histogram(name, unit, description)

    def __getattr__(self, name: str) -> object:
        return getattr(self._made, name)
