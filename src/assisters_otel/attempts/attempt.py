"""The record of an attempt in flight, and whose request it is.

What would break it: a reference to the client's response or to an exception. Both would keep the
app's objects alive as long as the attempt is remembered.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, cast

from opentelemetry import baggage, context, trace

from assisters_otel.api import error_body, redaction
from assisters_otel.api.headers import REQUEST_ID
from assisters_otel.api.identity import NOBODY, Entries, Identity, key_fingerprint
from assisters_otel.api.request import AUTHORIZATION
from assisters_otel.attempts import control_flow
from assisters_otel.fail_safe import fail_safe
from assisters_otel.records import Record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.trace import Span, SpanContext
    from opentelemetry.util.types import AttributeValue

    from assisters_otel.api.answer import Answer
    from assisters_otel.api.request import ApiRequest, RequestReader
    from assisters_otel.attempts.call import Call
    from assisters_otel.attempts.control_flow import Origin
    from assisters_otel.outcomes import AttemptOutcome, Resend

_NO_CREDENTIALS: Final[Mapping[str, str]] = MappingProxyType({})
_MAX_CREDENTIALS: Final = 256
"""The Authorization headers whose fingerprints are remembered. A token that changes by the hour
leaves an entry each hour, so all are forgotten at this number."""


class Attempt:
    """One HTTP request to the API, from before it is sent to its answer or its failure.

    It holds data alone. The recorder writes it, and the resends and the sinks read it.

    Attributes:
        request: The record of the request.
        reader: The reader of the client's own request object.
        span: The attempt's client span, or None for an attempt without a span.
        is_own: True if that span is the library's.
        is_followed: True if another attempt is sent in that span, which then describes that one.
        call: The call of an SDK that it belongs to, or None.
        answer_attributes: Attributes of the library's span that are not of the outcome, or None.
        resend: The result of `ResendTracker.started`, or None for a first attempt.
        sent_s: The time of its send, by `time.perf_counter`.
        started_s: The time of its start, by the tracker's clock.
        status: The HTTP status, or 0 without an answer.
        headers: The response's headers, as far as they are reported.
        is_event_stream: True if the response's body is an event stream.
        duration_s: The seconds from `sent_s` to the response's headers.
        outcome: The outcome, or None before the end.
        identity: The digest by which an equal request is recognised, or None if it is not computed.
        is_bare: True if the request has neither a body nor an Idempotency-Key. It is set with the
            identity.
        has_company: True if equal requests of other tasks or threads were in flight at the same
            time, or at that of an attempt that it follows.
        origins: The identities of the requests that were redirected to this one.
        unit: The unit of work that sends it, as `control_flow.Units` has it, or None.
        credentials: The request's headers of `CREDENTIALS`, which no telemetry may contain.
        caller: Whose request it is.
    """

    __slots__ = (
        "__weakref__",
        "_origin",
        "_parent_span",
        "_secrets",
        "answer_attributes",
        "call",
        "caller",
        "credentials",
        "duration_s",
        "has_company",
        "headers",
        "identity",
        "is_bare",
        "is_event_stream",
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

    def __init__(
        self,
        request: ApiRequest,
        reader: RequestReader,
        span: Span | None,
        parent_span: Span | SpanContext | None,
        call: Call | None,
    ) -> None:
        """Create the record before the send.

        Args:
            request: The request that is about to be sent.
            reader: The reader of the client's own request object.
            span: The attempt's client span, or None.
            parent_span: The span that was current before that one, if it is known.
            call: The call of an SDK that it belongs to, or None.
        """
        self.request = request
        self.reader = reader
        self.span = span
        self.is_own = self.is_followed = False
        self.call = call
        self.answer_attributes: Mapping[str, AttributeValue] | None = None
        self.resend: Resend | None = None
        self.sent_s = self.started_s = 0.0
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.is_event_stream = False
        self.duration_s = 0.0
        self.outcome: AttemptOutcome | None = None
        self.origins: tuple[int, ...] = ()
        self.identity: int | None = None
        self.is_bare = False
        self.has_company = False
        self.caller = NOBODY
        self.credentials: Mapping[str, str] = _NO_CREDENTIALS
        units = control_flow.units
        self.unit = units.current() if units.has_had_any else None
        self._parent_span = parent_span
        self._origin: Origin | None = None
        self._secrets: Sequence[str] | None = None

    def origin(self) -> Origin:
        """Return the origin. The first call must come from the task or thread that sends.

        Another task or thread may read the body, or the garbage collector may end the attempt.
        """
        if self._origin is None:
            self._origin = control_flow.origin_here(self._parent(), self.unit)
        return self._origin

    def secrets(self) -> Sequence[str]:
        """Return the keys in the request's own headers, which no telemetry may contain."""
        if self._secrets is None:
            held = self.credentials.values()
            self._secrets = [words[-1] for value in held if (words := value.rsplit(None, 1))]
        return self._secrets

    @fail_safe
    def hide_secrets(self, told: error_body.Envelope | None) -> error_body.Envelope | None:
        """Return an envelope without these keys, and remove them from the request id.

        An API may quote the request in its answer.

        Args:
            told: The envelope of the answer, or None.
        """
        secrets = self.secrets()
        quoted = self.headers.get(REQUEST_ID)
        if quoted is not None:
            shown = redaction.without(quoted.decode("latin-1"), secrets)
            self.headers[REQUEST_ID] = shown.encode("latin-1", "replace")
        return None if told is None else error_body.without_keys(told, secrets)

    def may_be_quoted(self) -> bool:
        """Return True if the answer's request id may quote one of these keys."""
        quoted = self.headers.get(REQUEST_ID)
        if quoted is not None:
            text = quoted.decode("latin-1")
            for value in self.credentials.values():
                # A key that is quoted has its end there. `secrets` would cost thrice as much.
                if value[-redaction.MIN_SECRET :].strip() in text:
                    return True
        return False

    @fail_safe
    def without_secrets(self, told: Answer | None) -> Answer | None:
        """Return the record of an answer without these keys, or None for None."""
        return None if told is None else told.without_keys(self.secrets())

    def _parent(self) -> SpanContext | None:
        """Return the context of the span under which the attempt or its call was made, or None."""
        above = self._parent_span
        if above is None:
            if self.span is not None:
                parent: SpanContext | None = getattr(self.span, "parent", None)
                return parent
            above = trace.get_current_span()
            # The app's HTTP span is current and sampled out. It does not say what its parent is.
            injected = self.reader.header("traceparent") or ""
            if trace.format_span_id(above.get_span_context().span_id) in injected:
                return None
        found = above.get_span_context() if isinstance(above, trace.Span) else above
        return found if found.is_valid else None


