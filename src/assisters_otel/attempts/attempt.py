"""An attempt in flight, and where it comes from."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Final, NamedTuple

from opentelemetry import trace

from assisters_otel.api import error_body
from assisters_otel.attempts import control_flow
from assisters_otel.fail_safe import fail_safe

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import Span, SpanContext

    from assisters_otel.api.request import ApiRequest, RequestReader
    from assisters_otel.attempts.retry_chain import Chain
    from assisters_otel.outcomes import Resend

_SECRET_HEADERS: Final = ("authorization", "x-api-key", "api-key")


class Origin(NamedTuple):
    """Where an attempt comes from.

    Attributes:
        owner: Gives the task or thread that has sent it, or None if that is gone. The same for
            all of one task or thread.
        owner_id: An id of that.
        parent: The span under which the attempt, or its call, was made; None if it is a root.
        unit: The unit of work that it is part of, as `control_flow.Units` has it, or None.
    """

    owner: Callable[[], object]
    owner_id: int
    parent: SpanContext | None
    unit: str | None

    @property
    def is_known(self) -> bool:
        """True unless its thread may work for any of several units, and no trace tells which."""
        return self.unit != control_flow.UNKNOWN or self.parent is not None

    @property
    def whole(self) -> str | int | None:
        """What the attempt and its resend have in common: a unit of work, else a trace, or None."""
        if self.unit:
            return self.unit
        return None if self.parent is None else self.parent.trace_id

    @property
    def place(self) -> int | None:
        """By what a resend by another task or thread is found, or None if there is no such thing.

        It is an id of the unit of work, else that of the parent span.
        """
        if self.unit:
            return hash(self.unit)
        return None if self.parent is None else self.parent.span_id


class Sending:
    """One attempt on its way.

    Attributes:
        request: What is sent.
        message: For more of it.
        span: Its client span, or None.
        chain: That of the call which it belongs to, or None.
        resend: What `ResendTracker.started` found it to be, or None for a first.
        started_s: When it was sent, on a steady clock.
        identity: The digest by which the same request is known again, once it is made.
        is_bare: Whether it has neither a body nor an Idempotency-Key; known with the identity.
        has_company: Whether equal requests of other tasks or threads were seen under way beside
            it, or beside one that it follows.
        origins: Those of the requests that were redirected to this one.
        unit: The unit of work that sends it, as `control_flow.Units` has it, or None.
    """

    __slots__ = (
        "__weakref__",
        "_around",
        "_origin",
        "chain",
        "has_company",
        "identity",
        "is_bare",
        "message",
        "origins",
        "request",
        "resend",
        "span",
        "started_s",
        "unit",
    )

    def __init__(
        self,
        request: ApiRequest,
        message: RequestReader,
        span: Span | None,
        around: Span | SpanContext | None,
        chain: Chain | None,
    ) -> None:
        """Remember.

        Args:
            request: What is about to be sent.
            message: For more of it.
            span: Its client span, or None.
            around: What was current before that span, if that is known.
            chain: That of the call which it belongs to, or None.
        """
        self.request = request
        self.message = message
        self.span = span
        self.chain = chain
        self.resend: Resend | None = None
        self.started_s = 0.0
        self.origins: tuple[int, ...] = ()
        self.identity: int | None = None
        self.is_bare = False
        self.has_company = False
        self.unit = control_flow.units.current()
        self._around = around
        self._origin: Origin | None = None

    def origin(self) -> Origin:
        """Find where it comes from; first asked for by whoever sends it.

        Its body may be read, and its failure met, in another task or thread, or in none.
        """
        if self._origin is None:
            owner = control_flow.owner()
            self._origin = Origin(weakref.ref(owner), id(owner), self._parent(), self.unit)
        return self._origin

    def secrets(self) -> tuple[str, ...]:
        """Return what the request's own headers hold that nobody else may know."""
        values = (self.message.header(name) for name in _SECRET_HEADERS)
        return tuple(value.split()[-1] for value in values if value and value.strip())

    @fail_safe
    def without_secrets(self, told: error_body.Envelope) -> error_body.Envelope:
        """Return an envelope without them, for an API may quote what it was sent."""
        return error_body.without_keys(told, self.secrets())

    def _parent(self) -> SpanContext | None:
        around = self._around
        if around is None:
            if self.span is not None:
                parent: SpanContext | None = getattr(self.span, "parent", None)
                return parent
            around = trace.get_current_span()
            # Sampled out, the HTTP instrumentation's own span hides what it stands under.
            injected = self.message.header("traceparent") or ""
            if trace.format_span_id(around.get_span_context().span_id) in injected:
                return None
        context = around.get_span_context() if isinstance(around, trace.Span) else around
        return context if context.is_valid else None
