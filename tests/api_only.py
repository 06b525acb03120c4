"""Providers that implement OpenTelemetry's API and no more: what they record, a test reads.

Nothing of theirs can be hashed, referred to weakly, or written to but by the API's own methods; a
span tells nothing but its context. They are registered as subclasses, for what inherits from
OpenTelemetry's classes has a `__dict__`.
"""

# ruff: noqa: ARG002, FBT001, FBT002 - the signatures are OpenTelemetry's

from __future__ import annotations

import itertools
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry import metrics, trace
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import SpanKind, StatusCode, TraceFlags, TraceState

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from typing_extensions import Self

_ids = itertools.count(1)


class Bare:
    """An object of which nothing is promised."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:  # the SDK compares a span, a propagator a context
        return self is other


class BareProvider(Bare):
    """A provider, which OpenTelemetry itself does not compare, nor ask for its truth."""

    __slots__ = ("_recorded",)
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise TypeError("compared")

    def __init__(self, recorded: Recorded) -> None:
        self._recorded = recorded

    def __bool__(self) -> bool:
        raise TypeError("asked for its truth")


class BareContext(Bare):
    """A span's context of a class of its own."""

    __slots__ = ("is_remote", "is_valid", "span_id", "trace_flags", "trace_id", "trace_state")

    def __init__(self, trace_id: int, span_id: int) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.is_remote = False
        self.is_valid = True
        self.trace_flags = TraceFlags(TraceFlags.SAMPLED)
        self.trace_state = TraceState()


class Told:
    """What a span was told: of it the tests read, the library cannot."""

    def __init__(self, scope: str, name: str, kind: SpanKind, parent: Any) -> None:
        trace_id = parent.trace_id if parent is not None else next(_ids)
        self.context = BareContext(trace_id, next(_ids))
        self.parent = parent
        self.scope = scope
        self.name = name
        self.kind = kind
        self.attributes: dict[str, Any] = {}
        self.links: list[Any] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.status: tuple[str, str | None] = ("UNSET", None)
        self.ends = 0


class Span(Bare):
    __slots__ = ("_mine", "_recorded")

    def __init__(self, told: Told, recorded: Recorded) -> None:
        self._mine = told
        self._recorded = recorded

    def end(self, end_time: int | None = None) -> None:
        self._mine.ends += 1
        self._recorded.ended.append(self._mine)

    def get_span_context(self) -> Any:
        mine = self._mine.context
        return BareContext(mine.trace_id, mine.span_id)  # another one each time

    def set_attributes(self, attributes: Any) -> None:
        for key, value in attributes.items():
            self.set_attribute(key, value)

    def set_attribute(self, key: str, value: Any) -> None:
        if self.is_recording():
            # As the SDK keeps it.
            self._mine.attributes[key] = tuple(value) if isinstance(value, list) else value

    def add_event(self, name: str, attributes: Any = None, timestamp: Any = None) -> None:
        self._mine.events.append((name, dict(attributes or {})))

    def add_link(self, context: Any, attributes: Any = None) -> None:
        self._mine.links.append(context)

    def update_name(self, name: str) -> None:
        self._mine.name = name

    def is_recording(self) -> bool:
        return not self._mine.ends

    def set_status(self, status: Any, description: str | None = None) -> None:
        code = getattr(status, "status_code", status)
        if code is not StatusCode.UNSET and self.is_recording():
            self._mine.status = code.name, getattr(status, "description", description)

    def record_exception(
        self, exception: Any, attributes: Any = None, timestamp: Any = None, escaped: bool = False
    ) -> None:
        found = {"exception.message": str(exception), **(attributes or {})}
        self.add_event("exception", found)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


class Tracer(Bare):
    __slots__ = ("_recorded", "_scope")

    def __init__(self, recorded: Recorded, scope: str) -> None:
        self._recorded = recorded
        self._scope = scope

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Any = None,
        links: Any = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> Any:
        above = trace.get_current_span(context).get_span_context()
        told = Told(self._scope, name, kind, above if above.is_valid else None)
        self._recorded.started.append(told)
        span = Span(told, self._recorded)
        span.set_attributes(attributes or {})
        for link in links or ():
            span.add_link(link.context)
        return span

    @contextmanager
    def start_as_current_span(self, name: str, *args: Any, **kwargs: Any) -> Any:
        with trace.use_span(self.start_span(name, *args, **kwargs), end_on_exit=True) as span:
            yield span


