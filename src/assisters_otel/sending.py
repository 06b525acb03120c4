"""An attempt on its way: what a resend of it will be known by, and the attempts before it."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Final, NamedTuple

from opentelemetry import trace

from assisters_otel import flow
from assisters_otel.api import error_body

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import Span, SpanContext

    from assisters_otel.api.request import Message, Request
    from assisters_otel.outcomes import Resend

_SECRET_HEADERS: Final = ("authorization", "x-api-key", "api-key")


Key = tuple[int, int]
"""By what a failed attempt is found: an id of its task, thread or parent, and its identity."""


class CallBefore(NamedTuple):
    """The call that a failed attempt belonged to: its span, and which repetition it was."""

    span: SpanContext | None
    number: int


class Before(NamedTuple):
    """An attempt that failed or was cancelled, as far as its resend will tell of it.

    Attributes:
        number: Its own number as a resend; 0 for a request's first attempt.
        ended_s: When it ended, on a steady clock.
        reason: `Outcome.reason`.
        span: Its span.
        wait_s: What its Retry-After asked for.
        hopeless: Whether no retry helps.
        authorization: A digest of the header, or None without one.
        call: The call that it belonged to.
    """

    number: int
    ended_s: float
    reason: str | None
    span: SpanContext | None
    wait_s: float | None
    hopeless: bool
    authorization: bytes | None
    call: CallBefore | None


class Hop(NamedTuple):
    """A redirect that has been answered, and not yet followed.

    Attributes:
        owner: Gives the task or thread that will follow it, or None if that is gone.
        url: Of where it leads, the hash.
        number: The number, as a resend, of the attempt that was answered so.
        identities: Of that attempt, and of those that were redirected to it.
    """

    owner: Callable[[], object]
    url: int
    number: int
    identities: tuple[int, ...]


class Origin(NamedTuple):
    """Where an attempt comes from.

    Attributes:
        owner: Gives the task or thread that has sent it, or None if that is gone. The same for
            all of one task or thread.
        owner_id: An id of that.
        parent: The span under which the attempt, or its call, was made; None if it is a root.
        unit: The unit of work that it is part of, as `flow.Units` has it, or None.
    """

    owner: Callable[[], object]
    owner_id: int
    parent: SpanContext | None
    unit: str | None

    @property
    def whole(self) -> str | int | None:
        """What the attempt and its resend have in common: a unit of work, else a trace, or None."""
        if self.unit is not None:
            return self.unit
        return None if self.parent is None else self.parent.trace_id

    @property
    def place(self) -> int | None:
        """By what a resend by another task or thread is found, or None if there is no such thing.

        It is an id of the unit of work, else that of the parent span.
        """
        if self.unit is not None:
            return hash(self.unit)
        return None if self.parent is None else self.parent.span_id


class Chain:
    """The attempts of one call, one after the other.

    Attributes:
        call: What a later call will have to say of this one.
        resend_of: The span of the failed call that this one repeats, or None.
        sent: How many attempts there were.
        number: The last one's, as a resend.
        retries: How many of them were retries.
        wait_s: What went by between an attempt and its retry, in all.
        before: The last attempt, if it failed.
        hop: The redirect that the last attempt was answered with.
        keys: Under which the last attempt is remembered, if it failed.
    """

    __slots__ = (
        "before",
        "call",
        "hop",
        "keys",
        "number",
        "resend_of",
        "retries",
        "sent",
        "wait_s",
    )

    def __init__(self, call: SpanContext | None) -> None:
        """Begin with nothing sent.

        Args:
            call: The span of the call.
        """
        self.call = CallBefore(call, 0)
        self.resend_of: SpanContext | None = None
        self.sent = 0
        self.number = 0
        self.retries = 0
        self.wait_s = 0.0
        self.before: Before | None = None
        self.hop: Hop | None = None
        self.keys: tuple[Key, ...] = ()

    def follows(self, message: Message) -> bool:
        """Say whether a request goes where the last answer has redirected this call."""
        return self.hop is not None and self.hop.url == hash(message.url())


class Sending:
    """One attempt on its way.

    Attributes:
        request: What is sent.
        message: For more of it.
        span: Its client span, or None.
        chain: That of the call which it belongs to, or None.
        resend: What `Resends.begin` found it to be, or None for a first.
        started_s: When it was sent, on a steady clock.
        identity: The digest by which the same request is known again, once it is made.
        is_bare: Whether it has neither a body nor an Idempotency-Key; known with the identity.
        has_company: Whether equal requests of other tasks or threads were seen under way beside
            it, or beside one that it follows.
        origins: Those of the requests that were redirected to this one.
        unit: The unit of work that sends it, as `flow.Units` has it, or None.
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
        request: Request,
        message: Message,
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
        self.unit = flow.units.current()
        self._around = around
        self._origin: Origin | None = None

    def origin(self) -> Origin:
        """Find where it comes from; first asked for by whoever sends it.

        Its body may be read, and its failure met, in another task or thread, or in none.
        """
        if self._origin is None:
            owner = flow.owner()
            self._origin = Origin(weakref.ref(owner), id(owner), self._parent(), self.unit)
        return self._origin

    def secrets(self) -> tuple[str, ...]:
        """Return what the request's own headers hold that nobody else may know."""
        values = (self.message.header(name) for name in _SECRET_HEADERS)
        return tuple(value.split()[-1] for value in values if value and value.strip())

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
