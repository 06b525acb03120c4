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
from typing import TYPE_CHECKING, Final, Protocol
from weakref import ref as weakref

from assisters_otel.api import headers as response_headers
from assisters_otel.api.body_end import BodyEnd, stream_outcome
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
"""The outcome of a call, by the end of its body. Every other end means that it was cancelled."""


class BodyRecorder(Protocol):
    """The receiver of a body's reports."""

    deferred: Deferred

    def body_failed(self, body: ResponseBody, outcome: AttemptOutcome) -> None:
        """Record that an event stream has an error event, before its end."""

    def body_ended(self, body: ResponseBody, outcome: AttemptOutcome, at: Moment | None) -> None:
        """Record the end of a body, once."""


class ResponseBody:
    """One body.

    Attributes:
        attempt: The attempt whose answer has the body.
        span: The span of its event stream outside a call, or None.
        events: The scanner of its event stream, or None if it is no event stream.
        has_failed: True if it has had an error event, which has been recorded.
        is_over: True if it has ended.
        made: The outcome that its end means for its call: one of `names.OUTCOMES`.
        read_s: The time of the caller's last read, by `time.perf_counter`. The client's stream
            class sets it.
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
        """Start the record.

        Args:
            recorder: The receiver of the reports.
            attempt: The attempt, which has an outcome.
            events: The scanner of the body's bytes, or None.
            is_transient: A function that returns True if an exception means that the connection or
                the peer failed, or that a time limit was reached.
            sent: The app's request or response. `explain` finds the body's failure by it.
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
        """Scan the next bytes of an event stream, unless `skip_plain_event` has skipped them."""
        if self.events is None:
            return
        self.events.feed(chunk)
        if self._first_s is None and self.events.chunks:
            self._first_s = round(time.perf_counter() - self._started_s, names.DIGITS)
            call = self.attempt.call
            # Not earlier: some GenAI instrumentations end their span when the call returns.
            if call is not None and not call.is_ours:
                write_abandoned_state(call)
        if self.events.error is not None and not self.has_failed:
            self.has_failed = True
            # From now on the app may send the request again. The end may come much later: before
            # version 2.9 `openai` raises for an error event, and does not close the stream.
            outcome = self._outcome(self._stream(self.events, names.STREAM_ERROR), None)
            self._recorder.body_failed(self, outcome)

    @fail_safe
    def ended(self) -> None:
        """Record that the body is complete."""
        self._end(BodyEnd.COMPLETE)

    @fail_safe
    def broke(self, error: BaseException) -> None:
        """Record that an exception was raised in place of more bytes."""
        self._end(BodyEnd.BROKEN if isinstance(error, Exception) else BodyEnd.CLOSED, error)

    @fail_safe
    def closed(self) -> None:
        """Record that the stream was closed, perhaps after its last event."""
        self._end(BodyEnd.CLOSED)

    @fail_safe
    def left(self) -> None:
        """Record that the reading generator was closed. The last read was the end."""
        self._end(BodyEnd.CLOSED, at=self._last_read())

    @fail_safe
    def dropped(self) -> None:
        """Record that the stream was collected. May be called at any point of the program."""
        if not self.is_over:
            at = self._last_read()
            self._recorder.deferred.put(partial(self._end, BodyEnd.COLLECTED, None, at))

    @fail_safe
    def abandon(self) -> None:
        """End the body: its reader will not do so."""
        self._end(BodyEnd.COLLECTED)

    def forked(self) -> None:
        """Report nothing of it in this forked child: the parent does."""
        self.is_over = self.has_failed = True

    @staticmethod
    def is_known(error: BaseException) -> bool:
        """Return True if an exception comes from an attempt that has been reported."""
        return find_attempt(error) is not None

    def _last_read(self) -> Moment:
        """Return the moment of the caller's last read. The garbage collector runs later."""
        return Moment.at(self.read_s)

    def _end(
        self, end: BodyEnd, error: BaseException | None = None, at: Moment | None = None
    ) -> None:
        """End the body, once. Inside the garbage collector the end is deferred."""
        if self.is_over:
            return
        if self._recorder.deferred.is_collecting():
            # An object that is collected may close the stream, also while the SDK holds a lock.
            at = at or self._last_read()
            self._recorder.deferred.put(partial(self._end, end, error, at))
            return
        if next(self._once, None) is None:
            return
        stream, name = None, str(end.value)
        if self.events is not None:
            attempt = self.attempt
            is_delimited = response_headers.is_delimited(attempt.headers)
            name = stream_outcome(
                self.events, end, attempt.request.template, is_delimited=is_delimited
            )
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
        answer = events.last.answer
        if answer is not None and outcome != names.COMPLETED:
            # A stream that goes on may have a usage in each event, of the tokens so far.
            answer = answer.without_usage()
        return StreamOutcome(outcome, events.chunks, self._first_s, answer)

    def _outcome(self, stream: StreamOutcome | None, error: BaseException | None) -> AttemptOutcome:
        """Return the attempt's outcome, with that of the body."""
        answered = self.attempt.outcome
        if answered is None:  # `BodyRecorder.watch` has checked it
            raise RuntimeError("a body without an answer")
        if error is None and stream is None:
            return answered
        envelope = None if self.events is None else self.events.error
        if envelope is not None:
            envelope = self.attempt.hide_secrets(envelope)
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
            caller=answered.caller,
        )
