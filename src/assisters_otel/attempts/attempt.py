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
    from assisters_otel.attempts.call import Call
    from assisters_otel.attempts.retry_chain import Chain
    from assisters_otel.outcomes import AttemptOutcome, Resend

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


class Attempt:
    """One HTTP request to the API, from before it is sent to its answer or its failure.

    It holds data alone. The recorder writes it, and the resends and the sinks read it.

    Attributes:
        request: What is sent.
        reader: Reads the client's own form of it.
        span: Its client span, or None: then there are metrics only.
        is_own: True if that span is the library's.
        is_followed: True if another attempt is sent in that span, which then tells of that one.
        call: The call of an SDK that it belongs to, or None.
        resend: What `ResendTracker.started` found it to be, or None for a first.
        sent_s: When it was sent, by `time.perf_counter`.
        started_s: The same, by the tracker's clock.
        status: The HTTP status, or 0 without an answer.
        headers: Those of the response's headers that are reported.
        duration_s: From `sent_s` to the response's headers.
        outcome: How it ended, once it has.
        identity: The digest by which the same request is known again, once it is made.
        is_bare: True if it has neither a body nor an Idempotency-Key; known with the identity.
        has_company: True if equal requests of other tasks or threads were in flight beside it, or
            beside one that it follows.
        origins: Those of the requests that were redirected to this one.
        unit: The unit of work that sends it, as `control_flow.Units` has it, or None.
    """

    __slots__ = (
        "__weakref__",
        "_around",
        "_origin",
        "call",
        "duration_s",
        "has_company",
        "headers",
        "identity",
        "is_bare",
        "is_followed",
        "is_own",
        "origins",
        "outcome",
        "reader",
        "request",
        "resend",
        "sent_s",
        "span",
        "started_s",
        "status",
        "unit",
    )

    def __init__(  # noqa: PLR0913 - made in one place, `Recorder.start`
        self,
        request: ApiRequest,
        reader: RequestReader,
        span: Span | None,
        around: Span | SpanContext | None,
        call: Call | None,
        *,
        is_own: bool = False,
    ) -> None:
        """Start.

        Args:
            request: What is about to be sent.
            reader: Reads the client's own form of it.
            span: Its client span, or None.
            around: What was current before that span, if that is known.
            call: The call of an SDK that it belongs to, or None.
            is_own: True if the span is the library's.
        """
        self.request = request
        self.reader = reader
        self.span = span
        self.is_own = is_own
        self.is_followed = False
        self.call = call
        self.resend: Resend | None = None
        self.sent_s = self.started_s = 0.0
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.duration_s = 0.0
        self.outcome: AttemptOutcome | None = None
        self.origins: tuple[int, ...] = ()
        self.identity: int | None = None
        self.is_bare = False
        self.has_company = False
        self.unit = control_flow.units.current()
        self._around = around
        self._origin: Origin | None = None

    @property
    def chain(self) -> Chain | None:
        """The attempts of its call, or None."""
        return None if self.call is None else self.call.chain

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
        values = (self.reader.header(name) for name in _SECRET_HEADERS)
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
            injected = self.reader.header("traceparent") or ""
            if trace.format_span_id(around.get_span_context().span_id) in injected:
                return None
        context = around.get_span_context() if isinstance(around, trace.Span) else around
        return context if context.is_valid else None
