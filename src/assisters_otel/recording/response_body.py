"""The body of a successful answer on its way to the caller: a call's, or an event stream.

The client's stream reports to a `ResponseBody` what it hands out: each chunk, and how it ends. The
body decides what became of the attempt, and reports that to the recorder, once.

What would break it: a reference from here to the client's stream. The stream reports its own
garbage collection, and a reference would keep it alive.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol
from weakref import ref as weakref

from assisters_otel.api.event_stream import BodyEnd, stream_outcome
from assisters_otel.attempts.clock import Moment
from assisters_otel.fail_safe import fail_safe
from assisters_otel.outcomes import AttemptOutcome, StreamOutcome
from assisters_otel.semconv import attributes as names
from assisters_otel.sinks.call_span import write_abandoned_state
from assisters_otel.sinks.known_attempts import find_attempt, remember_attempt

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import Span

    from assisters_otel.api.event_stream import EventStreamScanner
    from assisters_otel.attempts.attempt import Attempt
    from assisters_otel.recording.deferred import Deferred

CALL_OUTCOME_OF: Final = {
    BodyEnd.COMPLETE.value: names.OK,
    BodyEnd.BROKEN.value: names.FAILED,
    names.COMPLETED: names.OK,
    names.STREAM_ERROR: names.FAILED,
    names.TRUNCATED: names.FAILED,
}
"""What a body's end makes of its call. Every other end makes it cancelled."""


class BodyRecorder(Protocol):
    """What a body reports to."""

    deferred: Deferred

    def body_failed(self, body: ResponseBody, outcome: AttemptOutcome) -> None:
        """Record that an event stream will have failed, before its end."""

    def body_ended(self, body: ResponseBody, outcome: AttemptOutcome, at: Moment | None) -> None:
        """Record the end of a body, once."""


