"""One call of an SDK, from its start over all its retries to the end of its body.

How it works.

* The adapter of an SDK enters the call's scope around the SDK's own method. `current_call` returns
  the call in this scope, and the recorder makes the attempts there its own, if `includes` agrees.
* The call ends when the SDK raises, or when it returns. If the SDK returns with an open body, the
  call ends with that body.

The scope is kept in two places. OpenTelemetry's context is what the app's code passes from thread
to thread. ddtrace's context keeps only the span and the baggage, so a context variable has the call
as well. A flag closes the scope: a task that was started in it, and outlives it, is no part of it.
"""

from __future__ import annotations

import time
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol
from weakref import ref as weakref

from opentelemetry import context, trace

from assisters_otel.api import raw_answer
from assisters_otel.api.identity import Identity
from assisters_otel.attempts.clock import Moment
from assisters_otel.attempts.request_matching import is_same_path, is_sdk_request
from assisters_otel.attempts.retry_chain import RetryChain
from assisters_otel.fail_safe import fail_safe
from assisters_otel.outcomes import CallOutcome
from assisters_otel.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Token

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, SpanContext

    from assisters_otel.api.answer import Answer
    from assisters_otel.api.request import ApiRequest, RequestReader
    from assisters_otel.attempts.call_request import CallRequest
    from assisters_otel.outcomes import AttemptOutcome

_KEY: Final = context.create_key("assisters_otel-call")
_answer_of: Final = fail_safe(raw_answer.of_sdk_result)
_scope: Final[ContextVar[Call | None]] = ContextVar("assisters_otel-call", default=None)


class Body(Protocol):
    """The part of a `ResponseBody` that a call uses."""

    is_over: bool
    made: str

    def abandon(self) -> None:
        """End it: its reader will not do so."""

    def forked(self) -> None:
        """Report nothing of it in this forked child: the parent does."""


class Watcher(Protocol):
    """The receiver of a call's reports."""

    def raised(self, call: Call, error: BaseException) -> None:
        """Record the exception that the SDK has raised to its caller."""

    def waits(self, call: Call) -> None:
        """Record that a call has returned, and that its body is still open."""

    def ended(self, call: Call, outcome: CallOutcome, end_ns: int | None) -> None:
        """Record a call's outcome, once. *end_ns* is None if the call ends now."""

    def is_collecting(self) -> bool:
        """Return True if this runs inside the garbage collector."""

    def put_off(self, step: Callable[[], object]) -> None:
        """Run a step soon, outside the garbage collector."""


