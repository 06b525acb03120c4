"""One call of an SDK, from its start over all its retries to the end of its body.

How it works.

* The adapter of an SDK enters the call's scope around the SDK's own method (`control_flow`). The
  recorder makes the attempts in this scope the call's own, if `includes` agrees.
* The call ends when the SDK raises, or when it returns. If the SDK returns with an open body, the
  call ends with that body. If the app parses the answer itself, the call waits for that, and ends
  at the moment of its body's end (`unparsed_answers`).

What would break it: a reference from an ended call to its body or its scope. In such a cycle the
client's request would stay until a collection (test_a_call_that_is_over_is_in_no_cycle).
"""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final
from weakref import ref as weakref

from opentelemetry import context, trace

from assisters_otel.api import raw_answer
from assisters_otel.api.identity import Identity
from assisters_otel.attempts.call_request import RESULT
from assisters_otel.attempts.clock import Moment
from assisters_otel.attempts.control_flow import CALL, CALL_KEY
from assisters_otel.attempts.request_matching import is_of_call, is_sdk_request
from assisters_otel.attempts.retry_chain import RetryChain
from assisters_otel.fail_safe import fail_safe
from assisters_otel.foreign_exceptions import is_cancellation
from assisters_otel.outcomes import CallOutcome
from assisters_otel.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Token

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, SpanContext

    from assisters_otel.api.answer import Answer
    from assisters_otel.api.request import ApiRequest, RequestReader
    from assisters_otel.attempts.call_interfaces import Body, Watcher
    from assisters_otel.attempts.call_request import CallRequest, ExpectedAnswer, Judge
    from assisters_otel.outcomes import AttemptOutcome

_answer_of: Final = fail_safe(raw_answer.of_sdk_result)


