"""One HTTP request and its answer: the same steps around the send of each client.

The adapter makes an exchange for a watched request, and sets its `own` span if the app makes none.
The client's own send runs between `start` and `end`, as in a ``with`` block. In between the adapter
calls `answered` with the response's headers, and sets `read_beginning` or calls `watch_body`.

A response, an exception and a cancellation all pass `end`. It reports the attempt once, and ends a
span of the library's. Each step is fail-safe: one that fails costs what it would have written.

What would break it: a reference to the response or the exception after `end`. Both refer to the
caller's frames. A span that ends before its attempt is reported, or that no exchange holds.
"""

from __future__ import annotations

import time
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING

from opentelemetry import context, trace

from assisters_otel.api.headers import may_be_read_ahead
from assisters_otel.fail_safe import fail_safe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextvars import Token

    from opentelemetry.context import Context
    from opentelemetry.trace import Span
    from typing_extensions import Self

    from assisters_otel.api.request import ApiRequest, RequestReader
    from assisters_otel.attempts.attempt import Attempt
    from assisters_otel.clients.http_span import HttpSpans, OwnSpan
    from assisters_otel.recording.recorder import Recorder


class Exchange:
    """A ``with`` block around the client's own send.

    Attributes:
        app_span: The attempt's span if it is the app's, or None.
        own: The attempt's span if it is the library's, or None. It ends with the exchange.
        attempt: The attempt, or None if the recorder failed to start it.
        read_beginning: A function that returns the beginning of a failed answer's body, as sent or
            as the client has decoded it. It is called when the attempt is reported. None if the
            body is not read.
    """

    __slots__ = (
        "_is_refused",
        "_is_transient",
        "_left_ns",
        "_reader",
        "_recorder",
        "_request",
        "_response",
        "_spans",
        "_token",
        "app_span",
        "attempt",
        "own",
        "read_beginning",
    )

    def __init__(  # noqa: PLR0913, PLR0917 - all of it is of one request
        self,
        recorder: Recorder,
        spans: HttpSpans,
        request: ApiRequest,
        reader: RequestReader,
        is_transient: Callable[[BaseException], bool | None],
        app_span: Span | None,
    ) -> None:
        """Prepare the exchange.

        Args:
            recorder: The recorder of the attempt.
            spans: The maker of the library's span.
            request: The request that is about to be sent.
            reader: The reader of the client's own request object.
            is_transient: A function that returns True for an exception after which a retry helps.
            app_span: The attempt's span if it is the app's, or None.
        """
        self._recorder = recorder
        self._spans = spans
        self._request = request
        self._reader = reader
        self._is_transient = is_transient
        self.app_span = app_span
        self.own: OwnSpan | None = None
        self._token: Token[Context] | None = None
        self._left_ns: int | None = None
        self._response: object = None
        self._is_refused = False
        self.attempt: Attempt | None = None
        self.read_beginning: Callable[[], bytes | None] | None = None

    def start(self) -> Self:
        """Enter the context of the library's span, and start the attempt."""
        if self.own is not None:
            self._enter(self.own)
        try:
            self._start()
        except BaseException as error:  # a foreign exception, which `fail_safe` lets pass
            self._end_span(error)
            raise
        return self

    __enter__ = start

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """End the exchange."""
        self.end(error)

    def end(self, error: BaseException | None) -> None:
        """Report the attempt, once, and end the library's span.

        Args:
            error: The exception that the client raises, or None.
        """
        try:
            if self._response is not None:
                self._report_failure()
            elif error is not None and self._is_refused:
                self.raised_for_status(error)
            elif error is not None:
                self._report_exception(error)
        finally:
            self._end_span(error)
            self._response = self.read_beginning = None

    def _end_span(self, error: BaseException | None) -> None:
        own = self.own
        if own is None:
            return
        if isinstance(error, Exception) and self._response is None:
            self._spans.raised(own.span, error, is_outcome=not self._is_refused)
        if error is None:
            _end(own.span, self._left_ns)
        else:  # the collector may have closed a coroutine that is not awaited any more
            end = partial(_end, own.span, self._left_ns or time.time_ns())
            self._recorder.deferred.run_outside_collector(end)
        self._leave()
        self.own = None

    @fail_safe
    def abandon(self) -> None:
        """Leave nothing behind where an exception has interrupted `start` or `end`."""
        if self.own is not None:
            self.own.abandon(self._left_ns)

    def leave(self) -> None:
        """Leave the library's span, which ends now. The attempt is reported later, by `end`."""
        self._left_ns = time.time_ns()
        self._leave()

    @fail_safe
    def expect_another(self) -> None:
        """Write no outcome of this attempt to the span: `start_again` sends another one in it."""
        if self.attempt is not None:
            self.attempt.is_followed = True

    def start_again(self) -> None:
        """Start another attempt in the same span. The previous one has been reported."""
        self._start()

    def refuse(self) -> None:
        """Record that the client raises in place of the last answer, which has been reported."""
        self._is_refused = True

    @fail_safe
    def _enter(self, own: OwnSpan) -> None:
        # The token is stored at once: no later fault may leave the context entered.
        self._token = context.attach(own.context)

    @fail_safe
    def _start(self) -> None:
        own, span, parent_span = self.own, self.app_span, None
        if own is not None:
            span, parent_span = own.span if own.span.is_recording() else None, own.parent_span
        self.attempt = self._recorder.start(
            self._request, self._reader, span, parent_span, is_own=own is not None
        )

    def answered(
        self,
        response: object,
        status: int,
        version: str | None,
        headers: Sequence[tuple[bytes, bytes, bytes]],
    ) -> bool:
        """Record the response's headers, which end the attempt's duration.

        Args:
            response: The client's response. `explain` finds a failed attempt by it.
            status: The HTTP status.
            version: The version of HTTP, ``1.1``, or None if it is not known.
            headers: The names as sent, the names in lower case, and the values.

        Returns:
            True if the attempt has failed. Then the beginning of the body is wanted.
        """
        attempt = self.attempt
        if attempt is None:
            return False
        has_failed = self._recorder.answered(attempt, status, headers)
        if self.own is not None:
            attempt.answer_attributes = self._spans.answer_attributes(
                status, version, headers, attempt.secrets
            )
        if has_failed:
            self._response = response
        else:
            self._recorder.report(attempt)
        return has_failed

    def watch_body(self, sent: object, hand_over: Callable[..., object], *more: object) -> None:
        """Watch a successful answer's body, if its end is recorded.

        Args:
            sent: The app's request or response. `explain` finds a body's failure by it.
            hand_over: A function that makes the client's stream report to the `ResponseBody`.
            more: The arguments of *hand_over* before that.
        """
        attempt = self.attempt
        if attempt is None or (attempt.call is None and not attempt.is_event_stream):
            return
        body = self._recorder.bodies.watch(attempt, self._is_transient, sent)
        if body is not None:
            try:
                hand_over(*more, body)
            except BaseException:  # also an interrupt's: nothing will report an end
                body.abandon()
                raise

    def may_be_read_ahead(self) -> bool:
        """Return True if the body of a failed answer may be read before the caller reads it."""
        return self.attempt is not None and may_be_read_ahead(self.attempt.headers)

    def raised_for_status(self, error: BaseException) -> None:
        """Remember the failed answer by the exception that the client raises for it, too."""
        if self.attempt is not None:
            self._recorder.remember(self.attempt, error)

    @fail_safe
    def _report_failure(self) -> None:
        self._in_span(self._report_answer)

    @fail_safe
    def _report_exception(self, error: BaseException) -> None:
        self._in_span(partial(self._report_error, error))

    def _in_span(self, report: Callable[[], None]) -> None:
        """Report while the span is current, also after `leave`: the exemplars are of that span."""
        span = self.app_span if self.own is None else self.own.span
        if self._left_ns is None or span is None:
            report()
            return
        within = copy_context()  # an interrupt leaves nothing entered behind
        within.run(context.attach, trace.set_span_in_context(span))
        within.run(report)

    def _report_answer(self) -> None:
        if self.attempt is not None:
            read = self.read_beginning
            self._recorder.report(self.attempt, None if read is None else read())
            self._recorder.remember(self.attempt, self._response)

    def _report_error(self, error: BaseException) -> None:
        if self.attempt is not None:
            self._recorder.raised(self.attempt, error, transient=bool(self._is_transient(error)))

    @fail_safe
    def _leave(self) -> None:
        token, self._token = self._token, None
        if token is None:
            return
        # `context.detach` does the same, takes longer (``200, alone``), and logs an error where
        # the garbage collector closes a coroutine in another context: its own has ended.
        try:
            token.var.reset(token)
        except ValueError:
            return
        except AttributeError:  # the token of ddtrace's runtime context has no variable
            context.detach(token)


@fail_safe
def _end(span: Span, end_ns: int | None) -> None:
    span.end(end_ns)