class ResponseBody:
    """One body.

    Attributes:
        attempt: The attempt that it is the answer of.
        span: The span of its event stream outside a call, or None.
        events: The scanner of its event stream, or None if it is none.
        has_failed: True if it has had an error event, which is recorded.
        is_over: True if it has ended in one way or another.
        made: What its end makes of its call: one of `names.OUTCOMES`.
        read_s: When the caller read of it last, by `time.perf_counter`; set by its stream.
    """

    __slots__ = (
        "_first_s",
        "_is_transient",
        "_once",
        "_recorder",
        "_sent",
        "_started_s",
        "attempt",
        "events",
        "has_failed",
        "is_over",
        "made",
        "read_s",
        "span",
    )

    def __init__(
        self,
        recorder: BodyRecorder,
        attempt: Attempt,
        events: EventStreamScanner | None,
        is_transient: Callable[[BaseException], bool | None],
        sent: object,
    ) -> None:
        """Start.

        Args:
            recorder: Gets what becomes of it.
            attempt: The attempt, which has an outcome.
            events: Gets its bytes, or None.
            is_transient: Returns True of an exception if the connection, the peer or the clock
                failed.
            sent: The app's request or response, by which `explain` finds what became of it.
        """
        self.attempt = attempt
        self.span: Span | None = None
        self.events = events
        self.has_failed = False
        self.is_over = False
        self.made = names.OK
        self.read_s = time.perf_counter()
        self._recorder = recorder
        self._is_transient = is_transient
        self._sent = weakref(sent)
        self._started_s = attempt.sent_s if attempt.call is None else attempt.call.started_s
        self._first_s: float | None = None
        self._once = iter((True,))  # two threads may close one body

    @fail_safe
    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of an event stream that `skip_plain_event` has not."""
        if self.events is None:
            return
        self.events.feed(chunk)
        if self._first_s is None and self.events.chunks:
            self._first_s = time.perf_counter() - self._started_s
            call = self.attempt.call
            # Not before: there are GenAI instrumentations that end their span as the call returns.
            if call is not None and not call.is_ours:
                write_abandoned_state(call)
        if self.events.error is not None and not self.has_failed:
            self.has_failed = True
            # A resend is expected from now on. The end may come much later: before its version
            # 2.9 `openai` closes no stream that it raises an error event of.
            outcome = self._outcome(self._stream(self.events, names.STREAM_ERROR), None)
            self._recorder.body_failed(self, outcome)

    @fail_safe
    def ended(self) -> None:
        """End: the body is complete."""
        self._end(BodyEnd.COMPLETE)

    @fail_safe
    def broke(self, error: BaseException) -> None:
        """End: an exception was raised in place of more of it."""
        self._end(BodyEnd.BROKEN if isinstance(error, Exception) else BodyEnd.CLOSED, error)

    @fail_safe
    def closed(self) -> None:
        """End: it was closed, perhaps after its end. An SDK closes a stream at its ``[DONE]``."""
        self._end(BodyEnd.CLOSED)

    @fail_safe
    def left(self) -> None:
        """End: the reader has gone without a close, and what was read last is the end."""
        self._end(BodyEnd.CLOSED, at=self._last_read())

    @fail_safe
    def dropped(self) -> None:
        """End: its stream was collected. May be called inside anything."""
        if not self.is_over:
            at = self._last_read()
            self._recorder.deferred.put(partial(self._end, BodyEnd.COLLECTED, None, at))

    @fail_safe
    def abandon(self) -> None:
        """End it, since its reader will not."""
        self._end(BodyEnd.COLLECTED)

    def forked(self) -> None:
        """Report nothing of it in this forked child: the parent does."""
        self.is_over = self.has_failed = True

    @staticmethod
    def is_known(error: BaseException) -> bool:
        """Return True if an exception comes from an attempt that is reported already."""
        return find_attempt(error) is not None

    def _last_read(self) -> Moment:
        """Return when the caller, which has gone since, read last; the collector comes later."""
        return Moment.at(self.read_s)

    def _end(
        self, end: BodyEnd, error: BaseException | None = None, at: Moment | None = None
    ) -> None:
        if self.is_over:
            return
        if self._recorder.deferred.is_collecting():
            # What is collected may close a stream, also where the SDK holds a lock.
            at = at or self._last_read()
            self._recorder.deferred.put(partial(self._end, end, error, at))
            return
        if next(self._once, None) is None:
            return
        stream, name = None, str(end.value)
        if self.events is not None:
            name = stream_outcome(self.events, end, self.attempt.request.template)
            stream = self._stream(self.events, name)
        self.made = CALL_OUTCOME_OF.get(name, names.CANCELLED_CALL)
        self.is_over = True
        outcome = self._outcome(stream, error)
        if outcome.failed:
            call = self.attempt.call
            shown = self.span if call is None else call.span
            for thing in (self._sent(), error):
                if thing is not None:
                    remember_attempt(thing, outcome, shown)
        self._recorder.body_ended(self, outcome, at)

    def _stream(self, events: EventStreamScanner, outcome: str) -> StreamOutcome:
        return StreamOutcome(outcome, events.chunks, self._first_s)

    def _outcome(self, stream: StreamOutcome | None, error: BaseException | None) -> AttemptOutcome:
        """Return the attempt's outcome with what became of the body."""
        answered = self.attempt.outcome
        if answered is None:  # a body is watched once its attempt has one
            raise RuntimeError("a body without an answer")
        if error is None and stream is None:
            return answered
        envelope = None if self.events is None else self.events.error
        if envelope is not None:
            envelope = self.attempt.without_secrets(envelope)
        broke = error is not None and envelope is None and self.made == names.FAILED
        cancelled = error is not None and self.made == names.CANCELLED_CALL
        return AttemptOutcome.of(
            answered.request,
            answered.duration_s,
            status=answered.status,
            headers=answered.headers,
            envelope=envelope,
            exception=type(error).__qualname__ if broke or cancelled else None,
            cancelled=cancelled,
            transient=broke and error is not None and bool(self._is_transient(error)),
            stream=stream,
        )
