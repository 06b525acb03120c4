"""One call of an SDK, from its start over all its retries to the end of its body.

The call's scope travels in OpenTelemetry's context, since that is what goes from thread to
thread; and beside it, since ddtrace's context keeps nothing but the span and the baggage. It is
closed by a flag: a task that was started in it and outlives it is no part of it.
"""

from __future__ import annotations

import time
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol
from urllib.parse import unquote

from opentelemetry import context, trace

from assisters_otel.attempts.clock import Moment
from assisters_otel.attempts.retry_chain import Chain
from assisters_otel.fail_safe import fail_safe
from assisters_otel.outcomes import CallOutcome
from assisters_otel.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Token

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, SpanContext

    from assisters_otel.api.request import ApiRequest, RequestReader
    from assisters_otel.outcomes import AttemptOutcome

_KEY: Final = context.create_key("assisters_otel-call")
_scope: Final[ContextVar[Call | None]] = ContextVar("assisters_otel-call", default=None)

# On every request of an SDK that Stainless makes, as `openai` is, unless the app takes it away.
_SDK_MARK: Final = "x-stainless-lang"


class Asked(NamedTuple):
    """What an SDK was asked for.

    Attributes:
        request: What it will send.
        operation: As the GenAI conventions name it, or None.
        model: Clean, or None.
    """

    request: ApiRequest
    operation: str | None
    model: str | None


class Body(Protocol):
    """What a call must know of the body of its answer."""

    is_over: bool
    made: str

    def abandon(self) -> None:
        """End it: nobody else will."""

    def forked(self) -> None:
        """Report nothing of it in this forked child: the parent does."""


class Watcher(Protocol):
    """Who wants to know of a call's end."""

    def raised(self, call: Call, error: BaseException) -> None:
        """Take note of what an SDK has raised in the end."""

    def waits(self, call: Call) -> None:
        """Take note of a call that has returned, and whose body is still open."""

    def ended(self, call: Call, outcome: CallOutcome, end_ns: int | None) -> None:
        """Take a call's outcome, once; the time is given if it has passed already."""

    def is_collecting(self) -> bool:
        """Say whether this is running inside the garbage collector."""

    def put_off(self, step: Callable[[], object]) -> None:
        """Do something soon, outside the garbage collector."""


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
        started_s: When it began, by `time.perf_counter`.
    """

    __slots__ = (
        "__weakref__",
        "_body",
        "_is_open",
        "_is_returned",
        "_once",
        "_own",
        "_tokens",
        "_watcher",
        "around",
        "asked",
        "chain",
        "context",
        "is_ours",
        "last",
        "span",
        "started_s",
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
        self.last: AttemptOutcome | None = None
        self._watcher = watcher
        self._body: Body | None = None
        self._own: RequestReader | None = None
        self._is_open = True
        self._is_returned = False
        self._tokens: tuple[Token[Context], Token[Call | None]] | None = None
        self._once = iter((True,))  # two threads may close one body
        parent = trace.set_span_in_context(span) if is_ours else None
        self.context: Context = context.set_value(_KEY, self, parent)
        self.started_s = time.perf_counter()

    @fail_safe
    def enter(self) -> None:
        """Begin the call's scope, in which it sends."""
        self._tokens = context.attach(self.context), _scope.set(self)

    @fail_safe
    def leave(self, error: BaseException | None = None) -> None:
        """End the call's scope, in the task that entered it.

        Args:
            error: What the SDK has raised, or None.
        """
        self._is_open = False
        tokens, self._tokens = self._tokens, None
        if tokens is None:  # it did not come to that
            return
        with suppress(ValueError):  # it was entered in another context
            _scope.reset(tokens[1])
        if isinstance(error, GeneratorExit) and context.get_current() is not self.context:
            # A coroutine that nobody awaits any more is closed by whoever finds it, in a
            # context of theirs; the one that was entered has gone with its task.
            return
        context.detach(tokens[0])

    def builds(self, message: RequestReader) -> None:
        """Take the request that the SDK is about to send, for the first time or again."""
        self._own = message

    @fail_safe
    def takes(self, request: ApiRequest, message: RequestReader) -> bool:
        """Return True if a request that is about to be sent is one of the call's attempts.

        A hook, or a task that was started meanwhile, may send something else to the same endpoint.
        """
        if self.chain.follows(message):
            return True
        own = self.asked.request
        if request.method != own.method or request.template != own.template:
            return False
        if request.template is None and not _is_one(request.path, own.path):
            return False
        return self._own is None or _is_same(message, self._own)

    def answered(self, body: Body) -> None:
        """Take the body of a successful answer, which ends the call if nothing else does."""
        self._body = body

    @fail_safe
    def returned(self) -> None:
        """Take note that the SDK has given its caller something: now, or with its body, it ends."""
        self._is_returned = True
        body = self._body
        if body is None:
            self.end(names.OK)
        elif body.is_over:  # of an event stream the SDK may have met the end already
            self.end(names.FAILED if body.made == names.FAILED else names.OK)
        else:
            self._watcher.waits(self)

    @fail_safe
    def raised(self, error: BaseException) -> None:
        """Take note that the SDK has raised. What is no `Exception` is the caller giving up."""
        self._watcher.raised(self, error)
        if isinstance(error, Exception):
            self.end(names.FAILED, type(error).__qualname__)
        else:
            self.end(names.CANCELLED_CALL)

    def body_ended(self, body: Body, at: Moment | None) -> None:
        """Take the end of a body; it is the call's if the SDK has handed it out."""
        if self._is_returned and body is self._body:
            self.end(body.made, at=at)

    @fail_safe
    def abandon(self) -> None:
        """End what nobody will end any more, and its stream with it."""
        if self._body is not None:
            self._body.abandon()
        self.end(names.CANCELLED_CALL)

    def forked(self) -> None:
        """Report nothing of it in this forked child: the parent does."""
        next(self._once, None)
        if self._body is not None:
            self._body.forked()

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
            self._watcher.put_off(partial(self.end, outcome, exception, Moment.now()))
            return
        if next(self._once, None) is None:
            return
        self._is_open = False
        self._own = None  # a task that outlives the call may hold that
        chain = self.chain
        if outcome == names.OK and chain.retries:
            outcome = names.RECOVERED
        ended_s = time.perf_counter() if at is None else at.steady_s
        told = CallOutcome(
            *self.asked,
            outcome=outcome,
            duration_s=ended_s - self.started_s,
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


def _is_one(path: str, asked: str) -> bool:
    """Say whether two paths are one, however much of each is encoded."""
    return path == asked or unquote(path) == unquote(asked)


def _is_same(message: RequestReader, own: RequestReader) -> bool:
    """Return True if what is sent is an SDK's own request, whatever was done to it on its way."""
    body = message.body()
    if body and body == own.body():
        return True
    if own.header(_SDK_MARK) is not None and message.header(_SDK_MARK) is not None:
        return True
    # Without a body the client alone tells them apart; of one that can be read once, its boundary.
    name = "content-type" if body is None else "user-agent"
    return body == own.body() and message.header(name) == own.header(name)


def current_call() -> Call | None:
    """Return the call in whose scope this runs, or None."""
    call = context.get_value(_KEY) or _scope.get()
    return call if isinstance(call, Call) and call.is_open else None