class Call:
    """One call.

    Attributes:
        asked: The arguments of the call.
        span: The span of the call, the library's or a GenAI instrumentation's.
        is_ours: True if the span is the library's.
        parent_span: The span under which the call was made; not valid without one.
        context: The context that is current while the call sends.
        chain: The attempts of the call.
        last: The outcome of the last attempt, or None.
        started_s: The time of its start, by `time.perf_counter`.
    """

    __slots__ = (
        "__weakref__",
        "_answer",
        "_body",
        "_built_request",
        "_is_open",
        "_is_returned",
        "_once",
        "_result",
        "_tokens",
        "_watcher",
        "asked",
        "chain",
        "context",
        "is_ours",
        "last",
        "parent_span",
        "span",
        "started_s",
    )

    def __init__(
        self,
        asked: CallRequest,
        span: Span,
        parent_span: SpanContext,
        watcher: Watcher,
        *,
        is_ours: bool,
    ) -> None:
        """Start the call.

        Args:
            asked: The arguments of the call.
            span: The span of the call.
            parent_span: The span under which the call was made; not valid without one.
            watcher: The receiver of its reports.
            is_ours: True if the span is the library's, which is made current and ended.
        """
        self.asked = asked
        self.span = span
        self.is_ours = is_ours
        self.parent_span = parent_span
        made = span.get_span_context()
        self.chain = RetryChain(made if made.is_valid else None)
        self.last: AttemptOutcome | None = None
        self._watcher = watcher
        self._body: Body | None = None
        self._built_request: RequestReader | None = None
        self._is_open = True
        self._is_returned = False
        self._answer: Answer | None = None
        self._result: Callable[[], object] | None = None
        self._tokens: tuple[Token[Context], Token[Call | None]] | None = None
        self._once = iter((True,))  # two threads may close one body
        parent = trace.set_span_in_context(span) if is_ours else None
        self.context: Context = context.set_value(_KEY, self, parent)
        self.started_s = time.perf_counter()

    @fail_safe
    def attach(self) -> None:
        """Enter the call's scope, in which it sends."""
        self._tokens = context.attach(self.context), _scope.set(self)

    @fail_safe
    def detach(self, error: BaseException | None = None) -> None:
        """Leave the call's scope, in the task that entered it.

        Args:
            error: The exception that the SDK has raised, or None.
        """
        self._is_open = False
        tokens, self._tokens = self._tokens, None
        if tokens is None:  # `attach` failed
            return
        with suppress(ValueError):  # it was entered in another context
            _scope.reset(tokens[1])
        if isinstance(error, GeneratorExit) and context.get_current() is not self.context:
            # The garbage collector closes a coroutine that is not awaited to its end, and does so
            # in another context. The context that was entered has ended with its task.
            return
        context.detach(tokens[0])

    def builds(self, message: RequestReader) -> None:
        """Keep the reader of the request that the SDK has built, for its first send or a resend."""
        self._built_request = message

    @fail_safe
    def includes(self, request: ApiRequest, message: RequestReader) -> bool:
        """Return True if a request that is about to be sent is one of the call's attempts.

        A hook, or a task that was started meanwhile, may send something else to the same endpoint.
        """
        if self.chain.is_redirect_to(message):
            return True
        own = self.asked.request
        if request.method != own.method or request.template != own.template:
            return False
        if request.template is None and not is_same_path(request.path, own.path):
            return False
        return self._built_request is None or is_sdk_request(message, self._built_request)

    def answered(self, body: Body) -> None:
        """Keep the body of a successful answer, whose end may end the call."""
        self._body = body

    @fail_safe
    def returned(self, result: object = None) -> None:
        """Record that the SDK has returned. The call ends now, or with its open body.

        Args:
            result: The SDK's result. It may be an object that reads the open body.
        """
        self._is_returned = True
        body = self._body
        if body is not None and not body.is_over:
            with suppress(TypeError):  # not every type has weak references
                self._result = weakref(result)
            self._watcher.waits(self)
            return
        self._answer = self._read_answer(result)
        # The SDK may have read an event stream to its end.
        has_failed = body is not None and body.made == names.FAILED
        self.end(names.FAILED if has_failed else names.OK)

    @fail_safe
    def raised(self, error: BaseException) -> None:
        """Record that the SDK has raised. If it is no `Exception`, the caller has cancelled."""
        self._watcher.raised(self, error)
        if isinstance(error, Exception):
            self.end(names.FAILED, type(error).__qualname__)
        else:
            self.end(names.CANCELLED_CALL)

    def body_ended(self, body: Body, at: Moment | None) -> None:
        """Record the end of a body. It ends the call if the SDK has returned that body."""
        if self._is_returned and body is self._body:
            self.end(body.made, at=at)

    @fail_safe
    def abandon(self) -> None:
        """End the call and its body: the reader will not do so."""
        if self._body is not None:
            self._body.abandon()
        self.end(names.CANCELLED_CALL)

    def forked(self) -> None:
        """Report nothing of it in this forked child: the parent does."""
        next(self._once, None)
        if self._body is not None:
            self._body.forked()

    def end(self, outcome: str, exception: str | None = None, at: Moment | None = None) -> None:
        """End the call, once. Inside the garbage collector the end is deferred.

        The garbage collector may run while the SDK holds a lock that a metric needs, and an object
        that it collects may close a stream. Recording there has been seen to wait for ever.

        Args:
            outcome: One of `names.OUTCOMES`. OK becomes RECOVERED if there were retries.
            exception: The name of the exception that ended it, or None.
            at: The moment of the end, or None for now.
        """
        if at is None and self._watcher.is_collecting():
            self._watcher.put_off(partial(self.end, outcome, exception, Moment.now()))
            return
        if next(self._once, None) is None:
            return
        self._is_open = False
        self._built_request = None  # a task that outlives the call may keep the call alive
        chain = self.chain
        if outcome == names.OK and chain.retries:
            outcome = names.RECOVERED
        ended_s = time.perf_counter() if at is None else at.steady_s
        record = CallOutcome(
            *self.asked[:3],
            outcome=outcome,
            duration_s=ended_s - self.started_s,
            retries=chain.retries,
            wait_s=chain.wait_s,
            last=self.last,
            exception=exception,
            caller=Identity(None, self.asked.baggage) if self.last is None else self.last.caller,
            answer=self._answer or self._read_answer(self._result and self._result()),
        )
        self._watcher.ended(self, record, None if at is None else at.unix_ns)

    def _read_answer(self, result: object) -> Answer | None:
        stream = None if self.last is None else self.last.stream
        return _answer_of(result) if stream is None else stream.answer

    @property
    def is_open(self) -> bool:
        """True if a request that is sent in its scope may be part of it."""
        return self._is_open


def current_call() -> Call | None:
    """Return the call in whose scope this runs, or None."""
    call = context.get_value(_KEY) or _scope.get()
    return call if isinstance(call, Call) and call.is_open else None
