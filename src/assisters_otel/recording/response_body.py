"""The record of a successful answer's body while the caller reads it, of a call or an event stream.

The client's stream class reports to the `ResponseBody` each chunk that the caller gets, and the
end. The end is one of five.

* `ended`: the body is complete.
* `broke`: an exception was raised in place of more bytes.
* `closed`: the caller or an SDK has closed the stream.
* `left`: the generator that reads was closed without the stream. The last read was the end.
* `dropped`: the garbage collector found the stream.

How it works. The first report of an end counts; each further one does nothing. The events of the
stream decide what the end means: `openai` closes a stream at ``[DONE]``, and that is complete. The
outcome goes to the `BodyRecorder`, once. A body of a call then ends the call.

What would break it.

* A reference from here to the client's stream: the stream reports its own garbage collection, and
  a reference would keep it alive. The app's request or response is referred to weakly.
* Recording inside the garbage collector: the SDK may hold the lock that it needs. So `_end` defers
  itself there, with the time of the last read.
* A lock: two threads may close one body, also from a signal handler. `next` of an iterator is
  atomic, and gives the end to one of them (test_threads_that_close_one_stream_at_once_end_it_once).
* Ending a GenAI instrumentation's call later than its span: see `write_abandoned_state`.
"""

from __future__ import annotations

import time
from functools import partial
from operator import not_
from typing import TYPE_CHECKING, Protocol
from weakref import ref as weakref

from assisters_otel.api.body_end import BodyEnd
from assisters_otel.api.headers import CONTENT_TYPE
from assisters_otel.api.unusable_answer import BodyBeginning
from assisters_otel.attempts.clock import Moment
from assisters_otel.fail_safe import fail_safe
from assisters_otel.recording import body_outcomes
from assisters_otel.semconv import attributes as names
from assisters_otel.sinks.call_span import write_abandoned_state
from assisters_otel.sinks.known_attempts import find_attempt, remember_attempt

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import Span

    from assisters_otel.api.answer import Answer
    from assisters_otel.api.error_body import Envelope
    from assisters_otel.api.event_stream import EventStreamScanner
    from assisters_otel.attempts.attempt import Attempt
    from assisters_otel.outcomes import AttemptOutcome, StreamOutcome
    from assisters_otel.recording.deferred import Deferred


class BodyRecorder(Protocol):
    """The receiver of a body's reports."""

    deferred: Deferred

    def body_failed(self, body: ResponseBody, outcome: AttemptOutcome) -> None:
        """Record that an event stream has an error event, before its end."""

    def body_ended(self, body: ResponseBody, outcome: AttemptOutcome, at: Moment | None) -> None:
        """Record the end of a body, once."""

    def body_unusable(
        self, body: ResponseBody, error: Envelope | None, exception: Exception | None
    ) -> None:
        """Record that a body that has ended well is no success, once."""

    def gave_up(self, body: ResponseBody) -> None:
        """Leave nothing open of a body whose end was interrupted."""


