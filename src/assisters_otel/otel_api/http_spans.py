"""Readable HTTP spans, for providers whose spans can only be written.

The library reads an HTTP span's name, kind, parent and attributes, to know whose it is and what is
on it. OpenTelemetry's API only lets a span be written; the SDK's spans can be read, those of other
implementations may not. For such a provider the HTTP instrumentation gets an `HttpSpan`, which
passes everything on to the provider's span and remembers it.

The current span in OpenTelemetry's context is the provider's own: ddtrace knows no other. `current`
finds the `HttpSpan` of it.
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

_READ: Final = ("attributes", "instrumentation_scope", "name", "parent")
"""The attributes of an HTTP span that the library reads, beside its kind."""


class _Scope(NamedTuple):
    name: str


class HttpSpan(trace.Span):
    """An HTTP span of the library, which passes what is written on to the provider's span.

    Attributes:
        provider_span: The provider's span.
        name: The last name.
        kind: The kind that it was started with.
        attributes: All attributes that were set.
        parent: The context of its parent span, or None.
        instrumentation_scope: Has the name of its tracer, and nothing else.
        status: The last status, if it is an error or was given as a `Status`; else None.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - made in one place, by the tracer
        self,
        provider_span: trace.Span,
        name: str,
        kind: SpanKind,
        attributes: Attributes,
        parent: SpanContext | None,
        scope: str,
    ) -> None:
        """Remember what *provider_span* was started with."""
        self.provider_span = provider_span
        self.name = name
        self.kind = kind
        self.attributes: dict[str, AttributeValue] = dict(attributes or {})
        self.parent = parent
        self.instrumentation_scope = _Scope(scope)
        self.status: Status | None = None

    def end(self, end_time: int | None = None) -> None:
        """End the provider's span."""
        self.provider_span.end(end_time)

    def get_span_context(self) -> SpanContext:
        """Return the context of the provider's span."""
        return self.provider_span.get_span_context()

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        """Set attributes."""
        self.attributes.update(attributes)
        self.provider_span.set_attributes(attributes)

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        """Set an attribute."""
        self.attributes[key] = value
        self.provider_span.set_attribute(key, value)

    def add_event(
        self, name: str, attributes: Attributes = None, timestamp: int | None = None
    ) -> None:
        """Add an event."""
        self.provider_span.add_event(name, attributes, timestamp)

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        """Add a link, if the provider's span can."""
        if attributes:
            self.provider_span.add_link(context, attributes)
        else:
            providers.add_link(self.provider_span, context)

    def update_name(self, name: str) -> None:
        """Set the name."""
        self.name = name
        self.provider_span.update_name(name)

    def is_recording(self) -> bool:
        """Return True if the provider's span records what is written."""
        return self.provider_span.is_recording()

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Set the status."""
        known = status if isinstance(status, Status) else None
        if status is StatusCode.ERROR:
            known = Status(StatusCode.ERROR, description)
        self.status = known
        self.provider_span.set_status(status, description)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,  # noqa: FBT001, FBT002 - OpenTelemetry's signature
    ) -> None:
        """Record an exception as an event."""
        self.provider_span.record_exception(exception, attributes, timestamp, escaped)


# A context variable of its own: ddtrace's context keeps the span and the baggage, and no other key.
_current: Final[ContextVar[HttpSpan | None]] = ContextVar("assisters_otel-span", default=None)


def current() -> trace.Span:
    """Return the current span; if it is the library's, as an `HttpSpan` that can be read."""
    span = trace.get_current_span()
    known = _current.get()
    if known is not None and providers.are_same(known.get_span_context(), span.get_span_context()):
        return known
    return span


def made(span: trace.Span) -> trace.Span:
    """Return the provider's own span, the one that may be made current."""
    return span.provider_span if isinstance(span, HttpSpan) else span


class Tracers(trace.TracerProvider):
    """A tracer provider for OpenTelemetry's HTTP instrumentations, whose spans can be read."""

    def __init__(self, provider: TracerProvider | None) -> None:
        """Wrap *provider*; None means the global one."""
        self._provider = provider

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes = None,
    ) -> Tracer:
        """Return the provider's tracer, or one around it if its spans may not be readable."""
        name = instrumenting_module_name
        tracer = trace.get_tracer(
            name, instrumenting_library_version, self._provider, schema_url, attributes
        )
        # The SDK's spans can be read, and a call less on their path costs less.
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
        if not span.is_recording() or _is_readable(span):
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
        on_exception = record_exception, set_status_on_exception
        span = self.start_span(name, context, kind, attributes, links, start_time, *on_exception)
        if not isinstance(span, HttpSpan):
            with trace.use_span(span, end_on_exit, *on_exception):
                yield span
            return
        token = enter(span)
        # As `trace.use_span`, but the exception is recorded through the `HttpSpan`.
        try:
            with trace.use_span(
                span.provider_span, record_exception=False, set_status_on_exception=False
            ):
                yield span
        except Exception as error:
            if span.is_recording():
                if record_exception:
                    span.record_exception(error)
                if set_status_on_exception:
                    description = f"{type(error).__name__}: {error}"
                    span.set_status(Status(StatusCode.ERROR, description))
            raise
        finally:
            leave(token)
            if end_on_exit:
                span.end()


def enter(span: trace.Span) -> Token[HttpSpan | None]:
    """Set *span* as the one that `current` finds; return the token for `leave`."""
    return _current.set(span if isinstance(span, HttpSpan) else None)


def leave(token: Token[HttpSpan | None]) -> None:
    """Undo `enter`."""
    with suppress(ValueError):  # a coroutine that was closed in another context
        _current.reset(token)


def _is_readable(span: trace.Span) -> bool:
    """Return True if *span* can be read, and can be given an `end` of its own."""
    if not hasattr(span, "__dict__") or not all(hasattr(span, name) for name in _READ):
        return False
    is_scoped = getattr(span, "instrumentation_scope", None) is not None
    return is_scoped and isinstance(getattr(span, "kind", None), SpanKind)