class Tracers(BareProvider):
    __slots__ = ()

    def get_tracer(self, name: str, version: Any = None, schema_url: Any = None,
                   attributes: Any = None) -> Any:  # fmt: skip
        return Tracer(self._recorded, name)


class Instrument(Bare):
    __slots__ = ("_name", "_points")

    def __init__(self, name: str, points: list[Any]) -> None:
        self._name = name
        self._points = points

    def add(self, amount: Any, attributes: Any = None, context: Any = None) -> None:
        self._points.append((self._name, dict(attributes or {}), amount))

    def record(self, amount: Any, attributes: Any = None, context: Any = None) -> None:
        self._points.append((self._name, dict(attributes or {}), 1))  # the amount is a duration


class Meter(Bare):
    """A meter of the API's first version: no boundaries, and nobody ever asks a callback."""

    __slots__ = ("_points",)

    def __init__(self, points: list[Any]) -> None:
        self._points = points

    def create_counter(self, name: str, unit: str = "", description: str = "") -> Any:
        return Instrument(name, self._points)

    create_up_down_counter = create_histogram = create_gauge = create_counter

    def create_observable_gauge(
        self, name: str, callbacks: Any = None, unit: str = "", description: str = ""
    ) -> Any:
        return Bare()

    create_observable_counter = create_observable_up_down_counter = create_observable_gauge


class Meters(BareProvider):
    __slots__ = ()

    def get_meter(self, name: str, version: Any = None, schema_url: Any = None,
                  attributes: Any = None) -> Any:  # fmt: skip
        return Meter(self._recorded.points)


trace.Span.register(Span)
trace.Tracer.register(Tracer)
trace.TracerProvider.register(Tracers)
MeterProvider.register(Meters)
metrics.Meter.register(Meter)


class Recorded:
    """What was recorded with a provider of each kind."""

    def __init__(self) -> None:
        self.started: list[Told] = []
        self.ended: list[Told] = []
        self.points: list[tuple[str, dict[str, Any], Any]] = []
        self.tracer_provider: Any = Tracers(self)
        self.meter_provider: Any = Meters(self)

    def spans(self) -> list[Shown]:
        """Return what was recorded, in the order in which it ended."""
        return [_shown(told.scope, told, told.status, told.events) for told in self.ended]

    def counts(self) -> dict[tuple[str, Any], Any]:
        """Return for each metric and set of labels what was counted."""
        found: dict[tuple[str, Any], Any] = {}
        for name, labels, amount in self.points:
            key = name, tuple(sorted(labels.items()))
            found[key] = found.get(key, 0) + amount
        return found


class Shown(NamedTuple):
    """A span, as far as two of them can be compared."""

    scope: str
    name: str
    kind: SpanKind
    attributes: dict[str, Any]
    status: tuple[str, str | None]
    events: list[Any]
    links: int
    has_parent: bool


_MESSAGE = "exception.message"
_IDS = frozenset({"assisters.request.id", "http.response.header.x-request-id"})


def _shown(scope: str, span: Any, status: Any, events: Any) -> Shown:
    # Durations differ from run to run, and so do ids.
    attributes = {
        name: "…" if isinstance(value, float) or name in _IDS else value
        for name, value in span.attributes.items()
    }
    told = [(name, found.get(_MESSAGE)) for name, found in events]
    has_parent = span.parent is not None
    return Shown(scope, span.name, span.kind, attributes, status, told, len(span.links), has_parent)


def of_sdk(memory: Any) -> tuple[list[Shown], dict[tuple[str, Any], Any]]:
    """Return what the SDK has recorded, in the same form."""
    spans = [
        _shown(
            span.instrumentation_scope.name,
            span,
            (span.status.status_code.name, span.status.description),
            [(event.name, event.attributes) for event in span.events],
        )
        for span in memory.spans()
    ]
    counts = {}
    for name, points in memory.collect().items():
        for point in points:
            labels = {k: v for k, v in point.items()
                      if k not in {"value", "count", "sum", "exemplars"}}  # fmt: skip
            counted = point["count"] if point["count"] is not None else point["value"]
            counts[name, tuple(sorted(labels.items()))] = counted
    return spans, counts