class ResponseBody:
    """One body.

    Attributes:
        attempt: The attempt whose answer has the body.
        span: The span of its event stream outside a call, or None.
        beginning: The first bytes of a body that the app reads, or None. None from its first event.
        reported: The outcome of the attempt, with that of the body; None before the end.
        events: The scanner of its event stream, or None if it is none, and none was asked for.
        skip_chunk: A function that returns a true value if a chunk need not be fed.
        has_failed: True if it has had an error event, which has been recorded.
        is_over: True if it has ended.
        is_plain: True if an SDK reads it, and it is no page. Complete, it needs no judging.
        made: The outcome that its end means for its call: one of `names.OUTCOMES`.
        read_s: The time of the caller's last read (`time.perf_counter`), set by its stream class.
    """

    __slots__ = (
        "_first_s",
        "_is_transient",
        "_once",
        "_recorder",
        "_sent",
        "_started_s",
        "attempt",
        "beginning",
        "events",
        "has_failed",
        "is_over",
        "is_plain",
        "made",
        "read_s",
        "reported",
        "skip_chunk",
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
        """Start the record.

        Args:
            recorder: The receiver of the reports.
            attempt: The attempt, which has an outcome.
            events: The scanner of the body's bytes, or None.
            is_transient: As `Exchange` has it.
            sent: The app's request or response. `explain` finds the body's failure by it.
        """
        self.attempt = attempt
        self.span: Span | None = None
        self.events = events
        self.has_failed = self.is_over = self.is_plain = False
        self.made = names.OK
        self.read_s = time.perf_counter()
        self._recorder = recorder
        self._is_transient = is_transient
        self._sent = weakref(sent)
        self._started_s = attempt.sent_s if attempt.call is None else attempt.call.started_s
        self._first_s: float | None = None
        self._once = iter((True,))  # two threads may close one body
        self.reported: AttemptOutcome | None = None
        self.beginning: BodyBeginning | None = None
        self.skip_chunk: Callable[[bytes], object] = bool  # True: nothing of a chunk is read
        if attempt.call is not None and attempt.call.expected.is_read_by_app:
            self.beginning = BodyBeginning()
            self.skip_chunk = not_  # each chunk is fed
        elif events is None:
            self.is_plain = b"html" not in attempt.headers.get(CONTENT_TYPE, b"").lower()
        if events is not None:
            self.skip_chunk = events.skip_plain_event

    @fail_safe
    def feed(self, chunk: bytes) -> None:
        """Read the next bytes, unless `skip_chunk` has skipped them."""
        if self.beginning is not None:
            self.beginning.feed(chunk)
        if self.events is None:
            return
        self.events.feed(chunk)
        if self.events.has_begun:
            self.beginning = None
        if self._first_s is None and self.events.chunks:
            self._first_s = round(time.perf_counter() - self._started_s, names.DIGITS)
            call = self.attempt.call
            # Not earlier: some GenAI instrumentations end their span when the call returns.
            if call is not None and not call.is_ours:
                write_abandoned_state(call)
        if self.events.error is not None and not self.has_failed:
            self.has_failed = True
            # The app may send the request again before the end. Until version 2.9 `openai` raises
            # for an error event, and does not close the stream.
            told = self.attempt, self.events, names.STREAM_ERROR, self._first_s
            outcome = self._outcome(body_outcomes.of_events(*told), None)
            self._recorder.body_failed(self, outcome)

    @fail_safe
    def ended(self) -> None:
        """Record that the body is complete."""
        self._end(BodyEnd.COMPLETE)

    @fail_safe
    def broke(self, error: BaseException, end: BodyEnd | None = None) -> None:
        """Record that an exception was raised in place of more bytes, or for those before them."""
        self._end(end or body_outcomes.end_by(error), error)

    @fail_safe
    def closed(self) -> None:
        """Record that the stream was closed, perhaps after its last event."""
        self._end(BodyEnd.CLOSED)

    @fail_safe
    def left(self) -> None:
        """Record that the reading generator was closed. The last read was the end."""
        self._end(BodyEnd.CLOSED, at=Moment.at(self.read_s))

    @fail_safe
    def dropped(self) -> None:
        """Record that the stream was collected. May be called at any point of the program."""
        if not self.is_over:
            step = partial(self._end, BodyEnd.COLLECTED, None, Moment.at(self.read_s))
            self._recorder.deferred.put(step)

    @fail_safe
    def abandon(self) -> None:
        """End the body: its reader will not do so."""
        self._end(BodyEnd.COLLECTED)

    def was_sent_as(self, request: object) -> bool:
        """Return True if it answers this request of the app's."""
        return self._sent() is request

    def forked(self) -> None:
        """Report nothing of it in this forked child: the parent does."""
        self.is_over = self.has_failed = True

    @staticmethod
    def is_known(error: BaseException) -> bool:
        """Return True if an exception comes from an attempt that has been reported."""
        return find_attempt(error) is not None

    def _end(
        self, end: BodyEnd, error: BaseException | None = None, at: Moment | None = None
    ) -> None:
        """End the body, once. Inside the garbage collector the end is deferred."""
        if self.is_over:
            return
        deferred = self._recorder.deferred
        if deferred.running and deferred.is_collecting():
            # An object that is collected may close the stream, also while the SDK holds a lock.
            deferred.put(partial(self._end, end, error, at or Moment.at(self.read_s)))
            return
        try:
            if next(self._once, None) is None:
                return
            self.is_over = True
            is_good = self.is_plain and end is BodyEnd.COMPLETE
            outcome = (self.attempt.outcome if is_good else None) or self._judge(end, error)
            self.report(outcome, error)
            self._recorder.body_ended(self, outcome, at)
        except BaseException:  # also an interrupt's; no other end will come
            self._recorder.gave_up(self)
            raise

    def _judge(self, end: BodyEnd, error: BaseException | None) -> AttemptOutcome:
        """Return the outcome of the attempt, with that of the body, and set `made`."""
        stream, unusable, name, attempt = None, None, str(end.value), self.attempt
        if self.beginning and self.events and not (self.events.finish() or attempt.is_event_stream):
            self.events = None
        if error is None and not self.is_plain and (self.events is None or self.beginning):
            unusable = body_outcomes.error_in_place(attempt, self.beginning)
        if self.events is not None and unusable is None:
            name = body_outcomes.of_stream_end(attempt, self.events, end)
            stream = body_outcomes.of_events(attempt, self.events, name, self._first_s)
        self.made = body_outcomes.CALL_OUTCOMES.get(name, names.CANCELLED_CALL)
        if unusable is not None:
            self.made = names.FAILED
            return body_outcomes.of_unusable(attempt, unusable, None)
        is_same = error is None and stream is None
        return (attempt.outcome if is_same else None) or self._outcome(stream, error)

    def report(self, outcome: AttemptOutcome, error: BaseException | None) -> None:
        """Set `reported`, and remember a failure by what the app has of it, for `explain`."""
        self.reported = outcome
        if not outcome.failed:
            return
        shown = self.span if self.attempt.call is None else self.attempt.call.span
        for thing in (self._sent(), error):
            if thing is not None:
                remember_attempt(thing, outcome, shown)

    @fail_safe
    def found_unusable(self, error: Envelope | None, exception: Exception | None = None) -> None:
        """Record that the answer has a status of success, and is none.

        Args:
            error: The error in place of the result, or None.
            exception: The exception with which the SDK has refused to parse it, or None.
        """
        self._recorder.body_unusable(self, error, exception)

    @fail_safe
    def read_answer(self) -> Answer | None:
        """Return the record of the answer if the body is complete and is kept, else None."""
        kept = self.beginning if self.is_over and self.made == names.OK else None
        return None if kept is None else kept.answer(self.attempt.headers)

    def release(self) -> None:
        """Forget what is kept of the answer: the call has ended."""
        self.beginning = None
        if self.is_plain and self.is_over:
            del self.attempt  # the client's response keeps this until the collector runs

    def _outcome(self, stream: StreamOutcome | None, error: BaseException | None) -> AttemptOutcome:
        envelope = None if self.events is None else self.events.error
        return body_outcomes.of_body(
            self.attempt, stream, envelope, error, made=self.made, is_transient=self._is_transient
        )
