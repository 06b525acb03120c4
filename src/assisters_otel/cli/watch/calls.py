"""Groups the spans of one call, and decides when the call is complete. Pure.

A span arrives after its end, in a batch. The attempts of a call arrive before the call or with it.
The SDK's exporter sends a batch every 5 s, so a longer call arrives in several batches.

* An SDK's call is complete when its span has arrived with as many attempts as the span counts.
* An attempt outside a call is a root, or its parent has arrived and is no call. If the parent has
  not arrived, it may be a call that goes on. The attempt waits for it.
* The span of an event stream belongs to the attempt that it is linked to.
* A trace without any of these is shown by its root.

All stores are bounded. Beyond the bound the oldest span is shown as it is, or forgotten.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from assisters_otel.cli import span_text
from assisters_otel.records import Record
from assisters_otel.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from assisters_otel.cli.watch.otlp import Span

T = TypeVar("T")

GRACE_S: Final = 1.0
"""How long a call waits for the attempts that its span counts, in seconds."""

HOLD_S: Final = 6.0
"""How long an attempt waits for its parent, in seconds: a batch of the SDK's, and a little more."""

MAX_WAITING: Final = 5_000
"""Spans that wait at a time."""

MAX_KNOWN: Final = 50_000
"""Spans that are known by their ids alone: 120 bytes each."""

_METHODS: Final = ("http.request.method", "http.method")
_OF_API: Final = (names.REQUEST_ID, names.ERROR_RETRYABLE, "url.template")

_RESEND: Final = "http.request.resend_count"
_LEFT: Final = (names.CANCELLED_STREAM, names.ABANDONED)
"""The outcomes of a stream that its caller has not read to its end."""

Key = tuple[str, str]


class Shown(Record):
    """One thing to show: a call, an attempt outside a call, or a trace of another app.

    Attributes:
        call: The span of an SDK's call, or None.
        attempts: The spans of its attempts, in their order.
        stream: The span of an event stream outside a call, or None.
        other: The root of a trace that has none of these, or None.
        spans: The number of spans of that trace.
        title: The name of the trace's root, if it has arrived and is none of the spans above.
    """

    call: Span | None = None
    attempts: tuple[Span, ...] = ()
    stream: Span | None = None
    other: Span | None = None
    spans: int = 1
    title: str | None = None

    @property
    def head(self) -> Span:
        """The span with the outcome."""
        for one in (self.other, self.call, self.stream):
            if one is not None:
                return one
        return self.attempts[-1]

    @property
    def has_failed(self) -> bool:
        """True if the caller got no answer, or no whole answer."""
        if self.other is not None:
            return self.other.has_failed
        if self.call is not None:
            return self.call.attributes.get(names.CALL_OUTCOME) == names.FAILED
        if self.stream is not None and self.stream.has_failed:
            return True
        return any(names.ERROR_RETRYABLE in one.attributes for one in self.attempts[-1:])

    @property
    def outcome(self) -> str:
        """One of `names.OUTCOMES`: a call's own; else that of the stream or the attempt."""
        told = self.head.attributes.get(names.CALL_OUTCOME)
        if told is not None:
            return str(told)
        if self.has_failed:
            return names.FAILED
        ended = self.head.attributes.get(names.STREAM_OUTCOME)
        if ended in _LEFT or (ended is None and is_cancelled(self.head)):
            return names.CANCELLED_CALL
        return names.OK

    @property
    def retries(self) -> int:
        """The number of resends that are retries: a redirect's hop has no delay."""
        return sum(
            _RESEND in one.attributes and names.RETRY_DELAY in one.attributes
            for one in self.attempts
        )


class Bounded(Generic[T]):
    """A dictionary of at most so many entries, without the oldest."""

    def __init__(self, limit: int) -> None:
        """Create an empty dictionary for *limit* entries."""
        self._limit = limit
        self.found: OrderedDict[Key, T] = OrderedDict()

    def put(self, key: Key, value: T) -> T | None:
        """Store a value; return the oldest one if it had to be removed."""
        self.found[key] = value
        return self.found.popitem(last=False)[1] if len(self.found) > self._limit else None


class _Waiting(Record):
    span: Span
    since_s: float


