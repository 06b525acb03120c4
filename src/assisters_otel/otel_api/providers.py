"""What providers may leave out that others have. OpenTelemetry's API is all that they promise."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Final, cast

from opentelemetry import trace
from opentelemetry.metrics import MeterProvider

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.metrics import Histogram, Meter
    from opentelemetry.trace import Span, SpanContext
    from opentelemetry.util.types import Attributes

_BOUNDARIES: Final = "explicit_bucket_boundaries_advisory"


def is_stand_in(provider: object) -> bool:
    """Return True if a global provider is OpenTelemetry's own, in place of one that is not set.

    The name alone does not say so: logfire's tracer provider has it as well.
    """
    kind = type(provider)
    names = {"ProxyTracerProvider", "_ProxyMeterProvider"}
    return kind.__name__ in names and kind.__module__.startswith("opentelemetry.")


def flushes(given: Iterable[object]) -> list[Callable[[], object]]:
    """List the ``force_flush`` of those providers that have one. The API promises none.

    One that its app has shut down is left alone. The SDK's meter provider, 1.44 and 1.45, would
    export once more, and its exporter warn of that (test_what_the_app_has_ended_is_not_flushed).
    """
    alive = (one for one in given if getattr(one, "_shutdown", None) is not True)
    found = (getattr(provider, "force_flush", None) for provider in alive)
    return [flush for flush in found if flush is not None]


def without_exit_hook(given: Iterable[object]) -> list[object]:
    """List those of the SDK's providers that do not end by themselves at the interpreter's exit.

    They were made with ``shutdown_on_exit=False``. Source: the SDK, 1.44 and 1.45, where
    ``_atexit_handler`` is None then. What is none of the SDK's sees to its own end.
    """
    return [one for one in given if getattr(one, "_atexit_handler", one) is None]


def are_same(one: SpanContext, other: SpanContext) -> bool:
    """Return True if two contexts are of one span. They may be of a class that does not compare."""
    return (one.span_id, one.trace_id) == (other.span_id, other.trace_id)


def add_link(span: Span, to: SpanContext) -> None:
    """Link a span to another one. A class that cannot add links inherits a warning in its place."""
    if getattr(type(span), "add_link", None) is not trace.Span.add_link:
        span.add_link(to)


def meter(made: Meter) -> Meter:
    """Return a meter whose histograms may be given boundaries; one from before them ignores them.

    Args:
        made: A provider's.
    """
    try:
        taken = inspect.signature(made.create_histogram).parameters.values()
    except (TypeError, ValueError):  # written in C, and says nothing
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


class Meters(MeterProvider):
    """A meter provider for OpenTelemetry's instrumentations, of `meter`."""

    def __init__(self, made: MeterProvider) -> None:
        """Wrap *made*."""
        self._made = made

    def get_meter(
        self,
        name: str,
        version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes | None = None,
    ) -> Meter:
        """Return a meter whose histograms may be given boundaries."""
        told = () if attributes is None else (attributes,)
        return meter(self._made.get_meter(name, version, schema_url, *told))
