"""The body of a successful answer on its way to the caller: a call's, or an event stream.

A body does not know the stream that it is told of: that one's end is told when it is
collected, which it would never be if this one held it.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol
from weakref import ref as weakref

from assisters_otel.api.event_stream import BodyEnd, stream_outcome
from assisters_otel.attempts.clock import Moment
from assisters_otel.fail_safe import fail_safe
from assisters_otel.outcomes import AttemptOutcome, StreamOutcome
from assisters_otel.semconv import attributes as names
from assisters_otel.sinks.call_span import write_abandoned_state
from assisters_otel.sinks.known_attempts import remember_attempt

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import Span

    from assisters_otel.api.event_stream import EventStreamScanner
    from assisters_otel.attempts.attempt import Sending
    from assisters_otel.attempts.call import Call
    from assisters_otel.recording.recorder import Observer


class End(NamedTuple):
    """How a body ended.

    Attributes:
        stream: How its event stream ended, or None if it is none.
        error: What was raised in place of more of it, or None.
        at: When, or None for now.
    """

    stream: StreamOutcome | None
    error: BaseException | None
    at: Moment | None


class Watcher(Protocol):
    """Who wants to know of a body's end."""

    def body_began(self) -> None:
        """Take note of an event stream's first event."""

    def body_failed(self, body: Body, stream: StreamOutcome) -> None:
        """Take note of an event stream's error event, once; its end is still to come."""

    def body_ended(self, body: Body, end: End) -> None:
        """Take a body's end, once."""

    def is_collecting(self) -> bool:
        """Say whether this is running inside the garbage collector."""

    def put_off(self, step: Callable[[], object]) -> None:
        """Do something soon, outside the garbage collector."""


_OF_CALL = {
    BodyEnd.COMPLETE.value: names.OK,
    BodyEnd.BROKEN.value: names.FAILED,
    names.COMPLETED: names.OK,
    names.STREAM_ERROR: names.FAILED,
    names.TRUNCATED: names.FAILED,
}
"""What a body's end makes of its call; all else is cancelled."""