def current_call() -> Call | None:
    """Return the open call in whose scope this runs, or None."""
    call = cast("Call | None", context.get_value(control_flow.CALL_KEY) or control_flow.CALL.get())
    return call if call is not None and call.is_open else None


class CallerSettings(Record):
    """The settings of `read_caller`.

    Attributes:
        shows_key: True if the fingerprint of the key is wanted.
        names: The names of the baggage's entries that are wanted.
        known: The identities by credential, so that a fingerprint is computed once for each key.
    """

    shows_key: bool
    names: tuple[str, ...]
    known: dict[int, Identity]


def read_baggage(settings: CallerSettings) -> Entries:
    """Return the entries of the current baggage that the settings name, cleaned."""
    return (_read_baggage(settings.names) or ()) if settings.names else ()


@fail_safe
def _read_baggage(names: tuple[str, ...]) -> Entries:
    held = baggage.get_all()
    found = ((name, held.get(name)) for name in names)
    texts = ((name, redaction.clean(str(value))) for name, value in found if value is not None)
    return tuple((name, text.strip()) for name, text in texts if text.strip())


def read_caller(attempt: Attempt, settings: CallerSettings) -> Identity:
    """Return whose request an attempt is that is about to be sent, and set its credentials.

    No key is kept. Its identity is found by the header's `hash`, which Python keys anew for each
    process.

    Args:
        attempt: The attempt.
        settings: The settings, with the identities that are known.
    """
    known = _read_caller(attempt, settings) or NOBODY
    call = attempt.call
    entries = read_baggage(settings) if call is None else call.asked.baggage
    return known._replace(baggage=entries) if entries else known


@fail_safe
def _read_caller(attempt: Attempt, settings: CallerSettings) -> Identity:
    attempt.credentials = attempt.reader.credentials()
    value = attempt.credentials.get(AUTHORIZATION)
    if not value:
        return NOBODY
    credential = hash(value)
    known = settings.known.get(credential)
    if known is None:
        shown = key_fingerprint(value) if settings.shows_key else None
        if len(settings.known) >= _MAX_CREDENTIALS:
            settings.known.clear()
        known = settings.known[credential] = Identity(shown, (), credential)
    return known
