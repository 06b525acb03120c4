"""The HTTP spans that we have made, with what they say, where a provider's spans do not tell.

OpenTelemetry's API lets a span be written and not be read. For a provider whose spans tell no
more than that, the HTTP instrumentation gets an `HttpSpan`, which remembers what goes through
it. Current is the provider's own span all the while: ddtrace takes no other for its own.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, NamedTuple

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from assisters_otel.otel_api import providers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextvars import Token

    from opentelemetry.context import Context
    from opentelemetry.trace import Link, SpanContext, Tracer, TracerProvider
    from opentelemetry.util.types import Attributes, AttributeValue

_TOLD: Final = ("attributes", "instrumentation_scope", "name", "parent")


class _Scope(NamedTuple):
    name: str


class HttpSpan(trace.Span):
    """An HTTP span that we have made, and what it says.

    Attributes:
        made: The provider's.
        name: As it was named last.
        kind: As it was started.
        attributes: All that were set.
        parent: The context of the span that it was started in, or None.
        instrumentation_scope: Of its tracer; only the name.
        status: The last one that was an error, or None.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - made in one place, by the tracer
        self,
        made: trace.Span,
        name: str,
        kind: SpanKind,
        attributes: Attributes,
        parent: SpanContext | None,
        scope: str,
    ) -> None:
        """Remember what *made* was started with."""
        self.made = made
        self.name = name
        self.kind = kind
        self.attributes: dict[str, AttributeValue] = dict(attributes or {})
        self.parent = parent
        self.instrumentation_scope = _Scope(scope)
        self.status: Status | None = None

    def end(self, end_time: int | None = None) -> None:
        """End it."""
        self.made.end(end_time)

    def get_span_context(self) -> SpanContext:
        """Return its context."""
        return self.made.get_span_context()

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        """Set attributes."""
        self.attributes.update(attributes)
        self.made.set_attributes(attributes)

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        """Set an attribute."""
        self.attributes[key] = value
        self.made.set_attribute(key, value)

    def add_event(
        self, name: str, attributes: Attributes = None, timestamp: int | None = None
    ) -> None:
        """Add an event."""
        self.made.add_event(name, attributes, timestamp)

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        """Add a link, if the provider's span can."""
        if attributes:
            self.made.add_link(context, attributes)
        else:
            providers.add_link(self.made, context)

    def update_name(self, name: str) -> None:
        """Rename it."""
        self.name = name
        self.made.update_name(name)

    def is_recording(self) -> bool:
        """Return True if it takes what is written."""
        return self.made.is_recording()

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Set its status."""
        told = status if isinstance(status, Status) else None
        if status is StatusCode.ERROR:
            told = Status(StatusCode.ERROR, description)
        self.status = told
        self.made.set_status(status, description)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,  # noqa: FBT001, FBT002 - OpenTelemetry's signature
    ) -> None:
        """Record an exception as an event."""
        self.made.record_exception(exception, attributes, timestamp, escaped)


# Not in OpenTelemetry's context: where ddtrace is, that keeps the span and the baggage alone.
_current: Final[ContextVar[HttpSpan | None]] = ContextVar("assisters_otel-span", default=None)


def current() -> trace.Span:
    """Return the current span; of one that we have made, what can be read."""
    span = trace.get_current_span()
    known = _current.get()
    if known is not None and providers.are_same(known.get_span_context(), span.get_span_context()):
        return known
    return span


def made(span: trace.Span) -> trace.Span:
    """Return the provider's own span, which is what may be current."""
    return span.made if isinstance(span, HttpSpan) else span


class Tracers(trace.TracerProvider):
    """A tracer provider for OpenTelemetry's HTTP instrumentations, whose spans can be read."""

    def __init__(self, provider: TracerProvider | None) -> None:
        """Wrap a provider; None is the global one."""
        self._provider = provider

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes = None,
    ) -> Tracer:
        """Return a tracer of the provider's, or one around it."""
        name = instrumenting_module_name
        tracer = trace.get_tracer(
            name, instrumenting_library_version, self._provider, schema_url, attributes
        )
        # The SDK's own spans tell everything.
        is_sdk = type(tracer).__module__.startswith("opentelemetry.sdk.")
        return tracer if is_sdk else _Tracer(tracer, name)


class _Tracer(trace.Tracer):
    def __init__(self, tracer: Tracer, scope: str) -> None:
        self._tracer = tracer
        self._scope = scope

    def start_span(  # noqa: PLR0913, PLR0917 - OpenTelemetry's signature
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,  # noqa: FBT001, FBT002
        set_status_on_exception: bool = True,  # noqa: FBT001, FBT002
    ) -> trace.Span:
        span = self._tracer.start_span(
            name,
            context,
            kind,
            attributes,
            links,
            start_time,
            record_exception,
            set_status_on_exception,
        )
        if not span.is_recording() or _tells(span):
            return span
        above = trace.get_current_span(context).get_span_context()
        parent = above if above.is_valid else None
        return HttpSpan(span, name, kind, attributes, parent, self._scope)

    @contextmanager
    def start_as_current_span(  # type: ignore[override] # noqa: PLR0913, PLR0917 - as above
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,  # noqa: FBT001, FBT002
        set_status_on_exception: bool = True,  # noqa: FBT001, FBT002
        end_on_exit: bool = True,  # noqa: FBT001, FBT002
    ) -> Iterator[trace.Span]:
        told = record_exception, set_status_on_exception
        span = self.start_span(name, context, kind, attributes, links, start_time, *told)
        if not isinstance(span, HttpSpan):
            with trace.use_span(span, end_on_exit, *told):
                yield span
            return
        token = enter(span)
        # As `trace.use_span`, but what is written goes through the one that remembers it.
        try:
            with trace.use_span(span.made, record_exception=False, set_status_on_exception=False):
                yield span
        except Exception as error:
            if span.is_recording():
                if record_exception:
                    span.record_exception(error)
                if set_status_on_exception:
                    what = f"{type(error).__name__}: {error}"
                    span.set_status(Status(StatusCode.ERROR, what))
            raise
        finally:
            leave(token)
            if end_on_exit:
                span.end()


def enter(span: trace.Span) -> Token[HttpSpan | None]:
    """Have `current` know a span of ours from now on; return what `leave` takes."""
    return _current.set(span if isinstance(span, HttpSpan) else None)


def leave(token: Token[HttpSpan | None]) -> None:
    """Undo `enter`."""
    with suppress(ValueError):  # a coroutine that was closed in another context
        _current.reset(token)


def _tells(span: trace.Span) -> bool:
    """Return True if a span can be read, and can be given an `end` of its own."""
    if not hasattr(span, "__dict__") or not all(hasattr(span, name) for name in _TOLD):
        return False
    is_scoped = getattr(span, "instrumentation_scope", None) is not None
    return is_scoped and isinstance(getattr(span, "kind", None), SpanKind)
