"""One call of an SDK, from its begin over all its retries to the end of its body.

The call's scope travels in OpenTelemetry's context, and is closed by a flag: a task
that was started in it and outlives it is no part of it.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from opentelemetry import context, trace

from assisters_otel import names
from assisters_otel.attempt import CallOutcome
from assisters_otel.resend import Chain

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Token

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, SpanContext

    from assisters_otel.attempt import Outcome, Request
    from assisters_otel.resend import Message
    from assisters_otel.streams import Events

_KEY: Final = context.create_key("assisters_otel-call")


class Asked(NamedTuple):
    """What an SDK was asked for.

    Attributes:
        request: What it will send.
        operation: As the GenAI conventions name it, or None.
        model: Clean, or None.
    """

    request: Request
    operation: str | None
    model: str | None


class Watcher(Protocol):
    """Who wants to know of a call's end."""

    def waits(self, call: Call) -> None:
        """Take note of a call that has returned, and whose body is still open."""

    def ended(self, call: Call, outcome: CallOutcome, end_ns: int | None) -> None:
        """Take a call's outcome, once; the time is given if it has passed already."""

    def is_collecting(self) -> bool:
        """Say whether this is running inside the garbage collector."""

    def put_off(self, step: Callable[[], object]) -> None:
        """Do something soon, outside the garbage collector."""


class Moment(NamedTuple):
    """A moment by two clocks: `time.perf_counter` and Unix nanoseconds."""

    steady_s: float
    unix_ns: int


class Call:
    """One call.

    Attributes:
        asked: What it is for.
        span: The span around it, ours or a GenAI instrumentation's.
        is_ours: Whether it is ours.
        around: The span under which the call was made; not valid if there is none.
        context: What is current while the call sends.
        chain: Its attempts.
        last: The outcome of the last one, or None.
    """

    __slots__ = (
        "__weakref__",
        "_body",
        "_is_open",
        "_is_returned",
        "_once",
        "_started_s",
        "_watcher",
        "around",
        "asked",
        "chain",
        "context",
        "is_ours",
        "last",
        "span",
    )

    def __init__(
        self, asked: Asked, span: Span, around: SpanContext, watcher: Watcher, *, is_ours: bool
    ) -> None:
        """Begin.

        Args:
            asked: What it is for.
            span: The span around it.
            around: The span under which the call was made; not valid if there is none.
            watcher: Gets its end.
            is_ours: Whether the span is ours, to be made current and to be ended.
        """
        self.asked = asked
        self.span = span
        self.is_ours = is_ours
        self.around = around
        made = span.get_span_context()
        self.chain = Chain(made if made.is_valid else None)
        self.last: Outcome | None = None
        self._watcher = watcher
        self._body: Body | None = None
        self._is_open = True
        self._is_returned = False
        self._once = iter((True,))  # two threads may close one body
        parent = trace.set_span_in_context(span) if is_ours else None
        self.context: Context = context.set_value(_KEY, self, parent)
        self._started_s = time.perf_counter()

    def enter(self) -> Token[Context]:
        """Make the call's scope current."""
        return context.attach(self.context)

    def leave(self, token: Token[Context], error: BaseException | None = None) -> None:
        """End the call's scope, in the task that entered it.

        Args:
            token: What `enter` gave.
            error: What the SDK has raised, or None.
        """
        self._is_open = False
        if isinstance(error, GeneratorExit) and context.get_current() is not self.context:
            # A coroutine that nobody awaits any more is closed by whoever finds it, in a
            # context of theirs; the one that was entered has gone with its task.
            return
        context.detach(token)

    def takes(self, request: Request, message: Message) -> bool:
        """Say whether a request that is about to be sent is one of the call's attempts."""
        own = self.asked.request
        if request.method == own.method and request.template == own.template:
            return request.template is not None or request.path == own.path
        return self.chain.follows(message)

    def answered(self, body: Body) -> None:
        """Take the body of a successful answer, which ends the call if nothing else does."""
        self._body = body

    def returned(self) -> None:
        """Take note that the SDK has given its caller something: now, or with its body, it ends."""
        self._is_returned = True
        if self._body is None or self._body.is_over:
            self.end(names.OK)
        else:
            self._watcher.waits(self)

    def raised(self, error: BaseException) -> None:
        """Take note that the SDK has raised. What is no `Exception` is the caller giving up."""
        if isinstance(error, Exception):
            self.end(names.FAILED, type(error).__qualname__)
        else:
            self.end(names.CANCELLED_CALL)

    def body_ended(self, body: Body, outcome: str, exception: str | None = None) -> None:
        """Take the end of a body; it is the call's if the SDK has handed it out."""
        if self._is_returned and body is self._body:
            self.end(outcome, exception)

    def body_dropped(self) -> None:
        """Take note that the body was forgotten, from inside the garbage collector."""
        if self._is_returned:
            self._put_off(names.CANCELLED_CALL)

    def _put_off(self, outcome: str, exception: str | None = None) -> None:
        at = Moment(time.perf_counter(), time.time_ns())
        self._watcher.put_off(partial(self.end, outcome, exception, at))

    def end(self, outcome: str, exception: str | None = None, at: Moment | None = None) -> None:
        """End, once; put off for a moment if this is running inside the garbage collector.

        That runs anywhere, also where the SDK holds a lock that a metric needs, and what it
        collects may close a stream: recording there has been seen to wait for ever.

        Args:
            outcome: One of `names.OUTCOMES`; ok is recovered if there were retries.
            exception: The name of the exception that ended it, or None.
            at: When, if not now.
        """
        if at is None and self._watcher.is_collecting():
            self._put_off(outcome, exception)
            return
        if next(self._once, None) is None:
            return
        self._is_open = False
        chain = self.chain
        if outcome == names.OK and chain.retries:
            outcome = names.RECOVERED
        ended_s = time.perf_counter() if at is None else at.steady_s
        told = CallOutcome(
            *self.asked,
            outcome=outcome,
            duration_s=ended_s - self._started_s,
            retries=chain.retries,
            wait_s=chain.wait_s,
            last=self.last,
            exception=exception,
        )
        self._watcher.ended(self, told, None if at is None else at.unix_ns)

    @property
    def is_open(self) -> bool:
        """Whether what is sent in its scope is part of it."""
        return self._is_open