class Body:
    """One body.

    Attributes:
        events: What is read of its event stream, or None if it is none.
        has_failed: Whether it has had an error event, and its watcher knows.
        is_over: Whether it has ended in one way or another.
        made: What its end makes of its call: one of `names.OUTCOMES`.
    """

    __slots__ = (
        "_began_s",
        "_first_s",
        "_once",
        "_template",
        "_watcher",
        "events",
        "has_failed",
        "is_over",
        "made",
    )

    def __init__(
        self,
        watcher: Watcher,
        events: EventStreamScanner | None,
        template: str | None,
        began_s: float,
    ) -> None:
        """Begin.

        Args:
            watcher: Gets its end.
            events: Gets its bytes, or None.
            template: The documented path.
            began_s: When the call, or the request, began, by `time.perf_counter`.
        """
        self.events = events
        self.is_over = False
        self.made = names.OK
        self._watcher = watcher
        self._template = template
        self._began_s = began_s
        self._first_s: float | None = None
        self.has_failed = False
        self._once = iter((True,))  # two threads may close one body

    @fail_safe
    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of an event stream that `skip_plain_event` has not."""
        if self.events is not None:
            self.events.feed(chunk)
            if self._first_s is None and self.events.chunks:
                self._first_s = time.perf_counter() - self._began_s
                self._watcher.body_began()
            if self.events.error is not None and not self.has_failed:
                self.has_failed = True
                self._watcher.body_failed(self, self._stream(self.events, names.STREAM_ERROR))

    @fail_safe
    def ended(self) -> None:
        """Take its regular end."""
        self._end(BodyEnd.COMPLETE)

    @fail_safe
    def broke(self, error: BaseException) -> None:
        """Take what was raised in place of more of it."""
        self._end(BodyEnd.BROKEN if isinstance(error, Exception) else BodyEnd.CLOSED, error)

    @fail_safe
    def closed(self) -> None:
        """Take its close, before its end or after: an SDK closes a stream at its ``[DONE]``."""
        self._end(BodyEnd.CLOSED)

    @fail_safe
    def dropped(self) -> None:
        """Take note that its stream was collected. May run inside anything."""
        if not self.is_over:
            self._watcher.put_off(partial(self._end, BodyEnd.COLLECTED, None, Moment.now()))

    @fail_safe
    def abandon(self) -> None:
        """End what nobody will end any more."""
        self._end(BodyEnd.COLLECTED)

    def _end(
        self, way: BodyEnd, error: BaseException | None = None, at: Moment | None = None
    ) -> None:
        if self.is_over:
            return
        if at is None and self._watcher.is_collecting():
            # What is collected may close a stream, anywhere, also where a lock is held that
            # a metric needs: recording there has been seen to wait for ever.
            self._watcher.put_off(partial(self._end, way, error, Moment.now()))
            return
        if next(self._once, None) is None:
            return
        stream, ended = None, str(way.value)
        if self.events is not None:
            ended = stream_outcome(self.events, way, self._template)
            stream = self._stream(self.events, ended)
        self.made = _OF_CALL.get(ended, names.CANCELLED_CALL)
        self.is_over = True
        self._watcher.body_ended(self, End(stream, error, at))

    def _stream(self, events: EventStreamScanner, outcome: str) -> StreamOutcome:
        return StreamOutcome(outcome, events.chunks, self._first_s)


class Answer:
    """A successful answer whose body is on its way to the caller.

    Attributes:
        sending: Its attempt.
        call: The call of an SDK that it belongs to, or None.
        span: Around its event stream, outside a call; or None.
        body: Its body.
    """

    __slots__ = (
        "_is_transient",
        "_observer",
        "_outcome",
        "_sent",
        "body",
        "call",
        "sending",
        "span",
    )

    def __init__(  # noqa: PLR0913, PLR0917 - made in one place, `Attempt.body`
        self,
        observer: Observer,
        sending: Sending,
        call: Call | None,
        outcome: AttemptOutcome,
        is_transient: Callable[[BaseException], bool | None],
        sent: object,
    ) -> None:
        self.sending = sending
        self.call = call
        self.span: Span | None = None
        self.body: Body
        self._observer = observer
        self._outcome = outcome
        self._is_transient = is_transient
        self._sent = weakref(sent)

    def is_collecting(self) -> bool:
        """Say whether this is running inside the garbage collector."""
        return self._observer.is_collecting()

    def put_off(self, step: Callable[[], object]) -> None:
        """Do something soon, outside the garbage collector."""
        self._observer.put_off(step)

    def abandon(self) -> None:
        """End it: nobody else will."""
        self.body.abandon()

    def body_began(self) -> None:
        """Write to somebody else's span what holds if the rest of the stream is dropped.

        Not before: there are those who end their span as the call returns.
        """
        if self.call is not None and not self.call.is_ours:
            write_abandoned_state(self.call)

    def body_failed(self, body: Body, stream: StreamOutcome) -> None:
        """Expect a resend from now on, whatever else comes: the end may be seen much later.

        Before its version 2.9 `openai` closes no stream that it raises an error event of.
        """
        self._observer.body_failed(self, self._ended(body, End(stream, None, None)))

    def body_ended(self, body: Body, end: End) -> None:
        """Report what became of the attempt with its body."""
        outcome = self._ended(body, end)
        if outcome.failed:
            shown = self.call.span if self.call is not None else self.span
            for thing in (self._sent(), end.error):
                if thing is not None:
                    remember_attempt(thing, outcome, shown)
        self._observer.body_ended(self, outcome, end.at)

    def _ended(self, body: Body, end: End) -> AttemptOutcome:
        answered, error = self._outcome, end.error
        if error is None and end.stream is None:
            return answered
        said = None if body.events is None else body.events.error
        if said is not None:
            said = self.sending.without_secrets(said)
        broke = error is not None and said is None and body.made == names.FAILED
        cancelled = error is not None and body.made == names.CANCELLED_CALL
        return AttemptOutcome.of(
            answered.request,
            answered.duration_s,
            status=answered.status,
            headers=answered.headers,
            envelope=said,
            exception=type(error).__qualname__ if broke or cancelled else None,
            cancelled=cancelled,
            transient=broke and error is not None and bool(self._is_transient(error)),
            stream=end.stream,
        )