class Calls:
    """The spans that have arrived and are not shown yet."""

    def __init__(self) -> None:
        """Create empty stores."""
        self._calls: Bounded[_Waiting] = Bounded(MAX_WAITING)
        self._attempts: Bounded[_Waiting] = Bounded(MAX_WAITING)
        self._streams: Bounded[_Waiting] = Bounded(MAX_WAITING)
        self._roots: Bounded[_Waiting] = Bounded(MAX_WAITING)
        self._ended: Bounded[bool] = Bounded(MAX_KNOWN)
        self._others: Bounded[bool] = Bounded(MAX_KNOWN)
        self._counts: Bounded[int] = Bounded(MAX_KNOWN)
        self._titles: Bounded[str] = Bounded(MAX_WAITING)
        self._of_api: Bounded[bool] = Bounded(MAX_KNOWN)
        self._too_many: list[Shown] = []

    @property
    def waiting(self) -> int:
        """The number of spans that wait."""
        kept = (self._calls, self._attempts, self._streams, self._roots)
        return sum(len(one.found) for one in kept)

    def add(self, spans: Iterable[Span], now_s: float) -> None:
        """Store spans that have arrived.

        Args:
            spans: The spans, in any order.
            now_s: The time on a steady clock.
        """
        for span in spans:
            key, waiting = (span.trace_id, span.span_id), _Waiting(span, now_s)
            if names.CALL_OUTCOME in span.attributes:
                dropped = self._calls.put(key, waiting)
                self._mark(span)
                if dropped:
                    self._too_many.append(Shown(call=dropped.span))
            elif names.STREAM_OUTCOME in span.attributes:
                dropped = self._streams.put(key, waiting)
                self._mark(span)
                if dropped:
                    self._too_many.append(Shown(stream=dropped.span))
            elif is_attempt(span):
                dropped = self._attempts.put(key, waiting)
                self._mark(span)
                if dropped:
                    self._too_many.append(Shown(attempts=(dropped.span,)))
            else:
                self._add_other(key, waiting)

    def _mark(self, span: Span) -> None:
        """Record that the span's trace has a call of the API."""
        self._of_api.put(_of_trace(span), True)

    def _add_other(self, key: Key, waiting: _Waiting) -> None:
        self._others.put(key, True)
        of_trace = _of_trace(waiting.span)
        self._counts.put(of_trace, self._counts.found.get(of_trace, 0) + 1)
        if waiting.span.parent_id is None:
            self._roots.put(key, waiting)
            self._titles.put(of_trace, waiting.span.name)

    def take(self, now_s: float, *, all_of_them: bool = False) -> list[Shown]:
        """Remove and return what is complete, and what has waited long enough.

        Args:
            now_s: The time on a steady clock.
            all_of_them: True at the end: nothing more will arrive.
        """
        found, self._too_many = self._too_many, []
        found += self._take_calls(now_s, all_of_them=all_of_them)
        found += self._take_attempts(now_s, all_of_them=all_of_them)
        found += self._take_roots(now_s, all_of_them=all_of_them)
        titled = (
            one._replace(title=self._titles.found.get(_of_trace(one.head)))
            if one.other is None
            else one
            for one in found
        )
        return sorted(titled, key=lambda one: one.head.end_ns)

    def _take_calls(self, now_s: float, *, all_of_them: bool) -> Iterator[Shown]:
        below: dict[Key, list[Span]] = {}
        for span, _ in self._attempts.found.values():
            below.setdefault((span.trace_id, span.parent_id or ""), []).append(span)
        for key, (span, since_s) in list(self._calls.found.items()):
            attempts = sorted(below.get(key, ()), key=lambda one: one.start_ns)
            resends = span.attributes.get(names.RETRY_COUNT)
            wanted = 1 + resends if isinstance(resends, int) else 1
            if len(attempts) < wanted and now_s - since_s < GRACE_S and not all_of_them:
                continue
            del self._calls.found[key]
            self._ended.put(key, True)
            for one in attempts:
                del self._attempts.found[one.trace_id, one.span_id]
            yield Shown(call=span, attempts=tuple(attempts))

    def _take_attempts(self, now_s: float, *, all_of_them: bool) -> Iterator[Shown]:
        streams = {
            (span.trace_id, linked): (key, span)
            for key, (span, _) in self._streams.found.items()
            for linked in span.links
        }
        for key, (span, since_s) in list(self._attempts.found.items()):
            above = span.trace_id, span.parent_id or ""
            if above in self._calls.found:
                continue  # which waits for more
            is_alone = span.parent_id is None or above in self._others.found
            is_late = above in self._ended.found  # its call is shown already
            if not (is_alone or is_late or now_s - since_s >= HOLD_S or all_of_them):
                continue
            del self._attempts.found[key]
            stream_key, stream = streams.pop(key, (None, None))
            if stream_key is not None:
                del self._streams.found[stream_key]
            if not is_late:
                yield Shown(attempts=(span,), stream=stream)
        for key, (span, since_s) in list(self._streams.found.items()):
            if now_s - since_s >= GRACE_S or all_of_them:
                del self._streams.found[key]
                yield Shown(stream=span)

    def _take_roots(self, now_s: float, *, all_of_them: bool) -> Iterator[Shown]:
        for key, (span, since_s) in list(self._roots.found.items()):
            if now_s - since_s < GRACE_S and not all_of_them:
                continue
            del self._roots.found[key]
            of_trace = _of_trace(span)
            count = self._counts.found.pop(of_trace, 1)
            if of_trace not in self._of_api.found:
                yield Shown(other=span, spans=count)


def _of_trace(span: Span) -> Key:
    return span.trace_id, ""


def is_cancelled(span: Span) -> bool:
    """Return True if the caller gave up an attempt: it has neither an answer nor an error."""
    return is_attempt(span) and span_text.is_cancelled(span.attributes)


def is_attempt(span: Span) -> bool:
    """Return True if a span is that of an HTTP attempt at the API."""
    attributes = span.attributes
    is_http = any(name in attributes for name in _METHODS)
    return is_http and any(name in attributes for name in _OF_API)