class Call:
    """One call.

    Attributes:
        asked: The arguments of the call.
        expected: The answer that the caller expects.
        span: The span of the call, the library's or a GenAI instrumentation's.
        is_ours: True if the span is the library's.
        is_inference: True if it is the library's, and has the attributes of the GenAI conventions.
        recorded_elsewhere: The names of the GenAI metrics that another instrumentation records.
        parent_span: The span under which the call was made; not valid without one.
        context: The context that is current while the call sends; without the call after its end.
        chain: The attempts of the call.
        body: The body of the last successful answer, whose end may end the call; else None.
        built_request: The reader of the request that the SDK has built last, or None.
        last: The outcome of the last attempt, or None.
        is_ended: True if the call has ended.
        is_open: True if a request that is sent in its scope may be part of it.
        started_s: The time of its start, by `time.perf_counter`.
    """

    __slots__ = (
        "__weakref__",
        "_answer",
        "_body_end",
        "_is_returned",
        "_is_unparsed",
        "_once",
        "_outer",
        "_outside",
        "_result",
        "_tokens",
        "_watcher",
        "asked",
        "body",
        "built_request",
        "chain",
        "context",
        "expected",
        "is_ended",
        "is_inference",
        "is_open",
        "is_ours",
        "last",
        "parent_span",
        "recorded_elsewhere",
        "span",
        "started_s",
    )

    def __init__(
        self,
        asked: CallRequest,
        span: Span,
        parent_span: SpanContext,
        watcher: Watcher[Call],
        *,
        is_ours: bool,
    ) -> None:
        """Start the call. *watcher* receives its reports; the others are attributes of the call."""
        self.asked, self.span = asked, span
        self.is_ours = self.is_inference = is_ours
        self.recorded_elsewhere: frozenset[str] = frozenset()
        self.expected: ExpectedAnswer = RESULT
        self.parent_span = parent_span
        made = span.get_span_context()
        self.chain = RetryChain(made if made.is_valid else None)
        self.last: AttemptOutcome | None = None
        self._watcher = watcher
        self.body: Body | None = None
        self.built_request: RequestReader | None = None
        self.is_open = True
        self._is_returned = self._is_unparsed = self.is_ended = False
        self._body_end: Moment | None = None
        self._answer: Answer | None = None
        self._result: Callable[[], object] | None = None
        self._tokens: tuple[Token[Context], Token[object]] | None = None
        self._once = iter((True,))  # two threads may close one body
        self._outer = (outer := context.get_current()), CALL.get()
        self._outside = trace.set_span_in_context(span, outer) if is_ours else outer
        self.context: Context = context.set_value(CALL_KEY, self, self._outside)
        self.started_s = time.perf_counter()

    @fail_safe
    def attach(self) -> None:
        """Enter the call's scope, in which it sends."""
        self._tokens = context.attach(self.context), CALL.set(self)

    @fail_safe
    def detach(self, error: BaseException | None = None) -> None:
        """Leave the call's scope, in the task that entered it. *error* is what the SDK raised."""
        self.is_open = False
        tokens, self._tokens = self._tokens, None
        if tokens is None:  # `attach` failed
            return
        with suppress(ValueError):  # it was entered in another context
            CALL.reset(tokens[1])
        if isinstance(error, GeneratorExit) and context.get_value(CALL_KEY) is not self:
            return  # the garbage collector closes the coroutine, after its task and its context
        context.detach(tokens[0])

    @fail_safe
    def leave(self) -> None:
        """Leave nothing behind where an exception has interrupted `attach`, `detach` or `end`."""
        if CALL.get() is self or context.get_value(CALL_KEY) is self:
            CALL.set(self._outer[1])
            context.attach(self._outer[0])
        self.end(names.CANCELLED_CALL)

    @fail_safe
    def includes(self, request: ApiRequest, message: RequestReader) -> bool:
        """Return True if a request that is about to be sent is one of the call's attempts.

        A hook, or a task that was started meanwhile, may send something else to the same endpoint.
        """
        hop = self.chain.hop
        if hop is not None and hop.url == hash(message.url()):  # its last answer redirects to there
            return True
        return is_of_call(self.asked.request, request) and (
            self.built_request is None or is_sdk_request(message, self.built_request)
        )

    @fail_safe
    def returned(self, result: object = None, judge: Judge | None = None) -> None:
        """Record that the SDK has returned. The call ends now, with its open body, or later.

        Args:
            result: The SDK's result. It may be an object that reads the open body.
            judge: The SDK's adapter judges it. None if every result is a success.
        """
        self._is_returned = True
        body, error = self.body, None
        if judge is not None:
            error, is_unparsed = judge(self.expected, result) or (None, False)
            if is_unparsed:
                self._is_unparsed = self._watcher.awaits_parse(self, result)
        if error is not None:
            if body is not None:
                body.found_unusable(error)
            self.end(names.FAILED)
        elif body is not None and not body.is_over:
            with suppress(TypeError):  # not every type has weak references
                self._result = weakref(result)
            self._watcher.waits(self)
        else:
            self._answer = self._read_answer(result)
            # The SDK may have read an event stream to its end.
            has_failed = body is not None and body.made == names.FAILED
            self._complete(names.FAILED if has_failed else names.OK, None)

    @fail_safe
    def settle(self, error: Exception | None = None) -> None:
        """Wait for the app's parse no longer. *error* is what the parse has raised, or None."""
        if error is not None:
            self._watcher.raised(self, error)
        self._is_unparsed = False
        if self._body_end is not None:
            name = None if error is None else type(error).__qualname__
            self.end(names.OK if name is None else names.FAILED, name, self._body_end)

    def _complete(self, outcome: str, at: Moment | None) -> None:
        """End the call with its body, unless the app has still to parse the answer."""
        if self._is_unparsed and outcome == names.OK:
            self._body_end = at or Moment.now()
        else:
            self.end(outcome, at=at)

    @fail_safe
    def raised(self, error: BaseException) -> None:
        """Record that the SDK has raised, perhaps because the caller has cancelled."""
        name = None if is_cancellation(error) else type(error).__qualname__
        if self.body is not None and name is not None and isinstance(error, Exception):
            self._answer = self.body.read_answer()  # its tokens count, whatever the SDK makes of it
            self.body.found_unusable(None, error)
        self._watcher.raised(self, error)
        self.end(names.CANCELLED_CALL if name is None else names.FAILED, name)

    def body_ended(self, body: Body, at: Moment | None) -> None:
        """Record the end of a body. It ends the call if the SDK has returned that body."""
        if self._is_returned and body is self.body:
            self._complete(body.made, at)

    @fail_safe
    def abandon(self) -> None:
        """End the call and its body: the reader will not do so."""
        if self.body is not None:
            self.body.abandon()
        self.settle()
        self.end(names.CANCELLED_CALL)

    def forked(self) -> None:
        """Report nothing of it in this forked child: the parent does."""
        next(self._once, None)
        if self.body is not None:
            self.body.forked()

    def end(self, outcome: str, exception: str | None = None, at: Moment | None = None) -> None:
        """End the call, once. Inside the garbage collector the end is deferred (`Watcher.put_off`).

        Args:
            outcome: One of `names.OUTCOMES`. OK becomes RECOVERED if there were retries.
            exception: The name of the exception that ended it, or None.
            at: The moment of the end, or None for now.
        """
        if self._watcher.is_collecting():
            self._watcher.put_off(partial(self.end, outcome, exception, at or Moment.now()))
            return
        try:
            if next(self._once, None) is not None:
                self._end_once(outcome, exception, at)
        except BaseException:  # also an interrupt's; no other end will come
            self._watcher.gave_up(self)
            raise

    def _end_once(self, outcome: str, exception: str | None, at: Moment | None) -> None:
        self.is_open, self.is_ended = False, True
        self.built_request = None  # a task that outlives the call may keep the call alive
        if outcome == names.OK and self.chain.retries:
            outcome = names.RECOVERED
        ended_s = time.perf_counter() if at is None else at.steady_s
        answer = self._answer or self._read_answer(self._result and self._result())
        if self.body is not None:  # its client may not keep what the app has read in parts
            answer = self.body.attempt.without_secrets(answer or self.body.read_answer())
        record = CallOutcome(  # by position, as `AttemptOutcome.of` has it
            *self.asked[:3],
            outcome,
            ended_s - self.started_s,
            self.chain.retries,
            self.chain.wait_s,
            self.last,
            exception,
            answer,
            Identity(None, self.asked.baggage) if self.last is None else self.last.caller,
        )
        self._watcher.ended(self, record, None if at is None else at.unix_ns)
        body, self.body, self.context = self.body, None, self._outside
        if body is not None:
            body.release()

    def _read_answer(self, result: object) -> Answer | None:
        stream = None if self.last is None else self.last.stream
        return _answer_of(result) if stream is None else stream.answer