class Body:
    """The body of a call's successful answer on its way to the caller.

    It does not know the stream that it is told of: that one's end is told when it is
    collected, which it would never be if this one held it.

    Attributes:
        is_over: Whether it has ended in one way or another.
    """

    __slots__ = ("_broken", "_call", "_events", "feed", "is_over")

    def __init__(
        self, call: Call, events: Events | None, broken: Callable[[BaseException], object]
    ) -> None:
        """Begin.

        Args:
            call: Whose answer it is.
            events: Gets its bytes, or None.
            broken: Told of what it broke off with.
        """
        self._call = call
        self._events = events
        self._broken = broken
        self.feed = None if events is None else events.feed
        self.is_over = False

    def ended(self) -> None:
        """Take its regular end."""
        if not self.is_over:
            self.is_over = True
            self._call.body_ended(self, names.OK)

    def broke(self, error: BaseException) -> None:
        """Take what was raised in place of more of it."""
        if self.is_over:
            return
        self.is_over = True
        if self._is_done():
            self._call.body_ended(self, names.OK)
            return
        self._broken(error)
        if isinstance(error, Exception):
            self._call.body_ended(self, names.FAILED, type(error).__qualname__)
        else:
            self._call.body_ended(self, names.CANCELLED_CALL)

    def closed(self) -> None:
        """Take its close, before its end or after: an SDK closes a stream at its ``[DONE]``."""
        if not self.is_over:
            self.is_over = True
            outcome = names.OK if self._is_done() else names.CANCELLED_CALL
            self._call.body_ended(self, outcome)

    def dropped(self) -> None:
        """Take note that its stream was collected. May run inside anything."""
        if not self.is_over:
            self.is_over = True
            self._call.body_dropped()

    def _is_done(self) -> bool:
        return self._events is not None and self._events.done


def current() -> Call | None:
    """Give the call in whose scope this is running, or None."""
    call = context.get_value(_KEY)
    return call if isinstance(call, Call) and call.is_open else None
